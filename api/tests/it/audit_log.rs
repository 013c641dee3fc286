//! The audit log: what is written into it, who reads it, who hears of it.

use guildhall_shared::{
    Permissions,
    envelope::{Scope, Visibility},
    gateway::{EventKind, Intents},
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{conformance::conforms, harness::TestApp, log, scheduled_events::picnic};

#[sqlx::test(migrations = "../migrations")]
async fn every_change_is_in_the_log_with_its_reason_and_what_differs(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let hall = app.guild(&alice, "hall").await;
    app.join(&bob, hall).await;

    let guild = format!("/guilds/{}", hall.id);
    let request = app
        .request_by(&alice, Method::PATCH, &guild)
        .header("x-audit-log-reason", "a%20better%20name%20%C3%BC")
        .json(&json!({ "name": "great hall" }));
    app.send(request).await.expect(200);
    let envelope = log::all(&app.db, hall.id).await.pop().unwrap();
    assert_eq!(envelope.kind, EventKind::GuildAuditLogEntryCreate);
    let scope = Scope::Permissions {
        any_of: Permissions::VIEW_AUDIT_LOG,
        channel: None,
    };
    assert_eq!(
        envelope.vis,
        Visibility::of(scope, Intents::GUILD_MODERATION)
    );
    let event = app.audit(hall.id).await.pop().unwrap();
    assert_eq!(event["guild_id"], json!(hall.id));
    assert_eq!(event["reason"], "a better name ü");

    let role = app
        .post(&alice, &format!("{guild}/roles"), json!({ "name": "mods" }))
        .await
        .expect(200);
    let role = role["id"].as_str().unwrap();
    let member = format!("{guild}/members/{}", bob.id);
    app.put(&alice, &format!("{member}/roles/{role}"), json!({}))
        .await
        .expect(204);
    app.patch(&alice, &member, json!({ "nick": "bobby" }))
        .await
        .expect(200);
    let channel = app
        .post(&alice, &format!("{guild}/channels"), json!({ "name": "x" }))
        .await
        .expect(201);
    let channel = format!("/channels/{}", channel["id"].as_str().unwrap());
    app.patch(&alice, &channel, json!({ "topic": "all" }))
        .await
        .expect(200);
    let overwrite = format!("{channel}/permissions/{role}");
    app.put(&alice, &overwrite, json!({ "type": 0, "deny": "2048" }))
        .await
        .expect(204);
    app.put(&alice, &overwrite, json!({ "type": 0, "allow": "2048" }))
        .await
        .expect(204);
    app.delete(&alice, &overwrite).await.expect(204);
    let invite = app
        .post(&alice, &format!("{channel}/invites"), json!({}))
        .await
        .expect(200);
    app.delete(
        &alice,
        &format!("/invites/{}", invite["code"].as_str().unwrap()),
    )
    .await
    .expect(200);
    app.delete(&alice, &channel).await.expect(200);
    app.delete(&alice, &format!("{guild}/roles/{role}"))
        .await
        .expect(204);
    app.delete(&alice, &member).await.expect(204);

    let path = format!("{guild}/audit-logs");
    let all = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_audit_log_entries", 200, &all);
    let entries = all["audit_log_entries"].as_array().unwrap();
    let actions: Vec<u64> = entries
        .iter()
        .rev()
        .map(|entry| entry["action_type"].as_u64().unwrap())
        .collect();
    assert_eq!(
        actions,
        [1, 30, 25, 24, 10, 11, 13, 14, 15, 40, 42, 12, 32, 20]
    );
    let entry = |action: u64| -> &Value {
        let found = entries.iter().find(|entry| entry["action_type"] == action);
        found.unwrap()
    };
    let renamed = json!([{ "key": "name", "old_value": "hall", "new_value": "great hall" }]);
    assert_eq!(entry(1)["changes"], renamed);
    assert_eq!(entry(1)["reason"], "a better name ü");
    assert_eq!(
        entry(25)["changes"],
        json!([{ "key": "$add", "new_value": [{ "id": role, "name": "mods" }] }])
    );
    assert_eq!(
        entry(24)["changes"],
        json!([{ "key": "nick", "new_value": "bobby" }])
    );
    assert_eq!(
        entry(14)["options"],
        json!({ "id": role, "type": "0", "role_name": "mods" })
    );
    assert_eq!(
        entry(14)["changes"],
        json!([
            { "key": "allow", "old_value": "0", "new_value": "2048" },
            { "key": "deny", "old_value": "2048", "new_value": "0" },
        ])
    );
    assert_eq!(entry(20)["target_id"], json!(bob.id));
    let users: Vec<&Value> = all["users"].as_array().unwrap().iter().collect();
    assert!(users.iter().any(|user| user["id"] == json!(bob.id)));

    // Filters and pages.
    let ids = |body: &Value| -> Vec<String> {
        let entries = body["audit_log_entries"].as_array().unwrap();
        entries
            .iter()
            .map(|entry| entry["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let list = async |query: String| {
        ids(&app
            .get(&alice, &format!("{path}?{query}"))
            .await
            .expect(200))
    };
    let newest_first = ids(&all);
    assert_eq!(list("limit=3".to_owned()).await, newest_first[..3]);
    assert_eq!(
        list(format!("limit=2&before={}", newest_first[2])).await,
        newest_first[3..5]
    );
    let mut oldest: Vec<String> = newest_first.iter().rev().take(2).cloned().collect();
    assert_eq!(list("after=0&limit=2".to_owned()).await, oldest);
    oldest.remove(0);
    assert_eq!(
        list(format!("limit=1&after={}", newest_first.last().unwrap())).await,
        oldest
    );
    assert_eq!(list("action_type=13".to_owned()).await.len(), 1);
    assert_eq!(list(format!("target_id={}", bob.id)).await.len(), 3);
    assert_eq!(list(format!("user_id={}", bob.id)).await.len(), 0);
    for fields in [
        &["user_id"][..],
        &["target_id"],
        &["action_type"],
        &["user_id", "action_type"],
        &["user_id", "target_id", "action_type"],
    ] {
        for wanted in entries {
            let is_same = |entry: &Value| fields.iter().all(|&field| entry[field] == wanted[field]);
            let mut query = String::new();
            for &field in fields {
                // A number, or an id in quotes.
                let value = wanted[field].to_string();
                query += &format!("&{field}={}", value.trim_matches('"'));
            }
            if query.contains("null") {
                continue;
            }
            let same = entries.iter().filter(|entry| is_same(entry));
            let mut expected: Vec<&str> = same.map(|one| one["id"].as_str().unwrap()).collect();
            assert_eq!(list(format!("limit=100{query}")).await, expected, "{query}");
            expected.reverse();
            let ascending = format!("limit=100&after=0{query}");
            assert_eq!(list(ascending).await, expected, "{query}");
        }
    }
    app.get(&alice, &format!("{path}?limit=101"))
        .await
        .expect_fault("limit", "NUMBER_TYPE_MAX");

    // Who may not.
    app.get(&bob, &path).await.expect_error(403, 50001);
    app.join(&bob, hall).await;
    app.get(&bob, &path).await.expect_error(403, 50013);
    app.get(&alice, "/guilds/5/audit-logs")
        .await
        .expect_error(404, 10004);
    app.send(app.request(Method::GET, &path))
        .await
        .expect_error(401, 0);
    app.grant(&bob, hall, Permissions::VIEW_AUDIT_LOG).await;
    app.get(&bob, &path).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_entries_speak_of_is_listed_while_it_is_there(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let bot = app.bot(&alice, "Ping").await;
    let hall = app.guild(&alice, "hall").await;
    app.join(&bob, hall).await;
    app.grant(&bob, hall, Permissions::VIEW_AUDIT_LOG).await;
    let general = format!("/channels/{}", hall.general);
    let guild = format!("/guilds/{}", hall.id);
    let make = async |path: &str, body: Value, status: u16| {
        let made = app.post(&alice, path, body).await.expect(status);
        made["id"].as_str().unwrap().to_owned()
    };
    let webhooks = format!("{general}/webhooks");
    let webhook = make(&webhooks, json!({ "name": "Herald" }), 200).await;
    let threads = format!("{general}/threads");
    let thread = make(&threads, json!({ "name": "Aside", "type": 12 }), 201).await;
    let events = format!("{guild}/scheduled-events");
    let event = make(&events, picnic(), 200).await;
    let added = format!("/oauth2/authorize?client_id={}&scope=bot", bot.id);
    let body = json!({ "authorize": true, "guild_id": hall.id, "permissions": "0" });
    app.post(&alice, &added, body).await.expect(200);
    let commands = format!("/applications/{}/guilds/{}/commands", bot.id, hall.id);
    let command = json!({ "name": "ping", "description": "answers" });
    let command = app.post(&bot, &commands, command).await.expect(201);
    let command = command["id"].as_str().unwrap();
    let rules = format!("{commands}/{command}/permissions");
    let rule = json!({ "permissions": [{ "id": bob.id, "type": 2, "permission": true }] });
    app.put(&alice, &rules, rule).await.expect(200);

    // Bob is in no thread and manages no webhooks.
    let path = format!("{guild}/audit-logs");
    let all = app.get(&bob, &path).await.expect(200);
    conforms("list_guild_audit_log_entries", 200, &all);
    let lists = [
        ("webhooks", &webhook[..]),
        ("threads", &thread[..]),
        ("guild_scheduled_events", &event[..]),
        ("application_commands", command),
    ];
    for (list, wanted) in lists {
        assert_eq!(all[list].as_array().unwrap().len(), 1, "{list}");
        assert_eq!(all[list][0]["id"], wanted, "{list}");
    }
    assert_eq!(
        all["integrations"],
        json!([{
            "id": bot.id, "name": "Ping", "type": "discord",
            "account": { "id": bot.id, "name": "Ping" }, "application_id": bot.id,
        }])
    );
    let shown = &all["webhooks"][0];
    assert_eq!(shown["name"], "Herald");
    assert_eq!((shown.get("token"), shown.get("url")), (None, None));
    assert_eq!(all["threads"][0]["name"], "Aside");

    // A bot that came is a user, though the integration has the same id.
    let came = app.get(&bob, &format!("{path}?action_type=28")).await;
    let came = came.expect(200);
    assert_eq!(came["audit_log_entries"][0]["target_id"], json!(bot.id));
    assert_eq!(came["integrations"], json!([]));

    let gone = format!("{commands}/{command}");
    app.delete(&bot, &gone).await.expect(204);
    for (path, status) in [
        (format!("/webhooks/{webhook}"), 204),
        (format!("/channels/{thread}"), 200),
        (format!("{events}/{event}"), 204),
        (format!("{guild}/integrations/{}", bot.id), 204),
    ] {
        app.delete(&alice, &path).await.expect(status);
    }
    let all = app.get(&bob, &path).await.expect(200);
    let entries = all["audit_log_entries"].as_array().unwrap();
    for action in [50, 52, 80, 82, 100, 102, 110, 112, 121] {
        let has = entries.iter().any(|entry| entry["action_type"] == action);
        assert!(has, "{action} is in the log");
    }
    let lists = lists.map(|(list, _)| list).into_iter();
    for list in lists.chain(["integrations"]) {
        assert_eq!(all[list], json!([]), "{list}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn messages_of_one_author_deleted_in_a_row_are_one_entry(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let hall = app.guild(&alice, "hall").await;
    app.join(&bob, hall).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let send = async |user| {
        let sent = app.post(user, &messages, json!({ "content": "x" })).await;
        sent.expect(200)["id"].as_str().unwrap().to_owned()
    };
    for _ in 0..3 {
        let id = send(&bob).await;
        app.delete(&alice, &format!("{messages}/{id}"))
            .await
            .expect(204);
    }
    // One's own are nobody's business.
    let own = send(&alice).await;
    app.delete(&alice, &format!("{messages}/{own}"))
        .await
        .expect(204);
    let path = format!("/guilds/{}/audit-logs?action_type=72", hall.id);
    let body = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_audit_log_entries", 200, &body);
    let entries = body["audit_log_entries"].as_array().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(
        entries[0]["options"],
        json!({ "channel_id": hall.general, "count": "3" })
    );
    assert_eq!(entries[0]["target_id"], json!(bob.id));
    assert_eq!(app.audit(hall.id).await.len(), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_reason_that_is_too_long_is_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let hall = app.guild(&alice, "hall").await;
    let request = app
        .request_by(&alice, Method::PATCH, &format!("/guilds/{}", hall.id))
        .header("x-audit-log-reason", "x".repeat(513))
        .json(&json!({ "name": "great hall" }));
    app.send(request)
        .await
        .expect_fault("reason", "BASE_TYPE_MAX_LENGTH");
}
