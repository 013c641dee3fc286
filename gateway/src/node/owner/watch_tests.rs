//! What a guild's realm tells of presences and lists of members, without I/O.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use guildhall_shared::{
    Id, Permissions,
    gateway::{EventKind, Intents},
    id::marker::User,
    model::{Platform, Presence, Status},
    permissions::{Overwrite, OverwriteKind},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    presence::SETTLE,
    realm::{Effect, Realm},
    realm_tests::{
        ALICE, EDGE, HALL, MOD, MODS, OPEN, OWNER, STAFF, apply, channel, hall, id, member, thread,
    },
    to_edge::EdgeId,
    watch::{ANSWER_BYTES, FILLS_MAX, Notice},
};
use crate::{
    ask::{Watch, WatchChange},
    bus::{PresenceChange, Subscriber},
    names::{Address, SessionKey},
    node::relay::frame::Sub,
};

fn shows(status: Status) -> Presence {
    Presence::of_session(Platform::Web, status, None)
}

/// Users subscribe at an edge, as sessions that are there already or as new ones.
fn subscribe(realm: &mut Realm, edge: EdgeId, users: &[(u64, Status)], presences: bool) {
    let users = users.iter().map(|&(user, status)| Subscriber {
        presence: shows(status),
        ..Subscriber::new(id(user), Vec::new())
    });
    let mut sub = Sub {
        id: 1,
        realm: id(HALL),
        from: None,
        users: users.collect(),
        presences,
    };
    realm.subscribe(edge, sub.users.iter().map(|user| user.user));
    realm.show(Instant::now() + SETTLE, edge, &mut sub);
}

fn show(realm: &mut Realm, edge: EdgeId, user: u64, status: Status) {
    let change = PresenceChange {
        realm: id(HALL),
        user: id(user),
        presence: shows(status),
        sessions: Vec::new(),
    };
    realm.show_change(edge, &change);
}

const HAS_ROOM: fn(EdgeId) -> bool = |_| true;
const HAS_NONE: fn(EdgeId) -> bool = |_| false;

/// A tick, and all that comes of it.
fn flush(realm: &mut Realm) -> Vec<Effect> {
    let mut out = Vec::new();
    realm.tell_presences(Instant::now(), &HAS_ROOM, &mut out);
    answer(realm, &mut out);
    out
}

/// All sessions are shown what they look at; in how many goes.
fn answer(realm: &mut Realm, out: &mut Vec<Effect>) -> usize {
    let mut goes = 0;
    while realm.is_asked(HAS_ROOM) {
        realm.answer_watches(&HAS_ROOM, out);
        goes += 1;
    }
    goes
}

/// A session of a user looks at something, and waits to be shown it.
fn look(realm: &mut Realm, user: u64, slot: u64, watch: Option<Watch>) {
    let session = SessionKey {
        slot: slot as u32,
        generation: 1,
    };
    let change = WatchChange {
        guild: id(HALL),
        from: Address { core: 0, session },
        user: id(user),
        watch,
    };
    realm.watch(EDGE, change);
}

/// The session in a user's own slot looks at something, and is shown it.
fn watch(realm: &mut Realm, user: u64, watch: Watch) -> Vec<Effect> {
    look(realm, user, user, Some(watch));
    let mut out = Vec::new();
    answer(realm, &mut out);
    out
}

fn list(channel: u64, blocks: &[u32]) -> Watch {
    Watch {
        channels: vec![(id(channel), blocks.to_vec())],
        members: Vec::new(),
    }
}

/// What the session in a slot, by which users have theirs, is told of one kind.
fn noticed(effects: &[Effect], user: u64, kind: EventKind) -> Vec<Value> {
    let is_for = |notice: &&Notice| {
        let mut to = notice.to.iter();
        notice.kind == kind && to.any(|(_, address)| u64::from(address.session.slot) == user)
    };
    let notices = effects.iter().filter_map(|effect| match effect {
        Effect::Notice(notice) => Some(notice),
        _ => None,
    });
    let bodies = notices.filter(is_for).map(|notice| &notice.body);
    bodies
        .map(|body| serde_json::from_slice(body).unwrap())
        .collect()
}

