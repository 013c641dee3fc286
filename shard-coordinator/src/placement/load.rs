//! Balance by load: what the fullest nodes carry above the others goes elsewhere. Integers
//! only, so that a plan never depends on rounding.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use guildhall_shared::shard::ShardId;

use super::{Draft, id};
use crate::ring::Place;

/// A plan moves for load only once the fullest node carries this much, in thousandths of its
/// weighted share: less is noise.
const TRIGGER_MILLI: u128 = 1_150;
/// It then moves until none carries more than this.
const ENOUGH_MILLI: u128 = 1_050;
/// Nor does it while the fullest node has less to do than this: events times nodes per minute.
/// 100 a second are below a hundredth of a core.
const WORTHWHILE: u64 = 6_000;
/// Most of the whole load that one plan moves, in percent.
const MOVED_MAX_PERCENT: u64 = 9;

/// Moves shards from the fullest nodes to the emptiest while each move lowers the maximum.
/// Touches no pinned, resting or just moved shard, and no node that is not accepting; keeps
/// every node within its number of shards, if need be by an exchange for a lighter shard.
///
/// Returns the shards it moved.
pub(super) fn balance(
    draft: &mut Draft<'_>,
    loads: &[u32],
    resting: &BTreeSet<ShardId>,
) -> BTreeSet<ShardId> {
    let mut moved = BTreeSet::new();
    let Some(mut scales) = Scales::new(draft, loads, resting) else {
        return moved;
    };
    let all: u64 = loads.iter().copied().map(u64::from).sum();
    let mut budget = all * MOVED_MAX_PERCENT / 100;

    let fullest = scales.fullest();
    if scales.filled[usize::from(fullest)] <= TRIGGER_MILLI || scales.load(fullest) < WORTHWHILE {
        return moved;
    }
    loop {
        let from = scales.fullest();
        if scales.filled[usize::from(from)] <= ENOUGH_MILLI {
            return moved;
        }
        let Some(exchange) = scales.best(draft, from, budget) else {
            return moved;
        };
        budget -= exchange.cost();
        scales.make(draft, &exchange);
        moved.insert(id(exchange.there.shard));
        moved.extend(exchange.back.map(|back| id(back.shard)));
    }
}

/// A shard and what it costs.
#[derive(Debug, Clone, Copy)]
struct Heavy {
    load: u64,
    shard: usize,
}

/// A shard goes, and perhaps a lighter one comes back for it.
#[derive(Debug)]
struct Exchange {
    from: Place,
    to: Place,
    there: Heavy,
    back: Option<Heavy>,
}

impl Exchange {
    fn cost(&self) -> u64 {
        self.there.load + self.back.map_or(0, |back| back.load)
    }
}

/// Loads of the accepting nodes.
struct Scales {
    accepting: Vec<Place>,
    /// Per place of any node.
    loads: Vec<u64>,
    weights: Vec<u64>,
    /// [`Self::filled`] as it is, per place of any node.
    filled: Vec<u128>,
    /// Shards that may move, per place of any node.
    movable: Vec<Vec<Heavy>>,
    /// Of the accepting nodes together.
    load_sum: u64,
    weight_sum: u64,
}

impl Scales {
    /// `None` if there is nothing to balance.
    fn new(draft: &Draft<'_>, loads: &[u32], resting: &BTreeSet<ShardId>) -> Option<Self> {
        let accepting: Vec<Place> = draft.accepting().collect();
        let mut scales = Self {
            loads: vec![0; draft.nodes.len()],
            weights: draft
                .nodes
                .iter()
                .map(|n| u64::from(n.weight.milli()))
                .collect(),
            filled: vec![0; draft.nodes.len()],
            movable: vec![Vec::new(); draft.nodes.len()],
            load_sum: 0,
            weight_sum: 0,
            accepting,
        };
        if scales.accepting.len() < 2 || loads.is_empty() {
            return None;
        }
        for (shard, owner) in draft.owners.iter().enumerate() {
            let Some(owner) = *owner else { continue };
            let load = loads.get(shard).copied().map_or(0, u64::from);
            scales.loads[usize::from(owner)] += load;
            let stays = draft.before[shard].owner == Some(owner);
            if stays && draft.pinned[shard].is_none() && !resting.contains(&id(shard)) {
                scales.movable[usize::from(owner)].push(Heavy { load, shard });
            }
        }
        for &place in &scales.accepting {
            scales.load_sum += scales.loads[usize::from(place)];
            scales.weight_sum += scales.weights[usize::from(place)];
        }
        for place in scales.accepting.clone() {
            scales.filled[usize::from(place)] = scales.filled(place, 0);
        }
        (scales.load_sum > 0).then_some(scales)
    }

