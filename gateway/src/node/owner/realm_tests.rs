//! Order and content of what a realm sends, without I/O.

use std::{sync::Arc, time::Instant};

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
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    guild::GuildState,
    realm::{EdgeId, Effect, Realm},
};
use crate::bus::{SessionKey, SnapshotRequest, Subscriber, ViewChange};

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

fn role(role: u64, permissions: Permissions) -> Role {
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

fn channel(channel: u64, overwrites: Vec<Overwrite>) -> Channel {
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
    let snapshot = Snapshot {
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
    };
    let mut realm = Realm::guild(id(HALL), snapshot.position, Some(GuildState::new(snapshot)));
    realm.subscribe(EDGE, [id(OWNER), id(MOD), id(ALICE), id(STRANGER)]);
    realm
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

/// What an edge believes, kept up only by the views it is sent.
struct Believed {
    channels: std::collections::BTreeMap<Id<marker::Channel>, u16>,
    users: std::collections::BTreeMap<Id<marker::User>, Option<Vec<u16>>>,
}

impl Believed {
    fn new(realm: &mut Realm) -> Self {
        let mut believed = Self {
            channels: std::collections::BTreeMap::new(),
            users: std::collections::BTreeMap::new(),
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

#[test]
fn the_first_view_says_who_sees_what() {
    let believed = Believed::new(&mut hall());
    for (user, open, staff) in [
        (OWNER, true, true),
        (MOD, true, true),
        (ALICE, true, false),
        (STRANGER, false, false),
    ] {
        assert_eq!(believed.sees(user, OPEN), open, "{user}");
        assert_eq!(believed.sees(user, STAFF), staff, "{user}");
    }
    assert_eq!(believed.users[&id(STRANGER)], None);
}

#[test]
fn a_message_changes_no_view() {
    let mut realm = hall();
    let vis = Visibility::channel(id(OPEN), Intents::GUILD_MESSAGES);
    let effects = apply_vis(
        &mut realm,
        EventKind::MessageCreate,
        vis,
        &json!({"id": "900", "channel_id": "200"}),
    );
    assert_eq!(told(&effects), ["MESSAGE_CREATE"]);
}

#[test]
fn hiding_a_channel_revokes_first_and_deletes_last() {
    let mut realm = hall();
    let mut believed = Believed::new(&mut realm);
    let update = channel(OPEN, hidden_but_for_mods());
    let effects = apply(&mut realm, EventKind::ChannelUpdate, &json!(update));
    assert_eq!(
        told(&effects),
        [
            "view",
            "CHANNEL_UPDATE",
            "CHANNEL_UPDATE to [12]",
            "CHANNEL_DELETE to [12]"
        ]
    );
    views(&effects)
        .into_iter()
        .for_each(|view| believed.take(view));
    assert!(!believed.sees(ALICE, OPEN));
    assert!(believed.sees(MOD, OPEN));
}

#[test]
fn showing_a_channel_creates_it_before_its_update() {
    let mut realm = hall();
    let effects = apply(
        &mut realm,
        EventKind::ChannelUpdate,
        &json!(channel(STAFF, Vec::new())),
    );
    assert_eq!(
        told(&effects),
        ["view", "CHANNEL_CREATE to [12]", "CHANNEL_UPDATE"]
    );
}

#[test]
fn a_new_channel_announces_itself() {
    let mut realm = hall();
    let mut believed = Believed::new(&mut realm);
    let effects = apply(
        &mut realm,
        EventKind::ChannelCreate,
        &json!(channel(202, hidden_but_for_mods())),
    );
    assert_eq!(told(&effects), ["view", "CHANNEL_CREATE"]);
    views(&effects)
        .into_iter()
        .for_each(|view| believed.take(view));
    assert!(believed.sees(MOD, 202) && !believed.sees(ALICE, 202));
}

#[test]
fn a_deleted_channel_is_heard_of_by_those_who_saw_it() {
    let mut realm = hall();
    let effects = apply(&mut realm, EventKind::ChannelDelete, &json!({"id": "201"}));
    assert_eq!(told(&effects), ["CHANNEL_DELETE", "view"]);
    assert_eq!(views(&effects)[0].channels, [(id(STAFF), None)]);
}

#[test]
fn a_role_given_and_taken_shows_and_hides_its_channels() {
    let mut realm = hall();
    let update = |roles: &[&str]| json!({"guild_id": "100", "user": {"id": "12"}, "roles": roles});
    let effects = apply(&mut realm, EventKind::GuildMemberUpdate, &update(&["101"]));
    assert_eq!(
        told(&effects),
        ["view", "CHANNEL_CREATE to [12]", "GUILD_MEMBER_UPDATE"]
    );
    let effects = apply(&mut realm, EventKind::GuildMemberUpdate, &update(&[]));
    assert_eq!(
        told(&effects),
        ["view", "GUILD_MEMBER_UPDATE", "CHANNEL_DELETE to [12]"]
    );
    let effects = apply(
        &mut realm,
        EventKind::GuildMemberUpdate,
        &json!({"user": {"id": "12"}, "nick": "A"}),
    );
    assert_eq!(told(&effects), ["GUILD_MEMBER_UPDATE"]);
}

#[test]
fn a_removed_member_is_out_before_the_event() {
    let mut realm = hall();
    let effects = apply(
        &mut realm,
        EventKind::GuildMemberRemove,
        &json!({"user": {"id": "11"}}),
    );
    assert_eq!(told(&effects), ["view", "GUILD_MEMBER_REMOVE"]);
    assert_eq!(views(&effects)[0].users, [(id(MOD), None)]);
}

#[test]
fn a_new_member_is_in_before_the_event_and_gets_no_channels_one_by_one() {
    let mut realm = hall();
    let effects = apply(
        &mut realm,
        EventKind::GuildMemberAdd,
        &json!(member(STRANGER, &[])),
    );
    assert_eq!(told(&effects), ["view", "GUILD_MEMBER_ADD"]);
}

#[test]
fn a_deleted_guild_is_heard_of_by_all_before_they_are_out() {
    let mut realm = hall();
    let effects = apply(&mut realm, EventKind::GuildDelete, &json!({"id": "100"}));
    assert_eq!(told(&effects), ["GUILD_DELETE", "view"]);
    assert!(
        views(&effects)[0]
            .users
            .iter()
            .all(|(_, seen)| seen.is_none())
    );
}

#[test]
fn permissions_are_resolved_to_the_users_who_hold_them() {
    let mut realm = hall();
    let scope = Scope::Permissions {
        any_of: Permissions::MANAGE_CHANNELS,
        channel: Some(id(STAFF)),
    };
    let vis = Visibility::of(scope, Intents::GUILD_INVITES);
    let effects = apply_vis(&mut realm, EventKind::InviteCreate, vis, &json!({}));
    let [Effect::Event(event)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(event.vis.scope, Scope::Users(vec![id(OWNER), id(MOD)]));
    assert!(event.position().is_some());
}

#[test]
fn a_body_that_does_not_fit_changes_nothing() {
    let mut realm = hall();
    let event = Arc::new(Envelope {
        realm: id(HALL),
        durability: Durability::Durable(Position { era: 1, seq: 1 }),
        kind: EventKind::ChannelUpdate,
        vis: Visibility::realm(Intents::GUILDS),
        at_ms: 0,
        trace: 0,
        body: "[]".into(),
        alt: None,
    });
    let mut out = Vec::new();
    assert!(realm.apply(Instant::now(), event, &mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn snapshots_show_each_user_their_channels() {
    let realm = hall();
    let ask = |user: u64, slot: u32, members: bool| {
        let request = SnapshotRequest {
            session: SessionKey {
                slot,
                generation: 1,
            },
            large_threshold: 50,
            members,
            presences: false,
            unavailable: Some(false),
        };
        Subscriber::new(id(user), vec![request])
    };
    let snapshots = realm.snapshots(&[
        ask(MOD, 1, true),
        ask(ALICE, 2, false),
        ask(STRANGER, 3, true),
    ]);
    let parsed: Vec<(u32, Value)> = snapshots
        .iter()
        .map(|(session, d)| (session.slot, serde_json::from_slice(d).unwrap()))
        .collect();
    assert_eq!(parsed.len(), 2);
    assert_eq!(parsed[0].1["channels"].as_array().unwrap().len(), 2);
    assert_eq!(parsed[0].1["members"].as_array().unwrap().len(), 3);
    assert_eq!(parsed[1].1["channels"][0]["id"], "200");
    assert_eq!(parsed[1].1["channels"].as_array().unwrap().len(), 1);
    assert_eq!(parsed[1].1["members"][0]["user"]["id"], "12");
    assert_eq!(parsed[1].1["members"].as_array().unwrap().len(), 1);
    assert_eq!(parsed[1].1["unavailable"], false);
    assert_eq!(parsed[1].1["member_count"], 3);
}

#[test]
fn kept_events_reach_back_only_so_far() {
    let mut realm = hall();
    for _ in 0..3 {
        apply(&mut realm, EventKind::MessageDelete, &json!({}));
    }
    assert_eq!(realm.recent_after(3), Some(Vec::new()));
    assert_eq!(realm.recent_after(1).map(|events| events.len()), Some(2));
    assert_eq!(realm.recent_after(0).map(|events| events.len()), Some(3));
    assert_eq!(realm.recent_after(4), None);
    for _ in 0..super::realm::RECENT_MAX {
        apply(&mut realm, EventKind::MessageDelete, &json!({}));
    }
    assert_eq!(realm.recent_after(1), None);
}

proptest! {
    /// An edge that only follows the changes believes the same as one that asks anew.
    #[test]
    fn changes_add_up_to_the_full_view(
        steps in prop::collection::vec((0u8..7, 0u64..3, any::<bool>()), 1..25),
    ) {
        let mut realm = hall();
        let mut believed = Believed::new(&mut realm);
        for (what, which, flag) in steps {
            let overwrites = if flag { hidden_but_for_mods() } else { Vec::new() };
            let user = [OWNER, MOD, ALICE][which as usize];
            let (kind, body) = match what {
                0 => (EventKind::ChannelCreate, json!(channel(202 + which, overwrites))),
                1 => (EventKind::ChannelUpdate, json!(channel(OPEN + which, overwrites))),
                2 => (EventKind::ChannelDelete, json!({"id": (OPEN + which).to_string()})),
                3 => {
                    let roles = if flag { vec![MODS.to_string()] } else { Vec::new() };
                    (EventKind::GuildMemberUpdate, json!({"user": {"id": user.to_string()}, "roles": roles}))
                }
                4 => {
                    let bits = if flag { Permissions::VIEW_CHANNEL } else { Permissions::empty() };
                    (EventKind::GuildRoleUpdate, json!({"role": role([HALL, MODS, MODS][which as usize], bits)}))
                }
                5 => (EventKind::GuildMemberRemove, json!({"user": {"id": user.to_string()}})),
                _ if flag => (EventKind::GuildRoleDelete, json!({"role_id": MODS.to_string()})),
                _ => (EventKind::GuildMemberAdd, json!(member(user, &[]))),
            };
            let effects = apply(&mut realm, kind, &body);
            views(&effects).into_iter().for_each(|view| believed.take(view));
            let fresh = Believed::new(&mut realm);
            for user in [OWNER, MOD, ALICE, STRANGER] {
                for channel in OPEN..OPEN + 6 {
                    prop_assert_eq!(believed.sees(user, channel), fresh.sees(user, channel));
                }
            }
        }
    }
}

fn voice(user: u64, channel: Option<u64>) -> Value {
    json!({
        "guild_id": HALL.to_string(), "channel_id": channel.map(|id| id.to_string()),
        "user_id": user.to_string(), "member": member(user, &[]), "session_id": "s",
        "deaf": false, "mute": false, "self_deaf": false, "self_mute": true, "self_stream": false,
        "self_video": false, "suppress": false, "request_to_speak_timestamp": null,
    })
}

fn event(channel: Option<u64>, status: u8) -> Value {
    json!({
        "id": "300", "guild_id": HALL.to_string(), "channel_id": channel.map(|id| id.to_string()),
        "creator_id": OWNER.to_string(), "name": "Party", "description": null, "image": null,
        "scheduled_start_time": "2030-01-01T00:00:00Z", "scheduled_end_time": null,
        "privacy_level": 2, "status": status, "entity_type": 2, "entity_id": null,
        "entity_metadata": null, "recurrence_rule": null, "guild_scheduled_event_exceptions": [],
    })
}

fn in_channel(channel: u64, intents: Intents) -> Visibility {
    Visibility::channel(id(channel), intents)
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

#[test]
fn who_is_in_voice_is_in_later_snapshots_of_those_who_see_the_channel() {
    let mut realm = hall();
    let vis = in_channel(STAFF, Intents::GUILD_VOICE_STATES);
    let state = voice(MOD, Some(STAFF));
    let effects = apply_vis(&mut realm, EventKind::VoiceStateUpdate, vis.clone(), &state);
    assert_eq!(told(&effects), ["VOICE_STATE_UPDATE"]);

    let shown = guild_create(&realm, OWNER);
    assert_eq!(shown["voice_states"][0]["user_id"], MOD.to_string());
    assert_eq!(shown["voice_states"][0]["self_mute"], true);
    assert!(shown["voice_states"][0].get("guild_id").is_none());
    assert!(shown["voice_states"][0].get("member").is_none());
    let members: Vec<&Value> = shown["members"].as_array().unwrap().iter().collect();
    assert_eq!(members.len(), 2);
    assert_eq!(members[1]["user"]["id"], MOD.to_string());
    let hidden = guild_create(&realm, ALICE);
    assert_eq!(hidden["voice_states"], json!([]));
    assert_eq!(hidden["members"].as_array().unwrap().len(), 1);

    apply_vis(
        &mut realm,
        EventKind::VoiceStateUpdate,
        vis,
        &voice(MOD, None),
    );
    assert_eq!(guild_create(&realm, OWNER)["voice_states"], json!([]));
}

#[test]
fn one_who_moves_out_of_sight_is_told_to_have_left() {
    let mut realm = hall();
    let to = |channel| {
        let mut vis = in_channel(channel, Intents::GUILD_VOICE_STATES);
        vis.regardless.push(id(MOD));
        vis
    };
    let kind = EventKind::VoiceStateUpdate;
    apply_vis(&mut realm, kind, to(OPEN), &voice(MOD, Some(OPEN)));
    let effects = apply_vis(&mut realm, kind, to(STAFF), &voice(MOD, Some(STAFF)));
    assert_eq!(
        told(&effects),
        ["VOICE_STATE_UPDATE to [12]", "VOICE_STATE_UPDATE"]
    );
    let Effect::EventTo(_, left) = &effects[0] else {
        panic!("{effects:?}")
    };
    let left: Value = serde_json::from_slice(&left.body).unwrap();
    assert_eq!(left["channel_id"], Value::Null);
    // Back where all see it: nobody loses sight of it.
    let effects = apply_vis(&mut realm, kind, to(OPEN), &voice(MOD, Some(OPEN)));
    assert_eq!(told(&effects), ["VOICE_STATE_UPDATE"]);
}

#[test]
fn who_gains_a_channel_hears_what_is_in_it() {
    let mut realm = hall();
    let vis = in_channel(STAFF, Intents::GUILD_VOICE_STATES);
    apply_vis(
        &mut realm,
        EventKind::VoiceStateUpdate,
        vis,
        &voice(MOD, Some(STAFF)),
    );
    let stage = json!({
        "id": "301", "guild_id": HALL.to_string(), "channel_id": STAFF.to_string(),
        "topic": "Talk", "privacy_level": 2, "discoverable_disabled": true,
        "guild_scheduled_event_id": null,
    });
    let vis = in_channel(STAFF, Intents::GUILDS);
    apply_vis(
        &mut realm,
        EventKind::StageInstanceCreate,
        vis.clone(),
        &stage,
    );
    let update = json!({"user": {"id": ALICE.to_string()}, "roles": [MODS.to_string()]});
    let effects = apply(&mut realm, EventKind::GuildMemberUpdate, &update);
    assert_eq!(
        told(&effects),
        [
            "view",
            "CHANNEL_CREATE to [12]",
            "VOICE_STATE_UPDATE to [12]",
            "STAGE_INSTANCE_CREATE to [12]",
            "GUILD_MEMBER_UPDATE"
        ]
    );
    assert_eq!(
        guild_create(&realm, ALICE)["stage_instances"],
        json!([stage])
    );
    apply_vis(&mut realm, EventKind::StageInstanceDelete, vis, &stage);
    assert_eq!(guild_create(&realm, ALICE)["stage_instances"], json!([]));
}

#[test]
fn events_are_shown_while_they_are_open_to_those_who_see_their_channel() {
    let mut realm = hall();
    let intents = Intents::GUILD_SCHEDULED_EVENTS;
    let vis = in_channel(OPEN, intents);
    let create = EventKind::GuildScheduledEventCreate;
    apply_vis(&mut realm, create, vis, &event(Some(OPEN), 1));
    let names = |realm: &Realm, user| {
        let shown = guild_create(realm, user);
        shown["guild_scheduled_events"].as_array().unwrap().len()
    };
    assert_eq!((names(&realm, OWNER), names(&realm, ALICE)), (1, 1));
    let update = EventKind::GuildScheduledEventUpdate;
    let vis = in_channel(STAFF, intents);
    let effects = apply_vis(&mut realm, update, vis, &event(Some(STAFF), 2));
    assert_eq!(
        told(&effects),
        [
            "GUILD_SCHEDULED_EVENT_DELETE to [12]",
            "GUILD_SCHEDULED_EVENT_UPDATE"
        ]
    );
    assert_eq!((names(&realm, OWNER), names(&realm, ALICE)), (1, 0));
    apply_vis(
        &mut realm,
        update,
        Visibility::realm(intents),
        &event(None, 2),
    );
    assert_eq!(names(&realm, ALICE), 1);
    apply_vis(
        &mut realm,
        update,
        Visibility::realm(intents),
        &event(None, 3),
    );
    assert_eq!(names(&realm, OWNER), 0);
}

#[test]
fn expressions_are_in_later_snapshots() {
    let mut realm = hall();
    let emojis = json!({"guild_id": HALL.to_string(), "emojis": [{"id": "400", "name": "wave"}]});
    apply(&mut realm, EventKind::GuildEmojisUpdate, &emojis);
    let stickers = json!({"guild_id": HALL.to_string(), "stickers": [{"id": "401"}]});
    apply(&mut realm, EventKind::GuildStickersUpdate, &stickers);
    let sound = json!({"sound_id": "402", "name": "ding", "volume": 1.0});
    apply(&mut realm, EventKind::GuildSoundboardSoundCreate, &sound);
    let shown = guild_create(&realm, ALICE);
    assert_eq!(shown["emojis"], emojis["emojis"]);
    assert_eq!(shown["stickers"], stickers["stickers"]);
    assert_eq!(shown["soundboard_sounds"], json!([sound]));
    let gone = json!({"sound_id": "402", "guild_id": HALL.to_string()});
    apply(&mut realm, EventKind::GuildSoundboardSoundDelete, &gone);
    assert_eq!(guild_create(&realm, ALICE)["soundboard_sounds"], json!([]));
}

fn thread(thread: u64, parent: u64, kind: u8, archived: bool) -> Value {
    json!({
        "id": thread.to_string(), "type": kind, "guild_id": HALL.to_string(),
        "parent_id": parent.to_string(), "owner_id": ALICE.to_string(), "name": "aside",
        "last_message_id": null, "flags": 0, "rate_limit_per_user": 0, "message_count": 0,
        "member_count": 1, "total_message_sent": 0,
        "thread_metadata": {
            "archived": archived, "auto_archive_duration": 60, "locked": false,
            "archive_timestamp": "2026-01-01T00:00:00.000000+00:00",
        },
    })
}

fn joined(thread: u64, user: u64) -> Value {
    let added = json!({
        "id": thread.to_string(), "user_id": user.to_string(), "flags": 0,
        "join_timestamp": "2026-01-01T00:00:00.000000+00:00",
    });
    json!({
        "id": thread.to_string(), "guild_id": HALL.to_string(), "member_count": 1,
        "added_members": [added],
    })
}

fn private(parent: u64, members: &[u64]) -> Visibility {
    let scope = Scope::Thread {
        parent: id(parent),
        members: members.iter().map(|&user| id(user)).collect(),
    };
    Visibility::of(scope, Intents::GUILD_MESSAGES)
}

/// The users a resolved event is for.
fn named(effects: &[Effect]) -> Vec<u64> {
    let users = effects.iter().find_map(|effect| match effect {
        Effect::Event(event) => match &event.vis.scope {
            Scope::Users(users) => Some(users.iter().map(|user| user.get()).collect()),
            _ => None,
        },
        Effect::EventTo(..) | Effect::View(..) | Effect::Notice(_) => None,
    });
    users.unwrap_or_default()
}

#[test]
fn a_private_thread_is_heard_by_members_who_see_its_channel_and_by_moderators() {
    let mut realm = hall();
    let message = json!({"id": "900", "channel_id": "300"});
    let say = |realm: &mut Realm, parent, members: &[u64]| {
        named(&apply_vis(
            realm,
            EventKind::MessageCreate,
            private(parent, members),
            &message,
        ))
    };
    assert_eq!(say(&mut realm, OPEN, &[ALICE]), [OWNER, ALICE]);
    assert_eq!(say(&mut realm, OPEN, &[ALICE, MOD]), [OWNER, MOD, ALICE]);
    assert_eq!(say(&mut realm, OPEN, &[]), [OWNER]);
    // Alice does not see the staff's channel, whatever she is in; a stranger sees nothing.
    assert_eq!(
        say(&mut realm, STAFF, &[ALICE, MOD, STRANGER]),
        [OWNER, MOD]
    );
    let role = serde_json::to_value(role(MODS, Permissions::MANAGE_THREADS)).unwrap();
    apply(
        &mut realm,
        EventKind::GuildRoleUpdate,
        &json!({ "guild_id": HALL.to_string(), "role": role }),
    );
    assert_eq!(say(&mut realm, OPEN, &[ALICE]), [OWNER, MOD, ALICE]);
    assert_eq!(say(&mut realm, 999, &[ALICE]), Vec::<u64>::new());
}

#[test]
fn active_threads_are_in_snapshots_of_those_who_see_them() {
    let mut realm = hall();
    for (number, parent, kind) in [(300, OPEN, 11), (301, OPEN, 12), (302, STAFF, 11)] {
        let body = thread(number, parent, kind, false);
        apply(&mut realm, EventKind::ThreadCreate, &body);
    }
    apply(
        &mut realm,
        EventKind::ThreadMembersUpdate,
        &joined(301, ALICE),
    );
    let ids = |realm: &Realm, user| -> Vec<String> {
        let shown = guild_create(realm, user);
        let threads = shown["threads"].as_array().unwrap().iter();
        threads
            .map(|thread| thread["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&realm, OWNER), ["300", "301", "302"]);
    assert_eq!(ids(&realm, MOD), ["300", "302"]);
    assert_eq!(ids(&realm, ALICE), ["300", "301"]);
    let own = guild_create(&realm, ALICE)["threads"][1]["member"].clone();
    assert_eq!(own["user_id"], ALICE.to_string());
    let message = json!({"id": "900", "channel_id": "300"});
    apply(&mut realm, EventKind::MessageCreate, &message);
    let shown = guild_create(&realm, MOD);
    assert_eq!(shown["threads"][0]["last_message_id"], "900");
    assert_eq!(shown["channels"][0]["last_message_id"], Value::Null);

    apply(
        &mut realm,
        EventKind::ThreadUpdate,
        &thread(300, OPEN, 11, true),
    );
    apply(&mut realm, EventKind::ThreadDelete, &json!({"id": "302"}));
    assert_eq!(ids(&realm, OWNER), ["301"]);
    let left = json!({"id": "301", "member_count": 0, "removed_member_ids": [ALICE.to_string()]});
    apply(&mut realm, EventKind::ThreadMembersUpdate, &left);
    assert_eq!(ids(&realm, ALICE), Vec::<String>::new());
}

#[test]
fn who_gains_a_channel_hears_of_its_threads() {
    let mut realm = hall();
    apply(
        &mut realm,
        EventKind::ThreadCreate,
        &thread(302, STAFF, 11, false),
    );
    apply(
        &mut realm,
        EventKind::ThreadCreate,
        &thread(303, STAFF, 12, false),
    );
    let open = serde_json::to_value(channel(STAFF, Vec::new())).unwrap();
    let effects = apply(&mut realm, EventKind::ChannelUpdate, &open);
    assert_eq!(
        told(&effects),
        [
            "view",
            "CHANNEL_CREATE to [12]",
            "CHANNEL_UPDATE",
            "THREAD_LIST_SYNC to [12]"
        ]
    );
    let Some(Effect::EventTo(_, sync)) = effects.last() else {
        panic!("the last thing told is the list");
    };
    let body: Value = serde_json::from_slice(&sync.body).unwrap();
    assert_eq!(body["channel_ids"], json!([STAFF.to_string()]));
    assert_eq!(body["threads"].as_array().unwrap().len(), 1);
    assert_eq!(body["threads"][0]["id"], "302");
}
