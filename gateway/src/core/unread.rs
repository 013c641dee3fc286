//! What people's sessions are told once in a while of guilds that they do not look at (op 14, 37):
//! where there is something to read, and who is in voice. By CHANNEL_UNREAD_UPDATE, or by
//! PASSIVE_UPDATE_V1 or V2, if their client reads one of these.
//!
//! Best effort and late by up to [`TOLD_EVERY`]: the messages and voice states themselves are events
//! of their own. What happens is filed once for all sessions of a core, and costs nothing while none
//! reads it; what is made of it is the same for all who see the same channels.

use std::{
    collections::hash_map::Entry,
    hash::Hash,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_shared::{
    Id, Timestamp,
    envelope::{Envelope, Scope},
    gateway::{Capabilities, EventKind},
    id::marker::{Channel, Guild, Message, Realm, User},
    model::{Member, VoiceState},
};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::Core;
use crate::{
    ask::Question,
    bus::ClassId,
    dispatch::Dispatch,
    hub::RealmHub,
    names::SessionSlot,
    session::{GuildPhase, Session},
};

const TOLD_EVERY: Duration = Duration::from_secs(30);
/// Channels, and users in voice, filed between two rounds; further ones are left out of the next.
const FILED_MAX: usize = 10_000;
/// Sessions looked at at one tick, once for each realm that there is news of; at some hundred
/// nanoseconds each, as one event of a large guild takes. The other realms have their turn a tick later.
const LOOKS_MAX: usize = 20_000;

/// What happened since the last round.
#[derive(Debug)]
pub(super) struct Unread {
    /// When the newest round began.
    told: Instant,
    /// Realms that it has still to tell of.
    due: Vec<Id<Realm>>,
    channels: Filed<Id<Channel>, Newest>,
    /// For those who read a newer form alone.
    voices: Filed<Id<User>, Voice>,
}

/// News of one kind.
#[derive(Debug)]
struct Filed<K, V> {
    /// Whether any session of this core is told of it.
    read: bool,
    count: usize,
    by_realm: FxHashMap<Id<Realm>, FxHashMap<K, V>>,
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    message: Option<Id<Message>>,
    /// Where its newest pin changed: when that was made, if one is left.
    pin: Option<Option<Timestamp>>,
    /// Who sees this channel sees it: for a thread, the channel it is in.
    seen_as: Id<Channel>,
}

/// A user whose voice state changed.
#[derive(Debug, Default)]
struct Voice {
    /// As it is now; `None`: in no channel.
    state: Option<VoiceState>,
    member: Option<Member>,
    /// Channels that were left for none.
    left: Vec<Id<Channel>>,
    /// Those who saw where it was, and do not see where it is; ascending, as owners name them.
    lost_by: Vec<Arc<[Id<User>]>>,
}

/// What a round tells of one realm.
#[derive(Debug)]
struct News {
    channels: FxHashMap<Id<Channel>, Newest>,
    voices: FxHashMap<Id<User>, Voice>,
}

/// How a session is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    Unread,
    V1,
    V2,
}

/// What one session is told of one guild.
#[derive(Debug, Clone)]
struct Telling {
    dispatch: Option<Rc<Dispatch>>,
    /// V1 has all who are in voice, whom the guild's owner knows.
    asks: bool,
}

#[derive(Deserialize)]
struct Posted {
    id: Id<Message>,
    channel_id: Id<Channel>,
}

#[derive(Deserialize)]
struct Pinned {
    channel_id: Id<Channel>,
    last_pin_timestamp: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Update<'a> {
    Unread {
        guild_id: Id<Guild>,
        channel_unread_updates: Vec<UnreadChannel>,
    },
    V1 {
        guild_id: Id<Guild>,
        channels: Vec<UnreadChannel>,
    },
    V2 {
        guild_id: Id<Guild>,
        updated_channels: Vec<UnreadChannel>,
        updated_voice_states: Vec<&'a VoiceState>,
        removed_voice_states: Vec<Id<User>>,
        updated_members: Vec<&'a Member>,
    },
}

