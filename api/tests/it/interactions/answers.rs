//! What an application answers: messages for all or for one, changes, follow-ups.

use guildhall_shared::{Permissions, envelope::Visibility, gateway::Intents};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{NOTHING, ORIGINAL, World, button, text};
use crate::{conformance::conforms, log};

#[sqlx::test(migrations = "../migrations")]
async fn a_command_is_answered_once_and_followed_up(db: PgPool) {
    let world = World::new(db).await;
    let interaction = world.call().await;
    let none = json!({ "content": "too early" });
    world
        .hook(Method::POST, &interaction, "", none)
        .await
        .expect_error(404, 10015);
    let body = json!({ "type": 4, "data": { "content": "pong" } });
    let result = world.answer(&interaction, body.clone()).await.expect(200);
    conforms("create_interaction_response", 200, &result);
    let message = &result["resource"]["message"];
    assert_eq!(
        (&message["type"], &message["content"]),
        (&json!(20), &json!("pong"))
    );
    assert_eq!(message["author"]["id"], json!(world.bot.id));
    assert_eq!(message["application_id"], json!(world.bot.id));
    let metadata = &message["interaction_metadata"];
    assert_eq!(metadata["id"], interaction["id"]);
    assert_eq!(metadata["user"]["id"], json!(world.alice.id));
    assert_eq!(message["interaction"]["name"], "ping");
    world
        .answer(&interaction, body)
        .await
        .expect_error(400, 40060);
    assert_eq!(
        world.user_events().await,
        ["INTERACTION_CREATE", "INTERACTION_SUCCESS"]
    );
    let told = world.newest_user_event().await.1;
    assert_eq!(told, json!({ "id": interaction["id"], "nonce": "7" }));
    let vis = Visibility::channel(world.guild.general, Intents::GUILD_MESSAGES);
    let newest = log::newest(&world.app, world.guild.id).await;
    assert_eq!(newest, ("MESSAGE_CREATE", vis));
    let read = world.list().await[0].clone();
    assert_eq!(read["content"], "pong");
    // The bot as it is now, not as it was when it answered.
    assert_eq!(read["author"], message["author"]);
    sqlx::query("update account set username = 'Pang' where user_id = $1")
        .bind(world.bot.id.to_db())
        .execute(&world.app.db)
        .await
        .unwrap();
    assert_eq!(world.list().await[0]["author"]["username"], "Pang");

    let edit = json!({ "content": "new" });
    let edited = world.patch_original(&interaction, edit).await.expect(200);
    conforms("update_original_webhook_message", 200, &edited);
    let read = world
        .hook(Method::GET, &interaction, ORIGINAL, json!({}))
        .await;
    let read = read.expect(200);
    conforms("get_original_webhook_message", 200, &read);
    assert_eq!(read["content"], "new");
    // As discord.js writes it.
    let encoded = "/messages/%40original";
    let same = world.hook(Method::GET, &interaction, encoded, json!({}));
    assert_eq!(same.await.expect(200), read);
    let more = json!({ "content": "and more" });
    let more = world
        .hook(Method::POST, &interaction, "", more)
        .await
        .expect(200);
    conforms("execute_webhook", 200, &more);
    let first = &more["interaction_metadata"]["original_response_message_id"];
    assert_eq!(*first, read["id"]);
    let one = format!("/messages/{}", text(&more["id"]));
    let edit = json!({ "content": "and less" });
    let edited = world.hook(Method::PATCH, &interaction, &one, edit).await;
    assert_eq!(edited.expect(200)["content"], "and less");
    let hook = async |method, path: &str| world.hook(method, &interaction, path, json!({})).await;
    hook(Method::DELETE, &one).await.expect(204);
    hook(Method::GET, &one).await.expect_error(404, 10008);
    hook(Method::DELETE, ORIGINAL).await.expect(204);
    hook(Method::GET, ORIGINAL).await.expect_error(404, 10008);
    let newest = log::newest(&world.app, world.guild.id).await;
    assert_eq!(newest.0, "MESSAGE_DELETE");
    assert_eq!(world.list().await, json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn without_being_asked_an_answer_has_no_body(db: PgPool) {
    let world = World::new(db).await;
    let interaction = world.call().await;
    let path = format!(
        "/interactions/{}/{}/callback",
        text(&interaction["id"]),
        text(&interaction["token"])
    );
    let body = json!({ "type": 4, "data": { "content": "pong" } });
    let reply = world.app.post_anonymously(&path, body).await;
    assert_eq!(reply.expect(204), Value::Null);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_ephemeral_answer_is_for_one_user(db: PgPool) {
    let world = World::new(db).await;
    let bob = world.member("bob").await;
    let interaction = world.call().await;
    let before = world.app.event_names(world.guild.id).await;
    let loading = json!({ "type": 5, "data": { "flags": 64 } });
    let result = world.answer(&interaction, loading).await.expect(200);
    conforms("create_interaction_response", 200, &result);
    assert_eq!(result["interaction"]["response_message_loading"], true);
    assert_eq!(result["interaction"]["response_message_ephemeral"], true);
    let edit = json!({ "content": "psst", "components": [button("go")] });
    let message = world.patch_original(&interaction, edit).await.expect(200);
    conforms("update_original_webhook_message", 200, &message);
    assert_eq!(message["flags"], 64);
    assert!(message["edited_timestamp"].is_null());
    assert_eq!(world.list().await, json!([]));
    assert_eq!(world.app.event_names(world.guild.id).await, before);
    for user in [world.alice.id, world.bot.id] {
        let events = world.app.events(user).await;
        let (name, body) = events.last().unwrap();
        assert_eq!(
            (*name, &body["content"]),
            ("MESSAGE_UPDATE", &json!("psst"))
        );
        assert!(body.get("guild_id").is_none() && body.get("member").is_none());
    }
    assert!(world.app.event_names(bob.id).await.is_empty());
    let one = format!(
        "/channels/{}/messages/{}",
        world.guild.general,
        text(&message["id"])
    );
    for reader in [&world.alice, &bob, &world.bot] {
        world.app.get(reader, &one).await.expect_error(404, 10008);
    }

    let go = json!({ "component_type": 2, "custom_id": "go" });
    let press = world.press(&message["id"], go);
    world
        .app
        .post(&bob, "/interactions", press.clone())
        .await
        .expect_error(404, 10008);
    let pressed = world.act(press).await;
    assert_eq!(
        (&pressed["type"], &pressed["message"]["id"]),
        (&json!(3), &message["id"])
    );
    let body = json!({ "type": 7, "data": { "content": "done", "components": [] } });
    let result = world.answer(&pressed, body).await.expect(200);
    conforms("create_interaction_response", 200, &result);
    assert_eq!(result["resource"]["message"]["content"], "done");
    let deleted = world
        .hook(Method::DELETE, &pressed, ORIGINAL, json!({}))
        .await;
    deleted.expect(204);
    let events = world.app.events(world.alice.id).await;
    assert_eq!(events.last().unwrap().0, "MESSAGE_DELETE");
    world
        .patch_original(&interaction, json!({ "content": "x" }))
        .await
        .expect_error(404, 10008);
    assert_eq!(
        world.app.event_names(world.guild.id).await.len(),
        before.len() + 1
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn an_ephemeral_answer_is_kept_without_its_nonce(db: PgPool) {
    let world = World::new(db).await;
    let interaction = world.call().await;
    let body = json!({ "type": 4, "data": { "content": "x", "flags": 64, "nonce": "\u{0}1" } });
    let result = world.answer(&interaction, body).await.expect(200);
    assert_eq!(result["resource"]["message"]["nonce"], "\u{0}1");
    let read = world
        .hook(Method::GET, &interaction, ORIGINAL, json!({}))
        .await;
    assert!(read.expect(200).get("nonce").is_none());
}

#[sqlx::test(migrations = "../migrations")]
async fn the_first_follow_up_is_the_answer_that_was_to_come(db: PgPool) {
    let world = World::new(db).await;
    let interaction = world.call().await;
    let result = world
        .answer(&interaction, json!({ "type": 5 }))
        .await
        .expect(200);
    let id = &result["interaction"]["response_message_id"];
    assert_eq!(world.list().await[0]["flags"], 128);
    let said = json!({ "content": "late", "flags": 64 });
    let said = world
        .hook(Method::POST, &interaction, "", said)
        .await
        .expect(200);
    assert_eq!((&said["id"], &said["flags"]), (id, &json!(0)));
    let next = json!({ "content": "next" });
    let next = world
        .hook(Method::POST, &interaction, "", next)
        .await
        .expect(200);
    assert_ne!(next["id"], *id);
    assert_eq!(world.list().await.as_array().unwrap().len(), 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_deferred_answer_may_bring_a_poll(db: PgPool) {
    let world = World::new(db).await;
    let poll = json!({ "poll": { "question": { "text": "?" },
        "answers": [{ "poll_media": { "text": "a" } }] } });
    for method in [Method::PATCH, Method::POST] {
        let interaction = world.call().await;
        let result = world.answer(&interaction, json!({ "type": 5 })).await;
        let id = result.expect(200)["interaction"]["response_message_id"].clone();
        let path = if method == Method::POST { "" } else { ORIGINAL };
        let asked = world.hook(method, &interaction, path, poll.clone()).await;
        let asked = asked.expect(200);
        conforms("update_original_webhook_message", 200, &asked);
        assert_eq!((&asked["id"], &asked["flags"]), (&id, &json!(0)));
        let vote = format!(
            "/channels/{}/polls/{}/answers/@me",
            world.guild.general,
            text(&id)
        );
        let vote = world
            .app
            .put(&world.alice, &vote, json!({ "answer_ids": ["1"] }))
            .await;
        vote.expect(204);
        let again = world
            .patch_original(&interaction, json!({ "content": "x" }))
            .await;
        again.expect_error(400, 520003);
    }
    let interaction = world.call().await;
    world
        .answer(&interaction, json!({ "type": 5 }))
        .await
        .expect(200);
    let mut both = poll.clone();
    both["flags"] = json!(1 << 15);
    both["components"] = json!([{ "type": 10, "content": "x" }]);
    let code = "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2";
    let refused = world.patch_original(&interaction, both).await;
    refused.expect_fault("poll", code);

    let interaction = world.call().await;
    let quiet = json!({ "type": 5, "data": { "flags": 64 } });
    world.answer(&interaction, quiet).await.expect(200);
    let asked = world.patch_original(&interaction, poll).await;
    asked.expect_fault("poll", "POLL_CANNOT_BE_EPHEMERAL");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_component_changes_its_message_or_answers_it(db: PgPool) {
    let world = World::new(db).await;
    let message = world.panel(json!([button("go")])).await;
    let go = world.press(&message, json!({ "component_type": 2, "custom_id": "go" }));
    let pressed = world.act(go.clone()).await;
    let later = world
        .answer(&pressed, json!({ "type": 6 }))
        .await
        .expect(200);
    conforms("create_interaction_response", 200, &later);
    assert!(later.get("resource").is_none());
    let edited = world
        .patch_original(&pressed, json!({ "content": "pressed" }))
        .await;
    let edited = edited.expect(200);
    assert_eq!(
        (&edited["id"], &edited["content"]),
        (&message, &json!("pressed"))
    );

    let pressed = world.act(go.clone()).await;
    let body = json!({ "type": 7, "data": { "content": "twice" } });
    let result = world.answer(&pressed, body).await.expect(200);
    conforms("create_interaction_response", 200, &result);
    assert_eq!(world.list().await[0]["content"], "twice");

    let pressed = world.act(go).await;
    let body = json!({ "type": 4, "data": { "content": "yes" } });
    let result = world.answer(&pressed, body).await.expect(200);
    let answer = &result["resource"]["message"];
    assert_eq!(answer["message_reference"]["message_id"], message);
    assert_eq!(
        answer["interaction_metadata"]["interacted_message_id"],
        message
    );
    assert_eq!(answer["interaction_metadata"]["type"], 3);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_answer_mentions_whom_its_bot_may(db: PgPool) {
    let world = World::new(db).await;
    let none = Permissions::empty();
    let role = world.app.grant(&world.alice, world.guild, none).await;
    let said = json!({ "content": format!("@everyone <@&{role}>"),
        "allowed_mentions": { "parse": ["everyone", "roles"] } });
    let (channel, everyone) = (world.guild.general, world.guild.id);
    let path = format!("/channels/{channel}/permissions/{everyone}");
    for denied in [none, Permissions::MENTION_EVERYONE] {
        let body = json!({ "type": 0, "allow": "0", "deny": denied.bits().to_string() });
        world.app.put(&world.alice, &path, body).await.expect(204);
        let may = denied.is_empty();
        let roles = if may { json!([role]) } else { json!([]) };
        let interaction = world.call().await;
        let body = json!({ "type": 4, "data": said });
        let result = world.answer(&interaction, body).await.expect(200);
        let edited = world.patch_original(&interaction, said.clone()).await;
        let more = world.hook(Method::POST, &interaction, "", said.clone());
        for message in [
            &result["resource"]["message"],
            &edited.expect(200),
            &more.await.expect(200),
        ] {
            assert_eq!(message["mention_everyone"], may);
            assert_eq!(message["mention_roles"], roles);
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhooks_message_is_changed_without_a_member(db: PgPool) {
    let world = World::new(db).await;
    let needed = Permissions::MANAGE_WEBHOOKS;
    world.app.grant(&world.bot, world.guild, needed).await;
    let path = format!("/channels/{}/webhooks", world.guild.general);
    let hook = json!({ "name": "Herald" });
    let hook = world.app.post(&world.bot, &path, hook).await.expect(200);
    let (id, token) = (text(&hook["id"]), text(&hook["token"]));
    let path = format!("/webhooks/{id}/{token}?wait=true");
    let body = json!({ "content": "press", "components": [button("go")] });
    let sent = world.app.post_anonymously(&path, body).await.expect(200);
    let go = json!({ "component_type": 2, "custom_id": "go" });
    let pressed = world.act(world.press(&sent["id"], go)).await;
    let body = json!({ "type": 7, "data": { "content": "pressed" } });
    world.answer(&pressed, body).await.expect(200);
    let (name, told) = world.app.events(world.guild.id).await.pop().unwrap();
    assert_eq!(
        (name, &told["content"]),
        ("MESSAGE_UPDATE", &json!("pressed"))
    );
    assert_eq!(told["author"]["id"], hook["id"]);
    assert!(told.get("member").is_none());
}

#[sqlx::test(migrations = "../migrations")]
async fn what_does_not_answer_the_interaction_is_refused(db: PgPool) {
    let world = World::new(db).await;
    let interaction = world.call().await;
    for kind in [1, 6, 7, 8, 10, 12] {
        world
            .answer(&interaction, json!({ "type": kind }))
            .await
            .expect_fault("type", "INTERACTION_RESPONSE_TYPE_INVALID");
    }
    let long = "x".repeat(2001);
    for (body, path, code) in [
        (json!({}), "type", "BASE_TYPE_REQUIRED"),
        (json!({ "type": 11 }), "type", "BASE_TYPE_CHOICES"),
        (
            json!({ "type": 4, "data": 5 }),
            "data",
            "MODEL_TYPE_CONVERT",
        ),
        (
            json!({ "type": 4, "data": { "content": long } }),
            "data.content",
            "BASE_TYPE_MAX_LENGTH",
        ),
        (
            json!({ "type": 4, "data": { "content": "x", "flags": 64, "poll": {
                "question": { "text": "?" }, "answers": [{ "poll_media": { "text": "a" } }] } } }),
            "data.poll",
            "POLL_CANNOT_BE_EPHEMERAL",
        ),
    ] {
        world
            .answer(&interaction, body)
            .await
            .expect_fault(path, code);
    }
    world
        .answer(&interaction, json!({ "type": 4 }))
        .await
        .expect_error(400, 50006);
    // None of them was an answer.
    let body = json!({ "type": 4, "data": { "content": "at last" } });
    world.answer(&interaction, body.clone()).await.expect(200);

    let nobody = json!({ "id": NOTHING, "token": "aW50ZXJhY3Rpb246x" });
    world
        .answer(&nobody, body.clone())
        .await
        .expect_error(404, 10062);
    let mut other = interaction.clone();
    other["id"] = json!(NOTHING);
    world.answer(&other, body).await.expect_error(404, 10062);
    let content = json!({ "content": "x" });
    world
        .hook(Method::POST, &nobody, "", content.clone())
        .await
        .expect_error(401, 50027);
    let path = format!("/webhooks/{NOTHING}/{}", text(&interaction["token"]));
    world
        .app
        .post_anonymously(&path, content)
        .await
        .expect_error(404, 10015);
}

#[sqlx::test(migrations = "../migrations")]
async fn files_come_with_an_answer(db: PgPool) {
    let world = World::new(db).await;
    for flags in [0, 64] {
        let interaction = world.call().await;
        let path = format!(
            "/interactions/{}/{}/callback?with_response=true",
            text(&interaction["id"]),
            text(&interaction["token"])
        );
        let payload = json!({ "type": 4, "data": { "flags": flags,
            "embeds": [{ "image": { "url": "attachment://b.png" } }],
            "attachments": [{ "id": 0, "description": "words" }] } });
        let form = Form::new()
            .text("payload_json", payload.to_string())
            .part("files[0]", Part::text("hello").file_name("a.txt"))
            .part(
                "files[1]",
                Part::bytes(crate::media::png(3, 2)).file_name("b.png"),
            );
        let request = world.app.request(Method::POST, &path).multipart(form);
        let result = world.app.send(request).await.expect(200);
        conforms("create_interaction_response", 200, &result);
        let message = &result["resource"]["message"];
        let file = &message["attachments"][0];
        assert_eq!(
            (&file["filename"], &file["description"]),
            (&json!("a.txt"), &json!("words"))
        );
        assert!(text(&message["embeds"][0]["image"]["url"]).starts_with("http"));
        let used = "select count(*) from media_file where uses > 0";
        let used = async || -> i64 {
            let found = sqlx::query_scalar(used);
            found.fetch_one(&world.app.db).await.unwrap()
        };
        assert_eq!(used().await, 2);
        // An edit that says nothing of files keeps them.
        let edited = world
            .patch_original(&interaction, json!({ "content": "x" }))
            .await;
        assert_eq!(edited.expect(200)["attachments"][0]["id"], file["id"]);
        assert_eq!(used().await, 2);
        let gone = world
            .hook(Method::DELETE, &interaction, ORIGINAL, json!({}))
            .await;
        gone.expect(204);
        assert_eq!(used().await, 0);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_late_answer_wakes_its_thread_and_no_change_does(db: PgPool) {
    let world = World::new(db).await;
    let threads = format!("/channels/{}/threads", world.guild.general);
    let body = json!({ "name": "Thread", "type": 11 });
    let thread = world.app.post(&world.alice, &threads, body).await;
    let thread = thread.expect(201)["id"].clone();
    let path = format!("/channels/{}", text(&thread));
    let archive = async || {
        let body = json!({ "archived": true });
        let archived = world.app.patch(&world.alice, &path, body).await;
        archived.expect(200);
    };
    for (method, answered) in [(Method::PATCH, ORIGINAL), (Method::POST, "")] {
        let mut ping = world.ping();
        ping["channel_id"] = thread.clone();
        let interaction = world.act(ping).await;
        world
            .answer(&interaction, json!({ "type": 5 }))
            .await
            .expect(200);
        archive().await;
        let answer = json!({ "content": "done" });
        let answer = world.hook(method, &interaction, answered, answer).await;
        answer.expect(200);
        let read = world.app.get(&world.alice, &path).await.expect(200);
        assert_eq!(read["thread_metadata"]["archived"], false);

        archive().await;
        let change = json!({ "content": "done it" });
        let refused = world.patch_original(&interaction, change).await;
        refused.expect_error(400, 50083);
        let awake = json!({ "archived": false });
        let woken = world.app.patch(&world.alice, &path, awake).await;
        woken.expect(200);
    }
}
