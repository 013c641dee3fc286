//! Realms of a core: subscribing, events, and what joining or leaving a guild means to a session.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Envelope, Scope},
    gateway::{CloseCode, EventKind, Intents},
    id::marker::{Channel, Guild, Realm, User},
    shard::{self, Position},
};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;

use super::{
    Core, clock, ready,
    sessions::dispatch_to,
    views::{came, may_leave, may_move},
};
use crate::{
    bus::{Subscribed, Subscriber, Subscription, ToNode},
    delivery::Numbered,
    dispatch::Dispatch,
    hub::{RealmHub, Variant, Verdict},
    names::{SessionKey, SessionSlot},
    session::{Arrival, AssembledGuild, GuildPhase, Session},
};

/// Intents of events in private channels.
const DIRECT: Intents = Intents::DIRECT_MESSAGES
    .union(Intents::DIRECT_MESSAGE_REACTIONS)
    .union(Intents::DIRECT_MESSAGE_TYPING)
    .union(Intents::DIRECT_MESSAGE_POLLS);
/// After an answer that is behind what was heard here.
const BEHIND_PAUSE: Duration = Duration::from_millis(50);

impl Core {
    /// Asks for the events after `from`, with the view of everyone here.
    fn sync(&mut self, realm: Id<Realm>, from: Position) {
        let Some(hub) = self.hub.get_mut(realm) else {
            return;
        };
        hub.set_syncing(true);
        let users = hub
            .users()
            .map(|user| Subscriber::new(user, Vec::new()))
            .collect();
        self.config.metrics.resubscriptions.inc();
        self.subscriptions.push(Subscription {
            realm,
            from: Some(from),
            users,
        });
    }

    /// An event of a realm.
    pub(super) fn event(&mut self, event: &Envelope) {
        match self.hub.accept(event) {
            Verdict::Deliver => self.deliver(event, None),
            Verdict::Drop => {}
            Verdict::Gap(have) => self.sync(event.realm, have),
        }
    }

    /// Gives an event to everyone it is for, or to one of them alone.
    fn deliver(&mut self, event: &Envelope, only: Option<SessionSlot>) {
        if !event.kind.is_dispatched() {
            return self.internal_event(event, only);
        }
        if event.kind == EventKind::VoiceServerUpdate {
            return self.voice_server(event, only);
        }
        let (mut full, mut blank): (Option<Rc<Dispatch>>, Option<Rc<Dispatch>>) = (None, None);
        let mut parts: FxHashMap<usize, Rc<Dispatch>> = FxHashMap::default();
        let Self {
            hub,
            sessions,
            connections,
            dirty,
            held,
            log,
            now,
            ..
        } = self;
        // A bot's private channels are its first shard's, and what concerns it outside of its
        // guilds.
        let is_private = event.vis.intents.intersects(DIRECT);
        let is_of_guilds = matches!(
            event.kind,
            EventKind::InteractionCreate | EventKind::ApplicationCommandPermissionsUpdate
        );
        let is_end = event.kind == EventKind::GuildDelete && event.position().is_some();
        let mut told = FxHashSet::default();
        hub.recipients(event, |slot, variant| {
            if only.is_some_and(|only| only != slot) {
                return;
            }
            let session = sessions.get(slot as usize);
            let is_own = |session: &Session| shard::realm(session.user) == event.realm;
            let first_shard_only = is_private || is_of_guilds && session.is_some_and(is_own);
            // People have no shards, whatever their clients say.
            let on_other_shard = |session: &Session| session.bot && session.shard.0 != 0;
            if first_shard_only && session.is_some_and(on_other_shard) {
                return;
            }
            if is_end {
                // Before the event: a session that has got it is in the guild no longer.
                log.left(slot, Numbered::No, event.realm.cast());
                told.insert(slot);
            }
            let dispatch = match (variant, &event.alt) {
                (Variant::WithoutContent, Some(alt)) => {
                    blank.get_or_insert_with(|| Dispatch::new(event.kind, &alt.body, *now))
                }
                (Variant::Part(at), Some(alt)) => parts
                    .entry(at)
                    .or_insert_with(|| Dispatch::new(event.kind, &alt.parts[at].body, *now)),
                _ => full.get_or_insert_with(|| Dispatch::new(event.kind, &event.body, *now)),
            };
            let held = held.as_mut().map(|held| (held, log.number()));
            if dispatch_to(sessions, connections, dirty, held, slot, dispatch) {
                log.reach(slot);
            }
        });
        // What is not numbered comes behind all that the realm has had here.
        let had = || hub.get(event.realm).and_then(RealmHub::position);
        log.event(event.realm, event.position().or_else(had));
        if only.is_none() {
            self.unread.note(event);
        }
        if is_end {
            self.guild_deleted(event.realm, &told);
        }
    }

