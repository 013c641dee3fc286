use bytes::Bytes;
use guildhall_shared::{
    Id, Timestamp,
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::{Capabilities, EventKind, Intents},
    id::marker::{Channel, Guild},
    model::{
        self, ChannelKind, CurrentUser, Platform, Presence, PrivateChannel, Relationship,
        RelationshipKind, SessionState, Status, StoredGuildSettings, Theme,
    },
    shard::{Position, realm},
    token::TokenHash,
};
use guildhall_store::{
    personal::Personal,
    read_state::{Place, ReadState},
};
use serde_json::{Value, json};

use super::*;
use crate::session::AssembledGuild;

/// What the web client sets that we know of.
const WEB: u32 = 16_381;

fn id<T>(id: u64) -> Id<T> {
    Id::new(id).unwrap()
}

fn user(number: u64, name: &str) -> model::User {
    model::User {
        id: id(number),
        username: name.to_owned(),
        discriminator: "0".to_owned(),
        global_name: None,
        avatar: None,
        bot: false,
        public_flags: 0,
        flags: 0,
        banner: None,
        accent_color: None,
        avatar_decoration_data: None,
        collectibles: None,
        primary_guild: None,
    }
}

fn identity(personal: Option<Personal>) -> Identity {
    Identity {
        user: CurrentUser {
            user: user(1, "alice"),
            mfa_enabled: false,
            locale: "en-US".to_owned(),
            verified: true,
            email: None,
            premium_type: 0,
            bio: String::new(),
            pronouns: String::new(),
            private: None,
        },
        token: TokenHash([0; 32]),
        intents: Intents::empty(),
        application: None,
        position: Position { era: 1, seq: 0 },
        guilds: vec![id(5)],
        presences: Vec::new(),
        sessions: Vec::new(),
        private_channels: vec![PrivateChannel {
            id: id(70),
            kind: ChannelKind(1),
            last_message_id: None,
            last_pin_timestamp: None,
            flags: 0,
            recipients: vec![user(2, "bob")],
            group: None,
        }],
        personal: personal.map(Box::new),
        seat: None,
    }
}

fn session() -> SessionId {
    SessionId::new(0, 0, [0; 10])
}

/// Alice (1) has a friend, a blocked (3), settings, a note, and read channel 50 of guild 5.
fn personal() -> Personal {
    let mut personal = Personal::default();
    personal.settings.theme = Theme::Light;
    for (other, name, kind) in [
        (2, "bob", RelationshipKind::Friend),
        (3, "mallory", RelationshipKind::Blocked),
    ] {
        personal.relationships.push(Relationship {
            id: id(other),
            kind,
            user: user(other, name),
            nickname: Some("Bobby".to_owned()),
            is_spam_request: false,
            stranger_request: false,
            user_ignored: false,
            since: Timestamp::now(),
        });
    }
    personal.notes.insert(id(2), "from work".to_owned());
    for guild in [5, 6] {
        let settings = StoredGuildSettings {
            version: 3,
            suppress_roles: guild == 6,
            ..StoredGuildSettings::default()
        };
        personal
            .guild_settings
            .push(settings.into_wire(Id::new(guild)));
    }
    let place = |channel| Place {
        guild: id(5),
        seen_by: id(channel),
    };
    for (channel, mentions) in [(50, 2), (51, 1)] {
        personal.read_states.states.push(ReadState {
            last_message: Id::new(900),
            mentions,
            ..ReadState::unread(id(channel), Some(place(channel)))
        });
    }
    let dm = ReadState::unread(id(70), None);
    personal.read_states.states.push(dm);
    personal
}

fn guild() -> AssembledGuild {
    let member = |user: model::User| json!({"user": user, "roles": ["81"], "joined_at": "2026-01-01T00:00:00+00:00"});
    let body = json!({
        "id": "5", "name": "Hall", "owner_id": "1", "premium_subscription_count": 0,
        "roles": [], "emojis": [], "stickers": [], "joined_at": "2026-01-01T00:00:00+00:00",
        "large": false, "unavailable": false, "member_count": 2,
        "voice_states": [{"user_id": "4"}],
        "members": [member(user(4, "dave")), member(user(1, "alice"))],
        "channels": [], "presences": [{"user": {"id": "4"}, "status": "idle"}],
        "threads": [{"id": "60", "member": {"flags": 0}}, {"id": "61"}],
        "stage_instances": [], "guild_scheduled_events": [], "soundboard_sounds": [],
    });
    AssembledGuild {
        id: id(5),
        position: Position { era: 1, seq: 9 },
        body: Bytes::from(body.to_string()),
    }
}

