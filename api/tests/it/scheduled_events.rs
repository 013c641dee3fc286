//! Scheduled events, and the stages they take place on.

use std::sync::LazyLock;

use guildhall_shared::{Permissions, Timestamp, envelope::Visibility, gateway::Intents};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, hall},
    log,
};

/// Counted from one moment for all tests, so that equal hours are equal times.
fn in_hours(hours: i64) -> Timestamp {
    static NOW: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);
    let now = NOW.0.replace_nanosecond(0).unwrap();
    Timestamp(now + time::Duration::hours(hours))
}

/// An event elsewhere.
pub(crate) fn picnic() -> Value {
    json!({
        "name": "Picnic", "privacy_level": 2, "entity_type": 3,
        "scheduled_start_time": in_hours(1), "scheduled_end_time": in_hours(2),
        "entity_metadata": { "location": "The park" },
    })
}

async fn channel(app: &TestApp, by: &TestUser, guild: TestGuild, kind: u8) -> String {
    let body = json!({ "name": "Room", "type": kind });
    let path = format!("/guilds/{}/channels", guild.id);
    let made = app.post(by, &path, body).await.expect(201);
    made["id"].as_str().unwrap().to_owned()
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_elsewhere_is_made_changed_and_deleted(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let made = app.post(&bob, &path, picnic()).await.expect(200);
    conforms("create_guild_scheduled_event", 200, &made);
    assert_eq!(made["creator_id"], bob.id.to_string());
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let listed = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_scheduled_events", 200, &listed);
    assert_eq!(listed, json!([made]));
    let read = app
        .get(&alice, &format!("{one}?with_user_count=true"))
        .await
        .expect(200);
    conforms("get_guild_scheduled_event", 200, &read);
    assert_eq!(read["user_count"], 0);
    let (name, vis) = log::newest(&app, hall.id).await;
    assert_eq!(name, "GUILD_SCHEDULED_EVENT_CREATE");
    assert_eq!(vis, Visibility::realm(Intents::GUILD_SCHEDULED_EVENTS));

    let eve = app.user("eve").await;
    app.get(&eve, &one).await.expect_error(403, 50001);
    app.get(&alice, &format!("{path}/77"))
        .await
        .expect_error(404, 10070);
    app.join(&eve, hall).await;
    app.patch(&eve, &one, json!({ "name": "Mine" }))
        .await
        .expect_error(403, 50013);
    let changed = app
        .patch(&bob, &one, json!({ "name": "Lunch", "status": 2 }))
        .await;
    let changed = changed.expect(200);
    conforms("update_guild_scheduled_event", 200, &changed);
    assert_eq!(
        (&changed["name"], &changed["status"]),
        (&json!("Lunch"), &json!(2))
    );
    app.patch(&bob, &one, json!({ "status": 4 }))
        .await
        .expect_fault("status", "GUILD_SCHEDULED_EVENT_STATUS_INVALID");
    app.patch(&bob, &one, json!({ "status": 3 }))
        .await
        .expect(200);
    app.patch(&bob, &one, json!({ "name": "Late" }))
        .await
        .expect_error(400, 180000);
    assert_eq!(app.get(&alice, &path).await.expect(200), json!([]));
    app.delete(&alice, &one).await.expect(204);
    app.get(&alice, &one).await.expect_error(404, 10070);
    let (name, _) = log::newest(&app, hall.id).await;
    assert_eq!(name, "GUILD_SCHEDULED_EVENT_DELETE");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_an_event_needs_depends_on_where_it_is(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let with = |changes: Value| {
        let mut body = picnic();
        for (key, value) in changes.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    for (changes, at, code) in [
        (json!({ "name": null }), "name", "BASE_TYPE_REQUIRED"),
        (
            json!({ "privacy_level": 1 }),
            "privacy_level",
            "ENUM_TYPE_COERCE",
        ),
        (
            json!({ "entity_type": 9 }),
            "entity_type",
            "ENUM_TYPE_COERCE",
        ),
        (
            json!({ "entity_metadata": null }),
            "entity_metadata.location",
            "BASE_TYPE_REQUIRED",
        ),
        (
            json!({ "scheduled_end_time": null }),
            "scheduled_end_time",
            "BASE_TYPE_REQUIRED",
        ),
        (
            json!({ "channel_id": hall.general }),
            "channel_id",
            "CHANNEL_INVALID",
        ),
        (
            json!({ "scheduled_start_time": in_hours(-1) }),
            "scheduled_start_time",
            "GUILD_SCHEDULED_EVENT_SCHEDULE_PAST",
        ),
        (
            json!({ "scheduled_end_time": in_hours(0) }),
            "scheduled_end_time",
            "GUILD_SCHEDULED_EVENT_END_TIME_TOO_EARLY",
        ),
        (
            json!({ "entity_type": 2, "entity_metadata": null, "channel_id": hall.general }),
            "channel_id",
            "CHANNEL_INVALID",
        ),
        (
            json!({ "recurrence_rule": { "start": in_hours(1), "frequency": 3, "count": 5 } }),
            "recurrence_rule.count",
            "RECURRENCE_RULE_INVALID",
        ),
        (
            json!({ "recurrence_rule": { "start": in_hours(1), "frequency": 3, "interval": 2 } }),
            "recurrence_rule.interval",
            "NUMBER_TYPE_MAX",
        ),
    ] {
        app.post(&alice, &path, with(changes))
            .await
            .expect_fault(at, code);
    }
    for n in 0..100 {
        let name = json!({ "name": format!("Event {n}") });
        app.post(&alice, &path, with(name)).await.expect(200);
    }
    app.post(&alice, &path, picnic())
        .await
        .expect_error(400, 30038);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_in_a_hidden_channel_is_hidden(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let room = channel(&app, &alice, hall, 2).await;
    let hide = json!({ "type": 0, "deny": Permissions::VIEW_CHANNEL });
    app.put(
        &alice,
        &format!("/channels/{room}/permissions/{}", hall.id),
        hide,
    )
    .await
    .expect(204);
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let body = json!({
        "name": "Secret", "privacy_level": 2, "entity_type": 2, "channel_id": room,
        "scheduled_start_time": in_hours(1),
    });
    app.post(&bob, &path, body.clone())
        .await
        .expect_error(403, 50001);
    let made = app.post(&alice, &path, body).await.expect(200);
    conforms("create_guild_scheduled_event", 200, &made);
    assert_eq!(app.get(&bob, &path).await.expect(200), json!([]));
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    app.get(&bob, &one).await.expect_error(403, 50001);
    let (_, vis) = log::newest(&app, hall.id).await;
    let seen = Visibility::channel(room.parse().unwrap(), Intents::GUILD_SCHEDULED_EVENTS);
    assert_eq!(vis, seen);
}

#[sqlx::test(migrations = "../migrations")]
async fn people_say_that_they_are_interested(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let made = app.post(&alice, &path, picnic()).await.expect(200);
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let own = format!("{one}/users/@me");
    app.delete(&bob, &own).await.expect_error(404, 10071);
    app.put(&bob, &own, json!({})).await.expect(200);
    app.put(&bob, &own, json!({})).await.expect(200);
    app.put(&alice, &own, json!({})).await.expect(200);
    let (name, _) = log::newest(&app, hall.id).await;
    assert_eq!(name, "GUILD_SCHEDULED_EVENT_USER_ADD");
    let users = format!("{one}/users");
    let all = app
        .get(&bob, &format!("{users}?with_member=true"))
        .await
        .expect(200);
    conforms("list_guild_scheduled_event_users", 200, &all);
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(all[0]["user"]["id"], alice.id.to_string());
    assert_eq!(all[0]["member"]["user"]["id"], alice.id.to_string());
    let next = app
        .get(&bob, &format!("{users}?after={}&limit=1", alice.id))
        .await;
    assert_eq!(next.expect(200)[0]["user_id"], bob.id.to_string());
    let before = app
        .get(&bob, &format!("{users}?before={}&limit=1", bob.id))
        .await;
    assert_eq!(before.expect(200)[0]["user_id"], alice.id.to_string());
    app.get(&bob, &format!("{users}?limit=0"))
        .await
        .expect_fault("limit", "NUMBER_TYPE_MIN");
    let counts = app.get(&bob, &format!("{users}/counts")).await.expect(200);
    conforms("count_guild_scheduled_event_users", 200, &counts);
    assert_eq!(counts["guild_scheduled_event_count"], 2);
    app.delete(&bob, &own).await.expect(204);
    let (name, _) = log::newest(&app, hall.id).await;
    assert_eq!(name, "GUILD_SCHEDULED_EVENT_USER_REMOVE");
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_no_member_any_more_is_not_interested(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let other = app.guild(&alice, "Other").await;
    app.join(&bob, other).await;
    let make = async |guild: TestGuild| {
        let path = format!("/guilds/{}/scheduled-events", guild.id);
        let made = app.post(&alice, &path, picnic()).await.expect(200);
        format!("{path}/{}", made["id"].as_str().unwrap())
    };
    let (one, elsewhere) = (make(hall).await, make(other).await);
    let interested = async |event: &str| {
        let with_count = format!("{event}?with_user_count=true");
        let read = app.get(&alice, &with_count).await.expect(200);
        let users = app.get(&alice, &format!("{event}/users")).await.expect(200);
        let counts = format!("{event}/users/counts");
        let counts = app.get(&alice, &counts).await.expect(200);
        let count = read["user_count"].as_u64().unwrap();
        assert_eq!(counts["guild_scheduled_event_count"], count);
        assert_eq!(users.as_array().unwrap().len() as u64, count);
        count
    };
    for event in [&one, &elsewhere] {
        app.put(&alice, &format!("{event}/users/@me"), json!({}))
            .await
            .expect(200);
    }
    app.put(&bob, &format!("{elsewhere}/users/@me"), json!({}))
        .await
        .expect(200);
    for way in ["leave", "kick", "ban"] {
        app.put(&bob, &format!("{one}/users/@me"), json!({}))
            .await
            .expect(200);
        assert_eq!(interested(&one).await, 2, "{way}");
        let before = app.events(hall.id).await.len();
        let gone = match way {
            "leave" => {
                let path = format!("/users/@me/guilds/{}", hall.id);
                app.delete(&bob, &path).await
            }
            "kick" => {
                let path = format!("/guilds/{}/members/{}", hall.id, bob.id);
                app.delete(&alice, &path).await
            }
            _ => {
                let path = format!("/guilds/{}/bans/{}", hall.id, bob.id);
                app.put(&alice, &path, json!({})).await
            }
        };
        gone.expect(204);
        assert_eq!(interested(&one).await, 1, "{way}");
        // That they are gone says it.
        let names = app.event_names(hall.id).await;
        assert!(names[before..].contains(&"GUILD_MEMBER_REMOVE"), "{way}");
        let remove = "GUILD_SCHEDULED_EVENT_USER_REMOVE";
        assert!(!names[before..].contains(&remove), "{way}");
        if way != "ban" {
            app.join(&bob, hall).await;
        }
    }
    assert_eq!(interested(&elsewhere).await, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_recurring_event_has_exceptions_and_a_next_date(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let mut body = picnic();
    body["recurrence_rule"] = json!({ "start": in_hours(1), "frequency": 3, "interval": 1 });
    let made = app.post(&alice, &path, body).await.expect(200);
    conforms("create_guild_scheduled_event", 200, &made);
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let exceptions = format!("{one}/exceptions");
    let off = json!({ "original_scheduled_start_time": in_hours(25), "is_canceled": true });
    app.post(&bob, &exceptions, off.clone())
        .await
        .expect_error(403, 50013);
    app.post(
        &alice,
        &exceptions,
        json!({ "original_scheduled_start_time": in_hours(3) }),
    )
    .await
    .expect_fault(
        "original_scheduled_start_time",
        "GUILD_SCHEDULED_EVENT_EXCEPTION_INVALID",
    );
    let exception = app.post(&alice, &exceptions, off).await.expect(200);
    conforms("create_guild_scheduled_event_exception", 200, &exception);
    let (name, _) = log::newest(&app, hall.id).await;
    assert_eq!(name, "GUILD_SCHEDULED_EVENT_EXCEPTION_CREATE");
    let read = app.get(&bob, &one).await.expect(200);
    conforms("get_guild_scheduled_event", 200, &read);
    assert_eq!(read["guild_scheduled_event_exceptions"], json!([exception]));
    let id = exception["event_exception_id"].as_str().unwrap();
    let users = app
        .get(&bob, &format!("{one}/{id}/users"))
        .await
        .expect(200);
    conforms("list_guild_scheduled_event_exception_users", 200, &users);

    // The date of tomorrow is cancelled: it goes on the day after.
    app.patch(&alice, &one, json!({ "status": 2 }))
        .await
        .expect(200);
    let next = app
        .patch(&alice, &one, json!({ "status": 3 }))
        .await
        .expect(200);
    assert_eq!(next["status"], 1);
    assert_eq!(next["scheduled_start_time"], json!(in_hours(49)));
    assert_eq!(next["scheduled_end_time"], json!(in_hours(50)));

    let moved = json!({ "is_canceled": null, "scheduled_start_time": in_hours(26) });
    let moved = app
        .patch(&alice, &format!("{exceptions}/{id}"), moved)
        .await;
    let moved = moved.expect(200);
    conforms("update_guild_scheduled_event_exception", 200, &moved);
    assert_eq!(moved["is_canceled"], false);
    app.patch(&alice, &one, json!({ "status": 4 }))
        .await
        .expect(200);
    let off = json!({ "is_canceled": true });
    app.patch(&alice, &format!("{exceptions}/{id}"), off)
        .await
        .expect_error(400, 180000);
    app.delete(&alice, &format!("{exceptions}/{id}"))
        .await
        .expect(204);
    app.delete(&alice, &format!("{exceptions}/{id}"))
        .await
        .expect_error(404, 10070);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_manages_events_makes_none_without_the_bit_for_that(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let made = app.post(&alice, &path, picnic()).await.expect(200);
    app.everyone_may(hall, Permissions::VIEW_CHANNEL).await;
    app.grant(&bob, hall, Permissions::MANAGE_EVENTS).await;
    app.post(&bob, &path, picnic())
        .await
        .expect_error(403, 50013);
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    app.patch(&bob, &one, json!({ "name": "Lunch" }))
        .await
        .expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_is_within_a_few_years(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let (far, code) = (in_hours(6 * 366 * 24), "DATE_TIME_TYPE_TOO_LATE");
    for field in ["scheduled_start_time", "scheduled_end_time"] {
        let mut body = picnic();
        body[field] = json!(far);
        app.post(&alice, &path, body)
            .await
            .expect_fault(field, code);
    }
    let mut body = picnic();
    body["recurrence_rule"] = json!({ "start": far, "frequency": 3 });
    app.post(&alice, &path, body.clone())
        .await
        .expect_fault("recurrence_rule.start", code);
    body["recurrence_rule"]["start"] = json!(in_hours(1));
    let made = app.post(&alice, &path, body).await.expect(200);
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    app.patch(&alice, &one, json!({ "scheduled_end_time": far }))
        .await
        .expect_fault("scheduled_end_time", code);

    let exceptions = format!("{one}/exceptions");
    for field in [
        "original_scheduled_start_time",
        "scheduled_start_time",
        "scheduled_end_time",
    ] {
        let mut body = json!({ "original_scheduled_start_time": in_hours(25) });
        body[field] = json!(far);
        app.post(&alice, &exceptions, body)
            .await
            .expect_fault(field, code);
    }
    let moved = json!({ "original_scheduled_start_time": in_hours(25) });
    let moved = app.post(&alice, &exceptions, moved).await.expect(200);
    let id = moved["event_exception_id"].as_str().unwrap();
    let exception = format!("{exceptions}/{id}");
    app.patch(&alice, &exception, json!({ "scheduled_end_time": far }))
        .await
        .expect_fault("scheduled_end_time", code);

    // Of a time without bounds: the next date leaves no room for it.
    sqlx::query("update scheduled_event set ends_at = '9999-12-31T23:00:00Z'")
        .execute(&app.db)
        .await
        .unwrap();
    app.patch(&alice, &one, json!({ "status": 2 }))
        .await
        .expect(200);
    let next = app.patch(&alice, &one, json!({ "status": 3 })).await;
    let next = next.expect(200);
    assert_eq!(next["status"], 1);
    assert_eq!(next["scheduled_start_time"], json!(in_hours(25)));
    assert_eq!(next["scheduled_end_time"], Value::Null);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_stage_is_opened_renamed_and_closed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let stage = channel(&app, &alice, hall, 13).await;
    let body = json!({ "channel_id": stage, "topic": "Talk" });
    app.post(&bob, "/stage-instances", body.clone())
        .await
        .expect_error(403, 50013);
    let wrong = json!({ "channel_id": hall.general, "topic": "Talk" });
    app.post(&alice, "/stage-instances", wrong)
        .await
        .expect_error(400, 50024);
    let path = format!("/stage-instances/{stage}");
    app.get(&bob, &path).await.expect_error(404, 10067);
    let made = app
        .post(&alice, "/stage-instances", body.clone())
        .await
        .expect(200);
    conforms("create_stage_instance", 200, &made);
    app.post(&alice, "/stage-instances", body)
        .await
        .expect_error(400, 150006);
    let read = app.get(&bob, &path).await.expect(200);
    conforms("get_stage_instance", 200, &read);
    assert_eq!(read, made);
    let changed = app
        .patch(&alice, &path, json!({ "topic": "More" }))
        .await
        .expect(200);
    conforms("update_stage_instance", 200, &changed);
    app.patch(&alice, &path, json!({ "topic": "" }))
        .await
        .expect_fault("topic", "BASE_TYPE_REQUIRED");
    app.delete(&bob, &path).await.expect_error(403, 50013);
    app.delete(&alice, &path).await.expect(204);
    app.get(&bob, &path).await.expect_error(404, 10067);
    let events = app.events(hall.id).await;
    let names: Vec<&str> = events
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| *name != "GUILD_AUDIT_LOG_ENTRY_CREATE" && *name != "CHANNEL_CREATE")
        .collect();
    assert_eq!(
        names,
        [
            "STAGE_INSTANCE_CREATE",
            "MESSAGE_CREATE",
            "STAGE_INSTANCE_UPDATE",
            "MESSAGE_CREATE",
            "STAGE_INSTANCE_DELETE",
            "MESSAGE_CREATE"
        ]
    );
}

/// What makes an event on a stage.
fn speech(stage: &str) -> Value {
    json!({
        "name": "Speech", "privacy_level": 2, "entity_type": 1, "channel_id": stage,
        "scheduled_start_time": in_hours(1),
    })
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_on_a_stage_opens_and_closes_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let stage = channel(&app, &alice, hall, 13).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let body = speech(&stage);
    app.post(&bob, &path, body.clone())
        .await
        .expect_error(403, 50013);
    let made = app.post(&alice, &path, body).await.expect(200);
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let started = app
        .patch(&alice, &one, json!({ "status": 2 }))
        .await
        .expect(200);
    let open = app
        .get(&bob, &format!("/stage-instances/{stage}"))
        .await
        .expect(200);
    assert_eq!(open["guild_scheduled_event_id"], made["id"]);
    assert_eq!(open["topic"], "Speech");
    assert_eq!(started["entity_id"], open["id"]);
    let events = app.events(hall.id).await;
    let [.., (first, opened), (second, said), (third, _)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!((*first, opened), ("STAGE_INSTANCE_CREATE", &open));
    assert_eq!((*second, &said["type"]), ("MESSAGE_CREATE", &json!(27)));
    assert_eq!(said["content"], "Speech");
    assert_eq!(said["author"]["id"], alice.id.to_string());
    assert_eq!(*third, "GUILD_SCHEDULED_EVENT_UPDATE");
    // However silent it is, it ends with the event.
    sqlx::query("update stage_instance set silent_since = now() - interval '6 minutes'")
        .execute(&app.db)
        .await
        .unwrap();
    app.app.close_silent_stages().await.unwrap();
    app.get(&bob, &format!("/stage-instances/{stage}"))
        .await
        .expect(200);
    app.patch(&alice, &one, json!({ "status": 3 }))
        .await
        .expect(200);
    app.get(&bob, &format!("/stage-instances/{stage}"))
        .await
        .expect_error(404, 10067);
    let events = app.events(hall.id).await;
    let [.., (first, closed), (second, said), (third, _)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!((*first, closed), ("STAGE_INSTANCE_DELETE", &open));
    assert_eq!((*second, &said["type"]), ("MESSAGE_CREATE", &json!(28)));
    assert_eq!(*third, "GUILD_SCHEDULED_EVENT_UPDATE");
    let audit = app.audit(hall.id).await;
    for action in [83, 85] {
        let mut of_stage = audit.iter();
        let entry = of_stage.find(|entry| entry["action_type"] == action);
        let entry = entry.unwrap();
        assert_eq!(entry["target_id"], open["id"]);
        assert_eq!(entry["user_id"], alice.id.to_string());
        assert_eq!(entry["options"]["channel_id"], stage);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_deleted_event_closes_its_own_stage_only(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let stage = channel(&app, &alice, hall, 13).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let body = speech(&stage);
    let begun = app.post(&alice, &path, body.clone()).await.expect(200);
    let later = app.post(&alice, &path, body).await.expect(200);
    let at = |event: &Value| format!("{path}/{}", event["id"].as_str().unwrap());
    app.patch(&alice, &at(&begun), json!({ "status": 2 }))
        .await
        .expect(200);
    app.delete(&alice, &at(&later)).await.expect(204);
    let stage = format!("/stage-instances/{stage}");
    let open = app.get(&alice, &stage).await.expect(200);
    app.delete(&alice, &at(&begun)).await.expect(204);
    app.get(&alice, &stage).await.expect_error(404, 10067);
    let events = app.events(hall.id).await;
    let [.., (first, closed), (second, said), (third, gone)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!((*first, closed), ("STAGE_INSTANCE_DELETE", &open));
    assert_eq!((*second, &said["type"]), ("MESSAGE_CREATE", &json!(28)));
    assert_eq!(*third, "GUILD_SCHEDULED_EVENT_DELETE");
    assert_eq!(gone["id"], begun["id"]);
    let audit = app.audit(hall.id).await;
    assert!(audit.iter().any(|entry| entry["action_type"] == 85));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_that_has_opened_its_stage_stays_on_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let stage = channel(&app, &alice, hall, 13).await;
    let other = channel(&app, &alice, hall, 13).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let body = speech(&stage);
    let made = app.post(&alice, &path, body.clone()).await.expect(200);
    let later = app.post(&alice, &path, body).await.expect(200);
    let at = |event: &Value| format!("{path}/{}", event["id"].as_str().unwrap());
    let change = async |event: &Value, body: Value| app.patch(&alice, &at(event), body).await;
    change(&made, json!({ "channel_id": other }))
        .await
        .expect(200);
    change(&made, json!({ "channel_id": stage, "status": 2 }))
        .await
        .expect(200);
    let moves = json!({ "channel_id": other });
    change(&made, moves)
        .await
        .expect_fault("channel_id", "GUILD_SCHEDULED_EVENT_PLACE_INVALID");
    let leaves = json!({
        "entity_type": 3, "channel_id": null, "scheduled_end_time": in_hours(2),
        "entity_metadata": { "location": "The park" },
    });
    change(&made, leaves)
        .await
        .expect_fault("entity_type", "GUILD_SCHEDULED_EVENT_PLACE_INVALID");
    // Another event that does not take place there after all.
    change(&later, json!({ "status": 4 })).await.expect(200);
    let stage = format!("/stage-instances/{stage}");
    let open = app.get(&alice, &stage).await.expect(200);
    assert_eq!(open["guild_scheduled_event_id"], made["id"]);
    change(&made, json!({ "status": 3 })).await.expect(200);
    app.get(&alice, &stage).await.expect_error(404, 10067);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_stage_that_is_closed_leaves_an_event_its_next_date(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let stage = channel(&app, &alice, hall, 13).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let body = json!({
        "name": "Speech", "privacy_level": 2, "entity_type": 1, "channel_id": stage,
        "scheduled_start_time": in_hours(1),
        "recurrence_rule": { "start": in_hours(1), "frequency": 3, "interval": 1 },
    });
    let made = app.post(&alice, &path, body).await.expect(200);
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    app.patch(&alice, &one, json!({ "status": 2 }))
        .await
        .expect(200);
    app.delete(&alice, &format!("/stage-instances/{stage}"))
        .await
        .expect(204);
    let next = app.get(&alice, &one).await.expect(200);
    assert_eq!(next["status"], 1);
    assert_eq!(next["scheduled_start_time"], json!(in_hours(25)));
    assert_eq!(next["entity_id"], Value::Null);
}

#[sqlx::test(migrations = "../migrations")]
async fn two_processes_move_an_event_on_once(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let made = app.post(&alice, &path, picnic()).await.expect(200);
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    sqlx::query("update scheduled_event set starts_at = now() - interval '1 minute'")
        .execute(&app.db)
        .await
        .unwrap();
    let held = app.hold(hall.id).await;
    // Both have found the event due.
    let both_wait = async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'
                   and query like 'select realm_id from realm_head%'",
            )
            .fetch_one(&app.db)
            .await
            .unwrap();
            if waiting == 2 {
                break;
            }
            tokio::task::yield_now().await;
        }
        held.rollback().await.unwrap();
    };
    let rounds = async {
        let (first, second) = (app.app.move_events_on(), app.app.move_events_on());
        let (first, second) = tokio::join!(first, second);
        first.and(second).unwrap();
    };
    tokio::join!(rounds, both_wait);
    assert_eq!(app.get(&alice, &one).await.expect(200)["status"], 2);
    let names = app.event_names(hall.id).await;
    let updates = names.iter().filter(|name| name.ends_with("_UPDATE"));
    assert_eq!(updates.count(), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_that_cannot_be_moved_on_holds_up_no_other(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let path = format!("/guilds/{}/scheduled-events", hall.id);
    let stuck = app.post(&alice, &path, picnic()).await.expect(200);
    let other = app.post(&alice, &path, picnic()).await.expect(200);
    let id = stuck["id"].as_str().unwrap();
    let due = format!(
        "update scheduled_event set starts_at = now() - case when event_id = {id}
           then interval '2 s' else interval '1 s' end"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(due))
        .execute(&app.db)
        .await
        .unwrap();
    let first = format!("new.event_id = {id}");
    app.refuse("update", "scheduled_event", &first).await;
    app.app.move_events_on().await.unwrap();
    for (event, status) in [(&stuck, 1), (&other, 2)] {
        let one = format!("{path}/{}", event["id"].as_str().unwrap());
        assert_eq!(app.get(&alice, &one).await.expect(200)["status"], status);
    }
}
