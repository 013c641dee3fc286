//! Operator endpoints (but the lock of accounts: `farewell`), health and version.

use std::time::Duration;

use guildhall_api::{
    auth::{Audience, sign_token},
    config::{Config, Registration, Secret},
};
use guildhall_shared::{Id, id::marker};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    harness::{CLUSTER_KEY, Reply, TestApp, TestUser, hall},
    logs::Logs,
    mfa::give_factor,
    sessions::{PASSWORD, log_in, register, user_of},
};

fn token(key: &str, lifetime: Duration) -> String {
    let key = Secret::from(key.to_owned());
    sign_token(&key, Audience::Operator, "ann", lifetime).unwrap()
}

/// A call of Ann's, who operates, to a path below `/internal`.
async fn operate(app: &TestApp, method: Method, path: &str) -> Reply {
    let url = format!("{}/internal/{path}", app.origin);
    let token = token(CLUSTER_KEY, Duration::from_secs(60));
    app.send(app.client.request(method, url).bearer_auth(token))
        .await
}

/// What the history says, oldest first. Panics unless all of it is Ann's, and no map's.
async fn deeds(app: &TestApp) -> Vec<(String, Value)> {
    let others: i64 = sqlx::query_scalar(
        "select count(*) from cluster_audit where who <> 'ann' or term <> 0 or version <> 0",
    )
    .fetch_one(&app.db)
    .await
    .unwrap();
    assert_eq!(others, 0);
    sqlx::query_as("select action, detail from cluster_audit order by audit_id")
        .fetch_all(&app.db)
        .await
        .unwrap()
}

fn deed(action: &str, detail: Value) -> (String, Value) {
    (action.to_owned(), detail)
}

/// What the history says of a call that was refused, to a path below `/internal`.
fn refused(status: u16, code: u32, method: &str, path: &str) -> (String, Value) {
    let path = format!("/internal/{path}");
    let detail = json!({ "status": status, "code": code, "method": method, "path": path });
    deed("refused", detail)
}

fn registration(app: &TestApp, method: Method, token: &str) -> RequestBuilder {
    let url = format!("{}/internal/registration", app.origin);
    app.client.request(method, url).bearer_auth(token)
}

#[sqlx::test(migrations = "../migrations")]
async fn operators_close_and_open_registration(db: PgPool) {
    let app = TestApp::new(db).await;
    let token = token(CLUSTER_KEY, Duration::from_secs(60));
    let alice = json!({ "username": "alice", "password": "correct horse" });
    let close = registration(&app, Method::PUT, &token).json(&json!({ "open": false }));
    assert_eq!(app.send(close).await.expect(200), json!({ "open": false }));
    let refused = app.post_anonymously("/auth/register", alice.clone()).await;
    refused.expect_fault("", "REGISTRATION_CLOSED");
    let open = registration(&app, Method::PUT, &token).json(&json!({ "open": true }));
    app.send(open).await.expect(200);
    app.post_anonymously("/auth/register", alice)
        .await
        .expect(201);
    let shown = registration(&app, Method::GET, &token);
    assert_eq!(app.send(shown).await.expect(200), json!({ "open": true }));
    let empty = registration(&app, Method::PUT, &token).json(&json!({}));
    app.send(empty)
        .await
        .expect_fault("open", "BASE_TYPE_REQUIRED");
}

