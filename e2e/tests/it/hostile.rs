//! Clients that break every rule: the documented errors, no panic, and the process lives on and
//! serves everybody else.

use std::time::Duration;

use e2e::{
    client::{self, Client, End, connect_tcp},
    cluster::{Cluster, Options, Shared, Use},
    ledger,
    session::Session,
    world::{self, Account, Guild, INTENTS},
};
use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

static CLUSTER: Shared = Shared::new(Options {
    apis: 1,
    gateways: 1,
    shards: 32,
    own_postgres: false,
});

/// A session that looks on while others misbehave, and must not notice.
struct Witness {
    owner: Account,
    guild: Guild,
    session: Session,
    pids: [Option<u32>; 2],
}

impl Witness {
    async fn new(cluster: &Cluster) -> Self {
        let owner = world::human(cluster, "witness").await;
        let guild = owner.make_guild("calm").await;
        let urls = vec![cluster.gateways[0].direct_url.clone()];
        let session = Session::start(owner.login(urls, INTENTS)).await;
        Self {
            owner,
            guild,
            session,
            pids: pids(cluster),
        }
    }

    /// The processes live, never panicked, and the session still gets its messages.
    async fn is_served(&self, cluster: &Cluster) {
        assert_eq!(pids(cluster), self.pids, "a process died");
        for server in [&cluster.gateways[0].server, &cluster.apis[0].server] {
            assert!(!server.log_text().contains("panicked"), "a panic");
            server.ready().await.unwrap();
        }
        let content = format!("calm {}", world::random_word());
        self.owner.say(&self.guild.channel, &content).await;
        self.session.message(&content).await;
        let log = self.session.log();
        assert!(log.ends.is_empty(), "the witness lost its socket");
        drop(log);
        self.session.assert_clean();
    }
}

fn pids(cluster: &Cluster) -> [Option<u32>; 2] {
    [
        cluster.gateways[0].server.pid(),
        cluster.apis[0].server.pid(),
    ]
}

async fn open(cluster: &Cluster) -> Client {
    Client::open(&cluster.gateways[0].direct_url).await.unwrap()
}

