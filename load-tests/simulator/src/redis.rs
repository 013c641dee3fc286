//! Redis, as far as placement needs it: heartbeats that expire, the map, a compare on write.

use std::collections::BTreeMap;
use std::rc::Rc;

use guildhall_shared::cluster_map::{ClusterMap, NodeStatus, Nodes};
use guildhall_shared::keys;

/// Times are virtual milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Redis {
    beats: BTreeMap<String, (u64, NodeStatus)>,
    map: Option<Rc<ClusterMap>>,
    /// It answers nobody before this time.
    away_until: u64,
}

impl Redis {
    pub(crate) fn answers(&self, now: u64) -> bool {
        now >= self.away_until
    }

    pub(crate) fn go_away(&mut self, until: u64) {
        self.away_until = self.away_until.max(until);
    }

    /// It comes back empty.
    pub(crate) fn flush(&mut self) {
        self.beats.clear();
        self.map = None;
    }

    pub(crate) fn beat(&mut self, now: u64, status: NodeStatus) {
        let expires = now + keys::NODE_TTL_MS;
        self.beats.insert(status.id.clone(), (expires, status));
    }

    pub(crate) fn forget(&mut self, id: &str) {
        self.beats.remove(id);
    }

    /// Nodes whose heartbeat has not expired.
    pub(crate) fn live(&mut self, now: u64) -> Nodes {
        self.beats.retain(|_, (expires, _)| *expires > now);
        let statuses = self.beats.iter();
        let statuses = statuses.map(|(id, (_, status))| (id.clone(), status.clone()));
        statuses.collect()
    }

    pub(crate) fn map(&self) -> Option<&Rc<ClusterMap>> {
        self.map.as_ref()
    }

    /// What the script in `apply` does: `false` if a newer map is stored.
    pub(crate) fn publish(&mut self, map: &Rc<ClusterMap>) -> bool {
        let newer = |stored: &Rc<ClusterMap>| stored.version > map.version;
        if self.map.as_ref().is_some_and(newer) {
            return false;
        }
        self.map = Some(Rc::clone(map));
        true
    }
}
