//! Applications, their bots and tokens; the gateway's address.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    endpoint::Endpoint,
    harness::{GATEWAY_URL, TestApp, TestUser, assert_fault},
    sessions::change_meanwhile,
};

fn bot_of(application: &Value, token: &Value) -> TestUser {
    TestUser {
        id: application["id"].as_str().unwrap().parse().unwrap(),
        authorization: format!("Bot {}", token["token"].as_str().unwrap()),
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_application_comes_with_a_bot_that_can_log_in(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let body = json!({ "name": " Ping Bot ", "description": "answers" });
    let application = app.post(&alice, "/applications", body).await.expect(201);
    conforms("get_application", 200, &application);
    assert_eq!(application["name"], "Ping Bot");
    assert_eq!(application["bot"]["id"], application["id"]);
    assert_eq!(application["bot"]["bot"], true);
    assert_eq!(application["owner"]["id"], json!(alice.id));
    assert_eq!(application["verify_key"].as_str().unwrap().len(), 64);

    let path = format!("/applications/{}", application["id"].as_str().unwrap());
    let token = app
        .post(&alice, &format!("{path}/bot"), json!({}))
        .await
        .expect(200);
    app.post(&alice, &format!("{path}/bot"), json!({}))
        .await
        .expect(400);
    let bot = bot_of(&application, &token);
    let me = app.get(&bot, "/users/@me").await.expect(200);
    conforms("get_my_user", 200, &me);
    assert_eq!(
        (&me["username"], &me["bot"]),
        (&json!("Ping Bot"), &json!(true))
    );
    for path in ["/applications/@me", "/oauth2/applications/@me", &path] {
        let own = app.get(&bot, path).await.expect(200);
        conforms("get_my_application", 200, &own);
        assert_eq!(own["id"], application["id"]);
    }
    let all = app.get(&alice, "/applications").await.expect(200);
    assert_eq!(all.as_array().unwrap().len(), 1);
    assert_eq!(all[0]["verification_state"], 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_reset_token_dies_at_once(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    app.get(&bot, "/users/@me").await.expect(200);
    let path = format!("/applications/{}/bot/reset", bot.id);
    let token = app.post(&alice, &path, json!({})).await.expect(200);
    app.get(&bot, "/users/@me").await.expect_error(401, 0);
    let renewed = TestUser {
        authorization: format!("Bot {}", token["token"].as_str().unwrap()),
        ..bot.clone()
    };
    app.get(&renewed, "/users/@me").await.expect(200);
    let events = app.events(bot.id).await;
    assert_eq!(events[0].0, "tokens revoked");
    assert_eq!(events[0].1["tokens"].as_array().unwrap().len(), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn applications_belong_to_their_owner(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, mallory) = (app.user("alice").await, app.user("mallory").await);
    let bot = app.bot(&alice, "Ping").await;
    let path = format!("/applications/{}", bot.id);
    app.get(&mallory, &path).await.expect_error(403, 20012);
    app.patch(&mallory, &path, json!({ "name": "mine" }))
        .await
        .expect_error(403, 20012);
    for action in ["bot", "bot/reset"] {
        let path = format!("{path}/{action}");
        app.post(&mallory, &path, json!({}))
            .await
            .expect_error(403, 20012);
        app.post(&bot, &path, json!({}))
            .await
            .expect_error(403, 20012);
    }
    app.get(&alice, "/applications/1180000000000000002")
        .await
        .expect_error(404, 10002);
    app.get(&alice, "/applications/ping")
        .await
        .expect_fault("application_id", "NUMBER_TYPE_COERCE");
    app.get(&alice, "/applications/@me")
        .await
        .expect_error(403, 20002);
    app.post(&bot, "/applications", json!({ "name": "mine" }))
        .await
        .expect_error(403, 20001);
    app.get(&bot, "/applications")
        .await
        .expect_error(403, 20001);
}

#[sqlx::test(migrations = "../migrations")]
async fn applications_are_changed_by_owner_and_bot(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let path = format!("/applications/{}", bot.id);
    let change = json!({ "description": "new", "bot_public": false, "flags": 1 << 15 | 1 << 1, "redirect_uris": ["http://a.b/c"] });
    let changed = app.patch(&alice, &path, change).await.expect(200);
    conforms("update_application", 200, &changed);
    assert_eq!(changed["description"], "new");
    assert_eq!(changed["flags"], 1 << 15);
    assert_eq!(changed["redirect_uris"], json!(["http://a.b/c"]));
    app.patch(&bot, &path, json!({ "description": null }))
        .await
        .expect(200);
    let bad = json!({ "name": "x", "redirect_uris": ["http://a.b/c", "nowhere"] });
    let body = app.patch(&alice, &path, bad).await.expect_error(400, 50035);
    assert_fault(&body, "name", "BASE_TYPE_BAD_LENGTH");
    assert_fault(&body, "redirect_uris.1", "URL_TYPE_INVALID_URL");
    let nameless = app.post(&alice, "/applications", json!({})).await;
    nameless.expect_fault("name", "BASE_TYPE_REQUIRED");
}

#[sqlx::test(migrations = "../migrations")]
async fn bots_of_one_name_get_digits(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let mut names = Vec::new();
    for _ in 0..2 {
        let body = json!({ "name": "Ping" });
        let application = app.post(&alice, "/applications", body).await.expect(201);
        assert_eq!(application["name"], "Ping");
        names.push(application["bot"]["username"].as_str().unwrap().to_owned());
    }
    assert_eq!(names[0], "Ping");
    assert!(
        names[1].starts_with("Ping ") && names[1].len() == 9,
        "{names:?}"
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn the_gateway_is_told_with_and_without_a_token(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let anonymous = app.request(reqwest::Method::GET, "/gateway");
    let body = app.send(anonymous).await.expect(200);
    conforms("get_gateway", 200, &body);
    assert_eq!(body["url"], GATEWAY_URL);
    app.get(&bot, "/gateway").await.expect(200);
    let body = app.get(&bot, "/gateway/bot").await.expect(200);
    conforms("get_bot_gateway", 200, &body);
    assert_eq!(body["shards"], 1);
    assert_eq!(body["session_start_limit"]["max_concurrency"], 16);
    let anonymous = app.request(reqwest::Method::GET, "/gateway/bot");
    app.send(anonymous).await.expect_error(401, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn settings_are_kept_and_shown(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let body = json!({
        "description": { "default": "short" },
        "tags": ["fun", "ping"],
        "install_params": { "scopes": ["bot"], "permissions": "3072" },
        "integration_types_config": { "0": { "oauth2_install_params": { "scopes": ["bot"], "permissions": 8 } }, "1": null },
        "custom_install_url": "https://example.org/install",
        "role_connections_verification_url": "https://example.org/roles",
        "event_webhooks_status": 1,
        "event_webhooks_types": ["APPLICATION_AUTHORIZED"],
        "flags": 1 << 19 | 1 << 18 | 1 << 4,
        "bot_public": false,
        "name": "not by the bot",
    });
    let changed = app.patch(&bot, "/applications/@me", body).await.expect(200);
    conforms("update_my_application", 200, &changed);
    let read = app.get(&bot, "/applications/@me").await.expect(200);
    assert_eq!(read, changed);
    assert_eq!(read["description"], "short");
    assert_eq!(read["tags"], json!(["fun", "ping"]));
    assert_eq!(read["install_params"]["permissions"], "3072");
    assert_eq!(read["flags"], 1 << 19);
    assert_eq!(
        (&read["bot_public"], &read["name"]),
        (&json!(true), &json!("Ping"))
    );

    let public = format!("/applications/{}/public", bot.id);
    let bob = app.user("bob").await;
    let public = app.get(&bob, &public).await.expect(200);
    conforms(
        "get_my_oauth2_authorization",
        200,
        &json!({ "application": public, "expires": "2030-01-01T00:00:00+00:00", "scopes": [] }),
    );
    assert!(public.get("redirect_uris").is_none() && public.get("owner").is_none());

    let bad = json!({
        "tags": ["a", "a"], "install_params": { "scopes": ["identify"] },
        "custom_install_url": "javascript://x", "event_webhooks_types": ["PING"],
        "description": "x".repeat(401), "interactions_endpoint_url": 5,
    });
    let body = app
        .patch(&bot, "/applications/@me", bad)
        .await
        .expect_error(400, 50035);
    assert_fault(&body, "tags.1", "SET_TYPE_ALREADY_CONTAINS_VALUE");
    assert_fault(&body, "install_params.scopes.0", "BASE_TYPE_CHOICES");
    assert_fault(&body, "custom_install_url", "URL_TYPE_INVALID_URL");
    assert_fault(&body, "event_webhooks_types.0", "ENUM_TYPE_COERCE");
    assert_fault(&body, "description", "BASE_TYPE_MAX_LENGTH");
    assert_fault(&body, "interactions_endpoint_url", "STRING_TYPE_CONVERT");
    app.patch(&alice, "/applications/@me", json!({}))
        .await
        .expect_error(403, 20002);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_endpoint_is_stored_once_it_answered_a_signed_ping(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let me = app.get(&bot, "/applications/@me").await.expect(200);
    let right = Endpoint::start(me["verify_key"].as_str().unwrap()).await;
    let wrong = Endpoint::start(&"00".repeat(32)).await;

    let path = "interactions_endpoint_url";
    for url in [wrong.url.as_str(), "http://127.0.0.1:1/"] {
        app.patch(&bot, "/applications/@me", json!({ path: url }))
            .await
            .expect_fault(path, "APPLICATION_INTERACTIONS_ENDPOINT_URL_INVALID");
    }
    app.patch(&bot, "/applications/@me", json!({ path: "gopher://x" }))
        .await
        .expect_fault(path, "URL_TYPE_INVALID_SCHEME");
    let stored = app.patch(&bot, "/applications/@me", json!({ path: right.url }));
    assert_eq!(stored.await.expect(200)[path], json!(right.url));
    assert_eq!(right.received().len(), 1);
    // The same again asks nobody.
    app.patch(&bot, "/applications/@me", json!({ path: right.url }))
        .await
        .expect(200);
    assert_eq!(right.received().len(), 1);
    let cleared = app.patch(&bot, "/applications/@me", json!({ path: null }));
    assert_eq!(cleared.await.expect(200)[path], json!(null));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bot_is_renamed_by_its_owner(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, mallory) = (app.user("alice").await, app.user("mallory").await);
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    app.join(&bot, guild).await;
    let path = format!("/applications/{}/bot", bot.id);
    let user = app
        .patch(&alice, &path, json!({ "username": "Pong" }))
        .await
        .expect(200);
    assert_eq!(user["username"], "Pong");
    let me = app.get(&bot, "/users/@me").await.expect(200);
    assert_eq!(me["username"], "Pong");
    assert_eq!(app.event_names(bot.id).await, ["USER_UPDATE"]);
    let events = app.events(guild.id).await;
    assert_eq!(events[0].0, "GUILD_MEMBER_UPDATE");
    assert_eq!(events[0].1["user"]["username"], "Pong");
    app.patch(&mallory, &path, json!({ "username": "Mine" }))
        .await
        .expect_error(403, 20012);
    app.patch(&alice, &path, json!({ "username": "x" }))
        .await
        .expect_fault("username", "BASE_TYPE_BAD_LENGTH");
    app.patch(&alice, &path, json!({ "username": "alice" }))
        .await
        .expect_fault("username", "USERNAME_ALREADY_TAKEN");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_deleted_application_leaves_its_guilds(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, mallory) = (app.user("alice").await, app.user("mallory").await);
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    app.join(&bot, guild).await;
    let path = format!("/applications/{}", bot.id);
    let delete = format!("{path}/delete");
    app.post(&mallory, &delete, json!({}))
        .await
        .expect_error(403, 20012);
    app.post(&alice, &delete, json!({})).await.expect(204);

    app.get(&alice, &path).await.expect_error(404, 10002);
    app.get(&bot, "/users/@me").await.expect_error(401, 0);
    app.post(&alice, &delete, json!({}))
        .await
        .expect_error(404, 10002);
    assert_eq!(
        app.get(&alice, "/applications").await.expect(200),
        json!([])
    );
    assert_eq!(
        app.event_names(bot.id).await,
        ["tokens revoked", "user left guild"]
    );
    assert_eq!(app.event_names(guild.id).await[0], "GUILD_MEMBER_REMOVE");
    let user = app
        .get(&alice, &format!("/users/{}", bot.id))
        .await
        .expect(200);
    assert_ne!(user["username"], "Ping");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_session_that_ends_meanwhile_gets_no_secret_and_deletes_no_application(db: PgPool) {
    let app = TestApp::new(db).await;
    for (name, what) in [
        ("alice", "bot"),
        ("bob", "bot/reset"),
        ("carol", "reset"),
        ("dave", "delete"),
    ] {
        let user = app.user(name).await;
        let bot = app.bot(&user, &format!("{name}'s")).await;
        let path = format!("/applications/{}/{what}", bot.id);
        let held = app.hold(user.id).await;
        let request = app.post(&user, &path, json!({}));
        let ended = change_meanwhile(&app, held, "delete from auth_token");
        let (reply, ()) = tokio::join!(request, ended);
        reply.expect_error(401, 0);
    }
    let changed: i64 = sqlx::query_scalar(
        "select (select count(*) from auth_token) + (select count(*) from application
           where secret_hash is not null or deleted_at is not null)",
    )
    .fetch_one(&app.db)
    .await
    .unwrap();
    assert_eq!(changed, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_deleted_meanwhile_makes_no_application(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let mut held = app.db.begin().await.unwrap();
    sqlx::query("select from account where username = 'alice' for update")
        .execute(&mut *held)
        .await
        .unwrap();
    let made = app.post(&alice, "/applications", json!({ "name": "Ping" }));
    let deleted = "update account set state = 3 where username = 'alice'";
    let (reply, ()) = tokio::join!(made, change_meanwhile(&app, held, deleted));
    reply.expect_error(404, 10013);
}
