//! Publishes a map. Redis compares (term, version), so that of two leaders only the later one
//! can (I9).

use std::sync::LazyLock;

use guildhall_redis::Connection;
use guildhall_shared::cluster_map::{ClusterMap, MapVersion};
use guildhall_shared::keys;
use redis::Script;

use crate::error::{Error, Result};

/// Stores and announces the map unless a newer one is stored; answers what it found then.
/// A stored value that is no map is overwritten.
static PUBLISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local stored = redis.call('GET', KEYS[1])
        if stored then
            local ok, map = pcall(cjson.decode, stored)
            if ok and type(map) == 'table' then
                local term, version = tonumber(map.term), tonumber(map.version)
                local new_term, new_version = tonumber(ARGV[1]), tonumber(ARGV[2])
                if term and version
                    and (term > new_term or (term == new_term and version > new_version)) then
                    return {term, version}
                end
            end
        end
        redis.call('SET', KEYS[1], ARGV[3])
        redis.call('PUBLISH', KEYS[1], ARGV[3])
        return {}
        ",
    )
});

/// Makes this the map of the cluster.
///
/// Errors: [`Error::LaterTerm`] if a newer map is stored; nothing has changed then.
pub(crate) async fn publish(redis: &mut Connection, map: &ClusterMap) -> Result<()> {
    let newer: Vec<u64> = PUBLISH
        .key(keys::MAP)
        .arg(map.version.term)
        .arg(map.version.version)
        .arg(serde_json::to_vec(map)?)
        .invoke_async(redis)
        .await?;
    match newer[..] {
        [term, version] => Err(Error::LaterTerm(MapVersion { term, version })),
        _ => Ok(()),
    }
}
