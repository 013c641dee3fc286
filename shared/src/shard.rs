//! Realm → shard, and the position of an event in its realm.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::id::{Id, marker::Realm};

/// Shards of a cluster unless it was created with another number.
pub const SHARDS_DEFAULT: u16 = 4096;
/// Most shards that a cluster can be created with: a map names the nodes of each.
pub const SHARDS_MAX: u16 = 16_384;

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

/// A set of shards; in JSON the base64 of a bitmap, its first bit the lowest of the first byte.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardSet(Vec<u8>);

impl ShardSet {
    pub fn insert(&mut self, shard: ShardId) {
        let byte = usize::from(shard.0 / 8);
        if self.0.len() <= byte {
            self.0.resize(byte + 1, 0);
        }
        self.0[byte] |= 1 << (shard.0 % 8);
    }

    pub fn contains(&self, shard: ShardId) -> bool {
        let byte = self.0.get(usize::from(shard.0 / 8));
        byte.is_some_and(|byte| byte & (1 << (shard.0 % 8)) != 0)
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<T: IntoIterator<Item = ShardId>>(shards: T) -> Self {
        let mut set = Self::default();
        for shard in shards {
            set.insert(shard);
        }
        set
    }
}

impl Serialize for ShardSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for ShardSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bits = STANDARD_NO_PAD.decode(text).map_err(de::Error::custom)?;
        Ok(Self(bits))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_shards_survives_json() {
        let shards = [0, 7, 8, 4095, 16_383].map(ShardId);
        let set: ShardSet = shards.into_iter().collect();
        let json = serde_json::to_string(&set).unwrap();
        let again: ShardSet = serde_json::from_str(&json).unwrap();
        for shard in (0..=u16::MAX).map(ShardId) {
            assert_eq!(again.contains(shard), shards.contains(&shard));
        }
        assert_eq!(
            serde_json::to_string(&ShardSet::default()).unwrap(),
            r#""""#
        );
    }
}
