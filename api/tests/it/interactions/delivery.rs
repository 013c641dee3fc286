//! How interactions reach applications, when they are over, and who never hears of them.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{ORIGINAL, World, text};
use crate::{
    endpoint::Endpoint,
    harness::CLUSTER_KEY,
    log,
    logs::Logs,
    renewed_keys::{NEW_KEY, tells, with_keys},
};

impl World {
    /// Gives the application an endpoint.
    async fn endpoint(&self) -> Endpoint {
        let me = self
            .app
            .get(&self.bot, "/applications/@me")
            .await
            .expect(200);
        let endpoint = Endpoint::start(text(&me["verify_key"])).await;
        let url = json!({ "interactions_endpoint_url": endpoint.url });
        let set = self.app.patch(&self.bot, "/applications/@me", url).await;
        set.expect(200);
        endpoint
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_endpoint_that_has_the_previous_verify_key_is_still_reached(db: PgPool) {
    let world = World::new(db).await;
    let endpoint = world.endpoint().await;
    endpoint.set_reply(json!({ "type": 4, "data": { "content": "by http" } }));
    let at_first = endpoint.received().len();
    let new = with_keys(&world.app, NEW_KEY, None, None).await;
    let renewing = with_keys(&world.app, NEW_KEY, None, Some(CLUSTER_KEY)).await;
    let behind = with_keys(&world.app, CLUSTER_KEY, Some(NEW_KEY), None).await;
    for (app, reached) in [(&new, 0), (&renewing, 1), (&behind, 2)] {
        let asked = app.post(&world.alice, "/interactions", world.ping()).await;
        asked.expect(204);
        world.settled().await;
        assert_eq!(endpoint.received().len() - at_first, reached);
    }
    let used = r#"guildhall_api_previous_key_uses_total{what="interaction"} 1"#;
    assert!(tells(&renewing, used).await);
    // Its owner has learnt of the new key; a process that is behind signs with it all the same.
    let me = new.get(&world.bot, "/applications/@me").await.expect(200);
    let told = Endpoint::start(text(&me["verify_key"])).await;
    told.set_reply(json!({ "type": 4, "data": { "content": "by http" } }));
    let url = json!({ "interactions_endpoint_url": told.url });
    let set = new.patch(&world.bot, "/applications/@me", url).await;
    set.expect(200);
    let at_first = told.received().len();
    for (app, reached) in [(&new, 1), (&renewing, 2), (&behind, 3)] {
        let asked = app.post(&world.alice, "/interactions", world.ping()).await;
        asked.expect(204);
        world.settled().await;
        assert_eq!(told.received().len() - at_first, reached);
    }
    assert!(tells(&renewing, used).await);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_endpoint_gets_it_signed_and_answers_by_its_reply(db: PgPool) {
    let world = World::new(db).await;
    let endpoint = world.endpoint().await;
    endpoint.set_reply(json!({ "type": 4, "data": { "content": "by http" } }));
    world.post(world.ping()).await.expect(204);
    world.settled().await;
    let received = endpoint.received().pop().unwrap();
    assert_eq!(received["data"]["name"], "ping");
    assert!(received["token"].is_string());
    assert_eq!(
        world.user_events().await,
        ["INTERACTION_CREATE", "INTERACTION_SUCCESS"]
    );
    assert_eq!(
        world.app.event_names(world.guild.id).await,
        ["MESSAGE_CREATE"]
    );
    assert_eq!(world.list().await[0]["content"], "by http");
    let more = json!({ "content": "more" });
    world
        .hook(Method::POST, &received, "", more)
        .await
        .expect(200);
}

/// Over the gateway the session's intents count, for an endpoint what the application may have.
#[sqlx::test(migrations = "../migrations")]
async fn without_the_intent_a_target_is_whole_and_what_it_answers_is_not(db: PgPool) {
    let world = World::new(db).await;
    let quote = world.command(json!({ "name": "Quote", "type": 3 })).await;
    let path = format!("/channels/{}/messages", world.guild.general);
    let post = async |body: Value| world.app.post(&world.alice, &path, body).await.expect(200);
    let question = post(json!({ "content": "why?" })).await;
    let answered = json!({ "message_id": question["id"] });
    let reply = post(json!({ "content": "because", "message_reference": answered })).await;
    let texts = |interaction: &Value| {
        let target = &interaction["data"]["resolved"]["messages"][text(&reply["id"])];
        [target, &target["referenced_message"]].map(|message| message["content"].clone())
    };
    let data = json!({ "id": quote["id"], "type": 3, "target_id": reply["id"] });
    let body = world.body(2, data);
    let sent = world.act(body.clone()).await;
    assert_eq!(texts(&sent), ["because", "why?"]);
    let events = log::envelopes(&world.app.db, world.guild.id).await;
    let alt = events.last().unwrap().alt.as_ref().unwrap();
    assert!(alt.full_for.is_empty() && alt.parts.is_empty());
    let blank: Value = serde_json::from_slice(&alt.body).unwrap();
    assert_eq!(texts(&blank), ["because", ""]);
    // Others have nothing to hide.
    world.call().await;
    let events = log::envelopes(&world.app.db, world.guild.id).await;
    assert_eq!(events.last().unwrap().alt, None);

    let endpoint = world.endpoint().await;
    for (flags, seen) in [(1_i64 << 19, "why?"), (0, "")] {
        sqlx::query("update application set flags = $2 where application_id = $1")
            .bind(world.bot.id.to_db())
            .bind(flags)
            .execute(&world.app.db)
            .await
            .unwrap();
        world.post(body.clone()).await.expect(204);
        world.settled().await;
        let received = endpoint.received().pop().unwrap();
        assert_eq!(texts(&received), ["because", seen]);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_endpoints_reply_may_bring_files(db: PgPool) {
    let world = World::new(db).await;
    let endpoint = world.endpoint().await;
    let reply = json!({ "type": 4, "data": { "content": "read this",
        "attachments": [{ "id": 0, "description": "notes" }] } });
    endpoint.set_reply_with_file(reply, "notes.txt", "hello");
    world.post(world.ping()).await.expect(204);
    world.settled().await;
    let message = &world.list().await[0];
    assert_eq!(message["content"], "read this");
    let file = &message["attachments"][0];
    assert_eq!(
        (&file["filename"], &file["size"]),
        (&json!("notes.txt"), &json!(5))
    );
    assert_eq!(file["description"], "notes");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_endpoint_without_an_answer_fails_the_interaction(db: PgPool) {
    let world = World::new(db).await;
    let endpoint = world.endpoint().await;
    endpoint.set_reply(json!({ "type": 99 }));
    world.post(world.ping()).await.expect(204);
    world.settled().await;
    let (name, told) = world.newest_user_event().await;
    assert_eq!(name, "INTERACTION_FAILURE");
    assert_eq!(
        (&told["nonce"], &told["reason_code"]),
        (&json!("7"), &json!(1))
    );
    let received = endpoint.received().pop().unwrap();
    assert_eq!(told["id"], received["id"]);
    let late = json!({ "type": 4, "data": { "content": "late" } });
    world
        .answer(&received, late.clone())
        .await
        .expect_error(404, 10062);
    let follow_up = world
        .hook(Method::POST, &received, "", late["data"].clone())
        .await;
    follow_up.expect_error(404, 10015);
    assert_eq!(world.list().await, json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_interaction_is_over_without_an_answer_in_time(db: PgPool) {
    let world = World::new(db).await;
    let interaction = world.call().await;
    world.settled().await;
    let (name, told) = world.newest_user_event().await;
    assert_eq!(name, "INTERACTION_FAILURE");
    assert_eq!(
        (&told["id"], &told["reason_code"]),
        (&interaction["id"], &json!(2))
    );
    let late = json!({ "type": 4, "data": { "content": "late" } });
    world
        .answer(&interaction, late.clone())
        .await
        .expect_error(404, 10062);

    // Nor is one answered whose process stopped.
    let interaction = world.call().await;
    world.age(&interaction, 7.0).await;
    world
        .answer(&interaction, late)
        .await
        .expect_error(404, 10062);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_token_is_good_for_a_quarter_of_an_hour(db: PgPool) {
    let world = World::new(db).await;
    let interaction = world.call().await;
    let body = json!({ "type": 4, "data": { "content": "pong" } });
    world.answer(&interaction, body).await.expect(200);
    world.age(&interaction, 14.0 * 60.0).await;
    let hook = async |method, path: &str| {
        let body = json!({ "content": "x" });
        world.hook(method, &interaction, path, body).await
    };
    hook(Method::PATCH, ORIGINAL).await.expect(200);
    world.age(&interaction, 61.0).await;
    hook(Method::POST, "").await.expect_error(401, 50027);
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        hook(method, ORIGINAL).await.expect_error(401, 50027);
    }
    assert_eq!(world.list().await[0]["content"], "x");
}

#[sqlx::test(migrations = "../migrations")]
async fn tokens_are_in_no_log_and_no_error(db: PgPool) {
    let logs = Logs::start();
    let world = World::new(db).await;
    let endpoint = world.endpoint().await;
    endpoint.set_reply(json!({ "type": 99 }));
    world.post(world.ping()).await.expect(204);
    world.settled().await;
    let interaction = endpoint.received().pop().unwrap();
    let token = text(&interaction["token"]);
    let mut errors = Vec::new();
    for body in [json!({ "type": 4 }), json!({}), json!([])] {
        errors.push(world.answer(&interaction, body).await.body);
    }
    for method in [Method::POST, Method::GET, Method::PATCH, Method::DELETE] {
        let path = if method == Method::POST { "" } else { ORIGINAL };
        let reply = world.hook(method, &interaction, path, json!({})).await;
        errors.push(reply.body);
    }
    let wrong = format!("/webhooks/x/{token}/messages/@original");
    errors.push(world.app.post_anonymously(&wrong, json!({})).await.body);
    assert!(!Value::from(errors).to_string().contains(token));
    let logged = logs.text();
    assert!(logged.contains("/interactions"), "nothing was logged");
    assert!(!logged.contains(token), "{logged}");
    assert!(!logged.contains(&world.alice.authorization));
}
