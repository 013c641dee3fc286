//! From where shards are to where they are to be, in steps: `step()`, a pure function, and
//! [`Motion`], which tells when a step is over. Never plans: `placement` says what is to be.
//!
//! A shard whose owner serves no more moves at once. Any other move is voluntary and waits for
//! its turn: a node has no more than so many shards in motion, whether they come or go.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use guildhall_shared::cluster_map::{Assignment, ClusterMap, MapVersion, Nodes};
use guildhall_shared::operator::{Cause, Move, Progress};
use guildhall_shared::shard::ShardId;

use crate::node::Standing;
use crate::placement::{Layout, Observed, Target};
use crate::ring::Place;

/// A step that has not settled by then is over all the same: a node that never settles must
/// not stop all others for ever.
pub const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Whether shards may move that need not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voluntary {
    Go,
    /// Moves are paused, placement is frozen, or a step is under way.
    Hold,
}

/// What a step is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub seen: &'a Observed,
    /// What `placement::plan` makes of `seen`.
    pub target: &'a Target,
    /// Per shard, whether any realm of it is open at its owner. A shard with none moves without
    /// counting, for nothing moves with it. What is missing counts as open.
    pub open: &'a [bool],
    /// Shards a node may have in motion by its own will, in and out together; at least 1.
    pub per_node_max: usize,
    pub voluntary: Voluntary,
}

/// The next map, and what it moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub layout: Layout,
    /// Shards that change their owner, by shard.
    pub moves: Vec<Move>,
    /// Those of them that are open and had an owner: edges go from one to the other.
    pub in_motion: Vec<Move>,
    /// Shards that are yet to move.
    pub left: u32,
}

/// A voluntary move.
struct Wish {
    /// Which goes first.
    rank: (Cause, usize),
    from: Place,
    to: Option<Place>,
}

/// Decides which shards go now, in the order of their causes.
pub fn step(inputs: &Inputs<'_>) -> Step {
    let goal = &inputs.target.layout;
    let today = Today::new(inputs);
    let mut layout = goal.clone();
    let mut made: Vec<(usize, Cause)> = Vec::new();
    let mut wishes = Vec::new();
    let mut in_motion = vec![0_usize; goal.nodes.len()];

    for (shard, goal) in goal.shards.iter().enumerate() {
        match today.stay(shard) {
            Some(from) if goal.owner == Some(from) => {}
            Some(from) => wishes.push(Wish {
                rank: (today.wish(inputs, shard, from, goal.owner), shard),
                from,
                to: goal.owner,
            }),
            None => {
                let from = today.previous_owner(shard);
                let to = goal.owner.map(|to| today.name(to));
                if from != to {
                    made.push((shard, today.need(shard)));
                    let moves = from.is_some() && is_open(inputs, shard);
                    if let Some(to) = goal.owner.filter(|_| moves) {
                        in_motion[usize::from(to)] += 1;
                    }
                }
            }
        }
    }

    wishes.sort_unstable_by_key(|wish| wish.rank);
    let mut left = 0;
    for wish in wishes {
        let (cause, shard) = wish.rank;
        if take(inputs, &wish, &mut in_motion) {
            made.push((shard, cause));
        } else {
            layout.shards[shard] = today.waiting(shard, wish.from, wish.to);
            left += 1;
        }
    }

    made.sort_unstable_by_key(|(shard, _)| *shard);
    let named = |&(shard, cause): &(usize, Cause)| Move {
        shard: id(shard),
        from: today.previous_owner(shard).map(str::to_owned),
        to: layout.shards[shard]
            .owner
            .map(|to| today.name(to).to_owned()),
        cause,
    };
    let moves: Vec<Move> = made.iter().map(named).collect();
    let open = moves
        .iter()
        .filter(|go| go.from.is_some() && is_open(inputs, usize::from(go.shard.0)));
    Step {
        in_motion: open.cloned().collect(),
        layout,
        moves,
        left,
    }
}

/// True if a wish comes true now; it is counted then.
fn take(inputs: &Inputs<'_>, wish: &Wish, in_motion: &mut [usize]) -> bool {
    let (Voluntary::Go, Some(to)) = (inputs.voluntary, wish.to) else {
        return false; // without a node that accepts, a shard stays where it is served
    };
    if !is_open(inputs, wish.rank.1) {
        return true;
    }
    let both = [usize::from(wish.from), usize::from(to)];
    let has_room = both
        .iter()
        .all(|&node| in_motion[node] < inputs.per_node_max.max(1));
    if has_room {
        for node in both {
            in_motion[node] += 1;
        }
    }
    has_room
}