#[derive(Serialize)]
struct UnreadChannel {
    id: Id<Channel>,
    last_message_id: Id<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_pin_timestamp: Option<Option<Timestamp>>,
}

impl Unread {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            told: now,
            due: Vec::new(),
            channels: Filed::new(),
            voices: Filed::new(),
        }
    }

    /// Files what happened, if anybody is to be told of it.
    pub(super) fn note(&mut self, event: &Envelope) {
        match event.kind {
            EventKind::MessageCreate if self.channels.read => self.note_message(event),
            EventKind::ChannelPinsUpdate if self.channels.read => self.note_pin(event),
            EventKind::VoiceStateUpdate if self.voices.read => self.note_voice(event),
            _ => {}
        }
    }

    /// What was filed of a realm may not be the newest any more.
    pub(super) fn forget(&mut self, realm: Id<Realm>) {
        self.take(realm);
    }

    fn note_message(&mut self, event: &Envelope) {
        // Private threads and private channels are for named users, who look at them.
        let Scope::Channel(seen_as) = event.vis.scope else {
            return;
        };
        let Ok(Posted { id, channel_id }) = serde_json::from_slice(&event.body) else {
            return;
        };
        let newest = self
            .channels
            .at(event.realm, channel_id, || Newest::new(seen_as));
        if let Some(newest) = newest {
            newest.message = Some(id);
        }
    }

    /// It is told with the channel's newest message, without which clients would take the channel
    /// for empty: the one that says who pinned comes right behind it.
    fn note_pin(&mut self, event: &Envelope) {
        let Scope::Channel(seen_as) = event.vis.scope else {
            return;
        };
        let Ok(pinned) = serde_json::from_slice::<Pinned>(&event.body) else {
            return;
        };
        let channel = pinned.channel_id;
        let newest = self
            .channels
            .at(event.realm, channel, || Newest::new(seen_as));
        if let Some(newest) = newest {
            newest.pin = Some(pinned.last_pin_timestamp);
        }
    }

    fn note_voice(&mut self, event: &Envelope) {
        let Ok(mut state) = serde_json::from_slice::<VoiceState>(&event.body) else {
            return;
        };
        let is_gone = state.channel_id.is_none();
        // Told to named users, a state is not new: they see its channel since now, or it is theirs.
        if let (Scope::Users(users), false) = (&event.vis.scope, is_gone) {
            let voices = self.voices.by_realm.get_mut(&event.realm);
            if let Some(voice) = voices.and_then(|voices| voices.get_mut(&state.user_id)) {
                voice.found_by(users);
            }
            return;
        }
        let voice = self.voices.at(event.realm, state.user_id, Voice::default);
        let Some(voice) = voice else { return };
        match &event.vis.scope {
            Scope::Channel(channel) => {
                if is_gone && !voice.left.contains(channel) {
                    voice.left.push(*channel);
                }
                // As in a GUILD_CREATE.
                state.guild_id = None;
                voice.member = state.member.take();
                voice.state = (!is_gone).then_some(state);
            }
            Scope::Users(users) if !voice.lost_by.contains(users) => {
                voice.lost_by.push(users.clone());
            }
            _ => {}
        }
    }

    /// Begins a round, once all of the one before is told and it is time.
    fn begin(&mut self, now: Instant) {
        if !self.due.is_empty() || now.duration_since(self.told) < TOLD_EVERY {
            return;
        }
        self.told = now;
        let (channels, voices) = (&self.channels.by_realm, &self.voices.by_realm);
        let of_voices = voices.keys().filter(|realm| !channels.contains_key(*realm));
        self.due = channels.keys().chain(of_voices).copied().collect();
    }

    /// What was filed of a realm, up to now: views and positions are looked at as they are now, too.
    fn take(&mut self, realm: Id<Realm>) -> News {
        News {
            channels: self.channels.take(realm),
            voices: self.voices.take(realm),
        }
    }
}

