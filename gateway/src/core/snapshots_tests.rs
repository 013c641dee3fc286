//! A core without node, whose one client has many guilds and reads as fast as the test lets it.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use guildhall_shared::{
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::EventKind,
    id::marker::{Realm, User},
    shard::Position,
    token::Token,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::{
    bus::{Claim, Claimed, Subscribed, ToCore, ToNode, ViewChange},
    config::ResumeLog,
    core::{
        clock,
        model::{TOKEN, core, identity, next_frame},
    },
    format::Format,
    identity::{IdentifyRequest, Identity},
    names::SessionId,
    socket::{Script, Socket},
    telemetry::Resumed,
    wire::Inbound,
};

/// What a slow socket takes at a time.
const LITTLE: usize = 64 << 10;
/// Where every realm stands at first.
const START: Position = Position { era: 1, seq: 1 };

fn user() -> Id<User> {
    Id::new(5000 << 22).unwrap()
}

fn guild(number: u64) -> Id<Guild> {
    Id::new(number << 22).unwrap()
}

struct World {
    core: Core,
    requests: mpsc::Receiver<ToNode>,
    /// Answers of the node that the core has not taken yet.
    inbox: Vec<ToCore>,
    resume: ResumeLog,
    bot: bool,
    guilds: u64,
    guild_bytes: usize,
    /// What the node was asked for.
    asked: Vec<SnapshotRequest>,
    /// Most snapshots that were under way at once.
    most: usize,
    connection: SessionKey,
    socket: Rc<Socket>,
    /// Written by the core, but no whole frame yet.
    bytes: Vec<u8>,
    session: String,
    s: u64,
    /// Names of the dispatches that the client has read.
    names: Vec<String>,
    /// Numbers of the guilds that came to it, and of those that left it.
    created: Vec<u64>,
    deleted: Vec<u64>,
}

impl World {
    /// `room`: what its socket takes before the first step.
    fn new(resume: ResumeLog, bot: bool, guilds: u64, guild_bytes: usize, room: usize) -> Self {
        Self::with_intents(Intents::GUILDS, resume, bot, guilds, guild_bytes, room)
    }

    fn with_intents(
        intents: Intents,
        resume: ResumeLog,
        bot: bool,
        guilds: u64,
        guild_bytes: usize,
        room: usize,
    ) -> Self {
        let (mut core, requests) = core(1, resume);
        let socket = Rc::new(Socket::Script(Script::with_room(room)));
        let connection = core.connection_opened(socket.clone(), Format::default());
        let mut world = Self {
            core,
            requests,
            inbox: Vec::new(),
            resume,
            bot,
            guilds,
            guild_bytes,
            asked: Vec::new(),
            most: 0,
            connection,
            socket,
            bytes: Vec::new(),
            session: String::new(),
            s: 0,
            names: Vec::new(),
            created: Vec::new(),
            deleted: Vec::new(),
        };
        // With READY_SUPPLEMENTAL.
        let intents = intents.bits();
        world.say(&json!({"op": 2, "d": {
            "token": TOKEN, "intents": intents, "properties": {}, "capabilities": 1 << 5,
        }}));
        world
    }

    fn say(&mut self, command: &Value) {
        let text = Inbound::Text(command.to_string().into_bytes());
        self.core.received(self.connection, text);
        self.core.flush();
    }

    fn script(&self) -> &Script {
        match &*self.socket {
            Socket::Script(script) => script,
            _ => panic!("no script"),
        }
    }

    /// The node answers all it was asked, the core takes some of that, and its client reads what
    /// the socket has room for.
    fn step(&mut self, room: usize, messages: usize) {
        self.answer();
        self.core.now = clock::now();
        let messages = messages.min(self.inbox.len());
        for message in self.inbox.drain(..messages) {
            self.core.on_message(message);
        }
        self.core.flush();
        self.script().add_room(room);
        // As the writer's task does when the socket has room.
        self.core.write_more(self.connection);
        self.read();
    }

