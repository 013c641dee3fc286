//! The edge role: which realms this node's cores want, and which owner serves each.
//!
//! Turns to the owner the map names, else to its standby, else to this node itself: any
//! node that reaches Postgres may serve any realm. A new owner is subscribed before the old
//! one is left. Computes no permissions and keeps no events.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_shared::{
    Id,
    envelope::Envelope,
    id::marker::{Realm, User},
    model::{Presence, SessionState},
    shard::{Position, ShardId},
};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use smallvec::SmallVec;
use tokio::time::sleep;

use super::{
    map::MapWatch,
    metrics::Metrics,
    moving::Moving,
    owner::{EdgeId, FromOwner, Owner},
    relay::{
        frame::{Frame, SUBS_MAX, Sub, SubOk, Tell},
        link::Links,
    },
};
use crate::{
    broken::{self, Broken},
    bus::{
        self, CoreHandle, CoreId, PresenceChange, SUBSCRIBE_TIMEOUT, SnapshotRequest, Subscribed,
        Subscriber, Subscription, ToCore, ViewChange, Watch, WatchChange,
    },
    clock,
    few::Few,
};

/// Time between looks for late answers and cores that fell behind.
const TICK: Duration = Duration::from_millis(100);
/// Pause before another owner is asked after one refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// Owners asked before a core is told that the realm is unavailable.
const ATTEMPTS_MAX: u32 = 4;
/// Realms moved to the owner of a new map at once; the rest follows with the next look.
const MOVES_MAX: usize = 2000;

/// Snapshots asked for at once: what an owner has no room for in its answer is asked for again, and
/// the rest when these have come.
const SNAPSHOTS_MAX: usize = 64;
/// Users in one frame of subscriptions, so that it stays well below a frame's limit.
const USERS_PER_FRAME_MAX: usize = 500_000;

/// Who serves a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Server {
    /// This node.
    Local,
    /// Another one, over its link.
    Node(Rc<str>),
}

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

type Watches = BTreeMap<bus::Address, (Id<User>, Watch)>;
type PendingSubs = HashMap<u64, Pending, FxBuildHasher>;

#[derive(Default)]
struct RealmSub {
    /// Whose events are passed on; `None` before the first answer and after its loss.
    serving: Option<Server>,
    cores: SmallVec<[CoreSub; 1]>,
}

struct CoreSub {
    core: CoreId,
    /// Users with sessions on this core, and what those show.
    users: Few<Id<User>, Presence>,
    /// In a person's own realm: their sessions on this core.
    sessions: Vec<SessionState>,
    /// A session here wants to know who is online, or did: it is asked anew with each owner.
    presences: bool,
    /// It gets events: its last subscription stands and its inbox took everything since.
    live: bool,
    /// Its inbox had no room: asked for again after a pause, not at the next occasion.
    stalled: bool,
    /// Newest durable event it was given.
    position: Option<Position>,
    pending: Option<u64>,
    /// Asked for while a subscription was pending; sent when that one is answered.
    queued: Option<Box<Ask>>,
}

/// What a subscription is for.
#[derive(Debug, Clone, Default)]
struct Ask {
    /// `None`: from where the core stands, without repeats; if it stands nowhere, from the
    /// snapshot on.
    from: Option<Position>,
    /// Who comes to those that the owner knows of, besides those who want a snapshot.
    users: Vec<Id<User>>,
    snapshots: Vec<(Id<User>, SnapshotRequest)>,
}

struct Pending {
    realm: Id<Realm>,
    core: CoreId,
    server: Server,
    ask: Ask,
    /// Users that the owner is to answer for, sorted.
    named: SmallVec<[Id<User>; 1]>,
    /// All users of the core were named, not only those who came.
    complete: bool,
    attempt: u32,
    /// When another owner is asked.
    until: Instant,
}

/// Frames to send once the state is no longer borrowed.
type Outgoing = Vec<(Server, Message)>;

