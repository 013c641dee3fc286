//! Order and content of what a realm sends, without I/O.

mod contents;
mod effects;
mod model;
mod snapshots;
mod threads;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker,
    model::{
        Channel, ChannelKind, ChannelSettings, Guild, GuildSettings, Member, Role, RoleColors, User,
    },
    permissions::{Overwrite, OverwriteKind},
    shard::Position,
};
use guildhall_store::guild::Snapshot;
use serde_json::{Value, json};

pub(super) use self::threads::thread;

use super::{
    guild::GuildState,
    realm::{Effect, Realm},
    to_edge::EdgeId,
};
use crate::{
    bus::{SnapshotRequest, Subscriber, ViewChange},
    names::SessionKey,
};

pub(super) const HALL: u64 = 100;
pub(super) const MODS: u64 = 101;
pub(super) const OPEN: u64 = 200;
pub(super) const STAFF: u64 = 201;
pub(super) const OWNER: u64 = 10;
pub(super) const MOD: u64 = 11;
pub(super) const ALICE: u64 = 12;
const STRANGER: u64 = 13;
pub(super) const EDGE: EdgeId = 1;

pub(super) fn id<T>(value: u64) -> Id<T> {
    Id::new(value).unwrap()
}

pub(super) fn role(role: u64, permissions: Permissions) -> Role {
    Role {
        id: id(role),
        name: role.to_string(),
        color: 0,
        colors: RoleColors::default(),
        hoist: false,
        icon: None,
        unicode_emoji: None,
        position: 0,
        permissions,
        managed: false,
        mentionable: false,
        tags: None,
        flags: 0,
    }
}

pub(super) fn channel(channel: u64, overwrites: Vec<Overwrite>) -> Channel {
    Channel {
        id: id(channel),
        kind: ChannelKind::TEXT,
        guild_id: id(HALL),
        name: channel.to_string(),
        position: 0,
        parent_id: None,
        permission_overwrites: overwrites,
        last_message_id: Some(None),
        settings: ChannelSettings::default(),
    }
}

pub(super) fn member(user: u64, roles: &[u64]) -> Member {
    Member {
        user: Some(User {
            id: id(user),
            username: user.to_string(),
            discriminator: "0".into(),
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
        }),
        nick: None,
        avatar: None,
        banner: None,
        roles: roles.iter().map(|&role| id(role)).collect(),
        joined_at: Timestamp::from_unix_ms(0),
        premium_since: None,
        deaf: false,
        mute: false,
        flags: 0,
        pending: false,
        communication_disabled_until: None,
        avatar_decoration_data: None,
        collectibles: None,
    }
}

fn hidden_but_for_mods() -> Vec<Overwrite> {
    let overwrite = |target, allow, deny| Overwrite {
        id: id(target),
        kind: OverwriteKind::Role,
        allow,
        deny,
    };
    vec![
        overwrite(HALL, Permissions::empty(), Permissions::VIEW_CHANNEL),
        overwrite(MODS, Permissions::VIEW_CHANNEL, Permissions::empty()),
    ]
}

/// Hall with an open channel and one for mods; owner, a mod, and Alice listen on one edge.
pub(super) fn hall() -> Realm {
    let mut realm = open(stored());
    realm.subscribe(EDGE, [id(OWNER), id(MOD), id(ALICE), id(STRANGER)]);
    realm
}

pub(super) fn open(snapshot: Snapshot) -> Realm {
    Realm::guild(id(HALL), snapshot.position, Some(GuildState::new(snapshot)))
}

pub(super) fn stored() -> Snapshot {
    Snapshot {
        position: Position { era: 1, seq: 0 },
        guild: Guild {
            id: id(HALL),
            name: "Hall".into(),
            icon: None,
            description: None,
            owner_id: id(OWNER),
            settings: GuildSettings::default(),
            roles: vec![
                role(HALL, Permissions::NEW_GUILD),
                role(MODS, Permissions::MANAGE_CHANNELS),
            ],
            emojis: Vec::new(),
            stickers: Vec::new(),
        },
        channels: vec![
            channel(OPEN, Vec::new()),
            channel(STAFF, hidden_but_for_mods()),
        ],
        threads: Vec::new(),
        thread_members: Vec::new(),
        members: vec![member(OWNER, &[]), member(MOD, &[MODS]), member(ALICE, &[])],
        member_count: 3,
        voice_states: Vec::new(),
        stages: Vec::new(),
        events: Vec::new(),
        sounds: Vec::new(),
    }
}