#[sqlx::test(migrations = "../migrations")]
async fn locks_and_registration_are_in_the_history(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let token = token(CLUSTER_KEY, Duration::from_secs(60));
    for open in [false, true] {
        let body = json!({ "open": open });
        let set = registration(&app, Method::PUT, &token).json(&body);
        app.send(set).await.expect(200);
    }
    let lock = format!("accounts/{}/lock", alice.id);
    operate(&app, Method::PUT, &lock).await.expect(204);
    operate(&app, Method::DELETE, &lock).await.expect(204);
    // What is refused is not done, and written down all the same.
    operate(&app, Method::DELETE, &lock)
        .await
        .expect_error(404, 10013);
    operate(&app, Method::PUT, "accounts/1/lock")
        .await
        .expect_error(404, 10013);
    operate(&app, Method::PATCH, "accounts/1/lock")
        .await
        .expect_error(405, 0);
    let empty = registration(&app, Method::PUT, &token).json(&json!({}));
    app.send(empty).await.expect(400);
    assert_eq!(
        deeds(&app).await,
        [
            deed("registration", json!({ "registration": "closed" })),
            deed("registration", json!({ "registration": "open" })),
            deed("account_lock", json!({ "user": alice.id })),
            deed("account_unlock", json!({ "user": alice.id })),
            refused(404, 10013, "DELETE", &lock),
            refused(404, 10013, "PUT", "accounts/1/lock"),
            refused(405, 0, "PATCH", "accounts/1/lock"),
            refused(400, 50035, "PUT", "registration"),
        ]
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn only_valid_operator_tokens_open_the_endpoint(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let other_key = token(
        "another key that is long enough too",
        Duration::from_secs(60),
    );
    let expired = token(CLUSTER_KEY, Duration::ZERO);
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiYXVkIjoiZ3VpbGRoYWxsLW9wZXJhdG9yIiwiZXhwIjo5OTk5OTk5OTk5fQ.";
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for bad in [
        "",
        "x",
        &alice.authorization,
        &other_key,
        &expired,
        unsigned,
    ] {
        let reply = app.send(registration(&app, Method::GET, bad)).await;
        reply.expect_error(401, 0);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_process_set_to_closed_stays_closed(db: PgPool) {
    let app = TestApp::with(db, |config| {
        config.policies.registration = Registration::Closed
    })
    .await;
    let body = json!({ "username": "alice", "password": "correct horse" });
    let refused = app.post_anonymously("/auth/register", body).await;
    refused.expect_fault("", "REGISTRATION_CLOSED");
}

#[sqlx::test(migrations = "../migrations")]
async fn health_readiness_version_and_metrics_answer(db: PgPool) {
    let app = TestApp::new(db).await;
    for path in ["/health", "/ready", "/version"] {
        let request = app.client.get(format!("{}{path}", app.origin));
        app.send(request).await.expect(200);
    }
    app.get(&app.user("alice").await, "/users/@me")
        .await
        .expect(200);
    let metrics = app.client.get(format!("{}/metrics", app.origin));
    let text = metrics.send().await.unwrap().text().await.unwrap();
    let line = r#"guildhall_api_requests_total{method="GET",route="/users/@me",status="200"} 1"#;
    assert!(text.contains(line), "{text}");
    let line = r#"guildhall_api_request_seconds_count{class="2xx",group="users"} 1"#;
    assert!(text.contains(line), "{text}");
}

/// Where operators have an address of their own.
async fn with_inside(db: PgPool, change: impl FnOnce(&mut Config)) -> TestApp {
    let app = TestApp::with(db, |config| {
        config.internal_listen = Some(([127, 0, 0, 1], 0).into());
        change(config);
    })
    .await;
    assert_ne!(app.inside, app.origin);
    app
}

/// Asks for a path, with an operator's token.
fn ask(app: &TestApp, method: Method, origin: &str, path: &str) -> RequestBuilder {
    let token = token(CLUSTER_KEY, Duration::from_secs(60));
    let request = app.client.request(method, format!("{origin}{path}"));
    request.bearer_auth(token)
}

#[sqlx::test(migrations = "../migrations")]
async fn operators_with_an_address_of_their_own_find_nothing_at_the_public_one(db: PgPool) {
    let app = with_inside(db, |_| {}).await;
    let alice = app.user("alice").await;
    let lock = format!("/internal/accounts/{}/lock", alice.id);
    for (method, path) in [
        (Method::GET, "/metrics"),
        (Method::GET, "/internal"),
        (Method::GET, "/internal/registration"),
        (Method::PUT, "/internal/registration"),
        (Method::PUT, lock.as_str()),
        (Method::GET, "/internal/guilds/1"),
    ] {
        let closed = ask(&app, method, &app.origin, path).json(&json!({ "open": false }));
        let body = app.send(closed).await.expect_error(404, 0);
        assert_eq!(body["message"], "404: Not Found", "{path}");
    }
    for path in [
        "/api/v10/gateway",
        "/api/v10/users/@me",
        "/openapi.json",
        "/",
    ] {
        let request = ask(&app, Method::GET, &app.inside, path);
        app.send(request).await.expect_error(404, 0);
    }
    for origin in [&app.origin, &app.inside] {
        for path in ["/health", "/ready", "/version"] {
            let request = app.client.get(format!("{origin}{path}"));
            app.send(request).await.expect(200);
        }
    }

    let shown = ask(&app, Method::GET, &app.inside, "/internal/registration");
    assert_eq!(app.send(shown).await.expect(200), json!({ "open": true }));
    let request = ask(&app, Method::POST, &app.inside, "/internal/registration");
    app.send(request).await.expect_error(405, 0);
    let anybody = app
        .client
        .get(format!("{}/internal/registration", app.inside));
    app.send(anybody).await.expect_error(401, 0);
    app.get(&alice, "/users/@me").await.expect(200);
    let request = ask(&app, Method::PUT, &app.inside, &lock);
    app.send(request).await.expect(204);
    app.get(&alice, "/users/@me").await.expect_error(401, 0);

    // What came to either listener is counted together.
    let metrics = app.client.get(format!("{}/metrics", app.inside));
    let text = metrics.send().await.unwrap().text().await.unwrap();
    for line in [
        r#"guildhall_api_requests_total{method="GET",route="/users/@me",status="200"} 1"#,
        r#"guildhall_api_requests_total{method="GET",route="/health",status="200"} 2"#,
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn operators_get_in_though_clients_have_every_place(db: PgPool) {
    let app = with_inside(db, |config| config.connections_max = 1).await;
    let address = app.origin.strip_prefix("http://").unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n";
    client.write_all(request).await.unwrap();
    // It is answered, so it has the only place, and keeps it.
    client.read_exact(&mut [0]).await.unwrap();
    let request = app.client.get(format!("{}/ready", app.inside));
    app.send(request).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn requests_at_both_addresses_are_finished_before_the_end(db: PgPool) {
    let mut app = with_inside(db, |_| {}).await;
    let alice = app.user("alice").await;
    // Whoever changes her, or sets this setting, waits for us.
    let mut held = app.hold(alice.id).await;
    sqlx::query("insert into cluster_setting (key, value) values ('registration', 'open')")
        .execute(&mut *held)
        .await
        .unwrap();
    let set = ask(&app, Method::PUT, &app.inside, "/internal/registration");
    let set = tokio::spawn(set.json(&json!({ "open": false })).send());
    let change = app.request_by(&alice, Method::PATCH, "/users/@me");
    let change = tokio::spawn(change.json(&json!({ "bio": "hello" })).send());
    app.until(
        "select count(*) >= 2 from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'",
    )
    .await;
    app.stop.cancel();
    // Nobody else is let in; who was there is waited for.
    let closed = async {
        for origin in [&app.origin, &app.inside] {
            let address = origin.strip_prefix("http://").unwrap();
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(20), closed).await;
    closed.expect("both addresses are given up at once");
    assert!(!app.served.is_finished());
    held.rollback().await.unwrap();
    for request in [set, change] {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    let ended = tokio::time::timeout(Duration::from_secs(60), &mut app.served).await;
    ended.expect("nothing is left to wait for").unwrap();
}

/// The ticket that an operator makes for somebody's new password.
async fn password_reset(app: &TestApp, user: &TestUser) -> String {
    let path = format!("accounts/{}/password-reset", user.id);
    let made = operate(app, Method::POST, &path).await.expect(200);
    assert_eq!(made["expires_in"], 3600);
    let token = made["token"].as_str().unwrap();
    assert_eq!(
        made["url"],
        format!("https://chat.example.org/reset#token={token}")
    );
    token.to_owned()
}

async fn with_front_page(db: PgPool) -> TestApp {
    let page = "https://chat.example.org".to_owned();
    TestApp::with(db, |config| config.policies.front_page_url = Some(page)).await
}

async fn say(app: &TestApp, user: &TestUser, channel: &str, content: &str) -> String {
    let path = format!("/channels/{channel}/messages");
    let said = app.post(user, &path, json!({ "content": content })).await;
    said.expect(200)["id"].as_str().unwrap().to_owned()
}

#[sqlx::test(migrations = "../migrations")]
async fn an_operator_hands_over_a_way_to_a_new_password(db: PgPool) {
    let app = with_front_page(db).await;
    let alice = register(&app, "alice").await;
    let void = password_reset(&app, &alice).await;
    let ticket = password_reset(&app, &alice).await;
    let reset = |token: &str| {
        let body = json!({ "token": token, "password": "battery staple" });
        app.post_anonymously("/auth/reset", body)
    };
    reset(&void).await.expect_fault("token", "TOKEN_INVALID");
    app.get(&alice, "/users/@me").await.expect(200);
    let renewed = user_of(&reset(&ticket).await.expect(200));
    // No mail has shown that the address is hers.
    let me = app.get(&renewed, "/users/@me").await.expect(200);
    assert_eq!(
        (&me["email"], &me["verified"]),
        (&json!("alice@example.org"), &json!(false))
    );
    app.get(&alice, "/users/@me").await.expect_error(401, 0);
    reset(&ticket).await.expect_fault("token", "TOKEN_INVALID");
    let names = app.event_names(alice.id).await;
    assert_eq!(names, ["USER_UPDATE", "tokens revoked"]);
    let login = |password: &str| {
        let body = json!({ "login": "alice", "password": password });
        app.post_anonymously("/auth/login", body)
    };
    login(PASSWORD).await.expect_fault("login", "INVALID_LOGIN");
    login("battery staple").await.expect(200);

    let body = json!({ "username": "bob", "password": PASSWORD });
    let bob = app.post_anonymously("/auth/register", body).await;
    let bob = user_of(&bob.expect(201));
    let ticket = password_reset(&app, &bob).await;
    let renewed = user_of(&reset(&ticket).await.expect(200));
    let me = app.get(&renewed, "/users/@me").await.expect(200);
    assert_eq!(
        (&me["email"], &me["verified"]),
        (&Value::Null, &json!(false))
    );

    sqlx::query("update account set verified = true where user_id = $1")
        .bind(alice.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    let ticket = password_reset(&app, &alice).await;
    let renewed = user_of(&reset(&ticket).await.expect(200));
    let me = app.get(&renewed, "/users/@me").await.expect(200);
    assert_eq!(me["verified"], true);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_has_no_password_to_choose_is_handed_nothing(db: PgPool) {
    let app = with_front_page(db).await;
    let alice = register(&app, "alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let ask = async |user: Id<marker::User>| {
        let path = format!("accounts/{user}/password-reset");
        operate(&app, Method::POST, &path).await
    };
    for unknown in [bot.id, Id::new(1).unwrap()] {
        ask(unknown).await.expect_error(404, 10013);
    }
    let ticket = password_reset(&app, &alice).await;
    let lock = format!("accounts/{}/lock", alice.id);
    operate(&app, Method::PUT, &lock).await.expect(204);
    ask(alice.id).await.expect_error(404, 10013);
    operate(&app, Method::DELETE, &lock).await.expect(204);
    let body = json!({ "token": ticket, "password": "battery staple" });
    app.post_anonymously("/auth/reset", body)
        .await
        .expect_fault("token", "TOKEN_INVALID");
    let alice = log_in(&app, "alice").await;
    app.post(&alice, "/users/@me/delete", json!({ "password": PASSWORD }))
        .await
        .expect(204);
    ask(alice.id).await.expect_error(404, 10013);
    let factor = format!("accounts/{}/second-factor", alice.id);
    operate(&app, Method::DELETE, &factor)
        .await
        .expect_error(404, 10013);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_operator_removes_a_second_factor(db: PgPool) {
    let app = with_front_page(db).await;
    let (alice, bob) = (register(&app, "alice").await, register(&app, "bob").await);
    for user in [&alice, &bob] {
        give_factor(&app, user).await;
    }
    let ticket = password_reset(&app, &alice).await;
    let remove = async |user: Id<marker::User>| {
        let path = format!("accounts/{user}/second-factor");
        operate(&app, Method::DELETE, &path).await
    };
    remove(Id::new(1).unwrap()).await.expect_error(404, 10013);
    remove(alice.id).await.expect(204);
    remove(alice.id).await.expect_error(400, 60002);
    app.get(&alice, "/users/@me").await.expect_error(401, 0);
    let events = app.events(alice.id).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["USER_UPDATE", "tokens revoked"]);
    assert_eq!(events[0].1["mfa_enabled"], false);
    let body = json!({ "token": ticket, "password": "battery staple" });
    app.post_anonymously("/auth/reset", body)
        .await
        .expect_fault("token", "TOKEN_INVALID");
    let again = log_in(&app, "alice").await;
    let me = app.get(&again, "/users/@me").await.expect(200);
    assert_eq!(me["mfa_enabled"], false);
    let me = app.get(&bob, "/users/@me").await.expect(200);
    assert_eq!(me["mfa_enabled"], true);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_operator_takes_a_message_down(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let take_down = async |channel: &str, message: &str| {
        let path = format!("channels/{channel}/messages/{message}");
        operate(&app, Method::DELETE, &path).await
    };
    let general = hall.general.to_string();
    let said = say(&app, &bob, &general, "hush").await;
    let kept = say(&app, &bob, &general, "hello").await;
    take_down("1", &said).await.expect_error(404, 10003);
    take_down(&general, "1").await.expect_error(404, 10008);
    take_down(&general, &said).await.expect(204);
    take_down(&general, &said).await.expect_error(404, 10008);
    let list = format!("/channels/{general}/messages");
    let left = app.get(&alice, &list).await.expect(200);
    assert_eq!(
        (left.as_array().unwrap().len(), &left[0]["id"]),
        (1, &json!(kept))
    );
    let events = app.events(hall.id).await;
    let deleted = json!({ "id": said, "channel_id": general, "guild_id": hall.id });
    assert_eq!(events.last().unwrap(), &("MESSAGE_DELETE", deleted));
    assert_eq!(events.len(), 3);
    assert!(app.audit(hall.id).await.is_empty());

    sqlx::query("update message set kind = 21 where message_id = $1")
        .bind(kept.parse::<i64>().unwrap())
        .execute(&app.db)
        .await
        .unwrap();
    take_down(&general, &kept).await.expect_error(403, 50021);
    assert_eq!(app.events(hall.id).await.len(), 3);

    let dm = json!({ "recipient_id": bob.id });
    let dm = app
        .post(&alice, "/users/@me/channels", dm)
        .await
        .expect(200);
    let dm = dm["id"].as_str().unwrap();
    let said = say(&app, &alice, dm, "hush").await;
    take_down(dm, &said).await.expect(204);
    let deleted = json!({ "id": said, "channel_id": dm });
    for user in [&alice, &bob] {
        let events = app.events(user.id).await;
        assert_eq!(events.last().unwrap(), &("MESSAGE_DELETE", deleted.clone()));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_operator_reads_whose_a_guild_is_and_takes_it_down(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let yard = app.guild(&bob, "Yard").await;
    let path = format!("guilds/{}", hall.id);
    let guild = json!({
        "id": hall.id, "name": "Hall", "owner_id": alice.id, "owner_username": "alice",
        "member_count": 2,
    });
    assert_eq!(operate(&app, Method::GET, &path).await.expect(200), guild);
    operate(&app, Method::DELETE, &path).await.expect(204);
    for method in [Method::GET, Method::DELETE] {
        let gone = operate(&app, method, &path).await;
        gone.expect_error(404, 10004);
    }
    app.get(&alice, &format!("/guilds/{}", hall.id))
        .await
        .expect_error(404, 10004);
    app.get(&alice, &format!("/channels/{}", hall.general))
        .await
        .expect_error(404, 10003);
    let told = [("GUILD_DELETE", json!({ "id": hall.id }))];
    assert_eq!(app.events(hall.id).await, told);
    app.get(&bob, &format!("/guilds/{}", yard.id))
        .await
        .expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_but_operators_does_what_operators_do(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    give_factor(&app, &bob).await;
    let said = say(&app, &bob, &hall.general.to_string(), "hello").await;
    let other_key = "another key that is long enough too";
    let other_key = token(other_key, Duration::from_secs(60));
    let account = format!("accounts/{}", bob.id);
    let guild = format!("guilds/{}", hall.id);
    for (method, path) in [
        (Method::POST, format!("{account}/password-reset")),
        (Method::DELETE, format!("{account}/second-factor")),
        (
            Method::DELETE,
            format!("channels/{}/messages/{said}", hall.general),
        ),
        (Method::GET, guild.clone()),
        (Method::DELETE, guild),
    ] {
        let url = format!("{}/internal/{path}", app.origin);
        let call = || app.client.request(method.clone(), &url);
        for refused in [
            call(),
            call().header("authorization", &alice.authorization),
            call().bearer_auth(&alice.authorization),
            call().bearer_auth(&other_key),
        ] {
            app.send(refused).await.expect_error(401, 0);
        }
    }
    assert_eq!(app.event_names(hall.id).await, ["MESSAGE_CREATE"]);
    assert!(app.event_names(bob.id).await.is_empty());
    let left: i64 = sqlx::query_scalar(
        "select (select count(*) from account_ticket) + (select count(*) from cluster_audit)",
    )
    .fetch_one(&app.db)
    .await
    .unwrap();
    assert_eq!(left, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_operators_did_is_written_down_and_no_secret_or_text_of_it(db: PgPool) {
    let logs = Logs::start();
    let app = with_front_page(db).await;
    let (alice, bob) = (register(&app, "alice").await, app.user("bob").await);
    let hall = app.guild(&bob, "The Quiet Hall").await;
    app.join(&alice, hall).await;
    give_factor(&app, &alice).await;
    let said = say(&app, &alice, &hall.general.to_string(), "a loud word").await;

    let account = format!("accounts/{}", alice.id);
    let guild = format!("guilds/{}", hall.id);
    let message = format!("channels/{}/messages/{said}", hall.general);
    operate(&app, Method::DELETE, &format!("{account}/second-factor"))
        .await
        .expect(204);
    let ticket = password_reset(&app, &alice).await;
    let body = json!({ "token": ticket, "password": "battery staple" });
    app.post_anonymously("/auth/reset", body).await.expect(200);
    operate(&app, Method::DELETE, &message).await.expect(204);
    operate(&app, Method::GET, &guild).await.expect(200);
    operate(&app, Method::DELETE, &guild).await.expect(204);
    operate(&app, Method::DELETE, &guild)
        .await
        .expect_error(404, 10004);

    let her = json!({ "user": alice.id });
    let of_message = json!({
        "channel": hall.general, "message": said, "author": alice.id,
    });
    assert_eq!(
        deeds(&app).await,
        [
            deed("second_factor_remove", her.clone()),
            deed("password_reset", her),
            deed("message_delete", of_message),
            deed("guild_read", json!({ "guild": hall.id })),
            deed("guild_delete", json!({ "guild": hall.id, "owner": bob.id })),
            refused(404, 10004, "DELETE", &guild),
        ]
    );
    let logged = logs.text();
    assert!(logged.contains("a guild was taken down"), "{logged}");
    let operator = token(CLUSTER_KEY, Duration::from_secs(60));
    let (header, _) = operator.split_once('.').unwrap();
    for hidden in [
        &*ticket,
        "battery staple",
        "a loud word",
        "The Quiet Hall",
        header,
        &alice.authorization,
    ] {
        assert!(!logged.contains(hidden), "{hidden}");
    }
}
