//! Rate limits as clients see them.

use std::net::Ipv6Addr;

use guildhall_api::config::RateLimits;
use reqwest::{Method, header::HeaderMap};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::{
    conformance::libraries_read,
    harness::{Reply, TestApp, alone, redis_connection},
    sessions::PASSWORD,
};

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
    libraries_read("rate limit", &body);
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

/// A request from an address of its own, so that tests do not count for each other.
fn from(app: &TestApp, method: Method, path: &str, address: &str) -> reqwest::RequestBuilder {
    app.request(method, path).header("x-forwarded-for", address)
}

async fn behind_a_proxy(db: PgPool) -> TestApp {
    TestApp::with(db, |config| {
        config.rate_limits = RateLimits::On;
        config.proxies = 1;
    })
    .await
}

/// An address no other test or run has.
fn address() -> String {
    let [a, b, c] = rand::random::<[u16; 3]>();
    format!("fd00:{a:x}:{b:x}:{c:x}::1")
}

#[sqlx::test(migrations = "../migrations")]
async fn replicas_count_together(db: PgPool) {
    let one = behind_a_proxy(db.clone()).await;
    let two = behind_a_proxy(db).await;
    let alice = one.user("alice").await;
    for app in [&one, &two] {
        app.get(&alice, "/gateway/bot").await.expect(200);
    }
    for app in [&one, &two] {
        app.get(&alice, "/gateway/bot").await.expect(429);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn without_redis_a_process_counts_alone(db: PgPool) {
    let app = TestApp::with(db, |config| {
        config.rate_limits = RateLimits::On;
        config.redis_url = "redis://127.0.0.1:9".to_owned().into();
    })
    .await;
    let alice = app.user("alice").await;
    for _ in 0..2 {
        app.get(&alice, "/gateway/bot").await.expect(200);
    }
    app.get(&alice, "/gateway/bot").await.expect(429);
}

#[sqlx::test(migrations = "../migrations")]
async fn log_ins_are_counted_by_address_whoever_calls(db: PgPool) {
    let app = behind_a_proxy(db).await;
    let address = address();
    let mut statuses = Vec::new();
    for n in 0..6 {
        // A token does not buy more log-ins.
        let user = app.user(&format!("user{n}")).await;
        let request = from(&app, Method::POST, "/auth/login", &address)
            .header("authorization", &user.authorization)
            .json(&json!({ "login": format!("nobody{n}"), "password": "wrong horse" }));
        statuses.push(app.send(request).await.status.as_u16());
    }
    assert_eq!(statuses, [400, 400, 400, 400, 400, 429]);
}

/// The /64 around an address.
fn network(address: &str) -> Ipv6Addr {
    let address: Ipv6Addr = address.parse().unwrap();
    Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))
}

/// Makes it a window in which so much was counted.
async fn counted(window: &str, times: u32) {
    let mut redis = redis_connection().await;
    let _: () = redis::cmd("SET")
        .arg(guildhall_shared::keys::rate_limit(window))
        .arg(times)
        .arg("EX")
        .arg(600)
        .query_async(&mut redis)
        .await
        .unwrap();
}

/// Makes it something that was tried so many times.
async fn tried(what: &str, times: u32) {
    let digest = hex::encode(&Sha256::digest(what.as_bytes())[..16]);
    counted(&format!("try:{digest}"), times).await;
}

/// A name that no other test or run has, registered at this address, and what its tries count by.
async fn registered(app: &TestApp, address: &str) -> (String, String) {
    let name = format!("ada{}", rand::random::<u64>());
    let body = json!({ "username": name, "password": PASSWORD });
    let request = from(app, Method::POST, "/auth/register", address).json(&body);
    let made = app.send(request).await.expect(201);
    let whose = format!("u{}", made["user_id"].as_str().unwrap());
    (name, whose)
}

async fn log_in(app: &TestApp, address: &str, name: &str, password: &str) -> Reply {
    let body = json!({ "login": name, "password": password });
    let request = from(app, Method::POST, "/auth/login", address).json(&body);
    app.send(request).await
}

