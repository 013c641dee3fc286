//! Which Postgres and Redis programs this machine has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process::in_path;

/// Names a folder of Postgres' programs, to the exclusion of all others.
pub(crate) const POSTGRES_VARIABLE: &str = "GUILDHALL_PG_BIN";
/// Names a Redis or Valkey server, to the exclusion of all others.
pub(crate) const REDIS_VARIABLE: &str = "GUILDHALL_REDIS_BIN";
/// Major versions from which on they know what is asked of them.
const POSTGRES_MIN: u32 = 15;
const REDIS_MIN: u32 = 7;

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
    /// folders Debian and others keep out of `PATH`. Installs nothing, and passes over what is
    /// too old.
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

    /// The folder of a Postgres that is new enough: the one in `PATH`, else the newest.
    pub fn find_postgres() -> Option<PathBuf> {
        postgres_folders()
            .into_iter()
            .find(|folder| version(&folder.join("postgres")) >= Some(POSTGRES_MIN))
    }

    /// The folder of a Postgres of this major version.
    pub(crate) fn find_postgres_of(wanted: u32) -> Option<PathBuf> {
        postgres_folders()
            .into_iter()
            .find(|folder| version(&folder.join("postgres")) == Some(wanted))
    }

    /// A Redis or Valkey server that is new enough.
    pub fn find_redis() -> Option<PathBuf> {
        const NAMES: [&str; 2] = ["redis-server", "valkey-server"];
        let candidates: Vec<PathBuf> = match std::env::var_os(REDIS_VARIABLE) {
            Some(program) => vec![PathBuf::from(program)],
            None => {
                let folders = ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"];
                let elsewhere = folders
                    .iter()
                    .flat_map(|folder| NAMES.map(|name| Path::new(folder).join(name)));
                NAMES.iter().filter_map(in_path).chain(elsewhere).collect()
            }
        };
        candidates
            .into_iter()
            .find(|program| program.is_file() && version(program) >= Some(REDIS_MIN))
    }
}

/// Folders with a Postgres of any version: the one in `PATH`, then from the newest on.
fn postgres_folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os(POSTGRES_VARIABLE) {
        return usable(PathBuf::from(folder)).into_iter().collect();
    }
    let from_path = in_path("postgres")
        .and_then(|program| program.canonicalize().ok()) // a link into the real folder, which has the rest
        .and_then(|program| program.parent().map(Path::to_owned));
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
    let elsewhere = versions.into_iter().rev().map(|(_, folder)| folder);
    from_path
        .into_iter()
        .chain(elsewhere)
        .filter_map(usable)
        .collect()
}

fn usable(folder: PathBuf) -> Option<PathBuf> {
    (folder.join("postgres").is_file() && folder.join("initdb").is_file()).then_some(folder)
}

/// The major version that a program names when asked. `None`: it names none.
pub(crate) fn version(program: &Path) -> Option<u32> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    major(&String::from_utf8_lossy(&output.stdout))
}

/// The first number of the first word that is one, perhaps behind `v` or `v=`.
fn major(text: &str) -> Option<u32> {
    text.split_whitespace().find_map(|word| {
        let number = word.trim_start_matches(['v', '=']);
        let end = number.find(|character: char| !character.is_ascii_digit());
        number[..end.unwrap_or(number.len())].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_version_is_read_as_each_program_prints_it() {
        for (text, version) in [
            ("postgres (PostgreSQL) 15.3 (Debian 15.3-1.pgdg120+1)\n", 15),
            ("postgres (PostgreSQL) 18beta1\n", 18),
            (
                "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64\n",
                7,
            ),
            (
                "Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0\n",
                8,
            ),
            ("Server v=7.2.5 sha=00000000:0\n", 7),
            ("v18.19.0\n", 18),
        ] {
            assert_eq!(major(text), Some(version), "{text}");
        }
        assert_eq!(major("no version here\n"), None);
    }
}
