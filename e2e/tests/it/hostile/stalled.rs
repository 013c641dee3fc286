//! All clients of a gateway stall at once, each in its own way: its memory stays within the
//! budget that the limits of the queues add up to (I12), and who reads gets everything.

use e2e::cluster::{Options, Use};

use super::{
    Witness,
    raw::{Raw, UPGRADE, masked},
};

/// Sessions that read nothing more.
const SESSIONS: usize = 40;
/// Sockets within a handshake, within a frame, and with pongs they do not read.
const OTHERS: usize = 100;
const WRITERS: usize = 4;
/// Messages of 8 KB per writer: 7 MB in all.
const EACH: usize = 220;

/// One copy of all bodies, which the sessions share, once more for the witness's, and once
/// for the node's.
const BODIES_BYTES: u64 = 3 * (WRITERS * EACH) as u64 * 9 * 1024;
/// What a stalled session has for itself: a write that the socket took in part, and references.
const SESSION_BYTES: u64 = 128 * 1024;
/// A handshake's head, a frame and a read, or the pongs of a socket.
const OTHER_BYTES: u64 = 48 * 1024;
/// Allocators keep some, and the process warms up.
const SLACK_BYTES: u64 = 32 << 20;
const BUDGET_BYTES: u64 =
    BODIES_BYTES + SESSIONS as u64 * SESSION_BYTES + 3 * OTHERS as u64 * OTHER_BYTES + SLACK_BYTES;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_within_its_budget_with_all_clients_stalled() {
    let cluster = Use::own(Options::SMALL).await;
    let witness = Witness::new(&cluster).await;
    let address = cluster.gateways[0].addr;
    let before = cluster.gateways[0].server.memory_bytes().unwrap();

    let mut stalled = Vec::new();
    for _ in 0..SESSIONS {
        let mut client = Raw::connect_from("127.0.0.1", address).await;
        client.upgrade().await;
        client.identify(&witness.owner.token).await;
        stalled.push(client);
    }
    for _ in 0..OTHERS {
        let mut handshake = Raw::connect(address).await;
        handshake.send(&UPGRADE.as_bytes()[..100]).await;
        let mut frame = Raw::open(address).await;
        let command = masked(0x81, &[b' '; 4096]);
        frame.send(&command[..4000]).await;
        let mut pinging = Raw::connect_from("127.0.0.1", address).await;
        pinging.upgrade().await;
        // More than a connection may keep waiting; some of them are cut for it.
        pinging.send(&masked(0x89, &[b'x'; 125]).repeat(1000)).await;
        stalled.extend([handshake, frame, pinging]);
    }

    witness.is_flooded(&cluster, WRITERS, EACH).await;

    let after = cluster.gateways[0].server.memory_bytes().unwrap();
    assert!(
        after < before + BUDGET_BYTES,
        "memory: {before} -> {after}, budget {BUDGET_BYTES}"
    );
    drop(stalled);
    witness.is_served(&cluster).await;
}
