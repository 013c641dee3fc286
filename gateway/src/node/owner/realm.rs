//! One realm at its owner: its state, the edges that listen, and what each is sent.
//!
//! Pure: events go in, [`Effect`]s come out in the order in which they must be sent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use guildhall_shared::{
    Id, Timestamp,
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, Realm as RealmMarker, User},
    model::{PresenceUser, SessionState, Thread, ThreadMember, VoiceState},
    shard::Position,
};

use super::{
    guild::{Gone, GuildState, Touched, Unreadable},
    intake::Intake,
    online::Noted,
    presence::{Presences, SETTLE, Told},
    snapshot,
    watch::{Notice, Watchers},
};
use crate::{
    bus::{ClassId, PresenceChange, SessionKey, Subscriber, ViewChange, WatchChange},
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

/// The users of one edge, with the classes it believes they see.
type EdgeUsers = Few<Id<User>, Option<Vec<ClassId>>>;

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
    /// Opened at this node; those who come from another owner soon after are known to all.
    pub(crate) opened: Instant,
    /// What Redis says of who is online.
    pub(crate) noted: Noted,
    recent: VecDeque<(Instant, Arc<Envelope>)>,
}

/// Channels that users gained and lost by one event.
#[derive(Debug, Default)]
struct Moves {
    gained: BTreeMap<Id<Channel>, BTreeSet<Id<User>>>,
    lost: BTreeMap<Id<Channel>, BTreeSet<Id<User>>>,
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
            opened: Instant::now(),
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
        if let (Some(watchers), Some(guild)) = (&mut self.watchers, &self.guild) {
            watchers.applied(guild, Touched::Everybody);
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
        let now = Timestamp::now();
        let known = self.edges.or_default(edge);
        let users = users
            .into_iter()
            .map(|user| {
                let seen = match &self.guild {
                    Some(guild) => guild.seen_by(user, now),
                    None => (self.own && user.cast() == self.id).then(Vec::new),
                };
                known.insert(user, seen.clone());
                (user, seen)
            })
            .collect();
        let channels = match &self.guild {
            Some(guild) => guild
                .classes
                .channels()
                .into_iter()
                .map(|(channel, class)| (channel, Some(class)))
                .collect(),
            None => Vec::new(),
        };
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
    fn follow_lists(&mut self, event: &Envelope, out: &mut Vec<Effect>) {
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
            | EventKind::GuildRoleUpdate => watchers.applied(guild, Touched::Everybody),
            EventKind::GuildRoleDelete => watchers.role_deleted(),
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

    /// Removes an edge's users, and the edge with the last of them.
    pub(crate) fn unsubscribe(&mut self, edge: EdgeId, users: &[Id<User>]) {
        self.presences.remove(edge, users);
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

    /// Whether one of these asks for a guild that, as far as is known here, they are not in.
    pub(crate) fn is_stranger_among(&self, subscribers: &[Subscriber]) -> bool {
        let now = Timestamp::now();
        let mut asking = subscribers.iter().filter(|user| !user.snapshots.is_empty());
        asking.any(|subscriber| match &self.guild {
            Some(guild) => guild.seen_by(subscriber.user, now).is_none(),
            None => true,
        })
    }

    /// The GUILD_CREATEs that these subscribers asked for; none for those who are no members.
    pub(crate) fn snapshots(&self, subscribers: &[Subscriber]) -> Vec<(SessionKey, Bytes)> {
        let Some(guild) = &self.guild else {
            return Vec::new();
        };
        let now = Timestamp::now();
        let mut snapshots = Vec::new();
        for subscriber in subscribers.iter().filter(|user| !user.snapshots.is_empty()) {
            let Some(classes) = guild.seen_by(subscriber.user, now) else {
                continue;
            };
            for request in &subscriber.snapshots {
                let d = snapshot::guild_create(
                    guild,
                    &self.presences,
                    subscriber.user,
                    &classes,
                    request,
                );
                snapshots.extend(d.map(|d| (request.session, d)));
            }
        }
        snapshots
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
        let now = Timestamp::now();
        let is_for: &dyn Fn(&GuildState, Id<User>) -> bool = match &event.vis.scope {
            Scope::Permissions { any_of, channel } => {
                &|guild, user| guild.holds(user, *any_of, *channel, now)
            }
            Scope::Thread { parent, members } => {
                &|guild, user| guild.sees_private_thread(user, *parent, members, now)
            }
            Scope::Realm | Scope::Channel(_) | Scope::Users(_) => return event.clone(),
        };
        let users: BTreeSet<Id<User>> = self
            .edges
            .values()
            .flat_map(Few::keys)
            .copied()
            .filter(|&user| {
                let guild = self.guild.as_ref();
                guild.is_some_and(|guild| is_for(guild, user))
            })
            .collect();
        let mut resolved = Envelope::clone(event);
        resolved.vis.scope = Scope::Users(users.into_iter().collect());
        Arc::new(resolved)
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
        self.follow(now, event, out)?;
        if let Some(event) = kept {
            self.follow_lists(&event, out);
        }
        if let Some(guild) = &mut self.guild {
            for user in guild.renamed.drain(..) {
                self.presences.rename(user);
            }
        }
        Ok(())
    }

    fn follow(
        &mut self,
        now: Instant,
        event: Arc<Envelope>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Unreadable> {
        let Some(guild) = &mut self.guild else {
            self.send(now, event, out);
            return Ok(());
        };
        if !event.kind.changes_access() {
            let gone = guild.leaves(&event)?;
            guild.apply(&event)?;
            if let Some(gone) = gone {
                self.tell_of_leaving(gone, &event.vis.regardless, out);
            }
            self.send(now, event, out);
            return Ok(());
        }
        let places = guild.classes.channels();
        match event.kind {
            EventKind::GuildDelete => {
                self.guild = None;
                self.send(now, event, out);
                self.review(Touched::Everybody, &places, out);
            }
            EventKind::ChannelDelete => {
                guild.apply(&event)?;
                // Still by the old view: who could see the channel must hear of its end.
                self.send(now, event, out);
                self.review(Touched::Everybody, &places, out);
            }
            _ => match guild.apply(&event)? {
                Touched::Nobody => self.send(now, event, out),
                touched => self.change_views(now, event, touched, &places, out),
            },
        }
        Ok(())
    }

    /// The views first, so that a revocation holds at this very event; then what the event
    /// means for those who gained a channel, the event itself, and for those who lost one.
    fn change_views(
        &mut self,
        now: Instant,
        event: Arc<Envelope>,
        touched: Touched,
        places: &[(Id<Channel>, ClassId)],
        out: &mut Vec<Effect>,
    ) {
        let about = channel_of(&event);
        let before = self.believed(touched);
        self.review(touched, places, out);
        let moves = self.moves(touched, &before, places);
        for (&channel, users) in &moves.gained {
            // A channel that is new announces itself.
            if event.kind != EventKind::ChannelCreate || about != Some(channel) {
                self.synthesize(EventKind::ChannelCreate, channel, users, None, out);
            }
            for (kind, body) in self.inside(channel) {
                self.synthesize(kind, channel, users, Some(body), out);
            }
        }
        let update = (event.kind == EventKind::ChannelUpdate).then(|| event.body.clone());
        self.send(now, event, out);
        self.sync_threads(&moves.gained, out);
        for (&channel, users) in &moves.lost {
            if update.is_some() && about == Some(channel) {
                self.synthesize(
                    EventKind::ChannelUpdate,
                    channel,
                    users,
                    update.clone(),
                    out,
                );
            }
            self.synthesize(EventKind::ChannelDelete, channel, users, None, out);
        }
    }

    /// Tells who gained channels of the active threads that they see there.
    fn sync_threads(
        &self,
        gained: &BTreeMap<Id<Channel>, BTreeSet<Id<User>>>,
        out: &mut Vec<Effect>,
    ) {
        #[derive(serde::Serialize)]
        struct ThreadListSync {
            guild_id: Id<Guild>,
            channel_ids: Vec<Id<Channel>>,
            threads: Vec<Thread>,
            members: Vec<ThreadMember>,
        }
        let Some(guild) = &self.guild else { return };
        let mut by_user: BTreeMap<Id<User>, Vec<Id<Channel>>> = BTreeMap::new();
        for (&channel, users) in gained {
            for &user in users {
                by_user.entry(user).or_default().push(channel);
            }
        }
        let now = Timestamp::now();
        for (user, channel_ids) in by_user {
            let threads =
                guild.threads_seen_by(user, now, |channel| channel_ids.contains(&channel));
            let Some(first) = threads.first().map(|thread| thread.parent_id) else {
                continue;
            };
            let members = threads.iter().filter_map(|thread| thread.member.clone());
            let body = ThreadListSync {
                guild_id: guild.guild.id,
                channel_ids,
                members: members.collect(),
                threads,
            };
            let body = serde_json::to_vec(&body).ok().map(Bytes::from);
            let (kind, users) = (EventKind::ThreadListSync, BTreeSet::from([user]));
            self.synthesize(kind, first, &users, body, out);
        }
    }

    /// For those who see where something was, but not where it is now. `own` get the event itself.
    fn tell_of_leaving(&self, gone: Gone, own: &[Id<User>], out: &mut Vec<Effect>) {
        let Some(guild) = &self.guild else { return };
        let from = guild.classes.of(gone.from);
        let to = gone.to.and_then(|channel| guild.classes.of(channel));
        if from == to {
            return;
        }
        let sees = |seen: &Option<Vec<ClassId>>, class: Option<ClassId>| {
            let (Some(seen), Some(class)) = (seen, class) else {
                return false;
            };
            seen.binary_search(&class).is_ok()
        };
        let users: BTreeSet<Id<User>> = self
            .edges
            .values()
            .flat_map(Few::iter)
            .filter(|(user, seen)| sees(seen, from) && !sees(seen, to) && !own.contains(user))
            .map(|(&user, _)| user)
            .collect();
        if !users.is_empty() {
            let body = Bytes::from(gone.body.to_string());
            self.synthesize(gone.kind, gone.from, &users, Some(body), out);
        }
    }

    /// What is in a channel, as it would be told to those who see it from now on.
    fn inside(&self, channel: Id<Channel>) -> Vec<(EventKind, Bytes)> {
        let Some(guild) = &self.guild else {
            return Vec::new();
        };
        let mut inside = Vec::new();
        let mut add = |kind, body: serde_json::Result<serde_json::Value>| {
            inside.extend(body.map(|body| (kind, Bytes::from(body.to_string()))));
        };
        for voice in guild.voice_states.values() {
            if voice.channel_id == Some(channel) {
                let voice = VoiceState {
                    guild_id: Some(guild.guild.id),
                    member: guild.members.get(&voice.user_id).cloned(),
                    ..voice.clone()
                };
                add(EventKind::VoiceStateUpdate, serde_json::to_value(voice));
            }
        }
        for stage in guild.stages.values() {
            if stage.channel_id == channel {
                add(EventKind::StageInstanceCreate, serde_json::to_value(stage));
            }
        }
        for event in guild.events.values() {
            if event.channel_id == Some(channel) {
                let kind = EventKind::GuildScheduledEventCreate;
                add(kind, serde_json::to_value(event));
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

    /// What the edges believe that these users see.
    fn believed(&self, touched: Touched) -> BTreeMap<Id<User>, Option<Vec<ClassId>>> {
        let mut believed = BTreeMap::new();
        for known in self.edges.values() {
            match touched {
                Touched::Nobody => {}
                Touched::Member(user) => {
                    believed.extend(known.get(&user).map(|seen| (user, seen.clone())));
                }
                Touched::Everybody => {
                    believed.extend(known.iter().map(|(&user, seen)| (user, seen.clone())));
                }
            }
        }
        believed
    }

    /// Sends every edge what these users of it see differently now. `places` are the classes of
    /// the channels before the change.
    fn review(
        &mut self,
        touched: Touched,
        places: &[(Id<Channel>, ClassId)],
        out: &mut Vec<Effect>,
    ) {
        let now = Timestamp::now();
        let mut channels: BTreeMap<Id<Channel>, Option<ClassId>> = BTreeMap::new();
        if let Some(guild) = &self.guild {
            let placed = guild.classes.channels();
            let before: BTreeMap<_, _> = places.iter().copied().collect();
            for (channel, class) in &placed {
                if before.get(channel) != Some(class) {
                    channels.insert(*channel, Some(*class));
                }
            }
            for channel in before.into_keys() {
                if guild.classes.of(channel).is_none() {
                    channels.insert(channel, None);
                }
            }
        }
        for (&edge, known) in self.edges.iter_mut() {
            let mut users = Vec::new();
            let mut look_at = |user: Id<User>, believed: &mut Option<Vec<ClassId>>| {
                let guild = self.guild.as_ref();
                let seen = guild.and_then(|guild| guild.seen_by(user, now));
                if *believed != seen {
                    believed.clone_from(&seen);
                    users.push((user, seen));
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
            if !channels.is_empty() || !users.is_empty() {
                let channels = channels.clone().into_iter().collect();
                out.push(Effect::View(edge, ViewChange { channels, users }));
            }
        }
    }

    /// Which channels members gained and lost; those who came or left do not count, they
    /// get the whole guild or lose it.
    fn moves(
        &self,
        touched: Touched,
        before: &BTreeMap<Id<User>, Option<Vec<ClassId>>>,
        places: &[(Id<Channel>, ClassId)],
    ) -> Moves {
        let mut moves = Moves::default();
        let Some(guild) = &self.guild else {
            return moves;
        };
        let after = self.believed(touched);
        let places: BTreeMap<_, _> = places.iter().copied().collect();
        let placed = guild.classes.channels();
        for (user, saw) in before {
            let (Some(saw), Some(Some(sees))) = (saw, after.get(user)) else {
                continue;
            };
            for (channel, class) in &placed {
                let had = places
                    .get(channel)
                    .is_some_and(|class| saw.binary_search(class).is_ok());
                let has = sees.binary_search(class).is_ok();
                if had != has {
                    let side = if has {
                        &mut moves.gained
                    } else {
                        &mut moves.lost
                    };
                    side.entry(*channel).or_default().insert(*user);
                }
            }
        }
        moves
    }

    /// An event that no change stands for: this user's view of a channel began or ended.
    fn synthesize(
        &self,
        kind: EventKind,
        channel: Id<Channel>,
        users: &BTreeSet<Id<User>>,
        body: Option<Bytes>,
        out: &mut Vec<Effect>,
    ) {
        let Some(body) = body.or_else(|| {
            let channel = self.guild.as_ref()?.channels.get(&channel)?;
            serde_json::to_vec(channel).ok().map(Bytes::from)
        }) else {
            return;
        };
        let event = Arc::new(Envelope {
            realm: self.id,
            durability: Durability::Ephemeral,
            kind,
            vis: Visibility::of(
                Scope::Users(users.iter().copied().collect()),
                intents_of(kind),
            ),
            at_ms: 0,
            trace: 0,
            body,
            alt: None,
        });
        for (&edge, known) in self.edges.iter() {
            if users.iter().any(|user| known.contains_key(user)) {
                out.push(Effect::EventTo(edge, event.clone()));
            }
        }
    }
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
    #[derive(serde::Deserialize)]
    struct Body {
        id: Id<Channel>,
    }
    matches!(
        event.kind,
        EventKind::ChannelCreate | EventKind::ChannelUpdate | EventKind::ChannelDelete
    )
    .then(|| serde_json::from_slice::<Body>(&event.body).ok())
    .flatten()
    .map(|body| body.id)
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
