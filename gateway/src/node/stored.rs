//! What owners read of Postgres, each read within its time: the event log, guilds, who is whose
//! friend. In a simulation it is read from what the simulation has.

use std::time::Duration;

use guildhall_shared::{
    Id,
    envelope::Envelope,
    id::marker::{Guild, Realm, User},
    shard::{Position, ShardId},
};
use guildhall_store::{
    events::{self, Head},
    guild::{self, Snapshot},
    personal,
};
use sqlx::PgPool;

use super::database::{self, Error};

/// See the module.
#[derive(Clone)]
pub(crate) enum Stored {
    Postgres(PgPool),
    #[cfg(feature = "simulated")]
    Simulated(crate::simulated::store::Store),
}

impl Stored {
    /// As [`events::heads`].
    pub(crate) async fn heads(&self, realms: &[Id<Realm>]) -> Result<Vec<Head>, Error> {
        match self {
            Self::Postgres(db) => database::limited(events::heads(db, realms)).await,
            #[cfg(feature = "simulated")]
            Self::Simulated(store) => store.heads(realms).await,
        }
    }

    /// As [`events::since`].
    pub(crate) async fn since(
        &self,
        realm: Id<Realm>,
        after: Position,
        limit: u32,
    ) -> Result<Vec<Envelope>, Error> {
        match self {
            Self::Postgres(db) => database::limited(events::since(db, realm, after, limit)).await,
            #[cfg(feature = "simulated")]
            Self::Simulated(store) => store.since(realm, after, limit).await,
        }
    }

    /// As [`events::newer_in_shards`].
    pub(crate) async fn newer_in_shards(
        &self,
        shards: &[ShardId],
        window: Duration,
    ) -> Result<Vec<Head>, Error> {
        match self {
            Self::Postgres(db) => {
                database::limited(events::newer_in_shards(db, shards, window)).await
            }
            #[cfg(feature = "simulated")]
            Self::Simulated(store) => store.newer_in_shards(shards, window).await,
        }
    }

    /// As [`guild::snapshot`].
    pub(crate) async fn guild(&self, guild: Id<Guild>) -> Result<Option<Snapshot>, Error> {
        match self {
            Self::Postgres(db) => database::limited(guild::snapshot(db, guild)).await,
            #[cfg(feature = "simulated")]
            Self::Simulated(store) => store.guild(guild).await,
        }
    }

    /// As [`personal::companions`]; in a simulation nobody has friends.
    pub(crate) async fn companions(
        &self,
        users: &[Id<User>],
    ) -> Result<Vec<(Id<User>, Id<User>)>, Error> {
        match self {
            Self::Postgres(db) => database::limited(personal::companions(db, users)).await,
            #[cfg(feature = "simulated")]
            Self::Simulated(_) => Ok(Vec::new()),
        }
    }
}
