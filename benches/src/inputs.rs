//! What is measured: sizes as in a busy guild.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Instant,
};

use bytes::Bytes;
use guildhall_gateway::{bus::ViewChange, dispatch::Dispatch, hub::Hub, node::Classes};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Alt, Durability, Envelope, Visibility},
    gateway::{EventKind, Intents},
    permissions::{Overwrite, OverwriteKind},
    shard::Position,
};
use serde_json::json;
use shard_coordinator::{
    node::{Node, Standing, Weight},
    placement::{Observed, plan},
};

const POSITION: Position = Position { era: 1, seq: 7 };
/// Of a MESSAGE_CREATE whose frame has 600 bytes.
const BODY_BYTES: usize = 547;

pub fn id<T>(id: u64) -> Id<T> {
    Id::new(id).expect("ids of the benchmarks start at 1")
}

/// As many dispatches of one size.
pub fn dispatches(count: usize) -> Vec<Rc<Dispatch>> {
    let body = vec![b'x'; BODY_BYTES];
    let now = Instant::now();
    (0..count)
        .map(|_| Dispatch::new(EventKind::MessageCreate, &body, now))
        .collect()
}

/// `d` of a message in a busy guild.
pub fn said(n: u64) -> Vec<u8> {
    let id = |n: u64| (1_100_000_000_000_000_000 + n * 4_194_304_123).to_string();
    let words = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    json!({
        "id": id(n), "channel_id": id(1 << 20), "guild_id": id(2 << 20), "type": 0,
        "content": format!("message {n} of a busy guild with {words:x} in it"),
        "timestamp": format!("2026-11-28T19:{:02}:{:02}.{:06}+00:00", n / 60 % 60, n % 60, words % 1_000_000),
        "edited_timestamp": null, "tts": false, "mention_everyone": false, "mentions": [],
        "mention_roles": [], "attachments": [], "embeds": [], "pinned": false, "flags": 0,
        "components": [], "nonce": id(n * 31),
        "author": {
            "id": id((3 << 20) + n % 40), "username": format!("member{}", n % 40), "discriminator": "0",
            "global_name": null, "avatar": format!("{:032x}", (n % 40 + 1) * 0x1234_5678_9ABC),
            "public_flags": 0,
        },
        "member": {
            "roles": [id((4 << 20) + n % 3)], "nick": null, "avatar": null,
            "joined_at": format!("2026-01-{:02}T00:00:00.000000+00:00", n % 28 + 1),
            "premium_since": null, "deaf": false, "mute": false, "flags": 0, "pending": false,
        },
    })
    .to_string()
    .into_bytes()
}

/// Sessions of as many bots in a guild, a tenth of which may not view the channel or did not
/// ask for messages.
pub fn hub(sessions: u32) -> Hub {
    let mut hub = Hub::default();
    let user = |slot: u32| id(1_000 + u64::from(slot));
    for slot in 0..sessions {
        hub.join(id(1), user(slot), slot);
    }
    let realm = hub.get_mut(id(1)).expect("sessions joined it");
    realm.set_position(POSITION);
    realm.change_view(ViewChange {
        channels: vec![(id(5), Some(0)), (id(6), Some(1))],
        users: (0..sessions)
            .map(|slot| {
                let classes = if slot % 20 == 0 { vec![1] } else { vec![0, 1] };
                (user(slot), Some(classes))
            })
            .collect(),
    });
    for slot in 0..sessions {
        let intents = match slot % 20 {
            1 => Intents::GUILDS,
            2 => Intents::GUILDS | Intents::GUILD_MESSAGES,
            _ => Intents::GUILDS | Intents::GUILD_MESSAGES | Intents::MESSAGE_CONTENT,
        };
        realm.attach(user(slot), slot, intents, POSITION.seq);
    }
    hub
}

/// A message in the guild of [`hub`], with a body of so many bytes and one of half for those
/// without the intent of its content.
pub fn message(bytes: usize) -> Envelope {
    Envelope {
        realm: id(1),
        durability: Durability::Durable(Position {
            seq: POSITION.seq + 1,
            ..POSITION
        }),
        kind: EventKind::MessageCreate,
        vis: Visibility::channel(id(5), Intents::GUILD_MESSAGES),
        at_ms: 1_767_323_045_678,
        trace: 7,
        body: Bytes::from(vec![b'x'; bytes]),
        alt: Some(Alt {
            full_for: vec![id(1_003)],
            body: Bytes::from(vec![b'x'; bytes / 2]),
            parts: Vec::new(),
        }),
    }
}

/// Channels in as many classes as there are roles, and what overwrites each has.
pub fn channels(count: u64, roles: u64) -> Vec<(u64, Vec<Overwrite>)> {
    let hide = |role, allow, deny| Overwrite {
        id: id(role),
        kind: OverwriteKind::Role,
        allow,
        deny,
    };
    let none = Permissions::empty();
    let view = Permissions::VIEW_CHANNEL;
    (0..count)
        .map(|channel| {
            let role = 2 + channel % roles;
            let overwrites = vec![
                hide(1, none, view | Permissions::SEND_MESSAGES),
                hide(role, view, none),
            ];
            (1000 + channel, overwrites)
        })
        .collect()
}

/// The classes of these channels.
pub fn classes(channels: &[(u64, Vec<Overwrite>)]) -> Classes {
    let mut classes = Classes::default();
    for (channel, overwrites) in channels {
        classes.place(id(*channel), overwrites);
    }
    classes
}

/// What clients send, by name.
pub fn commands() -> Vec<(&'static str, Vec<u8>)> {
    let identify = json!({"op": 2, "d": {
        "token": "MTEyMjMzNDQ1NTY2Nzc4ODk5.Z9YxWv.0123456789abcdefghijklmnopqrstuvwxyzAB",
        "intents": 53_608_447,
        "shard": [0, 1],
        "large_threshold": 250,
        "compress": false,
        "properties": {"os": "linux", "browser": "discord.js", "device": "discord.js"},
        "presence": {"status": "online", "since": null, "afk": false, "activities": []},
    }});
    let members: Vec<String> = (0..100).map(|n| format!("{}", 1u64 << 60 | n)).collect();
    let request = json!({"op": 8, "d": {
        "guild_id": "1152921504606846976",
        "user_ids": members,
        "limit": 0,
        "nonce": "7",
    }});
    vec![
        ("heartbeat", br#"{"op":1,"d":1234}"#.to_vec()),
        ("identify", identify.to_string().into_bytes()),
        ("request_members", request.to_string().into_bytes()),
    ]
}

pub fn nodes(count: usize) -> Vec<Node> {
    let node = |n: usize| Node {
        id: format!("gateway-{n:04}"),
        relay_addr: format!("10.0.{}.{}:9000", n / 256, n % 256),
        weight: Weight::NORMAL,
        standing: Standing::Accepting,
        drain: None,
    };
    (0..count).map(node).collect()
}

/// A cluster that has settled on its plan.
pub fn settled(count: usize, shards: u16) -> Observed {
    let mut seen = Observed {
        shards,
        nodes: nodes(count),
        pins: BTreeMap::new(),
        moves: BTreeMap::new(),
        loads: Vec::new(),
        resting: BTreeSet::new(),
        previous: None,
    };
    seen.previous = Some(plan(&seen).layout.into_map(Default::default()));
    seen
}