#[test]
fn presences_go_to_edges_that_want_them_and_not_to_the_user() {
    let mut realm = hall();
    subscribe(&mut realm, 2, &[(MOD, Status::Online)], true);
    flush(&mut realm);
    show(&mut realm, EDGE, ALICE, Status::Dnd);
    let effects = flush(&mut realm);
    let [Effect::EventTo(2, event)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(event.kind, EventKind::PresenceUpdate);
    assert_eq!(event.vis.intents, Intents::GUILD_PRESENCES);
    assert_eq!(event.vis.except, [id::<User>(ALICE)]);
    let d: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(d["guild_id"], HALL.to_string());
    assert_eq!(
        (&d["user"], &d["status"]),
        (&json!({"id": ALICE.to_string()}), &json!("dnd"))
    );
    assert!(flush(&mut realm).is_empty());
    // Somebody the edge never had there shows nothing.
    show(&mut realm, 2, ALICE, Status::Online);
    assert!(flush(&mut realm).is_empty());
}

#[test]
fn a_new_name_is_told_with_the_presence() {
    let mut realm = hall();
    subscribe(&mut realm, 2, &[(MOD, Status::Online)], true);
    flush(&mut realm);
    let mut renamed = serde_json::to_value(member(ALICE, &[])).unwrap();
    renamed["user"]["username"] = json!("alice");
    apply(&mut realm, EventKind::GuildMemberUpdate, &renamed);
    let effects = flush(&mut realm);
    let [Effect::EventTo(2, event)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let d: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(d["user"]["username"], "alice");
    assert_eq!(d["status"], "offline");
}

#[test]
fn those_who_come_from_another_owner_are_known_already() {
    let mut realm = hall();
    let mut sub = Sub {
        id: 1,
        realm: id(HALL),
        from: None,
        users: vec![Subscriber {
            presence: shows(Status::Online),
            ..Subscriber::new(id(ALICE), Vec::new())
        }],
        presences: true,
    };
    realm.show(Instant::now(), EDGE, &mut sub);
    assert!(flush(&mut realm).is_empty());
    assert_eq!(realm.presences.of(id(ALICE)), shows(Status::Online));
    // An edge that goes takes its users with it, but not at once.
    realm.drop_edge(Instant::now(), EDGE);
    subscribe(&mut realm, 2, &[(MOD, Status::Online)], true);
    flush(&mut realm);
    let mut out = Vec::new();
    realm.tell_presences(
        Instant::now() + Duration::from_secs(60),
        &HAS_ROOM,
        &mut out,
    );
    assert_eq!(out.len(), 1);
    assert!(realm.presences.of(id(ALICE)).is_offline());
}

#[test]
fn a_list_shows_groups_and_members_and_is_told_what_moves() {
    let mut realm = hall();
    show(&mut realm, EDGE, MOD, Status::Online);
    flush(&mut realm);
    let update = noticed(
        &watch(&mut realm, ALICE, list(OPEN, &[0])),
        ALICE,
        EventKind::GuildMemberListUpdate,
    )
    .remove(0);
    assert_eq!(update["id"], "everyone");
    assert_eq!(update["member_count"], 3);
    assert_eq!(update["online_count"], 1);
    assert_eq!(
        update["groups"],
        json!([{"id": "online", "count": 1}, {"id": "offline", "count": 2}])
    );
    let sync = &update["ops"][0];
    assert_eq!(
        (&sync["op"], &sync["range"]),
        (&json!("SYNC"), &json!([0, 99]))
    );
    assert_eq!(
        sync["items"][0],
        json!({"group": {"id": "online", "count": 1}})
    );
    let first = &sync["items"][1]["member"];
    assert_eq!(first["user"]["id"], MOD.to_string());
    assert_eq!(first["presence"]["status"], "online");
    assert_eq!(first["presence"]["user"]["id"], MOD.to_string());

    // The mods' role is hoisted now.
    let mut role = serde_json::to_value(&realm.guild_state().unwrap().guild.roles[1]).unwrap();
    role["hoist"] = json!(true);
    let body = json!({"guild_id": HALL.to_string(), "role": role});
    apply(&mut realm, EventKind::GuildRoleUpdate, &body);
    let told = noticed(&flush(&mut realm), ALICE, EventKind::GuildMemberListUpdate);
    assert_eq!(
        told[0]["groups"][0],
        json!({"id": MODS.to_string(), "count": 1})
    );
}

#[test]
fn a_hidden_channels_list_is_for_those_who_see_it() {
    let mut realm = hall();
    let kind = EventKind::GuildMemberListUpdate;
    let effects = watch(&mut realm, ALICE, list(STAFF, &[0]));
    assert_eq!(noticed(&effects, ALICE, kind), Vec::<Value>::new());
    let promoted = serde_json::to_value(member(ALICE, &[MODS])).unwrap();
    apply(&mut realm, EventKind::GuildMemberUpdate, &promoted);
    let told = noticed(&flush(&mut realm), ALICE, kind);
    let rows = told.last().unwrap()["ops"][0]["items"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(rows, 4, "a header, and three who see the channel");
    assert_ne!(told[0]["id"], "everyone");
    let demoted = serde_json::to_value(member(ALICE, &[])).unwrap();
    apply(&mut realm, EventKind::GuildMemberUpdate, &demoted);
    show(&mut realm, EDGE, MOD, Status::Idle);
    assert_eq!(
        noticed(&flush(&mut realm), ALICE, kind),
        Vec::<Value>::new()
    );
}

#[test]
fn channels_that_everybody_sees_have_one_list_and_private_threads_in_them_another() {
    let mut realm = hall();
    let shown = Overwrite {
        id: id(MODS),
        kind: OverwriteKind::Role,
        allow: Permissions::VIEW_CHANNEL,
        deny: Permissions::empty(),
    };
    let also_open = serde_json::to_value(channel(202, vec![shown])).unwrap();
    apply(&mut realm, EventKind::ChannelCreate, &also_open);
    for (number, parent, kind) in [(300, OPEN, 11), (301, OPEN, 12), (302, STAFF, 12)] {
        let body = thread(number, parent, kind, false);
        apply(&mut realm, EventKind::ThreadCreate, &body);
    }
    let mut names = |channels: &[u64]| -> Vec<Value> {
        let channels = channels.iter().map(|&channel| (id(channel), vec![0]));
        let looks = Watch {
            channels: channels.collect(),
            members: Vec::new(),
        };
        let effects = watch(&mut realm, OWNER, looks);
        let told = noticed(&effects, OWNER, EventKind::GuildMemberListUpdate);
        told.into_iter()
            .map(|update| update["id"].clone())
            .collect()
    };
    assert_eq!(names(&[OPEN, 202, 300]), ["everyone"]);
    let private = names(&[301]);
    assert_eq!(private.len(), 1);
    assert_ne!(private, ["everyone"]);
    assert_eq!(names(&[STAFF, 302]), names(&[302]));
}

#[test]
fn many_lists_are_filled_again_a_few_at_a_time() {
    let mut realm = hall();
    show(&mut realm, EDGE, MOD, Status::Online);
    flush(&mut realm);
    let channels: Vec<u64> = (300..).take(FILLS_MAX + 2).collect();
    for &number in &channels {
        let overwrite = Overwrite {
            id: id(number + 100),
            kind: OverwriteKind::Role,
            allow: Permissions::empty(),
            deny: Permissions::VIEW_CHANNEL,
        };
        let body = serde_json::to_value(channel(number, vec![overwrite])).unwrap();
        apply(&mut realm, EventKind::ChannelCreate, &body);
    }
    let looks = channels.iter().map(|&channel| (id(channel), vec![0]));
    let looks = Watch {
        channels: looks.collect(),
        members: Vec::new(),
    };
    let kind = EventKind::GuildMemberListUpdate;
    look(&mut realm, ALICE, ALICE, Some(looks));
    let mut told = Vec::new();
    realm.answer_watches(&HAS_ROOM, &mut told);
    assert_eq!(noticed(&told, ALICE, kind).len(), FILLS_MAX);
    answer(&mut realm, &mut told);
    assert_eq!(noticed(&told, ALICE, kind).len(), channels.len());
    let mut role = serde_json::to_value(&realm.guild_state().unwrap().guild.roles[1]).unwrap();
    role["hoist"] = json!(true);
    let body = json!({"guild_id": HALL.to_string(), "role": role});
    apply(&mut realm, EventKind::GuildRoleUpdate, &body);
    let told = noticed(&flush(&mut realm), ALICE, kind);
    assert_eq!(told.len(), FILLS_MAX);
    assert_eq!(told[0]["groups"][0]["id"], MODS.to_string());
    assert!(realm.is_due());
    assert_eq!(noticed(&flush(&mut realm), ALICE, kind).len(), 2);
    assert!(!realm.is_due());
}

/// Members who join until there are a few whole blocks.
fn crowd(realm: &mut Realm) {
    for user in 1000..1700 {
        let body = serde_json::to_value(member(user, &[])).unwrap();
        apply(realm, EventKind::GuildMemberAdd, &body);
    }
}

fn notices(effects: &[Effect]) -> Vec<&Notice> {
    let notices = effects.iter().map(|effect| match effect {
        Effect::Notice(notice) => notice,
        other => panic!("{other:?}"),
    });
    notices.collect()
}

#[test]
fn those_who_look_at_the_same_are_shown_it_together() {
    let mut realm = hall();
    for slot in 0..3000 {
        // What each says last counts.
        look(&mut realm, ALICE, slot, Some(list(OPEN, &[1])));
        look(&mut realm, ALICE, slot, Some(list(OPEN, &[0])));
    }
    look(&mut realm, ALICE, 5, None);
    let mut out = Vec::new();
    let goes = answer(&mut realm, &mut out);
    let notices = notices(&out);
    assert_eq!(notices.len(), goes);
    assert!(notices.windows(2).all(|two| two[0].body == two[1].body));
    let to = notices.iter().flat_map(|notice| &notice.to);
    let mut slots: Vec<u32> = to.map(|(_, address)| address.session.slot).collect();
    slots.sort_unstable();
    let expected: Vec<u32> = (0..3000).filter(|slot| *slot != 5).collect();
    assert_eq!(slots, expected);
    assert!(!realm.is_asked(HAS_ROOM));
}

#[test]
fn much_that_differs_is_shown_in_portions() {
    let mut realm = hall();
    crowd(&mut realm);
    for slot in 0..40 {
        let blocks: Vec<u32> = (0..6).filter(|block| slot >> block & 1 == 1).collect();
        look(&mut realm, ALICE, slot, Some(list(OPEN, &blocks)));
    }
    let (mut goes, mut all) = (0, Vec::new());
    while realm.is_asked(HAS_ROOM) {
        let mut out = Vec::new();
        realm.answer_watches(&HAS_ROOM, &mut out);
        let bodies = notices(&out).into_iter().map(|notice| notice.body.len());
        let bodies: Vec<usize> = bodies.collect();
        let (last, before) = bodies.split_last().unwrap();
        assert!(before.iter().sum::<usize>() < ANSWER_BYTES, "{last}");
        goes += 1;
        all.extend(out);
    }
    assert!(goes > 1);
    let kind = EventKind::GuildMemberListUpdate;
    for slot in 0..40u64 {
        let told = noticed(&all, slot, kind);
        let ops = told
            .iter()
            .flat_map(|update| update["ops"].as_array().unwrap());
        assert_eq!(ops.count() as u32, slot.count_ones(), "{slot}");
    }
}

#[test]
fn the_list_stays_while_the_only_one_who_looks_at_it_scrolls() {
    let mut realm = hall();
    crowd(&mut realm);
    let kind = EventKind::GuildMemberListUpdate;
    let groups = |realm: &mut Realm, blocks: &[u32]| {
        let told = noticed(&watch(realm, ALICE, list(OPEN, blocks)), ALICE, kind);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0]["ops"].as_array().unwrap().len(), blocks.len());
        told[0]["groups"].clone()
    };
    groups(&mut realm, &[0, 1]);
    // A list that is there is told of it at the tick; one that is filled has it already.
    show(&mut realm, EDGE, MOD, Status::Online);
    let offline = json!([{"id": "offline", "count": 703}]);
    assert_eq!(groups(&mut realm, &[0, 2]), offline);
    assert_eq!(groups(&mut realm, &[3]), offline);
    look(&mut realm, ALICE, ALICE, None);
    let with_one = json!([{"id": "online", "count": 1}, {"id": "offline", "count": 702}]);
    assert_eq!(groups(&mut realm, &[0]), with_one);
}

#[test]
fn an_edge_without_room_is_shown_all_of_it_when_it_has_some() {
    let mut realm = hall();
    crowd(&mut realm);
    let kind = EventKind::GuildMemberListUpdate;
    look(&mut realm, ALICE, ALICE, Some(list(OPEN, &[0, 1])));
    let mut out = Vec::new();
    for _ in 0..2 {
        assert!(realm.is_asked(HAS_ROOM) && !realm.is_asked(HAS_NONE));
        realm.answer_watches(&HAS_NONE, &mut out);
        realm.tell_presences(Instant::now(), &HAS_NONE, &mut out);
        assert!(noticed(&out, ALICE, kind).is_empty());
    }
    look(&mut realm, ALICE, ALICE, Some(list(OPEN, &[0])));
    answer(&mut realm, &mut out);
    let told = noticed(&out, ALICE, kind);
    let [update] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(update["ops"].as_array().unwrap().len(), 1);
    // A change that cannot be told is in what it is shown then.
    out.clear();
    show(&mut realm, EDGE, MOD, Status::Online);
    realm.tell_presences(Instant::now(), &HAS_NONE, &mut out);
    assert!(noticed(&out, ALICE, kind).is_empty());
    let told = noticed(&flush(&mut realm), ALICE, kind);
    let [update] = &told[..] else {
        panic!("{told:?}");
    };
    let sync = &update["ops"][0];
    assert_eq!(sync["op"], "SYNC");
    let online = json!({"group": {"id": "online", "count": 1}});
    assert_eq!(sync["items"][0], online);
    // And goes on from there.
    show(&mut realm, EDGE, MOD, Status::Idle);
    let told = noticed(&flush(&mut realm), ALICE, kind);
    assert_eq!(told[0]["ops"][0]["op"], "UPDATE");
}

#[test]
fn who_follows_a_member_hears_of_it() {
    let mut realm = hall();
    let follow = Watch {
        channels: Vec::new(),
        members: vec![id(MOD), id(ALICE)],
    };
    watch(&mut realm, ALICE, follow);
    show(&mut realm, EDGE, MOD, Status::Idle);
    show(&mut realm, EDGE, ALICE, Status::Idle);
    let told = noticed(&flush(&mut realm), ALICE, EventKind::PresenceUpdate);
    assert_eq!(told.len(), 1, "not of oneself");
    assert_eq!(told[0]["user"]["id"], MOD.to_string());
    let renamed = json!({"user": {"id": MOD.to_string()}, "nick": "boss"});
    let effects = apply(&mut realm, EventKind::GuildMemberUpdate, &renamed);
    let told = noticed(&effects, ALICE, EventKind::GuildMemberUpdate);
    assert_eq!(told[0]["nick"], "boss");
    realm.unsubscribe(EDGE, &[id(ALICE)], false);
    show(&mut realm, EDGE, MOD, Status::Online);
    assert_eq!(
        noticed(&flush(&mut realm), ALICE, EventKind::PresenceUpdate).len(),
        0
    );
}

#[test]
fn who_follows_a_member_hears_once_that_it_is_gone() {
    let mut realm = hall();
    let kind = EventKind::GuildMemberRemove;
    for follower in [OWNER, ALICE] {
        let follow = Watch {
            channels: Vec::new(),
            members: vec![id(MOD)],
        };
        watch(&mut realm, follower, follow);
    }
    let itself = Watch {
        channels: vec![(id(OPEN), vec![0])],
        members: vec![id(MOD), id(ALICE)],
    };
    watch(&mut realm, MOD, itself);
    let gone = |user: u64| json!({"guild_id": HALL.to_string(), "user": {"id": user.to_string()}});
    let mut effects = apply(&mut realm, kind, &gone(MOD));
    effects.extend(flush(&mut realm));
    for follower in [OWNER, ALICE] {
        assert_eq!(noticed(&effects, follower, kind), [gone(MOD)]);
    }
    // Who is gone is told GUILD_DELETE, and nothing more of others.
    assert_eq!(noticed(&effects, MOD, kind), Vec::<Value>::new());
    let effects = apply(&mut realm, kind, &gone(ALICE));
    for nobody in [OWNER, MOD, ALICE] {
        assert_eq!(noticed(&effects, nobody, kind), Vec::<Value>::new());
    }
}

/// Rows as a client has them.
fn follow_ops(rows: &mut Vec<Value>, update: &Value) {
    for op in update["ops"].as_array().unwrap() {
        let index = op["index"].as_u64().unwrap_or_default() as usize;
        match op["op"].as_str().unwrap() {
            "SYNC" => *rows = op["items"].as_array().unwrap().clone(),
            "INSERT" => rows.insert(index, op["item"].clone()),
            "UPDATE" => rows[index] = op["item"].clone(),
            "DELETE" => {
                rows.remove(index);
            }
            "INVALIDATE" => rows.clear(),
            other => panic!("{other}"),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Show(usize, usize),
    Role(usize, bool),
    Nick(usize, Option<u8>),
    Hoist(bool),
    Leave(usize),
    /// The client asks for its rows again.
    Look,
    /// A tick at which the edge takes no more.
    Crowded,
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0usize..4, 0usize..4).prop_map(|(user, status)| Step::Show(user, status)),
        3 => (0usize..4, any::<bool>()).prop_map(|(user, has)| Step::Role(user, has)),
        3 => (0usize..4, prop::option::of(0u8..4)).prop_map(|(user, nick)| Step::Nick(user, nick)),
        1 => any::<bool>().prop_map(Step::Hoist),
        1 => (0usize..4).prop_map(Step::Leave),
        1 => Just(Step::Look),
        1 => Just(Step::Crowded),
        5 => Just(Step::Flush),
    ]
}

proptest! {
    /// Whatever happens, a client that looks at a list has the rows that its definition gives:
    /// each with what the member and its presence are now.
    #[test]
    fn a_client_has_the_rows_of_the_definition(steps in prop::collection::vec(step(), 0..50)) {
        const BEN: u64 = 14;
        let users = [OWNER, MOD, ALICE, BEN];
        let statuses = [Status::Online, Status::Idle, Status::Dnd, Status::Invisible];
        let mut realm = hall();
        apply(&mut realm, EventKind::GuildMemberAdd, &serde_json::to_value(member(BEN, &[])).unwrap());
        realm.subscribe(EDGE, [id(BEN)]);
        let (mut rows, mut shown) = (Vec::new(), BTreeMap::new());
        let kind = EventKind::GuildMemberListUpdate;
        for update in noticed(&watch(&mut realm, OWNER, list(OPEN, &[0])), OWNER, kind) {
            follow_ops(&mut rows, &update);
        }
        let mut hoisted = false;
        let mut members: BTreeMap<u64, (Vec<u64>, Option<String>)> = BTreeMap::from([
            (OWNER, (vec![], None)), (MOD, (vec![MODS], None)), (ALICE, (vec![], None)), (BEN, (vec![], None)),
        ]);
        for step in steps {
            match step {
                Step::Show(user, status) => {
                    let (user, status) = (users[user], statuses[status]);
                    show(&mut realm, EDGE, user, status);
                    shown.insert(user, shows(status));
                }
                Step::Role(user, has) => {
                    let user = users[user];
                    if let Some((roles, _)) = members.get_mut(&user) {
                        *roles = if has { vec![MODS] } else { vec![] };
                        let ids: Vec<String> = roles.iter().map(u64::to_string).collect();
                        let body = json!({"user": {"id": user.to_string()}, "roles": ids});
                        apply(&mut realm, EventKind::GuildMemberUpdate, &body);
                    }
                }
                Step::Nick(user, nick) => {
                    let user = users[user];
                    if let Some((_, name)) = members.get_mut(&user) {
                        *name = nick.map(|nick| format!("N{nick}"));
                        let body = json!({"user": {"id": user.to_string()}, "nick": name});
                        apply(&mut realm, EventKind::GuildMemberUpdate, &body);
                    }
                }
                Step::Hoist(hoist) => {
                    hoisted = hoist;
                    let mut role = serde_json::to_value(&realm.guild_state().unwrap().guild.roles[1]).unwrap();
                    role["hoist"] = json!(hoist);
                    let body = json!({"guild_id": HALL.to_string(), "role": role});
                    apply(&mut realm, EventKind::GuildRoleUpdate, &body);
                }
                Step::Leave(user) if users[user] != OWNER => {
                    let user = users[user];
                    if members.remove(&user).is_some() {
                        let body = json!({"guild_id": HALL.to_string(), "user": {"id": user.to_string()}});
                        apply(&mut realm, EventKind::GuildMemberRemove, &body);
                    }
                }
                Step::Leave(_) => {}
                Step::Look => look(&mut realm, OWNER, OWNER, Some(list(OPEN, &[0]))),
                Step::Crowded => {
                    let mut told = Vec::new();
                    realm.tell_presences(Instant::now(), &HAS_NONE, &mut told);
                    realm.answer_watches(&HAS_NONE, &mut told);
                    prop_assert!(noticed(&told, OWNER, kind).is_empty());
                }
                Step::Flush => {
                    for update in noticed(&flush(&mut realm), OWNER, kind) {
                        follow_ops(&mut rows, &update);
                    }
                    prop_assert_eq!(&brief(&rows), &definition(&members, &shown, hoisted));
                    for row in rows.iter().filter(|row| row.get("member").is_some()) {
                        let user: u64 = row["member"]["user"]["id"].as_str().unwrap().parse().unwrap();
                        let now = realm.presences.of(id(user));
                        prop_assert_eq!(&row["member"]["presence"]["status"], now.status().name());
                        let known = &realm.guild_state().unwrap().members[&id::<User>(user)];
                        prop_assert_eq!(&row["member"]["nick"], &json!(known.nick));
                        prop_assert_eq!(&row["member"]["roles"], &json!(known.roles));
                    }
                }
            }
        }
    }
}

/// Rows in short: a group with its count, or a user.
fn brief(rows: &[Value]) -> Vec<String> {
    let brief = rows.iter().map(|row| match row.get("group") {
        Some(group) => format!("{} {}", group["id"].as_str().unwrap(), group["count"]),
        None => row["member"]["user"]["id"].as_str().unwrap().to_owned(),
    });
    brief.collect()
}

fn definition(
    members: &BTreeMap<u64, (Vec<u64>, Option<String>)>,
    shown: &BTreeMap<u64, Presence>,
    hoisted: bool,
) -> Vec<String> {
    let mut groups: BTreeMap<(u8, String), Vec<(String, u64)>> = BTreeMap::new();
    for (&user, (roles, nick)) in members {
        let is_online = shown.get(&user).is_some_and(|shown| !shown.is_offline());
        let group = match is_online {
            true if hoisted && roles.contains(&MODS) => (0, MODS.to_string()),
            true => (1, "online".to_owned()),
            false => (2, "offline".to_owned()),
        };
        // Their usernames are their ids.
        let name = nick
            .clone()
            .unwrap_or_else(|| user.to_string())
            .to_lowercase();
        groups.entry(group).or_default().push((name, user));
    }
    let mut rows = Vec::new();
    for ((_, name), mut members) in groups {
        members.sort();
        rows.push(format!("{name} {}", members.len()));
        rows.extend(members.into_iter().map(|(_, user)| user.to_string()));
    }
    rows
}

#[test]
fn a_subscription_that_asks_again_changes_nothing() {
    let mut realm = hall();
    subscribe(&mut realm, EDGE, &[(ALICE, Status::Online)], true);
    assert_eq!(flush(&mut realm).len(), 1);
    subscribe(&mut realm, EDGE, &[(ALICE, Status::Online)], true);
    assert!(flush(&mut realm).is_empty());
    let known: Id<User> = id(ALICE);
    assert_eq!(realm.presences.of(known), shows(Status::Online));
}

#[test]
fn a_guild_that_is_read_again_shows_what_rows_show_by_now() {
    let mut realm = hall();
    flush(&mut realm);
    watch(&mut realm, ALICE, list(OPEN, &[0]));
    let mut fresh = hall();
    let mut changed = serde_json::to_value(member(MOD, &[MODS])).unwrap();
    changed["flags"] = json!(2);
    apply(&mut fresh, EventKind::GuildMemberUpdate, &changed);
    fresh.take_over(&mut realm);
    let told = noticed(&flush(&mut fresh), ALICE, EventKind::GuildMemberListUpdate);
    let ops = told
        .iter()
        .flat_map(|update| update["ops"].as_array().unwrap());
    let members = ops.map(|op| &op["item"]["member"]);
    let moderator = MOD.to_string();
    let mut of_mod = members.filter(|member| member["user"]["id"] == moderator);
    assert_eq!(of_mod.next().expect("the row is told again")["flags"], 2);
}
