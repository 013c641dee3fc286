//! What the owner reads from Postgres and the shard streams: realms to open, gaps, replays.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use guildhall_shared::{
    Id,
    envelope::Envelope,
    id::marker::Realm as RealmMarker,
    shard::{Position, ShardId},
};
use tokio::{
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    Owner, Todo, Wait,
    entry::beginning,
    guild::GuildState,
    let_go,
    realm::Realm,
    replay,
    to_edge::{EdgeId, FromOwner, SNAPSHOT_BYTES},
};
use crate::{
    broken::{self, Broken},
    clock,
    node::{database, relay::frame::SubOk},
};

/// Heads read in one query.
const HEADS_MAX: usize = 1000;
/// Events of one realm read in the first query of several, and at most in one: they may be large.
const EVENTS_FIRST: u32 = 32;
const EVENTS_MAX: u32 = 256;
/// Events that a subscription may be behind; one that is further behind starts from a snapshot.
const REPLAY_MAX: u64 = 10_000;
/// Pause after a read that failed.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Longest wait for room on the links of all who listen to a realm: those that are slower than the
/// others are reset when they are full.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// Reads of a gap that find nothing before it counts as unfillable. A published event is
/// committed, and so are all before it: one read should do.
const MISSES_MAX: u32 = 3;