/// READY and READY_SUPPLEMENTAL; channel 51 is hidden.
fn bodies(capabilities: u32, personal: Personal, missed: &[Envelope]) -> (Value, Option<Value>) {
    let mut identity = identity(Some(personal));
    let state = |id, status| SessionState {
        id: [id; 16],
        status,
        platform: Platform::Web,
        activities: None,
    };
    let presence = Presence::of_session(Platform::Mobile, Status::Idle, None);
    identity.presences = vec![(id(2), presence)];
    identity.sessions = vec![state(7, Status::Dnd), state(0, Status::Idle)];
    let guilds = [guild()];
    let person = Person {
        identity: &identity,
        session: session(),
        own: &state(0, Status::Online),
        resume_url: "ws://x",
        shard: None,
        capabilities: Capabilities::from_bits_truncate(capabilities),
        guilds: &guilds,
        missed,
    };
    let sees = |_: Id<Guild>, channel: Id<Channel>| channel.get() != 51;
    let bodies = person.bodies(sees).unwrap();
    let read = |body: &Vec<u8>| serde_json::from_slice(body).unwrap();
    (read(&bodies.ready), bodies.supplemental.as_ref().map(read))
}

fn mentions(ready: &Value) -> Vec<(&str, u64)> {
    let entries = ready["read_state"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            let channel = entry["id"].as_str().unwrap();
            (channel, entry["mention_count"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn without_capabilities_the_older_shapes_are_sent() {
    let (ready, supplemental) = bodies(0, personal(), &[]);
    assert!(supplemental.is_none());
    assert_eq!(ready["relationships"][0]["type"], 1);
    assert_eq!(ready["relationships"][0]["user"]["username"], "bob");
    assert_eq!(ready["private_channels"][0]["recipients"][0]["id"], "2");
    assert_eq!(ready["user_settings"]["theme"], "light");
    assert_eq!(ready["notes"]["2"], "from work");
    let friend = &ready["presences"][0];
    assert_eq!(friend["user"], json!({"id": "2"}));
    assert_eq!(friend["client_status"], json!({"mobile": "idle"}));
    let statuses = ready["sessions"].as_array().unwrap().iter();
    let statuses: Vec<_> = statuses.map(|session| &session["status"]).collect();
    assert_eq!(statuses, ["dnd", "online"]);
    assert_eq!(ready["users"], json!([]));
    assert!(ready.get("merged_members").is_none());
    assert_eq!(ready["guilds"][0]["name"], "Hall");
    assert_eq!(ready["guilds"][0]["members"][0]["user"]["id"], "4");
    assert_eq!(ready["guilds"][0]["voice_states"][0]["user_id"], "4");
    // Settings of a guild that the user has left are not shown.
    assert_eq!(ready["user_guild_settings"].as_array().unwrap().len(), 1);
    assert_eq!(ready["user_guild_settings"][0]["guild_id"], "5");
}

#[test]
fn a_web_client_finds_users_once_and_properties_apart() {
    let (ready, supplemental) = bodies(WEB, personal(), &[]);
    for absent in ["notes", "presences", "merged_presences"] {
        assert!(ready.get(absent).is_none(), "{absent}");
    }
    let names = ready["users"].as_array().unwrap().iter();
    let names: Vec<_> = names
        .map(|user| user["username"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["alice", "bob", "mallory", "dave"]);
    assert_eq!(ready["relationships"][0]["user_id"], "2");
    assert_eq!(ready["user_settings"]["theme"], "light");
    let private = &ready["private_channels"][0];
    assert_eq!(private["recipient_ids"], json!(["2"]));
    assert!(private.get("recipients").is_none());
    assert_eq!(ready["read_state"]["partial"], false);
    assert_eq!(ready["read_state"]["entries"].as_array().unwrap().len(), 2);
    assert!(ready["read_state"]["version"].as_u64().unwrap() > 0);
    assert_eq!(ready["user_guild_settings"]["version"], 6);

    let guild = &ready["guilds"][0];
    assert_eq!(guild["properties"]["name"], "Hall");
    assert_eq!(guild["properties"]["id"], "5");
    assert_eq!(guild["data_mode"], "full");
    assert_eq!(
        (&guild["version"], &guild["lazy"]),
        (&json!(9), &json!(true))
    );
    for elsewhere in ["name", "owner_id", "members", "voice_states", "presences"] {
        assert!(guild.get(elsewhere).is_none(), "{elsewhere}");
    }
    for here in ["roles", "channels", "threads", "joined_at", "member_count"] {
        assert!(guild["properties"].get(here).is_none(), "{here}");
        assert!(guild.get(here).is_some(), "{here}");
    }
    let own = &ready["merged_members"];
    assert_eq!(own[0].as_array().unwrap().len(), 1);
    for (field, value) in [("user_id", "1"), ("id", "1"), ("guild_id", "5")] {
        assert_eq!(own[0][0][field], value);
    }
    assert_eq!(own[0][0]["roles"], json!(["81"]));
    assert!(own[0][0].get("user").is_none());

    let supplemental = supplemental.unwrap();
    assert_eq!(supplemental["guilds"][0]["voice_states"][0]["user_id"], "4");
    assert_eq!(supplemental["merged_members"][0][0]["user_id"], "4");
    let friend = &supplemental["merged_presences"]["friends"][0];
    assert_eq!(
        (&friend["user_id"], &friend["status"]),
        (&json!("2"), &json!("idle"))
    );
    let presence = &supplemental["merged_presences"]["guilds"][0][0];
    assert_eq!(*presence, json!({"user_id": "4", "status": "idle"}));
}

#[test]
fn a_guild_that_comes_later_has_the_shape_of_ready() {
    let guild = guild();
    let web = Capabilities::from_bits_truncate(WEB);
    let shaped = guild_create(web, guild.position, &guild.body).unwrap();
    let shaped: Value = serde_json::from_slice(&shaped).unwrap();
    assert_eq!(shaped["properties"]["name"], "Hall");
    assert_eq!(shaped["members"][1]["user"]["id"], "1");
    assert_eq!(shaped["unavailable"], false);
    assert!(guild_create(Capabilities::empty(), guild.position, &guild.body).is_none());
}

/// A message of guild 5 in the place, as its event.
fn message(scope: Scope, channel: u64, author: u64, calls: Value) -> Envelope {
    let mut body = json!({
        "id": "1000", "channel_id": channel.to_string(), "author": {"id": author.to_string()},
        "content": "x", "mention_everyone": false, "mentions": [], "mention_roles": [],
    });
    body.as_object_mut()
        .unwrap()
        .extend(calls.as_object().unwrap().clone());
    Envelope {
        realm: realm(id::<Guild>(5)),
        durability: Durability::Durable(Position { era: 1, seq: 9 }),
        kind: EventKind::MessageCreate,
        vis: Visibility::of(scope, Intents::GUILD_MESSAGES),
        at_ms: 0,
        trace: 0,
        body: Bytes::from(body.to_string()),
        alt: None,
    }
}

#[test]
fn calls_between_the_read_and_ready_are_counted() {
    let everyone = json!({"mention_everyone": true});
    let named = json!({"mentions": [{"id": "1"}]});
    let mine = json!({"mention_roles": ["81", "82"]});
    let others = json!({"mention_roles": ["82"], "mentions": [{"id": "4"}]});
    let open = || Scope::Channel(id(50));
    let counted = |missed: &[Envelope]| {
        let (ready, _) = bodies(0, personal(), missed);
        let counts = mentions(&ready);
        counts
            .into_iter()
            .map(|(at, n)| (at.to_owned(), n))
            .collect::<Vec<_>>()
    };
    let list = |counts: &[(&str, u64)]| {
        let counts = counts.iter();
        counts
            .map(|&(at, n)| (at.to_owned(), n))
            .collect::<Vec<_>>()
    };
    // 51 is hidden, whatever calls there.
    let hidden = message(Scope::Channel(id(51)), 51, 4, everyone.clone());
    assert_eq!(counted(&[hidden]), list(&[("50", 2), ("70", 0)]));
    let missed = [
        message(open(), 50, 4, everyone.clone()),
        message(open(), 50, 4, named.clone()),
        message(open(), 50, 4, mine.clone()),
        message(open(), 50, 4, others),
        message(open(), 50, 1, everyone.clone()),
        message(open(), 50, 3, named.clone()),
    ];
    assert_eq!(counted(&missed), list(&[("50", 5), ("70", 0)]));
    // Of threads those count that one is in.
    let threads = [
        message(open(), 60, 4, everyone.clone()),
        message(open(), 61, 4, named),
    ];
    assert_eq!(counted(&threads), list(&[("50", 2), ("60", 1), ("70", 0)]));
    let new = message(Scope::Channel(id(52)), 52, 4, everyone.clone());
    assert_eq!(counted(&[new]), list(&[("50", 2), ("52", 1), ("70", 0)]));

    let mut quiet = personal();
    quiet.guild_settings[0].suppress_everyone = true;
    quiet.guild_settings[0].suppress_roles = true;
    let missed = [
        message(open(), 50, 4, everyone),
        message(open(), 50, 4, mine),
    ];
    let (ready, _) = bodies(0, quiet, &missed);
    assert_eq!(mentions(&ready), [("50", 2), ("70", 0)]);
}

#[test]
fn bots_get_the_same_fields_empty() {
    let bot = Identity {
        application: Some((id(1), 0)),
        ..identity(None)
    };
    let ready = for_bot(&bot, session(), "ws://x", Some((0, 1)));
    let ready: Value = serde_json::from_slice(&ready).unwrap();
    let missed = guildhall_spec::libraries::faults("READY", &ready);
    assert!(missed.is_empty(), "{missed:?}");
    assert_eq!(ready["relationships"], json!([]));
    assert_eq!(ready["private_channels"], json!([]));
    assert_eq!(ready["user_settings"], json!({}));
    assert_eq!(ready["guilds"], json!([{"id": "5", "unavailable": true}]));
    assert!(ready.get("notes").is_none());
}