enum Message {
    Sub(Sub),
    Unsub {
        realm: Id<Realm>,
        users: Vec<Id<User>>,
        /// Another owner serves them now.
        moved: bool,
    },
    Presence(PresenceChange),
    Watch(Box<WatchChange>),
}

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

    /// What an owner says.
    pub(crate) fn receive(&self, server: &Server, message: FromOwner) {
        match message {
            FromOwner::Event(event) => self.event(server, &event),
            FromOwner::Events(events) => {
                for event in &events {
                    self.event(server, event);
                }
            }
            FromOwner::View { realm, change } => self.view(server, realm, &change),
            FromOwner::Tell(tell) => self.tell(*tell),
            FromOwner::TellAll { to, kind, body } => {
                for to in to {
                    let dispatches = vec![(kind, body.clone())];
                    self.tell(Tell {
                        to,
                        answers: None,
                        dispatches,
                    });
                }
            }
            FromOwner::SubOk(ok) => self.answered(server, *ok),
            FromOwner::Refused { id, .. } => {
                if let Some(pending) = self.state.borrow_mut().pending.get_mut(&id) {
                    pending.until = clock::now() + REFUSED_PAUSE;
                }
            }
        }
    }

    /// A session asks something of whoever serves the guild now; if nobody does, its core asks
    /// again when somebody has answered its subscription.
    pub(crate) fn pass_on(&self, ask: bus::Ask) {
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

    /// What an owner tells one session. A core without room loses it, and asks again.
    fn tell(&self, tell: Tell) {
        let Tell {
            to,
            answers,
            dispatches,
        } = tell;
        let session = to.session;
        if let Some(core) = self.cores.get(usize::from(to.core))
            && core
                .send(ToCore::Tell {
                    session,
                    answers,
                    dispatches,
                })
                .is_err()
        {
            self.metrics.inbox_full.inc();
        }
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
                self.ask_again(state, id, 0, &mut out);
            }
            for realm in lost {
                self.resubscribe(state, realm, &mut out);
            }
        }
        self.send(out);
    }

    /// Turns to the owners of the present map where another node serves now.
    pub(crate) fn rebalance(&self) {
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            // Found once for each shard, however many realms there are.
            let mut best: FxHashMap<ShardId, Server> = FxHashMap::default();
            let mut is_elsewhere = |realm: Id<Realm>, serving: &Server| {
                let shard = ShardId::of(realm, self.shards);
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
            self.moving.found(moving);
            for realm in moved {
                self.resubscribe(&mut state, realm, &mut out);
            }
        }
        self.send(out);
    }

    /// Looks after late answers and cores that fell behind, as long as the task lives.
    pub(crate) async fn tend(self: Rc<Self>) {
        loop {
            sleep(TICK).await;
            self.look_after();
        }
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

    /// Subscribes the cores again that had no room, or more than their owner.
    fn subscribe_behind(&self, state: &mut State, out: &mut Outgoing) {
        let mut behind: Vec<(Id<Realm>, CoreId)> = Vec::new();
        for (&realm, entry) in &mut state.realms {
            for sub in &mut entry.cores {
                // Also where an answer is still to come: the next subscription follows it.
                sub.stalled = false;
                if sub.pending.is_none() && sub.queued.is_some() {
                    behind.push((realm, sub.core));
                }
            }
        }
        for (realm, core) in behind {
            self.metrics.resubscriptions.inc();
            self.next(state, realm, core, out);
        }
    }

    fn event(&self, server: &Server, event: &Arc<Envelope>) {
        let mut state = self.state.borrow_mut();
        let Some(entry) = state.realms.get_mut(&event.realm) else {
            return;
        };
        if entry.serving.as_ref() != Some(server) {
            return;
        }
        let at = event.position();
        for sub in entry.cores.iter_mut().filter(|sub| sub.live) {
            if at.is_some_and(|at| Some(at) <= sub.position) && !broken::is(Broken::Repeats) {
                continue;
            }
            if self.give(sub, ToCore::Event(event.clone())) && at.is_some() {
                sub.position = at;
            }
        }
    }

    fn view(&self, server: &Server, realm: Id<Realm>, change: &ViewChange) {
        let mut state = self.state.borrow_mut();
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        if entry.serving.as_ref() != Some(server) {
            return;
        }
        for sub in entry.cores.iter_mut().filter(|sub| sub.live) {
            let change = sub.own_part(change);
            if !change.channels.is_empty() || !change.users.is_empty() {
                self.give(sub, ToCore::View { realm, change });
            }
        }
    }

    fn answered(&self, server: &Server, ok: SubOk) {
        let mut out = Outgoing::new();
        {
            let mut state = self.state.borrow_mut();
            if ok.id == 0 {
                self.read_again(&mut state, server, &ok);
            } else if let Some(pending) = state.pending.remove(&ok.id) {
                self.subscribed(&mut state, server, pending, ok, &mut out);
            }
        }
        self.send(out);
    }

    /// The owner had to read a realm anew: everyone who listens starts from there.
    fn read_again(&self, state: &mut State, server: &Server, ok: &SubOk) {
        let Some(entry) = state.realms.get_mut(&ok.realm) else {
            return;
        };
        if entry.serving.as_ref() != Some(server) {
            return;
        }
        for sub in entry.cores.iter_mut().filter(|sub| sub.live) {
            let subscribed = Subscribed {
                realm: ok.realm,
                position: ok.position,
                view: sub.own_part(&ok.view),
                complete: true,
                replay: Vec::new(),
                lost: true,
                snapshots: Vec::new(),
            };
            if self.give(sub, ToCore::Subscribed(Box::new(subscribed))) {
                sub.position = Some(ok.position);
            }
        }
    }

    fn subscribed(
        &self,
        state: &mut State,
        server: &Server,
        pending: Pending,
        ok: SubOk,
        out: &mut Outgoing,
    ) {
        let realm = pending.realm;
        let best = self.candidate(realm, 0);
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        let serves = entry.serving.as_ref() == Some(server);
        if !pending.complete
            && let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == pending.core)
            && (!serves || !sub.live || ok.lost)
        {
            // What was told of the other users meanwhile may not have reached the core: all of
            // them are asked for.
            sub.pending = None;
            sub.live = false;
            sub.queue(pending.ask);
            if entry.is_left(server, &state.pending) {
                out.push((server.clone(), entry.moved(realm)));
            }
            return self.next(state, realm, pending.core, out);
        }
        // An answer from before the realm moved to its owner: asked again there.
        let is_late = entry
            .serving
            .as_ref()
            .is_some_and(|now| now != server && *now == best);
        // Its core was given more by another owner since than the answer holds.
        let has_more = !ok.lost
            && entry
                .cores
                .iter()
                .any(|sub| sub.core == pending.core && Some(ok.position) < sub.position);
        // Asked from further back, the owner does not know how far it has to be: it is given time.
        let is_behind = has_more && pending.ask.from.is_some();
        let is_old = has_more && !ok.snapshots.is_empty();
        if is_late || is_behind || is_old {
            if entry.is_left(server, &state.pending) {
                out.push((server.clone(), entry.moved(realm)));
            }
            if let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == pending.core) {
                sub.pending = None;
                sub.queue(pending.ask);
            }
            if is_behind && !is_late {
                return self.behind.set(true);
            }
            return self.next(state, realm, pending.core, out);
        }
        if entry.serving.as_ref() != Some(server) {
            if *server == best {
                self.moving.done(realm);
            }
            if let Some(old) = entry.serving.replace(server.clone())
                && entry.is_left(&old, &state.pending)
            {
                out.push((old, entry.moved(realm)));
            }
            // From here on only the new owner's word counts, which the other cores have not
            // heard yet: they get nothing until it has answered them too.
            for sub in entry.cores.iter_mut().filter(|sub| sub.live) {
                if sub.core != pending.core {
                    sub.live = false;
                    if sub.pending.is_none() {
                        sub.catch_up();
                    }
                }
            }
        }
        if let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == pending.core) {
            if !serves || !sub.live {
                // Whom it has subscribed there by now, and nobody of other cores.
                let watches = state.watches.get(&realm).into_iter().flatten();
                let of_core = watches.filter(|(from, _)| from.core == pending.core);
                for (&from, (user, watch)) in of_core {
                    let change = WatchChange {
                        guild: realm.cast(),
                        from,
                        user: *user,
                        watch: Some(watch.clone()),
                    };
                    out.push((server.clone(), Message::Watch(Box::new(change))));
                }
            }
            sub.pending = None;
            let mut replay = ok.replay;
            let mut position = ok.position;
            if pending.ask.from.is_none() && !ok.lost {
                replay.retain(|event| event.position() > sub.position);
                position = sub.position.map_or(position, |had| had.max(position));
            }
            // Who has left since, and perhaps come again, is asked for anew: this is of before. A
            // snapshot without a view would let its session hear no channel.
            let (mut view, mut snapshots) = (ok.view, ok.snapshots);
            view.users
                .retain(|(user, _)| pending.named.binary_search(user).is_ok());
            let asked = &pending.ask.snapshots;
            snapshots.retain(|(session, _)| asked.iter().any(|(_, of)| of.session == *session));
            let subscribed = Subscribed {
                realm,
                position,
                view,
                complete: pending.complete,
                replay,
                lost: ok.lost,
                snapshots,
            };
            sub.live = true;
            if self.give(sub, ToCore::Subscribed(Box::new(subscribed))) {
                sub.position = Some(position);
                let asked = pending.ask.snapshots.into_iter();
                let left = asked.filter(|(_, request)| ok.left.contains(&request.session));
                sub.queue_first(left.collect());
            } else {
                // Asked for again, snapshots and all, when there is room.
                sub.queue(pending.ask);
            }
        }
        let cores: Vec<CoreId> = entry.cores.iter().map(|sub| sub.core).collect();
        for core in cores {
            self.next(state, realm, core, out);
        }
    }

    /// Puts a message into a core's inbox. A core that has no room gets nothing more of this
    /// realm until it has subscribed again from what it got.
    fn give(&self, sub: &mut CoreSub, message: ToCore) -> bool {
        let Some(core) = self.cores.get(usize::from(sub.core)) else {
            return false;
        };
        if core.send(message).is_ok() {
            return true;
        }
        self.metrics.inbox_full.inc();
        self.behind.set(true);
        sub.live = false;
        sub.stalled = true;
        sub.catch_up();
        false
    }

    /// Subscribes a core for what is queued, unless an answer is still to come.
    fn next(&self, state: &mut State, realm: Id<Realm>, core: CoreId, out: &mut Outgoing) {
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == core) else {
            return;
        };
        if sub.pending.is_some() || sub.stalled {
            return;
        }
        let Some(ask) = sub.queued.take() else {
            return;
        };
        // All cores of a realm stay with one owner; `rebalance` moves them together.
        let server = match &entry.serving {
            Some(Server::Node(node)) if !self.links.is_trusted(node) => None,
            serving => serving.clone(),
        };
        let server = server.unwrap_or_else(|| self.candidate(realm, 0));
        self.ask(state, realm, core, server, *ask, 0, out);
    }

    /// Subscribes all cores of a realm at the owner it should have.
    fn resubscribe(&self, state: &mut State, realm: Id<Realm>, out: &mut Outgoing) {
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        let mut asks = Vec::new();
        for sub in &mut entry.cores {
            if sub.pending.is_none() {
                sub.catch_up();
                asks.extend(sub.queued.take().map(|ask| (sub.core, *ask)));
            }
        }
        for (core, ask) in asks {
            self.metrics.resubscriptions.inc();
            let server = self.candidate(realm, 0);
            self.ask(state, realm, core, server, ask, 0, out);
        }
    }

    /// Turns to the next owner where the one asked has not answered in time.
    fn retry(&self, state: &mut State, out: &mut Outgoing) {
        let now = clock::now();
        let late: Vec<(u64, u32)> = state
            .pending
            .iter()
            .filter(|(_, pending)| pending.until <= now)
            .map(|(&id, pending)| (id, pending.attempt + 1))
            .collect();
        for (id, attempt) in late {
            self.ask_again(state, id, attempt, out);
        }
    }

    /// Gives up on an answer, and asks whose turn it is.
    fn ask_again(&self, state: &mut State, id: u64, attempt: u32, out: &mut Outgoing) {
        let Some(pending) = state.pending.remove(&id) else {
            return;
        };
        let (realm, core) = (pending.realm, pending.core);
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        if entry.is_left(&pending.server, &state.pending) {
            // A late answer of that owner must not leave a listener behind.
            out.push((pending.server.clone(), entry.moved(realm)));
        }
        let is_served = entry.serving.is_some();
        let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == core) else {
            return;
        };
        sub.pending = None;
        if attempt >= ATTEMPTS_MAX {
            let is_served = is_served && sub.live;
            if is_served && pending.ask.from.is_none() && pending.ask.names_nobody() {
                // The owner of before goes on, and is asked for those who came meanwhile; the next
                // look tries again.
                return self.next(state, realm, core, out);
            }
            tracing::warn!(realm.id = %realm, "no owner answers");
            sub.live = false;
            if self.give(sub, ToCore::Unavailable { realm }) {
                sub.queued = None;
            } else {
                // It does not know that it has to ask again.
                sub.queue(pending.ask);
            }
            return;
        }
        let server = self.candidate(realm, attempt);
        self.ask(state, realm, core, server, pending.ask, attempt, out);
    }

    #[expect(clippy::too_many_arguments, reason = "one private step of its callers")]
    fn ask(
        &self,
        state: &mut State,
        realm: Id<Realm>,
        core: CoreId,
        server: Server,
        ask: Ask,
        attempt: u32,
        out: &mut Outgoing,
    ) {
        let Some(entry) = state.realms.get_mut(&realm) else {
            return;
        };
        let Some(sub) = entry.cores.iter_mut().find(|sub| sub.core == core) else {
            return;
        };
        let mut ask = ask;
        if ask.snapshots.len() > SNAPSHOTS_MAX {
            let snapshots = ask.snapshots.split_off(SNAPSHOTS_MAX);
            sub.queue(Ask {
                snapshots,
                ..Ask::default()
            });
        }
        // An owner that serves this core knows its users and tells it of every change: naming
        // all of them for each newcomer would make a storm in one guild quadratic.
        let complete = ask.from.is_some() || !sub.live || entry.serving.as_ref() != Some(&server);
        let mut users: BTreeMap<Id<User>, Vec<SnapshotRequest>> = if complete {
            sub.users.keys().map(|&user| (user, Vec::new())).collect()
        } else {
            let asking = ask.snapshots.iter().map(|&(user, _)| user);
            asking
                .chain(ask.users.iter().copied())
                .filter(|user| sub.users.contains_key(user))
                .map(|user| (user, Vec::new()))
                .collect()
        };
        if users.is_empty() {
            // They have left since; others may have come.
            return self.next(state, realm, core, out);
        }
        state.last_id += 1;
        let id = state.last_id;
        sub.pending = Some(id);
        for (user, request) in &ask.snapshots {
            if let Some(snapshots) = users.get_mut(user) {
                snapshots.push(request.clone());
            }
        }
        let from = ask.from.or(sub.position);
        let named = users.keys().copied().collect();
        let users = users.into_iter().map(|(user, snapshots)| {
            let PresenceChange {
                presence, sessions, ..
            } = entry.shown(realm, user);
            Subscriber {
                user,
                snapshots,
                presence,
                sessions,
            }
        });
        let message = Sub {
            id,
            realm,
            from,
            users: users.collect(),
            presences: entry.cores.iter().any(|sub| sub.presences),
        };
        out.push((server.clone(), Message::Sub(message)));
        state.pending.insert(
            id,
            Pending {
                realm,
                core,
                server,
                ask,
                named,
                complete,
                attempt,
                until: clock::now() + SUBSCRIBE_TIMEOUT,
            },
        );
    }

    /// The owners to ask, best first: never empty. One that failed is tried again meanwhile.
    fn candidates(&self, realm: Id<Realm>) -> Vec<Server> {
        let map = self.map.current();
        let shard = ShardId::of(realm, self.shards);
        let mut servers = Vec::with_capacity(3);
        for node in [map.owner(shard), map.standby(shard)].into_iter().flatten() {
            if node == self.node {
                servers.push(Server::Local);
            } else if self.links.is_trusted(node) {
                servers.push(Server::Node(node.into()));
            } else {
                self.links.reopen(node);
            }
        }
        if !servers.contains(&Server::Local) {
            servers.push(Server::Local);
        }
        servers
    }

    fn candidate(&self, realm: Id<Realm>, attempt: u32) -> Server {
        let mut servers = self.candidates(realm);
        let place = attempt as usize % servers.len();
        servers.swap_remove(place)
    }

    /// Hands messages to the owners, in order.
    fn send(&self, out: Outgoing) {
        self.outgoing.borrow_mut().extend(out);
        if self.sending.replace(true) {
            return;
        }
        loop {
            let out = self.outgoing.take();
            if out.is_empty() {
                break;
            }
            self.send_all(out);
        }
        self.sending.set(false);
    }

    /// Subscriptions of one link go together, and so do presences; what is said of one realm
    /// keeps its order.
    fn send_all(&self, out: Outgoing) {
        let mut batch: Vec<(Server, Vec<Sub>)> = Vec::new();
        let mut presences: Vec<(Server, Vec<PresenceChange>)> = Vec::new();
        for (server, message) in out {
            match message {
                Message::Sub(sub) => {
                    self.send_presences(&mut presences);
                    gather(&mut batch, server, sub);
                }
                Message::Presence(change) => {
                    self.send_subs(&mut batch);
                    gather(&mut presences, server, change);
                }
                Message::Watch(change) => {
                    self.send_subs(&mut batch);
                    match &server {
                        Server::Local => self.owner.watch(self.local, *change),
                        Server::Node(node) => self.links.send_if_up(node, &Frame::Watch(change)),
                    }
                }
                Message::Unsub {
                    realm,
                    users,
                    moved,
                } => {
                    // Never behind a later subscription of the same realm.
                    self.send_subs(&mut batch);
                    self.send_presences(&mut presences);
                    match &server {
                        Server::Local => {
                            self.owner.unsubscribe(self.local, realm, &users, moved);
                        }
                        Server::Node(node) => {
                            let unsub = Frame::Unsub {
                                realm,
                                users,
                                moved,
                            };
                            self.links.send_if_up(node, &unsub);
                        }
                    }
                }
            }
        }
        self.send_subs(&mut batch);
        self.send_presences(&mut presences);
    }

    fn send_presences(&self, batch: &mut Vec<(Server, Vec<PresenceChange>)>) {
        for (server, changes) in batch.drain(..) {
            match server {
                Server::Local => self.owner.presence(self.local, changes),
                Server::Node(node) => self.links.send_if_up(&node, &Frame::Presence(changes)),
            }
        }
    }

    fn send_subs(&self, batch: &mut Vec<(Server, Vec<Sub>)>) {
        for (server, mut subs) in batch.drain(..) {
            match server {
                Server::Local => self.owner.subscribe(self.local, subs),
                Server::Node(node) => {
                    while !subs.is_empty() {
                        let mut users = 0;
                        let count = subs
                            .iter()
                            .take(SUBS_MAX)
                            .take_while(|sub| {
                                users += sub.users.len();
                                users <= USERS_PER_FRAME_MAX
                            })
                            .count();
                        let rest = subs.split_off(count.max(1));
                        self.links.send(&node, &Frame::Sub(subs));
                        subs = rest;
                    }
                }
            }
        }
    }
}

