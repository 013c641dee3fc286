//! Cores without sockets, clock and node: random histories of one bot in one guild, whose
//! client breaks, resumes and reads slowly, while the node loses events on the way, and whose
//! next connection may lead to another core, while the one before lives, hangs or has died.
//!
//! Whatever happens, the client gets from its snapshot on exactly the events it may see, each
//! once, in order (I3, I6), across every RESUME (I4), and `s` grows by one (I5); or it is told
//! that its session is gone, or its guild for a moment, and starts anew. Of a channel that is
//! shown to it and hidden from it again it always learns in the end.

use std::{
    collections::{HashMap, VecDeque},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::{CloseCode, EventKind, Intents},
    id::marker::{Channel, Guild, User},
    shard::{self, Position},
};
use prometheus::Registry;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Core, CoreConfig, clock};
use crate::{
    bus::{
        Claim, Claimed, ClassId, IdentifyRequest, Identity, NotResumed, SessionKey, Subscribed,
        Subscription, ToCore, ToNode, ViewChange,
    },
    codec::Resume,
    config::ResumeLog,
    delivery::{Found, History},
    format::Format,
    session::{SessionId, record::Travelling},
    socket::{Script, Socket},
    telemetry::{CoreMetrics, Resumed},
    wire::{Inbound, MESSAGE_BYTES_MAX},
};

const TOKEN: &str = "MTA.aaaa.bbbb";
/// More than a session may be behind.
const FLOOD: u64 = 4200;

fn id<T>(id: u64) -> Id<T> {
    Id::new(id).unwrap()
}

fn user() -> Id<User> {
    id(10 << 22)
}

fn guild() -> Id<Guild> {
    id(77 << 22)
}

fn seen_channel() -> Id<Channel> {
    id(5)
}

fn hidden_channel() -> Id<Channel> {
    id(6)
}

/// Everything that can happen.
#[derive(Debug, Clone)]
enum Step {
    /// The next event, and how it goes on its way.
    Publish {
        kind: Kind,
        pad: usize,
        way: Way,
    },
    /// So many events at once that a stalled reader is too far behind.
    Flood,
    /// The core takes its inbox and writes.
    Deliver,
    /// The node answers what it was asked.
    Answer,
    /// The socket takes this many bytes more.
    Room(usize),
    /// The client reads.
    Read,
    Heartbeat,
    Ping,
    /// The connection breaks; what the client did not read is lost.
    Break,
    /// The client has no connection and makes one, which takes this many bytes.
    Connect(usize),
    /// The connection breaks, and the next one leads to a core of another node.
    Elsewhere(Fate),
    /// The connection breaks, and the next one leads to the node of before, if it lives.
    Back(Fate),
    /// Redis loses all that it was told.
    Forget,
    Wait(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Seen,
    HiddenChannel,
    OtherIntent,
    /// The hidden channel is shown, or hidden again.
    Toggle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Straight,
    Lost,
    Twice,
    /// Behind the next one.
    Late,
}

/// What becomes of the node that a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It gives its sessions up when it is asked.
    Lives,
    /// It cannot be asked; what it did is in its log.
    CutOff,
    /// It died, with the part of its log that was not sent yet.
    Killed,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![Just(Fate::Lives), Just(Fate::CutOff), Just(Fate::Killed)];
    let kind = prop_oneof![
        4 => Just(Kind::Seen),
        1 => Just(Kind::HiddenChannel),
        1 => Just(Kind::OtherIntent),
        1 => Just(Kind::Toggle),
    ];
    let way = prop_oneof![
        12 => Just(Way::Straight),
        1 => Just(Way::Lost),
        1 => Just(Way::Twice),
        1 => Just(Way::Late),
    ];
    prop_oneof![
        60 => (kind, prop_oneof![Just(0usize), 0..3000usize], way)
            .prop_map(|(kind, pad, way)| Step::Publish { kind, pad, way }),
        1 => Just(Step::Flood),
        25 => Just(Step::Deliver),
        20 => Just(Step::Answer),
        15 => prop_oneof![0..200usize, 0..20_000usize].prop_map(Step::Room),
        20 => Just(Step::Read),
        4 => Just(Step::Heartbeat),
        2 => Just(Step::Ping),
        5 => Just(Step::Break),
        15 => prop_oneof![Just(usize::MAX), 0..3000usize].prop_map(Step::Connect),
        3 => fate.clone().prop_map(Step::Elsewhere),
        2 => fate.prop_map(Step::Back),
        1 => Just(Step::Forget),
        3 => (0..25u64).prop_map(|seconds| Step::Wait(Duration::from_secs(seconds))),
        1 => (100..200u64).prop_map(|seconds| Step::Wait(Duration::from_secs(seconds))),
    ]
}