#[sqlx::test(migrations = "../migrations")]
async fn wrong_passwords_are_counted_by_name_from_anywhere(db: PgPool) {
    let app = behind_a_proxy(db).await;
    let name = format!("nobody{}", rand::random::<u64>());
    tried(&format!("login:n{name}"), 99).await;
    let last = log_in(&app, &address(), &name, "wrong horse").await;
    last.expect_fault("login", "INVALID_LOGIN");
    let refused = log_in(&app, &address(), &name, "wrong horse").await;
    assert!(refused.headers.contains_key("via"));
    refused.expect(429);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_fails_on_purpose_locks_nobody_out_of_where_they_log_in_from(db: PgPool) {
    let app = behind_a_proxy(db).await;
    let (home, abroad) = (address(), address());
    let (name, whose) = registered(&app, &home).await;
    let all = format!("login:{whose}");
    let from = async |address: &str| log_in(&app, address, &name, PASSWORD).await;
    tried(&all, 100).await;
    from(&abroad).await.expect(429);
    from(&home).await.expect(200);
    let next_door = home.replace("::1", "::2");
    from(&next_door).await.expect(200);
    // Once it was let in from there, there is known too.
    tried(&all, 99).await;
    from(&abroad).await.expect(200);
    tried(&all, 100).await;
    from(&abroad).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn with_a_new_password_only_where_it_was_changed_is_known(db: PgPool) {
    let app = behind_a_proxy(db).await;
    let (home, abroad) = (address(), address());
    let (name, whose) = registered(&app, &abroad).await;
    let ada = log_in(&app, &home, &name, PASSWORD).await.expect(200);
    let body = json!({ "password": PASSWORD, "new_password": "a better horse" });
    let request = from(&app, Method::PATCH, "/users/@me", &home)
        .header("authorization", ada["token"].as_str().unwrap())
        .json(&body);
    app.send(request).await.expect(200);
    tried(&format!("login:{whose}"), 100).await;
    for (from, status) in [(&abroad, 429), (&home, 200)] {
        let reply = log_in(&app, from, &name, "a better horse").await;
        reply.expect(status);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn wrong_passwords_are_counted_by_name_and_network_and_right_ones_are_not(db: PgPool) {
    let app = behind_a_proxy(db).await;
    let (home, abroad) = (address(), address());
    let (name, whose) = registered(&app, &home).await;
    tried(&format!("login-from:{}/{whose}", network(&home)), 9).await;
    for (from, password, status) in [
        (&home, PASSWORD, 200),
        (&home, PASSWORD, 200),
        (&home, "wrong horse", 400),
        (&home, PASSWORD, 429),
        (&abroad, PASSWORD, 200),
    ] {
        log_in(&app, from, &name, password).await.expect(status);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn the_newest_fifty_networks_of_an_account_are_known(db: PgPool) {
    let app = behind_a_proxy(db).await;
    let home = address();
    let (name, whose) = registered(&app, &home).await;
    let all = format!("login:{whose}");
    for others in [49, 1] {
        tried(&all, 100).await;
        log_in(&app, &home, &name, "wrong horse").await.expect(400);
        tried(&all, 0).await;
        for _ in 0..others {
            log_in(&app, &address(), &name, PASSWORD).await.expect(200);
        }
    }
    tried(&all, 100).await;
    log_in(&app, &home, &name, PASSWORD).await.expect(429);
}

/// Makes it an address that was refused so many times, with all of its /64.
async fn refused(address: &str, times: u32) {
    counted(&format!("invalid:{}", network(address)), times).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn an_address_with_too_many_refusals_is_not_served(db: PgPool) {
    let app = behind_a_proxy(db).await;
    let address = address();
    refused(&address, 9_998).await;
    let ask = |path: &'static str| app.send(from(&app, Method::GET, path, &address));
    ask("/gateway").await.expect(200);
    ask("/users/@me").await.expect(401);
    ask("/gateway").await.expect(200);
    ask("/users/@me").await.expect(401);
    let blocked = ask("/gateway").await;
    let headers = blocked.headers.clone();
    assert_eq!(blocked.expect(429)["global"], json!(true));
    assert!(number(&headers, "retry-after") > 60.0);
    assert!(headers.contains_key("via"));
    // Others are served.
    let other = self::address();
    app.send(from(&app, Method::GET, "/gateway", &other))
        .await
        .expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn made_up_tokens_count_for_their_address_and_good_ones_do_not(db: PgPool) {
    let app = behind_a_proxy(db).await;
    let (alice, guild) = alone(&app).await;
    let path = format!("/channels/{}/webhooks", guild.general);
    let hook = app.post(&alice, &path, json!({ "name": "Herald" })).await;
    let hook = hook.expect(200);
    let (id, token) = (
        hook["id"].as_str().unwrap(),
        hook["token"].as_str().unwrap(),
    );
    let good = format!("/webhooks/{id}/{token}");
    let missing = format!("{good}/messages/1180000000000000002");
    let address = address();
    refused(&address, 9_990).await;
    let send = |method: Method, path: String| {
        let request = from(&app, method, &path, &address).json(&json!({ "content": "x" }));
        app.send(request)
    };
    for _ in 0..3 {
        send(Method::POST, good.clone()).await.expect(204);
        // What is merely not there is nobody's guess.
        send(Method::GET, missing.clone())
            .await
            .expect_error(404, 10008);
    }
    for n in 0..5 {
        let path = format!("/interactions/1180000000000000002/made-up-{n}/callback");
        send(Method::POST, path).await.expect_error(404, 10062);
        let path = format!("/webhooks/1180000000000000002/made-up-{n}");
        send(Method::POST, path).await.expect_error(404, 10015);
    }
    let blocked = send(Method::POST, good.clone()).await;
    assert_eq!(blocked.expect(429)["global"], json!(true));
    // Others are served.
    let other = self::address();
    let request = from(&app, Method::POST, &good, &other).json(&json!({ "content": "x" }));
    app.send(request).await.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn registrations_are_counted_by_address_whoever_calls(db: PgPool) {
    let app = behind_a_proxy(db).await;
    let address = address();
    let mut statuses = Vec::new();
    for n in 0..6 {
        let user = app.user(&format!("user{n}")).await;
        let request = from(&app, Method::POST, "/auth/register", &address)
            .header("authorization", &user.authorization)
            .json(&json!({ "username": "", "password": "short" }));
        statuses.push(app.send(request).await.status.as_u16());
    }
    assert_eq!(statuses, [400, 400, 400, 400, 400, 429]);
}

#[sqlx::test(migrations = "../migrations")]
async fn every_routed_answer_tells_its_bucket(db: PgPool) {
    let app = behind_a_proxy(db).await;
    for (method, route, path) in app.operations().await {
        // Without a token, from an address of its own: most are refused, and say it too.
        let request = from(&app, method.clone(), &path, &address());
        let response = request.send().await.unwrap();
        for name in ["limit", "remaining", "reset", "reset-after", "bucket"] {
            let name = format!("x-ratelimit-{name}");
            let headers = response.headers();
            assert!(headers.contains_key(&name), "{method} {route}: no {name}");
        }
    }
}
