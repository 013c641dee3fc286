//! The edge role: which realms this node's cores want, and which owner serves each.
//!
//! Turns to the owner the map names, else to its standby, else to this node itself: any
//! node that reaches Postgres may serve any realm. A new owner is subscribed before the old
//! one is left. Computes no permissions and keeps no events.

mod asking;
mod from_owner;
mod message;
mod subs;
mod to_owner;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Duration,
};

use guildhall_shared::{
    Id,
    id::marker::{Realm, User},
    model::{Presence, SessionState},
    shard::ShardId,
};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use tokio::{sync::Notify, time::sleep};

pub(crate) use self::message::Server;

use self::{
    message::{Message, Outgoing},
    subs::{Ask, PendingSubs, RealmSub, Tries},
};
use super::{
    map::MapWatch,
    metrics::Metrics,
    moving::Moving,
    owner::{EdgeId, Owner},
    relay::{frame::Frame, link::Links},
};
use crate::{
    ask::{self, Watch, WatchChange},
    bus::{CoreHandle, PresenceChange, Subscriber, Subscription},
    names::{Address, CoreId},
};

/// Time between looks for late answers and cores that fell behind, while there may be any.
const TICK: Duration = Duration::from_millis(100);
/// Realms moved to the owner of a new map at once; the rest follows with the next look.
const MOVES_MAX: usize = 2000;

pub(crate) struct Edge {
    node: String,
    shards: u16,
    cores: Vec<CoreHandle>,
    map: Rc<MapWatch>,
    owner: Rc<Owner>,
    /// This edge's number at its own owner.
    local: EdgeId,
    links: Rc<Links>,
    metrics: Metrics,
    moving: Moving,
    /// Some core has something queued that no answer will send.
    behind: Cell<bool>,
    /// More realms are to move than were moved at once.
    more_moves: Cell<bool>,
    /// There is something to look after.
    busy: Notify,
    /// Messages on their way out: the local owner answers at once, and an answer may bring
    /// the next message, which then waits for its turn here instead of nesting.
    outgoing: RefCell<Outgoing>,
    sending: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Boxed: most are users' own realms, and a table is up to half empty.
    realms: HashMap<Id<Realm>, Box<RealmSub>, FxBuildHasher>,
    /// Subscriptions without an answer yet, by their id.
    pending: PendingSubs,
    /// What sessions look at in a guild: said again to each new owner.
    watches: HashMap<Id<Realm>, Watches, FxBuildHasher>,
    last_id: u64,
}

type Watches = BTreeMap<Address, (Id<User>, Watch)>;

impl Edge {
    pub(crate) fn new(
        node: String,
        shards: u16,
        cores: Vec<CoreHandle>,
        map: Rc<MapWatch>,
        owner: Rc<Owner>,
        links: Rc<Links>,
        metrics: Metrics,
    ) -> Rc<Self> {
        Rc::new_cyclic(|edge: &std::rc::Weak<Self>| {
            let from_local = edge.clone();
            let tell = super::owner::Peer::Local(Box::new(move |message| {
                if let Some(edge) = from_local.upgrade() {
                    edge.receive(&Server::Local, message);
                }
            }));
            let local = owner.edge_up(node.clone(), tell);
            Self {
                node,
                shards,
                cores,
                map,
                owner,
                local,
                links,
                metrics,
                moving: Moving::default(),
                behind: Cell::new(false),
                more_moves: Cell::new(false),
                busy: Notify::new(),
                outgoing: RefCell::default(),
                sending: Cell::new(false),
                state: RefCell::default(),
            }
        })
    }

    /// Realms that are on their way to another owner.
    pub(crate) fn moving(&self) -> &Moving {
        &self.moving
    }

    /// Whether a session of this node is in the realm.
    pub(crate) fn wants(&self, realm: Id<Realm>) -> bool {
        self.state.borrow().realms.contains_key(&realm)
    }