fn is_open(inputs: &Inputs<'_>, shard: usize) -> bool {
    inputs.open.get(shard).copied().unwrap_or(true)
}

/// Steps that so many moves take at least: those of the node that has most of them.
pub fn steps(moves: &[Move], open: &[bool], per_node_max: usize) -> u32 {
    let mut of_node: HashMap<&str, usize> = HashMap::new();
    let is_open = |go: &&Move| open.get(usize::from(go.shard.0)).copied().unwrap_or(true);
    for go in moves.iter().filter(is_open) {
        for node in go.from.iter().chain(&go.to) {
            *of_node.entry(node).or_default() += 1;
        }
    }
    let most = of_node.into_values().max().unwrap_or(0);
    u32::try_from(most.div_ceil(per_node_max.max(1))).unwrap_or(u32::MAX)
}

/// The map in use in terms of the nodes of the target.
struct Today<'a> {
    previous: Option<&'a ClusterMap>,
    nodes: &'a [String],
    /// Per node of the target.
    standings: Vec<Standing>,
    /// Per node of the previous map, its place in the target.
    places: Vec<Option<Place>>,
}

impl<'a> Today<'a> {
    fn new(inputs: &Inputs<'a>) -> Self {
        let seen = inputs.seen;
        let nodes = inputs.target.layout.nodes.as_slice();
        let standing_of: HashMap<&str, Standing> = seen
            .nodes
            .iter()
            .map(|node| (&*node.id, node.standing))
            .collect();
        let standing = |id: &String| {
            let standing = standing_of.get(id.as_str()).copied();
            standing.unwrap_or(Standing::Stopping)
        };
        let place_of: HashMap<&str, Place> = (0..).zip(nodes).map(|(p, id)| (&**id, p)).collect();
        let previous = seen.previous.as_ref();
        let named = previous.map_or(&[][..], |map| &map.nodes);
        Self {
            previous,
            nodes,
            standings: nodes.iter().map(standing).collect(),
            places: named
                .iter()
                .map(|id| place_of.get(id.as_str()).copied())
                .collect(),
        }
    }

    fn before(&self, shard: usize) -> Assignment {
        let shards = self.previous.map_or(&[][..], |map| &map.shards);
        shards.get(shard).copied().unwrap_or_default()
    }

    fn place(&self, before: Option<u16>) -> Option<Place> {
        self.places.get(usize::from(before?)).copied().flatten()
    }

    fn standing(&self, place: Place) -> Standing {
        self.standings[usize::from(place)]
    }

    fn name(&self, place: Place) -> &'a str {
        &self.nodes[usize::from(place)]
    }

    /// Id of the owner in the map in use, live or not.
    fn previous_owner(&self, shard: usize) -> Option<&'a str> {
        self.previous?.owner(id(shard))
    }

    /// The owner of a shard that can be served there for as long as it takes.
    fn stay(&self, shard: usize) -> Option<Place> {
        let owner = self.place(self.before(shard).owner)?;
        (self.standing(owner) != Standing::Stopping).then_some(owner)
    }

    /// Why a shard that cannot stay moves.
    fn need(&self, shard: usize) -> Cause {
        match self.before(shard).owner {
            None => Cause::Unowned,
            Some(owner) if self.place(Some(owner)).is_some() => Cause::OwnerStopping,
            Some(_) => Cause::OwnerLost,
        }
    }

    /// Why a shard moves that could stay.
    fn wish(&self, inputs: &Inputs<'_>, shard: usize, from: Place, to: Option<Place>) -> Cause {
        let to = to.map(|to| self.name(to));
        let wants = |of: Option<&String>| of.is_some() && of.map(String::as_str) == to;
        if wants(inputs.seen.pins.get(&id(shard))) {
            Cause::Pin
        } else if wants(inputs.seen.moves.get(&id(shard))) {
            Cause::Move
        } else if self.standing(from) == Standing::Draining {
            Cause::Drain
        } else if inputs.target.for_load.contains(&id(shard)) {
            Cause::Load
        } else {
            Cause::Share
        }
    }

    /// A shard that waits keeps its owner, and its standby if that may be one still.
    fn waiting(&self, shard: usize, owner: Place, goal: Option<Place>) -> Assignment {
        let may_stand_by = |&place: &Place| place != owner && !self.standing(place).is_leaving();
        let standby = self.place(self.before(shard).standby).filter(may_stand_by);
        Assignment {
            owner: Some(owner),
            standby: standby.or(goal),
        }
    }
}

