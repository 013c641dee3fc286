//! What is filed and told, and to whom: of a round alone, and of a core without node.

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
    ask::Ask,
    bus::{Subscribed, ToCore, ToNode, ViewChange},
    config::ResumeLog,
    core::{
        clock,
        model::{self, guild, user},
    },
    format::Format,
    names::SessionKey,
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
        let news = unread.take(realm());
        let telling = |form| {
            let sees = |channel: Id<Channel>| channel != id(6);
            news.telling(form, guild(), id(3), sees, Instant::now())
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
    let news = unread.take(realm());
    let own = news.telling(Form::V2, guild(), id(20), |_| true, Instant::now());
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
        self.client_in(capabilities, &[guild()])
    }

    /// The same with other guilds.
    fn client_in(&mut self, capabilities: Capabilities, guilds: &[Id<Guild>]) -> Client {
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
                identity.guilds = guilds.to_vec();
                let result = Ok(Box::new(identity));
                Some(ToCore::Identified { session, result })
            }
            _ => None,
        });
        self.tell(identified.unwrap());
        for &guild in guilds {
            self.has(&client, guild, 1);
        }
        client
    }

    /// The guild's owner, at a number.
    fn answers(&mut self, seq: u64, lost: bool, snapshots: Vec<(SessionKey, Bytes)>) {
        self.answers_of(guild(), seq, lost, snapshots);
    }

    fn answers_of(
        &mut self,
        guild: Id<Guild>,
        seq: u64,
        lost: bool,
        snapshots: Vec<(SessionKey, Bytes)>,
    ) {
        self.tell(ToCore::Subscribed(Box::new(Subscribed {
            realm: guild.cast(),
            position: Position { era: 1, seq },
            view: ViewChange {
                channels: vec![(id(5), Some(0)), (id(6), Some(1))],
                users: vec![(user(), Some(vec![0]))],
            },
            complete: true,
            replay: Vec::new(),
            lost: lost.then_some(Position { era: 1, seq }),
            snapshots,
        })));
    }

    fn has_guild(&mut self, client: &Client, seq: u64) {
        self.has(client, guild(), seq);
    }

    fn has(&mut self, client: &Client, guild: Id<Guild>, seq: u64) {
        let connection = self.core.connection(client.connection).unwrap();
        let slot = connection.session.unwrap();
        let key = self.core.sessions[slot as usize].key(slot);
        let body = json!({"id": guild, "voice_states": [], "members": [], "threads": []});
        self.answers_of(guild, seq, false, vec![(key, body.to_string().into())]);
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

#[test]
fn what_is_more_than_one_tick_looks_at_is_told_at_the_next_as_it_is_then() {
    let mut world = World::new();
    let guilds = [guild(), id(78 << 22), id(79 << 22)];
    let client = world.client_in(Capabilities::empty(), &guilds);
    world.core.tick();
    let post_in_all = |world: &mut World, number: u64| {
        for guild in guilds {
            world.happens(Envelope {
                realm: guild.cast(),
                ..message(number, 5, Scope::Channel(id(5)))
            });
        }
    };
    post_in_all(&mut world, 2);
    // Before its time a round does not begin.
    world.core.unread.begin(world.core.now);
    world.core.tell_unread(1);
    world.core.flush();
    assert!(world.told(&client).is_empty());

    clock::forward(TOLD_EVERY);
    world.core.unread.begin(clock::now());
    let mut told: Vec<(Id<Guild>, Value)> = Vec::new();
    for number in 3..6 {
        world.core.tell_unread(1);
        world.core.flush();
        let of_one = world.told(&client);
        let [(_, d)] = &of_one[..] else {
            panic!("{of_one:?}");
        };
        let guild: Id<Guild> = serde_json::from_value(d["guild_id"].clone()).unwrap();
        let newest = d["channel_unread_updates"][0]["last_message_id"].clone();
        told.push((guild, newest));
        // What comes before a guild's turn is told with the rest of it, what comes later by the next
        // round.
        post_in_all(&mut world, number);
        assert_eq!(world.core.unread.due.len(), 5 - number as usize);
        world.core.unread.begin(clock::now());
    }
    let newest: Vec<&Value> = told.iter().map(|(_, newest)| newest).collect();
    assert_eq!(newest, ["2", "3", "4"]);
    told.sort_by_key(|(guild, _)| *guild);
    let of: Vec<Id<Guild>> = told.iter().map(|(guild, _)| *guild).collect();
    assert_eq!(of, guilds);
    world.core.tell_unread(1);
    world.core.flush();
    assert!(world.told(&client).is_empty());
    world.round();
    assert_eq!(world.told(&client).len(), 3);
}
