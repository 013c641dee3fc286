//! While `CLUSTER_KEY` is renewed and after it: nothing that the old key made is lost.

use std::time::Duration;

use guildhall_api::{
    auth::{Audience, sign_token},
    config::Secret,
};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{CLUSTER_KEY, Reply, TestApp, alone},
    mfa::{code, enrolled, ticket},
};

pub(crate) const NEW_KEY: &str = "the renewed cluster key for tests, long enough";

/// Another process of the same cluster, with these keys.
pub(crate) async fn with_keys(
    app: &TestApp,
    current: &str,
    next: Option<&str>,
    previous: Option<&str>,
) -> TestApp {
    let secret = |key: &str| Secret::from(key.to_owned());
    let files = app.media.path().to_owned();
    TestApp::with(app.db.clone(), |config| {
        config.cluster_key = secret(current);
        config.cluster_key_next = next.map(secret);
        config.cluster_key_previous = previous.map(secret);
        config.media.dir = files;
    })
    .await
}

/// Whether the process says this line among its metrics.
pub(crate) async fn tells(app: &TestApp, line: &str) -> bool {
    let metrics = app.client.get(format!("{}/metrics", app.origin));
    let text = metrics.send().await.unwrap().text().await.unwrap();
    text.lines().any(|told| told == line)
}

async fn by_authenticator(app: &TestApp) -> Reply {
    sqlx::query("update account_mfa set totp_step = 0")
        .execute(&app.db)
        .await
        .unwrap();
    let body = json!({ "ticket": ticket(app).await, "code": code(0) });
    app.post_anonymously("/auth/mfa/totp", body).await
}

async fn by_backup_code(app: &TestApp, code: &str) -> Reply {
    let body = json!({ "ticket": ticket(app).await, "code": code });
    app.post_anonymously("/auth/mfa/backup", body).await
}