/// The log of the guild, and the way of its events to the core.
struct Node {
    log: Vec<(Kind, Arc<Envelope>)>,
    /// Whether the hidden channel is shown.
    shown: bool,
    requests: mpsc::Receiver<ToNode>,
    inbox: VecDeque<ToCore>,
    late: Option<ToCore>,
    subscribed: bool,
    resume: ResumeLog,
    /// Start of the node that the client is at now.
    boot: u32,
    /// Starts of nodes so far.
    boots: u32,
    /// By the start of the node whose log it is.
    histories: HashMap<u32, History>,
    /// Who has a session that has moved.
    holders: HashMap<SessionId, u32>,
    /// The node that the client was at before, if it lives.
    former: Option<Former>,
    /// How often Redis has lost everything.
    losses: u64,
}

struct Former {
    boot: u32,
    core: Core,
    requests: mpsc::Receiver<ToNode>,
    inbox: VecDeque<ToCore>,
    subscribed: bool,
    fate: Fate,
}

impl Node {
    fn head(&self) -> Position {
        Position {
            era: 1,
            seq: self.log.len() as u64,
        }
    }

    fn publish(&mut self, kind: Kind, pad: usize, way: Way) {
        let seq = self.log.len() as u64 + 1;
        let channel = match kind {
            Kind::HiddenChannel | Kind::Toggle => hidden_channel(),
            Kind::Seen | Kind::OtherIntent => seen_channel(),
        };
        let intents = match kind {
            Kind::OtherIntent => Intents::GUILD_MESSAGE_TYPING,
            Kind::Seen | Kind::HiddenChannel => Intents::GUILD_MESSAGES,
            Kind::Toggle => Intents::GUILDS,
        };
        let of_channel = json!({"id": channel, "seq": seq, "pad": "x".repeat(pad)});
        let body = Bytes::from(of_channel.to_string());
        let event = Arc::new(Envelope {
            realm: shard::realm(guild()),
            durability: Durability::Durable(Position { era: 1, seq }),
            kind: match kind {
                Kind::Toggle => EventKind::ChannelUpdate,
                Kind::Seen | Kind::HiddenChannel | Kind::OtherIntent => EventKind::MessageCreate,
            },
            vis: Visibility::channel(channel, intents),
            at_ms: 0,
            trace: 0,
            body: body.clone(),
            alt: None,
        });
        self.log.push((kind, event.clone()));
        self.shown ^= kind == Kind::Toggle;
        if !self.subscribed {
            return;
        }
        let message = || ToCore::Event(event.clone());
        if kind == Kind::Toggle {
            // As `owner::realm` does it: lost together, or not at all.
            if way != Way::Lost {
                let told = Envelope {
                    durability: Durability::Ephemeral,
                    kind: match self.shown {
                        true => EventKind::ChannelCreate,
                        false => EventKind::ChannelDelete,
                    },
                    vis: Visibility::of(Scope::Users(vec![user()]), Intents::GUILDS),
                    ..Envelope::clone(&event)
                };
                let told = ToCore::Event(Arc::new(told));
                let change = ViewChange {
                    channels: Vec::new(),
                    users: vec![(user(), Some(self.classes()))],
                };
                self.inbox.push_back(ToCore::View {
                    realm: shard::realm(guild()),
                    change,
                });
                match self.shown {
                    true => self.inbox.extend([told, message()]),
                    false => self.inbox.extend([message(), told]),
                }
                self.inbox.extend(self.late.take());
            }
            return;
        }
        match way {
            Way::Straight => self.inbox.push_back(message()),
            Way::Lost => {}
            Way::Twice => self.inbox.extend([message(), message()]),
            Way::Late => {
                let before = self.late.replace(message());
                self.inbox.extend(before);
                return;
            }
        }
        self.inbox.extend(self.late.take());
    }

    /// What the user sees.
    fn classes(&self) -> Vec<ClassId> {
        if self.shown { vec![0, 1] } else { vec![0] }
    }

