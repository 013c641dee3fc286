//! Rate limits as clients see them.

use guildhall_api::config::RateLimits;
use reqwest::{Method, header::HeaderMap};
use serde_json::json;
use sqlx::PgPool;

use crate::harness::TestApp;

fn number(headers: &HeaderMap, name: &str) -> f64 {
    headers[name].to_str().unwrap().parse().unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_used_up_bucket_answers_429_until_it_resets(db: PgPool) {
    let app = TestApp::with(db, |config| config.rate_limits = RateLimits::On).await;
    let alice = app.user("alice").await;
    let mut bucket = String::new();
    for remaining in [1, 0] {
        let reply = app.get(&alice, "/gateway/bot").await;
        assert_eq!(number(&reply.headers, "x-ratelimit-limit") as i64, 2);
        assert_eq!(
            number(&reply.headers, "x-ratelimit-remaining") as i64,
            remaining
        );
        assert!(number(&reply.headers, "x-ratelimit-reset-after") <= 5.0);
        assert!(number(&reply.headers, "x-ratelimit-reset") > 1.7e9);
        bucket = reply.headers["x-ratelimit-bucket"]
            .to_str()
            .unwrap()
            .to_owned();
        reply.expect(200);
    }
    let reply = app.get(&alice, "/gateway/bot").await;
    let headers = reply.headers.clone();
    let body = reply.expect(429);
    assert_eq!(body["message"], "You are being rate limited.");
    assert_eq!(body["global"], false);
    let retry_after = body["retry_after"].as_f64().unwrap();
    assert!(retry_after > 0.0 && retry_after <= 5.0, "{retry_after}");
    assert_eq!(number(&headers, "retry-after"), retry_after.ceil());
    assert_eq!(headers["x-ratelimit-scope"], "user");
    assert_eq!(headers["x-ratelimit-bucket"], bucket.as_str());
    assert!(headers.contains_key("via"));
    assert!(!headers.contains_key("x-ratelimit-global"));

    // Another account and another route are not concerned.
    app.get(&app.user("bob").await, "/gateway/bot")
        .await
        .expect(200);
    app.get(&alice, "/users/@me").await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn fifty_requests_a_second_are_the_global_limit(db: PgPool) {
    let app = TestApp::with(db, |config| config.rate_limits = RateLimits::On).await;
    let alice = app.user("alice").await;
    let other = app.user("bob").await;
    let paths = [
        "/users/@me".to_owned(),
        format!("/users/{}", other.id),
        "/users/@me/guilds".to_owned(),
    ];
    let mut refused = None;
    // A slow machine may need more than one window.
    for n in 0..2000 {
        let reply = app.get(&alice, &paths[n % paths.len()]).await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
        reply.expect(200);
    }
    let Some(reply) = refused else { return };
    assert_eq!(reply.headers["x-ratelimit-global"], "true");
    assert_eq!(reply.headers["x-ratelimit-scope"], "global");
    assert_eq!(reply.body["global"], json!(true));
    app.get(&other, "/users/@me").await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn switched_off_there_are_no_headers(db: PgPool) {
    let app = TestApp::new(db).await;
    for _ in 0..60 {
        let reply = app.send(app.request(Method::GET, "/gateway")).await;
        assert!(!reply.headers.contains_key("x-ratelimit-limit"));
        reply.expect(200);
    }
}
