//! The owner role: serves realms to edges, local ones and those of other nodes.
//!
//! Owns the open realms and whoever waits for one. Reads events and snapshots, writes
//! nothing. Any number of nodes may serve the same realm at once; each is right.

mod announce;
mod asks;
pub(crate) mod check;
mod entry;
pub(crate) mod feed;
mod fetch;
mod guild;
mod holders;
#[cfg(test)]
mod holders_tests;
mod intake;
mod loads;
mod member_list;
mod moves;
mod noted;
mod online;
pub(crate) mod people;
mod presence;
mod realm;
#[cfg(test)]
mod realm_tests;
mod replay;
mod searches;
mod snapshot;
mod sorted;
mod status;
mod threads;
mod to_edge;
pub(super) mod view;
mod watch;
#[cfg(test)]
mod watch_tests;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::EventKind,
    id::marker::{Realm as RealmMarker, User},
    shard::{Position, ShardId},
};
use rustc_hash::FxBuildHasher;
use tokio::{
    sync::{Notify, Semaphore},
    task::{spawn_local, yield_now},
};

use self::{
    entry::{Entry, Todo, Wait, Waiting},
    feed::Feed,
    intake::Taken,
    loads::Loads,
    people::People,
    realm::{Effect, Realm},
    watch::Notice,
};
use super::{
    metrics::Metrics,
    relay::frame::{Frame, Sub},
    stored::Stored,
};
use crate::{
    broken::{self, Broken},
    clock,
    names::Address,
};

pub(crate) use self::to_edge::{EdgeId, FromOwner, Peer};

/// How long a realm nobody listens to stays open.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Time between looks for idle realms.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Guild snapshots read at once; further ones wait for their turn.
const GUILD_READS_MAX: usize = 8;
/// Replays for one edge read at once; further ones wait for their turn, and none for that of another
/// edge, whose link may be slow.
const REPLAYS_MAX: usize = 16;

pub(crate) struct Owner {
    /// Tells this start of this node from others, in what it writes to Redis.
    number: u32,
    stored: Stored,
    feed: Rc<Feed>,
    metrics: Metrics,
    shards: u16,
    guild_reads: Semaphore,
    peers: RefCell<HashMap<EdgeId, Peer, FxBuildHasher>>,
    /// The nodes that edges belong to, for operators.
    names: RefCell<HashMap<EdgeId, String, FxBuildHasher>>,
    /// Turns to read replays, by edges.
    replays: RefCell<HashMap<EdgeId, Rc<Semaphore>, FxBuildHasher>>,
    questions: RefCell<asks::Questions>,
    state: RefCell<State>,
    loads: Loads,
    /// There are realms to flush the presences of.
    presence_due: Notify,
    /// There are sessions to show what they look at.
    watch_due: Notify,
    people: People,
}

#[derive(Default)]
struct State {
    /// Boxed: most are users' own realms, and a table is up to half empty.
    realms: HashMap<Id<RealmMarker>, Box<Entry>, FxBuildHasher>,
    /// Realms with presences that were not told yet.
    presences_due: BTreeSet<Id<RealmMarker>>,
    /// Realms with sessions that were not shown yet what they look at.
    watches_due: BTreeSet<Id<RealmMarker>>,
    /// Realms and edges with a task that answers subscriptions in their turn.
    turns: BTreeSet<(Id<RealmMarker>, EdgeId)>,
    /// Last number given to an edge or to a waiting subscription.
    last_number: u64,
}

impl Owner {
    pub(crate) fn new(stored: Stored, feed: Rc<Feed>, metrics: Metrics, shards: u16) -> Rc<Self> {
        Rc::new(Self {
            number: clock::random(),
            stored,
            feed,
            metrics,
            shards,
            guild_reads: Semaphore::new(GUILD_READS_MAX),
            peers: RefCell::default(),
            names: RefCell::default(),
            replays: RefCell::default(),
            questions: RefCell::default(),
            state: RefCell::default(),
            loads: Loads::new(shards),
            presence_due: Notify::new(),
            watch_due: Notify::new(),
            people: People::default(),
        })
    }

