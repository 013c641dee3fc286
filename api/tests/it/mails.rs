//! Verified addresses and forgotten passwords.

use guildhall_shared::Id;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{TestApp, TestUser},
    mail_server::MailServer,
    mfa::give_factor,
    sessions::{PASSWORD, change_meanwhile, register, user_of},
};

async fn with_mail(db: PgPool) -> (TestApp, MailServer) {
    let mails = MailServer::start().await;
    let url = mails.url.clone();
    let app = TestApp::with(db, |config| config.mail.smtp_url = Some(url.into())).await;
    (app, mails)
}

#[sqlx::test(migrations = "../migrations")]
async fn an_address_is_verified_by_the_mail_to_it(db: PgPool) {
    let (app, mut mails) = with_mail(db).await;
    let alice = register(&app, "alice").await;
    let void = mails.ticket().await;
    assert_eq!(
        app.get(&alice, "/users/@me").await.expect(200)["verified"],
        false
    );
    app.post(&alice, "/auth/verify/resend", json!({}))
        .await
        .expect(204);
    let ticket = mails.ticket().await;

    let verify = |token: &str| app.post_anonymously("/auth/verify", json!({ "token": token }));
    verify(&void).await.expect_fault("token", "TOKEN_INVALID");
    verify("x").await.expect_fault("token", "TOKEN_INVALID");
    app.post_anonymously("/auth/verify", json!({}))
        .await
        .expect_fault("token", "BASE_TYPE_REQUIRED");
    let body = verify(&ticket).await.expect(200);
    assert_eq!(body["user_id"], json!(alice.id));
    app.get(&user_of(&body), "/users/@me").await.expect(200);
    assert_eq!(
        app.get(&alice, "/users/@me").await.expect(200)["verified"],
        true
    );
    let events = app.events(alice.id).await;
    assert_eq!(
        (events[0].0, &events[0].1["verified"]),
        ("USER_UPDATE", &json!(true))
    );
    verify(&ticket).await.expect_fault("token", "TOKEN_INVALID");

    // Nothing is left to verify.
    app.post(&alice, "/auth/verify/resend", json!({}))
        .await
        .expect(204);
    assert!(mails.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ticket_for_an_address_that_was_changed_is_void(db: PgPool) {
    let (app, mut mails) = with_mail(db).await;
    let alice = register(&app, "alice").await;
    let ticket = mails.ticket().await;
    sqlx::query("update account set email = 'other@example.org' where user_id = $1")
        .bind(alice.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.post_anonymously("/auth/verify", json!({ "token": ticket }))
        .await
        .expect_fault("token", "TOKEN_INVALID");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_forgotten_password_is_replaced_once(db: PgPool) {
    let (app, mut mails) = with_mail(db).await;
    let alice = register(&app, "alice").await;
    mails.ticket().await;
    let forgot = |login: &str| app.post_anonymously("/auth/forgot", json!({ "login": login }));
    forgot("alice@example.org").await.expect(204);
    let void = mails.ticket().await;
    forgot("Alice@Example.org").await.expect(204);
    let ticket = mails.ticket().await;

    let reset = |token: &str, password: &str| {
        app.post_anonymously(
            "/auth/reset",
            json!({ "token": token, "password": password }),
        )
    };
    reset(&void, "battery staple")
        .await
        .expect_fault("token", "TOKEN_INVALID");
    reset(&ticket, "short")
        .await
        .expect_fault("password", "BASE_TYPE_BAD_LENGTH");
    let body = reset(&ticket, "battery staple").await.expect(200);
    app.get(&user_of(&body), "/users/@me").await.expect(200);
    app.get(&alice, "/users/@me").await.expect_error(401, 0);
    reset(&ticket, "battery staple")
        .await
        .expect_fault("token", "TOKEN_INVALID");
    let names = app.event_names(alice.id).await;
    assert_eq!(names, ["USER_UPDATE", "tokens revoked"]);
    let old = json!({ "login": "alice", "password": PASSWORD });
    app.post_anonymously("/auth/login", old)
        .await
        .expect_fault("login", "INVALID_LOGIN");
    let new = json!({ "login": "alice", "password": "battery staple" });
    app.post_anonymously("/auth/login", new).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ticket_that_is_voided_while_it_is_shown_opens_nothing(db: PgPool) {
    let (app, mut mails) = with_mail(db).await;
    let alice = register(&app, "alice").await;
    let ticket = mails.ticket().await;
    let void = "delete from account_ticket";
    let held = app.hold(alice.id).await;
    let verify = app.post_anonymously("/auth/verify", json!({ "token": ticket }));
    let (reply, ()) = tokio::join!(verify, change_meanwhile(&app, held, void));
    reply.expect_fault("token", "TOKEN_INVALID");

    let forgot = json!({ "login": "alice@example.org" });
    app.post_anonymously("/auth/forgot", forgot)
        .await
        .expect(204);
    let body = json!({ "token": mails.ticket().await, "password": "battery staple" });
    let held = app.hold(alice.id).await;
    let reset = app.post_anonymously("/auth/reset", body);
    let (reply, ()) = tokio::join!(reset, change_meanwhile(&app, held, void));
    reply.expect_fault("token", "TOKEN_INVALID");
    app.get(&alice, "/users/@me").await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn asking_for_a_new_password_tells_nobody_who_has_an_account(db: PgPool) {
    let (app, mut mails) = with_mail(db).await;
    register(&app, "alice").await;
    mails.ticket().await;
    let mut answers = Vec::new();
    for login in ["alice@example.org", "nobody@example.org"] {
        let reply = app
            .post_anonymously("/auth/forgot", json!({ "login": login }))
            .await;
        answers.push((reply.status, reply.body));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], (reqwest::StatusCode::NO_CONTENT, Value::Null));
    assert!(mails.next().await.contains("alice@example.org"));
    assert!(mails.is_empty());
    app.post_anonymously("/auth/forgot", json!({ "login": "alice" }))
        .await
        .expect_fault("login", "EMAIL_TYPE_INVALID_EMAIL");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_mail_does_not_stand_for_the_second_factor(db: PgPool) {
    let (app, mut mails) = with_mail(db).await;
    let alice = register(&app, "alice").await;
    mails.ticket().await;
    give_factor(&app, &alice).await;
    let forgot = json!({ "login": "alice@example.org" });
    app.post_anonymously("/auth/forgot", forgot)
        .await
        .expect(204);
    let body = json!({ "token": mails.ticket().await, "password": "battery staple" });
    let body = app.post_anonymously("/auth/reset", body).await.expect(200);
    assert_eq!((&body["mfa"], &body["token"]), (&json!(true), &Value::Null));
}

#[sqlx::test(migrations = "../migrations")]
async fn without_mail_nothing_is_promised(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = register(&app, "alice").await;
    app.post(&alice, "/auth/verify/resend", json!({}))
        .await
        .expect_error(503, 40006);
    let nobody = TestUser {
        id: Id::new(1).unwrap(),
        authorization: String::new(),
    };
    app.post(&nobody, "/auth/verify/resend", json!({}))
        .await
        .expect_error(401, 0);
    app.post_anonymously("/auth/forgot", json!({ "login": "alice@example.org" }))
        .await
        .expect(204);
}
