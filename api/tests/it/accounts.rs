//! Registering, logging in and out.

use serde_json::json;
use sqlx::PgPool;

use crate::harness::{TestApp, TestUser, assert_fault};

fn alice() -> serde_json::Value {
    json!({
        "username": "alice", "password": "correct horse", "email": "alice@example.org",
        "date_of_birth": "1990-02-03", "global_name": "Alice", "consent": true,
    })
}

fn user(body: &serde_json::Value) -> TestUser {
    TestUser {
        id: body["user_id"].as_str().unwrap().parse().unwrap(),
        authorization: body["token"].as_str().unwrap().to_owned(),
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn who_registers_is_logged_in_and_can_log_in_again(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = user(
        &app.post_anonymously("/auth/register", alice())
            .await
            .expect(201),
    );
    let me = app.get(&alice, "/users/@me").await.expect(200);
    assert_eq!(me["username"], "alice");
    assert_eq!(me["global_name"], "Alice");
    assert_eq!(me["email"], "alice@example.org");
    assert_eq!(app.event_names(alice.id).await, Vec::<&str>::new());

    for login in ["alice", "ALICE", "Alice@Example.org"] {
        let body = json!({ "login": login, "password": "correct horse" });
        let again = app.post_anonymously("/auth/login", body).await.expect(200);
        assert_eq!(again["user_id"], json!(alice.id));
        assert_eq!(again["user_settings"]["locale"], "en-US");
        app.get(&user(&again), "/users/@me").await.expect(200);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn only_hashes_of_tokens_and_passwords_are_stored(db: PgPool) {
    let app = TestApp::new(db).await;
    let body = app
        .post_anonymously("/auth/register", alice())
        .await
        .expect(201);
    let (password, token): (String, Vec<u8>) = sqlx::query_as(
        "select a.password_hash, t.token_hash from account a join auth_token t using (user_id)",
    )
    .fetch_one(&app.db)
    .await
    .unwrap();
    assert!(
        password.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "{password}"
    );
    assert_eq!(token.len(), 32);
    assert_eq!(body["token"].as_str().unwrap().split('.').count(), 3);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bad_registration_names_every_bad_field(db: PgPool) {
    let app = TestApp::new(db).await;
    let bad = json!({
        "username": "Not Allowed", "password": "short", "email": "nowhere",
        "global_name": "x".repeat(33), "date_of_birth": 5,
    });
    let body = app
        .post_anonymously("/auth/register", bad)
        .await
        .expect_error(400, 50035);
    assert_fault(&body, "username", "STRING_TYPE_REGEX");
    assert_fault(&body, "password", "BASE_TYPE_BAD_LENGTH");
    assert_fault(&body, "email", "EMAIL_TYPE_INVALID_EMAIL");
    assert_fault(&body, "global_name", "BASE_TYPE_BAD_LENGTH");
    assert_fault(&body, "date_of_birth", "STRING_TYPE_CONVERT");

    let empty = app.post_anonymously("/auth/register", json!({})).await;
    let body = empty.expect_fault("username", "BASE_TYPE_REQUIRED");
    assert_fault(&body, "password", "BASE_TYPE_REQUIRED");
}

#[sqlx::test(migrations = "../migrations")]
async fn names_and_addresses_are_given_once(db: PgPool) {
    let app = TestApp::new(db).await;
    app.post_anonymously("/auth/register", alice())
        .await
        .expect(201);
    let again = app.post_anonymously("/auth/register", alice()).await;
    again.expect_fault("username", "USERNAME_ALREADY_TAKEN");
    let mut other = alice();
    other["username"] = json!("alice2");
    let again = app.post_anonymously("/auth/register", other).await;
    again.expect_fault("email", "EMAIL_ALREADY_REGISTERED");
}

#[sqlx::test(migrations = "../migrations")]
async fn wrong_passwords_and_unknown_names_get_the_same_answer(db: PgPool) {
    let app = TestApp::new(db).await;
    app.post_anonymously("/auth/register", alice())
        .await
        .expect(201);
    let mut answers = Vec::new();
    for login in ["alice", "nobody"] {
        let body = json!({ "login": login, "password": "wrong horse" });
        let reply = app.post_anonymously("/auth/login", body).await;
        let body = reply.expect_fault("login", "INVALID_LOGIN");
        assert_fault(&body, "password", "INVALID_LOGIN");
        answers.push(body);
    }
    assert_eq!(answers[0], answers[1]);
    let empty = app
        .post_anonymously("/auth/login", json!({ "login": "" }))
        .await;
    let body = empty.expect_fault("login", "BASE_TYPE_REQUIRED");
    assert_fault(&body, "password", "BASE_TYPE_REQUIRED");
}

#[sqlx::test(migrations = "../migrations")]
async fn logging_out_ends_this_token_alone(db: PgPool) {
    let app = TestApp::new(db).await;
    let first = user(
        &app.post_anonymously("/auth/register", alice())
            .await
            .expect(201),
    );
    let login = json!({ "login": "alice", "password": "correct horse" });
    let second = user(&app.post_anonymously("/auth/login", login).await.expect(200));
    // Several libraries send an empty body with a content type of their own.
    let request = app
        .request_by(&first, reqwest::Method::POST, "/auth/logout")
        .header("content-type", "application/octet-stream");
    let reply = app.send(request).await;
    assert!(!reply.headers.contains_key("content-type"));
    reply.expect(204);

    let refused = app.get(&first, "/users/@me").await.expect_error(401, 0);
    assert_eq!(refused["message"], "401: Unauthorized");
    app.get(&second, "/users/@me").await.expect(200);
    let events = app.events(first.id).await;
    let hash = guildhall_shared::token::Token::parse(&first.authorization)
        .unwrap()
        .hash();
    let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(events, [("tokens revoked", json!({ "tokens": [hex] }))]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bot_cannot_log_out(db: PgPool) {
    let app = TestApp::new(db).await;
    let owner = app.user("owner").await;
    let bot = app.bot(&owner, "Ping").await;
    app.post(&bot, "/auth/logout", json!({}))
        .await
        .expect_error(403, 20001);
}