impl<K: Eq + Hash, V> Filed<K, V> {
    fn new() -> Self {
        Self {
            read: false,
            count: 0,
            by_realm: FxHashMap::default(),
        }
    }

    /// Where nobody reads, what was filed may not be the newest once somebody does.
    fn set_read(&mut self, read: bool) {
        self.read = read;
        if !read {
            self.count = 0;
            self.by_realm = FxHashMap::default();
        }
    }

    /// The place of something, `new` at first; `None` if there is no room.
    fn at(&mut self, realm: Id<Realm>, key: K, new: impl FnOnce() -> V) -> Option<&mut V> {
        match self.by_realm.entry(realm).or_default().entry(key) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(place) if self.count < FILED_MAX => {
                self.count += 1;
                Some(place.insert(new()))
            }
            Entry::Vacant(_) => None,
        }
    }

    fn take(&mut self, realm: Id<Realm>) -> FxHashMap<K, V> {
        let taken = self.by_realm.remove(&realm).unwrap_or_default();
        self.count -= taken.len();
        taken
    }
}

impl Newest {
    fn new(seen_as: Id<Channel>) -> Self {
        Self {
            message: None,
            pin: None,
            seen_as,
        }
    }
}

impl Voice {
    /// They see where it is since now.
    fn found_by(&mut self, users: &[Id<User>]) {
        let finds = |user: &Id<User>| users.binary_search(user).is_ok();
        for lost in &mut self.lost_by {
            if lost.iter().any(finds) {
                *lost = lost.iter().copied().filter(|user| !finds(user)).collect();
            }
        }
    }

    fn is_lost_by(&self, user: Id<User>) -> bool {
        let mut lists = self.lost_by.iter();
        lists.any(|users| users.binary_search(&user).is_ok())
    }
}

impl Form {
    /// The newest that a person's client reads; bots are told nothing.
    fn of(session: &Session) -> Option<Self> {
        let reads = |form| session.capabilities.contains(form);
        if session.bot {
            None
        } else if reads(Capabilities::PASSIVE_GUILD_UPDATE_V2) {
            Some(Self::V2)
        } else if reads(Capabilities::PASSIVE_GUILD_UPDATE) {
            Some(Self::V1)
        } else {
            Some(Self::Unread)
        }
    }
}

impl News {
    fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.voices.is_empty()
    }

    /// Whether somebody in voice went out of a user's sight: others who see the same channels now
    /// may not have seen them before.
    fn has_lost(&self, user: Id<User>) -> bool {
        self.voices.values().any(|voice| voice.is_lost_by(user))
    }

    /// What a user is told of a guild.
    fn telling(
        &self,
        form: Form,
        guild: Id<Guild>,
        user: Id<User>,
        sees: impl Fn(Id<Channel>) -> bool,
        now: Instant,
    ) -> Telling {
        let channels = self.channels.iter();
        let channels = channels.filter(|(_, newest)| sees(newest.seen_as));
        let channels = channels.filter_map(|(&id, newest)| {
            Some(UnreadChannel {
                id,
                last_message_id: newest.message?,
                last_pin_timestamp: newest.pin,
            })
        });
        let channels: Vec<UnreadChannel> = channels.collect();
        let mut updated: Vec<&VoiceState> = Vec::new();
        let mut members: Vec<&Member> = Vec::new();
        let mut removed: Vec<Id<User>> = Vec::new();
        if form != Form::Unread {
            for (&id, voice) in &self.voices {
                match &voice.state {
                    Some(state) if state.channel_id.is_some_and(&sees) => {
                        updated.push(state);
                        members.extend(&voice.member);
                    }
                    // One's own is never out of sight.
                    _ if voice.left.iter().any(|&channel| sees(channel))
                        || id != user && voice.is_lost_by(user) =>
                    {
                        removed.push(id);
                    }
                    _ => {}
                }
            }
        }
        let voice_changed = !(updated.is_empty() && removed.is_empty());
        let has_news = !channels.is_empty() || (form == Form::V2 && voice_changed);
        let (kind, update) = match form {
            Form::Unread => {
                let update = Update::Unread {
                    guild_id: guild,
                    channel_unread_updates: channels,
                };
                (EventKind::ChannelUnreadUpdate, update)
            }
            Form::V1 => {
                let update = Update::V1 {
                    guild_id: guild,
                    channels,
                };
                (EventKind::PassiveUpdateV1, update)
            }
            Form::V2 => {
                let update = Update::V2 {
                    guild_id: guild,
                    updated_channels: channels,
                    updated_voice_states: updated,
                    removed_voice_states: removed,
                    updated_members: members,
                };
                (EventKind::PassiveUpdateV2, update)
            }
        };
        let body = has_news.then(|| serde_json::to_vec(&update).ok()).flatten();
        Telling {
            dispatch: body.map(|body| Dispatch::new(kind, &body, now)),
            asks: form == Form::V1 && voice_changed,
        }
    }
}

