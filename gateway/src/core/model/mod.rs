//! Cores without sockets, clock and node: random histories of one bot in one guild, whose
//! client breaks, resumes and reads slowly, while the node loses events on the way, and whose
//! next connection may lead to another core, while the one before lives, hangs or has died.
//!
//! Whatever happens, the client gets from its snapshot on exactly the events it may see, each
//! once, in order (I3, I6), across every RESUME (I4), and `s` grows by one (I5); or it is told
//! that its session is gone, or its guild for a moment, and starts anew. Of a channel that is
//! shown to it and hidden from it again it always learns in the end, and once of the end of its
//! guild.

mod client;
mod node;
mod steps;

use std::{
    collections::{HashMap, VecDeque},
    rc::{Rc, Weak},
    sync::Arc,
};

use guildhall_shared::{
    Id,
    gateway::{CloseCode, Intents},
    id::marker::{Channel, Guild, User},
    shard::Position,
};
use prometheus::Registry;
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::mpsc;

use self::{
    client::{Client, seen_since},
    node::{Former, Node},
    steps::{Fate, Kind, Step, Way, step},
};
use super::{Core, CoreConfig, clock};
use crate::{
    bus::ToNode,
    config::ResumeLog,
    format::Format,
    identity::{IdentifyRequest, Identity},
    names::SessionKey,
    socket::{Script, Socket},
    telemetry::CoreMetrics,
    wire::{Inbound, MESSAGE_BYTES_MAX},
};

pub(super) const TOKEN: &str = "MTA.aaaa.bbbb";
/// Less than READY takes.
const OWN_BYTES_FEW: usize = 400;
/// More than a session may be behind.
const FLOOD: u64 = 4200;

fn id<T>(id: u64) -> Id<T> {
    Id::new(id).unwrap()
}

pub(super) fn user() -> Id<User> {
    id(10 << 22)
}

pub(super) fn guild() -> Id<Guild> {
    id(77 << 22)
}

fn seen_channel() -> Id<Channel> {
    id(5)
}

fn hidden_channel() -> Id<Channel> {
    id(6)
}

pub(super) fn identity(request: &IdentifyRequest) -> Identity {
    let user = json!({
        "id": user(), "username": "bot", "discriminator": "0", "bot": true,
        "public_flags": 0, "flags": 0, "mfa_enabled": false, "locale": "en-US",
        "verified": true, "premium_type": 0,
    });
    Identity {
        user: serde_json::from_value(user).unwrap(),
        token: request.token.hash(),
        intents: request.intents.unwrap_or_default(),
        presences: Vec::new(),
        sessions: Vec::new(),
        application: None,
        position: Position { era: 1, seq: 1 },
        private_channels: Vec::new(),
        guilds: vec![guild()],
        personal: None,
        seat: None,
    }
}

pub(super) fn identify() -> String {
    let intents = (Intents::GUILDS | Intents::GUILD_MESSAGES).bits();
    json!({"op": 2, "d": {"token": TOKEN, "intents": intents, "properties": {}}}).to_string()
}

/// Cuts the next whole frame off: opcode and payload.
pub(super) fn next_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (header, len) = match bytes.as_slice() {
        [_, 127, rest @ ..] => (10, u64::from_be_bytes(*rest.first_chunk::<8>()?) as usize),
        [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        [_, len @ 0..=125, ..] => (2, usize::from(*len)),
        _ => return None,
    };
    let opcode = bytes[0] & 0xF;
    let payload = bytes.get(header..header + len)?.to_vec();
    bytes.drain(..header + len);
    Some((opcode, payload))
}

struct World {
    core: Core,
    node: Node,
    client: Client,
}

/// A core of one start of a node, and what it asks of the node.
pub(super) fn core(boot: u32, resume: ResumeLog) -> (Core, mpsc::Receiver<ToNode>) {
    let (to_node, requests) = mpsc::channel(1024);
    let config = CoreConfig {
        id: 0,
        boot,
        resume_url: "ws://gateway".into(),
        peers: Arc::new([]),
        metrics: Arc::new(CoreMetrics::new(&Registry::new()).unwrap()),
        resume,
        message_bytes_max: MESSAGE_BYTES_MAX,
        own_bytes_max: usize::MAX,
        #[cfg(feature = "echo")]
        echo: false,
    };
    (
        Core::new(config, Weak::new(), Arc::default(), to_node),
        requests,
    )
}