    /// A guild's last event has reached `told`. The others are told now: those who wait for the
    /// guild, and all if the owner said before the event that they are no members.
    fn guild_deleted(&mut self, realm: Id<Realm>, told: &FxHashSet<SessionSlot>) {
        let guild: Id<Guild> = realm.cast();
        let Some(hub) = self.hub.get(realm) else {
            return;
        };
        for slot in hub.all_sessions() {
            if self.leave_guild(slot, guild) && !told.contains(&slot) {
                self.dispatch_guild_delete(slot, guild, false);
            }
        }
    }

    /// An event between our own processes: it is about the sessions of one user.
    fn internal_event(&mut self, event: &Envelope, only: Option<SessionSlot>) {
        #[derive(Deserialize)]
        struct OfGuild {
            guild_id: Id<Guild>,
        }
        #[derive(Deserialize)]
        struct Revoked {
            tokens: Option<Vec<String>>,
        }
        let mut slots = Vec::new();
        self.hub.recipients(event, |slot, _| {
            if only.is_none_or(|only| only == slot) {
                slots.push(slot);
            }
        });
        match event.kind {
            EventKind::UserJoinedGuild | EventKind::UserLeftGuild => {
                let Ok(OfGuild { guild_id }) = serde_json::from_slice(&event.body) else {
                    return tracing::error!(
                        kind = event.kind.name(),
                        "an event of ours cannot be read"
                    );
                };
                for slot in slots {
                    if event.kind == EventKind::UserJoinedGuild {
                        self.joined_guild(slot, guild_id);
                    } else if self.leave_guild(slot, guild_id) {
                        self.dispatch_guild_delete(slot, guild_id, false);
                    }
                    if let Some(at) = event.position() {
                        self.log.home(slot, at);
                    }
                }
            }
            EventKind::TokensRevoked => {
                let Ok(Revoked { tokens }) = serde_json::from_slice(&event.body) else {
                    return tracing::error!(
                        kind = event.kind.name(),
                        "an event of ours cannot be read"
                    );
                };
                for slot in slots {
                    let Some(session) = self.sessions.get(slot as usize) else {
                        continue;
                    };
                    let hash = hex::encode(session.token.0);
                    if tokens.as_ref().is_none_or(|tokens| tokens.contains(&hash)) {
                        self.close_session(slot, CloseCode::AuthenticationFailed);
                    }
                }
            }
            _ => {}
        }
    }

    fn joined_guild(&mut self, slot: SessionSlot, guild: Id<Guild>) {
        let Some(session) = self.sessions.get(slot as usize) else {
            return;
        };
        let (id, count) = session.shard;
        if session.guild_phase(guild).is_none()
            && (!session.bot || shard::bot_shard(guild, count) == id)
        {
            self.want_guild(slot, guild, Arrival::Joined);
            self.log.waits(slot, Numbered::No, guild, Arrival::Joined);
        }
    }