async fn stored_secret(app: &TestApp) -> Vec<u8> {
    sqlx::query_scalar("select totp_secret from account_mfa")
        .fetch_one(&app.db)
        .await
        .unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_second_factor_is_sealed_anew_when_it_is_used(db: PgPool) {
    let old = TestApp::new(db).await;
    let (_, codes) = enrolled(&old).await;
    let renewing = with_keys(&old, NEW_KEY, None, Some(CLUSTER_KEY)).await;
    let new = with_keys(&old, NEW_KEY, None, None).await;
    by_authenticator(&new).await.expect_error(400, 60008);
    by_backup_code(&new, &codes[0])
        .await
        .expect_error(400, 60008);

    by_authenticator(&renewing).await.expect(200);
    let used = r#"guildhall_api_previous_key_uses_total{what="second_factor"} 1"#;
    assert!(tells(&renewing, used).await);
    // Nothing needs the old key any more.
    by_authenticator(&new).await.expect(200);
    by_backup_code(&new, &codes[0]).await.expect(200);
    by_backup_code(&new, &codes[0])
        .await
        .expect_error(400, 60008);
    by_authenticator(&renewing).await.expect(200);
    assert!(tells(&renewing, used).await);
    by_authenticator(&old).await.expect_error(400, 60008);
    // Who has not changed its key yet takes what others have made.
    let behind = with_keys(&old, CLUSTER_KEY, Some(NEW_KEY), None).await;
    by_authenticator(&behind).await.expect(200);
    by_backup_code(&behind, &codes[1]).await.expect(200);
    by_authenticator(&new).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_backup_code_seals_anew_as_well(db: PgPool) {
    let old = TestApp::new(db).await;
    let (_, codes) = enrolled(&old).await;
    let renewing = with_keys(&old, NEW_KEY, None, Some(CLUSTER_KEY)).await;
    by_backup_code(&renewing, &codes[0]).await.expect(200);
    let new = with_keys(&old, NEW_KEY, None, None).await;
    by_backup_code(&new, &codes[0])
        .await
        .expect_error(400, 60008);
    by_backup_code(&new, &codes[1]).await.expect(200);
    by_authenticator(&new).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn housekeeping_seals_second_factors_anew(db: PgPool) {
    let old = TestApp::new(db).await;
    let (_, codes) = enrolled(&old).await;
    by_backup_code(&old, &codes[0]).await.expect(200);
    // As older code writes them.
    sqlx::query("update account_mfa set sealed_with = null")
        .execute(&old.db)
        .await
        .unwrap();
    let before = stored_secret(&old).await;
    let behind = with_keys(&old, CLUSTER_KEY, Some(NEW_KEY), None).await;
    for app in [&old, &behind] {
        app.app.seal_factors_anew().await.unwrap();
        assert_eq!(stored_secret(app).await, before);
    }

    let renewing = with_keys(&old, NEW_KEY, None, Some(CLUSTER_KEY)).await;
    let beside = with_keys(&old, NEW_KEY, None, Some(CLUSTER_KEY)).await;
    let (one, two) = tokio::join!(
        renewing.app.seal_factors_anew(),
        beside.app.seal_factors_anew()
    );
    one.unwrap();
    two.unwrap();
    let after = stored_secret(&old).await;
    assert_ne!(after, before);
    // Once more, nothing is left to do; nor is it taken back.
    for app in [&renewing, &beside, &behind] {
        app.app.seal_factors_anew().await.unwrap();
        assert_eq!(stored_secret(app).await, after);
    }
    assert!(tells(&renewing, "guildhall_api_factors_to_seal 0").await);

    let new = with_keys(&old, NEW_KEY, None, None).await;
    by_authenticator(&new).await.expect(200);
    by_backup_code(&new, &codes[0])
        .await
        .expect_error(400, 60008);
    by_backup_code(&new, &codes[1]).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_factor_that_no_key_opens_is_left_as_it_is_and_counted(db: PgPool) {
    let old = TestApp::new(db).await;
    enrolled(&old).await;
    let before = stored_secret(&old).await;
    let other = with_keys(
        &old,
        NEW_KEY,
        None,
        Some("a key that this cluster never had, so long"),
    )
    .await;
    other.app.seal_factors_anew().await.unwrap();
    assert_eq!(stored_secret(&old).await, before);
    assert!(tells(&other, "guildhall_api_factors_to_seal 1").await);
    by_authenticator(&other).await.expect_error(400, 60008);
    by_authenticator(&old).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn operators_tokens_of_either_key_are_taken(db: PgPool) {
    let old = TestApp::new(db).await;
    let token = |key: &str| {
        let key = Secret::from(key.to_owned());
        sign_token(&key, Audience::Operator, "ann", Duration::from_secs(60)).unwrap()
    };
    let ask = async |app: &TestApp, key: &str| {
        let url = format!("{}/internal/registration", app.origin);
        let request = app.client.request(Method::GET, url);
        app.send(request.bearer_auth(token(key))).await
    };
    let first = with_keys(&old, CLUSTER_KEY, Some(NEW_KEY), None).await;
    let second = with_keys(&old, NEW_KEY, None, Some(CLUSTER_KEY)).await;
    for app in [&first, &second] {
        ask(app, CLUSTER_KEY).await.expect(200);
        ask(app, NEW_KEY).await.expect(200);
        ask(app, "a key that this cluster never had, so long")
            .await
            .expect_error(401, 0);
    }
    let used = r#"guildhall_api_previous_key_uses_total{what="operator_token"} 1"#;
    assert!(tells(&second, used).await);
    let new = with_keys(&old, NEW_KEY, None, None).await;
    ask(&new, CLUSTER_KEY).await.expect_error(401, 0);
    ask(&old, NEW_KEY).await.expect_error(401, 0);
}

/// The status of an address that was given out.
async fn status(app: &TestApp, url: &Value) -> u16 {
    let path = url.as_str().unwrap();
    let path = path.strip_prefix("http://127.0.0.1:8080").unwrap();
    app.fetch(path).await.status().as_u16()
}

#[sqlx::test(migrations = "../migrations")]
async fn attachments_of_before_are_shown_after_the_old_key_is_gone(db: PgPool) {
    let old = TestApp::new(db).await;
    let (alice, guild) = alone(&old).await;
    let messages = format!("/channels/{}/messages", guild.general);
    let file = |name: &str| Part::bytes(&b"hello"[..]).file_name(name.to_owned());
    let payload = json!({ "embeds": [{ "image": { "url": "attachment://shown.txt" } }] });
    let form = Form::new()
        .part("files[0]", file("listed.txt"))
        .part("files[1]", file("shown.txt"))
        .text("payload_json", payload.to_string());
    let sent = old.upload(&alice, Method::POST, &messages, form).await;
    let sent = sent.expect(200);
    let reference = json!({
        "type": 1, "message_id": sent["id"], "channel_id": guild.general,
    });
    let forward = json!({ "message_reference": reference });
    let forward = old.post(&alice, &messages, forward).await.expect(200);

    let addresses = |sent: &Value, forward: &Value| {
        let snapshot = &forward["message_snapshots"][0]["message"];
        [
            sent["attachments"][0]["url"].clone(),
            sent["attachments"][0]["proxy_url"].clone(),
            sent["embeds"][0]["image"]["url"].clone(),
            snapshot["attachments"][0]["url"].clone(),
            snapshot["embeds"][0]["image"]["url"].clone(),
        ]
    };
    let renewing = with_keys(&old, NEW_KEY, None, Some(CLUSTER_KEY)).await;
    let new = with_keys(&old, NEW_KEY, None, None).await;
    let read = async |app: &TestApp| {
        let of = |message: &Value| format!("{messages}/{}", message["id"].as_str().unwrap());
        let sent = app.get(&alice, &of(&sent)).await.expect(200);
        let forward = app.get(&alice, &of(&forward)).await.expect(200);
        addresses(&sent, &forward)
    };
    for url in addresses(&sent, &forward) {
        assert_eq!(status(&old, &url).await, 200, "{url}");
        assert_eq!(status(&renewing, &url).await, 200, "{url}");
        assert_eq!(status(&new, &url).await, 404, "{url}");
    }
    for app in [&renewing, &new] {
        for url in read(app).await {
            assert_eq!(status(&new, &url).await, 200, "{url}");
        }
    }
    assert_eq!(read(&old).await, addresses(&sent, &forward));
}

#[sqlx::test(migrations = "../migrations")]
async fn the_instance_is_the_same_one(db: PgPool) {
    let old = TestApp::new(db).await;
    let new = with_keys(&old, NEW_KEY, None, None).await;
    let id = async |app: &TestApp| {
        let info = app.request(Method::GET, "/policies/instance");
        app.send(info).await.expect(200)["instanceId"].clone()
    };
    assert_eq!(id(&old).await, id(&new).await);
}
