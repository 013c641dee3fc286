//! One realm at its owner: its state, the edges that listen, and what each is sent.
//!
//! Pure: events go in, [`Effect`]s come out in the order in which they must be sent.

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, Realm as RealmMarker, User},
    model::{self, PresenceUser, SessionState, Thread, ThreadMember, VoiceState},
    shard::Position,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    guild::{Gone, GuildState, Touched, Unreadable},
    holders::Holders,
    intake::Intake,
    moves::{Audience, Gathering, Moves, Regarded},
    online::Noted,
    presence::{Presences, SETTLE, Told},
    snapshot,
    threads::Sight,
    view::{Moved, Seen, sees},
    watch::{Notice, Watchers},
};
use crate::{
    bus::{ClassId, PresenceChange, SessionKey, Subscriber, ViewChange, WatchChange},
    clock,
    few::Few,
    node::relay::frame::Sub,
};

/// Newest events a realm keeps for edges that were away for a moment; older ones are
/// read from Postgres.
pub(crate) const RECENT_MAX: usize = 256;
/// How long they are kept.
pub(crate) const RECENT_AGE: Duration = Duration::from_secs(15);

/// An edge node as an owner knows it: one link, or this process itself.
pub(crate) type EdgeId = u64;

/// Something to send, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// To every edge of the realm.
    Event(Arc<Envelope>),
    /// To one edge.
    EventTo(EdgeId, Arc<Envelope>),
    View(EdgeId, ViewChange),
    /// To some sessions alone.
    Notice(Notice),
}

/// An event that no change stands for.
struct Made {
    kind: EventKind,
    body: Bytes,
    /// Who is not told it.
    except: Option<Id<User>>,
}

/// What becomes of a channel for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Gained,
    Lost,
}

/// The users of one edge, with the classes it believes they see.
type EdgeUsers = Few<Id<User>, Option<Seen>>;

#[derive(Debug)]
pub(crate) struct Realm {
    id: Id<RealmMarker>,
    pub(crate) intake: Intake,
    /// `None` for a user's realm, and for a guild that is gone.
    guild: Option<Box<GuildState>>,
    /// Whether everyone who subscribes belongs to it: a user's own realm.
    own: bool,
    edges: Few<EdgeId, EdgeUsers>,
    /// Edges where somebody wants to know who is online.
    curious: BTreeSet<EdgeId>,
    pub(crate) presences: Presences,
    /// Sessions that look at lists of members, if there are any.
    watchers: Option<Box<Watchers>>,
    /// Of each permission that events were for; none since that may have changed.
    holders: RefCell<Vec<Holders>>,
    /// Opened at this node; those who come from another owner soon after are known to all.
    pub(crate) opened: Instant,
    /// What Redis says of who is online.
    pub(crate) noted: Noted,
    recent: VecDeque<(Instant, Arc<Envelope>)>,
}

impl Realm {
    /// A guild's realm; without a state if the guild is gone.
    pub(crate) fn guild(
        id: Id<RealmMarker>,
        position: Position,
        guild: Option<GuildState>,
    ) -> Self {
        Self {
            id,
            intake: Intake::new(position),
            guild: guild.map(Box::new),
            own: false,
            edges: Few::default(),
            curious: BTreeSet::new(),
            presences: Presences::default(),
            watchers: None,
            holders: RefCell::default(),
            opened: clock::now(),
            noted: Noted::default(),
            recent: VecDeque::new(),
        }
    }

    /// A user's realm: it has no state but its position.
    pub(crate) fn user(id: Id<RealmMarker>, position: Position) -> Self {
        Self {
            own: true,
            ..Self::guild(id, position, None)
        }
    }

    pub(crate) fn position(&self) -> Position {
        self.intake.position()
    }

    /// `None` for a user's realm, and for a guild that is gone.
    pub(crate) fn guild_state(&self) -> Option<&GuildState> {
        self.guild.as_deref()
    }

    /// What is left of a realm that is closed.
    pub(crate) fn into_guild_state(self) -> Option<Box<GuildState>> {
        self.guild
    }

    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    pub(crate) fn has_edges(&self) -> bool {
        !self.edges.is_empty()
    }

    /// Users who listen; one with sessions on several nodes counts for each.
    pub(crate) fn subscribers(&self) -> usize {
        self.edges.values().map(|users| users.len()).sum()
    }