    fn answer(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                ToNode::Identify {
                    session, request, ..
                } => {
                    let result = Ok(Box::new(identity(&request)));
                    self.inbox.push_back(ToCore::Identified { session, result });
                }
                ToNode::Stay {
                    connection, resume, ..
                } => {
                    let session = SessionId::parse(&resume.session_id).unwrap();
                    let holder = self.holders.get(&session).copied();
                    if holder.unwrap_or(session.boot()) == self.boot {
                        self.holders.insert(session, self.boot);
                        self.inbox.push_back(ToCore::Stays { connection, resume });
                    } else {
                        self.inbox.push_back(ToCore::Taken(session));
                        self.bring(connection, &resume);
                    }
                }
                ToNode::Find {
                    connection, resume, ..
                } => self.bring(connection, &resume),
                ToNode::Delivered {
                    number,
                    chunk,
                    loss,
                    ..
                } => {
                    let history = self.histories.entry(self.boot).or_default();
                    if loss == self.losses {
                        history.push(&chunk).unwrap();
                    }
                    if self.resume == ResumeLog::Sync {
                        self.inbox.push_back(ToCore::Stored(number));
                    }
                }
                ToNode::Subscribe { subscriptions, .. } => {
                    for subscription in subscriptions {
                        self.subscribe(subscription);
                    }
                }
                ToNode::Unsubscribe { realm, .. } => {
                    self.subscribed &= realm != shard::realm(guild());
                }
                _ => {}
            }
        }
    }

    /// Redis loses all that it was told; each node that lives notices before it is asked next.
    fn forget(&mut self) {
        self.losses += 1;
        self.holders.clear();
        self.histories.clear();
        let forgot = || ToCore::RedisForgot {
            doubt: true,
            loss: self.losses,
        };
        self.inbox.push_back(forgot());
        if let Some(former) = &mut self.former {
            former.inbox.push_back(forgot());
        }
    }

    fn bring(&mut self, connection: SessionKey, resume: &Resume) {
        let message = match self.find(resume) {
            Some(session) => ToCore::Arrived {
                connection,
                session,
                how: Resumed::Moved,
            },
            None => ToCore::NotResumed {
                connection,
                why: NotResumed::Gone,
            },
        };
        self.inbox.push_back(message);
    }

    /// As `node::travel` does it.
    fn find(&mut self, resume: &Resume) -> Option<Box<Travelling>> {
        let session = SessionId::parse(&resume.session_id).unwrap();
        let holder = self.holders.get(&session).copied();
        let holder = holder.unwrap_or(session.boot());
        if holder == self.boot {
            return None;
        }
        let former = self.former.as_mut().filter(|former| former.boot == holder);
        let history = self.histories.entry(holder).or_default();
        let found = match former {
            Some(former) if former.fate == Fate::Lives => {
                for message in former.inbox.drain(..) {
                    former.core.on_message(message);
                }
                former.core.claimed(Claim {
                    number: 1,
                    session,
                    token: resume.token.hash(),
                    s: resume.seq,
                });
                let mut claimed = None;
                while let Ok(request) = former.requests.try_recv() {
                    match request {
                        ToNode::Claimed { result, .. } => claimed = Some(*result),
                        ToNode::Delivered { chunk, loss, .. } if loss == self.losses => {
                            history.push(&chunk).unwrap();
                        }
                        _ => {}
                    }
                }
                match claimed {
                    Some(Claimed::Session(session)) => Some(session),
                    Some(Claimed::Unknown | Claimed::Gone) => None,
                    other => panic!("{other:?}"),
                }
            }
            // One that was only cut off keeps a copy that counts no longer.
            _ => {
                let found = history.at(session, resume.seq);
                match found {
                    Found::At(record) => {
                        history.taken(session);
                        Some(Box::new(Travelling {
                            record: *record,
                            s: resume.seq,
                            dispatches: Vec::new(),
                        }))
                    }
                    Found::Ahead => {
                        assert_ne!(self.resume, ResumeLog::Sync, "told before the log was");
                        None
                    }
                    Found::Unknown | Found::Behind => None,
                }
            }
        };
        if found.is_some() {
            self.holders.insert(session, self.boot);
        }
        found
    }

    fn subscribe(&mut self, subscription: Subscription) {
        let Subscription { realm, from, users } = subscription;
        let of_guild = realm == shard::realm(guild());
        let position = match of_guild {
            true => self.head(),
            false => Position { era: 1, seq: 1 },
        };
        self.subscribed |= of_guild;
        let mut replay = Vec::new();
        let mut view = ViewChange::default();
        if of_guild {
            let from = from.map_or(self.log.len(), |from| from.seq as usize);
            replay.extend(self.log[from..].iter().map(|(_, event)| event.clone()));
            view.channels = vec![(seen_channel(), Some(0)), (hidden_channel(), Some(1))];
            view.users = vec![(user(), Some(self.classes()))];
        }
        let body = json!({"id": guild(), "position": position.seq, "shown": self.shown});
        let body = body.to_string();
        let snapshots = users.iter().flat_map(|user| &user.snapshots);
        let snapshots = snapshots
            .map(|wanted| (wanted.session, Bytes::from(body.clone())))
            .collect();
        self.inbox
            .push_back(ToCore::Subscribed(Box::new(Subscribed {
                realm,
                position,
                view,
                complete: true,
                replay,
                lost: false,
                snapshots,
            })));
    }
}

