//! Any mixture of writes, over sockets that take as little as they like, reads as it was sent.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use guildhall_shared::gateway::EventKind;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    codec,
    decoder::{Decoder, FORMATS, frames},
    dispatch::Dispatch,
};

/// Takes `room` bytes in all; more room comes later.
#[derive(Default)]
struct Fake {
    room: Cell<usize>,
    taken: RefCell<Vec<u8>>,
}

impl Socket for Fake {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.room.get());
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room.set(self.room.get() - len);
        self.taken.borrow_mut().extend_from_slice(&bytes[..len]);
        Ok(len)
    }
}

/// A connection, its session, and what its client must read.
struct Client {
    out: Outbound,
    socket: Fake,
    replay: Replay,
    expected: Vec<Value>,
    pongs: usize,
    /// Dispatches from here on are not yet expected: those written later come later.
    expected_s: u64,
    dirty: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// A dispatch of so many words for the clients of this mask.
    Dispatch(u8, usize),
    Flush,
    /// An answer to a heartbeat of this client.
    Ack(usize),
    Ping(usize),
    /// Room for so many bytes in this client's socket.
    Room(usize, usize),
    /// This client resumes on a new socket, having read all but so many dispatches.
    Resume(usize, u64),
}

const CLIENTS: usize = 8;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<u8>(), 0usize..60).prop_map(|(mask, words)| Step::Dispatch(mask, words)),
        2 => (0usize..60).prop_map(|words| Step::Dispatch(0xFF, words)),
        1 => (any::<u8>(), 3_000usize..9_000).prop_map(|(mask, words)| Step::Dispatch(mask, words)),
        3 => Just(Step::Flush),
        1 => (0..CLIENTS).prop_map(Step::Ack),
        1 => (0..CLIENTS).prop_map(Step::Ping),
        4 => (0..CLIENTS, prop_oneof![0usize..300, 0usize..50_000]).prop_map(|(client, room)| Step::Room(client, room)),
        1 => (0..CLIENTS, 0u64..5).prop_map(|(client, back)| Step::Resume(client, back)),
    ];
    prop::collection::vec(step, 1..60)
}

fn body(n: usize, words: usize) -> Value {
    let words: Vec<String> = (0..words)
        .map(|word| format!("word{}", (word * 31 + n) % 97))
        .collect();
    json!({"id": (1_100_000_000_000_000_000 + n).to_string(), "content": words.join(" "), "n": -(n as i64)})
}

struct World {
    clients: Vec<Client>,
    layouts: Layouts,
    now: Instant,
    bodies: usize,
}

impl World {
    fn new() -> Self {
        let clients = (0..CLIENTS).map(|n| Client::new(FORMATS[n % FORMATS.len()]));
        Self {
            clients: clients.collect(),
            layouts: Layouts::default(),
            now: Instant::now(),
            bodies: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Dispatch(mask, words) => {
                self.bodies += 1;
                let body = body(self.bodies, words).to_string();
                let kind = [EventKind::MessageCreate, EventKind::TypingStart][words % 2];
                let dispatch = Dispatch::new(kind, body.as_bytes(), now);
                for (n, client) in self.clients.iter_mut().enumerate() {
                    if mask >> n & 1 != 0 {
                        client
                            .replay
                            .push(dispatch.clone(), usize::MAX, || u64::MAX);
                        client.dirty = true;
                    }
                }
            }
            Step::Flush => {
                for client in &mut self.clients {
                    if std::mem::take(&mut client.dirty) {
                        client.flush(now, &mut self.layouts);
                    }
                }
                self.layouts.clear();
            }
            Step::Ack(n) => {
                let client = &mut self.clients[n];
                let ack = serde_json::from_str(codec::HEARTBEAT_ACK).unwrap();
                client.expected.push(ack);
                let wrote = client
                    .out
                    .payload(now, &client.socket, codec::HEARTBEAT_ACK);
                assert!(!matches!(wrote, Wrote::Behind | Wrote::Broken));
            }
            Step::Ping(n) => {
                let client = &mut self.clients[n];
                client.pongs += 1;
                client.out.pong(now, &client.socket, b"ping");
            }
            Step::Room(n, room) => {
                let client = &mut self.clients[n];
                client.socket.room.set(client.socket.room.get() + room);
                client.write_more(now, &mut self.layouts);
            }
            Step::Resume(n, back) => {
                self.settle(n);
                let client = &mut self.clients[n];
                let from = client.out.sent_s().saturating_sub(back);
                let old = std::mem::replace(client, Client::new(client.out.format()));
                client.replay = old.replay;
                assert!(client.out.bind(&client.replay, from));
                client.expected_s = from;
                client.dirty = true;
            }
        }
    }

