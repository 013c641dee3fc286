//! Cores without sockets, clock and node, which are told one thing after the other.

mod behind;
mod budget;
mod leaving;
mod lost;
mod portions;
mod views;
mod waiting;
mod watching;

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Durability, Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild},
    model::Status,
    shard::{self, Position},
    token::Token,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    CHUNKS_WAITING_MAX, Core, clock,
    model::{self, guild, user},
};
use crate::{
    ask::Watch,
    bus::{self, Claim, Claimed, Subscribed, Subscription, ToCore, ToNode, ViewChange},
    codec::Resume,
    config::ResumeLog,
    delivery::{Found, History},
    format::Format,
    names::{SessionId, SessionKey},
    session::{
        Arrival,
        limit::COMMANDS_MAX,
        record::{Reached, Travelling},
    },
    socket::{Script, Socket},
    telemetry::Resumed,
    wire::Inbound,
};

/// A core, and what it asks of the node.
struct Bench {
    core: Core,
    requests: mpsc::Receiver<ToNode>,
    history: History,
}

struct Client {
    connection: SessionKey,
    socket: Rc<Socket>,
}

impl Bench {
    fn new(boot: u32) -> Self {
        let (core, requests) = model::core(boot, ResumeLog::Async);
        Self {
            core,
            requests,
            history: History::default(),
        }
    }

    fn tell(&mut self, message: ToCore) {
        self.core.on_message(message);
        self.core.flush();
    }

    fn answered(&mut self, subscribed: Subscribed) {
        self.tell(ToCore::Subscribed(Box::new(subscribed)));
    }

    /// What was asked of the node since the last time.
    fn asked(&mut self) -> Vec<ToNode> {
        self.core.flush();
        let requests = std::iter::from_fn(|| self.requests.try_recv().ok());
        let requests: Vec<ToNode> = requests.collect();
        for request in &requests {
            if let ToNode::Delivered { chunk, .. } = request {
                self.history.push(chunk).unwrap();
            }
        }
        requests
    }

    fn subscriptions(&mut self) -> Vec<Subscription> {
        let asked = self.asked().into_iter();
        asked
            .flat_map(|request| match request {
                ToNode::Subscribe { subscriptions, .. } => subscriptions,
                _ => Vec::new(),
            })
            .collect()
    }

    fn watches(&mut self) -> Vec<Option<Watch>> {
        let asked = self.asked().into_iter();
        asked
            .filter_map(|request| match request {
                ToNode::Watch(change) => Some(change.watch),
                _ => None,
            })
            .collect()
    }

    fn connect(&mut self) -> Client {
        self.connect_with_room(usize::MAX)
    }

    /// A client whose socket takes so many bytes.
    fn connect_with_room(&mut self, room: usize) -> Client {
        let socket = Rc::new(Socket::Script(Script::with_room(room)));
        let connection = self
            .core
            .connection_opened(socket.clone(), Format::default());
        Client { connection, socket }
    }

    fn say(&mut self, client: &Client, text: &str) {
        let text = Inbound::Text(text.as_bytes().to_vec());
        self.core.received(client.connection, text);
        self.core.flush();
    }

    /// A client that has sent IDENTIFY, and what it is answered.
    fn identifies(&mut self) -> (Client, ToCore) {
        let client = self.connect();
        let answer = self.identifies_over(&client);
        (client, answer)
    }

    fn identifies_over(&mut self, client: &Client) -> ToCore {
        self.say(client, &model::identify());
        let asked = self.asked().into_iter().find_map(|request| match request {
            ToNode::Identify {
                session, request, ..
            } => Some((session, model::identity(&request))),
            _ => None,
        });
        let (session, identity) = asked.unwrap();
        let result = Ok(Box::new(identity));
        ToCore::Identified { session, result }
    }

    fn identified(&mut self) -> Client {
        let (client, answer) = self.identifies();
        self.tell(answer);
        client
    }

    fn session(&self, client: &Client) -> SessionKey {
        let connection = self.core.connection(client.connection).unwrap();
        let slot = connection.session.unwrap();
        self.core.sessions[slot as usize].key(slot)
    }

