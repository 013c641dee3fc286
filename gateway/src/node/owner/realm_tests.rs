//! Order and content of what a realm sends, without I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker,
    model::{
        Channel, ChannelKind, ChannelSettings, Guild, GuildSettings, Member, Role, RoleColors, User,
    },
    permissions::{self, ChannelClass, MemberAccess, Overwrite, OverwriteKind},
    shard::{Position, ShardId},
};
use guildhall_store::guild::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Entry, FromOwner, SNAPSHOT_BYTES, Todo, Wait, Waiting,
    guild::GuildState,
    realm::{EdgeId, Effect, Realm},
};
use crate::{
    bus::{SessionKey, SnapshotRequest, Subscriber, ViewChange},
    node::relay::frame::{Frame, Sub},
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

fn open(snapshot: Snapshot) -> Realm {
    Realm::guild(id(HALL), snapshot.position, Some(GuildState::new(snapshot)))
}

fn stored() -> Snapshot {
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
    let holders = [OWNER, MOD].map(id::<marker::User>);
    assert_eq!(event.vis.scope, Scope::Users(holders.into()));
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
fn hiding_all_channels_names_the_users_of_an_edge_once() {
    const EACH: u64 = 5000;
    const CHANNELS: u64 = 500;
    let mut stored = stored();
    let first: u64 = 1 << 60;
    let edges = [
        (1, first..first + EACH),
        (2, first + EACH..first + 2 * EACH),
    ];
    let people = first..first + 2 * EACH;
    stored.members.extend(people.map(|user| member(user, &[])));
    stored.member_count += 2 * EACH;
    let others = (1..CHANNELS).map(|number| channel((1 << 59) + number, Vec::new()));
    stored.channels.extend(others);
    let mut realm = open(stored);
    for (edge, users) in &edges {
        realm.subscribe(*edge, users.clone().map(id));
    }
    let nothing = json!({"role": role(HALL, Permissions::empty())});
    let effects = apply(&mut realm, EventKind::GuildRoleUpdate, &nothing);
    for (edge, users) in edges {
        let (mut bytes, mut made) = (0, Vec::new());
        for effect in &effects {
            match effect {
                Effect::View(to, change) if *to == edge => {
                    let (realm, change) = (id(HALL), change.clone());
                    bytes += Frame::View { realm, change }.encode().len();
                }
                Effect::Event(event) => bytes += Frame::Ev(event.clone()).encode().len(),
                Effect::EventTo(to, event) if *to == edge => made.push(event.clone()),
                _ => {}
            }
        }
        assert_eq!(made.len() as u64, CHANNELS);
        let lists: Vec<_> = made
            .iter()
            .map(|event| match (event.kind, &event.vis.scope) {
                (EventKind::ChannelDelete, Scope::Users(users)) => users.clone(),
                _ => panic!("{event:?}"),
            })
            .collect();
        let named: Vec<u64> = lists[0].iter().map(|user| user.get()).collect();
        assert_eq!(named, users.collect::<Vec<u64>>());
        assert!(lists.iter().all(|list| Arc::ptr_eq(list, &lists[0])));
        bytes += Frame::Evs(made).encode().len();
        // A user comes twice, in the view and with the events; a channel once.
        assert!(bytes as u64 <= 2 * EACH * 16 + CHANNELS * 1024, "{bytes}");
    }
}

/// Two edges wait for a large guild while it goes on; the second one's link has no room for long.
#[test]
fn those_who_wait_for_a_large_guild_are_answered_in_turns() {
    const EACH: usize = 200_000;
    const WAITING: u64 = 1000;
    let mut realm = hall();
    let mut large = channel(OPEN, Vec::new());
    large.name = "x".repeat(EACH);
    apply(&mut realm, EventKind::ChannelUpdate, &json!(large));
    let start = realm.position();
    let mut entry = Entry::new(ShardId(0));
    entry.realm = Some(realm);
    let waiting = (1..=WAITING).map(|number| {
        let request = SnapshotRequest {
            session: SessionKey {
                slot: number as u32,
                generation: 1,
            },
            large_threshold: 50,
            members: false,
            presences: false,
            unavailable: None,
        };
        let sub = Sub {
            id: number,
            realm: id(HALL),
            from: match number % 3 {
                0 => Some(start),
                1 => Some(Position { era: 2, seq: 1 }),
                _ => None,
            },
            users: vec![Subscriber::new(id(OWNER), vec![request])],
            presences: false,
        };
        Waiting {
            ticket: number,
            edge: 1 + number % 2,
            sub,
            wait: Wait::Reading,
            at_least: None,
            lost: false,
        }
    });
    entry.waiting = waiting.collect();
    let mut todo = Todo::default();
    entry.answer(true, &mut todo);
    assert!(todo.answers.is_empty() && !todo.read);
    assert_eq!(todo.turns, BTreeSet::from([1, 2]));

    let mut answered = BTreeSet::new();
    for edge in [1, 2] {
        let mut goes_on = true;
        while goes_on {
            let realm = entry.realm.as_mut().unwrap();
            apply(realm, EventKind::MessageDelete, &json!({}));
            let at = realm.position();
            let mut todo = Todo::with_room();
            goes_on = entry.take_turn(edge, &mut todo);
            let mut bytes = 0;
            for (to, answer) in todo.answers {
                let FromOwner::SubOk(ok) = answer else {
                    panic!("no answer")
                };
                assert_eq!((to, ok.position), (edge, at));
                let replayed = match ok.id % 3 {
                    0 => at.seq - start.seq,
                    _ => 0,
                };
                assert_eq!(ok.replay.len() as u64, replayed);
                assert_eq!(ok.lost, ok.id % 3 == 1);
                assert_eq!(ok.snapshots.len(), 1);
                bytes += ok.snapshots[0].1.len();
                assert!(answered.insert(ok.id));
            }
            assert!(bytes < SNAPSHOT_BYTES + 2 * EACH, "{bytes}");
        }
        assert_eq!(answered.len() as u64, WAITING / 2 * edge);
    }
    assert!(entry.waiting.is_empty());
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

/// A guild as plain lists: what each user sees follows from the permissions alone.
#[derive(Debug, Clone)]
struct World {
    owner: u64,
    roles: BTreeMap<u64, Permissions>,
    /// Their roles, and whether they are timed out.
    members: BTreeMap<u64, (Vec<u64>, bool)>,
    channels: BTreeMap<u64, Vec<Overwrite>>,
    /// Active ones with their parents, and whether they are private.
    threads: BTreeMap<u64, (u64, bool)>,
    /// Who is in all of the private threads.
    inside: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
enum Change {
    Role(u64, u8),
    NoRole(u64),
    Channel(u64, Vec<(bool, u64, u8, u8)>),
    NoChannel(u64),
    Member(u64, u8, bool),
    NoMember(u64),
    Owner(u64),
}

/// Roles of [`World`] besides @everyone.
const ROLES: std::ops::Range<u64> = MODS..MODS + 4;
const CHANNELS: std::ops::Range<u64> = OPEN..OPEN + 5;
const USERS: std::ops::Range<u64> = OWNER..OWNER + 8;
/// Users by edge: some are on both.
const EDGES: [(EdgeId, std::ops::Range<u64>); 2] =
    [(EDGE, OWNER..OWNER + 6), (2, OWNER + 4..OWNER + 8)];

/// Some of the permissions that matter here.
fn bits(which: u8) -> Permissions {
    let of = [
        Permissions::VIEW_CHANNEL,
        Permissions::MANAGE_THREADS,
        Permissions::SEND_MESSAGES,
        Permissions::ADMINISTRATOR,
    ];
    let of = of.into_iter().enumerate();
    of.filter(|(bit, _)| which >> bit & 1 == 1)
        .fold(Permissions::empty(), |all, (_, one)| all | one)
}

fn change() -> impl Strategy<Value = Change> {
    // One in eight is an administrator.
    let granted = (0u8..16, any::<bool>(), any::<bool>())
        .prop_map(|(bits, a, b)| if a && b { bits } else { bits & 7 });
    let overwrite = (any::<bool>(), 0u64..8, 0u8..8, 0u8..8);
    prop_oneof![
        4 => (HALL..ROLES.end, granted).prop_map(|(role, bits)| Change::Role(role, bits)),
        1 => ROLES.prop_map(Change::NoRole),
        4 => (CHANNELS, prop::collection::vec(overwrite, 0..4))
            .prop_map(|(channel, overwrites)| Change::Channel(channel, overwrites)),
        1 => CHANNELS.prop_map(Change::NoChannel),
        6 => (USERS, 0u8..16, prop::bool::weighted(0.2))
            .prop_map(|(user, roles, silent)| Change::Member(user, roles, silent)),
        1 => USERS.prop_map(Change::NoMember),
        1 => USERS.prop_map(Change::Owner),
    ]
}

impl World {
    /// That of [`hall`], with a public and a private thread in every channel there may be.
    fn hall(realm: &mut Realm) -> Self {
        let mut threads = BTreeMap::new();
        for parent in CHANNELS {
            for (number, is_private) in [(parent + 100, false), (parent + 200, true)] {
                let kind = if is_private { 12 } else { 11 };
                let body = thread(number, parent, kind, false);
                apply(realm, EventKind::ThreadCreate, &body);
                threads.insert(number, (parent, is_private));
                if is_private {
                    apply(
                        realm,
                        EventKind::ThreadMembersUpdate,
                        &joined(number, ALICE),
                    );
                }
            }
        }
        Self {
            owner: OWNER,
            roles: BTreeMap::from([
                (HALL, Permissions::NEW_GUILD),
                (MODS, Permissions::MANAGE_CHANNELS),
            ]),
            members: BTreeMap::from([
                (OWNER, (vec![], false)),
                (MOD, (vec![MODS], false)),
                (ALICE, (vec![], false)),
            ]),
            channels: BTreeMap::from([(OPEN, vec![]), (STAFF, hidden_but_for_mods())]),
            threads,
            inside: BTreeSet::from([ALICE]),
        }
    }

    /// Makes a change here and as an event; `None` if there is nothing to change.
    fn make(&mut self, realm: &Realm, change: Change) -> Option<(EventKind, Value)> {
        Some(match change {
            Change::Role(number, which) => {
                self.roles.insert(number, bits(which));
                let body = json!({"role": role(number, bits(which))});
                (EventKind::GuildRoleUpdate, body)
            }
            Change::NoRole(role) => {
                self.roles.remove(&role)?;
                self.members
                    .values_mut()
                    .for_each(|(roles, _)| roles.retain(|held| *held != role));
                for overwrites in self.channels.values_mut() {
                    overwrites.retain(|overwrite| overwrite.id != id(role));
                }
                (
                    EventKind::GuildRoleDelete,
                    json!({"role_id": role.to_string()}),
                )
            }
            Change::Channel(number, overwrites) => {
                let mut by_target: BTreeMap<u64, Overwrite> = BTreeMap::new();
                for (of_member, target, allow, deny) in overwrites {
                    let (kind, target) = match of_member {
                        true => (OverwriteKind::Member, USERS.start + target),
                        false => (OverwriteKind::Role, HALL + target % 5),
                    };
                    let (allow, deny) = (bits(allow), bits(deny));
                    let id = id(target);
                    let overwrite = Overwrite {
                        id,
                        kind,
                        allow,
                        deny,
                    };
                    by_target.insert(target, overwrite);
                }
                let overwrites: Vec<Overwrite> = by_target.into_values().collect();
                let body = json!(channel(number, overwrites.clone()));
                match self.channels.insert(number, overwrites) {
                    Some(_) => (EventKind::ChannelUpdate, body),
                    None => (EventKind::ChannelCreate, body),
                }
            }
            Change::NoChannel(channel) => {
                self.channels.remove(&channel)?;
                (EventKind::ChannelDelete, json!({"id": channel.to_string()}))
            }
            Change::Member(user, which, is_silent) => {
                let held = ROLES.filter(|role| which >> (role - ROLES.start) & 1 == 1);
                let held: Vec<u64> = held.filter(|role| self.roles.contains_key(role)).collect();
                let mut body = member(user, &held);
                body.communication_disabled_until = is_silent.then(far_away);
                match self.members.insert(user, (held, is_silent)) {
                    Some(_) => (EventKind::GuildMemberUpdate, json!(body)),
                    None => (EventKind::GuildMemberAdd, json!(body)),
                }
            }
            Change::NoMember(user) => {
                self.members.remove(&user)?;
                self.inside.remove(&user);
                let body = json!({"user": {"id": user.to_string()}});
                (EventKind::GuildMemberRemove, body)
            }
            Change::Owner(user) => {
                self.owner = user;
                let mut guild = realm.guild_state().unwrap().guild.clone();
                guild.owner_id = id(user);
                (EventKind::GuildUpdate, json!(guild))
            }
        })
    }

    /// `None` for one who is no member.
    fn held(&self, user: u64, channel: Option<u64>) -> Option<Permissions> {
        let (roles, is_silent) = self.members.get(&user)?;
        let roles: Vec<_> = roles.iter().map(|&role| id(role)).collect();
        let access = MemberAccess {
            user: id(user),
            is_owner: user == self.owner,
            roles: &roles,
            communication_disabled_until: is_silent.then(far_away),
        };
        let (now, of_role) = (Timestamp::from_unix_ms(0), |role: Id<marker::Role>| {
            self.roles.get(&role.get()).copied()
        });
        let base = permissions::base(id(HALL), access, of_role, now);
        let Some(channel) = channel else {
            return Some(base);
        };
        let overwrites = self.channels.get(&channel)?;
        let class = ChannelClass::Text;
        Some(permissions::in_channel(
            base,
            id(HALL),
            access,
            overwrites,
            class,
            now,
        ))
    }

    fn sees(&self, user: u64, channel: u64) -> bool {
        let held = self.held(user, Some(channel));
        held.is_some_and(|held| held.contains(Permissions::VIEW_CHANNEL))
    }

    fn sees_thread(&self, user: u64, parent: u64, is_private: bool, is_inside: bool) -> bool {
        let held = self.held(user, Some(parent)).unwrap_or_default();
        let manages = held.contains(Permissions::MANAGE_THREADS);
        self.sees(user, parent) && (!is_private || is_inside || manages)
    }

    /// What a user hears of an event that made this world out of the one `before`, in order.
    fn hears(&self, before: &Self, user: u64, kind: EventKind, about: Option<u64>) -> Vec<String> {
        let name = kind.name().to_owned();
        let is_member = |world: &Self| world.members.contains_key(&user);
        if kind == EventKind::ChannelDelete || !is_member(before) || !is_member(self) {
            return vec![name];
        }
        let all = || self.channels.keys().copied();
        let gained = all().filter(|&id| !before.sees(user, id) && self.sees(user, id));
        let gained: Vec<u64> = gained.collect();
        let lost = all().filter(|&id| before.sees(user, id) && !self.sees(user, id));
        let mut heard: Vec<String> = gained
            .iter()
            .filter(|&&id| kind != EventKind::ChannelCreate || about != Some(id))
            .map(|id| format!("CHANNEL_CREATE {id}"))
            .collect();
        heard.push(name);
        let is_inside = self.inside.contains(&user);
        let threads = self.threads.iter().filter(|(_, (parent, is_private))| {
            gained.contains(parent) && self.sees_thread(user, *parent, *is_private, is_inside)
        });
        let threads: Vec<String> = threads.map(|(id, _)| id.to_string()).collect();
        if !threads.is_empty() {
            let gained: Vec<String> = gained.iter().map(u64::to_string).collect();
            heard.push(format!("THREAD_LIST_SYNC {gained:?} {threads:?}"));
        }
        for id in lost {
            if kind == EventKind::ChannelUpdate && about == Some(id) {
                heard.push(format!("CHANNEL_UPDATE {id}"));
            }
            heard.push(format!("CHANNEL_DELETE {id}"));
        }
        heard
    }
}

/// When a timeout ends that has not ended yet.
fn far_away() -> Timestamp {
    Timestamp::from_unix_ms(32_503_680_000_000)
}

/// What a user of an edge is sent, in order: the event itself, and what was made up for them.
fn heard(effects: &[Effect], at: EdgeId, user: u64) -> Vec<String> {
    let heard = effects.iter().filter_map(|effect| match effect {
        Effect::Event(event) => Some(event.kind.name().to_owned()),
        Effect::EventTo(edge, event) if *edge == at => {
            let Scope::Users(users) = &event.vis.scope else {
                panic!("made-up events are for users")
            };
            if !users.contains(&id(user)) {
                return None;
            }
            let name = event.kind.name();
            let body: Value = serde_json::from_slice(&event.body).unwrap();
            let ids = |list: &Value| -> Vec<String> {
                let list = list.as_array().unwrap().iter();
                list.map(|one| one["id"].as_str().or(one.as_str()).unwrap().to_owned())
                    .collect()
            };
            Some(match event.kind {
                EventKind::ThreadListSync => {
                    let (channels, threads) = (ids(&body["channel_ids"]), ids(&body["threads"]));
                    format!("{name} {channels:?} {threads:?}")
                }
                _ => format!("{name} {}", body["id"].as_str().unwrap()),
            })
        }
        Effect::EventTo(..) | Effect::View(..) | Effect::Notice(_) => None,
    });
    heard.collect()
}

/// The users an event of this scope is for, in the order in which they are named.
fn resolved(realm: &Realm, scope: Scope) -> Vec<u64> {
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

proptest! {
    /// Whoever is asked one by one, by the permissions alone, has seen and sees the same, hears
    /// the same of each change, and gets the same events that are for those who may.
    #[test]
    fn many_at_once_see_and_hear_what_each_alone_would(
        changes in prop::collection::vec(change(), 1..30),
    ) {
        let mut realm = hall();
        let mut world = World::hall(&mut realm);
        let mut believed: Vec<(EdgeId, Believed)> = EDGES
            .into_iter()
            .map(|(edge, users)| {
                let view = realm.subscribe(edge, users.map(id));
                let (channels, users) = (BTreeMap::new(), BTreeMap::new());
                let mut believed = Believed { channels, users };
                believed.take(&view);
                (edge, believed)
            })
            .collect();
        for change in changes {
            let before = world.clone();
            let Some((kind, body)) = world.make(&realm, change) else {
                continue;
            };
            let about = body["id"].as_str().and_then(|id| id.parse::<u64>().ok());
            let effects = apply(&mut realm, kind, &body);

            let is_event = |effect: &Effect| matches!(effect, Effect::Event(_));
            let is_view = |effect: &Effect| matches!(effect, Effect::View(..));
            let event = effects.iter().position(is_event).unwrap();
            let early = effects.iter().take_while(|effect| is_view(effect)).count();
            let views = effects.iter().filter(|effect| is_view(effect)).count();
            if kind == EventKind::ChannelDelete {
                prop_assert_eq!(event, 0);
            } else {
                prop_assert_eq!(early, views);
            }
            for effect in &effects {
                match effect {
                    Effect::View(edge, change) => {
                        let (_, believed) = believed.iter_mut().find(|(of, _)| of == edge).unwrap();
                        believed.take(change);
                    }
                    Effect::EventTo(edge, event) => {
                        let Scope::Users(users) = &event.vis.scope else { panic!("{event:?}") };
                        prop_assert!(users.is_sorted_by(|a, b| a < b));
                        let (_, on_edge) = &EDGES[usize::from(*edge != EDGE)];
                        prop_assert!(users.iter().all(|user| on_edge.contains(&user.get())));
                        prop_assert!(!users.is_empty());
                    }
                    Effect::Event(_) | Effect::Notice(_) => {}
                }
            }
            for ((edge, users), (_, believed)) in EDGES.into_iter().zip(&believed) {
                for user in users {
                    let is_member = world.members.contains_key(&user);
                    prop_assert_eq!(believed.users[&id(user)].is_some(), is_member);
                    for channel in CHANNELS {
                        prop_assert_eq!(
                            believed.sees(user, channel), world.sees(user, channel),
                            "{} in {} after {:?} {}", user, channel, kind, body
                        );
                    }
                    prop_assert_eq!(
                        heard(&effects, edge, user), world.hears(&before, user, kind, about),
                        "{} at {} after {:?} {}", user, edge, kind, body
                    );
                }
            }
            let any_of = Permissions::MANAGE_THREADS | Permissions::SEND_MESSAGES;
            for channel in CHANNELS.map(Some).chain([None]) {
                let scope = Scope::Permissions { any_of, channel: channel.map(id) };
                let holds = |user: &u64| {
                    let held = world.held(*user, channel);
                    held.is_some_and(|held| held.intersects(any_of))
                };
                prop_assert_eq!(resolved(&realm, scope), USERS.filter(holds).collect::<Vec<u64>>());
            }
            for parent in CHANNELS {
                let scope = Scope::Thread { parent: id(parent), members: vec![id(ALICE), id(MOD)] };
                let sees = |user: &u64| {
                    world.sees_thread(*user, parent, true, [ALICE, MOD].contains(user))
                };
                prop_assert_eq!(resolved(&realm, scope), USERS.filter(sees).collect::<Vec<u64>>());
            }
        }
    }
}