    fn steps_until(&mut self, room: usize, messages: usize, done: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if done(self) {
                return;
            }
            self.step(room, messages);
        }
        panic!("{} guilds, {} dispatches", self.created.len(), self.s);
    }

    fn answer(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                ToNode::Identify {
                    session, request, ..
                } => {
                    let result = Ok(Box::new(self.identity(&request)));
                    self.inbox.push(ToCore::Identified { session, result });
                }
                ToNode::Subscribe { subscriptions, .. } => {
                    for Subscription { realm, users, .. } in subscriptions {
                        let asked = users.iter().flat_map(|user| user.snapshots.clone());
                        self.asked.extend(asked);
                        let subscribed = self.subscribed(realm, &users);
                        let subscribed = Box::new(subscribed);
                        self.inbox.push(ToCore::Subscribed(subscribed));
                    }
                }
                ToNode::Delivered { number, .. } if self.resume == ResumeLog::Sync => {
                    self.inbox.push(ToCore::Stored(number));
                }
                _ => {}
            }
        }
        let under_way = self.inbox.iter().filter(|message| {
            matches!(message, ToCore::Subscribed(subscribed) if !subscribed.snapshots.is_empty())
        });
        self.most = self.most.max(under_way.count());
    }

    fn identity(&self, request: &IdentifyRequest) -> Identity {
        let mut identity = identity(request);
        identity.user.user.id = user();
        identity.user.user.bot = self.bot;
        identity.guilds = (1..=self.guilds).map(guild).collect();
        identity
    }

    fn subscribed(&self, realm: Id<Realm>, users: &[Subscriber]) -> Subscribed {
        // READY has the first half, its supplement the other one.
        let half = "x".repeat(self.guild_bytes / 2);
        let body = json!({
            "id": realm, "name": half, "voice_states": [{"user_id": half}],
            "members": [], "threads": [],
        });
        let body = Bytes::from(body.to_string());
        let snapshots = users.iter().flat_map(|user| &user.snapshots);
        Subscribed {
            realm,
            position: START,
            view: ViewChange {
                channels: Vec::new(),
                users: vec![(user(), Some(Vec::new()))],
            },
            complete: true,
            replay: Vec::new(),
            lost: None,
            snapshots: snapshots
                .map(|wanted| (wanted.session, body.clone()))
                .collect(),
        }
    }

    fn read(&mut self) {
        assert!(!self.script().is_shut(), "closed after {}", self.s);
        let written = self.script().take();
        self.bytes.extend(written);
        while let Some((opcode, payload)) = next_frame(&mut self.bytes) {
            assert_eq!(opcode, 1, "a frame that is no text");
            let payload: Value = serde_json::from_slice(&payload).unwrap();
            if payload["op"] != 0 {
                continue;
            }
            self.s += 1;
            assert_eq!(payload["s"], self.s);
            let (name, d) = (payload["t"].as_str().unwrap(), &payload["d"]);
            let number = || d["id"].as_str().unwrap().parse::<u64>().unwrap() >> 22;
            match name {
                "READY" => self.session = d["session_id"].as_str().unwrap().to_owned(),
                "GUILD_CREATE" => self.created.push(number()),
                "GUILD_DELETE" => self.deleted.push(number()),
                _ => {}
            }
            self.names.push(name.to_owned());
        }
    }

    /// Another event is dispatched to its session.
    fn tell(&mut self) {
        let (slot, session) = self.core.sessions.iter().next().unwrap();
        let key = session.key(slot as SessionSlot);
        let message = (EventKind::MessageCreate, Bytes::from_static(b"{}"));
        self.core.told(key, None, vec![message]);
        self.core.flush();
    }

    /// Its client resumes at another node, which takes the session over.
    fn moves(&mut self) {
        let claim = Claim {
            number: 1,
            session: SessionId::parse(&self.session).unwrap(),
            token: Token::parse(TOKEN).unwrap().hash(),
            s: self.s,
        };
        self.core.claimed(claim);
        let mut travelling = None;
        while let Ok(request) = self.requests.try_recv() {
            if let ToNode::Claimed { result, .. } = request
                && let Claimed::Session(session) = *result
            {
                travelling = Some(session);
            }
        }
        self.inbox.clear();
        (self.core, self.requests) = core(2, self.resume);
        self.socket = Rc::new(Socket::Script(Script::with_room(usize::MAX)));
        self.connection = self
            .core
            .connection_opened(self.socket.clone(), Format::default());
        let (session, s) = (self.session.clone(), self.s);
        self.say(&json!({"op": 6, "d": {"token": TOKEN, "session_id": session, "seq": s}}));
        self.inbox.push(ToCore::Arrived {
            connection: self.connection,
            session: travelling.unwrap(),
            how: Resumed::Moved,
        });
    }
}

fn numbers(up_to: u64) -> Vec<u64> {
    (1..=up_to).collect()
}