impl World {
    fn new(resume: ResumeLog) -> Self {
        let (core, requests) = core(1, resume);
        Self {
            core,
            node: Node {
                log: Vec::new(),
                shown: false,
                deleted: false,
                requests,
                inbox: VecDeque::new(),
                late: None,
                subscribed: false,
                resume,
                boot: 1,
                boots: 1,
                histories: HashMap::new(),
                holders: HashMap::new(),
                former: None,
                losses: 0,
            },
            client: Client::default(),
        }
    }

    /// The client's next connection leads to another node.
    fn elsewhere(&mut self, fate: Fate) {
        self.end();
        if fate != Fate::Killed {
            self.node.answer(); // its log gets on its way
        }
        self.node.boots += 1;
        let boot = self.node.boots;
        let (mut core, requests) = core(boot, self.node.resume);
        core.config.own_bytes_max = self.core.config.own_bytes_max;
        self.turn_to(Former {
            boot,
            core,
            requests,
            inbox: VecDeque::new(),
            subscribed: false,
            fate,
        });
    }

    /// The client's next connection leads to where it was before. The node there heard nothing
    /// meanwhile; the next event shows it the gap.
    fn back(&mut self, fate: Fate) {
        let Some(former) = self.node.former.take() else {
            return;
        };
        self.end();
        if fate != Fate::Killed {
            self.node.answer();
        }
        self.turn_to(Former { fate, ..former });
    }

    /// `fate`: of the node that is left.
    fn turn_to(&mut self, other: Former) {
        let node = &mut self.node;
        let left = Former {
            boot: std::mem::replace(&mut node.boot, other.boot),
            core: std::mem::replace(&mut self.core, other.core),
            requests: std::mem::replace(&mut node.requests, other.requests),
            inbox: std::mem::replace(&mut node.inbox, other.inbox),
            subscribed: std::mem::replace(&mut node.subscribed, other.subscribed),
            fate: other.fate,
        };
        node.former = (other.fate != Fate::Killed).then_some(left);
        node.late = None;
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Publish { kind, pad, way } => self.node.publish(kind, pad, way),
            Step::Flood => {
                for _ in 0..FLOOD {
                    self.node.publish(Kind::Seen, 0, Way::Straight);
                }
                self.deliver();
            }
            Step::Deliver => self.deliver(),
            Step::Answer => self.node.answer(),
            Step::Room(room) => self.room(room),
            Step::Read => self.read(),
            Step::Heartbeat => self.say(json!({"op": 1, "d": self.client.s}).to_string()),
            Step::Ping => {
                if let Some(key) = self.key() {
                    self.core.received(key, Inbound::Ping(b"ping".to_vec()));
                    self.core.flush();
                }
            }
            Step::Break => self.end(),
            Step::Connect(room) => self.connect(room),
            Step::Elsewhere(fate) => self.elsewhere(fate),
            Step::Back(fate) => self.back(fate),
            Step::Forget => self.node.forget(),
            Step::Delete => self.node.delete(),
            Step::Wait(time) => {
                clock::forward(time);
                self.core.tick();
            }
        }
        // A client that was closed finds out, sooner or later; here at once.
        let is_shut = self.script().is_some_and(|script| script.is_shut());
        if is_shut {
            self.read();
        }
    }

    fn key(&self) -> Option<SessionKey> {
        self.client.connection.as_ref().map(|(key, _)| *key)
    }

    fn script(&self) -> Option<&Script> {
        match self.client.connection.as_ref().map(|(_, socket)| &**socket) {
            Some(Socket::Script(script)) => Some(script),
            _ => None,
        }
    }

    fn connect(&mut self, room: usize) {
        if self.client.connection.is_some() {
            return;
        }
        let socket = Rc::new(Socket::Script(Script::with_room(room)));
        let key = self
            .core
            .connection_opened(socket.clone(), Format::default());
        self.client.connection = Some((key, socket));
        self.read();
    }

    fn room(&mut self, room: usize) {
        if let (Some(key), Some(script)) = (self.key(), self.script()) {
            script.add_room(room);
            // As the writer's task does when the socket has room.
            self.core.write_more(key);
        }
    }

    fn read(&mut self) {
        let is_open = self.client.read();
        for ping in std::mem::take(&mut self.client.pings) {
            if let Some(key) = self.key() {
                self.core.received(key, Inbound::Pong(ping));
                self.core.flush();
            }
        }
        for text in std::mem::take(&mut self.client.say) {
            self.say(text);
        }
        if !is_open {
            self.end();
        }
    }

    fn say(&mut self, text: String) {
        if let Some(key) = self.key()
            && !self.core.is_closing(key)
        {
            self.core.received(key, Inbound::Text(text.into_bytes()));
            self.core.flush();
        }
    }

    fn end(&mut self) {
        self.client.bytes.clear();
        self.client.say.clear();
        self.client.pings.clear();
        if let Some((key, _)) = self.client.connection.take() {
            self.core.connection_ended(key);
        }
    }

    fn deliver(&mut self) {
        self.core.now = clock::now();
        for message in self.node.inbox.drain(..) {
            self.core.on_message(message);
        }
        self.core.flush();
    }

    /// Everything gets through from here on.
    fn settle(&mut self) {
        self.node.inbox.extend(self.node.late.take());
        // Shows every gap.
        self.node.publish(Kind::Seen, 0, Way::Straight);
        for _ in 0..40 {
            self.connect(usize::MAX);
            self.room(usize::MAX);
            self.core.tick();
            self.node.answer();
            self.deliver();
            self.room(usize::MAX);
            self.read();
        }
    }
}

