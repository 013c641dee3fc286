//! Handshakes and frames that RFC 6455 and RFC 9112 forbid, and senders that take their time.

use e2e::client;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, task::JoinSet};

use super::{
    CLUSTER, Witness,
    raw::{Raw, UPGRADE, masked},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_without_an_end_are_cut_and_harm_nobody() {
    const EACH: usize = 40;
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let address = cluster.gateways[0].addr;
    let mut clients = JoinSet::new();
    for number in 0..EACH {
        clients.spawn(async move {
            // Says nothing; stops in the middle; sends headers for ever; one byte at a time.
            let mut silent = Raw::connect(address).await;
            assert_eq!(silent.status().await, None);

            let mut half = Raw::connect(address).await;
            let part = &UPGRADE.as_bytes()[..1 + number * UPGRADE.len() / EACH / 2];
            half.send(part).await;
            assert_eq!(half.status().await, None);

            let mut endless = Raw::connect(address).await;
            endless.send(&UPGRADE.as_bytes()[..UPGRADE.len() - 2]).await;
            let mut sent = 0;
            while sent < 4 << 20 && endless.send(b"x-more: and more\r\n").await {
                sent += 18;
            }
            assert!(sent < 4 << 20, "took four megabytes of headers");
            assert_ne!(endless.status().await, Some(101));
        });
    }
    witness.is_served(&cluster).await;
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    witness.is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_at_a_time_is_served_like_everybody() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let mut slow = Raw::connect(cluster.gateways[0].addr).await;
    slow.send_slowly(UPGRADE.as_bytes()).await;
    assert_eq!(slow.status().await, Some(101));
    slow.expect(r#""op":10"#).await;
    let identify = client::identify(&witness.owner.token, None, None).to_string();
    let (head, tail) = identify.as_bytes().split_at(identify.len() / 2);
    slow.send_slowly(&masked(0x01, head)).await;
    slow.send_slowly(&masked(0x89, b"between")).await;
    slow.send_slowly(&masked(0x80, tail)).await;
    slow.expect(r#""t":"READY""#).await;
    let content = e2e::world::random_word();
    witness.owner.say(&witness.guild.channel, &content).await;
    slow.expect(&content).await;
    witness.is_served(&cluster).await;
}

/// Half open: the client's end is closed without a word, the server's is not. (A client that is gone
/// without even that is noticed by its heartbeats.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_half_open_is_ended_and_its_session_goes_on() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let address = cluster.gateways[0].addr;
    let (token, channel) = (&witness.owner.token, &witness.guild.channel);
    let mut half = Raw::open(address).await;
    let ready = half.identify(token).await;
    half.stream.shutdown().await.unwrap();
    // Whatever the code, there is an end.
    half.closed_with().await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let session = ready["d"]["session_id"].as_str().unwrap();
    let mut back = Raw::open(address).await;
    let resume = client::resume(token, session, 1).to_string();
    back.send(&masked(0x81, resume.as_bytes())).await;
    back.expect(r#""t":"RESUMED""#).await;
    let content = e2e::world::random_word();
    witness.owner.say(channel, &content).await;
    back.expect(&content).await;
    witness.is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_right_behind_the_upgrade_is_read() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let mut eager = Raw::connect(cluster.gateways[0].addr).await;
    let identify = client::identify(&witness.owner.token, None, None).to_string();
    let mut all = UPGRADE.as_bytes().to_vec();
    all.extend(masked(0x89, b"early"));
    all.extend(masked(0x81, identify.as_bytes()));
    all.extend(masked(0x81, br#"{"op":1,"d":null}"#));
    eager.send(&all).await;
    assert_eq!(eager.status().await, Some(101));
    eager.expect(r#""op":10"#).await;
    eager.expect(r#""op":11"#).await;
    eager.expect(r#""t":"READY""#).await;
    witness.is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_disguise_are_not_upgraded() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let without = |line: &str| {
        let shorter = UPGRADE.replace(line, "");
        assert_ne!(shorter, UPGRADE, "{line}");
        shorter
    };
    let with = |line: &str| UPGRADE.replace("host: gateway\r\n", line);
    for request in [
        // No upgrade, or not one of WebSocket 13.
        "GET / HTTP/1.1\r\nhost: gateway\r\n\r\n".to_owned(),
        without("upgrade: websocket\r\n"),
        without("connection: Upgrade\r\n"),
        without("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        without("sec-websocket-version: 13\r\n"),
        UPGRADE.replace("version: 13", "version: 12"),
        UPGRADE.replace("upgrade: websocket", "upgrade: h2c"),
        UPGRADE.replace("HTTP/1.1", "HTTP/1.0"),
        UPGRADE.replace("HTTP/1.1", "HTTP/2.0"),
        UPGRADE.replacen("GET", "POST", 1),
        UPGRADE.replacen("GET", "GET\tGET", 1),
        // A body, and so frames that are none.
        with("host: gateway\r\ncontent-length: 5\r\n"),
        with("host: gateway\r\ntransfer-encoding: chunked\r\n"),
        // Two ideas of where it ends.
        with("host: gateway\r\ncontent-length: 5\r\ncontent-length: 6\r\n"),
        with("host: gateway\r\ncontent-length: -1\r\n"),
        with("host: gateway\r\ncontent-length: 0x10\r\n"),
        with("host: gateway\r\ntransfer-encoding: chunked, identity\r\n"),
        with("host: gateway\r\ntransfer-encoding: x\r\n"),
        // Lines in lines.
        with("host: gateway\r\n folded: x\r\n"),
        with("host : gateway\r\n"),
        with("ho\0st: gateway\r\n"),
        with("host: gate\0way\r\n"),
        with("host: gateway\r\nx: a\rb\r\n"),
    ] {
        let mut client = Raw::connect(cluster.gateways[0].addr).await;
        client.send(request.as_bytes()).await;
        // What is smuggled behind it must not be taken for a request of its own.
        client.send(b"GET /smuggled HTTP/1.1\r\n\r\n").await;
        let _ = client.stream.shutdown().await;
        let status = client.status().await;
        assert!(
            status.is_none_or(|status| (400..600).contains(&status)),
            "{status:?} for {request:?}"
        );
    }
    witness.is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_against_the_rules_are_closed_with_their_codes() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let huge = |length: u64| {
        let mut frame = vec![0x81, 0xFF];
        frame.extend(length.to_be_bytes());
        frame.extend([1, 2, 3, 4]);
        frame
    };
    let joined = |frames: &[Vec<u8>]| frames.concat();
    let endless = |part: &[u8], times: usize| {
        let mut all = masked(0x01, part);
        all.extend(masked(0x00, part).repeat(times));
        all
    };
    let deep = format!(r#"{{"op":1,"d":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    for (what, bytes, code) in [
        ("no mask", b"\x81\x02hi".to_vec(), 1002),
        ("RSV1", masked(0xC1, b"{}"), 1002),
        ("RSV2", masked(0xA1, b"{}"), 1002),
        ("RSV3", masked(0x91, b"{}"), 1002),
        ("RSV1 of a ping", masked(0xC9, b""), 1002),
        ("opcode 3", masked(0x83, b"{}"), 1002),
        ("opcode 15", masked(0x8F, b"{}"), 1002),
        ("a ping in pieces", masked(0x09, b"ping"), 1002),
        ("a long ping", masked(0x89, &[b'x'; 126]), 1002),
        ("a long pong", masked(0x8A, &[b'x'; 126]), 1002),
        ("a long close", masked(0x88, &[b'x'; 126]), 1002),
        ("a close without a code", masked(0x88, &[3]), 1002),
        (
            "a close with 999",
            masked(0x88, &999u16.to_be_bytes()),
            1002,
        ),
        ("an end without a start", masked(0x80, b"{}"), 1002),
        (
            "a text within a text",
            joined(&[masked(0x01, b"{"), masked(0x81, b"{}")]),
            1002,
        ),
        (
            "a text start within a text",
            joined(&[masked(0x01, b"{"), masked(0x01, b"}")]),
            1002,
        ),
        ("no UTF-8", masked(0x81, b"\xC3\x28"), 1007),
        ("a surrogate", masked(0x81, b"\xED\xA0\x80"), 1007),
        ("half a character", masked(0x81, b"{}\xF0\x9F"), 1007),
        (
            "half a character at the end of a text in pieces",
            joined(&[masked(0x01, b"{}"), masked(0x80, b"\xF0\x9F")]),
            1007,
        ),
        (
            "a reason that is no text",
            masked(0x88, b"\x03\xE8\xFF"),
            1007,
        ),
        ("4097 bytes", masked(0x81, &[b' '; 4097]), 4002),
        ("4 GiB", huge(1 << 32), 4002),
        ("everything there is", huge(u64::MAX), 4002),
        (
            "a message that does not end",
            endless(&[b' '; 1000], 5),
            4002,
        ),
        ("fragments of nothing", endless(b"", 1300), 4008),
        ("a flood of pings", masked(0x89, b"").repeat(1300), 4008),
        ("a flood of pongs", masked(0x8A, b"x").repeat(1300), 4008),
        ("deep JSON", masked(0x81, deep.as_bytes()), 4002),
        ("binary that is no JSON", masked(0x82, b"\x83\x64"), 4002),
    ] {
        let mut client = Raw::open(cluster.gateways[0].addr).await;
        client.send(&bytes).await;
        assert_eq!(client.closed_with().await, Some(code), "{what}");
    }
    witness.is_served(&cluster).await;
}

/// Frames are cut at the protocol's limit and not before, whatever the form of their length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_command_is_answered() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let command = |length: usize| format!("{:length$}", r#"{"op":1,"d":null}"#);
    let mut client = Raw::open(cluster.gateways[0].addr).await;
    for length in [17, 125, 126, 127, 4096] {
        client.send(&masked(0x81, command(length).as_bytes())).await;
        client.expect(r#""op":11"#).await;
    }
    let (head, tail) = (command(4096), String::new());
    client.send(&masked(0x01, head.as_bytes())).await;
    client.send(&masked(0x80, tail.as_bytes())).await;
    client.expect(r#""op":11"#).await;
    witness.is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_identifies_is_closed_with_4009() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let mut silent = Raw::open(cluster.gateways[0].addr).await;
    assert_eq!(silent.closed_with().await, Some(4009));
    witness.is_served(&cluster).await;
}

/// The default limit; the clients have an address of their own, so that nobody else meets it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_gets_its_share_of_the_sockets_and_no_more() {
    const SHARE: usize = 1000;
    const FROM: &str = "127.0.0.9";
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let address = cluster.gateways[0].addr;
    let mut many = Vec::new();
    for _ in 0..SHARE {
        let mut client = Raw::connect_from(FROM, address).await;
        client.upgrade().await;
        many.push(client);
    }
    let mut more = Raw::connect_from(FROM, address).await;
    more.send(UPGRADE.as_bytes()).await;
    assert_eq!(more.status().await, None);
    witness.is_served(&cluster).await;

    drop(many);
    e2e::wait::until("room for another socket", || async {
        let mut client = Raw::connect_from(FROM, address).await;
        client.send(UPGRADE.as_bytes()).await;
        (client.status().await == Some(101)).then_some(())
    })
    .await;
    witness.is_served(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encodings_that_do_not_exist_are_closed_with_4002() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    for query in [
        "encoding=xml",
        "encoding=",
        "v=10&encoding=JSON",
        "encoding=json&encoding=xml",
    ] {
        let mut client = Raw::connect(cluster.gateways[0].addr).await;
        let upgrade = UPGRADE.replace("v=10&encoding=json", query);
        client.send(upgrade.as_bytes()).await;
        assert_eq!(client.status().await, Some(101), "{query}");
        assert_eq!(client.closed_with().await, Some(4002), "{query}");
    }
    let heartbeat = json!({"op": 1, "d": null}).to_string();
    for query in [
        "compress=gzip",
        "compress=",
        "compress",
        "compress=ZLIB-STREAM",
        "&&=&compress=a=b",
    ] {
        let mut client = Raw::connect(cluster.gateways[0].addr).await;
        let upgrade = UPGRADE.replace("v=10&encoding=json", query);
        client.send(upgrade.as_bytes()).await;
        assert_eq!(client.status().await, Some(101), "{query}");
        client.send(&masked(0x81, heartbeat.as_bytes())).await;
        client.expect(r#""op":11"#).await;
    }
    witness.is_served(&cluster).await;
}