    /// Takes a session out of a guild; false if its client has not heard of the guild, because it was
    /// not in it, or joined a moment ago.
    fn leave_guild(&mut self, slot: SessionSlot, guild: Id<Guild>) -> bool {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return false;
        };
        let Some(phase) = session.guild_phase(guild) else {
            return false;
        };
        session.guilds.retain(|(known, _)| *known != guild);
        let (user, key) = (session.user, session.key(slot));
        self.stop_watching(slot, guild);
        let realm = shard::realm(guild);
        self.blurred.remove(realm, key);
        if self.hub.leave(realm, user, slot) {
            self.unsubscribe(realm, user);
        } else {
            self.tell_presence(user, vec![realm]);
        }
        self.assemble(slot);
        let is_known = phase != GuildPhase::Waiting(Arrival::Joined);
        if !is_known {
            self.log.left(slot, Numbered::No, guild);
        }
        is_known
    }

    /// A user's last session here has left a realm. What was still to be asked for them there is
    /// not: it would be sent after this, and subscribe them for good.
    pub(super) fn unsubscribe(&mut self, realm: Id<Realm>, user: Id<User>) {
        for asked in [&mut self.subscriptions, &mut self.lacking] {
            asked.retain_mut(|subscription| {
                if subscription.realm == realm {
                    let users = &mut subscription.users;
                    users.retain(|subscriber| subscriber.user != user);
                }
                !subscription.users.is_empty()
            });
        }
        self.outbox.push_back(ToNode::Unsubscribe {
            core: self.config.id,
            realm,
            users: vec![user],
        });
    }

    /// Sessions that have the guild and hear nothing of it, though their user is a member: the user
    /// was none for a while. The user's own realm tells of both, but it may have done so before this
    /// guild came to where the user left; the snapshot of then ended there.
    pub(super) fn members_again(&mut self, realm: Id<Realm>, members: Vec<Id<User>>) {
        let guild: Id<Guild> = realm.cast();
        for user in members {
            let Some(hub) = self.hub.get(realm) else {
                return;
            };
            for slot in hub.waiting(user) {
                let session = self.sessions.get(slot as usize);
                let phase = session.and_then(|session| session.guild_phase(guild));
                if phase == Some(GuildPhase::Present) {
                    self.dispatch_guild_delete(slot, guild, true);
                    self.want_guild(slot, guild, Arrival::Restored);
                }
            }
        }
    }

    /// A subscription stands: the view, what was missed, and the snapshots that were asked for.
    pub(super) fn subscribed(&mut self, subscribed: Subscribed) {
        let Subscribed {
            realm,
            position,
            view,
            complete,
            replay,
            lost,
            snapshots,
        } = subscribed;
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (user, classes) in &view.users {
            match classes {
                Some(_) => here.push(*user),
                None => gone.push(*user),
            }
        }
        let Some(hub) = self.hub.get_mut(realm) else {
            return;
        };
        let moved = if complete {
            hub.replace_view(view, &created(&replay))
        } else {
            // Who left and came again on the way has not been told of changes in between.
            let moved = hub.seeing_otherwise(&view);
            hub.change_view(view);
            moved
        };
        // Those who listen here go on from where they are, unless what they had asked for is lost: more
        // often that is what others lack, who return from further back.
        let goes_on = hub.position().is_some_and(|had| {
            let is_lost = hub.is_syncing() && Some(had) < lost;
            had.era == position.era && had <= position && !is_lost
        });
        let begins_anew = lost.is_some() && !goes_on;
        if hub.position().is_none() || begins_anew {
            // Something may have happened since that was never heard of here.
            self.unread.forget(realm);
        }
        let have = *hub.position_or(position);
        // Who was cut off from an owner right behind a change of views saw no more of what it is told
        // by, and this view is no other than theirs.
        let untold = match complete {
            true => self.unsettled.forget(realm),
            false => FxHashSet::default(),
        };
        let unheard = replay.iter().filter(|event| event.position() > Some(have));
        let leaving: Vec<_> = unheard.filter(|event| may_leave(event)).collect();
        let mut unseen = Vec::new();
        if !leaving.is_empty() {
            let misses = |&(user, asked): &(Id<User>, Intents)| {
                let mut leaving = leaving.iter();
                leaving.any(|event| hub.hides(event, user, asked))
            };
            let missing = hub.listening().filter(misses);
            unseen.extend(missing.map(|(user, _)| user));
        }
        for user in moved.into_iter().chain(untold).chain(unseen) {
            self.blur(realm, user);
        }
        let returning = match lost {
            Some(_) => self.returning(realm),
            None => Vec::new(),
        };
        let (behind, spared): (Vec<_>, Vec<_>) = returning
            .into_iter()
            .partition(|&(_, _, from)| Some(from) < lost || from > position);
        let Some(hub) = self.hub.get_mut(realm) else {
            return;
        };
        if begins_anew {
            hub.set_position(position);
            hub.set_syncing(false);
            let mut slots = hub.all_sessions();
            let stays: FxHashSet<SessionSlot> = spared.iter().map(|&(slot, ..)| slot).collect();
            slots.retain(|slot| !stays.contains(slot));
            for key in self.blurred.forget(realm) {
                if stays.contains(&key.slot) {
                    self.blurred.add(realm, key);
                }
            }
            self.lost(realm, slots);
        } else {
            self.lost(realm, behind.into_iter().map(|(slot, ..)| slot).collect());
            for event in &replay {
                self.event(event);
            }
            let Some(hub) = self.hub.get_mut(realm) else {
                return;
            };
            let have = hub.position().unwrap_or(have);
            hub.set_syncing(false);
            if have < position {
                // The answer to a newcomer, while a gap of those before is still open.
                self.sync(realm, have);
            }
        }
        // What these lack was asked for from further back than they are: it can still be had.
        for (_, user, from) in spared {
            let have = self.hub.get(realm).and_then(RealmHub::position);
            if Some(from) < have {
                self.ask_from(realm, user, from);
            }
        }
        self.come_home(realm, position, &replay, &here);
        self.sharpen(realm);
        for (key, body) in snapshots {
            self.snapshot(realm, position, key, &body);
        }
        for user in gone {
            self.not_a_member(realm, user);
        }
        self.members_again(realm, here);
        self.ask_again(realm.cast());
    }

    /// Sessions that have the realm up to somewhere, from READY or from another core, get what
    /// happened since, and from now on what happens there. `here`: the users of whom it is known
    /// what they see; others wait for an answer of their own.
    fn come_home(
        &mut self,
        realm: Id<Realm>,
        position: Position,
        replay: &[Arc<Envelope>],
        here: &[Id<User>],
    ) {
        let Some(hub) = self.hub.get(realm) else {
            return;
        };
        let Some(have) = hub.position() else {
            return;
        };
        let is_syncing = hub.is_syncing();
        for (slot, user, from) in self.returning(realm) {
            if !here.contains(&user) {
                continue;
            }
            if from > have {
                // Others here are behind what this session has: it waits until they are not.
                self.unavailable.insert(realm);
                continue;
            }
            if position < have {
                // Others here are further than this answer: another one is needed, up to where they are.
                if let Some(session) = self.sessions.get(slot as usize) {
                    let key = session.key(slot);
                    self.ask_in_a_moment(realm, key);
                }
                continue;
            }
            let first = replay.first().and_then(|event| event.position());
            let follows = |first: Position| first.era == from.era && first.seq <= from.seq + 1;
            if from < have && !first.is_some_and(follows) {
                continue; // The answer to somebody who was further: its own is to come.
            }
            let Some(intents) = self.sessions.get(slot as usize).map(|of| of.intents) else {
                continue;
            };
            let Some(hub) = self.hub.get(realm) else {
                return;
            };
            let may_be_wrong = |event: &Envelope| {
                may_move(event, user) || may_leave(event) && hub.hides(event, user, intents)
            };
            let missed = || replay.iter().filter(|event| event.position() > Some(from));
            if missed().any(|event| came(event, user)) {
                // Of what happened while they were away it has seen nothing, here or where it was.
                self.lost(realm, vec![slot]);
                continue;
            }
            if missed().any(|event| may_be_wrong(event)) {
                self.blur_session(realm, slot);
            }
            let Some(hub) = self.hub.get_mut(realm) else {
                return;
            };
            hub.attach(user, slot, intents, from.seq);
            let last = replay.last().and_then(|event| event.position());
            // One answer may not hold all that it lacks.
            let reached = match last {
                Some(last) if from < have => last.clamp(from, have),
                _ => have,
            };
            let is_next = |at: Position| from < at && at <= reached;
            let next = replay
                .iter()
                .filter(|event| event.position().is_some_and(is_next));
            for event in next {
                self.deliver(event, Some(slot));
            }
            // The session may have ended, or left, by what it was told.
            let Some(session) = self.sessions.get_mut(slot as usize) else {
                continue;
            };
            // While others here lack some as well, what its user sees is ahead of what has been told: what
            // comes then is looked through as this was.
            let is_here = reached == have && !is_syncing;
            if realm == shard::realm(user) {
                session.home = (!is_here).then_some(reached);
            } else if let Some(GuildPhase::Returning(_)) = session.guild_phase(realm.cast()) {
                let phase = match is_here {
                    true => GuildPhase::Present,
                    false => GuildPhase::Returning(reached),
                };
                session.set_guild_phase(realm.cast(), phase);
            } else {
                continue;
            }
            let key = session.key(slot);
            if let Some(hub) = self.hub.get_mut(realm) {
                hub.detach(user, slot);
                if is_here {
                    hub.attach(user, slot, intents, have.seq);
                }
            }
            if !is_here {
                self.ask_for_rest(realm, key);
                continue;
            }
            self.look_at(slot, realm.cast());
        }
    }

    /// Asks for more of what a session lacks of a realm, once its client has taken most of what it was
    /// told.
    fn ask_for_rest(&mut self, realm: Id<Realm>, key: SessionKey) {
        let mut returning = self.returning(realm).into_iter();
        let Some((slot, user, from)) = returning.find(|&(slot, ..)| slot == key.slot) else {
            return;
        };
        let session = self.sessions.get(slot as usize);
        if session.is_none_or(|session| session.key(slot) != key) {
            return;
        }
        // In a user's own realm stands that their token is revoked: that waits for no slow client.
        if realm != shard::realm(user) && !self.keeps_up(slot) {
            self.lagging.insert((realm, key));
            return;
        }
        self.ask_from(realm, user, from);
    }

    /// Asks for what a session lacks of a realm, behind what it has.
    pub(super) fn ask_from(&mut self, realm: Id<Realm>, user: Id<User>, from: Position) {
        self.lacking.push(Subscription {
            realm,
            from: Some(from),
            users: vec![Subscriber::new(user, Vec::new())],
        });
    }

    /// Sessions that wait for a realm and have its events up to somewhere: of its user's own realm
    /// since READY, of any since they came from another core.
    fn returning(&self, realm: Id<Realm>) -> Vec<(SessionSlot, Id<User>, Position)> {
        let Some(hub) = self.hub.get(realm) else {
            return Vec::new();
        };
        let from = |slot: SessionSlot| {
            let session = self.sessions.get(slot as usize)?;
            let from = if realm == shard::realm(session.user) {
                session.home
            } else if let Some(GuildPhase::Returning(at)) = session.guild_phase(realm.cast()) {
                Some(at)
            } else {
                None
            };
            Some((slot, session.user, from?))
        };
        hub.all_waiting().filter_map(from).collect()
    }

    /// Events are gone for good: these sessions, as far as they are live, get the realm anew.
    fn lost(&mut self, realm: Id<Realm>, slots: Vec<SessionSlot>) {
        let guild: Id<Guild> = realm.cast();
        for slot in slots {
            let Some(session) = self.sessions.get(slot as usize) else {
                continue;
            };
            let user = session.user;
            if realm == shard::realm(user) {
                self.invalidate_session(slot);
                continue;
            }
            match session.guild_phase(guild) {
                Some(GuildPhase::Present) => {
                    if let Some(hub) = self.hub.get_mut(realm) {
                        hub.detach(user, slot);
                    }
                }
                Some(GuildPhase::Returning(_)) => {}
                Some(GuildPhase::Waiting(_)) | None => continue, // its snapshot is on the way
            }
            self.dispatch_guild_delete(slot, realm.cast(), true);
            self.want_guild(slot, realm.cast(), Arrival::Restored);
        }
    }

    /// A guild as one session sees it, at a position.
    fn snapshot(&mut self, realm: Id<Realm>, position: Position, key: SessionKey, body: &Bytes) {
        let guild: Id<Guild> = realm.cast();
        let Some(session) = self.sessions.get(key.slot as usize) else {
            return;
        };
        let Some(GuildPhase::Waiting(arrival)) = session.guild_phase(guild) else {
            return;
        };
        if session.generation != key.generation {
            return;
        }
        let Some(hub) = self.hub.get(realm) else {
            return;
        };
        // Else it has left since, and came again: its turn is still to come.
        if !hub.waiting(session.user).contains(&key.slot) {
            return;
        }
        let is_old = hub.position().is_some_and(|have| have > position);
        self.snapshots.came(key, guild, body.len());
        if is_old {
            // Events after the snapshot have gone by already: another one is needed.
            return self.ask_in_a_moment(realm, key);
        }
        if !self.takes_snapshot(key.slot) {
            // They will have gone by when its client has room for it.
            return self.want_guild(key.slot, guild, arrival);
        }
        let session = self.sessions.get_mut(key.slot as usize);
        let (Some(session), Some(hub)) = (session, self.hub.get_mut(realm)) else {
            return;
        };
        hub.attach(session.user, key.slot, session.intents, position.seq);
        session.set_guild_phase(guild, GuildPhase::Present);
        let mut numbered = Numbered::No;
        match &mut session.assembling {
            Some(assembling) if arrival == Arrival::Initial => {
                assembling.guilds.push(AssembledGuild {
                    id: guild,
                    position,
                    body: body.clone(),
                });
                self.assemble(key.slot);
            }
            _ if session.intents.contains(Intents::GUILDS) => {
                let shaped = ready::guild_create(session.capabilities, position, body);
                let body = shaped.as_deref().unwrap_or(body);
                numbered = self.dispatch_told(key.slot, EventKind::GuildCreate, body);
            }
            _ => {}
        }
        self.log.joined(key.slot, numbered, guild, position);
        self.look_at(key.slot, guild);
    }

    /// The owner does not know this user as a member. Sessions that wait for the guild need
    /// not wait; those that had it are told by the user's own realm.
    fn not_a_member(&mut self, realm: Id<Realm>, user: Id<User>) {
        let guild: Id<Guild> = realm.cast();
        let Some(hub) = self.hub.get(realm) else {
            return;
        };
        for slot in hub.waiting(user) {
            let phase = self
                .sessions
                .get(slot as usize)
                .and_then(|session| session.guild_phase(guild));
            let waits = matches!(
                phase,
                Some(GuildPhase::Waiting(_) | GuildPhase::Returning(_))
            );
            if waits && self.leave_guild(slot, guild) {
                self.dispatch_guild_delete(slot, guild, false);
            }
        }
    }

    /// No owner could be reached. Sessions that wait are told once; the core asks again.
    pub(super) fn realm_unavailable(&mut self, realm: Id<Realm>) {
        if self.hub.get(realm).is_none() || !self.unavailable.insert(realm) {
            return;
        }
        let guild: Id<Guild> = realm.cast();
        for slot in self
            .hub
            .get(realm)
            .map(|hub| hub.all_sessions())
            .unwrap_or_default()
        {
            let Some(session) = self.sessions.get_mut(slot as usize) else {
                continue;
            };
            if session.guild_phase(guild) == Some(GuildPhase::Waiting(Arrival::Initial)) {
                session.set_guild_phase(guild, GuildPhase::Waiting(Arrival::Restored));
                let is_user = session.assembling.is_some();
                if is_user {
                    self.assemble(slot);
                }
                self.dispatch_guild_delete(slot, guild, true);
            }
        }
    }

    /// Asks again for what could not be had.
    pub(super) fn tick_realms(&mut self) {
        self.tick_views();
        for (realm, key) in std::mem::take(&mut self.lagging) {
            self.ask_for_rest(realm, key);
        }
        for realm in std::mem::take(&mut self.unavailable) {
            let Some(hub) = self.hub.get(realm) else {
                continue;
            };
            let (position, guild): (_, Id<Guild>) = (hub.position(), realm.cast());
            for slot in hub.all_sessions() {
                let phase = self
                    .sessions
                    .get(slot as usize)
                    .and_then(|session| session.guild_phase(guild));
                if let Some(GuildPhase::Waiting(arrival)) = phase {
                    self.want_guild(slot, guild, arrival);
                }
            }
            for (_, user, from) in self.returning(realm) {
                self.ask_from(realm, user, from);
            }
            if let Some(position) = position {
                self.sync(realm, position);
            }
        }
    }

    /// The owner answered with less than what was heard here, of an owner before it: it is asked again
    /// for this session, but not as often as it can answer, since it says the same until it has caught
    /// up.
    fn ask_in_a_moment(&mut self, realm: Id<Realm>, key: SessionKey) {
        let keys = self.behind.entry(realm).or_default();
        keys.push(key);
        if keys.len() > 1 {
            return;
        }
        self.spawn(move |core| async move {
            tokio::time::sleep(BEHIND_PAUSE).await;
            let mut core = core.borrow_mut();
            core.now = clock::now();
            for key in core.behind.remove(&realm).unwrap_or_default() {
                core.ask_anew(realm, key);
            }
            core.flush();
        });
    }

    /// Asks for what a session waits for in a realm, or lacks of it.
    fn ask_anew(&mut self, realm: Id<Realm>, key: SessionKey) {
        let guild: Id<Guild> = realm.cast();
        let session = self.sessions.get(key.slot as usize);
        let session = session.filter(|session| session.key(key.slot) == key);
        match session.and_then(|session| session.guild_phase(guild)) {
            Some(GuildPhase::Waiting(arrival)) => self.want_guild(key.slot, guild, arrival),
            _ => self.ask_for_rest(realm, key),
        }
    }
}

/// One subscription of each realm for all who lack something of it, from the earliest position of them
/// on. From another era nothing can be had: that is no matter of the others.
pub(super) fn gathered(lacking: Vec<Subscription>) -> Vec<Subscription> {
    let mut places = FxHashMap::default();
    let mut gathered: Vec<Subscription> = Vec::new();
    for one in lacking {
        let era = one.from.map(|from| from.era);
        let place = *places.entry((one.realm, era)).or_insert(gathered.len());
        match gathered.get_mut(place) {
            Some(all) => {
                all.from = all.from.min(one.from);
                all.users.extend(one.users);
            }
            None => gathered.push(one),
        }
    }
    for Subscription { users, .. } in &mut gathered {
        users.sort_by_key(|subscriber| subscriber.user);
        users.dedup_by_key(|subscriber| subscriber.user);
    }
    gathered
}

/// Channels that these events create.
fn created(events: &[Arc<Envelope>]) -> Vec<Id<Channel>> {
    let creations = events
        .iter()
        .filter(|event| event.kind == EventKind::ChannelCreate);
    let channels = creations.filter_map(|event| match event.vis.scope {
        Scope::Channel(channel) => Some(channel),
        _ => None,
    });
    channels.collect()
}
