//! The newest cluster map this node has seen. Never goes back to an older one (I9).

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use guildhall_redis::Connection;
use guildhall_shared::{
    cluster_map::{ClusterMap, MapVersion},
    keys,
};
use redis::RedisResult;
use tokio::{sync::Notify, time::timeout};

use crate::clock;

/// Time between looks at the map, when nobody publishes one.
const INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct MapWatch {
    shards: u16,
    current: RefCell<Rc<ClusterMap>>,
    /// When Redis answered a look with a map; seconds since the Unix epoch.
    read_at_s: Cell<u64>,
    /// There is another map, and the realms have been turned to their new owners.
    changed: Notify,
}

impl MapWatch {
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            shards,
            current: RefCell::default(),
            read_at_s: Cell::new(0),
            changed: Notify::new(),
        }
    }

    /// The newest map; empty until there was one.
    pub(crate) fn current(&self) -> Rc<ClusterMap> {
        self.current.borrow().clone()
    }

    pub(crate) fn version(&self) -> MapVersion {
        self.current.borrow().version
    }

    /// When a map was read last, in seconds since the Unix epoch; 0 if never.
    pub(crate) fn read_at_s(&self) -> u64 {
        self.read_at_s.get()
    }

    /// Waits until another map is in use.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes a map over if it is newer; `true` if so.
    pub(crate) fn offer(&self, map: impl Into<Rc<ClusterMap>>) -> bool {
        let map = map.into();
        if map.shards.len() != usize::from(self.shards) {
            tracing::error!(
                shards = map.shards.len(),
                expected = self.shards,
                "a map for another number of shards is ignored"
            );
            return false;
        }
        if map.version <= self.version() {
            return false;
        }
        tracing::info!(
            term = map.version.term,
            version = map.version.version,
            nodes = map.nodes.len(),
            "new map"
        );
        *self.current.borrow_mut() = map;
        true
    }

    /// Reads the map at start, when one is published, and now and then; `looked` runs after
    /// every look, whether or not the map is another one.
    pub(crate) async fn run(
        &self,
        mut commands: Connection,
        published: &Notify,
        looked: impl Fn(),
    ) {
        loop {
            let before = self.version();
            let map: RedisResult<Option<Vec<u8>>> = redis::cmd("GET")
                .arg(keys::MAP)
                .query_async(&mut commands)
                .await;
            match map {
                Ok(Some(json)) => match serde_json::from_slice::<ClusterMap>(&json) {
                    Ok(map) => {
                        self.offer(map);
                        self.read_at_s.set(clock::unix_ms() / 1000);
                    }
                    Err(error) => tracing::warn!(%error, "unreadable map ignored"),
                },
                // Redis is empty or away: the map of before still holds.
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "map not read"),
            }
            looked();
            if self.version() != before {
                self.changed.notify_one();
            }
            let _ = timeout(INTERVAL, published.notified()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::cluster_map::Assignment;

    use super::*;

    fn map(term: u64, version: u64, shards: usize) -> ClusterMap {
        ClusterMap {
            version: MapVersion { term, version },
            shards: vec![Assignment::default(); shards],
            ..ClusterMap::default()
        }
    }

    #[test]
    fn only_newer_maps_of_this_cluster_are_taken() {
        let watch = MapWatch::new(4);
        assert!(watch.offer(map(2, 5, 4)));
        assert!(!watch.offer(map(2, 5, 4)));
        assert!(!watch.offer(map(2, 4, 4)));
        assert!(!watch.offer(map(1, 9, 4)));
        assert!(!watch.offer(map(3, 1, 8)));
        assert!(watch.offer(map(3, 1, 4)));
        assert_eq!(
            watch.version(),
            MapVersion {
                term: 3,
                version: 1
            }
        );
    }
}