/// Adds to what goes to one server.
fn gather<T>(batch: &mut Vec<(Server, Vec<T>)>, server: Server, one: T) {
    match batch.iter_mut().find(|(to, _)| *to == server) {
        Some((_, all)) => all.push(one),
        None => batch.push((server, vec![one])),
    }
}

impl RealmSub {
    fn core(&mut self, core: CoreId) -> usize {
        if let Some(place) = self.cores.iter().position(|sub| sub.core == core) {
            return place;
        }
        self.cores.push(CoreSub {
            core,
            users: Few::default(),
            sessions: Vec::new(),
            presences: false,
            live: false,
            stalled: false,
            position: None,
            pending: None,
            queued: None,
        });
        self.cores.len() - 1
    }

    /// What a user's sessions on all cores show together.
    fn shown(&self, realm: Id<Realm>, user: Id<User>) -> PresenceChange {
        let mut presence = Presence::default();
        for sub in &self.cores {
            if let Some(part) = sub.users.get(&user) {
                presence.merge(part);
            }
        }
        let sessions = self.cores.iter().filter(|_| realm == user.cast());
        let sessions = sessions.flat_map(|sub| sub.sessions.iter().cloned());
        PresenceChange {
            realm,
            user,
            presence,
            sessions: sessions.collect(),
        }
    }