impl Owner {
    /// Opens realms of users, all of them with one query.
    pub(super) async fn read_users(self: Rc<Self>, ids: Vec<Id<RealmMarker>>) {
        join_all(ids.iter().map(|&id| {
            let shard = ShardId::of(id, self.shards);
            self.feed.ensure(shard)
        }))
        .await;
        for ids in ids.chunks(HEADS_MAX) {
            let heads = self.stored.heads(ids).await;
            for &id in ids {
                match &heads {
                    Ok(heads) => {
                        let head = heads.iter().find(|head| head.realm == id);
                        let position = head.map_or(UNKNOWN, |head| head.position);
                        self.opened(id, Realm::user(id, position));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "realm not read");
                        self.not_opened(id);
                    }
                }
            }
        }
    }

    /// Opens a guild's realm, or reads it again for those who listen.
    pub(super) async fn read_guild(self: Rc<Self>, id: Id<RealmMarker>) {
        loop {
            self.feed.ensure(ShardId::of(id, self.shards)).await;
            match self.guild_now(id).await {
                Ok(realm) => return self.opened(id, realm),
                Err(error) => tracing::warn!(%error, "realm not read"),
            }
            if self.not_opened(id) {
                return;
            }
            sleep(RETRY_AFTER).await;
        }
    }

    async fn guild_now(&self, id: Id<RealmMarker>) -> Result<Realm, database::Error> {
        let _turn = self.guild_reads.acquire().await;
        // A user's realm comes here only when it has to be read again.
        let own = {
            let state = self.state.borrow();
            let realm = state.realms.get(&id).and_then(|entry| entry.realm.as_ref());
            realm.is_some_and(Realm::is_own)
        };
        if !own && let Some(snapshot) = self.stored.guild(id.cast()).await? {
            let position = snapshot.position;
            // Of a large guild it takes long, and this thread has others to serve.
            let state = clock::aside(|| GuildState::new(snapshot)).await;
            let state = state.map_err(|_| database::Error::Stopped)?;
            return Ok(Realm::guild(id, position, Some(state)));
        }
        let heads = self.stored.heads(&[id]).await?;
        let position = heads.first().map_or(UNKNOWN, |head| head.position);
        Ok(if own {
            Realm::user(id, position)
        } else {
            Realm::guild(id, position, None)
        })
    }

    /// A realm was read: what came meanwhile is applied, then everyone is answered.
    fn opened(self: &Rc<Self>, id: Id<RealmMarker>, mut realm: Realm) {
        let (mut todo, mut effects, mut again) = (Todo::default(), Vec::new(), Vec::new());
        let (edges, first, old): (Vec<EdgeId>, bool, Option<Realm>);
        {
            let mut state = self.state.borrow_mut();
            let Some(entry) = state.realms.get_mut(&id) else {
                return;
            };
            entry.reading = false;
            if let Some(old) = &mut entry.realm {
                let position = realm.position();
                for (edge, view) in realm.take_over(old) {
                    let ok = SubOk {
                        id: 0,
                        realm: id,
                        position,
                        view,
                        replay: Vec::new(),
                        lost: Some(beginning(position)),
                        snapshots: Vec::new(),
                        left: Vec::new(),
                    };
                    again.push((edge, FromOwner::SubOk(Box::new(ok))));
                }
            }
            edges = realm.edges().collect();
            first = entry.realm.is_none() && !realm.is_own();
            old = entry.realm.replace(realm);
            for waiting in &mut entry.waiting {
                if waiting.wait == Wait::Behind {
                    waiting.wait = Wait::Reading;
                }
            }
            for event in std::mem::take(&mut entry.early) {
                entry.take(event, &mut effects, &mut todo, &self.metrics);
            }
            if !todo.read {
                entry.answer(true, &mut todo);
            }
        }
        let_go(old);
        if first {
            spawn_local(self.clone().recall_online(id));
        }
        for (edge, ok) in again {
            self.tell(edge, ok);
        }
        // For those who listened before; the answers to new ones, which come after, have them.
        self.deliver(id, &edges, effects);
        self.carry_out(id, todo);
    }

    /// A realm could not be read; `true` if nobody waits for it any more, because those who
    /// did were told to ask elsewhere.
    fn not_opened(&self, id: Id<RealmMarker>) -> bool {
        let mut refused = Vec::new();
        let done = {
            let mut state = self.state.borrow_mut();
            let Some(entry) = state.realms.get_mut(&id) else {
                return true;
            };
            for waiting in std::mem::take(&mut entry.waiting) {
                let (id, realm) = (waiting.sub.id, waiting.sub.realm);
                refused.push((waiting.edge, FromOwner::Refused { id, realm }));
            }
            let listened = entry.realm.as_ref().is_some_and(Realm::has_edges);
            if !listened {
                state.realms.remove(&id);
            }
            !listened
        };
        for (edge, message) in refused {
            self.tell(edge, message);
        }
        done
    }

    /// Fetches what a realm lacks, until it lacks nothing.
    pub(super) async fn fill(self: Rc<Self>, id: Id<RealmMarker>) {
        if broken::is(Broken::GapFetch) {
            return;
        }
        let (mut streamed, mut misses) = (false, 0);
        let (mut events_max, mut passed) = (EVENTS_FIRST, 0);
        while let Some((position, due, shard)) = self.gap(id) {
            let now = clock::now();
            if due > now {
                sleep(due - now).await;
                continue;
            }
            if !streamed {
                streamed = true;
                self.metrics
                    .gap_fetches
                    .with_label_values(&["stream"])
                    .inc();
                self.from_stream(shard).await;
                continue;
            }
            self.metrics
                .gap_fetches
                .with_label_values(&["postgres"])
                .inc();
            match self.stored.since(id, position, events_max).await {
                Ok(events) => {
                    let first = events.first().and_then(Envelope::position);
                    if first.is_some_and(|first| first.seq == position.seq + 1) {
                        misses = 0;
                        events_max = (events_max * 2).min(EVENTS_MAX);
                        for event in events {
                            self.pass_on(event, &mut passed).await;
                        }
                        continue;
                    }
                    misses += 1;
                    if misses >= MISSES_MAX {
                        self.give_up(id, position).await;
                        misses = 0;
                    }
                }
                Err(error) => tracing::warn!(%error, "gap not read"),
            }
            sleep(RETRY_AFTER).await;
        }
    }

    /// Where a realm stands that lacks something, when to fetch it, and its shard. `None`
    /// ends the fetching: nothing is lacking, or the realm is read as a whole.
    fn gap(&self, id: Id<RealmMarker>) -> Option<(Position, Instant, ShardId)> {
        let mut state = self.state.borrow_mut();
        let entry = state.realms.get_mut(&id)?;
        let due = entry
            .realm
            .as_ref()
            .filter(|_| !entry.reading)
            .and_then(|realm| Some((realm.position(), realm.intake.due()?)));
        match due {
            Some((position, due)) => Some((position, due, entry.shard)),
            None => {
                entry.filling = false;
                None
            }
        }
    }

    /// The log does not have what is lacking: either it never was, or it is gone.
    async fn give_up(self: &Rc<Self>, id: Id<RealmMarker>, position: Position) {
        let Ok(heads) = self.stored.heads(&[id]).await else {
            return;
        };
        let head = heads.first().map_or(UNKNOWN, |head| head.position);
        let mut todo = Todo::default();
        if let Some(entry) = self.state.borrow_mut().realms.get_mut(&id)
            && let Some(realm) = &mut entry.realm
            && realm.position() == position
        {
            if head > position {
                tracing::warn!(realm.id = %id, seq = position.seq, "events are gone; reading the realm again");
                todo.read = true;
            } else {
                // An edge told of an event that the database does not have.
                realm.intake.forget();
                let waiting = entry.waiting.iter_mut();
                for waiting in waiting.filter(|one| one.wait == Wait::Behind) {
                    waiting.wait = Wait::Reading;
                    waiting.lost = Some(beginning(position));
                }
                entry.answer(false, &mut todo);
            }
        }
        self.carry_out(id, todo);
    }

    /// Takes in what a shard's stream has; repeats are dropped as always.
    pub(super) async fn from_stream(self: &Rc<Self>, shard: ShardId) {
        let mut passed = 0;
        for event in self.feed.recent(shard).await {
            self.pass_on(event, &mut passed).await;
        }
    }

    /// Takes in one of many events that were read. Between portions of them the links of those who
    /// listen get time to make room. `passed`: bytes since they last did.
    async fn pass_on(self: &Rc<Self>, event: Envelope, passed: &mut usize) {
        if *passed >= replay::BYTES_MAX {
            *passed = 0;
            let _ = timeout(ROOM_WAIT_MAX, self.room_for(event.realm)).await;
        }
        *passed += replay::bytes_of(&event);
        self.ingest(event);
    }

    /// Waits while a lot is still to be written to anybody who listens to a realm.
    async fn room_for(&self, id: Id<RealmMarker>) {
        let edges: Vec<EdgeId> = {
            let state = self.state.borrow();
            let realm = state.realms.get(&id).and_then(|entry| entry.realm.as_ref());
            realm.into_iter().flat_map(Realm::edges).collect()
        };
        join_all(edges.into_iter().map(|edge| self.room(edge))).await;
    }

    /// Answers a subscription that starts before what the realm keeps in memory, or a lot before
    /// its end: as far as one answer takes.
    pub(super) async fn replay(self: Rc<Self>, id: Id<RealmMarker>, ticket: u64) {
        let Some(edge) = self.edge_of(id, ticket) else {
            return;
        };
        let turns = self.replays.borrow().get(&edge).cloned();
        let Some(turns) = turns else {
            return;
        };
        let mut turn = None;
        let (mut got, mut events_max) = (Vec::new(), EVENTS_FIRST);
        loop {
            self.room(edge).await;
            let Some((after, at)) = self.replayed(id, ticket, &mut got) else {
                return;
            };
            if turn.is_none() {
                // For Postgres alone; the realm may have come as far by then.
                turn = Some(turns.acquire().await);
                continue;
            }
            match self.stored.since(id, after, events_max).await {
                Ok(events) => {
                    let first = events.first().and_then(Envelope::position);
                    if first.is_none_or(|first| first.seq != after.seq + 1) {
                        let before = |first: Position| Position {
                            seq: first.seq - 1,
                            ..first
                        };
                        let lost = first.map_or(at, before);
                        return self.end_replay(id, ticket, Vec::new(), Some(lost));
                    }
                    got.extend(events.into_iter().map(Arc::new));
                    events_max = (events_max * 2).min(EVENTS_MAX);
                }
                Err(error) => {
                    tracing::warn!(%error, "replay not read");
                    return self.refuse(id, ticket);
                }
            }
        }
    }

    /// Finds out how far the realm is, for a subscription that cannot be answered before.
    pub(super) async fn look_up_head(self: Rc<Self>, id: Id<RealmMarker>, ticket: u64) {
        let Ok(heads) = self.stored.heads(&[id]).await else {
            return self.refuse(id, ticket);
        };
        let head = heads.first().map_or(UNKNOWN, |head| head.position);
        let mut todo = Todo::default();
        if let Some(entry) = self.state.borrow_mut().realms.get_mut(&id)
            && let Some(waiting) = entry.waiting.iter_mut().find(|one| one.ticket == ticket)
        {
            waiting.at_least = Some(head);
            waiting.wait = Wait::Reading;
            if !entry.reading {
                entry.answer(false, &mut todo);
            }
        }
        self.carry_out(id, todo);
    }

    /// Ends a replay if `got` is enough, or never can be; else the position to read on from, and the
    /// realm's.
    fn replayed(
        self: &Rc<Self>,
        id: Id<RealmMarker>,
        ticket: u64,
        got: &mut Vec<Arc<Envelope>>,
    ) -> Option<(Position, Position)> {
        let lost = {
            let mut state = self.state.borrow_mut();
            let entry = state.realms.get_mut(&id)?;
            let waiting = entry
                .waiting
                .iter_mut()
                .find(|waiting| waiting.ticket == ticket)?;
            let from = waiting.sub.from?;
            let Some(realm) = entry.realm.as_ref().filter(|_| !entry.reading) else {
                // It will be answered when the realm has been read.
                waiting.wait = Wait::Reading;
                return None;
            };
            let (at, have) = (realm.position(), from.seq + got.len() as u64);
            if at.era != from.era {
                Some(beginning(at))
            } else if at.seq.saturating_sub(from.seq) > REPLAY_MAX {
                Some(Position {
                    era: at.era,
                    seq: at.seq - REPLAY_MAX,
                })
            } else if have >= at.seq {
                got.truncate(at.seq.saturating_sub(from.seq) as usize);
                None
            } else if replay::bytes(got) >= replay::BYTES_MAX {
                None
            } else if let Some(rest) = realm.recent_after(have) {
                got.extend(rest);
                None
            } else {
                let after = Position {
                    era: from.era,
                    seq: have,
                };
                return Some((after, at));
            }
        };
        let replay = match lost {
            Some(_) => Vec::new(),
            None => std::mem::take(got),
        };
        self.end_replay(id, ticket, replay, lost);
        None
    }

    /// The edge whose subscription this is, if it still waits.
    fn edge_of(&self, id: Id<RealmMarker>, ticket: u64) -> Option<EdgeId> {
        let state = self.state.borrow();
        let mut waiting = state.realms.get(&id)?.waiting.iter();
        let one = waiting.find(|one| one.ticket == ticket);
        one.map(|one| one.edge)
    }

    fn end_replay(
        &self,
        id: Id<RealmMarker>,
        ticket: u64,
        replay: Vec<Arc<Envelope>>,
        lost: Option<Position>,
    ) {
        let (edge, ok) = {
            let mut state = self.state.borrow_mut();
            let Some(entry) = state.realms.get_mut(&id) else {
                return;
            };
            let place = entry.waiting.iter().position(|one| one.ticket == ticket);
            let (Some(place), Some(realm)) = (place, &mut entry.realm) else {
                return;
            };
            let waiting = entry.waiting.remove(place);
            waiting.finish(realm, replay, lost, SNAPSHOT_BYTES)
        };
        self.tell(edge, FromOwner::SubOk(ok));
    }

    fn refuse(&self, id: Id<RealmMarker>, ticket: u64) {
        let refused = {
            let mut state = self.state.borrow_mut();
            let Some(entry) = state.realms.get_mut(&id) else {
                return;
            };
            let Some(place) = entry.waiting.iter().position(|one| one.ticket == ticket) else {
                return;
            };
            entry.waiting.remove(place)
        };
        let id = refused.sub.id;
        let realm = refused.sub.realm;
        self.tell(refused.edge, FromOwner::Refused { id, realm });
    }
}

/// Position of a realm that does not exist.
const UNKNOWN: Position = Position { era: 0, seq: 0 };

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
