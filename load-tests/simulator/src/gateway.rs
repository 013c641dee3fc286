//! A gateway process, as the coordinator and its clients see it.

use std::rc::Rc;

use guildhall_shared::cluster_map::{ClusterMap, MapVersion, NodeStatus};

/// Times are virtual milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Down,
    Up,
    /// Asked to stop: says so, and sends its sessions away by `gone_by`.
    Stopping {
        gone_by: u64,
    },
}

#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) id: String,
    pub(crate) phase: Phase,
    /// Rises with each start, and makes what is left of the run before void.
    pub(crate) run: u32,
    /// The newest map it has seen in this run.
    pub(crate) map: Option<Rc<ClusterMap>>,
    /// Until then realms are on their way to the owners of that map.
    pub(crate) moving_until: u64,
    pub(crate) sessions: u64,
    /// When it was last a live process.
    pub(crate) seen_up: u64,
    /// Until then it stands still.
    pub(crate) still_until: u64,
}

impl Gateway {
    pub(crate) fn new(place: usize) -> Self {
        Self {
            id: crate::live::name(place),
            phase: Phase::Down,
            run: 0,
            map: None,
            moving_until: 0,
            sessions: 0,
            seen_up: 0,
            still_until: 0,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.phase != Phase::Down
    }

    pub(crate) fn takes_sessions(&self, now: u64) -> bool {
        self.phase == Phase::Up && now >= self.still_until
    }

    pub(crate) fn version(&self) -> MapVersion {
        self.map
            .as_ref()
            .map_or_else(MapVersion::default, |map| map.version)
    }

    /// As `MapWatch::offer`: takes a map that is newer; true if so.
    pub(crate) fn offer(&mut self, map: &Rc<ClusterMap>) -> bool {
        let newer = map.version > self.version();
        if newer {
            self.map = Some(Rc::clone(map));
        }
        newer
    }

    /// Where its links are let in.
    pub(crate) fn relay_addr(&self) -> String {
        format!("{}:{}", self.id, self.run)
    }

    /// `moving`: realms of it that are, besides those that are only counted.
    pub(crate) fn status(&self, now: u64, moving: u64) -> NodeStatus {
        NodeStatus {
            id: self.id.clone(),
            boot_id: self.run.to_string(),
            relay_addr: self.relay_addr(),
            gateway_url: String::new(),
            stopping: self.phase != Phase::Up,
            map: self.version(),
            sessions: self.sessions,
            realms_owned: 0,
            dispatches_per_s: 0,
            at_ms: now,
            realms_moving: moving + u64::from(now < self.moving_until),
            feed_lag_ms: 0,
            cores_busy: Vec::new(),
            shards: Vec::new(),
            guilds: Vec::new(),
            shards_open: None,
        }
    }
}
