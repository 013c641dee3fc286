//! Leaders, maps and the nodes that follow them: I9, I14.
//!
//! A lease may end at any time, also while its holder still writes: a process may stand still
//! for as long as it likes.

use stateright::{Model, Property};

const COORDINATORS: usize = 2;
const NODES: usize = 2;

/// The rule that is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    /// Whoever takes the lead goes on under the term of before.
    NewTerm,
    /// The version of a map whose writing had no answer is used again.
    UsedVersions,
    /// Nodes take whatever map Redis holds.
    NodesCompare,
    /// An owner's write counts whatever its term.
    OwnersTerm,
}

#[derive(Debug, Clone)]
pub(crate) struct Lead {
    pub(crate) without: Without,
    pub(crate) terms: u8,
    pub(crate) versions: u8,
    pub(crate) flushes: u8,
}

/// Ordered as maps are; what it says is 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Map {
    term: u8,
    version: u8,
    says: u8,
}

impl Map {
    fn name(self) -> (u8, u8) {
        (self.term, self.version)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// The row in Postgres.
    term: u8,
    holder: Option<usize>,
    coordinators: [Coordinator; COORDINATORS],
    redis: Option<Map>,
    flushes_left: u8,
    nodes: [Option<Map>; NODES],
    /// A node took a map that is not above the one it had.
    went_back: bool,
    /// Every map that Redis ever held, ascending.
    published: Vec<Map>,
    /// Term of the last owner whose write counted, and whether one of an older term did after it.
    written: u8,
    overwritten: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Coordinator {
    lease: Option<u8>,
    known: Option<Map>,
    /// Of the last map it tried to write.
    tried: (u8, u8),
    writing: Option<Map>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Take(usize),
    LeaseEnds,
    NoticesEnd(usize),
    /// A round of which this is to come.
    Round(usize, u8),
    /// Redis takes it or not; the answer arrives or not.
    Write(usize, Answer),
    Restart(usize),
    NodeLooks(usize),
    NodeRestarts(usize),
    OwnerWrites(usize),
    Flush,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Arrives,
    GetsLost,
}

impl Lead {
    /// As `next_map` of the coordinator.
    fn next_map(&self, one: &Coordinator, term: u8, says: u8, redis: Option<Map>) -> Option<Map> {
        if one.known.is_some_and(|known| known.term > term) {
            return None;
        }
        let before = one.known.map(Map::name);
        let unsure = self.without != Without::UsedVersions
            && one.tried.0 == term
            && before.is_none_or(|before| one.tried > before);
        let same = !unsure && one.known.is_some_and(|known| known.says == says);
        let before = if unsure {
            one.tried.1
        } else {
            one.known.map_or(0, |known| known.version)
        };
        let version = if same { before } else { before + 1 };
        if same && redis.map(Map::name) == Some((term, version)) {
            return None;
        }
        Some(Map {
            term,
            version,
            says,
        })
    }
}

impl Model for Lead {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            term: 0,
            holder: None,
            coordinators: Default::default(),
            redis: None,
            flushes_left: self.flushes,
            nodes: [None; NODES],
            went_back: false,
            published: Vec::new(),
            written: 0,
            overwritten: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (place, one) in state.coordinators.iter().enumerate() {
            if one.lease.is_none() && state.holder.is_none() && state.term < self.terms {
                actions.push(Action::Take(place));
            }
            if one.lease.is_some() && state.holder != Some(place) {
                actions.push(Action::NoticesEnd(place));
            }
            if one.writing.is_some() {
                actions.push(Action::Write(place, Answer::Arrives));
                actions.push(Action::Write(place, Answer::GetsLost));
            } else if one.lease.is_some() {
                actions.extend((0..2).map(|says| Action::Round(place, says)));
            }
            if *one != Coordinator::default() {
                actions.push(Action::Restart(place));
            }
        }
        if state.holder.is_some() {
            actions.push(Action::LeaseEnds);
        }
        for (node, map) in state.nodes.iter().enumerate() {
            if state.redis.is_some() {
                actions.push(Action::NodeLooks(node));
            }
            if map.is_some() {
                actions.push(Action::NodeRestarts(node));
                actions.push(Action::OwnerWrites(node));
            }
        }
        if state.flushes_left > 0 && state.redis.is_some() {
            actions.push(Action::Flush);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Take(place) => {
                let one = &mut state.coordinators[place];
                if self.without != Without::NewTerm || state.term == 0 {
                    let seen = one.known.map_or(0, |known| known.term);
                    state.term = state.term.max(seen) + 1;
                }
                state.holder = Some(place);
                one.lease = Some(state.term);
            }
            Action::LeaseEnds => state.holder = None,
            Action::NoticesEnd(place) => state.coordinators[place].lease = None,
            Action::Round(place, says) => {
                let one = &mut state.coordinators[place];
                one.known = one.known.max(state.redis);
                let term = one.lease?;
                if let Some(map) = self.next_map(one, term, says, state.redis) {
                    one.tried = map.name();
                    one.writing = Some(map);
                }
            }
            Action::Write(place, answer) => {
                let one = &mut state.coordinators[place];
                let map = one.writing.take()?;
                if state.redis.is_none_or(|held| held.name() <= map.name()) {
                    state.redis = Some(map);
                    if let Err(at) = state.published.binary_search(&map) {
                        state.published.insert(at, map);
                    }
                    if answer == Answer::Arrives {
                        one.known = Some(map);
                    }
                }
            }
            Action::Restart(place) => {
                state.coordinators[place] = Coordinator::default();
                if state.holder == Some(place) {
                    state.holder = None; // given back, or run out
                }
            }
            Action::NodeLooks(node) => {
                let map = state.redis?;
                let have = &mut state.nodes[node];
                let newer = have.is_none_or(|have| map.name() > have.name());
                if newer || self.without == Without::NodesCompare {
                    state.went_back |= !newer && *have != Some(map);
                    *have = Some(map);
                }
            }
            Action::NodeRestarts(node) => state.nodes[node] = None,
            Action::OwnerWrites(node) => {
                let term = state.nodes[node]?.term;
                if term >= state.written || self.without == Without::OwnersTerm {
                    state.overwritten |= term < state.written;
                    state.written = term;
                }
            }
            Action::Flush => {
                state.flushes_left -= 1;
                state.redis = None;
            }
        }
        (state != *last).then_some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        let version = |map: &Map| map.version <= self.versions;
        state.published.iter().all(version)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I9: maps only rise at every node", |_, state: &State| {
                !state.went_back
            }),
            Property::always(
                "I9: a version says one thing for ever",
                |_, state: &State| {
                    let mut pairs = state.published.windows(2);
                    pairs.all(|pair| pair[0].name() != pair[1].name())
                },
            ),
            Property::always(
                "I14: no write of an older term counts",
                |_, state: &State| !state.overwritten,
            ),
            Property::sometimes("two leaders write at once", |_, state: &State| {
                let writing = |one: &Coordinator| one.writing.is_some();
                state.coordinators.iter().all(writing)
            }),
            Property::sometimes("nodes follow a second term", |_, state: &State| {
                state
                    .nodes
                    .iter()
                    .all(|map| map.is_some_and(|map| map.term == 2))
            }),
        ]
    }
}
