//! The git-ignored folder `.guildhall/`: what `cargo xtask up` keeps between runs.
//!
//! ```text
//! .guildhall/
//!   up.lock       held while an `up` runs
//!   secrets.json  passwords of the private servers, the cluster key (0600)
//!   demo.json     the demo guild's accounts and tokens (0600)
//!   logs/         one file per process, and the one of the run before
//!   run/          pid files, for an `up` that was killed
//!   media/        uploaded files
//!   postgres/  redis/
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::process::{Account, Signal, stop_leftover};
use crate::servers::{
    can_enter, checkout, checkout_hash, postgres_account, random_secret, write_private,
};

/// The folder, held by this process.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Outside of `root` only if Postgres' user cannot get there.
    pub(crate) postgres: PathBuf,
    /// Released when the process ends, however it ends.
    _lock: File,
}

impl Layout {
    /// Makes or takes the folder; `own_postgres` says whether there will be a Postgres in it, which
    /// must be installed by now: as root its user is needed.
    ///
    /// Errors: another `up` holds it.
    pub(crate) fn take(own_postgres: bool) -> Result<Self> {
        let account = if own_postgres {
            postgres_account()?
        } else {
            None
        };
        let root = checkout().join(".guildhall");
        let private = ["logs", "run", "media"].map(|name| root.join(name));
        for folder in [&root].into_iter().chain(&private) {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        // Passing through is all that Postgres' user needs.
        let mode = if account.is_some() { 0o711 } else { 0o700 };
        fs::set_permissions(&root, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot protect {}", root.display()))?;
        for folder in private {
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
        }
        let lock = lock(&root.join("up.lock"))?;
        let postgres = postgres_folder(&root, account)?;
        Ok(Self {
            root,
            postgres,
            _lock: lock,
        })
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn redis(&self) -> PathBuf {
        self.root.join("redis")
    }

    pub(crate) fn demo(&self) -> PathBuf {
        self.root.join("demo.json")
    }

    /// Forgets the private database and what was in it.
    pub(crate) fn empty(&self) -> Result<()> {
        for folder in [&self.postgres, &self.redis()] {
            if folder.exists() {
                fs::remove_dir_all(folder)
                    .with_context(|| format!("cannot remove {}", folder.display()))?;
            }
        }
        for file in [self.demo(), self.root.join("secrets.json")] {
            let _ = fs::remove_file(file);
        }
        Ok(())
    }

    /// Stops what an `up` that was killed left running. Returns the names.
    pub(crate) fn stop_leftovers(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.run())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        // Clients before the servers they use.
        files.sort_by_key(|file| match stem(file).as_str() {
            "postgres" => 2,
            "redis" => 1,
            _ => 0,
        });
        let mut stopped = Vec::new();
        for file in files {
            let name = stem(&file);
            let signal = if name == "postgres" {
                Signal::INT
            } else {
                Signal::TERM
            };
            if stop_leftover(&file, signal, Duration::from_secs(15)) {
                stopped.push(name);
            }
        }
        stopped
    }

    /// A secret that is made once and stays. `length` in multiples of 128 bits.
    pub(crate) fn secret(&self, name: &str, length: usize) -> Result<String> {
        let file = self.root.join("secrets.json");
        let mut secrets: Map<String, Value> = match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged", file.display()))?,
            Err(_) => Map::new(),
        };
        if let Some(Value::String(secret)) = secrets.get(name) {
            return Ok(secret.clone());
        }
        let parts = (0..length)
            .map(|_| random_secret())
            .collect::<Result<Vec<_>>>()?;
        let secret = parts.concat();
        secrets.insert(name.to_owned(), Value::String(secret.clone()));
        write_private(&file, &format!("{:#}\n", Value::Object(secrets)))?;
        Ok(secret)
    }
}

fn stem(file: &Path) -> String {
    file.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn lock(path: &Path) -> Result<File> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            let _ = file.set_len(0);
            let _ = writeln!(file, "{}", std::process::id()); // only for the message below
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            bail!(
                "`cargo xtask up` already runs here (pid {}); Ctrl-C it first",
                pid.trim()
            )
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Inside `root` if Postgres' user can get there, else below `/var/lib`.
fn postgres_folder(root: &Path, account: Option<Account>) -> Result<PathBuf> {
    if account.is_none() || can_enter(root, account) {
        return Ok(root.join("postgres"));
    }
    let outside = PathBuf::from(format!("/var/lib/guildhall/{:016x}", checkout_hash()));
    fs::create_dir_all(&outside).with_context(|| format!("cannot make {}", outside.display()))?;
    if !can_enter(&outside, account) {
        bail!(
            "the user `postgres` can enter neither {} nor {}",
            root.display(),
            outside.display()
        );
    }
    println!(
        "  the user `postgres` cannot enter {}: the database lives in {}",
        root.display(),
        outside.display()
    );
    Ok(outside.join("postgres"))
}