    /// All that a client is to get reaches it, and it reads just that.
    fn settle(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.socket.room.set(usize::MAX);
        client.flush(self.now, &mut self.layouts);
        client.write_more(self.now, &mut self.layouts);
        client.flush(self.now, &mut self.layouts);
        self.layouts.clear();
        client.expect_sent();
        assert!(!client.out.is_mid_frame());
        assert_eq!(client.out.sent_s(), client.replay.last_s());
        assert_eq!(client.out.sent_bytes, client.replay.pushed_bytes());
        let bytes = client.socket.taken.borrow();
        let pongs = frames(&bytes)
            .iter()
            .filter(|(kind, _)| *kind == Frame::Pong)
            .count();
        assert_eq!(pongs, client.pongs);
        let read = Decoder::new(client.out.format()).read(&bytes);
        let order = |payloads: &[Value]| -> (Vec<Value>, usize) {
            let dispatches = payloads.iter().filter(|payload| payload["op"] == 0);
            let dispatches: Vec<_> = dispatches.cloned().collect();
            let others = payloads.len() - dispatches.len();
            (dispatches, others)
        };
        let (dispatches, others) = order(&read);
        let (expected, expected_others) = order(&client.expected);
        assert_eq!(others, expected_others);
        assert_eq!(dispatches.len(), expected.len());
        for (read, expected) in dispatches.iter().zip(&expected) {
            assert_eq!(read["s"], expected["s"], "{:?}", client.out.format());
            assert_eq!(read["t"], expected["t"]);
            // ETF has ids as integers.
            assert_eq!(read["d"]["content"], expected["d"]["content"]);
            assert_eq!(read["d"]["n"], expected["d"]["n"]);
        }
    }
}

impl Client {
    fn new(format: Format) -> Self {
        let mut client = Self {
            out: Outbound::new(format, false),
            socket: Fake::default(),
            replay: Replay::default(),
            expected: vec![serde_json::from_str(codec::HELLO).unwrap()],
            pongs: 0,
            expected_s: 0,
            dirty: false,
        };
        let now = Instant::now();
        client.out.payload(now, &client.socket, codec::HELLO);
        client
    }

    fn flush(&mut self, now: Instant, layouts: &mut Layouts) {
        let wrote = self
            .out
            .flush(now, &self.socket, &self.replay, u64::MAX >> 1, layouts);
        assert!(!matches!(wrote, Wrote::Behind | Wrote::Broken));
        self.expect_sent();
    }

    fn write_more(&mut self, now: Instant, layouts: &mut Layouts) {
        if self.out.stalled_since().is_some() {
            let wrote = self
                .out
                .write_more(now, &self.socket, Some(&self.replay), layouts);
            assert!(matches!(wrote, Wrote::All | Wrote::Waits));
        }
        self.expect_sent();
    }

