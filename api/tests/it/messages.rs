use guildhall_shared::{
    Id, Permissions,
    envelope::Visibility,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Message},
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, hall},
    log,
};

pub(crate) fn path(channel: Id<Channel>) -> String {
    format!("/channels/{channel}/messages")
}

fn one(channel: Id<Channel>, message: &Value) -> String {
    format!("{}/{}", path(channel), message["id"].as_str().unwrap())
}

pub(crate) async fn send(
    app: &TestApp,
    user: &TestUser,
    channel: Id<Channel>,
    content: &str,
) -> Value {
    let body = json!({ "content": content });
    app.post(user, &path(channel), body).await.expect(200)
}

async fn set_overwrite(app: &TestApp, guild: TestGuild, by: &TestUser, deny: Permissions) {
    let path = format!("/channels/{}/permissions/{}", guild.general, guild.id);
    app.put(by, &path, json!({ "type": 0, "allow": "0", "deny": deny }))
        .await
        .expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_message_is_answered_stored_and_numbered(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let body = json!({ "content": "  hi <@1> ", "nonce": 17, "flags": 1 << 12 | 1 });
    let sent = app.post(&bob, &path(hall.general), body).await.expect(200);
    conforms("create_message", 200, &sent);
    assert_eq!(sent["content"], "hi <@1>");
    assert_eq!(sent["nonce"], 17);
    assert_eq!(sent["flags"], 1 << 12);
    assert_eq!(sent["author"]["username"], "bob");
    assert!(sent.get("guild_id").is_none() && sent.get("member").is_none());

    let read = app.get(&alice, &one(hall.general, &sent)).await.expect(200);
    conforms("get_message", 200, &read);
    assert!(read.get("nonce").is_none());
    assert_eq!(read["content"], sent["content"]);
    assert_eq!(read["timestamp"], sent["timestamp"]);

    let events = log::envelopes(&app.db, hall.id).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind, EventKind::MessageCreate);
    let vis = Visibility::channel(hall.general, Intents::GUILD_MESSAGES);
    assert_eq!(events[0].vis, vis);
    let full: Value = serde_json::from_slice(&events[0].body).unwrap();
    assert_eq!(full["guild_id"], hall.id.to_string());
    assert_eq!(full["content"], "hi <@1>");
    assert_eq!(full["nonce"], 17);
    assert!(full["member"]["joined_at"].is_string());
    assert!(full["member"].get("user").is_none());
    let alt = events[0].alt.clone().unwrap();
    assert_eq!(alt.full_for, [bob.id]);
    let bare: Value = serde_json::from_slice(&alt.body).unwrap();
    assert_eq!(bare["content"], "");
    assert_eq!(bare["id"], full["id"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_no_message_is_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let path = path(hall.general);
    for empty in [
        json!({}),
        json!({ "content": " \n" }),
        json!({ "content": null }),
    ] {
        app.post(&alice, &path, empty)
            .await
            .expect_error(400, 50006);
    }
    for (body, at, code) in [
        (
            json!({ "content": "x".repeat(2001) }),
            "content",
            "BASE_TYPE_MAX_LENGTH",
        ),
        (
            json!({ "content": ["x"] }),
            "content",
            "STRING_TYPE_CONVERT",
        ),
        (
            json!({ "content": "x", "nonce": "x".repeat(26) }),
            "nonce",
            "BASE_TYPE_MAX_LENGTH",
        ),
        (
            json!({ "embeds": [{ "fields": [{ "name": "n", "value": "" }] }] }),
            "embeds.0.fields.0.value",
            "BASE_TYPE_REQUIRED",
        ),
        (
            json!({ "content": "x", "components": [{}] }),
            "components.0.type",
            "BASE_TYPE_REQUIRED",
        ),
        (
            json!({ "content": "x", "message_reference": { "message_id": "5" } }),
            "message_reference",
            "REPLIES_UNKNOWN_MESSAGE",
        ),
        (
            json!({ "content": "x", "message_reference": { "message_id": "x" } }),
            "message_reference.message_id",
            "NUMBER_TYPE_COERCE",
        ),
    ] {
        app.post(&alice, &path, body).await.expect_fault(at, code);
    }
    app.post_anonymously(&path, json!({ "content": "x" }))
        .await
        .expect_error(401, 0);
    let nobody = TestUser {
        id: alice.id,
        authorization: "MTA.x.y".to_owned(),
    };
    app.post(&nobody, &path, json!({ "content": "x" }))
        .await
        .expect_error(401, 0);
    let raw = app.request_by(&alice, Method::POST, &path);
    app.send(raw.body("{\"content\":"))
        .await
        .expect_error(400, 50109);
    app.post(&alice, "/channels/77/messages", json!({ "content": "x" }))
        .await
        .expect_error(404, 10003);
    app.post(&alice, "/channels/x/messages", json!({ "content": "x" }))
        .await
        .expect_fault("channel_id", "NUMBER_TYPE_COERCE");
    let category = app
        .post(
            &alice,
            &format!("/guilds/{}/channels", hall.id),
            json!({ "name": "c", "type": 4 }),
        )
        .await
        .expect(201);
    let path = format!("/channels/{}/messages", category["id"].as_str().unwrap());
    app.post(&alice, &path, json!({ "content": "x" }))
        .await
        .expect_error(400, 50008);
    assert_eq!(app.event_names(hall.id).await, ["CHANNEL_CREATE"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn text_that_postgres_refuses_is_stored_without_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let body = json!({ "content": "a\0b", "nonce": "\0", "enforce_nonce": true,
                       "embeds": [{ "title": "\0t" }] });
    let sent = app
        .post(&alice, &path(hall.general), body)
        .await
        .expect(200);
    assert_eq!(sent["content"], "ab");
    assert_eq!(sent["embeds"][0]["title"], "t");
    app.post(&alice, &path(hall.general), json!({ "content": "\0" }))
        .await
        .expect_error(400, 50006);
}

#[sqlx::test(migrations = "../migrations")]
async fn permissions_decide_at_the_moment_of_the_commit(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let eve = app.user("eve").await;
    let hello = || json!({ "content": "hello" });
    app.post(&eve, &path(hall.general), hello())
        .await
        .expect_error(403, 50001);
    // Bob's permission is now remembered by the process.
    app.post(&bob, &path(hall.general), hello())
        .await
        .expect(200);
    set_overwrite(&app, hall, &alice, Permissions::SEND_MESSAGES).await;
    app.post(&bob, &path(hall.general), hello())
        .await
        .expect_error(403, 50013);
    set_overwrite(&app, hall, &alice, Permissions::VIEW_CHANNEL).await;
    app.post(&bob, &path(hall.general), hello())
        .await
        .expect_error(403, 50001);
    app.get(&bob, &path(hall.general))
        .await
        .expect_error(403, 50001);
    set_overwrite(
        &app,
        hall,
        &alice,
        Permissions::EMBED_LINKS | Permissions::SEND_TTS_MESSAGES,
    )
    .await;
    app.post(&bob, &path(hall.general), hello())
        .await
        .expect(200);
    let embed = json!({ "embeds": [{ "title": "t" }] });
    app.post(&bob, &path(hall.general), embed)
        .await
        .expect_error(403, 50013);
    let spoken = json!({ "content": "x", "tts": true });
    app.post(&bob, &path(hall.general), spoken)
        .await
        .expect_error(403, 50013);
    app.delete(&alice, &format!("/guilds/{}/members/{}", hall.id, bob.id))
        .await
        .expect(204);
    app.post(&bob, &path(hall.general), hello())
        .await
        .expect_error(403, 50001);
    app.delete(&alice, &format!("/channels/{}", hall.general))
        .await
        .expect(200);
    app.post(&alice, &path(hall.general), hello())
        .await
        .expect_error(404, 10003);
}

#[sqlx::test(migrations = "../migrations")]
async fn mentions_are_resolved_and_limited(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let role = app.grant(&bob, hall, Permissions::empty()).await;
    let text = format!("<@{}> <@&{role}> <@5> @everyone", alice.id);
    let sent = send(&app, &alice, hall.general, &text).await;
    assert_eq!(sent["mentions"][0]["id"], alice.id.to_string());
    assert_eq!(sent["mentions"].as_array().unwrap().len(), 1);
    assert_eq!(sent["mention_roles"], json!([role]));
    assert_eq!(sent["mention_everyone"], true);

    let everyone = Permissions::NEW_GUILD - Permissions::MENTION_EVERYONE;
    let path_role = format!("/guilds/{0}/roles/{0}", hall.id);
    app.patch(&alice, &path_role, json!({ "permissions": everyone }))
        .await
        .expect(200);
    let sent = send(&app, &bob, hall.general, &text).await;
    assert_eq!(sent["mention_everyone"], false);
    assert_eq!(sent["mention_roles"], json!([]));

    let body = json!({ "content": text, "allowed_mentions": { "parse": [] } });
    let sent = app
        .post(&alice, &path(hall.general), body)
        .await
        .expect(200);
    assert_eq!(sent["mentions"], json!([]));
    assert_eq!(sent["mention_everyone"], false);

    let full_for = log::envelopes(&app.db, hall.id).await[0]
        .alt
        .clone()
        .unwrap()
        .full_for;
    assert_eq!(full_for, [alice.id]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_reply_carries_what_it_answers(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let question = send(&app, &alice, hall.general, "why?").await;
    let body =
        json!({ "content": "because", "message_reference": { "message_id": question["id"] } });
    let reply = app.post(&bob, &path(hall.general), body).await.expect(200);
    conforms("create_message", 200, &reply);
    assert_eq!(reply["type"], 19);
    assert_eq!(reply["referenced_message"]["content"], "why?");
    assert_eq!(reply["message_reference"]["guild_id"], hall.id.to_string());
    assert_eq!(reply["mentions"][0]["id"], alice.id.to_string());

    app.delete(&alice, &one(hall.general, &question))
        .await
        .expect(204);
    let read = app
        .get(&alice, &one(hall.general, &reply))
        .await
        .expect(200);
    conforms("get_message", 200, &read);
    assert_eq!(read["referenced_message"], Value::Null);
    assert!(read.as_object().unwrap().contains_key("referenced_message"));

    let body = json!({ "content": "x", "message_reference": { "message_id": question["id"], "fail_if_not_exists": false } });
    let plain = app.post(&bob, &path(hall.general), body).await.expect(200);
    assert_eq!(plain["type"], 0);

    set_overwrite(&app, hall, &alice, Permissions::READ_MESSAGE_HISTORY).await;
    let body = json!({ "content": "x", "message_reference": { "message_id": reply["id"] } });
    app.post(&bob, &path(hall.general), body)
        .await
        .expect_error(403, 160002);
}

#[sqlx::test(migrations = "../migrations")]
async fn lists_are_newest_first(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let mut sent = Vec::new();
    for n in 0..7 {
        sent.push(send(&app, &alice, hall.general, &n.to_string()).await);
    }
    let list = async |query: &str| -> Vec<String> {
        let body = app
            .get(&bob, &format!("{}{query}", path(hall.general)))
            .await
            .expect(200);
        conforms("list_messages", 200, &body);
        let content = |message: &Value| message["content"].as_str().unwrap().to_owned();
        body.as_array().unwrap().iter().map(content).collect()
    };
    let at = |n: usize| sent[n]["id"].as_str().unwrap().to_owned();
    assert_eq!(list("").await, ["6", "5", "4", "3", "2", "1", "0"]);
    assert_eq!(list("?limit=2").await, ["6", "5"]);
    assert_eq!(
        list(&format!("?before={}&limit=2", at(3))).await,
        ["2", "1"]
    );
    assert_eq!(list(&format!("?after={}&limit=2", at(3))).await, ["5", "4"]);
    assert_eq!(
        list(&format!("?around={}&limit=3", at(3))).await,
        ["4", "3", "2"]
    );
    // Libraries ask so for the oldest.
    assert_eq!(list("?after=0&limit=2").await, ["1", "0"]);
    assert_eq!(list(&format!("?after={}", u64::MAX)).await, [""; 0]);
    assert_eq!(list(&format!("?around={}&limit=1", at(3))).await, ["3"]);
    for (limit, fault) in [(101, "NUMBER_TYPE_MAX"), (0, "NUMBER_TYPE_MIN")] {
        app.get(&bob, &format!("{}?limit={limit}", path(hall.general)))
            .await
            .expect_fault("limit", fault);
    }
    set_overwrite(&app, hall, &alice, Permissions::READ_MESSAGE_HISTORY).await;
    assert_eq!(list("").await, [""; 0]);
    app.get(&bob, &one(hall.general, &sent[0]))
        .await
        .expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn edits_are_the_authors(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let sent = send(&app, &bob, hall.general, "old").await;
    let path = one(hall.general, &sent);
    let edited = app
        .patch(&bob, &path, json!({ "content": "new" }))
        .await
        .expect(200);
    conforms("update_message", 200, &edited);
    assert_eq!(edited["content"], "new");
    assert!(edited["edited_timestamp"].is_string());
    let read = app.get(&alice, &path).await.expect(200);
    assert_eq!(read["edited_timestamp"], edited["edited_timestamp"]);

    let events = log::envelopes(&app.db, hall.id).await;
    assert_eq!(events[1].kind, EventKind::MessageUpdate);
    let body: Value = serde_json::from_slice(&events[1].body).unwrap();
    assert_eq!(body["content"], "new");
    assert_eq!(body["guild_id"], hall.id.to_string());
    assert!(events[1].alt.is_some());

    app.patch(&alice, &path, json!({ "content": "mine" }))
        .await
        .expect_error(403, 50005);
    let hidden = app
        .patch(&alice, &path, json!({ "flags": 4 }))
        .await
        .expect(200);
    assert_eq!(hidden["flags"], 4);
    app.patch(&bob, &path, json!({ "content": "" }))
        .await
        .expect_error(400, 50006);
    app.patch(&bob, &path, json!({ "content": "x".repeat(2001) }))
        .await
        .expect_fault("content", "BASE_TYPE_MAX_LENGTH");
    app.patch(
        &bob,
        &format!("/channels/{}/messages/9", hall.general),
        json!({ "content": "x" }),
    )
    .await
    .expect_error(404, 10008);
}

#[sqlx::test(migrations = "../migrations")]
async fn others_change_whether_embeds_are_shown_and_no_other_flag(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let bot = app.bot(&alice, "helper").await;
    app.join(&bot, hall).await;
    let button = json!({ "type": 2, "style": 1, "label": "x", "custom_id": "x" });
    let body = json!({ "components": [{ "type": 1, "components": [button] }] });
    let path = format!("/channels/{}/messages", hall.general);
    let sent = app.post(&bot, &path, body).await.expect(200);
    let path = one(hall.general, &sent);
    let flags = json!({ "flags": (1 << 15) | (1 << 2) });
    let hers = app.patch(&alice, &path, flags.clone()).await.expect(200);
    assert_eq!(hers["flags"], 1 << 2);
    let own = app.patch(&bot, &path, flags).await.expect(200);
    assert_eq!(own["flags"], (1 << 15) | (1 << 2));
}

#[sqlx::test(migrations = "../migrations")]
async fn deleting_others_messages_needs_a_permission(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let mine = send(&app, &bob, hall.general, "a").await;
    let hers = send(&app, &alice, hall.general, "b").await;
    app.delete(&bob, &one(hall.general, &hers))
        .await
        .expect_error(403, 50013);
    app.delete(&bob, &one(hall.general, &mine))
        .await
        .expect(204);
    app.delete(&bob, &one(hall.general, &mine))
        .await
        .expect_error(404, 10008);
    app.delete(&alice, &one(hall.general, &hers))
        .await
        .expect(204);
    let (name, body) = app.events(hall.id).await.pop().unwrap();
    assert_eq!(name, "MESSAGE_DELETE");
    let wanted = json!({ "id": hers["id"], "channel_id": hall.general, "guild_id": hall.id });
    assert_eq!(body, wanted);
    let vis = Visibility::channel(hall.general, Intents::GUILD_MESSAGES);
    assert_eq!(log::newest(&app, hall.id).await.1, vis);
}

#[sqlx::test(migrations = "../migrations")]
async fn bots_delete_in_bulk(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let bot = app.bot(&alice, "helper").await;
    app.join(&bot, hall).await;
    let path = format!("/channels/{}/messages/bulk-delete", hall.general);
    let a = send(&app, &alice, hall.general, "a").await;
    let b = send(&app, &alice, hall.general, "b").await;
    let both = || json!({ "messages": [a["id"], b["id"]] });
    app.post(&alice, &path, both())
        .await
        .expect_error(403, 20002);
    app.post(&bot, &path, both()).await.expect_error(403, 50013);
    app.grant(&bot, hall, Permissions::MANAGE_MESSAGES).await;
    let many: Vec<String> = (1..=101).map(|id| id.to_string()).collect();
    for wrong in [json!([]), json!([a["id"]]), json!(many)] {
        app.post(&bot, &path, json!({ "messages": wrong }))
            .await
            .expect_error(400, 50016);
    }
    app.post(&bot, &path, json!({}))
        .await
        .expect_fault("messages", "BASE_TYPE_REQUIRED");
    let ancient: Id<Message> = Id::new(5).unwrap();
    app.post(&bot, &path, json!({ "messages": [ancient, a["id"]] }))
        .await
        .expect_error(400, 50034);
    app.post(&bot, &path, both()).await.expect(204);
    let (name, body) = app.events(hall.id).await.pop().unwrap();
    assert_eq!(name, "MESSAGE_DELETE_BULK");
    assert_eq!(body["ids"].as_array().unwrap().len(), 2);
    // None of them is there any more: nothing happens.
    app.post(&bot, &path, both()).await.expect(204);
    assert_eq!(app.event_names(hall.id).await.len(), 3);
}

#[sqlx::test(migrations = "../migrations")]
async fn slowmode_holds_people_back_but_no_bots(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let bot = app.bot(&alice, "helper").await;
    app.join(&bot, hall).await;
    let path_channel = format!("/channels/{}", hall.general);
    app.patch(&alice, &path_channel, json!({ "rate_limit_per_user": 60 }))
        .await
        .expect(200);
    send(&app, &bob, hall.general, "a").await;
    let body = json!({ "content": "b" });
    let refused = app
        .post(&bob, &path(hall.general), body)
        .await
        .expect_error(429, 20016);
    assert!(refused["retry_after"].as_f64().unwrap() > 50.0);
    for _ in 0..2 {
        send(&app, &bot, hall.general, "c").await;
        send(&app, &alice, hall.general, "d").await;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn slowmode_holds_back_nobody_who_repeats_a_message(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let general = format!("/channels/{}", hall.general);
    app.patch(&alice, &general, json!({ "rate_limit_per_user": 60 }))
        .await
        .expect(200);
    let body = |nonce: &str| json!({ "content": "once", "nonce": nonce, "enforce_nonce": true });
    let messages = path(hall.general);
    let first = app.post(&bob, &messages, body("n")).await.expect(200);
    let again = app.post(&bob, &messages, body("n")).await.expect(200);
    assert_eq!((&again["id"], &again["nonce"]), (&first["id"], &json!("n")));
    app.post(&bob, &messages, body("m"))
        .await
        .expect_error(429, 20016);
    let loose = json!({ "content": "once", "nonce": "n" });
    app.post(&bob, &messages, loose)
        .await
        .expect_error(429, 20016);
    let names = app.event_names(hall.id).await;
    assert_eq!(names, ["CHANNEL_UPDATE", "MESSAGE_CREATE"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_refused_waits_for_nothing(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let general = format!("/channels/{}", hall.general);
    app.patch(&alice, &general, json!({ "rate_limit_per_user": 60 }))
        .await
        .expect(200);
    let rule = json!({
        "name": "cats", "event_type": 1, "trigger_type": 1, "enabled": true,
        "trigger_metadata": { "keyword_filter": ["cat"] }, "actions": [{ "type": 1 }],
    });
    let rules = format!("/guilds/{}/auto-moderation/rules", hall.id);
    app.post(&alice, &rules, rule).await.expect(200);
    let messages = path(hall.general);
    for _ in 0..2 {
        app.post(&bob, &messages, json!({ "content": "a cat" }))
            .await
            .expect_error(400, 200_000);
    }
    send(&app, &bob, hall.general, "a dog").await;
    // Who is held back gives nothing back.
    for _ in 0..2 {
        app.post(&bob, &messages, json!({ "content": "a bird" }))
            .await
            .expect_error(429, 20016);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn typing_is_not_numbered(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/channels/{}/typing", hall.general);
    app.post(&bob, &path, json!({})).await.expect(204);
    assert!(app.events(hall.id).await.is_empty());
    set_overwrite(&app, hall, &alice, Permissions::SEND_MESSAGES).await;
    app.post(&bob, &path, json!({}))
        .await
        .expect_error(403, 50013);
    let eve = app.user("eve").await;
    app.post(&eve, &path, json!({}))
        .await
        .expect_error(403, 50001);
}

/// A bot in the guild that may not read what others write.
async fn bot_without_the_intent(app: &TestApp, owner: &TestUser, hall: TestGuild) -> TestUser {
    let bot = app.bot(owner, "helper").await;
    app.join(&bot, hall).await;
    sqlx::query("update application set flags = 0 where application_id = $1")
        .bind(bot.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    bot
}

#[sqlx::test(migrations = "../migrations")]
async fn without_the_intent_for_it_a_bot_reads_no_content(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let bot = bot_without_the_intent(&app, &alice, hall).await;
    let messages = path(hall.general);
    let body = json!({ "content": "secret", "embeds": [{ "title": "t" }] });
    let hers = app.post(&alice, &messages, body).await.expect(200);
    let called = send(&app, &alice, hall.general, &format!("hi <@{}>", bot.id)).await;
    let own = send(&app, &bot, hall.general, "mine").await;
    let read = app.get(&bot, &one(hall.general, &hers)).await.expect(200);
    conforms("get_message", 200, &read);
    assert_eq!(
        (&read["content"], &read["embeds"]),
        (&json!(""), &json!([]))
    );
    let list = app.get(&bot, &messages).await.expect(200);
    let contents: Vec<Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].clone())
        .collect();
    let wanted = [own["content"].clone(), called["content"].clone(), json!("")];
    assert_eq!(contents, wanted);

    let pins = format!("/channels/{}/pins", hall.general);
    let pin = format!("{pins}/{}", hers["id"].as_str().unwrap());
    app.put(&alice, &pin, json!({})).await.expect(204);
    let pinned = app.get(&bot, &pins).await.expect(200);
    assert_eq!(pinned[0]["content"], "");
    let pinned = app.get(&alice, &pins).await.expect(200);
    assert_eq!(pinned[0]["content"], "secret");

    let forward = |message: &Value| {
        json!({ "message_reference": {
            "type": 1, "message_id": message["id"], "channel_id": hall.general,
        } })
    };
    app.post(&bot, &messages, forward(&hers))
        .await
        .expect_error(400, 160_014);
    app.post(&bot, &messages, forward(&called))
        .await
        .expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn without_the_intent_a_bot_reads_of_a_reply_what_is_its_own(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let bot = bot_without_the_intent(&app, &alice, hall).await;
    let reply_to = |message: &Value| {
        json!({
            "content": "because",
            "message_reference": { "message_id": message["id"] },
            "allowed_mentions": { "replied_user": false },
        })
    };
    let texts = |message: &Value| {
        let text = |message: &Value| message["content"].as_str().unwrap().to_owned();
        (text(message), text(&message["referenced_message"]))
    };
    let both = ("because".to_owned(), "why?".to_owned());
    let none = (String::new(), String::new());
    let own = (both.0.clone(), String::new());
    let answered = (String::new(), both.1.clone());
    for (asks, replies, wanted) in [(&alice, &bot, own), (&bot, &alice, answered)] {
        let question = send(&app, asks, hall.general, "why?").await;
        let body = reply_to(&question);
        let reply = app.post(replies, &path(hall.general), body).await;
        let reply = reply.expect(200);
        if replies.id == bot.id {
            assert_eq!(texts(&reply), wanted);
        }
        let read = app.get(&bot, &one(hall.general, &reply)).await.expect(200);
        conforms("get_message", 200, &read);
        assert_eq!(texts(&read), wanted);
        let read = app.get(&alice, &one(hall.general, &reply)).await;
        assert_eq!(texts(&read.expect(200)), both);

        let event = log::envelopes(&app.db, hall.id).await.pop().unwrap();
        let alt = event.alt.unwrap();
        assert_eq!(alt.full_for, []);
        let [part] = &alt.parts[..] else {
            panic!("{} bodies with some of the content", alt.parts.len());
        };
        assert_eq!(part.users, [bot.id]);
        let body = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert_eq!(texts(&body(&part.body)), wanted);
        assert_eq!(texts(&body(&alt.body)), none);
        assert_eq!(texts(&body(&event.body)), both);
    }
    // One who is named by the reply and wrote what it answers reads both.
    let question = send(&app, &bot, hall.general, "why?").await;
    let body =
        json!({ "content": "because", "message_reference": { "message_id": question["id"] } });
    app.post(&alice, &path(hall.general), body)
        .await
        .expect(200);
    let event = log::envelopes(&app.db, hall.id).await.pop().unwrap();
    let alt = event.alt.unwrap();
    assert_eq!((alt.full_for, alt.parts), (vec![bot.id], vec![]));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_does_not_say_what_its_author_did(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let question = send(&app, &alice, hall.general, "why?").await;
    let question_path = one(hall.general, &question);
    let reaction = format!("{question_path}/reactions/%F0%9F%91%8D/@me");
    app.put(&bob, &reaction, json!({})).await.expect(204);
    let body =
        json!({ "content": "because", "message_reference": { "message_id": question["id"] } });
    app.post(&bob, &path(hall.general), body).await.expect(200);
    let told = app.events(hall.id).await;
    let (name, reply) = told.last().unwrap();
    assert_eq!((*name, &reply["type"]), ("MESSAGE_CREATE", &json!(19)));
    let shown = &reply["referenced_message"]["reactions"][0];
    assert_eq!((&shown["count"], &shown["me"]), (&json!(1), &json!(false)));

    let threads = format!("{question_path}/threads");
    app.post(&bob, &threads, json!({ "name": "Why" }))
        .await
        .expect(201);
    let told = app.events(hall.id).await;
    let (_, starter) = told.iter().find(|(_, body)| body["type"] == 21).unwrap();
    let shown = &starter["referenced_message"]["reactions"][0];
    assert_eq!((&shown["count"], &shown["me"]), (&json!(1), &json!(false)));
}