impl Core {
    /// Tells those who read it, once in a while.
    pub(super) fn tick_unread(&mut self) {
        let mut forms = self.sessions.iter().filter_map(|(_, of)| Form::of(of));
        let first = forms.next();
        let newer = first.into_iter().chain(forms).any(|of| of != Form::Unread);
        self.unread.channels.set_read(first.is_some());
        self.unread.voices.set_read(newer);
        self.unread.begin(self.now);
        self.tell_unread(LOOKS_MAX);
    }

    /// Goes on with a round until about so many sessions were looked at.
    fn tell_unread(&mut self, looks_max: usize) {
        let mut looked = 0;
        while looked < looks_max
            && let Some(realm) = self.unread.due.pop()
        {
            looked += self.tell_unread_of(realm);
        }
    }

    /// One realm's news; returns how many sessions were looked at.
    fn tell_unread_of(&mut self, realm: Id<Realm>) -> usize {
        let news = self.unread.take(realm);
        let Some(hub) = self.hub.get(realm).filter(|_| !news.is_empty()) else {
            return 1;
        };
        let slots = hub.all_sessions();
        let guild: Id<Guild> = realm.cast();
        for (slot, telling) in self.tellings(hub, guild, &news, &slots) {
            if let Some(dispatch) = telling.dispatch {
                self.dispatch(slot, &dispatch);
            }
            if telling.asks {
                self.ask(slot, guild, Question::VoiceStates);
            }
        }
        slots.len()
    }

    /// What is told to whom of a guild's sessions.
    fn tellings(
        &self,
        hub: &RealmHub,
        guild: Id<Guild>,
        news: &News,
        slots: &[SessionSlot],
    ) -> Vec<(SessionSlot, Telling)> {
        let mut made: FxHashMap<(Form, &[ClassId]), Telling> = FxHashMap::default();
        let mut tellings = Vec::new();
        for &slot in slots {
            // Who is not connected gets the messages when they resume.
            let session = self.sessions.get(slot as usize);
            let session = session.filter(|session| session.connection.is_some());
            let Some((session, form)) = session.and_then(|of| Some((of, Form::of(of)?))) else {
                continue;
            };
            let looks = session.watches.iter().any(|(known, _)| *known == guild);
            if looks || session.guild_phase(guild) != Some(GuildPhase::Present) {
                continue;
            }
            let user = session.user;
            // Whose snapshot is newer than what has come here knows better.
            if hub.reached(user, slot) != hub.position() {
                continue;
            }
            let make = || {
                let sees = |channel| hub.sees(user, channel);
                news.telling(form, guild, user, sees, self.now)
            };
            let telling = if form != Form::Unread && news.has_lost(user) {
                make()
            } else {
                let alike = (form, hub.classes_of(user));
                made.entry(alike).or_insert_with(make).clone()
            };
            if telling.dispatch.is_some() || telling.asks {
                tellings.push((slot, telling));
            }
        }
        tellings
    }
}

#[cfg(test)]
#[path = "unread_tests.rs"]
mod tests;