fn apply_vis(realm: &mut Realm, kind: EventKind, vis: Visibility, body: &Value) -> Vec<Effect> {
    let seq = realm.position().seq + 1;
    let at = Position { era: 1, seq };
    let event = Arc::new(Envelope {
        realm: id(HALL),
        durability: Durability::Durable(at),
        kind,
        vis,
        at_ms: 0,
        trace: 0,
        body: body.to_string().into(),
        alt: None,
    });
    let (now, mut ready, mut out) = (Instant::now(), Vec::new(), Vec::new());
    realm.intake.offer(now, at, event, &mut ready);
    for event in ready {
        realm.apply(now, event, &mut out).unwrap();
    }
    out
}

pub(super) fn apply(realm: &mut Realm, kind: EventKind, body: &Value) -> Vec<Effect> {
    apply_vis(realm, kind, Visibility::realm(Intents::GUILDS), body)
}

/// Effects in short: `view`, an event's name, or `NAME to [users]` for a made-up one.
fn told(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::View(..) => "view".to_owned(),
            Effect::Event(event) => event.kind.name().to_owned(),
            Effect::Notice(notice) => format!("{} alone", notice.kind.name()),
            Effect::EventTo(_, event) => match &event.vis.scope {
                Scope::Users(users) => format!("{} to {users:?}", event.kind.name()),
                scope => panic!("made-up events are for users, not {scope:?}"),
            },
        })
        .collect()
}

fn views(effects: &[Effect]) -> Vec<&ViewChange> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::View(_, change) => Some(change),
            Effect::Event(_) | Effect::EventTo(..) | Effect::Notice(_) => None,
        })
        .collect()
}

/// The users an event of this scope is for, in the order in which they are named.
pub(super) fn resolved(realm: &Realm, scope: Scope) -> Vec<u64> {
    let event = Arc::new(Envelope {
        realm: id(HALL),
        durability: Durability::Ephemeral,
        kind: EventKind::MessageCreate,
        vis: Visibility::of(scope, Intents::GUILDS),
        at_ms: 0,
        trace: 0,
        body: "{}".into(),
        alt: None,
    });
    match &realm.resolve(&event).vis.scope {
        Scope::Users(users) => users.iter().map(|user| user.get()).collect(),
        scope => panic!("no edge computes permissions: {scope:?}"),
    }
}

/// What an edge believes, kept up only by the views it is sent.
struct Believed {
    channels: BTreeMap<Id<marker::Channel>, u16>,
    users: BTreeMap<Id<marker::User>, Option<Vec<u16>>>,
}

impl Believed {
    fn new(realm: &mut Realm) -> Self {
        let mut believed = Self {
            channels: BTreeMap::new(),
            users: BTreeMap::new(),
        };
        believed.take(&realm.subscribe(EDGE, [id(OWNER), id(MOD), id(ALICE), id(STRANGER)]));
        believed
    }

    fn take(&mut self, change: &ViewChange) {
        for &(channel, class) in &change.channels {
            match class {
                Some(class) => self.channels.insert(channel, class),
                None => self.channels.remove(&channel),
            };
        }
        self.users.extend(change.users.iter().cloned());
    }

    fn sees(&self, user: u64, channel: u64) -> bool {
        let class = self.channels.get(&id(channel));
        let classes = self.users.get(&id(user)).and_then(Option::as_ref);
        class.is_some_and(|class| classes.is_some_and(|classes| classes.contains(class)))
    }
}

/// The GUILD_CREATE of a user who did not ask for members.
fn guild_create(realm: &Realm, user: u64) -> Value {
    let request = SnapshotRequest {
        session: SessionKey {
            slot: 0,
            generation: 1,
        },
        unavailable: None,
        large_threshold: 50,
        members: false,
        presences: false,
    };
    let asking = Subscriber::new(id(user), vec![request]);
    let (_, body) = realm.snapshots(&[asking]).pop().unwrap();
    serde_json::from_slice(&body).unwrap()
}