    /// A new edge of a node; it has no subscriptions yet.
    pub(crate) fn edge_up(&self, node: String, peer: Peer) -> EdgeId {
        let edge = self.state.borrow_mut().number();
        self.peers.borrow_mut().insert(edge, peer);
        self.names.borrow_mut().insert(edge, node);
        let replays = Rc::new(Semaphore::new(REPLAYS_MAX));
        self.replays.borrow_mut().insert(edge, replays);
        edge
    }

    /// An edge's link is gone, and with it all its subscriptions.
    pub(crate) fn edge_gone(&self, edge: EdgeId) {
        if let Some(Peer::Remote(outbox)) = self.peers.borrow_mut().remove(&edge) {
            // Nobody waits for room on it any longer.
            outbox.broken.cancel();
        }
        self.names.borrow_mut().remove(&edge);
        self.replays.borrow_mut().remove(&edge);
        let now = clock::now();
        let mut state = self.state.borrow_mut();
        let State {
            realms,
            presences_due,
            ..
        } = &mut *state;
        for (&id, entry) in realms {
            if let Some(realm) = &mut entry.realm
                && realm.drop_edge(now, edge)
            {
                presences_due.insert(id);
            }
            entry.waiting.retain(|waiting| waiting.edge != edge);
        }
        self.presence_due.notify_one();
    }

    /// Subscribes an edge's users; each is answered by [`FromOwner::SubOk`] or
    /// [`FromOwner::Refused`], perhaps before this returns.
    pub(crate) fn subscribe(self: &Rc<Self>, edge: EdgeId, subs: Vec<Sub>) {
        let (mut own, mut todos) = (Vec::new(), Vec::new());
        {
            let mut state = self.state.borrow_mut();
            for sub in subs {
                let ticket = state.number();
                let (id, shard) = (sub.realm, ShardId::of(sub.realm, self.shards));
                // Ids are unique over guilds and users, and nobody else subscribes to a user.
                let is_own =
                    !sub.users.is_empty() && sub.users.iter().all(|user| user.user.cast() == id);
                let entry = state.realms.entry(id);
                let entry = entry.or_insert_with(|| Box::new(Entry::new(shard)));
                entry.idle_since = None;
                entry.waiting.push(Waiting {
                    ticket,
                    edge,
                    sub,
                    wait: Wait::Reading,
                    at_least: None,
                    lost: None,
                });
                if entry.reading {
                    continue;
                }
                let mut todo = Todo::with_room();
                if entry.realm.is_some() {
                    entry.answer(false, &mut todo);
                } else if is_own {
                    entry.reading = true;
                    own.push(id);
                } else {
                    todo.read = true;
                }
                todos.push((id, todo));
            }
        }
        for (id, todo) in todos {
            self.carry_out(id, todo);
        }
        if !own.is_empty() {
            spawn_local(self.clone().read_users(own));
        }
    }

