//! What an event makes a realm send, and in which order.

use proptest::prelude::*;

use super::*;
use crate::node::relay::frame::Frame;

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
fn what_changes_as_a_channel_is_hidden_is_not_told_to_those_who_lose_it() {
    let mut realm = hall();
    let update = Channel {
        name: "secret".into(),
        ..channel(OPEN, hidden_but_for_mods())
    };
    let effects = apply(&mut realm, EventKind::ChannelUpdate, &json!(update));
    let made = effects.iter().filter_map(|effect| match effect {
        Effect::EventTo(_, event) => Some(serde_json::from_slice::<Value>(&event.body).unwrap()),
        _ => None,
    });
    let made: Vec<Value> = made.collect();
    assert_eq!(made.len(), 2, "an update, and the end");
    for told in made {
        assert_eq!(told["name"], OPEN.to_string());
        assert_eq!(told["permission_overwrites"].as_array().unwrap().len(), 2);
    }
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
