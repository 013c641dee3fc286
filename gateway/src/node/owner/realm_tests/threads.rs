//! Threads, and who hears of them.

use super::*;

pub(in crate::node::owner) fn thread(thread: u64, parent: u64, kind: u8, archived: bool) -> Value {
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

pub(super) fn joined(thread: u64, user: u64) -> Value {
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
fn who_is_in_a_thread_hears_of_that_while_they_see_its_channel() {
    let mut realm = hall();
    let body = thread(302, STAFF, 11, false);
    apply(&mut realm, EventKind::ThreadCreate, &body);
    // As when the thread was woken: each member is told.
    for (user, hears) in [(MOD, vec![MOD]), (ALICE, Vec::new())] {
        let membership = joined(302, user)["added_members"][0].clone();
        let scope = Scope::Users([id(user)].into());
        let vis = Visibility::of(scope, Intents::GUILDS);
        let kind = EventKind::ThreadMemberUpdate;
        let effects = apply_vis(&mut realm, kind, vis, &membership);
        assert_eq!(named(&effects), hears, "{user}");
    }
}

#[test]
fn who_leaves_the_guild_no_longer_counts_in_its_threads() {
    let mut realm = hall();
    let body = thread(300, OPEN, 11, false);
    apply(&mut realm, EventKind::ThreadCreate, &body);
    for (user, count) in [(ALICE, 1), (MOD, 2)] {
        let mut update = joined(300, user);
        update["member_count"] = json!(count);
        apply(&mut realm, EventKind::ThreadMembersUpdate, &update);
    }
    let removed = json!({"guild_id": HALL.to_string(), "user": {"id": MOD.to_string()}});
    apply(&mut realm, EventKind::GuildMemberRemove, &removed);
    assert_eq!(guild_create(&realm, ALICE)["threads"][0]["member_count"], 1);
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
