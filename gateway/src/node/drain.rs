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
    /// Whether every core knows of it.
    told: Cell<bool>,
}

impl Drain {
    pub(crate) fn new(config: &Config, cores: Vec<CoreHandle>) -> Self {
        Self {
            node: config.node_id.clone(),
            status: config.status.clone(),
            cores,
            order: Cell::new(None),
            told: Cell::new(true),
        }
    }

    /// Does what a map says of this node; run after each look at it.
    pub(crate) fn follow(&self, map: &ClusterMap) {
        // The coordinator has not heard of this node lately: that ends no drain.
        if !map.nodes.contains(&self.node) {
            return;
        }
        let order = map.drains.get(&self.node).copied();
        self.status.set_draining(order.is_some());
        if order == self.order.replace(order) && self.told.get() {
            return;
        }
        let over = order.map(left);
        match over {
            Some(over) => {
                let over_ms = over.as_millis() as u64;
                tracing::info!(over_ms, "drained: clients are asked to reconnect");
            }
            None => tracing::info!("no longer drained: the clients that are left stay"),
        }
        let mut told = true;
        for core in &self.cores {
            let message = match over {
                Some(over) => ToCore::SendAway { over },
                None => ToCore::KeepClients,
            };
            if core.send(message).is_err() {
                tracing::warn!("a core is too busy to hear whether its clients leave");
                told = false; // with the next look
            }
        }
        self.told.set(told);
    }
}

/// The rest of the time over which sessions leave.
fn left(order: Order) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = now.unwrap_or_default().as_millis() as u64;
    let until_ms = order.since_ms.saturating_add(order.over_ms);
    // Never longer than was said, whatever the clocks say.
    Duration::from_millis(until_ms.saturating_sub(now_ms).min(order.over_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{self, Inbox};

    const HERE: &str = "gateway-1";

    fn drain() -> (Drain, CoreHandle, Inbox) {
        let (core, inbox) = bus::inbox();
        let drain = Drain {
            node: HERE.to_owned(),
            status: Arc::default(),
            cores: vec![core.clone()],
            order: Cell::new(None),
            told: Cell::new(true),
        };
        (drain, core, inbox)
    }

    fn map(node: &str, drained: bool) -> ClusterMap {
        let order = Order {
            since_ms: u64::MAX / 2,
            over_ms: 60_000,
        };
        ClusterMap {
            nodes: vec![node.to_owned()],
            drains: drained
                .then(|| (node.to_owned(), order))
                .into_iter()
                .collect(),
            ..ClusterMap::default()
        }
    }

    /// What a core was told: over how long its clients leave, or that they stay.
    fn told(inbox: &Inbox) -> Vec<Option<Duration>> {
        let messages = inbox.messages.try_iter();
        messages
            .map(|message| match message {
                ToCore::SendAway { over } => Some(over),
                ToCore::KeepClients => None,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn cores_are_told_once_when_a_drain_begins_and_when_it_is_undone() {
        let (drain, _core, inbox) = drain();
        let minute = Duration::from_secs(60);
        for (map, expected) in [
            (ClusterMap::default(), vec![]),
            (map(HERE, false), vec![]),
            (map(HERE, true), vec![Some(minute)]),
            (map(HERE, true), vec![]),
            (map("gateway-2", false), vec![]),
            (map(HERE, true), vec![]),
            (map(HERE, false), vec![None]),
            (map(HERE, false), vec![]),
        ] {
            drain.follow(&map);
            assert_eq!(told(&inbox), expected, "{map:?}");
        }
    }

    #[test]
    fn a_core_that_was_too_busy_is_told_at_the_next_look() {
        let (drain, core, inbox) = drain();
        while core.send(ToCore::KeepClients).is_ok() {}
        drain.follow(&map(HERE, true));
        assert!(told(&inbox).iter().all(Option::is_none));
        drain.follow(&map(HERE, true));
        assert_eq!(told(&inbox).len(), 1);
        while core.send(ToCore::KeepClients).is_ok() {}
        drain.follow(&map(HERE, false));
        told(&inbox);
        drain.follow(&map(HERE, false));
        assert_eq!(told(&inbox), [None::<Duration>]);
    }
}