    /// A core wants realms, or users added to them.
    pub(crate) fn subscribe(&self, core: CoreId, subscriptions: Vec<Subscription>) {
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            for Subscription { realm, from, users } in subscriptions {
                let entry = state.realms.entry(realm).or_default();
                let place = entry.core(core);
                let sub = &mut entry.cores[place];
                let mut ask = Ask {
                    from,
                    ..Ask::default()
                };
                for subscriber in users {
                    let Subscriber {
                        user, snapshots, ..
                    } = subscriber;
                    sub.users.insert(user, subscriber.presence);
                    if realm == user.cast() {
                        sub.sessions = subscriber.sessions;
                    }
                    sub.presences |= snapshots.iter().any(|request| request.presences);
                    if snapshots.is_empty() {
                        ask.users.push(user);
                    }
                    ask.snapshots
                        .extend(snapshots.into_iter().map(|request| (user, request)));
                }
                sub.queue(ask);
                sub.stalled = false;
                self.next(&mut state, realm, core, &mut out);
            }
        }
        self.send(out);
    }

    /// A core's last sessions of these users are gone.
    pub(crate) fn unsubscribe(&self, core: CoreId, realm: Id<Realm>, users: &[Id<User>]) {
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let Some(entry) = state.realms.get_mut(&realm) else {
                return;
            };
            let servers = entry.servers(&state.pending);
            if let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == core) {
                for user in users {
                    sub.users.remove(user);
                }
                if let Some(queued) = &mut sub.queued {
                    queued.forget(users);
                }
                if let Some(id) = sub.pending
                    && let Some(pending) = state.pending.get_mut(&id)
                {
                    pending.forget(users);
                    // The owner has nobody left to answer for; others wait behind them.
                    if pending.named.is_empty() {
                        sub.pending = None;
                        if let Some(pending) = state.pending.remove(&id) {
                            sub.queue(pending.ask);
                        }
                    }
                }
            }
            entry.cores.retain(|sub| {
                let stays = !sub.users.is_empty();
                if !stays && let Some(id) = sub.pending {
                    state.pending.remove(&id);
                }
                stays
            });
            let gone: Vec<Id<User>> = users
                .iter()
                .copied()
                .filter(|user| !entry.cores.iter().any(|sub| sub.users.contains_key(user)))
                .collect();
            let still: Vec<PresenceChange> = users
                .iter()
                .filter(|user| !gone.contains(user))
                .map(|&user| entry.shown(realm, user))
                .collect();
            let left = servers
                .iter()
                .filter(|server| entry.is_left(server, &state.pending));
            let left: Outgoing = left
                .map(|server| (server.clone(), entry.moved(realm)))
                .collect();
            let has_others = !entry.cores.is_empty();
            if !has_others {
                state.realms.remove(&realm);
                state.watches.remove(&realm);
                self.moving.done(realm);
            }
            for server in servers {
                let still = still.iter().cloned().map(Message::Presence);
                out.extend(still.map(|message| (server.clone(), message)));
                if !gone.is_empty() {
                    let unsub = Message::Unsub {
                        realm,
                        users: gone.clone(),
                        moved: false,
                    };
                    out.push((server, unsub));
                }
            }
            if has_others {
                out.extend(left);
            }
            self.next(state, realm, core, &mut out);
        }
        self.send(out);
    }

    /// What a user's sessions on a core show has changed: told to whoever serves the realms,
    /// or will. An owner that comes later is told with its subscription.
    pub(crate) fn presence(
        &self,
        core: CoreId,
        user: Id<User>,
        realms: Vec<(Id<Realm>, Presence)>,
        sessions: Vec<SessionState>,
    ) {
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let mut sessions = Some(sessions);
            for (realm, presence) in realms {
                let Some(entry) = state.realms.get_mut(&realm) else {
                    continue;
                };
                let before = entry.shown(realm, user);
                let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == core) else {
                    continue;
                };
                let Some(part) = sub.users.get_mut(&user) else {
                    continue;
                };
                *part = presence;
                if realm == user.cast() {
                    sub.sessions = sessions.take().unwrap_or_default();
                }
                let after = entry.shown(realm, user);
                if after == before {
                    continue;
                }
                for server in entry.servers(&state.pending) {
                    out.push((server, Message::Presence(after.clone())));
                }
            }
        }
        self.send(out);
    }

    /// A session asks something of whoever serves the guild now; if nobody does, its core asks
    /// again when somebody has answered its subscription.
    pub(crate) fn pass_on(&self, ask: ask::Ask) {
        let serving = {
            let state = self.state.borrow();
            let realm = state.realms.get(&ask.guild.cast());
            realm.and_then(|entry| entry.serving.clone())
        };
        match serving {
            Some(Server::Local) => self.owner.ask(self.local, ask),
            Some(Server::Node(node)) => self.links.send_if_up(&node, &Frame::Ask(Box::new(ask))),
            None => {}
        }
    }

    /// A session looks at something else in a guild.
    pub(crate) fn watch(&self, change: WatchChange) {
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let realm: Id<Realm> = change.guild.cast();
            let watches = state.watches.entry(realm).or_default();
            match &change.watch {
                Some(watch) => watches.insert(change.from, (change.user, watch.clone())),
                None => watches.remove(&change.from),
            };
            if watches.is_empty() {
                state.watches.remove(&realm);
            }
            let entry = state.realms.get(&realm);
            if let Some(server) = entry.and_then(|entry| entry.serving.clone()) {
                out.push((server, Message::Watch(Box::new(change))));
            }
        }
        self.send(out);
    }

    /// A link broke: its realms are subscribed elsewhere at once.
    pub(crate) fn link_down(&self, node: &Rc<str>) {
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let mut lost = Vec::new();
            for (&realm, entry) in &mut state.realms {
                if entry.serving == Some(Server::Node(node.clone())) {
                    entry.serving = None;
                    self.moving.done(realm);
                    lost.push(realm);
                }
            }
            let asked: Vec<u64> = state
                .pending
                .iter()
                .filter(|(_, pending)| pending.server == Server::Node(node.clone()))
                .map(|(&id, _)| id)
                .collect();
            for id in asked {
                // The node is no candidate any more.
                self.ask_again(state, id, Tries::default(), &mut out);
            }
            for realm in lost {
                self.resubscribe(state, realm, &mut out);
            }
        }
        self.send(out);
    }

    /// Nodes that serve realms here, or were asked to.
    pub(crate) fn servers(&self) -> FxHashSet<Rc<str>> {
        let state = self.state.borrow();
        let serving = state.realms.values().flat_map(|entry| &entry.serving);
        let asked = state.pending.values().map(|pending| &pending.server);
        let nodes = serving.chain(asked).filter_map(|server| match server {
            Server::Local => None,
            Server::Node(node) => Some(node.clone()),
        });
        nodes.collect()
    }

    /// Turns to the owners of the present map where another node serves now.
    pub(crate) fn rebalance(&self) {
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            let map = self.map.current();
            // One that failed under this map is tried again by whoever looks for candidates.
            let has_failed = self.links.has_failed(map.version);
            // Found once for each shard, however many realms there are.
            let mut best: FxHashMap<ShardId, Server> = FxHashMap::default();
            let mut is_elsewhere = |realm: Id<Realm>, serving: &Server| {
                let shard = ShardId::of(realm, self.shards);
                let is_owner = |owner| self.is_at(serving, owner);
                if !has_failed && map.owner(shard).is_some_and(is_owner) {
                    return false;
                }
                let best = best.entry(shard);
                serving != best.or_insert_with(|| self.candidate(realm, 0))
            };
            let moving: FxHashSet<Id<Realm>> = state
                .realms
                .iter()
                .filter(|(realm, entry)| {
                    let serving = entry.serving.as_ref();
                    serving.is_some_and(|serving| is_elsewhere(**realm, serving))
                })
                .map(|(&realm, _)| realm)
                .collect();
            let moved: Vec<Id<Realm>> = moving.iter().copied().take(MOVES_MAX).collect();
            self.more_moves.set(moving.len() > MOVES_MAX);
            if self.more_moves.get() {
                self.busy.notify_one();
            }
            self.moving.found(moving);
            for realm in moved {
                self.resubscribe(&mut state, realm, &mut out);
            }
        }
        self.send(out);
    }

    /// Whether a server is the node of this name.
    fn is_at(&self, server: &Server, node: &str) -> bool {
        match server {
            Server::Local => node == self.node,
            Server::Node(name) => node == &**name,
        }
    }

    /// Looks after late answers and cores that fell behind, as long as the task lives.
    pub(crate) async fn tend(self: Rc<Self>) {
        loop {
            while self.is_idle() {
                self.busy.notified().await;
            }
            sleep(TICK).await;
            self.look_after();
        }
    }

    /// Nothing is to be looked after.
    fn is_idle(&self) -> bool {
        let is_waiting = !self.state.borrow().pending.is_empty();
        !is_waiting && !self.behind.get() && !self.more_moves.get()
    }

    /// Some core has something queued that no answer will send.
    fn fell_behind(&self) {
        self.behind.set(true);
        self.busy.notify_one();
    }

    /// One look.
    fn look_after(&self) {
        if self.more_moves.take() {
            self.rebalance();
        }
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            self.retry(&mut state, &mut out);
            if self.behind.take() {
                self.subscribe_behind(&mut state, &mut out);
            }
        }
        self.send(out);
    }
}

#[cfg(test)]
#[path = "edge_tests.rs"]
mod tests;