    pub(crate) fn edges(&self) -> impl Iterator<Item = EdgeId> {
        self.edges.keys().copied()
    }

    /// Takes the listeners of a realm that is replaced by this one, fresh from the
    /// database; returns what each has to know anew.
    pub(crate) fn take_over(&mut self, old: &mut Self) -> Vec<(EdgeId, ViewChange)> {
        self.presences = std::mem::take(&mut old.presences);
        self.curious = std::mem::take(&mut old.curious);
        self.watchers = old.watchers.take();
        if let Some(watchers) = &mut self.watchers {
            watchers.renew();
        }
        self.opened = old.opened;
        self.noted = old.noted;
        old.listeners()
            .into_iter()
            .map(|(edge, users)| {
                let view = self.subscribe(edge, users);
                (edge, view)
            })
            .collect()
    }

    /// The listeners with their users.
    fn listeners(&self) -> Vec<(EdgeId, Vec<Id<User>>)> {
        self.edges
            .iter()
            .map(|(&edge, users)| (edge, users.keys().copied().collect()))
            .collect()
    }

    /// Adds an edge's users; the realm as they see it.
    pub(crate) fn subscribe(
        &mut self,
        edge: EdgeId,
        users: impl IntoIterator<Item = Id<User>>,
    ) -> ViewChange {
        let known = self.edges.or_default(edge);
        let holders = self.holders.get_mut();
        let users = users
            .into_iter()
            .map(|user| {
                if let Some(guild) = &self.guild {
                    holders.iter_mut().for_each(|some| some.add(guild, user));
                }
                let seen = match &self.guild {
                    Some(guild) => guild.seen_by(user),
                    None => (self.own && user.cast() == self.id).then(Seen::default),
                };
                let told = as_told(&seen);
                known.insert(user, seen);
                (user, told)
            })
            .collect();
        let channels = self.guild.iter().flat_map(|guild| guild.classes.told());
        let channels = channels
            .map(|&(channel, class)| (channel, Some(class)))
            .collect();
        ViewChange { channels, users }
    }

    /// What the users of a subscription show, once they are subscribed.
    pub(crate) fn show(&mut self, now: Instant, edge: EdgeId, sub: &mut Sub) {
        if sub.presences {
            self.curious.insert(edge);
        }
        let settling = now.duration_since(self.opened) < SETTLE;
        for user in &mut sub.users {
            let belongs = match &self.guild {
                Some(guild) => guild.members.contains_key(&user.user),
                None => self.own,
            };
            if !belongs {
                continue;
            }
            let quiet = settling && user.snapshots.is_empty() && !self.own;
            let presence = std::mem::take(&mut user.presence);
            self.presences.set(edge, user.user, presence, quiet);
            if self.own {
                let sessions = std::mem::take(&mut user.sessions);
                self.presences.set_sessions(edge, sessions);
            }
        }
    }

    /// What a user of an edge shows from now on.
    pub(crate) fn show_change(&mut self, edge: EdgeId, change: &PresenceChange) {
        let known = self.edges.get(&edge);
        if known.is_some_and(|users| users.contains_key(&change.user)) {
            let presence = change.presence.clone();
            self.presences.set(edge, change.user, presence, false);
            if self.own {
                self.presences.set_sessions(edge, change.sessions.clone());
            }
        }
    }

    /// Tells edges that want to know of users that show something else, and a person's
    /// clients of their sessions; returns those users.
    pub(crate) fn tell_presences(&mut self, now: Instant, out: &mut Vec<Effect>) -> Vec<Told> {
        let told = self.presences.flush(now);
        if let Some(guild) = &self.guild {
            for told in told.iter().filter(|_| !self.curious.is_empty()) {
                let Some(member) = guild.members.get(&told.user) else {
                    continue;
                };
                let user = match &member.user {
                    Some(user) if told.renamed => PresenceUser::Whole(user),
                    _ => PresenceUser::Id { id: told.user },
                };
                let view = told.now.view(user, Some(guild.guild.id));
                let vis = Visibility {
                    except: vec![told.user],
                    ..Visibility::realm(Intents::GUILD_PRESENCES)
                };
                if let Some(event) = self.ephemeral(EventKind::PresenceUpdate, vis, &view) {
                    let to = |&edge: &EdgeId| Effect::EventTo(edge, event.clone());
                    out.extend(self.curious.iter().map(to));
                }
            }
        }
        if let (Some(watchers), Some(guild)) = (&mut self.watchers, &self.guild) {
            let mut notices = Vec::new();
            watchers.flush(guild, &self.presences, &told, &mut notices);
            out.extend(notices.into_iter().map(Effect::Notice));
        }
        if self.presences.take_sessions_changed() && self.presences.is_person() {
            let sessions: Vec<_> = self.presences.sessions().map(SessionState::view).collect();
            let vis = Visibility::realm(Intents::empty());
            let event = self.ephemeral(EventKind::SessionsReplace, vis, &sessions);
            out.extend(event.map(Effect::Event));
        }
        told
    }

