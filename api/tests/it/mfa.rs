//! The second factor.

use std::time::{SystemTime, UNIX_EPOCH};

use guildhall_api::config::RateLimits;
use guildhall_shared::Permissions;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use totp_rs::{Builder, Secret, Totp};

use crate::{
    harness::{TestApp, TestUser},
    mail_server::MailServer,
    sessions::{PASSWORD, log_in, register, user_of},
    threads::hall,
};

const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";

/// The code `steps` half-minutes from now: the server takes the current one and its neighbours.
pub(crate) fn code(steps: i64) -> String {
    let secret = Secret::try_from_base32(SECRET).unwrap();
    let totp: Totp = Builder::new().with_secret(secret).build().unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64;
    totp.generate((now + 30 * steps) as u64).to_string()
}

/// With the second factor on and no code used yet; and the backup codes.
pub(crate) async fn enrolled(app: &TestApp) -> (TestUser, Vec<String>) {
    let alice = register(app, "alice").await;
    let body = json!({ "password": PASSWORD, "secret": SECRET, "code": code(0) });
    let body = app
        .post(&alice, "/users/@me/mfa/totp/enable", body)
        .await
        .expect(200);
    sqlx::query("update account_mfa set totp_step = 0")
        .execute(&app.db)
        .await
        .unwrap();
    let codes = body["backup_codes"].as_array().unwrap();
    let codes = codes.iter().map(|code| {
        assert_eq!(
            (&code["consumed"], &code["user_id"]),
            (&json!(false), &json!(alice.id))
        );
        code["code"].as_str().unwrap().to_owned()
    });
    let renewed = TestUser {
        authorization: body["token"].as_str().unwrap().to_owned(),
        ..alice.clone()
    };
    app.get(&alice, "/users/@me").await.expect_error(401, 0);
    (renewed, codes.collect())
}

/// Gives somebody a second factor without an authenticator.
pub(crate) async fn give_factor(app: &TestApp, user: &TestUser) {
    sqlx::query("insert into account_mfa (user_id, totp_secret, backup_salt) values ($1, $2, $3)")
        .bind(user.id.to_db())
        .bind(vec![7_u8; 20])
        .bind(vec![7_u8; 16])
        .execute(&app.db)
        .await
        .unwrap();
}

