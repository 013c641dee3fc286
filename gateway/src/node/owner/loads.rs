//! What the realms served here cost: events times the nodes they go to, for the placement of
//! shards.
//!
//! A load halves every 42 s without events and is, of a steady stream, what comes in a minute.
//! Counting is one addition for the shard and one for the realm; of realms only those with a
//! recent event are kept.

use std::{
    cell::RefCell,
    cmp::Reverse,
    time::{Duration, Instant},
};

use guildhall_shared::{
    Id,
    cluster_map::{NodeStatus, ShardLoad},
    id::marker::Realm,
    shard::ShardId,
};
use rustc_hash::FxHashMap;

use crate::clock;

/// The time in which a load falls to its e-th part: with it, a load is per minute.
const FADE: Duration = Duration::from_secs(60);
/// Realms counted one by one; of further ones only their shards, until others have faded.
const REALMS_MAX: usize = 16_384;
/// A realm that has faded below this is no longer kept.
const FADED: f64 = 0.5;

#[derive(Debug)]
pub(crate) struct Loads {
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    faded_at: Instant,
    /// By shard.
    shards: Vec<f64>,
    realms: FxHashMap<Id<Realm>, f64>,
}

impl Loads {
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            state: RefCell::new(State {
                faded_at: clock::now(),
                shards: vec![0.0; usize::from(shards)],
                realms: FxHashMap::default(),
            }),
        }
    }

    /// An event went to so many nodes.
    pub(crate) fn add(&self, realm: Id<Realm>, nodes: usize) {
        let mut state = self.state.borrow_mut();
        let (nodes, shards) = (nodes as f64, state.shards.len() as u16);
        if let Some(load) = state
            .shards
            .get_mut(usize::from(ShardId::of(realm, shards).0))
        {
            *load += nodes;
        }
        if let Some(load) = state.realms.get_mut(&realm) {
            *load += nodes;
        } else if state.realms.len() < REALMS_MAX {
            state.realms.insert(realm, nodes);
        }
    }

    /// Lets all loads fade by the time since it was done last.
    pub(crate) fn fade(&self, now: Instant) {
        let mut state = self.state.borrow_mut();
        let passed = now.saturating_duration_since(state.faded_at);
        let rest = (-passed.as_secs_f64() / FADE.as_secs_f64()).exp();
        state.faded_at = now;
        for load in &mut state.shards {
            *load *= rest;
        }
        state.realms.retain(|_, load| {
            *load *= rest;
            *load > FADED
        });
    }

    /// The shards with the highest loads among these, highest first.
    pub(crate) fn shards(&self, among: impl Fn(ShardId) -> bool) -> Vec<ShardLoad> {
        let state = self.state.borrow();
        let loads = (0..).map(ShardId).zip(&state.shards);
        let loads = loads
            .map(|(shard, &load)| ShardLoad {
                shard,
                load: load.round() as u32,
            })
            .filter(|load| load.load > 0 && among(load.shard));
        let mut loads: Vec<ShardLoad> = loads.collect();
        loads.sort_unstable_by_key(|load| (Reverse(load.load), load.shard));
        loads.truncate(NodeStatus::SHARDS_MAX);
        loads
    }

    /// Realms by load, highest first.
    pub(super) fn realms(&self) -> Vec<(Id<Realm>, u32)> {
        let state = self.state.borrow();
        let loads = state.realms.iter();
        let mut loads: Vec<_> = loads
            .map(|(&realm, &load)| (realm, load.round() as u32))
            .collect();
        loads.sort_unstable_by_key(|&(realm, load)| (Reverse(load), realm));
        loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(shard: u64, n: u64) -> Id<Realm> {
        Id::new(shard << 22 | n).unwrap()
    }

    #[test]
    fn a_steady_stream_has_the_load_of_a_minute() {
        let loads = Loads::new(4);
        let start = loads.state.borrow().faded_at;
        for second in 1..=600 {
            for _ in 0..10 {
                loads.add(realm(1, 1), 3);
            }
            loads.fade(start + Duration::from_secs(second));
        }
        let load = loads.shards(|_| true)[0].load;
        assert!((1770..=1800).contains(&load), "{load}");
        assert_eq!(loads.realms(), [(realm(1, 1), load)]);
    }

    #[test]
    fn the_busiest_come_first_and_what_has_faded_is_gone() {
        let loads = Loads::new(4);
        let start = loads.state.borrow().faded_at;
        loads.add(realm(1, 1), 2);
        loads.add(realm(2, 1), 5);
        loads.add(realm(2, 2), 4);
        let of = |shard, load| ShardLoad {
            shard: ShardId(shard),
            load,
        };
        assert_eq!(loads.shards(|_| true), [of(2, 9), of(1, 2)]);
        assert_eq!(loads.shards(|shard| shard == ShardId(1)), [of(1, 2)]);
        loads.fade(start + FADE);
        assert_eq!(loads.shards(|_| true), [of(2, 3), of(1, 1)]);
        loads.fade(start + FADE * 20);
        assert!(loads.shards(|_| true).is_empty());
        assert!(loads.state.borrow().realms.is_empty());
    }

    #[test]
    fn there_is_room_for_so_many_realms() {
        let loads = Loads::new(1);
        for n in 1..=REALMS_MAX as u64 + 1 {
            loads.add(realm(0, n), 1);
        }
        assert_eq!(loads.realms().len(), REALMS_MAX);
        assert_eq!(loads.shards(|_| true)[0].load, REALMS_MAX as u32 + 1);
    }
}
