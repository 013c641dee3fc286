//! Frames out of order, of the wrong shape, by the wrong people: the documented close codes.

use std::time::Duration;

use e2e::{
    client::{self, Client, End},
    world,
};
use serde_json::{Value, json};

use super::{CLUSTER, Witness, end_after, open};

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

/// Clients of people say in one frame what they look at in all their guilds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_may_send_longer_frames_than_bots() {
    let cluster = CLUSTER.cluster().await;
    let witness = Witness::new(&cluster).await;
    let bot = witness.owner.make_bot("bot").await;
    let frame = |bytes: usize| {
        let empty = r#"{"op":37,"d":{"subscriptions":{},"x":""}}"#;
        let filling = "x".repeat(bytes - empty.len());
        format!(r#"{{"op":37,"d":{{"subscriptions":{{}},"x":"{filling}"}}}}"#)
    };
    for (account, intents, most) in [(&witness.owner, None, 15_360), (&bot, Some(1), 4096)] {
        let mut client = open(&cluster).await;
        client.identify(&account.token, intents).await;
        client.expect_dispatch("READY").await;
        client.send_text(frame(most));
        client.send(&json!({"op": 1, "d": null}));
        client.expect_op(11).await;
        client.send_text(frame(most + 1));
        let end = client.ended().await;
        assert_eq!(end, End::Closed(4002), "after {} bytes", most + 1);
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
    // Whatever else is wrong with it.
    let mut frame = client::identify(&forged, Some(1), None);
    for (key, bad) in [("shard", json!([2, 2])), ("intents", json!(-1))] {
        frame["d"][key] = bad;
        let end = end_after(&cluster, &[&frame.to_string()]).await;
        assert_eq!(end, End::Closed(4004), "{key}");
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