pub(crate) async fn ticket(app: &TestApp) -> String {
    let body = json!({ "login": "alice", "password": PASSWORD });
    let body = app.post_anonymously("/auth/login", body).await.expect(200);
    assert_eq!(
        (&body["mfa"], &body["totp"], &body["backup"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert!(body.get("token").is_none());
    body["ticket"].as_str().unwrap().to_owned()
}

#[sqlx::test(migrations = "../migrations")]
async fn it_is_switched_on_step_by_step(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = register(&app, "alice").await;
    let path = "/users/@me/mfa/totp/enable";
    let try_with = |body: Value| app.post(&alice, path, body);
    try_with(json!({}))
        .await
        .expect_fault("password", "BASE_TYPE_REQUIRED");
    try_with(json!({ "password": "wrong horse" }))
        .await
        .expect_fault("password", "PASSWORD_DOES_NOT_MATCH");
    try_with(json!({ "password": PASSWORD }))
        .await
        .expect_error(400, 60005);
    try_with(json!({ "password": PASSWORD, "secret": "short", "code": code(0) }))
        .await
        .expect_error(400, 60005);
    for wrong in ["", "12345", "abcdef", "0000000"] {
        try_with(json!({ "password": PASSWORD, "secret": SECRET, "code": wrong }))
            .await
            .expect_error(400, 60008);
    }
    let spaced = "jbsw y3dp ehpk 3pxp jbsw y3dp ehpk 3pxp";
    let used = code(0);
    let body = try_with(json!({ "password": PASSWORD, "secret": spaced, "code": used }))
        .await
        .expect(200);
    assert_eq!(body["backup_codes"].as_array().unwrap().len(), 10);
    let renewed = TestUser {
        authorization: body["token"].as_str().unwrap().to_owned(),
        ..alice.clone()
    };
    let me = app.get(&renewed, "/users/@me").await.expect(200);
    assert_eq!(me["mfa_enabled"], true);
    assert_eq!(me["authenticator_types"], json!([2]));
    // The code that switched it on is used up.
    app.post(
        &renewed,
        "/users/@me/mfa/totp/disable",
        json!({ "code": used }),
    )
    .await
    .expect_error(400, 60008);
    let events = app.events(alice.id).await;
    assert_eq!(
        (events[0].0, &events[0].1["mfa_enabled"]),
        ("USER_UPDATE", &json!(true))
    );
    assert_eq!(events[1].0, "AUTH_SESSION_CHANGE");
    assert_eq!(events[2].0, "tokens revoked");
    app.post(
        &renewed,
        path,
        json!({ "password": PASSWORD, "secret": SECRET, "code": code(1) }),
    )
    .await
    .expect_error(400, 60001);

    let owner = app.user("owner").await;
    let bot = app.bot(&owner, "Ping").await;
    app.post(&bot, path, json!({ "password": "x" }))
        .await
        .expect_error(403, 20001);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_log_in_takes_two_steps_and_a_code_counts_once(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _) = enrolled(&app).await;
    let first = ticket(&app).await;
    let step = |ticket: &str, code: String| {
        let body = json!({ "ticket": ticket, "code": code });
        app.post_anonymously("/auth/mfa/totp", body)
    };
    let used = code(0);
    let body = step(&first, used.clone()).await.expect(200);
    assert_eq!(body["user_settings"]["theme"], "dark");
    app.get(&user_of(&body), "/users/@me").await.expect(200);
    step(&first, code(1)).await.expect_error(400, 60006);

    let second = ticket(&app).await;
    step(&second, used).await.expect_error(400, 60008);
    step(&second, code(1)).await.expect(200);
    step("unknown", code(1)).await.expect_error(400, 60006);
    // Five wrong codes void a ticket, whatever comes after.
    let third = ticket(&app).await;
    for _ in 0..5 {
        step(&third, "000000".to_owned())
            .await
            .expect_error(400, 60008);
    }
    step(&third, code(1)).await.expect_error(400, 60006);
    app.get(&alice, "/users/@me").await.expect(200);
    app.post_anonymously("/auth/mfa/totp", json!({}))
        .await
        .expect_fault("ticket", "BASE_TYPE_REQUIRED");
}

#[sqlx::test(migrations = "../migrations")]
async fn two_requests_with_one_code_log_in_once(db: PgPool) {
    let app = TestApp::new(db).await;
    enrolled(&app).await;
    let (first, second) = (ticket(&app).await, ticket(&app).await);
    let code = code(0);
    let step = |ticket: String| {
        let body = json!({ "ticket": ticket, "code": code });
        app.post_anonymously("/auth/mfa/totp", body)
    };
    let (one, two) = tokio::join!(step(first), step(second));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_backup_code_opens_once(db: PgPool) {
    let app = TestApp::new(db).await;
    let (_, codes) = enrolled(&app).await;
    let step = |ticket: String, code: String| {
        let body = json!({ "ticket": ticket, "code": code });
        app.post_anonymously("/auth/mfa/backup", body)
    };
    let spelled = format!("{}-{}", &codes[0][..4], codes[0][4..].to_uppercase());
    step(ticket(&app).await, spelled).await.expect(200);
    step(ticket(&app).await, codes[0].clone())
        .await
        .expect_error(400, 60008);
    step(ticket(&app).await, "nonsense".to_owned())
        .await
        .expect_error(400, 60008);
    step(ticket(&app).await, codes[1].clone()).await.expect(200);
    let stored: String = sqlx::query_scalar("select account_mfa::text from account_mfa")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert!(codes.iter().all(|code| !stored.contains(code)));
    let secret = Secret::try_from_base32(SECRET).unwrap();
    assert!(!stored.contains(&hex::encode(secret.as_ref())));
}

#[sqlx::test(migrations = "../migrations")]
async fn sensitive_calls_ask_for_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, codes) = enrolled(&app).await;
    let revoke = |proof: Option<String>| {
        let mut request = app
            .request_by(&alice, Method::POST, "/auth/sessions/logout")
            .json(&json!({ "session_id_hashes": ["x"] }));
        if let Some(proof) = proof {
            request = request.header("x-discord-mfa-authorization", proof);
        }
        app.send(request)
    };
    let refused = revoke(None).await.expect_error(401, 60003);
    assert_eq!(refused["mfa"]["methods"][0]["type"], "totp");
    let ticket = refused["mfa"]["ticket"].as_str().unwrap();
    let finish = |user: &TestUser, kind: &str, data: String| {
        let body = json!({ "ticket": ticket, "mfa_type": kind, "data": data });
        let (app, user) = (&app, user.clone());
        async move { app.post(&user, "/mfa/finish", body).await }
    };
    finish(&alice, "totp", "000000".to_owned())
        .await
        .expect_error(400, 60008);
    finish(&alice, "sms", code(0))
        .await
        .expect_fault("mfa_type", "BASE_TYPE_CHOICES");
    let bob = register(&app, "bob").await;
    finish(&bob, "totp", code(0)).await.expect_error(400, 60006);
    let proof = finish(&alice, "totp", code(0)).await.expect(200);
    let proof = proof["token"].as_str().unwrap().to_owned();
    revoke(Some(proof.clone())).await.expect(204);
    revoke(Some("forged".to_owned()))
        .await
        .expect_error(401, 60003);
    finish(&alice, "backup", codes[0].clone())
        .await
        .expect_error(400, 60006);
    // A proof is good for the session that earned it.
    let other = app
        .post_anonymously(
            "/auth/login",
            json!({ "login": "alice", "password": PASSWORD }),
        )
        .await
        .expect(200);
    let body = json!({ "ticket": other["ticket"], "code": codes[1] });
    let other = user_of(
        &app.post_anonymously("/auth/mfa/backup", body)
            .await
            .expect(200),
    );
    let request = app
        .request_by(&other, Method::POST, "/auth/sessions/logout")
        .header("x-discord-mfa-authorization", proof)
        .json(&json!({ "session_id_hashes": ["x"] }));
    app.send(request).await.expect_error(401, 60003);
    // Without a second factor nothing is asked.
    app.post(
        &bob,
        "/auth/sessions/logout",
        json!({ "session_id_hashes": ["x"] }),
    )
    .await
    .expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guild_is_given_away_with_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _) = enrolled(&app).await;
    let bob = app.user("bob").await;
    let guild = app.guild(&alice, "Hall").await;
    app.join(&bob, guild).await;
    let path = format!("/guilds/{}", guild.id);
    let change = |body: Value| app.patch(&alice, &path, body);
    change(json!({ "name": "Home", "owner_id": alice.id }))
        .await
        .expect(200);
    change(json!({ "owner_id": bob.id }))
        .await
        .expect_error(401, 60003);
    change(json!({ "owner_id": bob.id, "code": "abcdef" }))
        .await
        .expect_error(400, 60008);
    let given = change(json!({ "owner_id": bob.id, "code": code(0) })).await;
    assert_eq!(given.expect(200)["owner_id"], json!(bob.id));
}

#[sqlx::test(migrations = "../migrations")]
async fn it_is_switched_off_by_a_code(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _) = enrolled(&app).await;
    let path = "/users/@me/mfa/totp/disable";
    app.post(&alice, path, json!({}))
        .await
        .expect_error(401, 60003);
    app.post(&alice, path, json!({ "code": "000000" }))
        .await
        .expect_error(400, 60008);
    let body = app
        .post(&alice, path, json!({ "code": code(0) }))
        .await
        .expect(200);
    assert!(body["token"].is_string());
    app.get(&alice, "/users/@me").await.expect_error(401, 0);
    let alice = log_in(&app, "alice").await;
    let me = app.get(&alice, "/users/@me").await.expect(200);
    assert_eq!(me["mfa_enabled"], false);
    app.post(&alice, path, json!({ "code": code(0) }))
        .await
        .expect_error(400, 60002);
}

