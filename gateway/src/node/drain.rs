//! An operator drains this node: its sessions are sent away, spread over the time that the map
//! says. The process stays, and takes whoever comes all the same.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use guildhall_shared::cluster_map::{ClusterMap, Drain as Order};

use super::{Config, Status};
use crate::bus::{CoreHandle, ToCore};

pub(crate) struct Drain {
    node: String,
    status: Arc<Status>,
    cores: Vec<CoreHandle>,
    /// What is being followed.
    order: Cell<Option<Order>>,
}

impl Drain {
    pub(crate) fn new(config: &Config, cores: Vec<CoreHandle>) -> Self {
        Self {
            node: config.node_id.clone(),
            status: config.status.clone(),
            cores,
            order: Cell::new(None),
        }
    }

    /// Does what a new map says of this node.
    pub(crate) fn follow(&self, map: &ClusterMap) {
        let order = map.drains.get(&self.node).copied();
        self.status.set_draining(order.is_some());
        if order == self.order.replace(order) {
            return;
        }
        let Some(order) = order else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = now.unwrap_or_default().as_millis() as u64;
        let until_ms = order.since_ms.saturating_add(order.over_ms);
        // Never longer than was said, whatever the clocks say.
        let left_ms = until_ms.saturating_sub(now_ms).min(order.over_ms);
        let over = Duration::from_millis(left_ms);
        tracing::info!(over_ms = left_ms, "drained: clients are asked to reconnect");
        for core in &self.cores {
            if core.send(ToCore::SendAway { over }).is_err() {
                tracing::warn!("a core is too busy to send its clients away");
                self.order.set(None); // with the next map
            }
        }
    }
}