    fn load(&self, place: Place) -> u64 {
        self.loads[usize::from(place)]
    }

    /// Load of a node with `more` on top, in thousandths of its weighted share.
    fn filled(&self, place: Place, more: i64) -> u128 {
        let load = self.load(place).saturating_add_signed(more);
        let share = u128::from(self.weights[usize::from(place)]) * u128::from(self.load_sum);
        u128::from(load) * u128::from(self.weight_sum) * 1_000 / share.max(1)
    }

    /// The first of the fullest accepting nodes.
    fn fullest(&self) -> Place {
        let filled = |place: &Place| (self.filled[usize::from(*place)], Reverse(*place));
        let fullest = self.accepting.iter().copied().max_by_key(filled);
        fullest.expect("there are at least two accepting nodes")
    }

    /// The move away from a node that leaves the lowest maximum of both; `None` if none lowers
    /// it within the budget.
    fn best(&self, draft: &Draft<'_>, from: Place, budget: u64) -> Option<Exchange> {
        let others = || self.accepting.iter().copied().filter(move |&to| to != from);
        let emptiest = |places: &mut dyn Iterator<Item = Place>| {
            places.min_by_key(|&place| (self.filled[usize::from(place)], place))
        };
        let with_room = emptiest(&mut others().filter(|&to| draft.has_room(to)));
        let by_exchange = || {
            let to = emptiest(&mut others())?;
            let lightest = self.movable[usize::from(to)].iter();
            let back = lightest.min_by_key(|heavy| (heavy.load, heavy.shard))?;
            Some((to, Some(*back)))
        };
        let (to, back) = with_room.map(|to| (to, None)).or_else(by_exchange)?;

        let before = self.filled[usize::from(from)];
        let shifted = |there: &Heavy| there.load.saturating_sub(back.map_or(0, |back| back.load));
        let maximum = |there: &Heavy| {
            let shift = i64::try_from(shifted(there)).unwrap_or(i64::MAX);
            self.filled(from, -shift).max(self.filled(to, shift))
        };
        let there = self.movable[usize::from(from)]
            .iter()
            .filter(|there| shifted(there) > 0)
            .filter(|there| there.load + back.map_or(0, |back| back.load) <= budget)
            .map(|there| (maximum(there), *there))
            .filter(|(maximum, _)| *maximum < before)
            .min_by_key(|(maximum, there)| (*maximum, there.shard));
        let (_, there) = there?;
        Some(Exchange {
            from,
            to,
            there,
            back,
        })
    }

    fn make(&mut self, draft: &mut Draft<'_>, exchange: &Exchange) {
        self.carry(draft, exchange.there, exchange.from, exchange.to);
        if let Some(back) = exchange.back {
            self.carry(draft, back, exchange.to, exchange.from);
        }
        for place in [exchange.from, exchange.to] {
            self.filled[usize::from(place)] = self.filled(place, 0);
        }
    }

    fn carry(&mut self, draft: &mut Draft<'_>, heavy: Heavy, from: Place, to: Place) {
        draft.loads[usize::from(from)] -= 1;
        draft.give(heavy.shard, to);
        self.loads[usize::from(from)] -= heavy.load;
        self.loads[usize::from(to)] += heavy.load;
        // Not movable any more: each shard moves once in a plan.
        self.movable[usize::from(from)].retain(|other| other.shard != heavy.shard);
    }
}
