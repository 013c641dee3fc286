//! What users see of a guild's channels, and sessions that may know it wrongly.
//!
//! A replay is filtered by the present view, and what tells of gained and lost channels is not
//! numbered. So a session whose view changed while it did not hear everything is *blurred*: it gets
//! the guild again once the rest has come, here or where it goes on. So is one that may have missed
//! that something went from a channel which it sees to one which it does not. Of a user's sessions
//! one may have missed what another one has heard.

use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::{EventKind, Intents},
    id::marker::{Guild, Realm, User},
    shard::{self, Position},
};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;

use super::Core;
use crate::{
    bus::ViewChange,
    hub::RealmHub,
    names::{SessionKey, SessionSlot},
    session::{Arrival, GuildPhase},
};

/// Ticks after which a change of a view is told, if the realm has gone on since: what it is told by
/// comes with the realm's next event and right behind it.
const SETTLED_TICKS: u32 = 2;
/// The same if it has not, as after the end of a channel, whose event comes first. A link that breaks
/// without a word is known to be broken by then.
const SETTLED_TICKS_MAX: u32 = 8;

/// Some sessions, by realms.
#[derive(Debug, Default)]
pub(super) struct Blurred(FxHashMap<Id<Realm>, FxHashSet<SessionKey>>);

impl Blurred {
    /// False if it is among them.
    pub(super) fn add(&mut self, realm: Id<Realm>, session: SessionKey) -> bool {
        self.0.entry(realm).or_default().insert(session)
    }

    pub(super) fn has(&self, realm: Id<Realm>, session: SessionKey) -> bool {
        let sessions = self.0.get(&realm);
        sessions.is_some_and(|sessions| sessions.contains(&session))
    }

    /// A session is no longer in a realm.
    pub(super) fn remove(&mut self, realm: Id<Realm>, session: SessionKey) {
        if let Some(sessions) = self.0.get_mut(&realm) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.0.remove(&realm);
            }
        }
    }

    /// Those of a realm, which are no longer among them.
    pub(super) fn forget(&mut self, realm: Id<Realm>) -> FxHashSet<SessionKey> {
        self.0.remove(&realm).unwrap_or_default()
    }
}

/// Users whose view changed a moment ago, by realms: what that is told by may be on its way.
#[derive(Debug, Default)]
pub(super) struct Unsettled(FxHashMap<Id<Realm>, Changed>);

#[derive(Debug, Default)]
struct Changed {
    /// Where the realm stood then, and ticks since.
    at: Option<Position>,
    ticks: u32,
    users: FxHashSet<Id<User>>,
}

impl Unsettled {
    /// False if they are among them. `at`: where the realm stands.
    fn add(&mut self, realm: Id<Realm>, user: Id<User>, at: Option<Position>) -> bool {
        let changed = self.0.entry(realm).or_default();
        changed.at = at;
        changed.ticks = 0;
        changed.users.insert(user)
    }

    pub(super) fn has(&self, realm: Id<Realm>, user: Id<User>) -> bool {
        self.0
            .get(&realm)
            .is_some_and(|changed| changed.users.contains(&user))
    }

    /// Those of a realm, who are no longer among them.
    pub(super) fn forget(&mut self, realm: Id<Realm>) -> FxHashSet<Id<User>> {
        let changed = self.0.remove(&realm);
        changed.map_or_else(FxHashSet::default, |changed| changed.users)
    }

    /// Those who have been told by now. `position`: where a realm stands.
    fn tick(
        &mut self,
        position: impl Fn(Id<Realm>) -> Option<Position>,
    ) -> Vec<(Id<Realm>, Id<User>)> {
        let mut settled = Vec::new();
        self.0.retain(|&realm, changed| {
            changed.ticks += 1;
            let goes_on = position(realm) != changed.at;
            let ticks = match goes_on {
                true => SETTLED_TICKS,
                false => SETTLED_TICKS_MAX,
            };
            let is_told = changed.ticks >= ticks;
            if is_told {
                settled.extend(changed.users.iter().map(|&user| (realm, user)));
            }
            !is_told
        });
        settled
    }
}

impl Core {
    /// Somebody sees something else from now on.
    pub(super) fn view(&mut self, realm: Id<Realm>, change: ViewChange) {
        let Some(hub) = self.hub.get_mut(realm) else {
            return;
        };
        let members = members_of(&change);
        let (touched, syncing) = (hub.touched_by(&change), hub.is_syncing());
        let at = hub.position();
        hub.change_view(change);
        for user in touched {
            if syncing {
                self.blur(realm, user);
            } else if self.unsettled.add(realm, user, at) {
                // What the change is told by comes right after it.
                for slot in self.slots_of(realm, user) {
                    self.log_blurred(realm, slot);
                }
            }
        }
        self.members_again(realm, members);
    }

