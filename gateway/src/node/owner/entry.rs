//! One realm of an owner: whether it is open, who waits for it, and what is to be done then.
//!
//! Pure: what is to be done is said, and done by others.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use guildhall_shared::{
    envelope::{Durability, Envelope},
    shard::{Position, ShardId},
};

use super::{
    intake::{PENDING_BYTES_MAX, PENDING_MAX, Taken},
    realm::{Effect, Realm},
    replay,
    to_edge::{EdgeId, FromOwner, SNAPSHOT_BYTES},
};
use crate::{
    clock,
    node::{
        metrics::Metrics,
        relay::frame::{Sub, SubOk},
    },
};

pub(super) struct Entry {
    pub(super) shard: ShardId,
    /// `None` until it has been read for the first time.
    pub(super) realm: Option<Realm>,
    /// It is being read (again): events wait in `early`.
    pub(super) reading: bool,
    /// At most [`PENDING_MAX`] of [`PENDING_BYTES_MAX`]; what does not fit is found lacking later.
    pub(super) early: Vec<Arc<Envelope>>,
    /// A task fetches what is lacking.
    pub(super) filling: bool,
    pub(super) waiting: Vec<Waiting>,
    pub(super) idle_since: Option<Instant>,
}

pub(super) struct Waiting {
    pub(super) ticket: u64,
    pub(super) edge: EdgeId,
    pub(super) sub: Sub,
    pub(super) wait: Wait,
    /// The realm stood here, in the database, after the subscription came. Looked up only
    /// before somebody is told that a user is no member: this node may not have heard of it yet.
    pub(super) at_least: Option<Position>,
    /// What it asks for is not in the database: who stands before this starts anew.
    pub(super) lost: Option<Position>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// For the realm to be read.
    Reading,
    /// For old events from Postgres, or for room on the link for many.
    Replay,
    /// For events that the edge or the database has seen and this node has not.
    Behind,
    /// For the database to say how far the realm is.
    Head,
    /// For room on the link, and for the snapshots of others to be made.
    Turn,
}

/// What is to be done after the state is no longer borrowed.
#[derive(Default)]
pub(super) struct Todo {
    pub(super) answers: Vec<(EdgeId, FromOwner)>,
    /// Bytes of snapshots that may be made yet; whoever asks for some when there are none left
    /// waits for a turn.
    pub(super) room: usize,
    /// Edges with subscriptions that do.
    pub(super) turns: BTreeSet<EdgeId>,
    pub(super) replays: Vec<u64>,
    pub(super) unsure: Vec<u64>,
    pub(super) fill: bool,
    pub(super) read: bool,
}

impl Todo {
    /// For answers now: whoever waits for them has room.
    pub(super) fn with_room() -> Self {
        Self {
            room: SNAPSHOT_BYTES,
            ..Self::default()
        }
    }
}

