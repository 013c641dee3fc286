//! What a coordinator decides, without its I/O: what the simulator runs. The same parts as
//! `reconcile` puts together, in the same order; `now` is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use guildhall_shared::cluster_map::{ClusterMap, MapVersion, Nodes};
use guildhall_shared::operator::Move;

use crate::error::{Error, Result};
use crate::loads::{self, Loads};
use crate::motion::{self, Inputs, Motion, Step, Voluntary};
use crate::node::{self, Liveness};
use crate::placement;
use crate::plans;
use crate::reconcile::next_map;
use crate::settings::Settings;

pub use crate::leader::{LEASE, MARGIN, RENEWAL};
pub use crate::node::FREEZE;
pub use crate::reconcile::{GLANCE, ROUND};

/// A write to Redis takes no longer, or has failed.
pub const REDIS_ANSWER_MAX: Duration = crate::config::REDIS_ANSWER_MAX;

/// One coordinator between its looks and its writes.
pub struct Pilot {
    shards: u16,
    per_node_max: usize,
    term: Option<u64>,
    liveness: Liveness,
    last_known: Option<ClusterMap>,
    tried: MapVersion,
    loads: Loads,
    motion: Motion,
    settings: Settings,
}

/// A map to write.
#[derive(Debug)]
pub struct Proposal {
    pub map: ClusterMap,
    step: Step,
}

impl Proposal {
    /// Shards that change their owner.
    pub fn moves(&self) -> &[Move] {
        &self.step.moves
    }

    /// Those of them that are open.
    pub fn in_motion(&self) -> &[Move] {
        &self.step.in_motion
    }
}

/// What came of a round.
#[derive(Debug)]
pub enum Decided {
    Publish(Box<Proposal>),
    /// Nothing is to be changed; true if nothing is yet to move either.
    Keep {
        at_rest: bool,
    },
    /// It does not lead, or knows too little.
    Nothing,
    /// A map of a later term than its own exists.
    LaterTerm(u64),
}

impl Pilot {
    pub fn new(now: Instant, shards: u16, per_node_max: usize) -> Self {
        Self {
            shards,
            per_node_max,
            term: None,
            liveness: Liveness::new(now),
            last_known: None,
            tried: MapVersion::default(),
            loads: Loads::default(),
            motion: Motion::default(),
            settings: Settings {
                nodes: BTreeMap::new(),
                pins: BTreeMap::new(),
                moves: BTreeMap::new(),
            },
        }
    }

    /// Redis did not answer.
    pub fn blind(&mut self, now: Instant) {
        self.liveness.blind(now);
    }

    /// One round on what Redis shows, with the term if the lead is held.
    ///
    /// Errors: none but those of `Decided`.
    pub fn round(
        &mut self,
        now: Instant,
        live: Nodes,
        map: Option<&ClusterMap>,
        term: Option<u64>,
    ) -> Decided {
        self.remember(now, map);
        let live = self.liveness.admit(now, live).cloned();
        self.take_term(now, term);
        let (Some(live), Some(term)) = (live, term) else {
            return Decided::Nothing;
        };
        if live.is_empty() && self.last_known.is_none() {
            return Decided::Nothing;
        }
        let known = self.last_known.as_ref().map(|map| map.version);
        if let Some(step) = known.and_then(|version| self.motion.shown(now, version)) {
            self.loads.moved(now, &step.moves);
        }
        self.motion.look(now, &live);
        let in_redis = map.map(|map| map.version);
        match self.decide(now, &live, term, in_redis) {
            Ok((Some(map), step)) => {
                self.tried = map.version;
                self.motion.sent(0, map.version, &step);
                Decided::Publish(Box::new(Proposal { map, step }))
            }
            Ok((None, step)) => {
                self.motion.rest(step.left);
                let at_rest = step.left == 0 && !self.motion.is_under_way();
                Decided::Keep { at_rest }
            }
            Err(Error::LaterTerm(later)) => Decided::LaterTerm(later.term),
            Err(_) => Decided::Nothing,
        }
    }

    /// Redis took the map.
    pub fn published(&mut self, now: Instant, proposal: Proposal) {
        let Proposal { map, step } = proposal;
        let version = map.version;
        self.last_known = Some(map);
        self.motion.began(now, 0, version, &step);
        self.loads.moved(now, &step.moves);
        self.motion.rest(step.left);
    }

    /// A look between rounds; true if the step under way is over, so that a round is due.
    pub fn glance(&mut self, now: Instant, live: &Nodes) -> bool {
        self.liveness.are_all(live) && self.motion.look(now, live).is_some()
    }

    pub fn is_in_motion(&self) -> bool {
        self.motion.is_under_way()
    }

    pub fn is_frozen(&self, now: Instant) -> bool {
        self.liveness.is_frozen(now)
    }

    /// Nodes that may take shards, as it knows them.
    pub fn accepting(&self) -> usize {
        let known = self.liveness.known().values();
        known.filter(|status| !status.stopping).count()
    }

    /// The newest map it has seen or published.
    pub fn last_known(&self) -> Option<&ClusterMap> {
        self.last_known.as_ref()
    }

    fn remember(&mut self, now: Instant, shown: Option<&ClusterMap>) {
        if shown.is_some() {
            self.liveness.map_shown();
        }
        match (shown, &self.last_known) {
            (Some(map), Some(known)) if map.version <= known.version => {}
            (Some(map), _) => self.last_known = Some(map.clone()),
            (None, Some(_)) => self.liveness.flushed(now),
            (None, None) => {}
        }
    }

    fn take_term(&mut self, now: Instant, term: Option<u64>) {
        if self.term == term {
            return;
        }
        self.term = term;
        self.motion = match &self.last_known {
            Some(map) if term.is_some() => Motion::inherit(now, map.version),
            _ => Motion::default(),
        };
    }

    fn decide(
        &mut self,
        now: Instant,
        live: &Nodes,
        term: u64,
        in_redis: Option<MapVersion>,
    ) -> Result<(Option<ClusterMap>, Step)> {
        let known = self.last_known.as_ref();
        self.loads.observe(now, self.shards, live, known);
        let nodes = node::nodes(live, &self.settings.nodes);
        let seen = plans::observed(self.shards, nodes, &self.settings, known, &self.loads);
        let held = self.liveness.is_frozen(now) || self.motion.is_under_way();
        let step = motion::step(&Inputs {
            seen: &seen,
            target: &placement::plan(&seen),
            open: &loads::open_shards(self.shards, live, seen.previous.as_ref()),
            per_node_max: self.per_node_max,
            voluntary: if held { Voluntary::Hold } else { Voluntary::Go },
        });
        let map = next_map(term, step.layout.clone(), known, in_redis, self.tried)?;
        Ok((map, step))
    }
}