    /// A session of an edge looks at something else; nothing if its user is not on the edge.
    pub(crate) fn watch(&mut self, edge: EdgeId, change: WatchChange, out: &mut Vec<Effect>) {
        let Some(guild) = &self.guild else { return };
        let known = self.edges.get(&edge);
        let known = known.is_some_and(|users| users.contains_key(&change.user));
        let watch = change.watch.filter(|_| known);
        if watch.is_none() && self.watchers.is_none() {
            return;
        }
        let watchers = self.watchers.get_or_insert_default();
        let (watcher, mut notices) = ((edge, change.from), Vec::new());
        watchers.set(
            guild,
            &self.presences,
            watcher,
            change.user,
            watch,
            &mut notices,
        );
        if watchers.is_empty() {
            self.watchers = None;
        }
        out.extend(notices.into_iter().map(Effect::Notice));
    }

    /// Whether there are presences or rows of lists to tell of, now or later.
    pub(crate) fn is_due(&self) -> bool {
        let watchers = self.watchers.as_ref();
        self.presences.is_due() || watchers.is_some_and(|watchers| watchers.is_due())
    }

    /// An event was applied: whoever looks at lists of members may have to be told.
    fn follow_lists(&mut self, event: &Envelope, touched: Touched, out: &mut Vec<Effect>) {
        let Some(watchers) = &mut self.watchers else {
            return;
        };
        let Some(guild) = &self.guild else {
            self.watchers = None;
            return;
        };
        match event.kind {
            EventKind::GuildMemberAdd
            | EventKind::GuildMemberUpdate
            | EventKind::GuildMemberRemove => {
                let Some(user) = user_of(event) else { return };
                watchers.applied(guild, Touched::Member(user));
                if event.kind == EventKind::GuildMemberUpdate {
                    let mut notices = Vec::new();
                    watchers.member_updated(user, &event.body, &mut notices);
                    out.extend(notices.into_iter().map(Effect::Notice));
                }
            }
            EventKind::GuildUpdate
            | EventKind::ChannelUpdate
            | EventKind::ChannelDelete
            | EventKind::GuildRoleCreate
            | EventKind::GuildRoleUpdate => watchers.applied(guild, touched),
            EventKind::GuildRoleDelete => watchers.renew(),
            _ => {}
        }
    }

    /// An event of this realm that is not numbered.
    fn ephemeral(
        &self,
        kind: EventKind,
        vis: Visibility,
        d: &impl serde::Serialize,
    ) -> Option<Arc<Envelope>> {
        let body = serde_json::to_vec(d).ok()?.into();
        Some(Arc::new(Envelope {
            realm: self.id,
            durability: Durability::Ephemeral,
            kind,
            vis,
            at_ms: 0,
            trace: 0,
            body,
            alt: None,
        }))
    }

    /// Removes an edge's users, and the edge with the last of them. `moved`: another owner serves
    /// them now, and tells of them.
    pub(crate) fn unsubscribe(&mut self, edge: EdgeId, users: &[Id<User>], moved: bool) {
        if moved {
            self.presences.hand_over(edge, users);
        } else {
            self.presences.remove(edge, users);
        }
        if let Some(watchers) = &mut self.watchers {
            watchers.remove_users(edge, users);
        }
        if let Some(known) = self.edges.get_mut(&edge) {
            for user in users {
                known.remove(user);
            }
            if known.is_empty() {
                self.edges.remove(&edge);
                self.curious.remove(&edge);
            }
        }
    }

