//! Bodies and paths that the API must refuse.

use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{CLUSTER, Witness};

/// Above the documented 25 MiB.
const GIANT_BYTES: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_bodies_get_their_errors() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let rest = &witness.owner.rest;
    let messages = format!("/channels/{}/messages", witness.guild.channel);
    let json_text = |path: &str, body: String| {
        let request = rest
            .request(Method::POST, path)
            .header("content-type", "application/json")
            .body(body);
        rest.send(request)
    };
    let deep = format!(r#"{{"content":{}"#, "[".repeat(100_000));
    for body in ["{", "not json", "{\"content\":", "\u{0}", "{} {}", &deep] {
        for path in [messages.as_str(), "/guilds"] {
            let reply = json_text(path, body.to_owned()).await.unwrap();
            reply.assert_error(400, 50109);
        }
    }
    for (path, body) in [
        (messages.as_str(), json!([])),
        (&messages, json!("text")),
        (&messages, json!({"content": {"a": 1}})),
        (&messages, json!({"content": "x".repeat(5000)})),
        (&messages, json!({"content": "x", "tts": "maybe"})),
        (&messages, json!({"content": "x", "nonce": "x".repeat(100)})),
        ("/guilds", json!({"name": ["a"]})),
        ("/guilds", json!({"name": ""})),
        ("/guilds", json!({})),
    ] {
        let reply = rest.post(path, &body).await;
        reply.assert_error(400, 50035);
        assert!(reply.body["errors"].is_object(), "{reply:?}");
    }
    rest.post(&messages, &json!({"content": ""}))
        .await
        .assert_error(400, 50006);
    rest.post(&messages, &json!({}))
        .await
        .assert_error(400, 50006);

    // A giant: refused before all of it was read.
    let head = format!(
        "POST /api/v10{messages} HTTP/1.1\r\nhost: api\r\nauthorization: {}\r\n\
         content-type: application/json\r\ncontent-length: {GIANT_BYTES}\r\n\r\n{{\"content\":\"",
        witness.owner.token,
    );
    let mut stream = TcpStream::connect(cluster.apis[0].addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let send = async {
        let part = vec![b'x'; 16 * 1024];
        for _ in 0..GIANT_BYTES / part.len() {
            if write.write_all(&part).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await // the answer ends it
    };
    let receive = async {
        let mut answer = String::new();
        while !answer.contains("40005") {
            let mut part = [0; 1024];
            let count = read.read(&mut part).await.unwrap();
            assert!(count > 0, "no error 40005 in {answer}");
            answer.push_str(&String::from_utf8_lossy(&part[..count]));
        }
        answer
    };
    let answer = timeout(e2e::wait::NEVER, async {
        tokio::select! {
            answer = receive => answer,
            () = send => unreachable!("it waits for the answer"),
        }
    });
    let answer = answer.await.expect("an answer to a giant");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    // Nobody, strange ids, strange paths and methods.
    let nobody = cluster.rest(0);
    nobody.get("/users/@me").await.assert_error(401, 0);
    nobody
        .with_token("Bot a.b.c")
        .get("/users/@me")
        .await
        .assert_error(401, 0);
    rest.get("/no/such/route").await.assert_error(404, 0);
    rest.put("/users/@me", &json!({}))
        .await
        .assert_error(405, 0);
    for id in [
        "0",
        "-1",
        "99999999999999999999999",
        "abc",
        "%00",
        "%FF",
        "1",
    ] {
        for path in [
            format!("/channels/{id}"),
            format!("/guilds/{id}"),
            format!("/channels/{id}/messages"),
        ] {
            let reply = rest.get(&path).await;
            assert!((400..500).contains(&reply.status), "{path}: {reply:?}");
            assert!(reply.body["code"].is_u64(), "{path}: {reply:?}");
        }
    }
    witness.is_served(&cluster).await;
}
