//! Which Postgres and Redis programs this machine has.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::process::in_path;

/// Folder of the Postgres programs, and the Redis or Valkey server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// Holds `postgres` and `initdb`; `psql` and `pgbench` only on complete installations.
    pub postgres: PathBuf,
    /// `redis-server` or `valkey-server`.
    pub redis: PathBuf,
}

impl Binaries {
    /// Looks at `GUILDHALL_PG_BIN` and `GUILDHALL_REDIS_BIN`, then `PATH`, then the
    /// folders Debian and others keep out of `PATH`. Installs nothing.
    pub fn find() -> Result<Self> {
        match (Self::find_postgres(), Self::find_redis()) {
            (Some(postgres), Some(redis)) => Ok(Self { postgres, redis }),
            (None, None) => {
                bail!("found neither Postgres nor Redis; `cargo xtask up` says how to install them")
            }
            (None, Some(_)) => bail!("found no Postgres; `cargo xtask up` says how to install it"),
            (Some(_), None) => {
                bail!("found no Redis or Valkey; `cargo xtask up` says how to install it")
            }
        }
    }

    /// The folder of the newest usable Postgres.
    pub fn find_postgres() -> Option<PathBuf> {
        if let Some(folder) = std::env::var_os("GUILDHALL_PG_BIN") {
            return usable(PathBuf::from(folder));
        }
        let from_path = in_path("postgres")
            .and_then(|program| program.canonicalize().ok()) // a link into the real folder, which has the rest
            .and_then(|program| program.parent().map(Path::to_owned))
            .and_then(usable);
        if from_path.is_some() {
            return from_path;
        }
        let mut versions = Vec::new();
        for root in [
            "/usr/lib/postgresql",
            "/opt/homebrew/opt",
            "/usr/local/opt",
            "/usr",
        ] {
            for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let version = name
                    .strip_prefix("postgresql@")
                    .or(name.strip_prefix("pgsql-"))
                    .unwrap_or(&name);
                if let Ok(version) = version.parse::<u32>() {
                    versions.push((version, entry.path().join("bin")));
                }
            }
        }
        versions.sort();
        versions
            .into_iter()
            .rev()
            .find_map(|(_, folder)| usable(folder))
    }

    /// The Redis or Valkey server.
    pub fn find_redis() -> Option<PathBuf> {
        if let Some(program) = std::env::var_os("GUILDHALL_REDIS_BIN") {
            return Some(PathBuf::from(program)).filter(|program| program.is_file());
        }
        in_path("redis-server")
            .or_else(|| in_path("valkey-server"))
            .or_else(|| {
                ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"]
                    .iter()
                    .flat_map(|folder| {
                        ["redis-server", "valkey-server"].map(|name| Path::new(folder).join(name))
                    })
                    .find(|program| program.is_file())
            })
    }
}

fn usable(folder: PathBuf) -> Option<PathBuf> {
    (folder.join("postgres").is_file() && folder.join("initdb").is_file()).then_some(folder)
}
