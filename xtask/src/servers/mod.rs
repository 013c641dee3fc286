//! Private Postgres and Redis: found on the machine, started on loopback with
//! random passwords, stopped when their value is dropped.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use xtask::servers::{Binaries, Postgres, Redis};
//!
//! let binaries = Binaries::find()?;
//! let mut postgres = Postgres::temporary(&binaries)?;
//! let mut redis = Redis::temporary(&binaries)?;
//! println!("{} {}", postgres.url("guildhall"), redis.url());
//! redis.kill(); // kill -9
//! redis.start_again()?; // same port, same password, empty
//! # Ok(()) }
//! ```
//!
//! Blocking calls; from async code use them through `spawn_blocking`. Never
//! touches a server it did not start itself.

mod binaries;
mod postgres;
mod redis;
mod scratch;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

pub use binaries::Binaries;
pub(crate) use binaries::{POSTGRES_VARIABLE, REDIS_VARIABLE, version};
pub use postgres::{Postgres, PostgresOptions};
pub use redis::{Redis, RedisOptions, RedisTls, form_cluster, move_slot};
pub use scratch::scratch_root;
pub(crate) use scratch::{
    can_enter, checkout, checkout_hash, postgres_account, scratch_folder, sweep, target_folder,
};

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
