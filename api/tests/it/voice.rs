//! Voice states over REST. Joining is the gateway's (op 4); here the store does it.

use guildhall_shared::{
    Id, Permissions,
    envelope::Visibility,
    gateway::{EventKind, Intents},
    id::marker::Channel,
};
use guildhall_store::voice::change::{self, Connected, Wanted};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, hall},
    log,
};

async fn channel(app: &TestApp, by: &TestUser, guild: TestGuild, body: Value) -> Id<Channel> {
    let path = format!("/guilds/{}/channels", guild.id);
    let made = app.post(by, &path, body).await.expect(201);
    made["id"].as_str().unwrap().parse().unwrap()
}

fn wanted(channel: Id<Channel>, session: &str) -> Wanted {
    Wanted {
        channel,
        session_id: session.to_owned(),
        self_mute: false,
        self_deaf: false,
        self_video: false,
    }
}

async fn join(app: &TestApp, user: &TestUser, guild: TestGuild, wanted: &Wanted) -> Connected {
    let mut tx = app.db.begin().await.unwrap();
    let done = change::connect(&mut tx, guild.id, user.id, wanted, 0).await;
    tx.commit().await.unwrap();
    done.unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn one_is_in_one_channel_of_a_guild_at_a_time(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let room = channel(&app, &alice, hall, json!({ "name": "Room", "type": 2 })).await;
    let small = json!({ "name": "Small", "type": 2, "user_limit": 1 });
    let small = channel(&app, &alice, hall, small).await;
    let own = format!("/guilds/{}/voice-states/@me", hall.id);
    app.get(&bob, &own).await.expect_error(404, 10065);
    let text = join(&app, &bob, hall, &wanted(hall.general, "s")).await;
    assert!(matches!(text, Connected::Refused));

    let Connected::Done {
        events, entered, ..
    } = join(&app, &bob, hall, &wanted(room, "s")).await
    else {
        panic!("bob may enter");
    };
    assert!(entered);
    // The first one in: since when somebody is there is told too.
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    let start = EventKind::VoiceChannelStartTimeUpdate;
    assert_eq!(kinds, [EventKind::VoiceStateUpdate, start]);
    assert_eq!(events[0].vis.regardless, [bob.id]);
    let state = app.get(&bob, &own).await.expect(200);
    conforms("get_self_voice_state", 200, &state);
    assert_eq!(state["session_id"], "s");
    let other = format!("/guilds/{}/voice-states/{}", hall.id, bob.id);
    let shown = app.get(&alice, &other).await.expect(200);
    conforms("get_voice_state", 200, &shown);

    // The same again changes nothing; another session takes the place over.
    let Connected::Done {
        events, entered, ..
    } = join(&app, &bob, hall, &wanted(room, "s")).await
    else {
        panic!("bob stays");
    };
    assert!(!entered && events.is_empty());
    join(&app, &bob, hall, &wanted(small, "t")).await;
    let state = app.get(&bob, &own).await.expect(200);
    assert_eq!(state["session_id"], "t");
    assert_eq!(state["channel_id"], small.to_string());

    let carol = app.user("carol").await;
    app.join(&carol, hall).await;
    let full = join(&app, &carol, hall, &wanted(small, "c")).await;
    assert!(matches!(full, Connected::Refused));
    let owner = join(&app, &alice, hall, &wanted(small, "a")).await;
    assert!(matches!(owner, Connected::Done { .. }));

    let mut tx = app.db.begin().await.unwrap();
    let foreign = change::disconnect(&mut tx, hall.id, bob.id, Some("s"), 0).await;
    assert!(foreign.unwrap().is_empty());
    let left = change::disconnect(&mut tx, hall.id, bob.id, Some("t"), 0).await;
    assert_eq!(left.unwrap().len(), 1);
    tx.commit().await.unwrap();
    app.get(&bob, &own).await.expect_error(404, 10065);
    let events = app.events(hall.id).await;
    let (name, body) = events.last().unwrap();
    assert_eq!(
        (*name, &body["channel_id"]),
        ("VOICE_STATE_UPDATE", &Value::Null)
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn a_stage_on_which_nobody_speaks_for_minutes_is_closed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let stage = channel(&app, &alice, hall, json!({ "name": "Stage", "type": 13 })).await;
    let room = channel(&app, &alice, hall, json!({ "name": "Room", "type": 2 })).await;
    let body = json!({ "channel_id": stage, "topic": "Talk" });
    let opened = app.post(&alice, "/stage-instances", body).await.expect(200);
    let path = format!("/stage-instances/{stage}");
    let minutes_pass = async || {
        sqlx::query("update stage_instance set silent_since = silent_since - interval '6 minutes'")
            .execute(&app.db)
            .await
            .unwrap();
    };
    let stays = async |when: &str| {
        app.app.close_silent_stages().await.unwrap();
        let status = app.get(&bob, &path).await.status;
        assert_eq!(status, 200, "{when}");
    };
    stays("just opened").await;
    let own = format!("/guilds/{}/voice-states/@me", hall.id);
    let other = format!("/guilds/{}/voice-states/{}", hall.id, bob.id);
    for way in ["down", "away", "out"] {
        join(&app, &bob, hall, &wanted(stage, "s")).await;
        app.patch(&alice, &other, json!({ "suppress": false }))
            .await
            .expect(204);
        minutes_pass().await;
        stays("somebody speaks").await;
        match way {
            "down" => {
                let down = json!({ "suppress": true });
                app.patch(&bob, &own, down).await.expect(204);
            }
            "away" => {
                join(&app, &bob, hall, &wanted(room, "s")).await;
            }
            _ => {
                let mut tx = app.db.begin().await.unwrap();
                let left = change::disconnect(&mut tx, hall.id, bob.id, None, 0).await;
                left.unwrap();
                tx.commit().await.unwrap();
            }
        }
        stays(way).await;
    }

    // Who only listens keeps none open.
    join(&app, &bob, hall, &wanted(stage, "s")).await;
    minutes_pass().await;
    // Two processes do it once.
    let (first, second) =
        tokio::join!(app.app.close_silent_stages(), app.app.close_silent_stages());
    first.and(second).unwrap();
    app.get(&bob, &path).await.expect_error(404, 10067);
    let mut events = app.events(hall.id).await;
    events.retain(|(name, _)| *name == "STAGE_INSTANCE_DELETE");
    assert_eq!(events, [("STAGE_INSTANCE_DELETE", opened)]);
    let vis = Visibility::channel(stage, Intents::GUILDS);
    let newest = log::newest(&app, hall.id).await;
    assert_eq!(newest, ("STAGE_INSTANCE_DELETE", vis));
    let audit = app.audit(hall.id).await;
    assert!(audit.iter().all(|entry| entry["action_type"] != 85));
}

#[sqlx::test(migrations = "../migrations")]
async fn on_a_stage_one_asks_to_speak(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let stage = channel(&app, &alice, hall, json!({ "name": "Stage", "type": 13 })).await;
    let room = channel(&app, &alice, hall, json!({ "name": "Room", "type": 2 })).await;
    join(&app, &bob, hall, &wanted(stage, "s")).await;
    let own = format!("/guilds/{}/voice-states/@me", hall.id);
    let state = app.get(&bob, &own).await.expect(200);
    assert_eq!(state["suppress"], true);
    let ask = json!({ "request_to_speak_timestamp": "2040-01-01T00:00:00Z" });
    app.patch(&bob, &own, ask).await.expect(204);
    app.patch(&bob, &own, json!({ "suppress": false }))
        .await
        .expect_error(403, 50013);
    app.patch(
        &bob,
        &own,
        json!({ "request_to_speak_timestamp": "2000-01-01T00:00:00Z" }),
    )
    .await
    .expect_fault("request_to_speak_timestamp", "DATE_TIME_TYPE_TOO_EARLY");
    let other = format!("/guilds/{}/voice-states/{}", hall.id, bob.id);
    let up = json!({ "channel_id": stage, "suppress": false });
    app.patch(&bob, &other, up.clone())
        .await
        .expect_error(403, 50013);
    app.patch(&alice, &other, up).await.expect(204);
    let entry = app.audit(hall.id).await.pop().unwrap();
    assert_eq!(entry["action_type"], 24);
    assert_eq!(entry["target_id"], json!(bob.id));
    assert_eq!(entry["changes"][0]["key"], "suppress");
    let state = app.get(&bob, &own).await.expect(200);
    assert_eq!(state["suppress"], false);
    assert_eq!(state["request_to_speak_timestamp"], Value::Null);
    let (name, _) = log::newest(&app, hall.id).await;
    assert_eq!(name, "VOICE_STATE_UPDATE");

    join(&app, &bob, hall, &wanted(room, "s")).await;
    app.patch(&bob, &own, json!({ "suppress": true }))
        .await
        .expect_error(400, 50024);
    let unknown = format!("/guilds/{}/voice-states/{}", hall.id, alice.id);
    app.patch(&alice, &unknown, json!({ "suppress": true }))
        .await
        .expect_error(404, 10065);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_kicked_leaves_voice_first(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let hidden = json!({
        "name": "Room", "type": 2,
        "permission_overwrites": [{ "id": hall.id, "type": 0, "deny": Permissions::VIEW_CHANNEL }],
    });
    let hidden = channel(&app, &alice, hall, hidden).await;
    let refused = join(&app, &bob, hall, &wanted(hidden, "s")).await;
    assert!(matches!(refused, Connected::Refused));
    let room = channel(&app, &alice, hall, json!({ "name": "Room", "type": 2 })).await;
    join(&app, &bob, hall, &wanted(room, "s")).await;
    app.delete(&alice, &format!("/guilds/{}/members/{}", hall.id, bob.id))
        .await
        .expect(204);
    let names = app.event_names(hall.id).await;
    let at = |name: &str| names.iter().rposition(|known| *known == name).unwrap();
    assert!(at("VOICE_STATE_UPDATE") < at("GUILD_MEMBER_REMOVE"));
}

#[sqlx::test(migrations = "../migrations")]
async fn moderators_mute_move_and_disconnect(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let room = channel(&app, &alice, hall, json!({ "name": "Room", "type": 2 })).await;
    let other = channel(&app, &alice, hall, json!({ "name": "Other", "type": 2 })).await;
    let member = format!("/guilds/{}/members/{}", hall.id, bob.id);
    let own = format!("/guilds/{}/voice-states/@me", hall.id);
    app.patch(&alice, &member, json!({ "mute": true }))
        .await
        .expect_error(400, 40032);
    join(&app, &bob, hall, &wanted(room, "s")).await;
    let carol = app.user("carol").await;
    app.join(&carol, hall).await;
    app.patch(&carol, &member, json!({ "channel_id": other }))
        .await
        .expect_error(403, 50013);
    let muted = app
        .patch(&alice, &member, json!({ "mute": true }))
        .await
        .expect(200);
    assert_eq!(muted["mute"], true);
    assert_eq!(app.get(&bob, &own).await.expect(200)["mute"], true);
    let free = app.patch(&alice, &member, json!({ "mute": null })).await;
    assert_eq!(free.expect(200)["mute"], false);
    app.patch(&alice, &member, json!({ "mute": true }))
        .await
        .expect(200);
    app.patch(&alice, &member, json!({ "channel_id": hall.general }))
        .await
        .expect_fault("channel_id", "CHANNEL_INVALID");
    app.patch(&alice, &member, json!({ "channel_id": other }))
        .await
        .expect(200);
    let state = app.get(&bob, &own).await.expect(200);
    assert_eq!(state["channel_id"], other.to_string());
    assert_eq!(state["mute"], true);
    app.patch(&alice, &member, json!({ "channel_id": null }))
        .await
        .expect(200);
    app.get(&bob, &own).await.expect_error(404, 10065);
    // A channel that goes takes everybody out.
    join(&app, &bob, hall, &wanted(room, "s")).await;
    app.delete(&alice, &format!("/channels/{room}"))
        .await
        .expect(200);
    app.get(&bob, &own).await.expect_error(404, 10065);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_was_moved_where_they_may_not_go_may_mute_themselves_there(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let room = channel(&app, &alice, hall, json!({ "name": "Room", "type": 2 })).await;
    let deny = Permissions::CONNECT.bits().to_string();
    let everyone = json!({ "id": hall.id, "type": 0, "allow": "0", "deny": deny });
    let body = json!({ "name": "Closed", "type": 2, "permission_overwrites": [everyone] });
    let closed = channel(&app, &alice, hall, body).await;
    let refused = join(&app, &bob, hall, &wanted(closed, "s")).await;
    assert!(matches!(refused, Connected::Refused));
    join(&app, &bob, hall, &wanted(room, "s")).await;
    let member = format!("/guilds/{}/members/{}", hall.id, bob.id);
    app.patch(&alice, &member, json!({ "channel_id": closed }))
        .await
        .expect(200);
    let muted = Wanted {
        self_mute: true,
        ..wanted(closed, "s")
    };
    let Connected::Done { state, entered, .. } = join(&app, &bob, hall, &muted).await else {
        panic!("bob is in there");
    };
    assert!(state.self_mute && !entered);
    // Once out, bob does not come back.
    join(&app, &bob, hall, &wanted(room, "s")).await;
    let refused = join(&app, &bob, hall, &muted).await;
    assert!(matches!(refused, Connected::Refused));
}
