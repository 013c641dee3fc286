//! Where people are logged in, and how it ends.

use std::time::{Duration, Instant};

use guildhall_api::config::Secret;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{PgPool, PgTransaction};

use crate::harness::{TestApp, TestUser};

pub(crate) const PASSWORD: &str = "correct horse";

/// The account in the answer to a log-in.
pub(crate) fn user_of(body: &Value) -> TestUser {
    TestUser {
        id: body["user_id"].as_str().unwrap().parse().unwrap(),
        authorization: body["token"].as_str().unwrap().to_owned(),
    }
}

pub(crate) async fn register(app: &TestApp, name: &str) -> TestUser {
    let body = json!({
        "username": name, "password": PASSWORD, "email": format!("{name}@example.org"),
    });
    user_of(
        &app.post_anonymously("/auth/register", body)
            .await
            .expect(201),
    )
}

pub(crate) async fn log_in(app: &TestApp, name: &str) -> TestUser {
    let body = json!({ "login": name, "password": PASSWORD });
    user_of(&app.post_anonymously("/auth/login", body).await.expect(200))
}

async fn names(app: &TestApp, user: &TestUser) -> Vec<String> {
    let body = app.get(user, "/auth/sessions").await.expect(200);
    let sessions = body["user_sessions"].as_array().unwrap().iter();
    sessions
        .map(|session| session["id_hash"].as_str().unwrap().to_owned())
        .collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn sessions_are_listed_by_what_their_clients_say(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = register(&app, "alice").await;
    let login = app
        .request(Method::POST, "/auth/login")
        .header(
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0",
        )
        .json(&json!({ "login": "alice", "password": PASSWORD }));
    let second = user_of(&app.send(login).await.expect(200));
    let body = app.get(&second, "/auth/sessions").await.expect(200);
    let sessions = body["user_sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    let newest = sessions
        .iter()
        .find(|session| session["client_info"]["platform"] == "Firefox")
        .unwrap();
    assert_eq!(newest["client_info"]["os"], "Linux");
    assert_eq!(newest["client_info"]["location"], Value::Null);
    assert!(
        newest["approx_last_used_time"]
            .as_str()
            .unwrap()
            .ends_with("+00:00")
    );
    let text = body.to_string();
    assert!(!text.contains(alice.authorization.rsplit('.').next().unwrap()));

    let owner = app.user("owner").await;
    let bot = app.bot(&owner, "Ping").await;
    app.get(&bot, "/auth/sessions")
        .await
        .expect_error(403, 20001);
    app.post_anonymously(
        "/auth/sessions/logout",
        json!({ "session_id_hashes": ["x"] }),
    )
    .await
    .expect_error(401, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_revoked_session_ends_and_the_others_stay(db: PgPool) {
    let app = TestApp::new(db).await;
    let first = register(&app, "alice").await;
    let own = names(&app, &first).await;
    let second = log_in(&app, "alice").await;
    let bob = register(&app, "bob").await;
    let bobs = names(&app, &bob).await;

    let body = json!({ "session_id_hashes": [own[0], bobs[0], "unknown"] });
    app.post(&second, "/auth/sessions/logout", body)
        .await
        .expect(204);
    app.get(&first, "/users/@me").await.expect_error(401, 0);
    app.get(&second, "/users/@me").await.expect(200);
    // Nobody ends the sessions of others.
    app.get(&bob, "/users/@me").await.expect(200);
    assert_eq!(app.event_names(bob.id).await, Vec::<&str>::new());
    let events = app.events(first.id).await;
    let hash = guildhall_shared::token::Token::parse(&first.authorization)
        .unwrap()
        .hash();
    let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(events, [("tokens revoked", json!({ "tokens": [hex] }))]);

    for bad in [json!([]), json!(vec!["x"; 65])] {
        let body = json!({ "session_id_hashes": bad });
        let reply = app.post(&second, "/auth/sessions/logout", body).await;
        reply.expect_fault("session_id_hashes", "BASE_TYPE_BAD_LENGTH");
    }
    app.post(&second, "/auth/sessions/logout", json!({}))
        .await
        .expect_fault("session_id_hashes", "BASE_TYPE_REQUIRED");
}

#[sqlx::test(migrations = "../migrations")]
async fn the_least_used_of_too_many_sessions_ends(db: PgPool) {
    let app = TestApp::new(db).await;
    let first = register(&app, "alice").await;
    sqlx::query(
        "insert into auth_token (token_hash, user_id)
         select sha256(n::text::bytea), $1 from generate_series(1, 49) n",
    )
    .bind(first.id.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    sqlx::query(
        "update auth_token set last_used_at = now() - interval '1 day' where token_hash = $1",
    )
    .bind(
        guildhall_shared::token::Token::parse(&first.authorization)
            .unwrap()
            .hash()
            .0
            .to_vec(),
    )
    .execute(&app.db)
    .await
    .unwrap();
    let second = log_in(&app, "alice").await;
    assert_eq!(names(&app, &second).await.len(), 50);
    app.get(&first, "/users/@me").await.expect_error(401, 0);
    assert_eq!(app.event_names(first.id).await, ["tokens revoked"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn another_replica_refuses_a_revoked_token_within_a_second(db: PgPool) {
    let one = TestApp::new(db.clone()).await;
    let two = TestApp::new(db).await;
    let alice = register(&one, "alice").await;
    // Remembered by both by now, if at all.
    for _ in 0..3 {
        two.get(&alice, "/users/@me").await.expect(200);
        one.get(&alice, "/users/@me").await.expect(200);
    }
    one.post(&alice, "/auth/logout", json!({}))
        .await
        .expect(204);
    let revoked = Instant::now();
    while two.get(&alice, "/users/@me").await.status != 401 {
        assert!(revoked.elapsed() < Duration::from_secs(1));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn without_redis_a_revoked_token_is_refused_at_once(db: PgPool) {
    let one = TestApp::new(db.clone()).await;
    let nowhere = Secret::from("redis://127.0.0.1:9".to_owned());
    let two = TestApp::with(db, |config| config.redis_url = nowhere).await;
    let alice = register(&one, "alice").await;
    two.get(&alice, "/users/@me").await.expect(200);
    one.post(&alice, "/auth/logout", json!({}))
        .await
        .expect(204);
    two.get(&alice, "/users/@me").await.expect_error(401, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_use_of_a_session_is_noted_now_and_then(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    sqlx::query("update auth_token set last_used_at = now() - interval '1 hour'")
        .execute(&app.db)
        .await
        .unwrap();
    app.get(&alice, "/users/@me").await.expect(200);
    let started = Instant::now();
    loop {
        let is_noted: bool =
            sqlx::query_scalar("select last_used_at > now() - interval '1 minute' from auth_token")
                .fetch_one(&app.db)
                .await
                .unwrap();
        if is_noted {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
}

/// Makes the change once a request waits for the realm that is held.
pub(crate) async fn change_meanwhile(
    app: &TestApp,
    mut held: PgTransaction<'_>,
    change: &'static str,
) {
    app.until_somebody_waits().await;
    sqlx::query(change).execute(&mut *held).await.unwrap();
    held.commit().await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn what_a_password_opened_is_shut_when_it_is_changed_meanwhile(db: PgPool) {
    let app = TestApp::new(db).await;
    for (name, change) in [
        (
            "alice",
            "update account set password_hash = 'x' where username = 'alice'",
        ),
        ("bob", "update account set state = 2 where username = 'bob'"),
    ] {
        let user = register(&app, name).await;
        let held = app.hold(user.id).await;
        let login = json!({ "login": name, "password": PASSWORD });
        let login = app.post_anonymously("/auth/login", login);
        let (reply, ()) = tokio::join!(login, change_meanwhile(&app, held, change));
        reply.expect_fault("login", "INVALID_LOGIN");
        let sessions: i64 =
            sqlx::query_scalar("select count(*) from auth_token where user_id = $1")
                .bind(user.id.to_db())
                .fetch_one(&app.db)
                .await
                .unwrap();
        assert_eq!(sessions, 1, "{name}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_session_that_ends_meanwhile_disables_and_deletes_nothing(db: PgPool) {
    let app = TestApp::new(db).await;
    for (name, what) in [("alice", "disable"), ("bob", "delete")] {
        let user = register(&app, name).await;
        let held = app.hold(user.id).await;
        let path = format!("/users/@me/{what}");
        let request = app.post(&user, &path, json!({ "password": PASSWORD }));
        let ended = change_meanwhile(&app, held, "delete from auth_token");
        let (reply, ()) = tokio::join!(request, ended);
        reply.expect_error(401, 0);
        let state: i16 = sqlx::query_scalar("select state from account where user_id = $1")
            .bind(user.id.to_db())
            .fetch_one(&app.db)
            .await
            .unwrap();
        assert_eq!(state, 0, "{what}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_postgres_refuses_names_no_session_and_no_account(db: PgPool) {
    let app = TestApp::new(db).await;
    let body = json!({
        "username": "alice", "password": PASSWORD, "global_name": "Al\u{0}ice",
    });
    let alice = app.post_anonymously("/auth/register", body).await;
    let alice = user_of(&alice.expect(201));
    let me = app.get(&alice, "/users/@me").await.expect(200);
    assert_eq!(me["global_name"], "Alice");
    let nameless = app.patch(&alice, "/users/@me", json!({ "global_name": "\u{0}" }));
    nameless
        .await
        .expect_fault("global_name", "BASE_TYPE_REQUIRED");
    let body = json!({ "login": "bo\u{0}b", "password": PASSWORD });
    app.post_anonymously("/auth/login", body)
        .await
        .expect_fault("login", "INVALID_LOGIN");
    let names = json!({ "session_id_hashes": ["a\u{0}b"] });
    app.post(&alice, "/auth/sessions/logout", names)
        .await
        .expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_session_that_ends_meanwhile_sets_no_password_and_no_address(db: PgPool) {
    let app = TestApp::new(db).await;
    for (name, change) in [
        ("alice", json!({ "new_password": "battery staple" })),
        ("bob", json!({ "email": "other@example.org" })),
    ] {
        let user = register(&app, name).await;
        let held = app.hold(user.id).await;
        let mut body = change;
        body["password"] = json!(PASSWORD);
        let request = app.patch(&user, "/users/@me", body);
        let ended = change_meanwhile(&app, held, "delete from auth_token");
        let (reply, ()) = tokio::join!(request, ended);
        reply.expect_error(401, 0);
        let user = log_in(&app, name).await;
        let me = app.get(&user, "/users/@me").await.expect(200);
        assert_eq!(me["email"], json!(format!("{name}@example.org")));
    }
}