fn identity(request: &IdentifyRequest) -> Identity {
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

/// What the client knows.
#[derive(Default)]
struct Client {
    connection: Option<(SessionKey, Rc<Socket>)>,
    /// Written by the core, but no whole frame yet.
    bytes: Vec<u8>,
    session: Option<String>,
    s: u64,
    /// Where its guild's snapshot was taken, and what came since.
    since: Option<u64>,
    got: Vec<u64>,
    /// As above, of snapshots that were replaced.
    before: Vec<(u64, Vec<u64>)>,
    /// Whether the hidden channel is in its list.
    shown: bool,
    /// What there is to say once the payload is read, and pings to answer.
    say: Vec<String>,
    pings: Vec<Vec<u8>>,
}

impl Client {
    fn forget(&mut self) {
        *self = Self {
            connection: self.connection.take(),
            bytes: std::mem::take(&mut self.bytes),
            ..Self::default()
        };
    }

    /// Reads what was written; false once the server has closed.
    fn read(&mut self) -> bool {
        let Some((_, socket)) = &self.connection else {
            return false;
        };
        let Socket::Script(script) = &**socket else {
            return false;
        };
        let is_shut = script.is_shut();
        self.bytes.extend(script.take());
        while let Some((opcode, payload)) = next_frame(&mut self.bytes) {
            match opcode {
                0x1 => self.payload(&serde_json::from_slice(&payload).unwrap()),
                0x8 => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    // Each of these leaves the session for a RESUME.
                    assert!(matches!(code, 4000 | 4008 | 4009), "closed with {code}");
                }
                0x9 => self.pings.push(payload),
                0xA => {}
                other => panic!("opcode {other}"),
            }
        }
        !is_shut
    }

    fn payload(&mut self, payload: &Value) {
        match payload["op"].as_u64() {
            Some(10) => self.say.push(match &self.session {
                None => identify(),
                Some(session) => json!({
                    "op": 6,
                    "d": {"token": TOKEN, "session_id": session, "seq": self.s},
                })
                .to_string(),
            }),
            Some(9) => {
                assert_eq!(payload["d"], false);
                self.forget();
                self.say.push(identify());
            }
            Some(11) => {}
            Some(0) => self.dispatch(payload),
            other => panic!("op {other:?}"),
        }
    }

    fn dispatch(&mut self, payload: &Value) {
        let (s, d) = (payload["s"].as_u64().unwrap(), &payload["d"]);
        assert_eq!(s, self.s + 1, "s grows by one (I5)");
        self.s = s;
        match payload["t"].as_str() {
            Some("READY") => {
                assert!(self.session.is_none(), "a second READY");
                self.session = Some(d["session_id"].as_str().unwrap().to_owned());
            }
            Some("GUILD_CREATE") => {
                assert!(self.since.is_none(), "a second snapshot");
                self.since = d["position"].as_u64();
                self.shown = d["shown"].as_bool().unwrap();
            }
            Some("GUILD_DELETE") => {
                assert_eq!(d["unavailable"], true);
                let got = std::mem::take(&mut self.got);
                self.before
                    .extend(self.since.take().map(|since| (since, got)));
            }
            Some("CHANNEL_CREATE") => self.shown = true,
            Some("CHANNEL_DELETE") => self.shown = false,
            Some("CHANNEL_UPDATE") => {}
            Some("MESSAGE_CREATE") if d["id"] == hidden_channel().to_string() => {}
            Some("MESSAGE_CREATE") => self.got.push(d["seq"].as_u64().unwrap()),
            Some("RESUMED") => {}
            other => panic!("{other:?}"),
        }
    }

    /// What it should have got, if it has everything.
    fn expected(&self, log: &[(Kind, Arc<Envelope>)]) -> Vec<u64> {
        self.since
            .map_or_else(Vec::new, |since| seen_since(since, log))
    }
}

fn seen_since(since: u64, log: &[(Kind, Arc<Envelope>)]) -> Vec<u64> {
    let numbered = (1u64..).zip(log);
    numbered
        .filter(|(seq, (kind, _))| *seq > since && *kind == Kind::Seen)
        .map(|(seq, _)| seq)
        .collect()
}

fn identify() -> String {
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
        let (core, requests) = core(boot, self.node.resume);
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
        for _ in 0..20 {
            self.connect(usize::MAX);
            self.room(usize::MAX);
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
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut world = World::new(if sync { ResumeLog::Sync } else { ResumeLog::Async });
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
        prop_assert!(world.client.since.is_some(), "never got its guild");
        let (expected, got) = (world.client.expected(&world.node.log), &world.client.got);
        let lacks: Vec<_> = expected.iter().filter(|seq| !got.contains(seq)).take(9).collect();
        prop_assert!(expected == *got, "{} of {}, lacks {lacks:?}", got.len(), expected.len());
        prop_assert_eq!(world.client.shown, world.node.shown, "its list of channels");
    }
}
