//! Why the coordinator, or one of its rounds, failed.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

use guildhall_shared::cluster_map::MapVersion;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{name}: {reason}")]
    Setting { name: &'static str, reason: String },
    #[error("the database has no schema: run `guildhall-api migrate` first")]
    NotMigrated,
    #[error("CLUSTER_SHARDS: the cluster was created with {cluster} shards, not {setting}")]
    Shards { cluster: String, setting: u16 },
    #[error("COORDINATOR_LISTEN: cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("the process could not be set up: {0}")]
    Process(io::Error),
    #[error("stdout: {0}")]
    Output(io::Error),
    #[error("Postgres: {0}")]
    Postgres(#[from] sqlx::Error),
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    #[error("{0} did not answer in time")]
    Silent(&'static str),
    #[error("Redis holds a map of a later term: {}.{}", .0.term, .0.version)]
    LaterTerm(MapVersion),
    #[error("there is no map yet: no coordinator has seen a gateway")]
    NoMap,
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    pub(crate) fn setting(name: &'static str, reason: impl Display) -> Self {
        let reason = reason.to_string();
        Self::Setting { name, reason }
    }
}
