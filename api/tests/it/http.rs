//! What every route has in common: versions, errors, bodies, CORS.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{harness::TestApp, sessions::PASSWORD};

#[sqlx::test(migrations = "../migrations")]
async fn the_api_answers_under_each_served_version(db: PgPool) {
    let app = TestApp::new(db).await;
    for prefix in ["/api/v10", "/api/v9", "/api"] {
        let request = app.client.get(format!("{}{prefix}/gateway", app.origin));
        app.send(request).await.expect(200);
    }
    let old = app.client.get(format!("{}/api/v8/gateway", app.origin));
    app.send(old).await.expect_error(400, 50041);
}

#[sqlx::test(migrations = "../migrations")]
async fn unknown_routes_and_methods_have_their_bodies(db: PgPool) {
    let app = TestApp::new(db).await;
    for path in ["/nothing", "/users/@me/nothing", "/nothing/%FF%FE", ""] {
        let body = app.send(app.request(Method::GET, path)).await.expect(404);
        assert_eq!(
            body,
            json!({ "message": "404: Not Found", "code": 0 }),
            "{path}"
        );
    }
    let body = app
        .send(app.request(Method::PUT, "/gateway"))
        .await
        .expect(405);
    assert_eq!(
        body,
        json!({ "message": "405: Method Not Allowed", "code": 0 })
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn bodies_that_are_no_json_are_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let send = |body: Vec<u8>, content_type: &'static str| {
        let request = app.request(Method::POST, "/auth/login").body(body);
        app.send(request.header("content-type", content_type))
    };
    for body in ["{", "[1,", "nope", "{\"login\":\"a\"} x"] {
        let body = send(body.into(), "application/json")
            .await
            .expect_error(400, 50109);
        assert_eq!(body["message"], "The request body contains invalid JSON.");
    }
    send("[[[[".repeat(10_000).into(), "application/json")
        .await
        .expect_error(400, 50109);
    send("7".into(), "application/json")
        .await
        .expect_fault("", "MODEL_TYPE_CONVERT");
    send("a=b".into(), "text/plain")
        .await
        .expect_fault("", "CONTENT_TYPE_INVALID");
    send(Vec::new(), "text/plain")
        .await
        .expect_fault("login", "BASE_TYPE_REQUIRED");
    send("{}".into(), "application/json; charset=utf-8")
        .await
        .expect_fault("login", "BASE_TYPE_REQUIRED");
    send(vec![b' '; (1 << 20) + 1], "application/json")
        .await
        .expect_error(413, 40005);
}

#[sqlx::test(migrations = "../migrations")]
async fn browsers_may_call_from_anywhere(db: PgPool) {
    let app = TestApp::new(db).await;
    let preflight = app
        .request(Method::OPTIONS, "/users/@me")
        .header("origin", "http://client.example")
        .header("access-control-request-method", "PATCH")
        .header(
            "access-control-request-headers",
            "authorization,x-audit-log-reason",
        );
    let reply = preflight.send().await.unwrap();
    assert!(reply.status().is_success());
    let headers = reply.headers();
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert_eq!(headers["access-control-allow-methods"], "PATCH");
    assert_eq!(
        headers["access-control-allow-headers"],
        "authorization,x-audit-log-reason"
    );

    let request = app
        .request(Method::GET, "/nothing")
        .header("origin", "http://client.example");
    let reply = app.send(request).await;
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    let exposed = reply.headers["access-control-expose-headers"]
        .to_str()
        .unwrap();
    assert!(exposed.contains("x-ratelimit-remaining") && exposed.contains("retry-after"));
}

