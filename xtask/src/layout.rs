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
use std::io::{ErrorKind, Read, Write};
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
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        // Passing through is all that Postgres' user needs.
        let mode = if account.is_some() { 0o711 } else { 0o700 };
        fs::set_permissions(&root, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot protect {}", root.display()))?;
        for name in ["logs", "run", "media"] {
            make_private(&root.join(name))?;
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

    pub(crate) fn media(&self) -> PathBuf {
        self.root.join("media")
    }

    pub(crate) fn demo(&self) -> PathBuf {
        self.root.join("demo.json")
    }

    /// Forgets the private database, what was in it and the files that were uploaded. Where one of
    /// the folders is a link, the link goes and what it leads to stays.
    pub(crate) fn empty(&self) -> Result<()> {
        for folder in [&self.postgres, &self.redis(), &self.media()] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot remove {}", folder.display()));
                }
                _ => {}
            }
        }
        make_private(&self.media())?;
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
        // Others in their place would not fit the database.
        let mut secrets: Map<String, Value> = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                let file = file.display();
                format!("{file} is damaged: bring it back, or start empty (--fresh)")
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Map::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
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

/// Makes or takes a folder that nobody else reads.
fn make_private(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::servers::scratch_folder;

    fn file(path: PathBuf) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        path
    }

    #[test]
    fn secrets_that_cannot_be_read_are_not_replaced() {
        let scratch = scratch_folder("secrets").unwrap();
        let root = scratch.join(".guildhall");
        let layout = Layout {
            postgres: root.join("postgres"),
            _lock: lock(&file(root.join("up.lock"))).unwrap(),
            root: root.clone(),
        };
        let secret = layout.secret("cluster_key", 2).unwrap();
        assert_eq!(secret.len(), 64);
        assert_eq!(layout.secret("cluster_key", 2).unwrap(), secret);
        let damaged = b"{\"cluster_key\": \"\xff";
        fs::write(root.join("secrets.json"), damaged).unwrap();
        let error = layout.secret("cluster_key", 2).unwrap_err();
        assert!(format!("{error:#}").contains("is damaged"), "{error:#}");
        assert_eq!(fs::read(root.join("secrets.json")).unwrap(), damaged);
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn what_is_emptied_is_below_the_folder_and_uploaded_files_are_among_it() {
        let scratch = scratch_folder("layout").unwrap();
        let root = scratch.join(".guildhall");
        let layout = Layout {
            postgres: root.join("postgres"),
            _lock: lock(&file(root.join("up.lock"))).unwrap(),
            root: root.clone(),
        };
        let kept = [file(root.join("logs/api.log")), file(scratch.join("own"))];
        let linked = file(scratch.join("elsewhere/dump.rdb"));
        symlink(linked.parent().unwrap(), layout.redis()).unwrap();
        let gone = [
            file(root.join("media/avatars/1/2")),
            file(root.join("postgres/PG_VERSION")),
            file(layout.demo()),
            layout.redis(),
        ];
        for _ in 0..2 {
            layout.empty().unwrap();
            for path in &gone {
                assert!(!path.exists(), "{}", path.display());
            }
            for path in kept.iter().chain([&linked]) {
                assert!(path.exists(), "{}", path.display());
            }
            let media = fs::metadata(layout.media()).unwrap();
            assert_eq!(media.permissions().mode() & 0o777, 0o700);
        }
        fs::remove_dir_all(scratch).unwrap();
    }
}