impl Entry {
    pub(super) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            realm: None,
            reading: false,
            early: Vec::new(),
            filling: false,
            waiting: Vec::new(),
            idle_since: None,
        }
    }

    pub(super) fn take(
        &mut self,
        event: Arc<Envelope>,
        effects: &mut Vec<Effect>,
        todo: &mut Todo,
        metrics: &Metrics,
    ) {
        let (Some(realm), false) = (&mut self.realm, self.reading) else {
            let has_room =
                self.early.len() < PENDING_MAX && replay::bytes(&self.early) < PENDING_BYTES_MAX;
            if event.position().is_some() && has_room {
                self.early.push(event);
            }
            return;
        };
        let Durability::Durable(at) = event.durability else {
            realm.pass(&event, effects);
            return;
        };
        let (now, mut ready) = (clock::now(), Vec::new());
        match realm.intake.offer(now, at, event, &mut ready) {
            Taken::Repeat => metrics.repeats.inc(),
            Taken::NewEra => todo.read = true,
            Taken::Early => todo.fill = true,
            Taken::Next => {
                for event in ready {
                    if let Err(error) = realm.apply(now, event, effects) {
                        tracing::warn!(%error, "an event does not fit its guild; reading the guild again");
                        todo.read = true;
                        return;
                    }
                }
                todo.fill = realm.intake.is_lacking();
                if self
                    .waiting
                    .iter()
                    .any(|waiting| waiting.wait == Wait::Behind)
                {
                    self.answer(false, todo);
                }
            }
        }
    }

    /// Answers some of an edge's subscriptions that wait for their turn; `false` if none does any
    /// longer.
    pub(super) fn take_turn(&mut self, edge: EdgeId, todo: &mut Todo) -> bool {
        while todo.room > 0 {
            let mut waiting = self.waiting.iter_mut();
            let next = waiting.find(|one| one.edge == edge && one.wait == Wait::Turn);
            let Some(next) = next else {
                return false;
            };
            next.wait = Wait::Reading;
            // Otherwise it has its next turn when the realm has been read.
            if !self.reading {
                self.answer(false, todo);
            }
        }
        true
    }

    /// Answers those who need not wait any longer; `fresh`: the realm was read just now.
    pub(super) fn answer(&mut self, fresh: bool, todo: &mut Todo) {
        let Some(realm) = &mut self.realm else {
            return;
        };
        let mut kept = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            if matches!(waiting.wait, Wait::Replay | Wait::Head | Wait::Turn) {
                kept.push(waiting);
                continue;
            }
            let at = realm.position();
            if waiting.at_least.is_none() && realm.is_stranger_among(&waiting.sub.users) {
                waiting.wait = Wait::Head;
                todo.unsure.push(waiting.ticket);
                kept.push(waiting);
                continue;
            }
            let behind = waiting.at_least.filter(|&needed| needed > at);
            let replay = match behind.or(waiting.sub.from) {
                _ if waiting.lost.is_some() => Some((Vec::new(), waiting.lost)),
                None => Some((Vec::new(), None)),
                Some(from) if from.era < at.era || fresh && from.era > at.era => {
                    Some((Vec::new(), Some(beginning(at))))
                }
                Some(from) if from > at => {
                    waiting.wait = Wait::Behind;
                    match realm.intake.know(clock::now(), from) {
                        Taken::NewEra => todo.read = true,
                        Taken::Next | Taken::Early | Taken::Repeat => todo.fill = true,
                    }
                    None
                }
                Some(from) => {
                    let replay = realm.recent_after(from.seq);
                    let replay = replay.filter(|all| replay::bytes(all) <= replay::AT_ONCE_BYTES);
                    if replay.is_none() {
                        waiting.wait = Wait::Replay;
                        todo.replays.push(waiting.ticket);
                    }
                    replay.map(|replay| (replay, None))
                }
            };
            match replay {
                Some((_, lost)) if todo.room == 0 && waiting.is_large() => {
                    waiting.wait = Wait::Turn;
                    waiting.lost = lost;
                    todo.turns.insert(waiting.edge);
                    kept.push(waiting);
                }
                Some((replay, lost)) => {
                    let (edge, ok) = waiting.finish(realm, replay, lost, todo.room);
                    let bytes: usize = ok.snapshots.iter().map(|(_, d)| d.len()).sum();
                    todo.room = todo.room.saturating_sub(bytes);
                    todo.answers.push((edge, FromOwner::SubOk(ok)));
                }
                None => kept.push(waiting),
            }
        }
        self.waiting = kept;
    }
}

impl Waiting {
    /// Its answer has snapshots.
    fn is_large(&self) -> bool {
        let mut users = self.sub.users.iter();
        users.any(|user| !user.snapshots.is_empty())
    }

    /// Subscribes and makes the answer: the realm's next event is the first after it. Of a replay it
    /// may be that only the first part fits. `room`: bytes of snapshots.
    pub(super) fn finish(
        self,
        realm: &mut Realm,
        replay: Vec<Arc<Envelope>>,
        lost: Option<Position>,
        room: usize,
    ) -> (EdgeId, Box<SubOk>) {
        let mut sub = self.sub;
        let users = sub.users.iter().map(|user| user.user);
        let view = realm.subscribe(self.edge, users);
        realm.show(clock::now(), self.edge, &mut sub);
        let (snapshots, left) = realm.portion(&sub.users, room);
        let replay = replay.iter().map(|event| realm.resolve(event));
        let ok = SubOk {
            id: sub.id,
            realm: sub.realm,
            position: realm.position(),
            view,
            replay: replay::first_of(replay, replay::BYTES_MAX),
            lost,
            snapshots,
            left,
        };
        (self.edge, Box::new(ok))
    }
}

/// Where a position's era begins: as far back as events can be had, and perhaps further.
pub(super) fn beginning(position: Position) -> Position {
    Position { seq: 0, ..position }
}
