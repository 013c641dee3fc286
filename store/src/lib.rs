//! Postgres rows as the wire's types, the queries that several processes ask, and their pools of
//! connections.
//!
//! Only reads, but for what both the API and the gateways write, the event log and voice states,
//! and for when a gateway last saw a temporary member. Never decides what somebody may see or do,
//! except who may enter a voice channel.

pub mod account;
pub mod events;
pub mod expressions;
pub mod guild;
pub mod personal;
pub mod pool;
pub mod private;
pub mod read_state;
pub mod scheduled_events;
pub mod temporary;
pub mod thread;
pub mod user;
pub mod voice;

use guildhall_shared::{
    envelope::Malformed,
    id::{Id, marker},
};

pub type Result<T> = std::result::Result<T, Error>;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// Of something we made or stored ourselves.
    #[error("own JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A stored event that this version cannot read.
    #[error("event {seq} of realm {realm}: {source}")]
    Event {
        realm: Id<marker::Realm>,
        seq: i64,
        source: Malformed,
    },
    /// A stored event of a kind that this version does not know.
    #[error("event {seq} of realm {realm} has the unknown kind {kind}")]
    EventKind {
        realm: Id<marker::Realm>,
        seq: i64,
        kind: i16,
    },
}

/// Statement that opens a snapshot: every query after it sees one moment.
pub(crate) const SNAPSHOT: &str = "begin isolation level repeatable read read only";

/// Ids as a `bigint[]` parameter.
pub fn ids_to_db<T>(ids: &[Id<T>]) -> Vec<i64> {
    ids.iter().map(|id| id.to_db()).collect()
}

/// Ids from a `bigint[]` column.
pub fn ids_from_db<T>(ids: Vec<i64>) -> Vec<Id<T>> {
    ids.into_iter().map(Id::from_db).collect()
}
