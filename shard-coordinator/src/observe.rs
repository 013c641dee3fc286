//! What is: live nodes and the map, from Redis. Reads only; decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use guildhall_redis::Connection;
use guildhall_shared::cluster_map::{ClusterMap, NodeStatus, Nodes};
use guildhall_shared::keys;
use sqlx::PgPool;

use crate::error::{Error, Result};

/// Keys per step of the scan for nodes.
const SCAN_COUNT: usize = 2_000;

/// What Redis shows.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) live: Nodes,
    pub(crate) map: Option<ClusterMap>,
}

/// Fails unless the cluster has this many shards; a new cluster gets them.
///
/// Errors: [`Error::NotMigrated`], [`Error::Shards`].
pub(crate) async fn check_shards(db: &PgPool, shards: u16) -> Result<()> {
    sqlx::query!(
        "insert into cluster_setting (key, value) values ('shards', $1) on conflict do nothing",
        shards.to_string(),
    )
    .execute(db)
    .await
    .map_err(without_table)?;
    let cluster = sqlx::query_scalar!("select value from cluster_setting where key = 'shards'")
        .fetch_one(db)
        .await?;
    if cluster != shards.to_string() {
        let setting = shards;
        return Err(Error::Shards { cluster, setting });
    }
    Ok(())
}

fn without_table(error: sqlx::Error) -> Error {
    let error_of_database = error.as_database_error();
    // undefined_table
    match error_of_database.is_some_and(|error| error.code().as_deref() == Some("42P01")) {
        true => Error::NotMigrated,
        false => error.into(),
    }
}

pub(crate) async fn shown(redis: &mut Connection) -> Result<Shown> {
    Ok(Shown {
        live: live(redis).await?,
        map: map(redis).await?,
    })
}

/// Nodes whose heartbeat has not expired.
pub(crate) async fn live(redis: &mut Connection) -> Result<Nodes> {
    let keys = node_keys(redis).await?;
    at(redis, &keys).await
}

/// The same of nodes that are known, without looking for others.
pub(crate) async fn again(redis: &mut Connection, known: &Nodes) -> Result<Nodes> {
    let keys: Vec<String> = known.keys().map(|id| keys::node(id)).collect();
    at(redis, &keys).await
}

async fn at(redis: &mut Connection, keys: &[String]) -> Result<Nodes> {
    if keys.is_empty() {
        return Ok(Nodes::new());
    }
    let values: Vec<Option<Vec<u8>>> = redis::cmd("MGET").arg(keys).query_async(redis).await?;
    let mut live = Nodes::new();
    for (key, value) in keys.iter().zip(values) {
        let Some(value) = value else {
            continue; // expired since the scan
        };
        match serde_json::from_slice::<NodeStatus>(&value) {
            Ok(status) if keys::node(&status.id) == *key => {
                live.insert(status.id.clone(), status);
            }
            Ok(status) => {
                tracing::warn!(
                    key,
                    node.id = status.id,
                    "a heartbeat under another node's key"
                );
            }
            Err(error) => tracing::warn!(key, %error, "unreadable heartbeat"),
        }
    }
    Ok(live)
}

async fn node_keys(redis: &mut Connection) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    let mut cursor = 0u64;
    loop {
        let (next, found): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(keys::NODES_PATTERN)
            .arg("COUNT")
            .arg(SCAN_COUNT)
            .query_async(redis)
            .await?;
        keys.extend(found);
        if next == 0 {
            break;
        }
        cursor = next;
    }
    keys.sort_unstable(); // a scan may show a key twice
    keys.dedup();
    Ok(keys)
}

/// The map in use; an unreadable one counts as lost.
pub(crate) async fn map(redis: &mut Connection) -> Result<Option<ClusterMap>> {
    let value: Option<Vec<u8>> = redis::cmd("GET").arg(keys::MAP).query_async(redis).await?;
    let Some(value) = value else {
        return Ok(None);
    };
    match serde_json::from_slice(&value) {
        Ok(map) => Ok(Some(map)),
        Err(error) => {
            tracing::warn!(%error, "the map in Redis is unreadable");
            Ok(None)
        }
    }
}

/// Time since each node's last heartbeat, by Redis' clock; absent if it has expired.
pub(crate) async fn heartbeat_ages(
    redis: &mut Connection,
    nodes: &Nodes,
) -> Result<BTreeMap<String, Duration>> {
    if nodes.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut pipeline = redis::pipe();
    for id in nodes.keys() {
        pipeline.cmd("PTTL").arg(keys::node(id));
    }
    let left: Vec<i64> = pipeline.query_async(redis).await?;
    let age = |(id, left): (&String, i64)| {
        let left_ms = u64::try_from(left).ok()?; // negative: gone, or never expires
        let age_ms = keys::NODE_TTL_MS.saturating_sub(left_ms);
        Some((id.clone(), Duration::from_millis(age_ms)))
    };
    Ok(nodes.keys().zip(left).filter_map(age).collect())
}
