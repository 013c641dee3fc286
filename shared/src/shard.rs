//! Realm → shard, and the position of an event in its realm.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Id, marker::Realm};

/// Shards of a cluster unless it was created with another number.
pub const SHARDS_DEFAULT: u16 = 4096;

/// Our slice of realms: `(realm_id >> 22) % S`. Not a bot's `shard: [id, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl ShardId {
    pub fn of<T>(realm: Id<T>, shards: u16) -> Self {
        Self(((realm.get() >> 22) % u64::from(shards)) as u16)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

/// Where a reader of a realm stands: it has every event up to and including this one.
/// A higher era comes after every position of a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub era: u32,
    pub seq: u64,
}

/// The bot shard of a guild: `(guild_id >> 22) % count`. `count` is never 0.
pub fn bot_shard<T>(guild: Id<T>, count: u32) -> u32 {
    ((guild.get() >> 22) % u64::from(count.max(1))) as u32
}

/// A realm's id from the id of its guild or user.
pub fn realm<T>(id: Id<T>) -> Id<Realm> {
    id.cast()
}
