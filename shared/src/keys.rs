//! Names of everything kept in Redis. All of it can vanish at any time (design: Redis keys).

use crate::{
    id::{
        Id,
        marker::{Guild, User},
    },
    shard::ShardId,
};

/// Stream and sharded channel of a shard's envelopes (one name, two key spaces).
pub fn shard_events(shard: ShardId) -> String {
    format!("{{s{shard}}}:ev")
}

/// Hash of a live node, see `cluster_map::NodeStatus`. Expires after [`NODE_TTL_MS`].
pub fn node(id: &str) -> String {
    format!("{{ctl}}:node:{id}")
}

/// Pattern that finds all [`node`] keys.
pub const NODES_PATTERN: &str = "{ctl}:node:*";

/// The cluster map: `cluster_map::ClusterMap` as JSON; string and channel.
pub const MAP: &str = "{ctl}:map";

/// Channel of changed accounts: a user id in decimal, whose remembered tokens API
/// processes forget.
pub const ACCOUNTS_CHANGED: &str = "{ctl}:accounts";

/// Session starts of a bot in its present day: a number that expires with the day.
pub fn session_starts(bot: Id<User>) -> String {
    rate_limit(&format!("identify:{bot}:day"))
}

/// Sessions that a person has now, over all gateways: a sorted set by the time, Unix
/// milliseconds, until which each counts.
pub fn sessions_of(person: Id<User>) -> String {
    format!("sess:{{{person}}}")
}

/// Id of the node whose process of this start lives; expires with [`node`].
pub fn boot(boot: u32) -> String {
    format!("{{ctl}}:boot:{boot:08x}")
}

/// Who has a session that was resumed: `generation boot core`, the boot in hexadecimal; others are
/// where their id says. `session`: as clients know it. Expires after [`SESSION_TTL_MS`].
pub fn session(session: &str) -> String {
    format!("sess:{{{session}}}")
}

/// Delivery log of a core of one start of a node: a stream of chunks under [`STREAM_FIELD`], and of
/// ids of sessions that others have taken over under [`TAKEN_FIELD`]; kept for
/// [`DELIVERY_LOG_MS`].
pub fn delivery_log(boot: u32, core: u16) -> String {
    format!("dl:{{{boot:08x}.{core}}}")
}

/// Sessions that others have taken over from one start of a node: a stream of their ids under
/// [`STREAM_FIELD`] and their generations since under [`GENERATION_FIELD`], kept as long as
/// delivery logs.
pub fn taken(boot: u32) -> String {
    format!("tk:{{{boot:08x}}}")
}

/// What one start of a node wrote last, and misses when Redis has lost something. Expires like
/// [`taken`].
pub fn mark(boot: u32) -> String {
    format!("mk:{{{boot:08x}}}")
}

/// Somewhere in a Redis Cluster, to ask whoever would have it. Never written.
pub fn probe(number: u16) -> String {
    format!("pb:{{{number}}}")
}

/// A session's key lives this long after its node last wrote it.
pub const SESSION_TTL_MS: u64 = 300_000;
/// A delivery log reaches back this far: the resume window, and the time in which every
/// session's state stands in it once, and some.
pub const DELIVERY_LOG_MS: u64 = 300_000;

/// Rate-limit bucket.
pub fn rate_limit(bucket: &str) -> String {
    format!("rl:{{{bucket}}}")
}

/// Rate-limit bucket of one caller; all of a caller's buckets share a slot.
pub fn rate_limit_of(caller: &str, bucket: &str) -> String {
    format!("rl:{{{caller}}}:{bucket}")
}

/// Who is online in a guild, see [`crate::online`].
pub fn online(shard: ShardId, guild: Id<Guild>) -> String {
    format!("{{s{shard}}}:on:{guild}")
}

/// Presence and sessions of a person who is online, and which owner wrote them, as JSON, for
/// READY of their friends and of their other clients. Expires after [`PERSON_TTL_MS`].
pub fn person(user: Id<User>) -> String {
    format!("pr:{{{user}}}")
}

/// A person's key lives this long after the owner of their realm last wrote it.
pub const PERSON_TTL_MS: u64 = 180_000;

/// People whose presence was told to their friends in the last [`PEOPLE_TOLD_MS`]: a sorted set of
/// ids by the time, Unix milliseconds.
pub const PEOPLE_TOLD: &str = "{ctl}:people";
/// A feed that is away for longer has missed more than is told again.
pub const PEOPLE_TOLD_MS: u64 = 60_000;

/// A node's key lives this long after its last heartbeat.
pub const NODE_TTL_MS: u64 = 6_000;
/// Time between heartbeats.
pub const NODE_HEARTBEAT_MS: u64 = 2_000;

/// Entries a shard's stream is trimmed to, roughly.
pub const STREAM_LENGTH_MAX: usize = 2_000;
/// Field of a stream entry that holds the envelope.
pub const STREAM_FIELD: &str = "e";
/// In a delivery log, beside each chunk: the life of the server that it was meant for.
pub const LIFE_FIELD: &str = "l";
/// Beside a session that was taken over: its generation since then.
pub const GENERATION_FIELD: &str = "g";
/// In a delivery log: a session that is no longer the core's.
pub const TAKEN_FIELD: &str = "taken";