#[test]
fn a_session_that_ends_before_its_subscriptions_are_sent_is_not_subscribed() {
    let mut world = World::new(ResumeLog::Async);
    world.connect(usize::MAX);
    world.node.answer();
    for message in world.node.inbox.drain(..) {
        world.core.on_message(message);
    }
    assert_eq!(world.core.sessions.len(), 1);
    let key = world.key().unwrap();
    world.core.close(key, CloseCode::AuthenticationFailed);
    assert!(world.core.sessions.is_empty());
    world.core.flush();
    let mut subscribed = Vec::new();
    while let Ok(request) = world.node.requests.try_recv() {
        match request {
            ToNode::Subscribe { subscriptions, .. } => {
                subscribed.extend(subscriptions.iter().map(|subscription| subscription.realm));
            }
            ToNode::Unsubscribe { realm, .. } => subscribed.retain(|&known| known != realm),
            _ => {}
        }
    }
    assert!(subscribed.is_empty(), "{subscribed:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn a_client_gets_the_log_exactly_or_starts_anew(
        sync in any::<bool>(),
        keeps_little in any::<bool>(),
        steps in prop::collection::vec(step(), 1..250),
        after in prop::option::weighted(0.25, prop::collection::vec(step(), 0..50)),
    ) {
        let after = after.into_iter().map(|after| [vec![Step::Delete], after].concat());
        let steps: Vec<Step> = steps.into_iter().chain(after.flatten()).collect();
        let mut world = World::new(if sync { ResumeLog::Sync } else { ResumeLog::Async });
        if keeps_little {
            world.core.config.own_bytes_max = OWN_BYTES_FEW;
        }
        for step in &steps {
            world.take(step);
            let expected = world.client.expected(&world.node.log);
            prop_assert!(expected.starts_with(&world.client.got), "{:?}", world.client.got);
            for (since, got) in world.client.before.drain(..) {
                let expected = seen_since(since, &world.node.log);
                prop_assert!(expected.starts_with(&got), "{got:?} since {since}");
            }
        }
        world.settle();
        prop_assert_eq!(world.client.in_guild, !world.node.deleted, "the end of its guild");
        prop_assert_eq!(world.client.since.is_some(), !world.node.deleted, "its guild");
        let (expected, got) = (world.client.expected(&world.node.log), &world.client.got);
        let lacks: Vec<_> = expected.iter().filter(|seq| !got.contains(seq)).take(9).collect();
        prop_assert!(expected == *got, "{} of {}, lacks {lacks:?}", got.len(), expected.len());
        if !world.node.deleted {
            prop_assert_eq!(world.client.shown, world.node.shown, "its list of channels");
        }
    }
}
