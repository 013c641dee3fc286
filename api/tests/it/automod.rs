use guildhall_shared::{
    Permissions,
    envelope::{Scope, Visibility},
    gateway::Intents,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, hall},
    log,
};

fn path(hall: TestGuild) -> String {
    format!("/guilds/{}/auto-moderation/rules", hall.id)
}

fn keyword_rule(hall: TestGuild) -> Value {
    json!({
        "name": "no cats", "event_type": 1, "trigger_type": 1, "enabled": true,
        "trigger_metadata": { "keyword_filter": ["cat*"], "regex_patterns": ["d[o0]g"] },
        "actions": [
            { "type": 1, "metadata": { "custom_message": "No." } },
            { "type": 2, "metadata": { "channel_id": hall.general } },
            { "type": 3, "metadata": { "duration_seconds": 60 } },
        ],
    })
}

fn managers(intents: Intents) -> Visibility {
    let scope = Scope::Permissions {
        any_of: Permissions::MANAGE_GUILD,
        channel: None,
    };
    Visibility::of(scope, intents)
}

#[sqlx::test(migrations = "../migrations")]
async fn rules_are_made_read_changed_and_deleted(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = path(hall);
    let rule = app
        .post(&alice, &path, keyword_rule(hall))
        .await
        .expect(200);
    conforms("create_auto_moderation_rule", 200, &rule);
    let one = format!("{path}/{}", rule["id"].as_str().unwrap());
    let (name, vis) = log::newest(&app, hall.id).await;
    assert_eq!(name, "AUTO_MODERATION_RULE_CREATE");
    assert_eq!(vis, managers(Intents::AUTO_MODERATION_CONFIGURATION));
    for (trigger, event) in [(3, 1), (4, 1), (5, 1), (6, 2)] {
        let body = json!({ "name": "r", "event_type": event, "trigger_type": trigger });
        let rule = app.post(&alice, &path, body.clone()).await.expect(200);
        conforms("create_auto_moderation_rule", 200, &rule);
        app.post(&alice, &path, body)
            .await
            .expect_fault("trigger_type", "AUTO_MODERATION_MAX_RULES_OF_TYPE_EXCEEDED");
    }
    let all = app.get(&alice, &path).await.expect(200);
    conforms("list_auto_moderation_rules", 200, &all);
    assert_eq!(all.as_array().unwrap().len(), 5);
    assert_eq!(all[0], rule);

    let changed = app
        .patch(
            &alice,
            &one,
            json!({ "enabled": false, "exempt_channels": [hall.general] }),
        )
        .await
        .expect(200);
    conforms("update_auto_moderation_rule", 200, &changed);
    assert_eq!(app.get(&alice, &one).await.expect(200), changed);
    let entry = app.audit(hall.id).await.pop().unwrap();
    assert_eq!(entry["action_type"], 141);
    let audit = format!("/guilds/{}/audit-logs", hall.id);
    let audit = app.get(&alice, &audit).await.expect(200);
    conforms("list_guild_audit_log_entries", 200, &audit);
    assert_eq!(audit["auto_moderation_rules"].as_array().unwrap().len(), 5);
    app.delete(&alice, &one).await.expect(204);
    app.get(&alice, &one).await.expect_error(404, 0);
    for reply in [
        app.get(&bob, &path).await,
        app.post(&bob, &path, keyword_rule(hall)).await,
        app.patch(&bob, &one, json!({})).await,
        app.delete(&bob, &one).await,
    ] {
        reply.expect_error(403, 50013);
    }
    // A timeout needs the bit for it.
    app.grant(&bob, hall, Permissions::MANAGE_GUILD).await;
    app.post(&bob, &path, keyword_rule(hall))
        .await
        .expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn rules_that_cannot_be_are_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let cases = [
        (json!({ "name": "" }), "name", "BASE_TYPE_REQUIRED"),
        (
            json!({ "trigger_type": 2 }),
            "trigger_type",
            "BASE_TYPE_CHOICES",
        ),
        (
            json!({ "event_type": 2 }),
            "event_type",
            "AUTO_MODERATION_INVALID_EVENT_TYPE",
        ),
        (
            json!({ "trigger_metadata": { "regex_patterns": ["a", "("] } }),
            "trigger_metadata.regex_patterns.1",
            "AUTO_MODERATION_INVALID_REGEX",
        ),
        (
            json!({ "trigger_metadata": { "keyword_filter": ["x".repeat(61)] } }),
            "trigger_metadata.keyword_filter.0",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({ "trigger_metadata": { "keyword_filter": ["a", "b\0"] } }),
            "trigger_metadata.keyword_filter.1",
            "STRING_TYPE_REGEX",
        ),
        (
            json!({ "trigger_metadata": { "regex_patterns": [format!("{}(", " ".repeat(260))] } }),
            "trigger_metadata.regex_patterns.0",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({ "actions": [{ "type": 3, "metadata": {
                "duration_seconds": 60, "custom_message": "x".repeat(151) } }] }),
            "actions.0.metadata.custom_message",
            "BASE_TYPE_MAX_LENGTH",
        ),
        (
            json!({ "actions": [{ "type": 2 }] }),
            "actions.0.metadata.channel_id",
            "BASE_TYPE_REQUIRED",
        ),
        (
            json!({ "actions": [{ "type": 2, "metadata": { "channel_id": "5" } }] }),
            "actions.0.metadata.channel_id",
            "CHANNEL_INVALID",
        ),
        (
            json!({ "actions": [{ "type": 4 }] }),
            "actions.0.type",
            "AUTO_MODERATION_INVALID_ACTION_TYPE",
        ),
    ];
    for (change, at, code) in cases {
        let mut body = keyword_rule(hall);
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        app.post(&alice, &path(hall), body)
            .await
            .expect_fault(at, code);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_rule_blocks_tells_and_times_out(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let send = async |user, text: &str| app.post(user, &messages, json!({ "content": text })).await;
    // Asked once before there is a rule: the answer is not remembered for too long.
    send(&bob, "cats").await.expect(200);
    app.post(&alice, &path(hall), keyword_rule(hall))
        .await
        .expect(200);
    send(&bob, "concat").await.expect(200);
    send(&alice, "cats").await.expect(200);
    send(&bob, "two Cats").await.expect_error(400, 200_000);

    let events = app.events(hall.id).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names[4..],
        [
            "AUTO_MODERATION_ACTION_EXECUTION",
            "MESSAGE_CREATE",
            "AUTO_MODERATION_ACTION_EXECUTION",
            "GUILD_MEMBER_UPDATE",
            "AUTO_MODERATION_ACTION_EXECUTION",
        ]
    );
    let execution = &events[4].1;
    assert_eq!(execution["content"], "two Cats");
    assert_eq!(execution["matched_keyword"], "cat*");
    assert_eq!(execution["matched_content"], "Cats");
    assert_eq!(execution["action"]["type"], 1);
    let envelopes = log::envelopes(&app.db, hall.id).await;
    assert_eq!(
        envelopes[4].vis,
        managers(Intents::AUTO_MODERATION_EXECUTION)
    );
    let bare: Value = serde_json::from_slice(&envelopes[4].alt.as_ref().unwrap().body).unwrap();
    assert_eq!(bare["content"], "");
    assert_eq!(bare["matched_content"], "");

    // The message is not there, the alert is.
    let list = app.get(&alice, &messages).await.expect(200);
    assert_eq!(list[0]["type"], 24);
    assert_eq!(list[0]["embeds"][0]["description"], "two Cats");
    assert_eq!(list.as_array().unwrap().len(), 4);
    let timeout = &events[7].1["communication_disabled_until"];
    assert!(timeout.is_string());
    send(&bob, "hello").await.expect_error(403, 50013);
    let actions: Vec<Value> = app
        .audit(hall.id)
        .await
        .into_iter()
        .map(|entry| entry["action_type"].clone())
        .collect();
    assert_eq!(actions, [140, 143, 144, 145]);
}

#[sqlx::test(migrations = "../migrations")]
async fn edits_are_looked_at_and_the_exempt_are_not(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let role = app.grant(&bob, hall, Permissions::empty()).await;
    let mut rule = keyword_rule(hall);
    rule["actions"] = json!([{ "type": 1 }]);
    let rule = app.post(&alice, &path(hall), rule).await.expect(200);
    let messages = format!("/channels/{}/messages", hall.general);
    let sent = app
        .post(&bob, &messages, json!({ "content": "fish" }))
        .await;
    let one = format!("{messages}/{}", sent.expect(200)["id"].as_str().unwrap());
    app.patch(&bob, &one, json!({ "content": "a D0G" }))
        .await
        .expect_error(400, 200_000);
    assert_eq!(app.get(&bob, &one).await.expect(200)["content"], "fish");
    let rule = format!("{}/{}", path(hall), rule["id"].as_str().unwrap());
    app.patch(&alice, &rule, json!({ "exempt_roles": [role] }))
        .await
        .expect(200);
    app.patch(&bob, &one, json!({ "content": "a D0G" }))
        .await
        .expect(200);
}

/// Panics unless the rules block it, and nothing but that is told.
async fn expect_blocked(app: &TestApp, user: &TestUser, hall: TestGuild, path: &str, body: Value) {
    let before = app.event_names(hall.id).await.len();
    let about = body.to_string();
    let reply = app.post(user, path, body).await;
    assert_eq!(reply.status, 400, "{about}");
    reply.expect_error(400, 200_000);
    let events = app.event_names(hall.id).await.split_off(before);
    assert_eq!(events, ["AUTO_MODERATION_ACTION_EXECUTION"], "{about}");
}

#[sqlx::test(migrations = "../migrations")]
async fn every_text_of_a_message_is_looked_at(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let cats = app.post(
        &alice,
        &messages,
        json!({ "embeds": [{ "title": "cats" }] }),
    );
    let cats = cats.await.expect(200);
    let mut rule = keyword_rule(hall);
    rule["actions"] = json!([{ "type": 1 }]);
    app.post(&alice, &path(hall), rule).await.expect(200);
    let poll = |question: &str, answer: &str| {
        let answers = ["birds", answer].map(|text| json!({ "poll_media": { "text": text } }));
        json!({ "poll": { "question": { "text": question }, "answers": answers } })
    };
    for body in [
        json!({ "embeds": [{ "title": "fish", "description": "two cats" }] }),
        json!({ "content": "fish", "embeds": [{ "fields": [{ "name": "a", "value": "cats" }] }] }),
        json!({ "components": [{ "type": 10, "content": "cats" }], "flags": 1 << 15 }),
        json!({ "message_reference": {
            "type": 1, "channel_id": hall.general, "message_id": cats["id"],
        } }),
        poll("cats?", "fish"),
        poll("fish?", "cats"),
    ] {
        expect_blocked(&app, &bob, hall, &messages, body).await;
    }
    let fine = json!({ "content": "fish", "embeds": [{ "title": "concat" }] });
    let fine = app.post(&bob, &messages, fine).await.expect(200);
    let one = format!("{messages}/{}", fine["id"].as_str().unwrap());
    app.patch(&bob, &one, json!({ "embeds": [{ "title": "cats" }] }))
        .await
        .expect_error(400, 200_000);
    app.post(&bob, &messages, poll("fish?", "birds"))
        .await
        .expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn threads_and_posts_are_looked_at(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let channels = format!("/guilds/{}/channels", hall.id);
    let forum = json!({ "name": "ideas", "type": 15 });
    let forum = app.post(&alice, &channels, forum).await.expect(201);
    let posts = format!("/channels/{}/threads", forum["id"].as_str().unwrap());
    let threads = format!("/channels/{}/threads", hall.general);
    let messages = format!("/channels/{}/messages", hall.general);
    let sent = app.post(&bob, &messages, json!({ "content": "fish" }));
    let sent = sent.await.expect(200);
    let of_message = format!("{messages}/{}/threads", sent["id"].as_str().unwrap());
    let mut rule = keyword_rule(hall);
    rule["actions"] = json!([{ "type": 1 }]);
    app.post(&alice, &path(hall), rule).await.expect(200);
    for (path, body) in [
        (
            &posts,
            json!({ "name": "fish", "message": { "content": "two cats" } }),
        ),
        (
            &posts,
            json!({ "name": "fish", "message": { "embeds": [{ "title": "cats" }] } }),
        ),
        (
            &posts,
            json!({ "name": "cats", "message": { "content": "fish" } }),
        ),
        (&threads, json!({ "name": "cats", "type": 11 })),
        (&of_message, json!({ "name": "cats" })),
    ] {
        expect_blocked(&app, &bob, hall, path, body).await;
    }
    let made: i64 = sqlx::query_scalar("select count(*) from thread")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!(made, 0);
    let (_, execution) = app.events(hall.id).await.pop().unwrap();
    assert_eq!(execution["content"], "cats");
    assert_eq!(execution["channel_id"], hall.general.to_string());
    assert!(execution.get("message_id").is_none());

    let thread = app.post(&bob, &threads, json!({ "name": "fish", "type": 11 }));
    let thread = thread.await.expect(201);
    let thread = format!("/channels/{}", thread["id"].as_str().unwrap());
    app.patch(&bob, &thread, json!({ "name": "cats" }))
        .await
        .expect_error(400, 200_000);
    assert_eq!(app.get(&bob, &thread).await.expect(200)["name"], "fish");
    app.patch(&bob, &thread, json!({ "name": "birds" }))
        .await
        .expect(200);
    let post = json!({ "name": "fish", "message": { "content": "birds" } });
    app.post(&bob, &posts, post).await.expect(201);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_forbidden_name_is_quarantined_until_it_changes(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let rule = json!({
        "name": "names", "event_type": 2, "trigger_type": 6, "enabled": true,
        "trigger_metadata": { "keyword_filter": ["*evil*"] },
        "actions": [{ "type": 4 }, { "type": 2, "metadata": { "channel_id": hall.general } }],
    });
    app.post(&alice, &path(hall), rule).await.expect(200);
    let me = format!("/guilds/{}/members/@me", hall.id);
    let messages = format!("/channels/{}/messages", hall.general);
    let before = app.events(hall.id).await.len();
    let named = app.patch(&bob, &me, json!({ "nick": "Dr Evil" })).await;
    let named = named.expect(200);
    conforms("update_my_guild_member", 200, &named);
    assert_eq!(named["flags"], 1 << 7);
    let events = app.events(hall.id).await.split_off(before);
    let names: Vec<_> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "GUILD_MEMBER_UPDATE",
            "AUTO_MODERATION_ACTION_EXECUTION",
            "MESSAGE_CREATE",
            "AUTO_MODERATION_ACTION_EXECUTION",
        ]
    );
    let execution = &events[1].1;
    assert_eq!(execution["action"]["type"], 4);
    assert_eq!(execution["content"], "Dr Evil");
    assert_eq!(execution["matched_keyword"], "*evil*");
    let entries = app.audit(hall.id).await;
    let logged = entries.iter().filter(|entry| entry["action_type"] == 146);
    assert_eq!(logged.count(), 1);

    // Reading goes on, taking part does not.
    let guilds = app.get(&bob, "/users/@me/guilds").await.expect(200);
    let held = &guilds[0]["permissions"];
    let held: Permissions = serde_json::from_value(held.clone()).unwrap();
    assert!(held.contains(Permissions::VIEW_CHANNEL), "{held:?}");
    assert!(!held.contains(Permissions::SEND_MESSAGES), "{held:?}");
    let text = json!({ "content": "hi" });
    app.get(&bob, &messages).await.expect(200);
    app.post(&bob, &messages, text.clone())
        .await
        .expect_error(403, 50013);
    // A better name ends it.
    let named = app.patch(&bob, &me, json!({ "nick": "Dr Good" })).await;
    assert_eq!(named.expect(200)["flags"], 0);
    app.post(&bob, &messages, text.clone()).await.expect(200);
    // By a moderator as well; whoever manages the guild is named as they like.
    app.patch(&bob, &me, json!({ "nick": "devil" }))
        .await
        .expect(200);
    let his = format!("/guilds/{}/members/{}", hall.id, bob.id);
    let named = app.patch(&alice, &his, json!({ "nick": null })).await;
    assert_eq!(named.expect(200)["flags"], 0);
    let named = app
        .patch(&alice, &me, json!({ "nick": "evil queen" }))
        .await;
    assert_eq!(named.expect(200)["flags"], 0);

    // Who joins under such a name is quarantined from the start.
    let evil = app.user("evilyn").await;
    let invite = format!("/channels/{}/invites", hall.general);
    let invite = app.post(&alice, &invite, json!({})).await.expect(200);
    let code = format!("/invites/{}", invite["code"].as_str().unwrap());
    app.post(&evil, &code, json!({})).await.expect(200);
    app.post(&evil, &messages, text)
        .await
        .expect_error(403, 50013);
    let hers = format!("/guilds/{}/members/{}", hall.id, evil.id);
    assert_eq!(app.get(&alice, &hers).await.expect(200)["flags"], 1 << 7);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_name_for_all_guilds_is_judged_where_it_is_shown(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let rule = json!({
        "name": "names", "event_type": 2, "trigger_type": 6, "enabled": true,
        "trigger_metadata": { "keyword_filter": ["*evil*"] },
        "actions": [{ "type": 4 }],
    });
    app.post(&alice, &path(hall), rule).await.expect(200);
    let his = format!("/guilds/{}/members/{}", hall.id, bob.id);
    // What is told of a change, and the member's flags after it.
    let change = async |path: &str, body: Value| -> (Vec<&'static str>, Value) {
        let before = app.events(hall.id).await.len();
        app.patch(&bob, path, body).await.expect(200);
        let told = app.events(hall.id).await.split_off(before);
        let names = told.iter().map(|(name, _)| *name).collect();
        let member = app.get(&alice, &his).await.expect(200);
        (names, member["flags"].clone())
    };
    let me = "/users/@me";
    let (told, flags) = change(me, json!({ "global_name": "Dr Evil" })).await;
    let judged = ["GUILD_MEMBER_UPDATE", "AUTO_MODERATION_ACTION_EXECUTION"];
    assert_eq!((&told[..], flags), (&judged[..], json!(1 << 7)));
    // Another change is not judged again.
    let (told, flags) = change(me, json!({ "pronouns": "he" })).await;
    assert_eq!((&told[..], flags), (&judged[..1], json!(1 << 7)));
    let (told, flags) = change(me, json!({ "global_name": "Dr Good" })).await;
    assert_eq!((&told[..], flags), (&judged[..1], json!(0)));
    // A nick is shown instead.
    let nick = format!("/guilds/{}/members/@me", hall.id);
    change(&nick, json!({ "nick": "Bob" })).await;
    let (told, flags) = change(me, json!({ "global_name": "Devil" })).await;
    assert_eq!((&told[..], flags), (&judged[..1], json!(0)));
    // Whoever manages the guild is named as they like.
    let queen = json!({ "global_name": "Evil queen" });
    app.patch(&alice, me, queen).await.expect(200);
    let hers = format!("/guilds/{}/members/{}", hall.id, alice.id);
    assert_eq!(app.get(&alice, &hers).await.expect(200)["flags"], 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_stored_is_answered_so_whatever_becomes_of_the_alert(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let threads = format!("/channels/{}/threads", hall.general);
    let sent = app.post(&bob, &messages, json!({ "content": "fish" }));
    let sent = sent.await.expect(200);
    let message = format!("{messages}/{}", sent["id"].as_str().unwrap());
    let mut rule = keyword_rule(hall);
    rule["actions"] = json!([{ "type": 2, "metadata": { "channel_id": hall.general } }]);
    app.post(&alice, &path(hall), rule).await.expect(200);
    app.refuse("insert", "audit_entry", "new.action = 144")
        .await;
    let cats = json!({ "name": "cats", "type": 11 });
    let thread = app.post(&bob, &threads, cats).await.expect(201);
    let thread = format!("/channels/{}", thread["id"].as_str().unwrap());
    app.patch(&bob, &thread, json!({ "name": "more cats" }))
        .await
        .expect(200);
    app.patch(&bob, &message, json!({ "content": "cats" }))
        .await
        .expect(200);
    let of_message = format!("{message}/threads");
    let cats = json!({ "name": "cats" });
    app.post(&bob, &of_message, cats).await.expect(201);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_timeout_alone_blocks_no_message(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let mut rule = keyword_rule(hall);
    rule["actions"] = json!([{ "type": 3, "metadata": { "duration_seconds": 60 } }]);
    app.post(&alice, &path(hall), rule).await.expect(200);
    let sent = app.post(&bob, &messages, json!({ "content": "cats" }));
    let sent = sent.await.expect(200);
    let events = app.events(hall.id).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "AUTO_MODERATION_RULE_CREATE",
            "MESSAGE_CREATE",
            "GUILD_MEMBER_UPDATE",
            "AUTO_MODERATION_ACTION_EXECUTION",
        ]
    );
    assert_eq!(events[3].1["message_id"], sent["id"]);
    app.post(&bob, &messages, json!({ "content": "hello" }))
        .await
        .expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_alert_is_deleted_by_moderators_alone(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let mut rule = keyword_rule(hall);
    rule["actions"] = json!([{ "type": 2, "metadata": { "channel_id": hall.general } }]);
    app.post(&alice, &path(hall), rule).await.expect(200);
    app.post(&bob, &messages, json!({ "content": "cats" }))
        .await
        .expect(200);
    let list = app.get(&alice, &messages).await.expect(200);
    let alert = list
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["type"] == 24);
    let alert = alert.unwrap();
    assert_eq!(alert["author"]["id"], bob.id.to_string());
    let alert = format!("{messages}/{}", alert["id"].as_str().unwrap());
    app.delete(&bob, &alert).await.expect_error(403, 50013);
    app.delete(&alice, &alert).await.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_rule_whose_channel_for_alerts_is_gone_can_be_changed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let rule = app
        .post(&alice, &path(hall), keyword_rule(hall))
        .await
        .expect(200);
    app.delete(&alice, &format!("/channels/{}", hall.general))
        .await
        .expect(200);
    let one = format!("{}/{}", path(hall), rule["id"].as_str().unwrap());
    for body in [
        json!({ "enabled": false }),
        json!({ "name": "cats", "actions": rule["actions"] }),
    ] {
        app.patch(&alice, &one, body).await.expect(200);
    }
    let alert = json!([{ "type": 2, "metadata": { "channel_id": "5" } }]);
    app.patch(&alice, &one, json!({ "actions": alert }))
        .await
        .expect_fault("actions.0.metadata.channel_id", "CHANNEL_INVALID");
}

#[sqlx::test(migrations = "../migrations")]
async fn mentions_without_a_limit_are_limited_as_little_as_may_be(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let rules = path(hall);
    let body = json!({ "name": "spam", "event_type": 1, "trigger_type": 5, "enabled": true });
    let rule = app.post(&alice, &rules, body).await.expect(200);
    assert_eq!(rule["trigger_metadata"]["mention_total_limit"], 50);
    let messages = format!("/channels/{}/messages", hall.general);
    let body = json!({ "content": format!("<@{}>", alice.id) });
    app.post(&bob, &messages, body.clone()).await.expect(200);

    // Whoever wants none says so.
    let one = format!("{rules}/{}", rule["id"].as_str().unwrap());
    let none = json!({ "trigger_metadata": { "mention_total_limit": 0 } });
    let rule = app.patch(&alice, &one, none).await.expect(200);
    assert_eq!(rule["trigger_metadata"]["mention_total_limit"], 0);
    app.post(&bob, &messages, body.clone())
        .await
        .expect_error(400, 200_000);

    // Null is none, where nothing at all leaves it as it is.
    let exempt = json!({ "exempt_channels": [hall.general] });
    app.patch(&alice, &one, exempt).await.expect(200);
    app.patch(&alice, &one, json!({})).await.expect(200);
    app.post(&bob, &messages, body.clone()).await.expect(200);
    let none = json!({ "exempt_channels": null, "exempt_roles": null });
    app.patch(&alice, &one, none).await.expect(200);
    app.post(&bob, &messages, body)
        .await
        .expect_error(400, 200_000);
}