#[sqlx::test(migrations = "../migrations")]
async fn backup_codes_are_shown_by_mail_or_by_both_factors(db: PgPool) {
    let mut mails = MailServer::start().await;
    let url = mails.url.clone();
    let app = TestApp::with(db, |config| config.mail.smtp_url = Some(url.into())).await;
    let (alice, codes) = enrolled(&app).await;
    assert!(mails.next().await.contains("Verify"));
    let path = "/users/@me/mfa/codes-verification";
    let challenge = "/auth/verify/view-backup-codes-challenge";
    app.post(&alice, challenge, json!({ "password": "wrong horse" }))
        .await
        .expect_fault("password", "PASSWORD_DOES_NOT_MATCH");
    let asked = app
        .post(&alice, challenge, json!({ "password": PASSWORD }))
        .await
        .expect(200);
    let body = json!({ "key": mails.ticket().await, "nonce": asked["nonce"], "regenerate": false });
    let shown = app.post(&alice, path, body.clone()).await.expect(200);
    let list = |body: &Value| -> Vec<String> {
        let codes = body["backup_codes"].as_array().unwrap().iter();
        codes
            .map(|code| code["code"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(list(&shown), codes);
    app.post(&alice, path, body)
        .await
        .expect_fault("key", "BACKUP_CODES_KEY_INVALID");
    app.post(&alice, path, json!({}))
        .await
        .expect_fault("nonce", "BASE_TYPE_REQUIRED");

    app.post(&alice, challenge, json!({ "password": PASSWORD }))
        .await
        .expect(200);
    let body = json!({ "key": mails.ticket().await, "nonce": asked["regenerate_nonce"], "regenerate": true });
    let renewed = list(&app.post(&alice, path, body).await.expect(200));
    assert!(renewed.iter().all(|code| !codes.contains(code)));
    let by_password = json!({ "password": PASSWORD, "regenerate": true });
    app.post(&alice, path, by_password)
        .await
        .expect_error(401, 60003);
}

#[sqlx::test(migrations = "../migrations")]
async fn codes_cannot_be_guessed_by_trying(db: PgPool) {
    let app = TestApp::with(db, |config| {
        config.rate_limits = RateLimits::On;
        config.proxies = 1;
    })
    .await;
    let alice = app.user("alice").await;
    give_factor(&app, &alice).await;
    let mut refused = None;
    for n in 0..11 {
        let request = app
            .request_by(&alice, Method::POST, "/users/@me/mfa/totp/disable")
            .header("x-forwarded-for", format!("10.1.{n}.7"))
            .json(&json!({ "code": "000000" }));
        let reply = app.send(request).await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
        reply.expect_error(400, 60008);
    }
    let refused = refused.expect("the eleventh try is refused");
    assert!(refused.headers.contains_key("via"));
    assert!(refused.body["retry_after"].as_f64().unwrap() > 1.0);
}

#[sqlx::test(migrations = "../migrations")]
async fn moderators_need_one_where_the_guild_says_so(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, hall) = hall(&app).await;
    let free = Permissions::MANAGE_NICKNAMES | Permissions::VIEW_AUDIT_LOG;
    let held = (Permissions::NEEDS_FACTOR - Permissions::ADMINISTRATOR) | free;
    app.grant(&bob, hall, held).await;
    let guild = format!("/guilds/{}", hall.id);
    let general = format!("/channels/{}", hall.general);
    let messages = format!("{general}/messages");
    let sent = app.post(&carol, &messages, json!({ "content": "hi" }));
    let sent = sent.await.expect(200);
    let threads = format!("{general}/threads");
    let thread = app.post(&carol, &threads, json!({ "name": "talk", "type": 11 }));
    let thread = thread.await.expect(201);
    let thread = format!("/channels/{}", thread["id"].as_str().unwrap());
    let level = format!("{guild}/mfa");
    app.post(&alice, &level, json!({ "level": 1 }))
        .await
        .expect(200);

    let member = format!("{guild}/members/{}", carol.id);
    let message = format!("{messages}/{}", sent["id"].as_str().unwrap());
    let cases = [
        (Method::PATCH, guild.clone(), json!({ "name": "House" })),
        (
            Method::POST,
            format!("{guild}/channels"),
            json!({ "name": "new" }),
        ),
        (Method::PATCH, general.clone(), json!({ "topic": "News" })),
        (
            Method::PUT,
            format!("{general}/permissions/{}", hall.id),
            json!({ "type": 0 }),
        ),
        (
            Method::POST,
            format!("{guild}/roles"),
            json!({ "name": "new", "permissions": "0" }),
        ),
        (
            Method::POST,
            format!("{general}/webhooks"),
            json!({ "name": "hook" }),
        ),
        (Method::PATCH, thread.clone(), json!({ "locked": true })),
        (Method::DELETE, message, json!({})),
        (Method::DELETE, member.clone(), json!({})),
        (Method::PUT, format!("{guild}/bans/{}", carol.id), json!({})),
    ];
    // The owner is not exempt.
    for user in [&alice, &bob] {
        for (method, path, body) in &cases {
            app.call(user, method.clone(), path, body.clone())
                .await
                .expect_error(403, 60003);
        }
    }
    app.patch(&carol, &guild, json!({ "name": "House" }))
        .await
        .expect_error(403, 50013);
    // What is not marked takes none.
    app.patch(&bob, &member, json!({ "nick": "c" }))
        .await
        .expect(200);
    app.get(&bob, &format!("{guild}/audit-logs"))
        .await
        .expect(200);
    app.post(&bob, &messages, json!({ "content": "hi" }))
        .await
        .expect(200);

    give_factor(&app, &bob).await;
    for (method, path, body) in &cases {
        let reply = app.call(&bob, method.clone(), path, body.clone()).await;
        assert!(reply.status.is_success(), "{path}: {:#}", reply.body);
    }
    let in_thread = format!("{thread}/messages");
    let text = json!({ "content": "hi" });
    app.post(&alice, &in_thread, text.clone())
        .await
        .expect_error(403, 60003);
    app.post(&bob, &in_thread, text.clone()).await.expect(200);
    give_factor(&app, &alice).await;
    app.post(&alice, &in_thread, text).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn of_a_bot_its_owners_factor_counts(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let hall = app.guild(&alice, "Hall").await;
    let bot = app.bot(&bob, "helper").await;
    app.join(&bot, hall).await;
    app.grant(&bot, hall, Permissions::MANAGE_CHANNELS).await;
    let level = format!("/guilds/{}/mfa", hall.id);
    app.post(&alice, &level, json!({ "level": 1 }))
        .await
        .expect(200);
    let channels = format!("/guilds/{}/channels", hall.id);
    let body = json!({ "name": "new" });
    app.post(&bot, &channels, body.clone())
        .await
        .expect_error(403, 60003);
    // The guild's owner has one: that is another's.
    give_factor(&app, &alice).await;
    app.post(&bot, &channels, body.clone())
        .await
        .expect_error(403, 60003);
    give_factor(&app, &bob).await;
    app.post(&bot, &channels, body.clone()).await.expect(201);

    // Without the level nobody needs one.
    sqlx::query("delete from account_mfa")
        .execute(&app.db)
        .await
        .unwrap();
    app.post(&alice, &level, json!({ "level": 0 }))
        .await
        .expect(200);
    app.post(&bot, &channels, body.clone()).await.expect(201);
    app.post(&alice, &channels, body).await.expect(201);
}