    /// What a user's sessions know of a guild's channels may be wrong from here on.
    pub(super) fn blur(&mut self, realm: Id<Realm>, user: Id<User>) {
        for slot in self.slots_of(realm, user) {
            self.blur_session(realm, slot);
        }
    }

    /// The same of one session.
    pub(super) fn blur_session(&mut self, realm: Id<Realm>, slot: SessionSlot) {
        let session = self.sessions.get(slot as usize);
        if session.is_some_and(|session| self.blurred.add(realm, session.key(slot))) {
            self.log_blurred(realm, slot);
        }
    }

    fn slots_of(&self, realm: Id<Realm>, user: Id<User>) -> Vec<SessionSlot> {
        let hub = self.hub.get(realm).into_iter();
        hub.flat_map(|hub| hub.sessions_of(user)).collect()
    }

    /// Should this core die, those who go on with a session know it.
    fn log_blurred(&mut self, realm: Id<Realm>, slot: SessionSlot) {
        let session = self.sessions.get(slot as usize);
        if session.is_some_and(|session| session.intents.contains(Intents::GUILDS)) {
            self.log.blurred(slot, realm.cast());
        }
    }

    /// Blurred sessions get the guild again once all that they missed has come.
    pub(super) fn sharpen(&mut self, realm: Id<Realm>) {
        if self.hub.get(realm).is_some_and(RealmHub::is_syncing) {
            return;
        }
        for key in self.blurred.forget(realm) {
            let session = self.sessions.get(key.slot as usize);
            let session = session.filter(|session| session.key(key.slot) == key);
            match session.and_then(|session| session.guild_phase(realm.cast())) {
                Some(GuildPhase::Present) => self.guild_again(key.slot, realm.cast()),
                Some(GuildPhase::Returning(_)) => {
                    self.blurred.add(realm, key);
                }
                Some(GuildPhase::Waiting(_)) | None => {}
            }
        }
    }

    /// What changed a moment ago has been told.
    pub(super) fn tick_views(&mut self) {
        let hub = &self.hub;
        let position = |realm| hub.get(realm).and_then(RealmHub::position);
        for (realm, user) in self.unsettled.tick(position) {
            for slot in self.slots_of(realm, user) {
                let session = self.sessions.get(slot as usize);
                if session.is_some_and(|of| !self.blurred.has(realm, of.key(slot))) {
                    self.log.sharp(slot, realm.cast());
                }
            }
        }
        let hub = &self.hub;
        self.blurred.0.retain(|&realm, _| hub.get(realm).is_some());
    }

    /// A session that has a guild, if it cares for channels, loses it and gets it as it is now.
    fn guild_again(&mut self, slot: SessionSlot, guild: Id<Guild>) {
        let Some(session) = self.sessions.get(slot as usize) else {
            return;
        };
        if !session.intents.contains(Intents::GUILDS) {
            return;
        }
        if let Some(hub) = self.hub.get_mut(shard::realm(guild)) {
            hub.detach(session.user, slot);
        }
        self.dispatch_guild_delete(slot, guild, true);
        self.want_guild(slot, guild, Arrival::Restored);
    }
}

/// Users who see something in the realm by this view.
pub(super) fn members_of(view: &ViewChange) -> Vec<Id<User>> {
    let members = view.users.iter().filter(|(_, classes)| classes.is_some());
    members.map(|&(user, _)| user).collect()
}

/// Whether what an event is about may have been elsewhere before. Who sees that place and not the
/// new one is told by the owner, by nothing that is numbered.
pub(super) fn may_leave(event: &Envelope) -> bool {
    matches!(
        event.kind,
        EventKind::VoiceStateUpdate | EventKind::GuildScheduledEventUpdate
    )
}

/// Whether a user may see other channels since an event.
pub(super) fn may_move(event: &Envelope, user: Id<User>) -> bool {
    match event.kind {
        EventKind::GuildMemberUpdate => is_about(event, user),
        kind => kind.moves_views(),
    }
}

/// Whether a user came into the guild by an event: they were away, and what tells of both is in their
/// own realm, which may be behind.
pub(super) fn came(event: &Envelope, user: Id<User>) -> bool {
    event.kind == EventKind::GuildMemberAdd && is_about(event, user)
}

/// Whether an event's member is this user.
fn is_about(event: &Envelope, user: Id<User>) -> bool {
    #[derive(Deserialize)]
    struct OfMember {
        user: OfUser,
    }
    #[derive(Deserialize)]
    struct OfUser {
        id: Id<User>,
    }
    let member: Result<OfMember, _> = serde_json::from_slice(&event.body);
    member.is_ok_and(|member| member.user.id == user)
}
