//! Publishes a map. Redis compares (term, version), so that of two leaders only the later one
//! can (I9).

use std::sync::LazyLock;

use guildhall_redis::Connection;
use guildhall_shared::cluster_map::{ClusterMap, MapVersion};
use guildhall_shared::keys;
use redis::Script;
use tokio::time::timeout;

use crate::config::REDIS_ANSWER_MAX;
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
/// Errors: [`Error::LaterTerm`] if a newer map is stored; nothing has changed then. After any
/// other the map may be stored all the same.
pub(crate) async fn publish(redis: &mut Connection, map: &ClusterMap) -> Result<()> {
    let mut publish = PUBLISH.key(keys::MAP);
    publish
        .arg(map.version.term)
        .arg(map.version.version)
        .arg(serde_json::to_vec(map)?);
    // Up to three commands, and a connection before them: as one, no longer than a lease allows.
    let answer = timeout(REDIS_ANSWER_MAX, publish.invoke_async(redis)).await;
    let newer: Vec<u64> = answer.map_err(|_| Error::Silent("Redis"))??;
    match newer[..] {
        [term, version] => Err(Error::LaterTerm(MapVersion { term, version })),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use guildhall_redis::{Client, Patience};

    use super::*;

    #[tokio::test]
    async fn a_redis_that_says_nothing_is_not_waited_for_as_long_as_another_may_lead() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", silent.local_addr().unwrap());
        let patience = Patience {
            answer: REDIS_ANSWER_MAX,
            retries: 2,
            pause_max: Some(Duration::from_millis(200)),
        };
        let mut redis = Client::open(&url, patience).unwrap().connection().unwrap();
        let asked = Instant::now();
        let published = publish(&mut redis, &ClusterMap::default()).await;
        assert!(published.is_err());
        assert!(asked.elapsed() < 2 * REDIS_ANSWER_MAX);
    }
}
