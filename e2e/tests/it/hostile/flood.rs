//! Too much of everything: random frames, random bytes, readers that do not read.

use std::time::Duration;

use e2e::{
    client::{self, connect_tcp},
    cluster::{Options, Use},
};
use rand::RngExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    CLUSTER, Witness,
    raw::{Raw, UPGRADE},
};

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
    if stream.write_all(UPGRADE.as_bytes()).await.is_err() {
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
pub(super) fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8], masked: bool) {
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

    let cluster = Use::own(Options::SMALL).await;
    let witness = Witness::new(&cluster).await;
    let before = cluster.gateways[0].server.memory_bytes().unwrap();

    let mut stalled = Vec::new();
    for _ in 0..READERS {
        // Reads until it is logged in, then never again.
        let mut reader = Raw::connect_from("127.0.0.1", cluster.gateways[0].addr).await;
        reader.upgrade().await;
        reader.identify(&witness.owner.token).await;
        stalled.push(reader.stream);
    }

    // 5 MB in all, more than a queue and the kernel hold.
    witness.is_flooded(&cluster, WRITERS, EACH).await;

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
