//! Passwords, and the files that hold them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// 128 random bits in hex: a password that needs no quoting anywhere.
pub fn random_secret() -> Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file only its owner may read, replacing it as a whole.
pub(crate) fn write_private(file: &Path, text: &str) -> Result<()> {
    let fresh = file.with_extension("new");
    let _ = fs::remove_file(&fresh); // a leftover may have other permissions
    let write = || -> std::io::Result<()> {
        let mut target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        target.write_all(text.as_bytes())?;
        fs::rename(&fresh, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}