    /// Removes an edge's users from a realm. `moved`: another owner serves them now. A subscription
    /// that has none left is refused.
    pub(crate) fn unsubscribe(
        &self,
        edge: EdgeId,
        realm: Id<RealmMarker>,
        users: &[Id<User>],
        moved: bool,
    ) {
        let mut refused = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let State {
                realms,
                presences_due,
                ..
            } = &mut *state;
            let Some(entry) = realms.get_mut(&realm) else {
                return;
            };
            if let Some(open) = &mut entry.realm {
                open.unsubscribe(edge, users, moved);
                if moved && open.is_own() && !open.presences.has_sessions() {
                    self.people.hand_over(realm.cast());
                }
                if open.is_due() {
                    presences_due.insert(realm);
                    self.presence_due.notify_one();
                }
            }
            entry.waiting.retain_mut(|waiting| {
                if waiting.edge != edge {
                    return true;
                }
                waiting.sub.users.retain(|user| !users.contains(&user.user));
                if waiting.sub.users.is_empty() {
                    refused.push(waiting.sub.id);
                }
                !waiting.sub.users.is_empty()
            });
        }
        for id in refused {
            self.tell(edge, FromOwner::Refused { id, realm });
        }
    }

    /// Takes an event in, wherever it comes from.
    pub(crate) fn ingest(self: &Rc<Self>, event: Envelope) {
        let (id, kind) = (event.realm, event.kind);
        let (mut effects, mut todo) = (Vec::new(), Todo::default());
        let edges: Vec<EdgeId>;
        {
            let mut state = self.state.borrow_mut();
            let Some(entry) = state.realms.get_mut(&id) else {
                return;
            };
            self.metrics.events_in.inc();
            // Before: who is answered because of this event has it in the answer.
            edges = entry.realm.iter().flat_map(Realm::edges).collect();
            entry.take(Arc::new(event), &mut effects, &mut todo, &self.metrics);
        }
        self.deliver(id, &edges, effects);
        self.carry_out(id, todo);
        if kind == EventKind::RelationshipAdd {
            self.tell_again(id);
        }
    }

    /// Somebody read in the database that a realm has come this far.
    pub(crate) fn know(self: &Rc<Self>, id: Id<RealmMarker>, head: Position) {
        let mut todo = Todo::default();
        {
            let mut state = self.state.borrow_mut();
            let Some(entry) = state.realms.get_mut(&id) else {
                return;
            };
            if let (Some(realm), false) = (&mut entry.realm, entry.reading) {
                match realm.intake.know(clock::now(), head) {
                    Taken::NewEra => todo.read = true,
                    Taken::Early => todo.fill = true,
                    Taken::Next | Taken::Repeat => {}
                }
            }
        }
        self.carry_out(id, todo);
    }

    /// Closes realms that nobody has listened to for a while, as long as the task lives.
    pub(crate) async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.close_idle();
        }
    }

    /// One look: also lets go of the events of shards that have no realm here.
    fn close_idle(&self) {
        let now = clock::now();
        let mut closed = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            state.realms.retain(|_, entry| {
                if let Some(realm) = &mut entry.realm {
                    realm.prune(now);
                }
                let used = entry.reading
                    || entry.filling
                    || !entry.waiting.is_empty()
                    || entry.realm.as_ref().is_some_and(Realm::has_edges);
                if used {
                    entry.idle_since = None;
                    return true;
                }
                let is_kept = now.duration_since(*entry.idle_since.get_or_insert(now)) < IDLE_MAX;
                if !is_kept {
                    closed.extend(entry.realm.take());
                }
                is_kept
            });
            self.metrics.realms_open.set(state.realms.len() as i64);
        }
        let_go(closed);
        // One that could not be read was never open.
        let open = self.open_shards();
        for shard in self.feed.wanted() {
            if open.binary_search(&shard).is_err() {
                self.feed.release(shard);
            }
        }
    }

    fn carry_out(self: &Rc<Self>, id: Id<RealmMarker>, todo: Todo) {
        for (edge, answer) in todo.answers {
            self.tell(edge, answer);
        }
        for ticket in todo.replays {
            spawn_local(self.clone().replay(id, ticket));
        }
        for ticket in todo.unsure {
            spawn_local(self.clone().look_up_head(id, ticket));
        }
        for edge in todo.turns {
            if self.state.borrow_mut().turns.insert((id, edge)) {
                spawn_local(self.clone().take_turns(id, edge));
            }
        }
        self.presences_may_be_due(id);
        if todo.read {
            let mut state = self.state.borrow_mut();
            if let Some(entry) = state.realms.get_mut(&id)
                && !entry.reading
            {
                entry.reading = true;
                spawn_local(self.clone().read_guild(id));
            }
        } else if todo.fill {
            let mut state = self.state.borrow_mut();
            if let Some(entry) = state.realms.get_mut(&id)
                && !entry.filling
            {
                entry.filling = true;
                spawn_local(self.clone().fill(id));
            }
        }
    }

    /// Answers subscriptions of an edge that wait for their turn: some whenever its link has room.
    async fn take_turns(self: Rc<Self>, id: Id<RealmMarker>, edge: EdgeId) {
        loop {
            yield_now().await;
            self.room(edge).await;
            let mut todo = Todo::with_room();
            let goes_on = {
                let mut state = self.state.borrow_mut();
                let entry = state.realms.get_mut(&id);
                let goes_on = entry.is_some_and(|entry| entry.take_turn(edge, &mut todo));
                if !goes_on {
                    state.turns.remove(&(id, edge));
                }
                goes_on
            };
            self.carry_out(id, todo);
            if !goes_on {
                return;
            }
        }
    }

    /// Waits while a lot is still to be written to an edge.
    async fn room(&self, edge: EdgeId) {
        let outbox = match self.peers.borrow().get(&edge) {
            Some(Peer::Remote(outbox)) => outbox.clone(),
            Some(Peer::Local(_)) | None => return,
        };
        outbox.room().await;
    }

    /// Whether not a lot is still to be written to an edge.
    fn has_room(&self, edge: EdgeId) -> bool {
        match self.peers.borrow().get(&edge) {
            Some(Peer::Remote(outbox)) => outbox.has_room(),
            Some(Peer::Local(_)) | None => true,
        }
    }

    /// Sends a realm's effects; an event is encoded once for all links, and what comes one after
    /// another for single edges is one message to each of them.
    fn deliver(&self, realm: Id<RealmMarker>, edges: &[EdgeId], mut effects: Vec<Effect>) {
        if broken::is(Broken::ClassOrder) {
            effects.sort_by_key(|effect| matches!(effect, Effect::View(..)));
        }
        let mut single: BTreeMap<EdgeId, Vec<Arc<Envelope>>> = BTreeMap::new();
        for effect in effects {
            if !matches!(effect, Effect::EventTo(..)) {
                self.send_single(&mut single);
            }
            match effect {
                Effect::Event(event) => {
                    self.loads.add(realm, edges.len());
                    self.send_event(edges, &event);
                }
                Effect::EventTo(edge, event) => {
                    self.loads.add(realm, 1);
                    single.entry(edge).or_default().push(event);
                }
                Effect::Notice(notice) => self.notice(notice),
                Effect::View(edge, change) => self.tell(edge, FromOwner::View { realm, change }),
            }
        }
        self.send_single(&mut single);
    }

    fn send_single(&self, single: &mut BTreeMap<EdgeId, Vec<Arc<Envelope>>>) {
        for (edge, events) in std::mem::take(single) {
            self.tell(edge, FromOwner::Events(events));
        }
    }

    fn send_event(&self, edges: &[EdgeId], event: &Arc<Envelope>) {
        let peers = self.peers.borrow();
        let mut frame = None;
        for edge in edges {
            match peers.get(edge) {
                Some(Peer::Local(tell)) => tell(FromOwner::Event(event.clone())),
                Some(Peer::Remote(outbox)) => outbox.push(
                    frame
                        .get_or_insert_with(|| Frame::Ev(event.clone()).encode())
                        .clone(),
                ),
                None => {}
            }
        }
    }

    /// One message to each edge, whatever the number of its sessions.
    fn notice(&self, notice: Notice) {
        let mut by_edge: BTreeMap<EdgeId, Vec<Address>> = BTreeMap::new();
        for (edge, address) in notice.to {
            by_edge.entry(edge).or_default().push(address);
        }
        for (edge, to) in by_edge {
            let (kind, body) = (notice.kind, notice.body.clone());
            self.tell(edge, FromOwner::TellAll { to, kind, body });
        }
    }

    fn tell(&self, edge: EdgeId, message: FromOwner) {
        match self.peers.borrow().get(&edge) {
            Some(Peer::Local(tell)) => tell(message),
            Some(Peer::Remote(outbox)) => {
                let frame = match message {
                    FromOwner::SubOk(ok) => Frame::SubOk(ok),
                    FromOwner::Refused { id, realm } => Frame::Refused { id, realm },
                    FromOwner::Event(event) => Frame::Ev(event),
                    FromOwner::Events(events) => Frame::Evs(events),
                    FromOwner::View { realm, change } => Frame::View { realm, change },
                    FromOwner::Tell(tell) => Frame::Tell(tell),
                    FromOwner::TellAll { to, kind, body } => Frame::TellAll { to, kind, body },
                };
                outbox.push(frame.encode());
            }
            None => {}
        }
    }
}

/// Frees the guilds of realms that are closed or replaced. Of a large one it takes long, and this
/// thread has others to serve.
fn let_go(realms: impl IntoIterator<Item = Realm>) {
    let guilds = realms.into_iter().filter_map(Realm::into_guild_state);
    let guilds: Vec<_> = guilds.collect();
    if !guilds.is_empty() {
        spawn_local(clock::aside(|| drop(guilds)));
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}
