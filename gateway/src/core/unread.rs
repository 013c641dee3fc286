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
    bus::{ClassId, Question, SessionSlot},
    dispatch::Dispatch,
    session::{GuildPhase, Session},
};

const TOLD_EVERY: Duration = Duration::from_secs(30);
/// Channels, and users in voice, filed between two rounds; further ones are left out of the next.
const FILED_MAX: usize = 10_000;

/// What happened since the last round.
#[derive(Debug)]
pub(super) struct Unread {
    told: Instant,
    channels: Filed<Id<Channel>, Newest>,
    /// For those who read a newer form alone.
    voices: Filed<Id<User>, Voice>,
}

type ByRealm<K, V> = FxHashMap<Id<Realm>, FxHashMap<K, V>>;

/// News of one kind.
#[derive(Debug)]
struct Filed<K, V> {
    /// Whether any session of this core is told of it.
    read: bool,
    count: usize,
    by_realm: ByRealm<K, V>,
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

/// What a round tells of.
#[derive(Debug)]
struct Round {
    channels: ByRealm<Id<Channel>, Newest>,
    voices: ByRealm<Id<User>, Voice>,
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
        self.channels.forget(realm);
        self.voices.forget(realm);
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

    fn take(&mut self) -> Round {
        Round {
            channels: self.channels.take(),
            voices: self.voices.take(),
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
            self.take();
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

    fn forget(&mut self, realm: Id<Realm>) {
        let gone = self.by_realm.remove(&realm);
        self.count -= gone.map_or(0, |gone| gone.len());
    }

    fn take(&mut self) -> ByRealm<K, V> {
        self.count = 0;
        std::mem::take(&mut self.by_realm)
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

impl Round {
    fn tells_of(&self, realm: Id<Realm>) -> bool {
        self.channels.contains_key(&realm) || self.voices.contains_key(&realm)
    }

    /// Whether somebody in voice went out of a user's sight: others who see the same channels now
    /// may not have seen them before.
    fn has_lost(&self, realm: Id<Realm>, user: Id<User>) -> bool {
        let voices = self.voices.get(&realm);
        voices.is_some_and(|voices| voices.values().any(|voice| voice.is_lost_by(user)))
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
        let realm: Id<Realm> = guild.cast();
        let channels = self.channels.get(&realm).into_iter().flatten();
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
            for (&id, voice) in self.voices.get(&realm).into_iter().flatten() {
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
        if self.now.duration_since(self.unread.told) < TOLD_EVERY {
            return;
        }
        self.unread.told = self.now;
        let round = self.unread.take();
        if round.channels.is_empty() && round.voices.is_empty() {
            return;
        }
        for (slot, guild, telling) in self.tellings(&round) {
            if let Some(dispatch) = telling.dispatch {
                self.dispatch(slot, &dispatch);
            }
            if telling.asks {
                self.ask(slot, guild, Question::VoiceStates);
            }
        }
    }

    /// What a round tells to whom.
    fn tellings(&self, round: &Round) -> Vec<(SessionSlot, Id<Guild>, Telling)> {
        let mut made: FxHashMap<(Id<Guild>, Form, &[ClassId]), Telling> = FxHashMap::default();
        let mut tellings = Vec::new();
        for (slot, session) in &self.sessions {
            // Who is not connected gets the messages when they resume.
            let form = Form::of(session).filter(|_| session.connection.is_some());
            let Some(form) = form else { continue };
            let (slot, user) = (slot as SessionSlot, session.user);
            for &(guild, phase) in &session.guilds {
                let realm: Id<Realm> = guild.cast();
                if !round.tells_of(realm) || phase != GuildPhase::Present {
                    continue;
                }
                if session.watches.iter().any(|(known, _)| *known == guild) {
                    continue;
                }
                let Some(hub) = self.hub.get(realm) else {
                    continue;
                };
                // Whose snapshot is newer than what has come here knows better.
                if hub.reached(user, slot) != hub.position() {
                    continue;
                }
                let make = || {
                    let sees = |channel| hub.sees(user, channel);
                    round.telling(form, guild, user, sees, self.now)
                };
                let telling = if form != Form::Unread && round.has_lost(realm, user) {
                    make()
                } else {
                    let alike = (guild, form, hub.classes_of(user));
                    made.entry(alike).or_insert_with(make).clone()
                };
                if telling.dispatch.is_some() || telling.asks {
                    tellings.push((slot, guild, telling));
                }
            }
        }
        tellings
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use guildhall_shared::{
        envelope::{Durability, Visibility},
        gateway::Intents,
        shard::Position,
    };
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        bus::{Ask, SessionKey, Subscribed, ToCore, ToNode, ViewChange},
        config::ResumeLog,
        core::{
            clock,
            model::{self, guild, user},
        },
        format::Format,
        socket::{Script, Socket},
        wire::Inbound,
    };

    const V1: Capabilities = Capabilities::PASSIVE_GUILD_UPDATE;
    const V2: Capabilities = Capabilities::PASSIVE_GUILD_UPDATE_V2;
    const PINNED: &str = "2026-01-02T03:04:05.000000+00:00";

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    fn realm() -> Id<Realm> {
        guild().cast()
    }

    fn event(seq: u64, kind: EventKind, scope: Scope, body: &Value) -> Envelope {
        Envelope {
            realm: realm(),
            durability: Durability::Durable(Position { era: 1, seq }),
            kind,
            vis: Visibility::of(scope, Intents::empty()),
            at_ms: 0,
            trace: 0,
            body: body.to_string().into(),
            alt: None,
        }
    }

    fn message(number: u64, channel: u64, scope: Scope) -> Envelope {
        let body = json!({ "id": number.to_string(), "content": "hi",
                           "channel_id": channel.to_string() });
        event(number, EventKind::MessageCreate, scope, &body)
    }

    fn pin(seq: u64, channel: u64, seen_as: u64) -> Envelope {
        let body = json!({"channel_id": channel.to_string(), "last_pin_timestamp": PINNED});
        let scope = Scope::Channel(id(seen_as));
        event(seq, EventKind::ChannelPinsUpdate, scope, &body)
    }

    /// User 20 is in a channel, or in none.
    fn voice(seq: u64, channel: Option<u64>, scope: Scope) -> Envelope {
        let user = json!({
            "id": "20", "username": "speaker", "discriminator": "0", "public_flags": 0, "flags": 0,
        });
        let member = json!({
            "user": user, "roles": [], "joined_at": PINNED, "deaf": false, "mute": false,
            "flags": 0, "pending": false,
        });
        let body = json!({
            "guild_id": guild(), "channel_id": channel.map(|channel| channel.to_string()),
            "user_id": "20", "member": member, "session_id": "one", "deaf": false, "mute": false,
            "self_deaf": false, "self_mute": false, "self_stream": false, "self_video": false,
            "suppress": false,
        });
        event(seq, EventKind::VoiceStateUpdate, scope, &body)
    }

    #[test]
    fn the_newest_message_of_each_channel_is_filed_while_somebody_reads_it() {
        let mut unread = Unread::new(Instant::now());
        let in_thread = message(8, 6, Scope::Channel(id(5)));
        unread.note(&in_thread);
        assert!(unread.channels.by_realm.is_empty());
        unread.channels.set_read(true);
        unread.note(&message(7, 5, Scope::Channel(id(5))));
        unread.note(&in_thread);
        unread.note(&message(9, 5, Scope::Channel(id(5))));
        unread.note(&message(10, 4, Scope::Users([id::<User>(3)].into())));
        unread.note(&voice(11, Some(5), Scope::Channel(id(5))));
        assert!(
            unread.voices.by_realm.is_empty(),
            "nobody reads a newer form"
        );
        let filed = &unread.channels.by_realm[&realm()];
        assert_eq!((filed.len(), unread.channels.count), (2, 2));
        let of = |channel| {
            let newest = filed[&id(channel)];
            (newest.message, newest.seen_as.get())
        };
        assert_eq!((of(5), of(6)), ((Some(id(9)), 5), (Some(id(8)), 5)));
        unread.channels.set_read(false);
        assert!(unread.channels.by_realm.is_empty());
        assert_eq!(unread.channels.count, 0);
    }

    #[test]
    fn who_sees_where_somebody_is_or_was_in_voice_is_told() {
        let enters = |channel: u64| (Some(channel), Scope::Channel(id(channel)));
        let leaves = |channel: u64| (None, Scope::Channel(id(channel)));
        let named = || Scope::Users([id::<User>(3)].into());
        // User 3 does not see channel 6.
        for (steps, updated, removed) in [
            (vec![enters(5)], 1, 0),
            (vec![enters(5), enters(7)], 1, 0),
            (vec![enters(5), leaves(5)], 0, 1),
            (vec![enters(6)], 0, 0),
            (vec![enters(6), leaves(6)], 0, 0),
            // Out of sight, as owners tell it, and back.
            (vec![(None, named()), enters(6)], 0, 1),
            (vec![(None, named()), enters(6), leaves(6)], 0, 1),
            (vec![(None, named()), enters(6), enters(5)], 1, 0),
            (vec![leaves(5), enters(6)], 0, 1),
            // The channel itself went out of sight, and came back.
            (vec![(None, named())], 0, 1),
            (vec![(None, named()), (Some(5), named())], 0, 0),
            // Who sees a channel since now is told who is there with it.
            (vec![(Some(5), named())], 0, 0),
        ] {
            let mut unread = Unread::new(Instant::now());
            unread.voices.set_read(true);
            for (seq, (channel, scope)) in (1..).zip(&steps) {
                unread.note(&voice(seq, *channel, scope.clone()));
            }
            let round = unread.take();
            let telling = |form| {
                let sees = |channel: Id<Channel>| channel != id(6);
                round.telling(form, guild(), id(3), sees, Instant::now())
            };
            let told = telling(Form::V2).dispatch;
            let d: Value = told.map_or(Value::Null, |told| {
                serde_json::from_slice(&told.body).unwrap()
            });
            let count = |key: &str| d[key].as_array().map_or(0, Vec::len);
            let counts = (count("updated_voice_states"), count("removed_voice_states"));
            assert_eq!(counts, (updated, removed), "{steps:?}");
            assert_eq!(count("updated_members"), updated, "{steps:?}");
            let older = telling(Form::V1);
            assert_eq!(older.asks, updated + removed > 0, "{steps:?}");
            assert!(older.dispatch.is_none() && telling(Form::Unread).dispatch.is_none());
        }
        let mut unread = Unread::new(Instant::now());
        unread.voices.set_read(true);
        unread.note(&voice(1, None, Scope::Users([id::<User>(20)].into())));
        let round = unread.take();
        let own = round.telling(Form::V2, guild(), id(20), |_| true, Instant::now());
        assert!(own.dispatch.is_none(), "one's own is where one is");
    }

    /// A core with sessions of one person in one guild, where they see channel 5, and not 6.
    struct World {
        core: Core,
        requests: mpsc::Receiver<ToNode>,
    }

    struct Client {
        connection: SessionKey,
        socket: Rc<Socket>,
    }

    impl World {
        fn new() -> Self {
            let (core, requests) = model::core(1, ResumeLog::Async);
            Self { core, requests }
        }

        fn tell(&mut self, message: ToCore) {
            self.core.on_message(message);
            self.core.flush();
        }

        fn say(&mut self, client: &Client, command: &Value) {
            let text = Inbound::Text(command.to_string().into_bytes());
            self.core.received(client.connection, text);
            self.core.flush();
        }

        /// A person's client, which has the guild.
        fn client(&mut self, capabilities: Capabilities) -> Client {
            let socket = Rc::new(Socket::Script(Script::with_room(usize::MAX)));
            let connection = self
                .core
                .connection_opened(socket.clone(), Format::default());
            let client = Client { connection, socket };
            let d = json!({
                "token": model::TOKEN, "properties": {}, "capabilities": capabilities.bits(),
            });
            self.say(&client, &json!({"op": 2, "d": d}));
            let mut requests = std::iter::from_fn(|| self.requests.try_recv().ok());
            let identified = requests.find_map(|request| match request {
                ToNode::Identify {
                    session, request, ..
                } => {
                    let mut identity = model::identity(&request);
                    identity.user.user.bot = false;
                    let result = Ok(Box::new(identity));
                    Some(ToCore::Identified { session, result })
                }
                _ => None,
            });
            self.tell(identified.unwrap());
            self.has_guild(&client, 1);
            client
        }

        /// The guild's owner, at a number.
        fn answers(&mut self, seq: u64, lost: bool, snapshots: Vec<(SessionKey, Bytes)>) {
            self.tell(ToCore::Subscribed(Box::new(Subscribed {
                realm: realm(),
                position: Position { era: 1, seq },
                view: ViewChange {
                    channels: vec![(id(5), Some(0)), (id(6), Some(1))],
                    users: vec![(user(), Some(vec![0]))],
                },
                complete: true,
                replay: Vec::new(),
                lost,
                snapshots,
            })));
        }

        fn has_guild(&mut self, client: &Client, seq: u64) {
            let connection = self.core.connection(client.connection).unwrap();
            let slot = connection.session.unwrap();
            let key = self.core.sessions[slot as usize].key(slot);
            let body = json!({"id": guild(), "voice_states": [], "members": [], "threads": []});
            self.answers(seq, false, vec![(key, body.to_string().into())]);
        }

        fn happens(&mut self, event: Envelope) {
            self.tell(ToCore::Event(Arc::new(event)));
        }

        fn round(&mut self) {
            clock::forward(TOLD_EVERY);
            self.core.tick();
        }

        /// What a client was told of guilds that it does not look at, since the last time.
        fn told(&self, client: &Client) -> Vec<(String, Value)> {
            let Socket::Script(script) = &*client.socket else {
                panic!("a socket of the kernel");
            };
            let mut bytes = script.take();
            let mut told = Vec::new();
            while let Some((opcode, payload)) = model::next_frame(&mut bytes) {
                if opcode != 1 {
                    continue;
                }
                let mut payload: Value = serde_json::from_slice(&payload).unwrap();
                let d = payload["d"].take();
                let name = payload["t"].as_str().unwrap_or_default();
                if name == "CHANNEL_UNREAD_UPDATE" || name.starts_with("PASSIVE") {
                    told.push((name.to_owned(), d));
                }
            }
            told
        }

        fn asked(&mut self) -> Vec<Ask> {
            let requests = std::iter::from_fn(|| self.requests.try_recv().ok());
            let asked = requests.filter_map(|request| match request {
                ToNode::Ask(ask) => Some(*ask),
                _ => None,
            });
            asked.collect()
        }
    }

    #[test]
    fn who_does_not_look_is_told_in_the_newest_form_that_their_client_reads() {
        let mut world = World::new();
        let older = world.client(Capabilities::empty());
        let v1 = world.client(V1);
        let v2 = [world.client(V2), world.client(V1 | V2)];
        let looks = world.client(V2);
        let d = json!({"guild_id": guild(), "channels": {"5": [[0, 99]]}});
        world.say(&looks, &json!({"op": 14, "d": d}));
        world.core.tick();
        let seen = || Scope::Channel(id(5));
        world.happens(pin(2, 5, 5));
        world.happens(message(3, 5, seen()));
        world.happens(message(4, 6, Scope::Channel(id(6))));
        world.happens(voice(5, Some(5), seen()));
        // Without a message there is nothing to read.
        world.happens(pin(6, 9, 5));
        world.round();

        let channels = json!([{"id": "5", "last_message_id": "3", "last_pin_timestamp": PINNED}]);
        let told = |name: &str, d: Value| vec![(name.to_owned(), d)];
        assert_eq!(
            world.told(&older),
            told(
                "CHANNEL_UNREAD_UPDATE",
                json!({"guild_id": guild(), "channel_unread_updates": channels}),
            )
        );
        assert_eq!(
            world.told(&v1),
            told(
                "PASSIVE_UPDATE_V1",
                json!({"guild_id": guild(), "channels": channels}),
            )
        );
        for client in &v2 {
            let told = world.told(client);
            let [(name, d)] = &told[..] else {
                panic!("{told:?}");
            };
            assert_eq!(
                (name.as_str(), &d["updated_channels"]),
                ("PASSIVE_UPDATE_V2", &channels)
            );
            let state = &d["updated_voice_states"][0];
            assert_eq!(
                (&state["user_id"], &state["channel_id"]),
                (&json!("20"), &json!("5"))
            );
            assert!(state.get("member").is_none() && state.get("guild_id").is_none());
            assert_eq!(d["updated_members"][0]["user"]["id"], "20");
            assert_eq!(d["removed_voice_states"], json!([]));
        }
        assert!(world.told(&looks).is_empty());
        // Who reads V1 is told all who are in voice by the owner.
        let asked = world.asked();
        let [ask] = &asked[..] else {
            panic!("{asked:?}");
        };
        assert_eq!(
            (ask.guild, &ask.question),
            (guild(), &Question::VoiceStates)
        );

        // Nothing has changed since.
        world.round();
        for client in [&older, &v1, &v2[0], &v2[1], &looks] {
            assert!(world.told(client).is_empty());
        }
    }

    #[test]
    fn what_was_filed_before_a_loss_is_not_told_after_it() {
        let mut world = World::new();
        let client = world.client(V2);
        world.core.tick();
        world.happens(message(2, 5, Scope::Channel(id(5))));
        // A gap, behind which nobody knows what was between.
        world.happens(message(5, 5, Scope::Channel(id(5))));
        world.answers(9, true, Vec::new());
        world.has_guild(&client, 9);
        world.round();
        assert!(world.told(&client).is_empty());
        world.happens(message(10, 5, Scope::Channel(id(5))));
        world.round();
        assert_eq!(world.told(&client).len(), 1);
    }
}
