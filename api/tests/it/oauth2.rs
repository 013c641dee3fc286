//! Adding bots to guilds.

use guildhall_shared::Permissions;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    conformance::conforms,
    farewell::operator_token,
    harness::{Reply, TestApp, TestUser, two_connections},
    sessions::{PASSWORD, change_meanwhile, log_in, register},
};

#[sqlx::test(migrations = "../migrations")]
async fn a_bot_is_added_with_a_role_of_its_own(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    let path = format!("/oauth2/authorize?client_id={}&scope=bot", bot.id);
    let preview = app.get(&alice, &path).await.expect(200);
    assert_eq!(preview["application"]["id"], json!(bot.id));
    assert_eq!(preview["guilds"][0]["id"], json!(guild.id));

    let body = json!({ "authorize": true, "guild_id": guild.id, "permissions": "3072" });
    let reply = app.post(&alice, &path, body.clone()).await.expect(200);
    assert!(reply["location"].is_string());

    let events = app.events(guild.id).await;
    let names: Vec<&str> = events.iter().map(|event| event.0).collect();
    assert_eq!(
        names,
        [
            "GUILD_ROLE_CREATE",
            "GUILD_MEMBER_ADD",
            "INTEGRATION_CREATE",
            "GUILD_INTEGRATIONS_UPDATE",
            "MESSAGE_CREATE"
        ]
    );
    let audit = app.audit(guild.id).await;
    let actions: Vec<&Value> = audit.iter().map(|entry| &entry["action_type"]).collect();
    assert_eq!(actions, [28, 80]);
    let role = &events[0].1["role"];
    assert_eq!(
        (&role["name"], &role["managed"]),
        (&json!("Ping"), &json!(true))
    );
    assert_eq!(
        (&role["permissions"], &role["tags"]["bot_id"]),
        (&json!("3072"), &json!(bot.id))
    );
    assert_eq!(events[1].1["roles"], json!([role["id"]]));
    assert_eq!(events[1].1["user"]["id"], json!(bot.id));
    assert_eq!(events[4].1["type"], 7);
    assert_eq!(events[4].1["channel_id"], json!(guild.general));
    assert_eq!(
        app.events(bot.id).await,
        [("user joined guild", json!({ "guild_id": guild.id }))]
    );
    let guilds = app.get(&bot, "/users/@me/guilds").await.expect(200);
    assert_eq!(guilds[0]["id"], json!(guild.id));

    // Once more changes nothing.
    app.post(&alice, &path, body).await.expect(200);
    assert_eq!(app.events(guild.id).await.len(), 5);

    // The role goes when the bot does.
    app.delete(&bot, &format!("/users/@me/guilds/{}", guild.id))
        .await
        .expect(204);
    let names = app.event_names(guild.id).await;
    assert_eq!(
        names[5..],
        [
            "GUILD_MEMBER_REMOVE",
            "GUILD_ROLE_DELETE",
            "INTEGRATION_DELETE",
            "GUILD_INTEGRATIONS_UPDATE"
        ]
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn commands_come_into_a_guild_without_their_bot(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let bot = app.bot(&bob, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    app.join(&bob, guild).await;
    let at = |scope: &str| format!("/oauth2/authorize?client_id={}&scope={scope}", bot.id);
    let path = at("applications.commands");
    let body = json!({ "authorize": true, "guild_id": guild.id, "permissions": "0" });
    app.post(&alice, &path, json!({ "authorize": true }))
        .await
        .expect_fault("guild_id", "BASE_TYPE_REQUIRED");
    let member = app.post(&bob, &path, body.clone()).await;
    member.expect_error(403, 50013);
    let commands = format!("/applications/{}/guilds/{}/commands", bot.id, guild.id);
    let command = json!({ "name": "here", "description": "x" });
    let reply = app.post(&bot, &commands, command.clone()).await;
    reply.expect_error(403, 50001);

    // Once more changes nothing.
    for _ in 0..2 {
        app.post(&alice, &path, body.clone()).await.expect(200);
    }
    let integrations = format!("/guilds/{}/integrations", guild.id);
    let list = app.get(&alice, &integrations).await.expect(200);
    conforms("list_guild_integrations", 200, &list);
    assert_eq!(list[0]["id"], json!(bot.id));
    assert_eq!(list[0]["scopes"], json!(["applications.commands"]));
    assert_eq!(list[0]["user"]["id"], json!(alice.id));
    let guilds = app.get(&bot, "/users/@me/guilds").await.expect(200);
    assert_eq!(guilds, json!([]));
    app.post(&bot, &commands, command).await.expect(201);
    let index = format!("/guilds/{}/application-command-index", guild.id);
    let found = app.get(&bob, &index).await.expect(200);
    assert_eq!(found["application_commands"][0]["name"], "here");

    // Its bot comes after them, and both go.
    app.post(&alice, &at("bot"), body.clone()).await.expect(200);
    let list = app.get(&alice, &integrations).await.expect(200);
    assert_eq!(list[0]["scopes"], json!(["applications.commands", "bot"]));
    let gone = format!("{integrations}/{}", bot.id);
    app.delete(&alice, &gone).await.expect(204);
    let found = app.get(&bob, &index).await.expect(200);
    assert_eq!(found["application_commands"], json!([]));
    // Alone again: they go with the application.
    app.post(&alice, &path, body).await.expect(200);
    let deleted = format!("/applications/{}/delete", bot.id);
    app.post(&bob, &deleted, json!({})).await.expect(204);
    assert_eq!(
        app.event_names(guild.id).await,
        [
            "INTEGRATION_CREATE",
            "GUILD_INTEGRATIONS_UPDATE",
            "GUILD_APPLICATION_COMMAND_INDEX_UPDATE",
            "GUILD_MEMBER_ADD",
            "INTEGRATION_UPDATE",
            "GUILD_INTEGRATIONS_UPDATE",
            "MESSAGE_CREATE",
            "GUILD_MEMBER_REMOVE",
            "INTEGRATION_DELETE",
            "GUILD_INTEGRATIONS_UPDATE",
            "INTEGRATION_CREATE",
            "GUILD_INTEGRATIONS_UPDATE",
            "INTEGRATION_DELETE",
            "GUILD_INTEGRATIONS_UPDATE"
        ]
    );
    let audit = app.audit(guild.id).await;
    let actions: Vec<&Value> = audit.iter().map(|entry| &entry["action_type"]).collect();
    assert_eq!(actions, [80, 28, 81, 82, 80]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bot_is_added_while_its_application_changes(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let home = app.guild(&alice, "home").await;
    app.join(&bot, home).await;
    let path = format!("/applications/{}", bot.id);
    // Whoever adds a bot holds the heads of guild and bot, then stores what refers to its application
    // if they allow it more than that.
    let held = app.hold(home.id).await;
    let commands = format!("{path}/guilds/{}/commands", home.id);
    let body = json!({ "name": "ping", "description": "answers" });
    let added = "insert into oauth2_grant (grant_id, user_id, application_id, scopes)
                 select 1, owner_id, application_id, '{identify}' from application";
    let change = app.post(&bot, &commands, body);
    let (reply, ()) = tokio::join!(change, change_meanwhile(&app, held, added));
    reply.expect(201);

    let held = app.hold(bot.id).await;
    let reset = format!("{path}/bot/reset");
    let added = "insert into oauth2_code
                   (code_hash, application_id, user_id, scopes, redirect_uri, expires_at)
                 select sha256('code'), application_id, owner_id, '{identify}', '', now()
                 from application";
    let change = app.post(&alice, &reset, json!({}));
    let (reply, ()) = tokio::join!(change, change_meanwhile(&app, held, added));
    reply.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bot_that_is_deleted_meanwhile_is_not_added(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    let path = format!("/oauth2/authorize?client_id={}&scope=bot", bot.id);
    let held = app.hold(bot.id).await;
    let add = app.post(&alice, &path, json!({ "guild_id": guild.id }));
    let deleted = "update application set deleted_at = now()";
    let (reply, ()) = tokio::join!(add, change_meanwhile(&app, held, deleted));
    reply.expect_error(404, 10002);
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_gives_a_bot_more_than_they_have(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let bot = app.bot(&bob, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    app.join(&bob, guild).await;
    let path = format!(
        "/oauth2/authorize?client_id={}&scope=bot&permissions=8",
        bot.id
    );
    let body = json!({ "authorize": true, "guild_id": guild.id });
    app.post(&bob, &path, body.clone())
        .await
        .expect_error(403, 50013);
    app.grant(&bob, guild, Permissions::MANAGE_GUILD).await;
    app.post(&bob, &path, body).await.expect(200);
    let names = app.event_names(guild.id).await;
    assert!(!names.contains(&"GUILD_ROLE_CREATE"), "{names:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_cannot_be_authorized_is_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    let path = format!("/oauth2/authorize?client_id={}&scope=bot", bot.id);
    let body = json!({ "authorize": true, "guild_id": guild.id });

    app.post(&bob, &path, body.clone())
        .await
        .expect_error(403, 50001);
    app.post(&bot, &path, body.clone())
        .await
        .expect_error(403, 20001);
    app.post(&alice, &path, json!({}))
        .await
        .expect_fault("guild_id", "BASE_TYPE_REQUIRED");
    app.post(&alice, "/oauth2/authorize", body.clone())
        .await
        .expect_fault("client_id", "BASE_TYPE_REQUIRED");
    app.post(&alice, "/oauth2/authorize?client_id=7", body.clone())
        .await
        .expect_error(404, 10002);
    let other_scope = format!("/oauth2/authorize?client_id={}&scope=everything", bot.id);
    app.post(&alice, &other_scope, body.clone())
        .await
        .expect_fault("scope", "BASE_TYPE_CHOICES");

    let hidden = format!("/applications/{}", bot.id);
    app.patch(&alice, &hidden, json!({ "bot_public": false }))
        .await
        .expect(200);
    app.get(&bob, &path).await.expect_error(403, 20012);

    sqlx::query("insert into ban (guild_id, user_id) values ($1, $2)")
        .bind(guild.id.to_db())
        .bind(bot.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.post(&alice, &path, body).await.expect_error(403, 40007);
    assert!(app.events(guild.id).await.is_empty());
}

const REDIRECT: &str = "http://127.0.0.1:1/back";

/// A form-encoded call without a token; status and body.
async fn form(app: &TestApp, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
    let reply = post_form(app, path, fields).await;
    (reply.status.as_u16(), reply.body)
}

async fn post_form(app: &TestApp, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(fields);
    let request = app
        .request(Method::POST, path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body.finish());
    app.send(request).await
}

/// An application with a secret and a redirect.
async fn client(app: &TestApp, owner: &TestUser) -> (TestUser, String) {
    let bot = app.bot(owner, "Ping").await;
    let path = format!("/applications/{}", bot.id);
    app.patch(owner, &path, json!({ "redirect_uris": [REDIRECT] }))
        .await
        .expect(200);
    let reset = app.post(owner, &format!("{path}/reset"), json!({})).await;
    let secret = reset.expect(200)["secret"].as_str().unwrap().to_owned();
    (bot, secret)
}

/// What is asked for; `more` is appended to the query.
async fn authorize(
    app: &TestApp,
    user: &TestUser,
    bot: &TestUser,
    scope: &str,
    more: &str,
) -> String {
    let path = format!(
        "/oauth2/authorize?client_id={}&scope={scope}&response_type=code&redirect_uri={REDIRECT}{more}",
        bot.id
    );
    let body = json!({ "authorize": true });
    let reply = app.post(user, &path, body).await.expect(200);
    reply["location"].as_str().unwrap().to_owned()
}

fn code_of(location: &str) -> String {
    let (_, query) = location.split_once('?').unwrap();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let (_, code) = pairs.find(|(key, _)| key == "code").unwrap();
    code.into_owned()
}

/// Somebody who acts by an access token.
fn bearer(user: &TestUser, tokens: &Value) -> TestUser {
    TestUser {
        id: user.id,
        authorization: format!("Bearer {}", tokens["access_token"].as_str().unwrap()),
    }
}

async fn tokens(
    app: &TestApp,
    user: &TestUser,
    (bot, secret): &(TestUser, String),
    scope: &str,
) -> Value {
    let code = code_of(&authorize(app, user, bot, scope, "").await);
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", REDIRECT),
        ("client_id", &bot.id.to_string()),
        ("client_secret", secret),
    ];
    let (status, body) = form(app, "/oauth2/token", &fields).await;
    assert_eq!(status, 200, "{body:#}");
    body
}

#[sqlx::test(migrations = "../migrations")]
async fn an_access_token_opens_what_its_scopes_name(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let client = client(&app, &alice).await;
    sqlx::query("update account set email = 'bob@example.org' where username = 'bob'")
        .execute(&app.db)
        .await
        .unwrap();
    let location = authorize(&app, &bob, &client.0, "identify", "&state=a%20b").await;
    assert!(
        location.starts_with(REDIRECT) && location.contains("state=a+b"),
        "{location}"
    );

    let body = tokens(&app, &bob, &client, "identify").await;
    assert_eq!(
        (&body["token_type"], &body["scope"]),
        (&json!("Bearer"), &json!("identify"))
    );
    let token = bearer(&bob, &body);
    let me = app.get(&token, "/users/@me").await.expect(200);
    assert_eq!((&me["id"], &me["email"]), (&json!(bob.id), &json!(null)));
    let own = app.get(&token, "/oauth2/@me").await.expect(200);
    conforms("get_my_oauth2_authorization", 200, &own);
    assert_eq!(own["user"]["id"], json!(bob.id));
    app.get(&token, "/users/@me/guilds")
        .await
        .expect_error(400, 50026);
    app.patch(&token, "/users/@me", json!({ "bio": "x" }))
        .await
        .expect_error(401, 0);
    app.get(&token, "/gateway/bot").await.expect_error(401, 0);
    app.get(&bob, "/oauth2/@me").await.expect_error(401, 0);

    let body = tokens(&app, &bob, &client, "identify+email+guilds").await;
    let token = bearer(&bob, &body);
    let me = app.get(&token, "/users/@me").await.expect(200);
    assert_eq!(me["email"], "bob@example.org");
    app.get(&token, "/users/@me/guilds").await.expect(200);

    let grants = app.get(&bob, "/oauth2/tokens").await.expect(200);
    assert_eq!(grants.as_array().unwrap().len(), 1);
    assert_eq!(grants[0]["application"]["id"], json!(client.0.id));
    assert_eq!(grants[0]["scopes"].as_array().unwrap().len(), 3);
    let path = format!("/oauth2/tokens/{}", grants[0]["id"].as_str().unwrap());
    app.delete(&alice, &path).await.expect_error(404, 10002);
    app.delete(&bob, &path).await.expect(204);
    app.get(&token, "/users/@me").await.expect_error(401, 0);
    assert_eq!(app.get(&bob, "/oauth2/tokens").await.expect(200), json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn codes_work_once_and_for_their_client(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let (bot, secret) = client(&app, &alice).await;
    let id = bot.id.to_string();
    let exchange = async |code: &str, redirect: &str, secret: &str, verifier: &str| {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("client_id", &id),
            ("client_secret", secret),
            ("code_verifier", verifier),
        ];
        form(&app, "/oauth2/token", &fields).await
    };
    let code = code_of(&authorize(&app, &bob, &bot, "identify", "").await);
    let (status, body) = exchange(&code, REDIRECT, "wrong", "").await;
    assert_eq!((status, &body["error"]), (401, &json!("invalid_client")));
    assert_eq!(exchange(&code, REDIRECT, &secret, "").await.0, 200);
    let (status, body) = exchange(&code, REDIRECT, &secret, "").await;
    assert_eq!((status, &body["error"]), (400, &json!("invalid_grant")));
    let code = code_of(&authorize(&app, &bob, &bot, "identify", "").await);
    assert_eq!(
        exchange(&code, "http://elsewhere/", &secret, "").await.0,
        400
    );
    // It was used up by that.
    assert_eq!(exchange(&code, REDIRECT, &secret, "").await.0, 400);

    // PKCE: the digest of "v" * 43.
    let verifier = "v".repeat(43);
    let code = code_of(&authorize(&app, &bob, &bot, "identify", "").await);
    let unasked = exchange(&code, REDIRECT, &secret, &verifier).await;
    assert_eq!(unasked.0, 400);
    let challenge = "&code_challenge=7w_YNF9DSfIdPf_pRjSq646_kPr-2-o9NAl16JGghdM";
    for (method, challenge) in [
        ("plain", format!("&code_challenge={verifier}")),
        ("S256", challenge.to_owned()),
    ] {
        let more = format!("{challenge}&code_challenge_method={method}");
        for (given, expected) in [("", 400), (&*verifier, 200)] {
            let code = code_of(&authorize(&app, &bob, &bot, "identify", &more).await);
            let (status, body) = exchange(&code, REDIRECT, &secret, given).await;
            assert_eq!(status, expected, "{method} {body:#}");
        }
    }

    let odd = format!(
        "/oauth2/authorize?client_id={id}&scope=identify&response_type=code\
         &redirect_uri={REDIRECT}&code_challenge_method=S256&code_challenge=%00{verifier}"
    );
    app.post(&bob, &odd, json!({}))
        .await
        .expect_fault("code_challenge", "STRING_TYPE_REGEX");

    let foreign = format!(
        "/oauth2/authorize?client_id={id}&scope=identify&response_type=code&redirect_uri=http://evil/"
    );
    app.post(&bob, &foreign, json!({}))
        .await
        .expect_fault("redirect_uri", "INVALID_REDIRECT_URI");
    let none = format!("/oauth2/authorize?client_id={id}&scope=identify");
    app.post(&bob, &none, json!({}))
        .await
        .expect_fault("redirect_uri", "BASE_TYPE_REQUIRED");
    let json_body = app.post(&bob, "/oauth2/token", json!({})).await;
    json_body.expect_fault("", "CONTENT_TYPE_INVALID");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_link_to_log_in_that_names_a_guild_of_others_logs_in(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let guild = app.guild(&alice, "home").await;
    let (bot, _) = client(&app, &alice).await;
    let more = format!("&guild_id={}", guild.id);
    let scope = "identify%20applications.commands";
    let location = authorize(&app, &bob, &bot, scope, &more).await;
    assert!(!code_of(&location).is_empty());
    let integrations = format!("/guilds/{}/integrations", guild.id);
    assert_eq!(app.get(&alice, &integrations).await.expect(200), json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_exchange_takes_one_connection(options: PgPoolOptions, connect: PgConnectOptions) {
    let app = TestApp::new(two_connections(options, connect).await).await;
    let alice = app.user("alice").await;
    let (bot, secret) = client(&app, &alice).await;
    let id = bot.id.to_string();
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", "wrong"),
        ("redirect_uri", REDIRECT),
        ("client_id", &id),
        ("client_secret", &secret),
    ];
    // The other one must do for both.
    let taken = app.db.acquire().await.unwrap();
    let exchange = || form(&app, "/oauth2/token", &fields);
    let (one, other) = tokio::join!(exchange(), exchange());
    for (status, body) in [one, other] {
        assert_eq!((status, &body["error"]), (400, &json!("invalid_grant")));
    }
    drop(taken);
    app.db.close().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn no_cache_keeps_an_exchange(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let (bot, secret) = client(&app, &alice).await;
    let id = bot.id.to_string();
    for (secret, has_token) in [(&*secret, true), ("wrong", false)] {
        let fields = [
            ("grant_type", "client_credentials"),
            ("scope", "identify"),
            ("client_id", &id),
            ("client_secret", secret),
        ];
        let reply = post_form(&app, "/oauth2/token", &fields).await;
        assert_eq!(reply.body["access_token"].is_string(), has_token);
        assert_eq!(reply.headers["cache-control"], "no-store");
        assert_eq!(reply.headers["pragma"], "no-cache");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn tokens_are_refreshed_and_revoked(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let client = client(&app, &alice).await;
    let first = tokens(&app, &bob, &client, "identify").await;
    let id = client.0.id.to_string();
    let secret = [("client_id", &*id), ("client_secret", &*client.1)];
    let refresh = first["refresh_token"].as_str().unwrap();
    let fields = [
        &[("grant_type", "refresh_token"), ("refresh_token", refresh)][..],
        &secret,
    ]
    .concat();
    let (status, second) = form(&app, "/oauth2/token", &fields).await;
    assert_eq!(status, 200, "{second:#}");
    // The old pair died with it.
    assert_eq!(form(&app, "/oauth2/token", &fields).await.0, 400);
    app.get(&bearer(&bob, &first), "/users/@me")
        .await
        .expect_error(401, 0);
    let token = bearer(&bob, &second);
    app.get(&token, "/users/@me").await.expect(200);

    let revoked = second["refresh_token"].as_str().unwrap();
    let fields = [&[("token", revoked)][..], &secret].concat();
    assert_eq!(form(&app, "/oauth2/token/revoke", &fields).await.0, 200);
    app.get(&token, "/users/@me").await.expect_error(401, 0);
    assert_eq!(form(&app, "/oauth2/token/revoke", &fields).await.0, 200);

    let fields = [
        &[
            ("grant_type", "client_credentials"),
            ("scope", "identify applications.commands.update"),
        ][..],
        &secret,
    ]
    .concat();
    let (status, own) = form(&app, "/oauth2/token", &fields).await;
    assert_eq!(status, 200, "{own:#}");
    assert!(own.get("refresh_token").is_none());
    let owner = bearer(&alice, &own);
    let me = app.get(&owner, "/users/@me").await.expect(200);
    assert_eq!(me["id"], json!(alice.id));
    let commands = format!("/applications/{id}/commands");
    app.get(&owner, &commands).await.expect(200);
    let stored: i64 = sqlx::query_scalar("select count(*) from oauth2_token where token_hash = $1")
        .bind(own["access_token"].as_str().unwrap().as_bytes())
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!(stored, 0, "tokens are stored hashed");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bot_brings_in_who_allowed_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let client = client(&app, &alice).await;
    let guild = app.guild(&alice, "home").await;
    let path = format!("/guilds/{}/members/{}", guild.id, bob.id);
    let without = tokens(&app, &bob, &client, "identify").await;
    let body = tokens(&app, &bob, &client, "guilds.join").await;
    let access =
        |tokens: &Value| json!({ "access_token": tokens["access_token"], "nick": "Bobby" });
    app.put(&client.0, &path, access(&body))
        .await
        .expect_error(403, 50001);
    app.join(&client.0, guild).await;
    app.put(&client.0, &path, access(&body))
        .await
        .expect_error(403, 50013);
    app.grant(&client.0, guild, Permissions::MANAGE_NICKNAMES)
        .await;
    app.put(&client.0, &path, access(&without))
        .await
        .expect_error(403, 50025);
    app.put(&alice, &path, access(&body))
        .await
        .expect_error(403, 20002);
    app.put(&client.0, &path, json!({}))
        .await
        .expect_fault("access_token", "BASE_TYPE_REQUIRED");
    let member = app.put(&client.0, &path, access(&body)).await.expect(201);
    conforms("add_guild_member", 201, &member);
    assert_eq!(member["nick"], "Bobby");
    let events = app.events(guild.id).await;
    assert_eq!(events[0].0, "GUILD_MEMBER_ADD");
    assert_eq!(events[0].1["nick"], "Bobby");
    assert_eq!(app.event_names(bob.id).await, ["user joined guild"]);
    app.put(&client.0, &path, access(&body)).await.expect(204);
}

/// The error of an exchange that gives no tokens.
async fn refusal(
    app: &TestApp,
    (bot, secret): &(TestUser, String),
    fields: &[(&str, &str)],
) -> Value {
    let id = bot.id.to_string();
    let client = [("client_id", &*id), ("client_secret", &**secret)];
    let (status, body) = form(app, "/oauth2/token", &[fields, &client].concat()).await;
    assert_eq!(status, 400, "{body:#}");
    body["error"].clone()
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_gone_locked_or_asleep_is_let_in_by_no_application(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = register(&app, "alice").await;
    let client = client(&app, &alice).await;
    let guild = app.guild(&app.user("owner").await, "home").await;
    app.join(&client.0, guild).await;
    let confirm = json!({ "password": PASSWORD });
    let lock = async |user: &TestUser| {
        let url = format!("{}/internal/accounts/{}/lock", app.origin, user.id);
        let request = app.client.put(url).bearer_auth(operator_token());
        app.send(request).await.expect(204);
    };
    for name in ["locked", "deleted", "disabled"] {
        let user = register(&app, name).await;
        let body = tokens(&app, &user, &client, "identify+guilds.join").await;
        let code = code_of(&authorize(&app, &user, &client.0, "identify", "").await);
        let token = bearer(&user, &body);
        app.get(&token, "/users/@me").await.expect(200);
        match name {
            "locked" => lock(&user).await,
            "deleted" => {
                let gone = app.post(&user, "/users/@me/delete", confirm.clone()).await;
                gone.expect(204);
            }
            _ => {
                let asleep = app.post(&user, "/users/@me/disable", confirm.clone()).await;
                asleep.expect(204);
            }
        }
        app.get(&token, "/users/@me").await.expect_error(401, 0);
        let path = format!("/guilds/{}/members/{}", guild.id, user.id);
        let access = json!({ "access_token": body["access_token"] });
        app.put(&client.0, &path, access)
            .await
            .expect_error(403, 50025);
        let refresh = body["refresh_token"].as_str().unwrap();
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
        assert_eq!(refusal(&app, &client, &fields).await, "invalid_grant");
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", REDIRECT),
        ];
        assert_eq!(refusal(&app, &client, &fields).await, "invalid_grant");
        let left: i64 = sqlx::query_scalar(
            "select (select count(*) from oauth2_token where user_id = $1)
                  + (select count(*) from oauth2_code where user_id = $1)
                  + (select count(*) from oauth2_grant where user_id = $1)",
        )
        .bind(user.id.to_db())
        .fetch_one(&app.db)
        .await
        .unwrap();
        if name == "disabled" {
            // It wakes with what it had allowed.
            log_in(&app, name).await;
            app.get(&token, "/users/@me").await.expect(200);
        } else {
            assert_eq!(left, 0, "{name}");
        }
    }
    lock(&alice).await;
    let fields = [("grant_type", "client_credentials"), ("scope", "identify")];
    assert_eq!(refusal(&app, &client, &fields).await, "invalid_grant");
}