/// Opens a socket, sends these frames, and tells how it ended.
async fn end_after(cluster: &Cluster, frames: &[&str]) -> End {
    let mut client = open(cluster).await;
    client.expect_op(10).await;
    for frame in frames {
        client.send_text(*frame);
    }
    client.ended().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_comes_at_once_with_null_t_and_s() {
    let cluster = CLUSTER.cluster().await;
    for path in [
        "",
        "/",
        "//",
        "/?encoding=json&v=10",
        "/?v=9",
        "/?v=10&compress=none",
    ] {
        let url = &cluster.gateways[0].direct_url;
        let mut client = Client::open_with(url, path).await.unwrap();
        let hello = client.next().await.unwrap();
        assert_eq!(hello.op, 10, "{path}");
        assert!(
            hello.raw.starts_with(r#"{"t":null,"s":null,"#),
            "{}",
            hello.raw
        );
        assert_eq!(hello.d["heartbeat_interval"], 41250);
        client.send(&json!({"op": 1, "d": null}));
        assert_eq!(client.next().await.unwrap().op, 11);
        assert_eq!(client.faults(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_are_closed_with_their_codes() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let oversized = format!(r#"{{"op":1,"d":null,"x":"{}"}}"#, "x".repeat(5000));
    let deep = format!(r#"{{"op":1,"d":{}{}}}"#, "[".repeat(1500), "]".repeat(1500));
    for frame in [
        "",
        "{",
        "not json",
        "[]",
        "null",
        "17",
        r#""text""#,
        r#"{"d":null}"#,
        r#"{"op":"one","d":null}"#,
        r#"{"op":-1,"d":null}"#,
        r#"{"op":1.5,"d":null}"#,
        r#"{"op":2,"d":[]}"#,
        r#"{"op":2,"d":null}"#,
        r#"{"op":2,"d":{"token":5}}"#,
        r#"{"op":2}"#,
        r#"{"op":6,"d":{"token":"a","session_id":5,"seq":1}}"#,
        r#"{"op":6,"d":{}}"#,
        &oversized,
        &deep,
    ] {
        let end = end_after(&cluster, &[frame]).await;
        assert_eq!(end, End::Closed(4002), "after {:.60}", frame);
    }
    witness.is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_and_identity_are_checked() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let human = &witness.owner;

    for op in [3, 4, 8, 14, 31] {
        let frame = json!({"op": op, "d": {}}).to_string();
        let end = end_after(&cluster, &[&frame]).await;
        assert_eq!(end, End::Closed(4003), "op {op} before IDENTIFY");
    }

    let mut client = open(&cluster).await;
    client.identify(&human.token, None).await;
    client.expect_dispatch("READY").await;
    client.send(&client::identify(&human.token, None, None));
    assert_eq!(client.ended().await, End::Closed(4005));

    let mut client = open(&cluster).await;
    client.identify(&human.token, None).await;
    client.expect_dispatch("READY").await;
    client.send(&json!({"op": 99, "d": null}));
    assert_eq!(client.ended().await, End::Closed(4001));

    let mut forged = human.token.clone();
    forged.pop();
    forged.push(if human.token.ends_with('A') { 'B' } else { 'A' });
    for token in ["", "x", "a.b.c", &forged, &"x".repeat(3000), "Bot "] {
        let mut client = open(&cluster).await;
        client.identify(token, None).await;
        assert_eq!(client.ended().await, End::Closed(4004), "token {token:.20}");
    }

    let url = &cluster.gateways[0].direct_url;
    for query in ["/?v=5&encoding=json", "/?v=99", "/?v=x"] {
        let mut client = Client::open_with(url, query).await.unwrap();
        // The code may come before or after HELLO.
        client.send(&client::identify(&human.token, None, None));
        assert_eq!(client.ended().await, End::Closed(4012), "{query}");
    }
    witness.is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_and_intents_are_checked() {
    type Change = fn(&mut Value);

    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let bot = witness.owner.make_bot("bot").await;
    let id: i64 = bot.id.parse().unwrap();
    let db = cluster.db().await.unwrap();
    sqlx::query("update application set flags = 0 where application_id = $1")
        .bind(id)
        .execute(&db)
        .await
        .unwrap();

    let identify = |change: Change| {
        let mut frame = client::identify(&bot.token, Some(1), None);
        change(&mut frame["d"]);
        frame.to_string()
    };
    let cases: [(Change, u16); 9] = [
        (|d| d["shard"] = json!([2, 2]), 4010),
        (|d| d["shard"] = json!([0, 0]), 4010),
        (|d| d["shard"] = json!([7, 3]), 4010),
        (|d| d["intents"] = json!(1_u32 << 30), 4013),
        (|d| d["intents"] = json!(u64::MAX), 4013),
        (|d| d["intents"] = json!(-1), 4013),
        (|d| d["intents"] = json!(1 << 1), 4014),
        (|d| d["intents"] = json!(1 << 8), 4014),
        (|d| d["intents"] = json!(1 << 15), 4014),
    ];
    for (change, code) in cases {
        let frame = identify(change);
        let end = end_after(&cluster, &[&frame]).await;
        assert_eq!(end, End::Closed(code), "{}", change_name(&frame));
    }
    witness.is_served(&cluster).await;
}

/// The part of an IDENTIFY that the cases differ in; never its token.
fn change_name(frame: &str) -> String {
    let frame: Value = serde_json::from_str(frame).unwrap();
    format!(
        "shard {}, intents {}",
        frame["d"]["shard"], frame["d"]["intents"]
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_frames_are_closed_with_4008() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let mut client = open(&cluster).await;
    client.expect_op(10).await;
    for _ in 0..140 {
        client.send(&json!({"op": 1, "d": null}));
    }
    assert_eq!(client.ended().await, End::Closed(4008));
    let acks = client
        .frames()
        .iter()
        .filter(|frame| frame.op == 11)
        .count();
    assert!((110..=120).contains(&acks), "{acks} of 120 frames answered");

    // A client may resume after that.
    let mut client = open(&cluster).await;
    client.identify(&witness.owner.token, None).await;
    let ready = client.expect_dispatch("READY").await;
    for _ in 0..140 {
        client.send(&json!({"op": 1, "d": 1}));
    }
    assert_eq!(client.ended().await, End::Closed(4008));
    let mut client = open(&cluster).await;
    client.expect_op(10).await;
    let session = ready.d["session_id"].as_str().unwrap();
    client.send(&client::resume(&witness.owner.token, session, 1));
    client.expect_dispatch("RESUMED").await;
    witness.is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resume_is_refused_to_those_it_does_not_belong_to() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let other = world::human(&cluster, "other").await;
    let token = &witness.owner.token;
    let mut first = open(&cluster).await;
    first.identify(token, None).await;
    let ready = first.expect_dispatch("READY").await;
    let session = ready.d["session_id"].as_str().unwrap().to_owned();
    let foreign = witness.session.session_id();

    // Unknown, or somebody else's: op 9, and the socket can still identify.
    for session in ["0123456789abcdef0123456789abcdef", "", "x", &foreign] {
        let mut client = open(&cluster).await;
        client.expect_op(10).await;
        client.send(&client::resume(&other.token, session, 1));
        let refused = client.expect_op(9).await;
        assert_eq!(refused.d, json!(false), "{session}");
        client.send(&client::identify(&other.token, None, None));
        // The identify limit may answer op 9 again; then the client waits.
        loop {
            let frame = client.next().await.expect("the socket stays open");
            match (frame.op, frame.t.as_deref()) {
                (9, _) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    client.send(&client::identify(&other.token, None, None));
                }
                (_, Some("READY")) => break,
                _ => {}
            }
        }
    }

    // With a wrong token; with a number that was never sent.
    let mut client = open(&cluster).await;
    client.expect_op(10).await;
    client.send(&client::resume("MQ.b.c", &session, 1));
    assert_eq!(client.ended().await, End::Closed(4004));
    let mut client = open(&cluster).await;
    client.expect_op(10).await;
    client.send(&client::resume(token, &session, 1_000_000));
    assert_eq!(client.ended().await, End::Closed(4007));
    witness.is_served(&cluster).await;
}

/// A resume arrives while the old socket still seems alive: the new one takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newer_socket_takes_a_session_over() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let (owner, guild) = (&witness.owner, &witness.guild);
    let mut old = open(&cluster).await;
    old.identify(&owner.token, None).await;
    let ready = old.expect_dispatch("READY").await;
    let session = ready.d["session_id"].as_str().unwrap();
    owner.say(&guild.channel, "one").await;
    let first = old.expect_dispatch("MESSAGE_CREATE").await;

    let mut new = open(&cluster).await;
    new.expect_op(10).await;
    new.send(&client::resume(&owner.token, session, 1));
    let replayed = new.next().await.unwrap();
    assert_eq!(replayed.s, Some(2));
    if first.s == Some(2) {
        assert_eq!(replayed.d, first.d, "a replay repeats the event");
    }
    new.expect_dispatch("RESUMED").await;
    assert_ne!(old.ended().await, End::Closed(1000));
    owner.say(&guild.channel, "two").await;
    loop {
        let message = new.expect_dispatch("MESSAGE_CREATE").await;
        if message.d["content"] == "two" {
            break;
        }
    }
    // A client that says goodbye ends its session.
    new.close(1000);
    new.ended().await;
    let mut late = open(&cluster).await;
    late.expect_op(10).await;
    late.send(&client::resume(&owner.token, session, 2));
    assert_eq!(late.expect_op(9).await.d, json!(false));
    witness.is_served(&cluster).await;
}

/// 10 000 frames of every kind of nonsense, over a thousand short connections, eight at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_random_frames_harm_nobody() {
    const CONNECTIONS: usize = 1000;
    const FRAMES: usize = 10;
    const AT_ONCE: usize = 8;
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let before = cluster.gateways[0].server.memory_bytes().unwrap();
    let url = cluster.gateways[0].direct_url.clone();
    let token = witness.owner.token.clone();
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|task| {
            let (url, token) = (url.clone(), token.clone());
            tokio::spawn(async move {
                for number in 0..CONNECTIONS / AT_ONCE {
                    let mut bytes = Vec::new();
                    if number % 50 == 0 {
                        // Some of the nonsense comes from somebody who is logged in.
                        let identify = client::identify(&token, None, None).to_string();
                        frame(&mut bytes, 0x81, identify.as_bytes(), true);
                    }
                    for _ in 0..FRAMES {
                        random_frame(&mut bytes);
                    }
                    throw(&url, &bytes, task % 2 == 0).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    witness.is_served(&cluster).await;
    let after = cluster.gateways[0].server.memory_bytes().unwrap();
    assert!(after < before + (64 << 20), "memory: {before} -> {after}");
}

/// Upgrades by hand, writes all of `bytes` and either waits for the server's end or drops.
async fn throw(url: &str, bytes: &[u8], politely: bool) {
    let Ok(mut stream) = connect_tcp(url).await else {
        panic!("the gateway does not accept any more");
    };
    let upgrade = "GET /?v=10&encoding=json HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    if stream.write_all(upgrade.as_bytes()).await.is_err() {
        return;
    }
    let mut start = [0; 512];
    let count = timeout(Duration::from_secs(30), stream.read(&mut start)).await;
    assert!(matches!(count, Ok(Ok(1..))), "no answer to the upgrade");
    assert!(start.starts_with(b"HTTP/1.1 101"), "no upgrade");
    let _ = stream.write_all(bytes).await; // the server may be quicker
    if politely {
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let ended = timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the server keeps a dead connection");
    }
}

fn random_frame(out: &mut Vec<u8>) {
    let mut rng = rand::rng();
    let ops: [i64; 12] = [0, 1, 2, 3, 4, 6, 7, 8, 11, 14, 40, 4_000_000_000];
    let op = ops[rng.random_range(0..ops.len())];
    let values = [
        "null",
        "1",
        "-1",
        "1e400",
        "18446744073709551616",
        "\"\"",
        "\"\\ud800\"",
        "[]",
        "[[[[[[[[[[]]]]]]]]]]",
        "{}",
        r#"{"token":"MQ.b.c","properties":{},"intents":0}"#,
        r#"{"token":null,"session_id":"","seq":-1}"#,
        r#"{"guild_id":"1","query":"","limit":0}"#,
        r#"{"guild_id":[1,2],"user_ids":[{}]}"#,
        r#"{"since":0,"activities":null,"status":"x","afk":1}"#,
        r#"{"guild_id":"0","channel_id":"x","self_mute":2}"#,
    ];
    let value = values[rng.random_range(0..values.len())];
    let text = format!(r#"{{"op":{op},"d":{value}}}"#);
    match rng.random_range(0..12) {
        0..=3 => frame(out, 0x81, text.as_bytes(), true),
        4 => frame(out, 0x82, text.as_bytes(), true),
        5 => {
            // In fragments, with a ping between them, perhaps without an end.
            let (a, b) = text.as_bytes().split_at(text.len() / 2);
            frame(out, 0x01, a, true);
            frame(out, 0x89, b"between", true);
            frame(out, if rng.random() { 0x80 } else { 0x00 }, b, true);
        }
        6 => frame(out, 0x81, text.as_bytes(), false),
        7 => (0..rng.random_range(1..50)).for_each(|_| frame(out, 0x89, b"ping", true)),
        8 => {
            let mut junk = vec![0; rng.random_range(0..5000)];
            rng.fill(&mut junk[..]);
            frame(out, rng.random(), &junk, rng.random());
        }
        9 => {
            let mut junk = vec![0; rng.random_range(0..300)];
            rng.fill(&mut junk[..]);
            out.extend(junk); // not even a frame
        }
        10 => {
            // A close frame with a code and reason of any kind.
            let mut junk = vec![0; rng.random_range(0..126)];
            rng.fill(&mut junk[..]);
            frame(out, 0x88, &junk, true);
        }
        _ => {
            // Promises far more than it sends.
            out.extend([0x81, 0xFF]);
            out.extend(rng.random::<u64>().to_be_bytes());
            out.extend([0; 4]);
            out.extend(text.as_bytes());
        }
    }
}

/// One WebSocket frame; `first` is FIN, RSV and the opcode.
fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8], masked: bool) {
    out.push(first);
    let mask_bit = if masked { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..126 => out.push(mask_bit | length as u8),
        length @ 126..65_536 => {
            out.push(mask_bit | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(mask_bit | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        let key: [u8; 4] = rand::random();
        out.extend(key);
        out.extend(
            payload
                .iter()
                .zip(key.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
    } else {
        out.extend(payload);
    }
}

/// Readers that never read, in a busy channel: they are dropped, nobody else notices, and what
/// is kept for them stays bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_are_dropped_and_harm_nobody() {
    const READERS: usize = 6;
    const WRITERS: usize = 4;
    const EACH: usize = 160;
    /// Per reader: its queue, its replay buffer, and some for the allocator.
    const MEMORY_BYTES_MAX: u64 = READERS as u64 * (16 << 20) + (64 << 20);

    let cluster = Use::own(Options {
        apis: 1,
        gateways: 1,
        shards: 32,
        own_postgres: false,
    })
    .await;
    let witness = Witness::new(&cluster).await;
    let (owner, guild) = (&witness.owner, &witness.guild);
    let before = cluster.gateways[0].server.memory_bytes().unwrap();

    let mut stalled = Vec::new();
    for _ in 0..READERS {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(cluster.gateways[0].addr).await.unwrap();
        let upgrade = "GET /?v=10 HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\n\
            upgrade: websocket\r\nsec-websocket-version: 13\r\n\
            sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let mut bytes = upgrade.as_bytes().to_vec();
        let identify = client::identify(&owner.token, None, None).to_string();
        frame(&mut bytes, 0x81, identify.as_bytes(), true);
        stream.write_all(&bytes).await.unwrap();
        // Reads until it is logged in, then never again.
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("READY") {
            let mut part = [0; 2048];
            let count = stream.read(&mut part).await.unwrap();
            assert!(count > 0, "closed before READY");
            seen.extend(&part[..count]);
            if String::from_utf8_lossy(&seen).contains(r#""op":9"#) {
                panic!("the identify limit holds up the test");
            }
        }
        stalled.push(stream);
    }

    // Four bytes per character: 8 KB each, 5 MB in all, more than a queue and the kernel hold.
    let flood = "🦀".repeat(1990);
    let path = format!("/channels/{}/messages", guild.channel);
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (rest, path, flood) = (owner.rest.clone(), path.clone(), flood.clone());
            tokio::spawn(async move {
                for number in 0..EACH {
                    let content = format!("{writer}.{number} {flood}");
                    let form = json!({"content": content});
                    rest.try_call(Method::POST, &path, Some(&form))
                        .await
                        .unwrap()
                        .ok();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let db = cluster.db().await.unwrap();
    let stored = ledger::stored(&db, &guild.id).await.unwrap();
    let stored = &stored[&guild.channel];
    assert_eq!(stored.len(), WRITERS * EACH);
    ledger::assert_received("witness", &witness.session, &guild.channel, stored, true).await;

    let after = cluster.gateways[0].server.memory_bytes().unwrap();
    assert!(
        after < before + MEMORY_BYTES_MAX,
        "memory: {before} -> {after}"
    );
    for stream in stalled {
        let ended = timeout(e2e::wait::NEVER, read_to_end(stream)).await;
        assert!(ended.is_ok(), "a reader that never read was kept");
    }
    witness.is_served(&cluster).await;
}

/// Reads what is still there; a reset is an end like any other.
async fn read_to_end(mut stream: TcpStream) {
    let mut part = vec![0; 64 * 1024];
    while matches!(stream.read(&mut part).await, Ok(1..)) {}
}

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

    // Only announced: the answer must not wait for 64 MiB.
    let head = format!(
        "POST /api/v10{messages} HTTP/1.1\r\nhost: api\r\nauthorization: {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{{\"content\":\"",
        witness.owner.token,
        64 << 20,
    );
    let mut stream = TcpStream::connect(cluster.apis[0].addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("40005") {
        let mut part = [0; 1024];
        let count = timeout(e2e::wait::NEVER, stream.read(&mut part)).await;
        let count = count.expect("an answer to an announced giant").unwrap();
        let so_far = String::from_utf8_lossy(&answer);
        assert!(count > 0, "no error 40005 in {so_far}");
        answer.extend(&part[..count]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 413"));

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_at_every_port_harm_nobody() {
    const CONNECTIONS: usize = 150;
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    for addr in [cluster.gateways[0].addr, cluster.apis[0].addr] {
        for number in 0..CONNECTIONS {
            let mut bytes = vec![0; rand::random_range(1..4000)];
            rand::rng().fill(&mut bytes[..]);
            if number % 3 == 0 {
                let start = b"GET /?v=10 HTTP/1.1\r\nupgrade: websocket\r\n";
                bytes.splice(0..0, *start);
            }
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let _ = stream.write_all(&bytes).await; // the server may be quicker
            if number % 5 != 0 {
                let _ = stream.shutdown().await;
                let ended = timeout(e2e::wait::NEVER, read_to_end(stream)).await;
                assert!(ended.is_ok(), "a dead connection is kept");
            }
        }
    }
    witness.is_served(&cluster).await;
}