/// Of a place in the list of shards, which is never longer than `u16` counts.
fn id(shard: usize) -> ShardId {
    ShardId(shard as u16)
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Settled,
    TimedOut,
}

/// The step under way and how far all of them are. `now` is passed in.
#[derive(Debug, Default)]
pub(crate) struct Motion {
    under_way: Option<UnderWay>,
    progress: Option<Progress>,
    unsure: Option<Unsure>,
}

#[derive(Debug)]
struct UnderWay {
    version: MapVersion,
    since: Instant,
}

/// A step on its way to Redis, whose answer may get lost.
#[derive(Debug)]
struct Unsure {
    version: MapVersion,
    now_ms: u64,
    step: Step,
}

impl Motion {
    /// Of a leader that has just taken over: whatever the map in use moves may be under way.
    pub(crate) fn inherit(now: Instant, version: MapVersion) -> Self {
        Self {
            under_way: Some(UnderWay {
                version,
                since: now,
            }),
            progress: None,
            unsure: None,
        }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    pub(crate) fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    /// Ends the step under way once every live node follows its map and no realm is on its way,
    /// or after [`SETTLE_MAX`].
    pub(crate) fn look(&mut self, now: Instant, live: &Nodes) -> Option<Ended> {
        let step = self.under_way.as_ref()?;
        let mut staying = live.values().filter(|status| !status.stopping);
        let ended = if staying.all(|status| status.map >= step.version && status.realms_moving == 0)
        {
            Ended::Settled
        } else if now.saturating_duration_since(step.since) >= SETTLE_MAX {
            Ended::TimedOut
        } else {
            return None;
        };
        self.under_way = None;
        if let Some(progress) = &mut self.progress {
            progress.done += count(&progress.in_motion);
            progress.in_motion.clear();
            progress.timed_out += u32::from(ended == Ended::TimedOut);
        }
        Some(ended)
    }

    /// A step goes to Redis as this map. [`Self::began`] follows if Redis says that it took it;
    /// if nothing is heard, [`Self::shown`] finds out.
    pub(crate) fn sent(&mut self, now_ms: u64, version: MapVersion, step: &Step) {
        self.unsure = Some(Unsure {
            version,
            now_ms,
            step: step.clone(),
        });
    }

    /// Redis shows a map. If it is the one that was sent and not answered, its step is under way.
    pub(crate) fn shown(&mut self, now: Instant, version: MapVersion) -> Option<Step> {
        let sent = self.unsure.take_if(|sent| sent.version == version)?;
        self.began(now, sent.now_ms, version, &sent.step);
        Some(sent.step)
    }

    /// A step was published as this map.
    pub(crate) fn began(&mut self, now: Instant, now_ms: u64, version: MapVersion, step: &Step) {
        self.unsure = None;
        if !step.in_motion.is_empty() {
            self.under_way = Some(UnderWay {
                version,
                since: now,
            });
        }
        if step.moves.is_empty() || (step.in_motion.is_empty() && step.left == 0) {
            return;
        }
        let progress = self.progress.get_or_insert_with(|| Progress {
            started_at_ms: now_ms,
            step: 0,
            step_started_at_ms: now_ms,
            version,
            in_motion: Vec::new(),
            done: 0,
            left: 0,
            timed_out: 0,
        });
        progress.step += 1;
        progress.step_started_at_ms = now_ms;
        progress.version = version;
        // Shards may have to move while a step is under way.
        progress.in_motion.extend_from_slice(&step.in_motion);
        progress.done += count(&step.moves).saturating_sub(count(&step.in_motion));
    }

    /// What is left after this round. With nothing left nor under way the moves are over.
    pub(crate) fn rest(&mut self, left: u32) {
        if let Some(progress) = &mut self.progress {
            progress.left = left;
        }
        if left == 0 && !self.is_under_way() {
            self.progress = None;
        }
    }
}

fn count(moves: &[Move]) -> u32 {
    u32::try_from(moves.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
