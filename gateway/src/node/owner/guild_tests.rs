//! What a guild's snapshots show after its events, without I/O.

use guildhall_shared::{
    gateway::EventKind,
    model::{ChannelKind, Platform, Presence, Status},
};
use guildhall_store::guild::Snapshot;
use serde_json::{Value, json};

use crate::{
    bus::{SnapshotRequest, Subscriber},
    names::SessionKey,
    node::owner::{
        realm::Realm,
        realm_tests::{
            ALICE, EDGE, HALL, MOD, MODS, OPEN, OWNER, STAFF, apply, channel, hall, id, member,
            open, stored,
        },
    },
};

fn guild_create(realm: &Realm, user: u64) -> Value {
    guild_create_with(realm, user, 50, false)
}

fn guild_create_with(realm: &Realm, user: u64, large_threshold: u16, presences: bool) -> Value {
    let request = SnapshotRequest {
        session: SessionKey {
            slot: 0,
            generation: 1,
        },
        unavailable: None,
        large_threshold,
        members: presences,
        presences,
    };
    let asking = Subscriber::new(id(user), vec![request]);
    let (_, body) = realm.snapshots(&[asking]).pop().unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn thread(thread: u64, parent: u64) -> Value {
    json!({
        "id": thread.to_string(), "type": 11, "guild_id": HALL.to_string(),
        "parent_id": parent.to_string(), "owner_id": ALICE.to_string(), "name": "aside",
        "last_message_id": null, "flags": 0, "rate_limit_per_user": 0, "message_count": 0,
        "member_count": 1, "total_message_sent": 0,
        "thread_metadata": {
            "archived": false, "auto_archive_duration": 60, "locked": false,
            "archive_timestamp": "2026-01-01T00:00:00.000000+00:00",
        },
    })
}

fn say(realm: &mut Realm, channel: u64, message: u64, kind: u8) {
    let (id, channel) = (message.to_string(), channel.to_string());
    let body = json!({"id": id, "channel_id": channel, "type": kind});
    apply(realm, EventKind::MessageCreate, &body);
}

fn voice(user: u64, channel: u64) -> Value {
    json!({
        "guild_id": HALL.to_string(), "channel_id": channel.to_string(),
        "user_id": user.to_string(), "session_id": "s", "deaf": false, "mute": false,
        "self_deaf": false, "self_mute": true, "self_stream": false, "self_video": false,
        "suppress": false, "request_to_speak_timestamp": null,
    })
}

/// One of the objects of a list.
fn of_id(list: &Value, wanted: u64) -> &Value {
    let mut all = list.as_array().unwrap().iter();
    let wanted = wanted.to_string();
    all.find(|one| one["id"] == wanted).unwrap()
}

#[test]
fn threads_count_their_messages_as_the_api_does() {
    let mut realm = hall();
    for number in [300, 301] {
        apply(&mut realm, EventKind::ThreadCreate, &thread(number, OPEN));
    }
    // What they start from: in a text channel, and in a forum.
    say(&mut realm, 300, 900, 21);
    say(&mut realm, 301, 301, 0);
    for message in 901..=904 {
        say(&mut realm, 300, message, 0);
    }
    let one = json!({"id": "901", "channel_id": "300", "guild_id": HALL.to_string()});
    apply(&mut realm, EventKind::MessageDelete, &one);
    let bulk = json!({"ids": ["902", "903"], "channel_id": "300", "guild_id": HALL.to_string()});
    apply(&mut realm, EventKind::MessageDeleteBulk, &bulk);
    let begun = json!({"id": "301", "channel_id": "301", "guild_id": HALL.to_string()});
    apply(&mut realm, EventKind::MessageDelete, &begun);

    let shown = guild_create(&realm, ALICE);
    let aside = of_id(&shown["threads"], 300);
    assert_eq!(
        (&aside["message_count"], &aside["total_message_sent"]),
        (&json!(1), &json!(4))
    );
    assert_eq!(aside["last_message_id"], "904");
    assert_eq!(of_id(&shown["threads"], 301)["message_count"], 0);
}

#[test]
fn a_new_pin_is_in_later_snapshots() {
    let mut realm = hall();
    apply(&mut realm, EventKind::ThreadCreate, &thread(300, OPEN));
    let at = "2026-01-02T00:00:00.000000+00:00";
    for channel in [OPEN, 300] {
        let body = json!({
            "guild_id": HALL.to_string(), "channel_id": channel.to_string(),
            "last_pin_timestamp": at,
        });
        apply(&mut realm, EventKind::ChannelPinsUpdate, &body);
    }
    let shown = guild_create(&realm, ALICE);
    assert_eq!(of_id(&shown["channels"], OPEN)["last_pin_timestamp"], at);
    assert_eq!(of_id(&shown["threads"], 300)["last_pin_timestamp"], at);
}

#[test]
fn a_forums_newest_message_is_its_newest_post() {
    let mut realm = hall();
    let mut forum = channel(210, Vec::new());
    forum.kind = ChannelKind::FORUM;
    let forum = serde_json::to_value(forum).unwrap();
    apply(&mut realm, EventKind::ChannelCreate, &forum);
    for post in [310, 309] {
        apply(&mut realm, EventKind::ThreadCreate, &thread(post, 210));
    }
    apply(&mut realm, EventKind::ThreadCreate, &thread(311, OPEN));
    let shown = guild_create(&realm, ALICE);
    assert_eq!(of_id(&shown["channels"], 210)["last_message_id"], "310");
    assert_eq!(
        of_id(&shown["channels"], OPEN)["last_message_id"],
        Value::Null
    );
}

#[test]
fn ones_own_voice_state_is_shown_wherever_one_is() {
    let mut realm = hall();
    for user in [MOD, ALICE] {
        let kind = EventKind::VoiceStateUpdate;
        apply(&mut realm, kind, &voice(user, STAFF));
    }
    let shown = guild_create(&realm, ALICE);
    assert_eq!(shown["voice_states"].as_array().unwrap().len(), 1);
    assert_eq!(shown["voice_states"][0]["user_id"], ALICE.to_string());
    let shown = guild_create(&realm, MOD);
    assert_eq!(shown["voice_states"].as_array().unwrap().len(), 2);
}

#[test]
fn who_is_in_voice_stands_out_among_many() {
    const MANY: u64 = 60;
    let mut realm = hall();
    for user in 999..1000 + MANY {
        let body = serde_json::to_value(member(user, &[])).unwrap();
        apply(&mut realm, EventKind::GuildMemberAdd, &body);
    }
    // In any order.
    for user in (1000..1000 + MANY).rev() {
        apply(&mut realm, EventKind::VoiceStateUpdate, &voice(user, OPEN));
    }
    let shown = guild_create_with(&realm, ALICE, 50, true);
    let members = shown["members"].as_array().unwrap();
    // Alice herself, the mod with a role, and those in voice: neither the owner nor 999.
    assert_eq!(members.len() as u64, MANY + 2);
    assert_eq!(members[0]["user"]["id"], ALICE.to_string());
    assert_eq!(members[1]["roles"], json!([MODS.to_string()]));
}

#[test]
fn a_guild_lists_whom_its_size_and_the_session_allow() {
    let shows = || Presence::of_session(Platform::Web, Status::Online, None);
    let count = |guild: &Value, list: &str| guild[list].as_array().unwrap().len();
    let mut realm = hall();
    for user in 1000..1060 {
        let mut body = serde_json::to_value(member(user, &[])).unwrap();
        if user == 1000 {
            body["nick"] = json!("nick");
        }
        apply(&mut realm, EventKind::GuildMemberAdd, &body);
    }
    realm.presences.set(EDGE, id(1001), shows(), true);
    for (large_threshold, presences, large, members, shown) in [
        (250, true, false, 63, 1),
        (63, true, false, 63, 1),
        // Alice herself, the mod with a role, who has a nick, and who is online.
        (62, true, true, 4, 1),
        (250, false, false, 1, 0),
        (62, false, true, 1, 0),
    ] {
        let guild = guild_create_with(&realm, ALICE, large_threshold, presences);
        assert_eq!(
            (&guild["large"], &guild["member_count"]),
            (&json!(large), &json!(63))
        );
        let listed = (count(&guild, "members"), count(&guild, "presences"));
        assert_eq!(listed, (members, shown), "{large_threshold}, {presences}");
    }

    // Where there are very many, presences do not help.
    for (member_count, members, shown) in [(75_000, 3, 1), (75_001, 1, 0)] {
        let mut realm = open(Snapshot {
            member_count,
            ..stored()
        });
        realm.subscribe(EDGE, [id(ALICE), id(OWNER)]);
        realm.presences.set(EDGE, id(OWNER), shows(), true);
        let guild = guild_create_with(&realm, ALICE, 250, true);
        let listed = (count(&guild, "members"), count(&guild, "presences"));
        assert_eq!(listed, (members, shown), "{member_count}");
    }
}
