//! Redis, as far as placement needs it: heartbeats that expire, the map, a compare on write.

use std::collections::BTreeMap;
use std::rc::Rc;

use guildhall_shared::cluster_map::{ClusterMap, NodeStatus, Nodes};
use guildhall_shared::keys;

/// Times are virtual milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Redis {
    /// The last heartbeat of each node, and when it expires.
    live: Nodes,
    expiries: BTreeMap<String, u64>,
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
        self.live.clear();
        self.expiries.clear();
        self.map = None;
    }

    pub(crate) fn beat(&mut self, now: u64, status: NodeStatus) {
        let expires = now + keys::NODE_TTL_MS;
        self.expiries.insert(status.id.clone(), expires);
        self.live.insert(status.id.clone(), status);
    }

    pub(crate) fn forget(&mut self, id: &str) {
        self.live.remove(id);
        self.expiries.remove(id);
    }

    /// Nodes whose heartbeat has not expired.
    pub(crate) fn live(&mut self, now: u64) -> &Nodes {
        let live = &mut self.live;
        self.expiries.retain(|id, expires| {
            let lives = *expires > now;
            if !lives {
                live.remove(id);
            }
            lives
        });
        live
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