    /// Who serves the realm, and who was asked to.
    fn servers(&self, pending: &PendingSubs) -> Vec<Server> {
        let mut servers: Vec<Server> = self.serving.iter().cloned().collect();
        for id in self.cores.iter().filter_map(|sub| sub.pending) {
            if let Some(pending) = pending.get(&id)
                && !servers.contains(&pending.server)
            {
                servers.push(pending.server.clone());
            }
        }
        servers
    }

    /// Neither serves the realm nor was asked to: it is not to keep this node's users.
    fn is_left(&self, server: &Server, pending: &PendingSubs) -> bool {
        let asked = self.cores.iter().filter_map(|sub| sub.pending);
        let mut asked = asked.filter_map(|id| pending.get(&id));
        self.serving.as_ref() != Some(server) && !asked.any(|asked| asked.server == *server)
    }

    /// For an owner that is left though no user has left the realm.
    fn moved(&self, realm: Id<Realm>) -> Message {
        Message::Unsub {
            realm,
            users: self.users(),
            moved: true,
        }
    }

    fn users(&self) -> Vec<Id<User>> {
        let mut users: Vec<Id<User>> = self
            .cores
            .iter()
            .flat_map(|sub| sub.users.keys().copied())
            .collect();
        users.sort_unstable();
        users.dedup();
        users
    }
}