    /// An edge's link broke; true if there is something to tell of it later.
    pub(crate) fn drop_edge(&mut self, now: Instant, edge: EdgeId) -> bool {
        self.curious.remove(&edge);
        if let Some(watchers) = &mut self.watchers {
            watchers.remove_edge(edge);
        }
        let Some(users) = self.edges.remove(&edge) else {
            return false;
        };
        self.presences
            .lose(now, edge, users.keys().copied().collect());
        true
    }

    /// Whether one of these is in a guild that, as far as is known here, they are not in. Also one who
    /// asks for nothing: a session that waits for the guild, or comes back to it, leaves it by that.
    pub(crate) fn is_stranger_among(&self, subscribers: &[Subscriber]) -> bool {
        match &self.guild {
            Some(guild) => {
                let mut users = subscribers.iter().map(|subscriber| &subscriber.user);
                users.any(|user| !guild.members.contains_key(user))
            }
            None => !self.own,
        }
    }

    /// The GUILD_CREATEs that these subscribers asked for; none for those who are no members. At most
    /// one more than fits; and the sessions for which there was no room.
    pub(crate) fn portion(
        &self,
        subscribers: &[Subscriber],
        bytes_max: usize,
    ) -> (Vec<(SessionKey, Bytes)>, Vec<SessionKey>) {
        let (mut snapshots, mut left, mut bytes) = (Vec::new(), Vec::new(), 0);
        let Some(guild) = &self.guild else {
            return (snapshots, left);
        };
        for subscriber in subscribers.iter().filter(|user| !user.snapshots.is_empty()) {
            let Some(classes) = guild.seen_by(subscriber.user) else {
                continue;
            };
            for request in &subscriber.snapshots {
                if bytes >= bytes_max {
                    left.push(request.session);
                    continue;
                }
                let d = snapshot::guild_create(
                    guild,
                    &self.presences,
                    subscriber.user,
                    &classes,
                    request,
                );
                if let Some(d) = d {
                    bytes += d.len();
                    snapshots.push((request.session, d));
                }
            }
        }
        (snapshots, left)
    }

    /// All of them.
    #[cfg(test)]
    pub(crate) fn snapshots(&self, subscribers: &[Subscriber]) -> Vec<(SessionKey, Bytes)> {
        self.portion(subscribers, usize::MAX).0
    }

    /// The kept events after `after`, up to the position; `None` if they do not reach back so far.
    pub(crate) fn recent_after(&self, after: u64) -> Option<Vec<Arc<Envelope>>> {
        let lacking = self.position().seq.checked_sub(after)?;
        let lacking = usize::try_from(lacking).ok()?;
        let skipped = self.recent.len().checked_sub(lacking)?;
        Some(
            self.recent
                .iter()
                .skip(skipped)
                .map(|(_, event)| event.clone())
                .collect(),
        )
    }