    /// A session's name, and the newest `s` of it.
    fn reached(&self, client: &Client) -> (SessionId, u64) {
        let key = self.session(client);
        let session = &self.core.sessions[key.slot as usize];
        (session.id, session.replay.last_s())
    }

    /// A client's session gets the guild.
    fn has_guild(&mut self, client: &Client, seq: u64) {
        let snapshots = vec![snapshot(self.session(client), seq)];
        self.answered(Subscribed {
            snapshots,
            ..answer(seq)
        });
    }

    /// What a client was dispatched since the last time.
    fn read(&mut self, client: &Client) -> Vec<(String, Value)> {
        self.core.flush();
        let Socket::Script(script) = &*client.socket else {
            return Vec::new();
        };
        let mut bytes = script.take();
        let mut dispatches = Vec::new();
        while let Some((_, payload)) = model::next_frame(&mut bytes) {
            let mut payload: Value = serde_json::from_slice(&payload).unwrap();
            let d = payload["d"].take();
            dispatches.extend(payload["t"].as_str().map(|name| (name.to_owned(), d)));
        }
        dispatches
    }

    /// A client resumes.
    fn resumes(&mut self, reached: (SessionId, u64)) -> Client {
        let client = self.connect();
        self.says_resume(&client, reached);
        client
    }

    fn says_resume(&mut self, client: &Client, (id, s): (SessionId, u64)) {
        let id = id.to_string();
        let d = json!({"token": model::TOKEN, "session_id": id, "seq": s});
        self.say(client, &json!({"op": 6, "d": d}).to_string());
    }

    fn arrived(&mut self, client: &Client, session: Travelling) {
        self.tell(ToCore::Arrived {
            connection: client.connection,
            session: Box::new(session),
            how: Resumed::Moved,
        });
    }
}

fn at(seq: u64) -> Position {
    Position { era: 1, seq }
}

/// The guild's owner, at a number.
fn answer(seq: u64) -> Subscribed {
    Subscribed {
        realm: shard::realm(guild()),
        position: at(seq),
        view: ViewChange {
            channels: Vec::new(),
            users: vec![(user(), Some(vec![0]))],
        },
        complete: true,
        replay: Vec::new(),
        lost: None,
        snapshots: Vec::new(),
    }
}

fn event(kind: EventKind, seq: u64) -> Arc<Envelope> {
    Arc::new(Envelope {
        realm: shard::realm(guild()),
        durability: Durability::Durable(at(seq)),
        kind,
        vis: Visibility::realm(Intents::GUILDS),
        at_ms: 0,
        trace: 0,
        body: json!({"id": guild()}).to_string().into(),
        alt: None,
    })
}

fn snapshot(session: SessionKey, seq: u64) -> (SessionKey, Bytes) {
    let body = json!({"id": guild(), "position": seq});
    (session, body.to_string().into())
}