impl Ask {
    /// It is not for newcomers.
    fn names_nobody(&self) -> bool {
        self.users.is_empty() && self.snapshots.is_empty()
    }

    /// These have left.
    fn forget(&mut self, users: &[Id<User>]) {
        self.users.retain(|user| !users.contains(user));
        self.snapshots.retain(|(user, _)| !users.contains(user));
    }
}

impl Pending {
    /// These have left.
    fn forget(&mut self, users: &[Id<User>]) {
        self.ask.forget(users);
        for user in users {
            if let Ok(place) = self.named.binary_search(user) {
                self.named.remove(place);
            }
        }
    }
}

impl CoreSub {
    /// Adds to what the next subscription is for: the earlier position, all snapshots.
    fn queue(&mut self, ask: Ask) {
        match &mut self.queued {
            None => self.queued = Some(Box::new(ask)),
            Some(queued) => {
                queued.from = match (queued.from, ask.from) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                queued.users.extend(ask.users);
                queued.snapshots.extend(ask.snapshots);
            }
        }
    }

    /// Snapshots that there was no room for, before those that were asked for since.
    fn queue_first(&mut self, snapshots: Vec<(Id<User>, SnapshotRequest)>) {
        if snapshots.is_empty() {
            return;
        }
        let first = Ask {
            snapshots,
            ..Ask::default()
        };
        if let Some(others) = self.queued.replace(Box::new(first)) {
            self.queue(*others);
        }
    }

    /// The core has everything up to its position and needs what came after.
    fn catch_up(&mut self) {
        self.queue(Ask::default());
    }

    fn own_part(&self, change: &ViewChange) -> ViewChange {
        ViewChange {
            channels: change.channels.clone(),
            users: change
                .users
                .iter()
                .filter(|(user, _)| self.users.contains_key(user))
                .cloned()
                .collect(),
        }
    }
}

#[cfg(test)]
#[path = "edge_tests.rs"]
mod tests;