#[test]
fn a_bot_that_reads_slowly_gets_all_of_its_large_guilds() {
    for resume in [ResumeLog::Async, ResumeLog::Sync] {
        let mut world = World::new(resume, true, 40, 1 << 20, LITTLE);
        world.steps_until(LITTLE, usize::MAX, |world| world.created.len() == 40);
        assert_eq!(world.created, numbers(40));
        assert!(world.core.snapshots.lines.is_empty());
    }
}

#[test]
fn a_ready_larger_than_what_is_kept_goes_out_with_its_supplement() {
    let (now, later) = (ResumeLog::Async, ResumeLog::Sync);
    for (resume, room) in [(now, usize::MAX), (now, LITTLE), (later, LITTLE)] {
        let mut world = World::new(resume, false, 9, 1 << 20, room);
        world.step(room, usize::MAX);
        world.step(room, usize::MAX);
        // More than may wait for a slow client is waiting by now.
        world.tell();
        world.steps_until(room, usize::MAX, |world| world.s == 3);
        assert_eq!(
            world.names,
            ["READY", "READY_SUPPLEMENTAL", "MESSAGE_CREATE"]
        );
    }
}

#[test]
fn all_members_come_to_bots_that_hear_of_presences() {
    let (members, presences) = (Intents::GUILD_MEMBERS, Intents::GUILD_PRESENCES);
    for (bot, intents, listed) in [
        (true, members, false),
        (true, presences, true),
        (true, members | presences, true),
        (false, members | presences, false),
    ] {
        let intents = Intents::GUILDS | intents;
        let mut world = World::with_intents(intents, ResumeLog::Async, bot, 1, 1000, usize::MAX);
        world.steps_until(usize::MAX, usize::MAX, |world| !world.asked.is_empty());
        let asked = &world.asked[0];
        let found = (asked.members, asked.presences);
        assert_eq!(found, (listed, listed), "{intents:?}, bot: {bot}");
    }
}

#[test]
fn guilds_are_asked_for_in_portions() {
    for bot in [true, false] {
        let mut world = World::new(ResumeLog::Async, bot, 300, 1000, usize::MAX);
        let last = |world: &World| match bot {
            true => world.created.len() == 300,
            false => !world.names.is_empty(),
        };
        world.steps_until(usize::MAX, 7, last);
        assert_eq!(world.most, UNDER_WAY_MAX);
        if bot {
            assert_eq!(world.created, numbers(300));
        } else {
            assert_eq!(world.names[0], "READY");
            assert!(world.created.is_empty(), "some came late");
        }
        assert!(world.core.snapshots.lines.is_empty());
    }
}

#[test]
fn guilds_behind_slow_ones_come() {
    let mut world = World::new(ResumeLog::Async, true, 100, 1000, usize::MAX);
    world.step(usize::MAX, usize::MAX);
    // Nobody answers for the first ones.
    world.answer();
    world.inbox.clear();
    clock::forward(SLOW);
    world.core.tick();
    let behind = 100 - UNDER_WAY_MAX;
    world.steps_until(usize::MAX, usize::MAX, |world| {
        world.created.len() == behind
    });
    assert_eq!(world.created, numbers(100)[UNDER_WAY_MAX..]);
}

#[test]
fn a_guild_that_is_left_before_its_turn_does_not_come() {
    let mut world = World::new(ResumeLog::Async, true, 300, 1000, usize::MAX);
    for _ in 0..3 {
        world.step(usize::MAX, 7);
    }
    let Position { era, seq } = START;
    let left = Envelope {
        realm: shard::realm(user()),
        durability: Durability::Durable(Position { era, seq: seq + 1 }),
        kind: EventKind::UserLeftGuild,
        vis: Visibility::of(Scope::Realm, Intents::empty()),
        at_ms: 0,
        trace: 0,
        body: json!({"guild_id": guild(200)}).to_string().into(),
        alt: None,
    };
    world.inbox.insert(0, ToCore::Event(Arc::new(left)));
    world.steps_until(usize::MAX, 7, |world| world.created.len() == 299);
    world.step(usize::MAX, 7);
    assert_eq!(world.deleted, [200]);
    let others: Vec<_> = (1..=300).filter(|&number| number != 200).collect();
    assert_eq!(world.created, others);
}

#[test]
fn a_session_that_moves_gets_the_guilds_it_waits_for_where_it_goes_on() {
    let mut world = World::new(ResumeLog::Async, true, 300, 1000, usize::MAX);
    for _ in 0..10 {
        world.step(usize::MAX, 7);
    }
    assert!((1..200).contains(&world.created.len()));
    world.moves();
    world.steps_until(usize::MAX, usize::MAX, |world| world.created.len() == 300);
    assert_eq!(world.created, numbers(300));
}
