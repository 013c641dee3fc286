//! Operator endpoints, health and version.

use std::time::Duration;

use guildhall_api::{
    auth::{Audience, sign_token},
    config::{Registration, Secret},
};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{CLUSTER_KEY, TestApp};

fn token(key: &str, lifetime: Duration) -> String {
    let key = Secret::from(key.to_owned());
    sign_token(&key, Audience::Operator, "ann", lifetime).unwrap()
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