    /// Forgets kept events that are too old.
    pub(crate) fn prune(&mut self, now: Instant) {
        while self
            .recent
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > RECENT_AGE)
        {
            self.recent.pop_front();
        }
    }

    /// An event as the edges get it: permissions are resolved to users here, because no
    /// edge computes any.
    pub(crate) fn resolve(&self, event: &Arc<Envelope>) -> Arc<Envelope> {
        let mut users: Vec<Id<User>> = match (&event.vis.scope, self.guild.as_deref()) {
            // Who is in a thread stays in it without seeing its channel.
            (Scope::Users(users), Some(guild)) if event.kind == EventKind::ThreadMemberUpdate => {
                let parent = id_of(event).and_then(|thread| guild.threads.parent(thread));
                let Some(parent) = parent else {
                    return event.clone();
                };
                let (view, now) = (Permissions::VIEW_CHANNEL, Timestamp::now());
                let users = users.iter().copied();
                let seeing = users.filter(|&user| guild.holds(user, view, Some(parent), now));
                seeing.collect()
            }
            (Scope::Realm | Scope::Channel(_) | Scope::Users(_), _) => return event.clone(),
            (_, None) => Vec::new(),
            (Scope::Permissions { any_of, channel }, Some(guild)) => {
                let mut held = guild.held_by_many(*channel, Timestamp::now());
                let is_for = |user: &Id<User>| {
                    let member = guild.members.get(user);
                    member.is_some_and(|member| held.by(*user, member).intersects(*any_of))
                };
                let candidates = self.who_may_hold(guild, *any_of, &[]).into_iter();
                candidates.filter(is_for).collect()
            }
            (Scope::Thread { parent, members }, Some(guild)) => {
                self.of_thread(guild, *parent, members)
            }
        };
        users.sort_unstable();
        users.dedup();
        let mut resolved = Envelope::clone(event);
        resolved.vis.scope = Scope::Users(users.into());
        Arc::new(resolved)
    }

    /// Users who listen; one who does on several edges is there for each.
    fn listening(&self) -> impl Iterator<Item = Id<User>> {
        self.edges.values().flat_map(Few::keys).copied()
    }

    /// Listeners who may hold any of these, or are among the others; all who listen, if these are
    /// fewer.
    fn who_may_hold(
        &self,
        guild: &GuildState,
        any_of: Permissions,
        others: &[Id<User>],
    ) -> Vec<Id<User>> {
        let mut known = self.holders.borrow_mut();
        let place = known.iter().position(|some| some.any_of() == any_of);
        let place = place.unwrap_or_else(|| {
            known.push(Holders::new(guild, any_of, self.listening()));
            known.len() - 1
        });
        let few = known[place].few();
        match few.filter(|few| few.len() + others.len() < self.subscribers()) {
            Some(few) => {
                let listens =
                    |user: &Id<User>| self.edges.values().any(|users| users.contains_key(user));
                few.iter().chain(others).copied().filter(listens).collect()
            }
            None => self.listening().collect(),
        }
    }

    /// Listeners who see a private thread: its members, and moderators.
    fn of_thread(
        &self,
        guild: &GuildState,
        parent: Id<Channel>,
        members: &[Id<User>],
    ) -> Vec<Id<User>> {
        let inside: FxHashSet<Id<User>> = members.iter().copied().collect();
        let mut held = guild.held_by_many(Some(parent), Timestamp::now());
        let sees = |user: &Id<User>| {
            let Some(member) = guild.members.get(user) else {
                return false;
            };
            match Sight::of(held.by(*user, member)) {
                Sight::Nothing => false,
                Sight::Own => inside.contains(user),
                Sight::All => true,
            }
        };
        let candidates = self.who_may_hold(guild, Permissions::MANAGE_THREADS, members);
        candidates.into_iter().filter(sees).collect()
    }

    /// Passes an ephemeral event on.
    pub(crate) fn pass(&self, event: &Arc<Envelope>, out: &mut Vec<Effect>) {
        out.push(Effect::Event(self.resolve(event)));
    }

    /// Takes the next event in order over and says what to send.
    ///
    /// Errors: the state cannot follow and must be read again; nothing is sent.
    pub(crate) fn apply(
        &mut self,
        now: Instant,
        event: Arc<Envelope>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Unreadable> {
        let kept = self.watchers.is_some().then(|| event.clone());
        if Holders::may_change_by(event.kind) {
            self.holders.get_mut().clear();
        }
        let touched = self.follow(now, event, out)?;
        if let (Touched::Member(user), Some(guild)) = (touched, &self.guild) {
            let holders = self.holders.get_mut().iter_mut();
            holders.for_each(|some| some.add(guild, user));
        }
        if let Some(event) = kept {
            self.follow_lists(&event, touched, out);
        }
        if let Some(guild) = &mut self.guild {
            for user in guild.renamed.drain(..) {
                self.presences.rename(user);
            }
        }
        Ok(())
    }

    /// Says whose view may have changed.
    fn follow(
        &mut self,
        now: Instant,
        event: Arc<Envelope>,
        out: &mut Vec<Effect>,
    ) -> Result<Touched, Unreadable> {
        let Some(guild) = &mut self.guild else {
            self.send(now, event, out);
            return Ok(Touched::Nobody);
        };
        if !event.kind.changes_access() {
            let gone = guild.leaves(&event)?;
            guild.apply(&event)?;
            if let Some(gone) = gone {
                self.tell_of_leaving(gone, &event.vis.regardless, out);
            }
            self.send(now, event, out);
            return Ok(Touched::Nobody);
        }
        if event.kind == EventKind::GuildDelete {
            self.guild = None;
            self.send(now, event, out);
            self.review(Touched::Everybody, out);
            return Ok(Touched::Everybody);
        }
        let before = match event.kind {
            EventKind::ChannelUpdate => {
                let known = channel_of(&event).and_then(|channel| guild.channels.get(&channel));
                known.cloned()
            }
            _ => None,
        };
        let touched = guild.apply(&event)?;
        if event.kind == EventKind::ChannelDelete {
            // Still by the old view: who could see the channel must hear of its end.
            self.send(now, event, out);
            self.review(touched, out);
        } else if touched == Touched::Nobody {
            self.send(now, event, out);
        } else {
            self.change_views(now, event, before.as_ref(), touched, out);
        }
        Ok(touched)
    }

    /// The views first, so that a revocation holds at this very event; then what the event
    /// means for those who gained a channel, the event itself, and for those who lost one. `before`
    /// is the channel that it updates, as it was.
    fn change_views(
        &mut self,
        now: Instant,
        event: Arc<Envelope>,
        before: Option<&model::Channel>,
        touched: Touched,
        out: &mut Vec<Effect>,
    ) {
        let about = channel_of(&event);
        let moves = self.review(touched, out);
        for (channel, audience) in &moves.gained {
            // A channel that is new announces itself.
            if event.kind != EventKind::ChannelCreate || about != Some(*channel) {
                let kind = EventKind::ChannelCreate;
                self.synthesize(kind, audience, self.shown(*channel), out);
            }
            for made in self.inside(*channel, Turn::Gained) {
                self.make(made, audience, out);
            }
        }
        self.send(now, event, out);
        self.sync_threads(&moves, out);
        for (channel, audience) in &moves.lost {
            let hidden = before.filter(|before| before.id == *channel);
            let body = match hidden {
                Some(before) => self.last_seen(before),
                None => self.shown(*channel),
            };
            if hidden.is_some() {
                self.synthesize(EventKind::ChannelUpdate, audience, body.clone(), out);
            }
            for made in self.inside(*channel, Turn::Lost) {
                self.make(made, audience, out);
            }
            self.synthesize(EventKind::ChannelDelete, audience, body, out);
        }
    }

    /// Tells who gained channels of the active threads that they see there: once all who see the
    /// same ones and are in none of them.
    fn sync_threads(&self, moves: &Moves, out: &mut Vec<Effect>) {
        #[derive(serde::Serialize)]
        struct ThreadListSync<'a> {
            guild_id: Id<Guild>,
            channel_ids: &'a [Id<Channel>],
            threads: Vec<Thread>,
            members: Vec<ThreadMember>,
        }
        let Some(guild) = &self.guild else { return };
        if moves.gained.is_empty() {
            return;
        }
        let parents = guild.threads.parents();
        let insiders = guild.threads.insiders(&parents);
        let now = Timestamp::now();
        let mut syncs: Vec<(Audience, Bytes)> = Vec::new();
        for regarded in &moves.regarded {
            let gained = regarded.gained.iter();
            let of: Vec<Id<Channel>> = gained.filter(|id| parents.contains(*id)).copied().collect();
            if of.is_empty() {
                continue;
            }
            let mut held: Vec<_> = of
                .iter()
                .map(|&channel| guild.held_by_many(Some(channel), now))
                .collect();
            // Those in one of the threads get a list of their own.
            type Alike = (Vec<Sight>, Option<Id<User>>);
            let mut alike: FxHashMap<Alike, Gathering> = FxHashMap::default();
            for (&edge, users) in &regarded.who.edges {
                for &user in users {
                    let Some(member) = guild.members.get(&user) else {
                        continue;
                    };
                    let held = held.iter_mut();
                    let sights = held.map(|held| Sight::of(held.by(user, member))).collect();
                    let alone = insiders.contains(&user).then_some(user);
                    alike.entry((sights, alone)).or_default().add(edge, user);
                }
            }
            for ((sights, _), users) in alike {
                let audience = users.settle();
                let Some(first) = audience.first() else {
                    continue;
                };
                let threads = guild.threads.seen_by(first, |channel| {
                    let place = of.binary_search(&channel);
                    place.map_or(Sight::Nothing, |place| sights[place])
                });
                if threads.is_empty() {
                    continue;
                }
                let members = threads.iter().filter_map(|thread| thread.member.clone());
                let body = serde_json::to_vec(&ThreadListSync {
                    guild_id: guild.guild.id,
                    channel_ids: &regarded.gained,
                    members: members.collect(),
                    threads,
                });
                let Ok(body) = body else { continue };
                syncs.push((audience, body.into()));
            }
        }
        syncs.sort_by_key(|(audience, _)| audience.first());
        for (audience, body) in syncs {
            self.synthesize(EventKind::ThreadListSync, &audience, Some(body), out);
        }
    }

    /// For those who see where something was, but not where it is now. `own` get the event itself.
    fn tell_of_leaving(&self, gone: Gone, own: &[Id<User>], out: &mut Vec<Effect>) {
        let Some(guild) = &self.guild else { return };
        let from = gone.from.map(|channel| guild.classes.of(channel));
        let to = guild.classes.of(gone.to);
        if from == Some(to) {
            return;
        }
        let is_seen =
            |seen: &Seen, class: Option<ClassId>| class.is_some_and(|class| sees(seen, class));
        let mut audience = Gathering::default();
        for (&edge, known) in self.edges.iter() {
            for (&user, seen) in known.iter() {
                let Some(seen) = seen else { continue };
                let saw = from.is_none_or(|from| is_seen(seen, from));
                if saw && !is_seen(seen, to) && !own.contains(&user) {
                    audience.add(edge, user);
                }
            }
        }
        let audience = audience.settle();
        if !audience.edges.is_empty() {
            let body = Bytes::from(gone.body.to_string());
            self.synthesize(gone.kind, &audience, Some(body), out);
        }
    }

    /// What is in a channel, as it is told to those who see it from now on, or no longer: nobody
    /// would tell these of its end.
    fn inside(&self, channel: Id<Channel>, turn: Turn) -> Vec<Made> {
        let Some(guild) = &self.guild else {
            return Vec::new();
        };
        let mut inside = Vec::new();
        let mut add = |kind, except, body: serde_json::Result<serde_json::Value>| {
            inside.extend(body.map(|body| Made {
                kind,
                body: Bytes::from(body.to_string()),
                except,
            }));
        };
        for voice in guild.voice_states.values() {
            if voice.channel_id == Some(channel) {
                let mut told = VoiceState {
                    guild_id: Some(guild.guild.id),
                    member: guild.members.get(&voice.user_id).cloned(),
                    ..voice.clone()
                };
                let mut except = None;
                if turn == Turn::Lost {
                    told.channel_id = None;
                    told.suppress = false;
                    told.request_to_speak_timestamp = None;
                    // Who is in it stays there, seeing it or not.
                    except = Some(voice.user_id);
                }
                let kind = EventKind::VoiceStateUpdate;
                add(kind, except, serde_json::to_value(told));
            }
        }
        for stage in guild.stages.values() {
            if stage.channel_id == channel {
                let kind = match turn {
                    Turn::Gained => EventKind::StageInstanceCreate,
                    Turn::Lost => EventKind::StageInstanceDelete,
                };
                add(kind, None, serde_json::to_value(stage));
            }
        }
        for event in guild.events.values() {
            if event.channel_id == Some(channel) {
                let kind = match turn {
                    Turn::Gained => EventKind::GuildScheduledEventCreate,
                    Turn::Lost => EventKind::GuildScheduledEventDelete,
                };
                add(kind, None, serde_json::to_value(event));
            }
        }
        inside
    }

    fn send(&mut self, now: Instant, event: Arc<Envelope>, out: &mut Vec<Effect>) {
        out.push(Effect::Event(self.resolve(&event)));
        self.recent.push_back((now, event));
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        self.prune(now);
    }

    /// Sends every edge what these users of it see differently now; which channels members gained
    /// and lost by it. Those who came or left do not count, they get the whole guild or lose it.
    fn review(&mut self, touched: Touched, out: &mut Vec<Effect>) -> Moves {
        // Only what touches everybody moves channels.
        let moved: Vec<Moved> = match (&mut self.guild, touched) {
            (Some(guild), Touched::Everybody) => guild.classes.changes(),
            _ => Vec::new(),
        };
        let guild = self.guild.as_deref();
        let mut regarded = Regarded::default();
        for (&edge, known) in self.edges.iter_mut() {
            let mut users = Vec::new();
            let mut look_at = |user: Id<User>, believed: &mut Option<Seen>| {
                let seen = guild.and_then(|guild| guild.seen_by(user));
                let is_same = *believed == seen;
                if let (Some(saw), Some(sees)) = (&*believed, &seen)
                    && !(is_same && moved.is_empty())
                {
                    regarded.add(edge, user, saw, sees);
                }
                if !is_same {
                    users.push((user, as_told(&seen)));
                    *believed = seen;
                }
            };
            match touched {
                // One among perhaps 20,000: not looked for.
                Touched::Member(user) => {
                    if let Some(believed) = known.get_mut(&user) {
                        look_at(user, believed);
                    }
                }
                Touched::Nobody | Touched::Everybody => {
                    for (&user, believed) in known.iter_mut() {
                        look_at(user, believed);
                    }
                }
            }
            if !moved.is_empty() || !users.is_empty() {
                let channels = moved.iter().map(|moved| (moved.channel, moved.now));
                let channels = channels.collect();
                out.push(Effect::View(edge, ViewChange { channels, users }));
            }
        }
        match guild {
            Some(guild) => regarded.moves(&moved, guild.classes.told()),
            None => Moves::default(),
        }
    }

    /// A channel as its events show it.
    fn shown(&self, channel: Id<Channel>) -> Option<Bytes> {
        let channel = self.guild.as_ref()?.channels.get(&channel)?;
        serde_json::to_vec(channel).ok().map(Bytes::from)
    }

    /// A channel that an update hides, as those who lose it may know it: with the overwrites that
    /// hide it, and else as they saw it.
    fn last_seen(&self, before: &model::Channel) -> Option<Bytes> {
        let now = self.guild.as_ref()?.channels.get(&before.id)?;
        let seen = model::Channel {
            permission_overwrites: now.permission_overwrites.clone(),
            ..before.clone()
        };
        serde_json::to_vec(&seen).ok().map(Bytes::from)
    }

    /// [`Self::make`] of this body, if there is one.
    fn synthesize(
        &self,
        kind: EventKind,
        audience: &Audience,
        body: Option<Bytes>,
        out: &mut Vec<Effect>,
    ) {
        let except = None;
        if let Some(body) = body {
            self.make(Made { kind, body, except }, audience, out);
        }
    }

    /// An event that no change stands for: these users' view of a channel began or ended. Each edge
    /// is told of its own users, who are named by the same list whatever else they are told.
    fn make(&self, made: Made, audience: &Audience, out: &mut Vec<Effect>) {
        let Made { kind, body, except } = made;
        out.extend(audience.edges.iter().map(|(edge, users)| {
            let scope = Scope::Users(users.clone());
            let event = Envelope {
                realm: self.id,
                durability: Durability::Ephemeral,
                kind,
                vis: Visibility {
                    except: except.into_iter().collect(),
                    ..Visibility::of(scope, intents_of(kind))
                },
                at_ms: 0,
                trace: 0,
                body: body.clone(),
                alt: None,
            };
            Effect::EventTo(*edge, Arc::new(event))
        }));
    }
}