    fn expect_sent(&mut self) {
        for s in self.expected_s + 1..=self.out.sent_s() {
            let dispatch: &Rc<Dispatch> = self.replay.at(s).unwrap();
            let d: Value = serde_json::from_slice(&dispatch.body).unwrap();
            let payload = json!({"t": dispatch.kind.name(), "s": s, "op": 0, "d": d});
            self.expected.push(payload);
        }
        self.expected_s = self.out.sent_s();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_mixture_of_writes_reads_as_it_was_sent(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        for n in 0..CLIENTS {
            world.settle(n);
        }
    }
}

#[test]
fn a_client_that_asks_without_reading_is_too_slow() {
    let (mut out, socket) = (Outbound::default(), Fake::default());
    let now = Instant::now();
    assert_eq!(out.payload(now, &socket, codec::HELLO), Wrote::Stalled);
    for _ in 0..CONTROL_FRAMES_MAX {
        assert_eq!(out.pong(now, &socket, b""), Wrote::Waits);
    }
    assert_eq!(out.pong(now, &socket, b""), Wrote::Behind);
}

#[test]
fn what_waits_is_bounded_but_for_what_a_resume_replays() {
    let (now, socket) = (Instant::now(), Fake::default());
    let mut replay = Replay::default();
    let push = |replay: &mut Replay| {
        let dispatch = Dispatch::new(EventKind::MessageCreate, &[b'x'; 100], now);
        replay.push(dispatch, usize::MAX, || u64::MAX);
    };
    (0..10).for_each(|_| push(&mut replay));
    let (mut out, mut layouts) = (Outbound::default(), Layouts::default());
    assert!(out.bind(&replay, 0));
    assert_eq!(
        out.flush(now, &socket, &replay, 250, &mut layouts),
        Wrote::Stalled
    );
    (0..2).for_each(|_| push(&mut replay));
    assert_eq!(
        out.flush(now, &socket, &replay, 250, &mut layouts),
        Wrote::Waits
    );
    push(&mut replay);
    assert_eq!(
        out.flush(now, &socket, &replay, 250, &mut layouts),
        Wrote::Behind
    );
    // Once it has caught up, the limit alone counts.
    socket.room.set(usize::MAX);
    assert_eq!(
        out.write_more(now, &socket, Some(&replay), &mut layouts),
        Wrote::All
    );
    socket.room.set(0);
    (0..2).for_each(|_| push(&mut replay));
    assert_eq!(
        out.flush(now, &socket, &replay, 250, &mut layouts),
        Wrote::Stalled
    );
    push(&mut replay);
    assert_eq!(
        out.flush(now, &socket, &replay, 250, &mut layouts),
        Wrote::Behind
    );
}

#[test]
fn what_is_allowed_may_wait_until_all_is_written() {
    let (now, socket) = (Instant::now(), Fake::default());
    let mut replay = Replay::default();
    let push = |replay: &mut Replay, bytes: usize| {
        let dispatch = Dispatch::new(EventKind::Ready, &vec![b'x'; bytes], now);
        replay.push(dispatch, usize::MAX, || 0);
    };
    let (mut out, mut layouts) = (Outbound::default(), Layouts::default());
    for _ in 0..2 {
        push(&mut replay, 1000);
        out.allow(1000);
    }
    let mut flush =
        |out: &mut Outbound, replay: &Replay| out.flush(now, &socket, replay, 250, &mut layouts);
    assert_eq!(flush(&mut out, &replay), Wrote::Stalled);
    push(&mut replay, 200);
    assert_eq!(flush(&mut out, &replay), Wrote::Waits);
    socket.room.set(usize::MAX);
    let mut more = Layouts::default();
    let wrote = out.write_more(now, &socket, Some(&replay), &mut more);
    assert_eq!(wrote, Wrote::All);
    socket.room.set(0);
    push(&mut replay, 1000);
    assert_eq!(flush(&mut out, &replay), Wrote::Stalled);
    push(&mut replay, 1);
    assert_eq!(flush(&mut out, &replay), Wrote::Behind);
}

#[test]
fn a_socket_that_takes_a_part_of_a_burst_leaves_a_copy_of_little() {
    const BODY: usize = 8 * 1024;
    let (now, socket) = (Instant::now(), Fake::default());
    let mut replay = Replay::default();
    for _ in 0..200 {
        let dispatch = Dispatch::new(EventKind::MessageCreate, &[b'x'; BODY], now);
        replay.push(dispatch, usize::MAX, || u64::MAX);
    }
    let (mut out, mut layouts) = (Outbound::default(), Layouts::default());
    assert!(out.bind(&replay, 0));
    socket.room.set(300 * 1024);
    let flushed = out.flush(now, &socket, &replay, u64::MAX >> 1, &mut layouts);
    assert_eq!(flushed, Wrote::Stalled);
    assert!(out.sent_s() > 300 / 9, "what there is room for is written");
    assert!(out.head.len() <= AT_ONCE_BYTES as usize + 2 * BODY);
}