#[sqlx::test(migrations = "../migrations")]
async fn no_cache_keeps_what_is_for_one_caller(db: PgPool) {
    let app = TestApp::new(db).await;
    let form = json!({ "username": "alice", "login": "alice", "password": PASSWORD });
    for (path, status) in [
        ("/auth/register", 201),
        ("/auth/login", 200),
        ("/auth/logout", 401),
        ("/nothing", 404),
    ] {
        let reply = app.post_anonymously(path, form.clone()).await;
        assert_eq!(reply.headers["cache-control"], "no-store", "{path}");
        assert!(!reply.headers.contains_key("pragma"));
        reply.expect(status);
    }
    // What is the same for everybody may be kept.
    for path in ["/openapi.json", "/docs"] {
        let page = app.client.get(format!("{}{path}", app.origin)).send().await;
        let page = page.unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        assert!(!page.headers().contains_key("cache-control"), "{path}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn without_redis_changes_are_stored_and_answered(db: PgPool) {
    // Nobody listens on the discard port.
    let nowhere = || guildhall_api::config::Secret::from("redis://127.0.0.1:9".to_owned());
    let app = TestApp::with(db, |config| {
        config.redis_url = nowhere();
        config.rate_limits = guildhall_api::config::RateLimits::On;
    })
    .await;
    let alice = app.user("alice").await;
    for n in 0..3 {
        let reply = app
            .patch(&alice, "/users/@me", json!({ "bio": n.to_string() }))
            .await;
        assert!(reply.headers.contains_key("x-ratelimit-remaining"));
        reply.expect(200);
    }
    assert_eq!(app.events(alice.id).await.len(), 3);
}

/// A connection that takes little before it reads.
async fn connect(app: &TestApp) -> TcpStream {
    let address = app.origin.strip_prefix("http://").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address.parse().unwrap()).await.unwrap()
}

async fn ask(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Whatever comes until the connection is closed.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let closed = timeout(Duration::from_secs(30), stream.read_to_string(&mut text)).await;
    closed.expect("it is closed").unwrap();
    text
}

#[sqlx::test(migrations = "../migrations")]
async fn a_connection_without_requests_is_closed(db: PgPool) {
    let app = TestApp::with(db, |config| config.idle_seconds_max = 1).await;
    let mut silent = connect(&app).await;
    assert_eq!(until_closed(&mut silent).await, "");
    let mut slow = connect(&app).await;
    slow.write_all(b"GET /health HTTP/1.1\r\nHost:")
        .await
        .unwrap();
    until_closed(&mut slow).await;
    let mut done = connect(&app).await;
    ask(&mut done, "/api/v10/gateway").await;
    let answer = until_closed(&mut done).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[sqlx::test(migrations = "../migrations")]
async fn connections_beyond_the_limit_wait_for_a_place(db: PgPool) {
    let app = TestApp::with(db, |config| config.connections_max = 1).await;
    let mut first = connect(&app).await;
    ask(&mut first, "/api/v10/gateway").await;
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = connect(&app).await;
    ask(&mut second, "/api/v10/gateway").await;
    let early = timeout(Duration::from_millis(300), second.read_exact(&mut byte)).await;
    assert!(early.is_err(), "the first one still has the place");
    drop(first);
    let answered = timeout(Duration::from_secs(30), second.read_exact(&mut byte)).await;
    answered.expect("there is a place").unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_client_that_takes_no_answers_is_dropped(db: PgPool) {
    let app = TestApp::with(db, |config| config.stall_seconds_max = 1).await;
    let mut stream = connect(&app).await;
    // More than the kernel keeps for it.
    for _ in 0..200 {
        ask(&mut stream, "/openapi.json").await;
    }
    let closed = async {
        while stream.write_all(b"\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), closed)
        .await
        .expect("the connection is closed");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_documented_is_served(db: PgPool) {
    let app = TestApp::new(db).await;
    let page = app.client.get(format!("{}/docs", app.origin)).send().await;
    let page = page.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.text().await.unwrap().contains("swagger-ui"));

    for (method, route, path) in app.operations().await {
        let reply = app.request(method.clone(), &path).send().await.unwrap();
        let status = reply.status();
        let body: Value = serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap_or_default();
        let is_unknown = status == StatusCode::NOT_FOUND && body["code"] == 0;
        assert!(
            !is_unknown && status != StatusCode::METHOD_NOT_ALLOWED,
            "{method} {route}: {status}"
        );
    }
}

/// `routes!` serves a handler and documents it by one call. Whatever is served in another way is no
/// operation of the API: files, and pages for operators and machines.
#[test]
fn what_is_served_is_documented() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/routes");
    let mut found = BTreeSet::new();
    plain_routers(&folder, &mut found);
    let known = [
        "cdn.rs",
        "farewell.rs",
        "instance.rs",
        "meta.rs",
        "operators.rs",
    ];
    assert_eq!(found, BTreeSet::from(known.map(str::to_owned)));
}

/// Names of the files below a folder that make routes without documenting them.
fn plain_routers(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            plain_routers(&path, found);
            continue;
        }
        let code = fs::read_to_string(&path).unwrap();
        let code = code.replace("OpenApiRouter::new()", "");
        if code.contains("Router::new()") || code.contains(".route(") {
            found.insert(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
}