/// A session of another node that has the guild up to a number, on its way.
fn travelling(seq: u64) -> Travelling {
    let mut there = Bench::new(9);
    let client = there.identified();
    there.has_guild(&client, seq);
    let (session, s) = there.reached(&client);
    let token = there.core.sessions[there.session(&client).slot as usize].token;
    let claim = Claim {
        number: 1,
        session,
        token,
        s,
    };
    there.tell(ToCore::Claim(Box::new(claim)));
    let given = there.asked().into_iter().find_map(|request| match request {
        ToNode::Claimed { result, .. } => Some(*result),
        _ => None,
    });
    match given {
        Some(Claimed::Session(session)) => *session,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_identify_whose_client_has_closed_opens_no_session() {
    let mut bench = Bench::new(1);
    let (client, answer) = bench.identifies();
    bench.core.echo_close(client.connection, Some(1000));
    bench.tell(answer);
    assert!(bench.core.sessions.is_empty());
    assert!(bench.subscriptions().is_empty());
}

#[test]
fn a_resume_whose_client_has_closed_leaves_its_session_without_one_or_ends_it() {
    for (code, stays) in [
        (None, true),
        (Some(4000), true),
        (Some(1000), false),
        (Some(1001), false),
    ] {
        let without_client = |core: &Core| {
            let mut sessions = core.sessions.iter().map(|(_, session)| session);
            sessions.all(|session| session.connection.is_none() && session.detached_at.is_some())
        };
        let mut bench = Bench::new(1);
        let before = bench.identified();
        let reached = bench.reached(&before);
        bench.core.connection_ended(before.connection);
        let client = bench.resumes(reached);
        let stay = bench.asked().into_iter().find_map(|request| match request {
            ToNode::Stay {
                connection, resume, ..
            } => Some(ToCore::Stays { connection, resume }),
            _ => None,
        });
        bench.core.echo_close(client.connection, code);
        bench.tell(stay.unwrap());
        assert_eq!(bench.core.sessions.len() == 1, stays, "{code:?}");
        assert!(without_client(&bench.core));

        let session = travelling(1);
        let mut bench = Bench::new(1);
        let client = bench.resumes((session.record.id, session.s));
        bench.core.echo_close(client.connection, code);
        bench.arrived(&client, session);
        assert_eq!(bench.core.sessions.len() == 1, stays, "{code:?}");
        assert!(without_client(&bench.core));
        assert_eq!(bench.subscriptions().is_empty(), !stays, "{code:?}");
    }
}

#[test]
fn a_session_that_somebody_was_faster_with_is_looked_for_again_while_its_client_waits() {
    let session = travelling(1);
    let mut bench = Bench::new(1);
    for waits in [true, false] {
        let client = bench.resumes((session.record.id, session.s));
        let find = |bench: &mut Bench| {
            let asked = bench.asked().into_iter();
            let mut found = asked.filter_map(|request| match request {
                ToNode::Find {
                    connection, resume, ..
                } => Some((connection, resume)),
                _ => None,
            });
            found.next()
        };
        let (connection, resume) = find(&mut bench).unwrap();
        if !waits {
            bench.core.connection_ended(client.connection);
        }
        bench.tell(ToCore::Overtaken { connection, resume });
        assert_eq!(find(&mut bench).is_some(), waits);
    }
}

/// The node has taken note by then of the session that came, and would forget it again.
#[test]
fn an_older_copy_is_not_told_to_have_moved_as_the_session_itself_is() {
    let moved = |bench: &mut Bench| -> Vec<bool> {
        let asked = bench.asked().into_iter();
        asked
            .filter_map(|request| match request {
                ToNode::Moved { overtaken, .. } => Some(overtaken),
                _ => None,
            })
            .collect()
    };
    let session = travelling(1);
    let (id, s, token) = (session.record.id, session.s, session.record.token);
    let mut bench = Bench::new(1);
    let client = bench.resumes((id, s));
    bench.arrived(&client, session.clone());
    assert!(moved(&mut bench).is_empty());
    let client = bench.resumes((id, s));
    bench.arrived(&client, session.clone());
    assert_eq!(moved(&mut bench), [true]);
    bench.tell(ToCore::Taken(id));
    assert_eq!(moved(&mut bench), [true]);
    let client = bench.resumes((id, s));
    bench.arrived(&client, session);
    bench.tell(ToCore::Claim(Box::new(Claim {
        number: 1,
        session: id,
        token,
        s,
    })));
    assert_eq!(moved(&mut bench), [false]);
}

#[test]
fn what_a_session_brings_waits_for_the_log_where_all_does() {
    let mut session = travelling(1);
    session.dispatches = vec![(EventKind::GuildUpdate, Bytes::from_static(b"{}"))];
    let (core, requests) = model::core(1, ResumeLog::Sync);
    let mut bench = Bench {
        core,
        requests,
        history: History::default(),
    };
    let (id, s) = (session.record.id, session.s);
    let client = bench.resumes((id, s));
    bench.arrived(&client, session);
    assert!(bench.read(&client).is_empty());
    let asked = bench.asked().into_iter();
    let chunks = asked.filter_map(|request| match request {
        ToNode::Delivered { number, .. } => Some(number),
        _ => None,
    });
    for chunk in chunks.collect::<Vec<_>>() {
        bench.tell(ToCore::Stored(chunk));
    }
    let told: Vec<String> = bench.read(&client).into_iter().map(|(t, _)| t).collect();
    assert_eq!(told, ["GUILD_UPDATE", "RESUMED"]);
    assert!(matches!(bench.history.at(id, s + 2), Found::At(_)));
}

#[test]
fn what_a_session_looks_at_is_told_once_it_has_the_guild() {
    let watch = |channel: Id<Channel>| Watch {
        channels: vec![(channel, vec![0])],
        members: Vec::new(),
    };
    let (before, after) = (Id::new(5).unwrap(), Id::new(6).unwrap());
    for waits in [false, true] {
        for looks in [false, true] {
            let mut session = travelling(1);
            session.record.bot = false;
            session.record.watches = vec![(guild(), watch(before))];
            if waits {
                let nothing = Reached::Nothing(Arrival::Restored);
                session.record.guilds = vec![(guild(), nothing)];
            }
            let mut bench = Bench::new(1);
            let client = bench.resumes((session.record.id, session.s));
            bench.arrived(&client, session);
            if looks {
                let d = json!({"guild_id": guild(), "channels": {"6": [[0, 99]]}});
                bench.say(&client, &json!({"op": 14, "d": d}).to_string());
            }
            assert!(bench.watches().is_empty(), "{waits} {looks}");
            if waits {
                bench.has_guild(&client, 1);
            } else {
                bench.answered(answer(1));
            }
            let watch = watch(if looks { after } else { before });
            assert_eq!(bench.watches(), [Some(watch)], "{waits} {looks}");
        }
    }
}

#[test]
fn whom_a_full_inbox_kept_a_change_of_a_list_from_is_told_of_anew() {
    let watch = Watch {
        channels: vec![(Id::new(5).unwrap(), vec![0])],
        members: Vec::new(),
    };
    let mut session = travelling(1);
    session.record.bot = false;
    session.record.watches = vec![(guild(), watch.clone())];
    let mut bench = Bench::new(1);
    let (handle, inbox) = bus::inbox();
    bench.core.bell = inbox.bell.clone();
    let client = bench.resumes((session.record.id, session.s));
    bench.arrived(&client, session);
    bench.answered(answer(1));
    assert_eq!(bench.watches(), [Some(watch.clone())]);
    let session = bench.session(&client);
    let tell = || {
        let kind = EventKind::GuildMemberListUpdate;
        ToCore::Tell {
            session,
            answers: None,
            dispatches: vec![(kind, Bytes::from_static(b"{}"))],
        }
    };
    while handle.send(tell()).is_ok() {}
    // Nor is there room at first for what comes of it.
    for _ in 0..2 {
        bench.core.tick();
        assert_eq!(bench.watches(), [Some(watch.clone())]);
        bench.core.tick();
        assert!(bench.watches().is_empty());
        handle.send(tell()).unwrap_err();
    }
    inbox.messages.try_iter().for_each(drop);
    bench.core.tick();
    assert_eq!(bench.watches(), [Some(watch)]);
    handle.send(tell()).unwrap();
    bench.core.tick();
    assert!(bench.watches().is_empty());
}

#[test]
fn that_a_guild_is_gone_is_told_once_to_each_who_has_it_or_waits_for_it() {
    for replayed in [false, true] {
        let mut bench = Bench::new(1);
        let (has, waits) = (bench.identified(), bench.identified());
        bench.has_guild(&has, 1);
        let view = ViewChange {
            channels: Vec::new(),
            users: vec![(user(), None)],
        };
        let gone = event(EventKind::GuildDelete, 2);
        if replayed {
            bench.answered(Subscribed {
                view,
                replay: vec![gone],
                ..answer(2)
            });
        } else {
            bench.tell(ToCore::Event(gone));
            bench.tell(ToCore::View {
                realm: shard::realm(guild()),
                change: view,
            });
        }
        for client in [&has, &waits] {
            let mut told = bench.read(client);
            told.retain(|(name, _)| name == "GUILD_DELETE");
            let once = ("GUILD_DELETE".to_owned(), json!({"id": guild()}));
            assert_eq!(told, [once], "replayed: {replayed}");
            // Who goes on with the session does not tell it again.
            bench.asked();
            let (session, s) = bench.reached(client);
            let Found::At(record) = bench.history.at(session, s) else {
                panic!("not in the log");
            };
            assert!(record.guilds.is_empty(), "replayed: {replayed}");
        }
    }
}

/// That a channel went out of sight is told without a number: whoever goes on with the session does
/// not begin before it, with what was hidden then.
#[test]
fn what_is_not_numbered_says_how_far_a_session_is() {
    let mut bench = Bench::new(1);
    let client = bench.identified();
    bench.has_guild(&client, 1);
    let unheard = Envelope {
        vis: Visibility::realm(Intents::GUILD_MODERATION),
        ..Envelope::clone(&event(EventKind::GuildBanAdd, 2))
    };
    let told = Envelope {
        durability: Durability::Ephemeral,
        ..Envelope::clone(&event(EventKind::ChannelDelete, 2))
    };
    for event in [unheard, told] {
        bench.tell(ToCore::Event(Arc::new(event)));
    }
    bench.asked();
    let (session, s) = bench.reached(&client);
    let Found::At(record) = bench.history.at(session, s) else {
        panic!("not in the log");
    };
    assert_eq!(record.guilds, [(guild(), Reached::Position(at(2)))]);
}

#[test]
fn who_leaves_a_guild_before_it_came_is_not_told_of_its_end() {
    let mut bench = Bench::new(1);
    let client = bench.identified();
    bench.has_guild(&client, 1);
    bench.answered(Subscribed {
        realm: shard::realm(user()),
        ..answer(1)
    });
    bench.read(&client);
    let joined = Id::<Guild>::new(78 << 22).unwrap();
    let comes_and_goes = [EventKind::UserJoinedGuild, EventKind::UserLeftGuild];
    for (seq, kind) in (2..).zip(comes_and_goes) {
        let event = Envelope {
            realm: shard::realm(user()),
            vis: Visibility::users(vec![user()]),
            body: json!({"guild_id": joined}).to_string().into(),
            ..Envelope::clone(&event(kind, seq))
        };
        bench.tell(ToCore::Event(Arc::new(event)));
    }
    assert_eq!(bench.read(&client), []);
    bench.asked();
    let (session, s) = bench.reached(&client);
    let Found::At(record) = bench.history.at(session, s) else {
        panic!("not in the log");
    };
    let guilds: Vec<_> = record.guilds.iter().map(|(guild, _)| *guild).collect();
    assert_eq!(guilds, [guild()]);
}

#[test]
fn private_channels_are_the_first_shards_of_bots_and_every_sessions_of_people() {
    for (bot, of, hears) in [
        (true, (0, 2), true),
        (true, (1, 2), false),
        (false, (0, 2), true),
        (false, (1, 2), true),
    ] {
        let mut session = travelling(1);
        session.record.bot = bot;
        session.record.shard = of;
        session.record.intents |= Intents::DIRECT_MESSAGES.bits();
        let mut bench = Bench::new(1);
        let client = bench.resumes((session.record.id, session.s));
        bench.arrived(&client, session);
        bench.answered(Subscribed {
            realm: shard::realm(user()),
            ..answer(1)
        });
        bench.read(&client);
        let message = Envelope {
            realm: shard::realm(user()),
            vis: Visibility {
                intents: Intents::DIRECT_MESSAGES,
                ..Visibility::users(vec![user()])
            },
            ..Envelope::clone(&event(EventKind::MessageCreate, 2))
        };
        bench.tell(ToCore::Event(Arc::new(message)));
        let told = names(bench.read(&client));
        let is_message = |name: &String| name == "MESSAGE_CREATE";
        assert_eq!(told.iter().any(is_message), hears, "bot: {bot}, {of:?}");
    }
}

#[test]
fn who_comes_from_far_back_takes_the_guild_from_nobody_else() {
    let mut bench = Bench::new(1);
    let stays = bench.identified();
    bench.has_guild(&stays, 20_000);
    let session = travelling(1);
    let returns = bench.resumes((session.record.id, session.s));
    bench.arrived(&returns, session);
    bench.read(&stays);
    bench.read(&returns);
    bench.subscriptions();

    bench.answered(Subscribed {
        lost: Some(at(20_000)),
        ..answer(20_001)
    });
    let deleted = || {
        let d = json!({"id": guild(), "unavailable": true});
        ("GUILD_DELETE".to_owned(), d)
    };
    assert!(bench.read(&stays).is_empty());
    assert_eq!(bench.read(&returns), [deleted()]);
    let asked = bench.subscriptions();
    assert!(asked.iter().any(|one| one.from == Some(at(20_000))));

    let snapshots = vec![snapshot(bench.session(&returns), 20_001)];
    bench.answered(Subscribed {
        replay: vec![event(EventKind::GuildUpdate, 20_001)],
        snapshots,
        ..answer(20_001)
    });
    assert_eq!(names(bench.read(&stays)), ["GUILD_UPDATE"]);
    assert_eq!(names(bench.read(&returns)), ["GUILD_CREATE"]);

    // What is lost to the core itself is lost to all.
    bench.tell(ToCore::Event(event(EventKind::GuildUpdate, 40_000)));
    bench.answered(Subscribed {
        lost: Some(at(39_000)),
        ..answer(40_000)
    });
    for client in [&stays, &returns] {
        assert_eq!(bench.read(client), [deleted()]);
    }
}

/// Names of what a client was dispatched.
fn names(told: Vec<(String, Value)>) -> Vec<String> {
    told.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_presence_without_a_status_leaves_the_status_as_it_was() {
    let mut bench = Bench::new(1);
    let client = bench.identified();
    let slot = bench.session(&client).slot as usize;
    for (said, is) in [
        (json!("invisible"), Status::Invisible),
        (json!("unknown"), Status::Invisible),
        (Value::Null, Status::Invisible),
        (json!("idle"), Status::Idle),
    ] {
        let d = json!({"status": said, "activities": [], "since": null, "afk": false});
        bench.say(&client, &json!({"op": 3, "d": d}).to_string());
        assert_eq!(bench.core.sessions[slot].status, is, "{said}");
    }
}

#[test]
fn a_connection_that_goes_to_another_core_brings_what_it_has_sent() {
    let (mut here, mut there) = (Bench::new(1), Bench::new(1));
    let resume = || Resume {
        token: Token::parse(model::TOKEN).unwrap(),
        session_id: String::new(),
        seq: 0,
    };
    for (beats, closed) in [(COMMANDS_MAX - 1, false), (COMMANDS_MAX, true)] {
        let client = here.connect();
        for _ in 0..beats {
            here.say(&client, r#"{"op":1,"d":null}"#);
        }
        let life = here.core.connection_moved(client.connection).unwrap();
        let socket = client.socket.clone();
        let key = there
            .core
            .connection_resumes(socket, Format::default(), life, resume());
        assert_eq!(there.core.is_closing(key), closed, "{beats}");
    }
}

#[test]
fn no_question_is_asked_again_while_the_node_takes_nothing() {
    let mut bench = Bench::new(1);
    let client = bench.identified();
    bench.has_guild(&client, 1);
    bench.asked();
    let (session, _) = bench.reached(&client);
    let d = json!({"guild_ids": [guild()]});
    bench.say(&client, &json!({"op": 31, "d": d}).to_string());
    let asks = |bench: &mut Bench| {
        let mut asks = 0;
        loop {
            let asked = bench.asked().into_iter();
            asks += asked
                .filter(|request| matches!(request, ToNode::Ask(_)))
                .count();
            if bench.core.outbox.is_empty() {
                return asks;
            }
        }
    };
    assert_eq!(asks(&mut bench), 1);
    for (waiting, again) in [(CHUNKS_WAITING_MAX, 0), (0, 1)] {
        for _ in 0..waiting {
            let ended = ToNode::Ended { core: 0, session };
            bench.core.outbox.push_back(ended);
        }
        clock::forward(Duration::from_secs(4));
        bench.core.tick();
        assert_eq!(asks(&mut bench), again, "{waiting}");
    }
}