/// What somebody sees, as edges are told.
fn as_told(seen: &Option<Seen>) -> Option<Vec<ClassId>> {
    seen.as_deref().map(<[ClassId]>::to_vec)
}

/// The user a GUILD_MEMBER_* event is about.
fn user_of(event: &Envelope) -> Option<Id<User>> {
    #[derive(serde::Deserialize)]
    struct Body {
        user: OfUser,
    }
    #[derive(serde::Deserialize)]
    struct OfUser {
        id: Id<User>,
    }
    let body: Body = serde_json::from_slice(&event.body).ok()?;
    Some(body.user.id)
}

/// The channel a CHANNEL_* event is about.
fn channel_of(event: &Envelope) -> Option<Id<Channel>> {
    matches!(
        event.kind,
        EventKind::ChannelCreate | EventKind::ChannelUpdate | EventKind::ChannelDelete
    )
    .then(|| id_of(event))
    .flatten()
}

/// The channel or thread whose id an event has.
fn id_of(event: &Envelope) -> Option<Id<Channel>> {
    #[derive(serde::Deserialize)]
    struct Body {
        id: Id<Channel>,
    }
    let body: Body = serde_json::from_slice(&event.body).ok()?;
    Some(body.id)
}

/// What a session must have asked for to get an event that no change stands for.
fn intents_of(kind: EventKind) -> Intents {
    match kind {
        EventKind::VoiceStateUpdate => Intents::GUILD_VOICE_STATES,
        EventKind::GuildScheduledEventCreate | EventKind::GuildScheduledEventDelete => {
            Intents::GUILD_SCHEDULED_EVENTS
        }
        _ => Intents::GUILDS,
    }
}
