//! Who is online, as far as the gateways say: the owner of a guild writes it to Redis.
//!
//! Best effort: without Redis, or while nobody of a guild is connected, nobody is online.

use guildhall_shared::{
    Id,
    id::marker::{Guild, User},
    keys,
    model::OnlineStatus,
    online,
    shard::ShardId,
};
use redis::RedisResult;

use crate::app::App;

/// Members online in each of these guilds, in their order.
pub(crate) async fn counts(app: &App, guilds: &[Id<Guild>]) -> Vec<u64> {
    let heads = beginnings(app, guilds, online::COUNT_BYTES).await;
    let counts = heads.iter().map(|head| online::count(head));
    counts.map(|count| count.map_or(0, u64::from)).collect()
}

/// Members online in a guild.
pub(crate) async fn count(app: &App, guild: Id<Guild>) -> u64 {
    let counts = counts(app, &[guild]).await;
    counts.into_iter().next().unwrap_or_default()
}

/// How many are online in a guild, and some of them with their status, at most `users_max`.
pub(crate) async fn some(
    app: &App,
    guild: Id<Guild>,
    users_max: usize,
) -> (u64, Vec<(Id<User>, OnlineStatus)>) {
    let beginnings = beginnings(app, &[guild], online::bytes_of(users_max)).await;
    let Some(bytes) = beginnings.first() else {
        return (0, Vec::new());
    };
    let users = online::users(bytes).into_iter();
    let users = users.map(|(user, platforms)| (user, platforms.status()));
    (
        online::count(bytes).map_or(0, u64::from),
        users.take(users_max).collect(),
    )
}

/// The first bytes of the guilds' entries; empty where there is none.
async fn beginnings(app: &App, guilds: &[Id<Guild>], bytes: usize) -> Vec<Vec<u8>> {
    if guilds.is_empty() {
        return Vec::new();
    }
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors(); // of a server that is away, where there are several
    for &guild in guilds {
        let shard = ShardId::of(guild, app.config.cluster_shards);
        let command = pipeline.cmd("GETRANGE").arg(keys::online(shard, guild));
        command.arg(0).arg(bytes - 1);
    }
    let mut redis = app.redis.clone();
    let found: RedisResult<Vec<RedisResult<Vec<u8>>>> = pipeline.query_async(&mut redis).await;
    match found {
        Ok(found) => found.into_iter().map(Result::unwrap_or_default).collect(),
        Err(error) => {
            tracing::debug!(%error, "who is online was not read");
            vec![Vec::new(); guilds.len()]
        }
    }
}
