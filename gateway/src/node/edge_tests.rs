//! An edge of one core, without Postgres and Redis: what its owner says is said by the test.

use std::sync::Arc;

use guildhall_shared::{
    cluster_map::{Assignment, ClusterMap, MapVersion},
    envelope::{Durability, Envelope, Visibility},
    gateway::{EventKind, Intents},
    model::{Activity, Platform, Status},
    shard::Position,
};
use guildhall_store::pool;
use prometheus::Registry;
use sqlx::postgres::PgConnectOptions;
use tokio::task::{LocalSet, spawn_local, yield_now};

use super::{asking::ATTEMPTS_MAX, to_owner::USERS_PER_FRAME_MAX, *};
use crate::{
    bus::{self, Inbox, SnapshotRequest, ToCore, ViewChange},
    clock,
    names::SessionKey,
    node::{
        database::PATIENCE,
        owner::{FromOwner, feed::Feed},
        redis,
        relay::{
            auth::ClusterKey,
            frame::{FRAME_BYTES_MAX, Sub, SubOk},
        },
        stored::Stored,
    },
    wire::PERSON_MESSAGE_BYTES_MAX,
};

const SHARDS: u16 = 4;

struct Bench {
    edge: Rc<Edge>,
    inbox: Inbox,
}

fn guild() -> Id<Realm> {
    Id::new(77 << 22).unwrap()
}

fn id(user: u64) -> Id<User> {
    Id::new(user).unwrap()
}

fn event(seq: u64) -> Arc<Envelope> {
    Arc::new(Envelope {
        realm: guild(),
        durability: Durability::Durable(Position { era: 1, seq }),
        kind: EventKind::MessageCreate,
        vis: Visibility::realm(Intents::empty()),
        at_ms: 0,
        trace: 0,
        body: "{}".into(),
        alt: None,
    })
}

/// All owners have failed.
fn given_up() -> Tries {
    Tries {
        attempt: ATTEMPTS_MAX,
        failed: None,
    }
}

impl Bench {
    /// To be called in a [`LocalSet`].
    fn new() -> Self {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let client = redis::client("redis://127.0.0.1:1").unwrap();
        let commands = client.connection().unwrap();
        let postgres: PgConnectOptions = "postgres://127.0.0.1:1/none".parse().unwrap();
        let stored = Stored::Postgres(pool::open(postgres, 1, PATIENCE));
        let map = Rc::new(MapWatch::new(SHARDS));
        let feed = Feed::new(client, commands, metrics.clone());
        let owner = Owner::new(stored, feed, metrics.clone(), SHARDS);
        let key = ClusterKey::new("key").unwrap();
        let links = Links::new("a".to_owned(), key, map.clone(), metrics.clone());
        let (core, inbox) = bus::inbox();
        let node = "a".to_owned();
        let edge = Edge::new(node, SHARDS, vec![core], map, owner, links, metrics);
        Self { edge, inbox }
    }

    /// This node is the owner by the map, and another one the standby.
    fn with_standby() -> Self {
        let bench = Self::new();
        bench.offer(1, (0, 1));
        bench
    }

    /// A map of nodes `a`, which is this one, and `b`: by their places, who owns all shards and who
    /// stands by.
    fn offer(&self, version: u64, (owner, standby): (u16, u16)) {
        let assignment = Assignment {
            owner: Some(owner),
            standby: Some(standby),
        };
        let map = ClusterMap {
            version: MapVersion { term: 1, version },
            nodes: vec!["a".to_owned(), "b".to_owned()],
            relay_addrs: vec!["127.0.0.1:1".to_owned(); 2],
            shards: vec![assignment; usize::from(SHARDS)],
            ..ClusterMap::default()
        };
        assert!(self.edge.map.offer(map));
    }

    /// The session of a user.
    fn session(user: u64) -> SessionKey {
        SessionKey {
            slot: user as u32,
            generation: 1,
        }
    }

    /// A session of each of these users waits for the guild.
    fn subscribe(&self, users: &[u64]) {
        let users = users.iter().map(|&user| {
            let request = SnapshotRequest {
                session: Self::session(user),
                large_threshold: 50,
                members: false,
                presences: false,
                unavailable: None,
            };
            Subscriber::new(id(user), vec![request])
        });
        let subscription = Subscription {
            realm: guild(),
            from: None,
            users: users.collect(),
        };
        self.edge.subscribe(0, vec![subscription]);
    }

    /// The owner answers a subscription: all of these users see the one class, and get the guild.
    fn answer(&self, subscription: u64, users: &[u64]) {
        self.answer_of(&Server::Local, subscription, users);
    }

    /// The same of any owner.
    fn answer_of(&self, server: &Server, subscription: u64, users: &[u64]) {
        let see = |&user: &u64| (id(user), Some(vec![0]));
        let get = |&user: &u64| (Self::session(user), "{}".into());
        let ok = SubOk {
            id: subscription,
            realm: guild(),
            position: Position { era: 1, seq: 5 },
            view: ViewChange {
                channels: Vec::new(),
                users: users.iter().map(see).collect(),
            },
            replay: Vec::new(),
            lost: None,
            snapshots: users.iter().map(get).collect(),
            left: Vec::new(),
        };
        let answer = FromOwner::SubOk(Box::new(ok));
        self.edge.receive(server, answer);
    }

    /// The owner refuses a subscription, and the pause after that is over.
    fn refuse(&self, subscription: u64) {
        let (id, realm) = (subscription, guild());
        let refused = FromOwner::Refused { id, realm };
        self.edge.receive(&Server::Local, refused);
        if let Some(pending) = self.edge.state.borrow_mut().pending.get_mut(&id) {
            pending.until = clock::now();
        }
        self.edge.look_after();
    }

    /// A subscription that waits for an answer, and who was asked.
    fn asked(&self) -> Option<(u64, Server)> {
        let state = self.edge.state.borrow();
        let (&id, pending) = state.pending.iter().next()?;
        Some((id, pending.server.clone()))
    }

    /// The subscription that waits for an answer.
    fn pending(&self) -> u64 {
        let state = self.edge.state.borrow();
        let mut pending = state.pending.keys().copied();
        let one = pending.next().unwrap();
        assert_eq!(pending.next(), None);
        one
    }

    /// Users for whose sessions snapshots are to be asked for next.
    fn queued(&self) -> Vec<Id<User>> {
        let state = self.edge.state.borrow();
        let queued = state.realms[&guild()].cores[0].queued.as_ref();
        let snapshots = queued.into_iter().flat_map(|ask| &ask.snapshots);
        snapshots.map(|(user, _)| *user).collect()
    }
}

#[tokio::test]
async fn what_a_core_could_not_be_told_to_ask_for_again_is_asked_for_again() {
    let test = async {
        let bench = Bench::new();
        bench.subscribe(&[1]);
        let waits = bench.pending();
        while bench.edge.cores[0].send(ToCore::KeepClients).is_ok() {}
        let mut out = Outgoing::new();
        let mut state = bench.edge.state.borrow_mut();
        bench
            .edge
            .ask_again(&mut state, waits, given_up(), &mut out);
        drop(state);
        assert_eq!(bench.queued(), [id(1)]);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_has_left_and_come_again_is_not_answered_for_before() {
    let test = async {
        let bench = Bench::new();
        bench.subscribe(&[1, 2]);
        let before = bench.pending();
        bench.edge.unsubscribe(0, guild(), &[id(2)]);
        bench.subscribe(&[2]);
        assert_eq!((bench.pending(), bench.queued()), (before, vec![id(2)]));
        bench.answer(before, &[1, 2]);
        let Ok(ToCore::Subscribed(subscribed)) = bench.inbox.messages.try_recv() else {
            panic!("no answer");
        };
        assert_eq!(subscribed.view.users, [(id(1), Some(vec![0]))]);
        assert_eq!(subscribed.snapshots, [(Bench::session(1), "{}".into())]);
        assert_ne!(bench.pending(), before);
        assert!(bench.queued().is_empty());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_core_that_had_no_room_before_an_answer_came_subscribes_again_behind_it() {
    let test = async {
        let bench = Bench::new();
        bench.subscribe(&[1]);
        bench.answer(bench.pending(), &[1]);
        bench.subscribe(&[2]);
        let waits = bench.pending();
        while bench.edge.cores[0].send(ToCore::KeepClients).is_ok() {}
        let lost = FromOwner::Event(event(6));
        bench.edge.receive(&Server::Local, lost);
        bench.edge.look_after();
        while bench.inbox.messages.try_recv().is_ok() {}
        bench.answer(waits, &[2]);
        assert_ne!(bench.pending(), waits);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_slept_as_nothing_was_to_be_done_subscribes_a_core_again_that_fell_behind() {
    let test = async {
        let bench = Bench::new();
        spawn_local(bench.edge.clone().tend());
        bench.subscribe(&[1]);
        bench.answer(bench.pending(), &[1]);
        while bench.inbox.messages.try_recv().is_ok() {}
        // Until it sleeps.
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(bench.edge.is_idle());
        while bench.edge.cores[0].send(ToCore::KeepClients).is_ok() {}
        let lost = FromOwner::Event(event(6));
        bench.edge.receive(&Server::Local, lost);
        while bench.inbox.messages.try_recv().is_ok() {}
        while bench.asked().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_came_while_another_owner_did_not_answer_is_asked_for_at_the_one_that_serves() {
    let test = async {
        let bench = Bench::new();
        bench.subscribe(&[1]);
        bench.answer(bench.pending(), &[1]);
        let (edge, mut out) = (&bench.edge, Outgoing::new());
        let other = Server::Node("b".into());
        let mut state = edge.state.borrow_mut();
        let (ask, tries) = (Ask::default(), Tries::default());
        edge.ask(&mut state, guild(), 0, other, ask, tries, &mut out);
        drop(state);
        let moves = bench.pending();
        bench.subscribe(&[2]);
        assert_eq!((bench.pending(), bench.queued()), (moves, vec![id(2)]));
        let mut state = edge.state.borrow_mut();
        edge.ask_again(&mut state, moves, given_up(), &mut out);
        drop(state);
        assert_ne!(bench.pending(), moves);
        assert!(bench.queued().is_empty());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_owner_that_is_behind_a_core_is_asked_again_later_and_not_at_once() {
    let test = async {
        let bench = Bench::new();
        bench.subscribe(&[1]);
        bench.answer(bench.pending(), &[1]);
        let event = FromOwner::Event(event(6));
        bench.edge.receive(&Server::Local, event);
        let returning = Subscription {
            realm: guild(),
            from: Some(Position { era: 1, seq: 3 }),
            users: vec![Subscriber::new(id(2), Vec::new())],
        };
        bench.edge.subscribe(0, vec![returning]);
        let asked = bench.pending();
        bench.answer(asked, &[]);
        assert!(bench.edge.state.borrow().pending.is_empty());
        bench.edge.look_after();
        assert_ne!(bench.pending(), asked);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_is_refused_again_and_again_is_told_so_and_the_others_hear_on() {
    let test = async {
        let bench = Bench::with_standby();
        bench.subscribe(&[1]);
        bench.answer(bench.pending(), &[1]);
        bench.subscribe(&[2]);
        let mut refused = 0;
        while let Some((id, _)) = bench.asked() {
            refused += 1;
            assert!(refused <= ATTEMPTS_MAX);
            bench.refuse(id);
        }
        let told = bench.inbox.messages.try_iter().last();
        assert!(matches!(told, Some(ToCore::Unavailable { .. })));
        let event = FromOwner::Event(event(6));
        bench.edge.receive(&Server::Local, event);
        let heard = bench.inbox.messages.try_recv();
        assert!(matches!(heard, Ok(ToCore::Event(_))));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_is_refused_by_the_owner_is_served_by_the_standby_and_the_others_hear_that_one() {
    let test = async {
        let bench = Bench::with_standby();
        bench.subscribe(&[1]);
        bench.answer(bench.pending(), &[1]);
        bench.subscribe(&[2]);
        bench.refuse(bench.pending());
        let (asked, standby) = bench.asked().unwrap();
        assert_eq!(standby, Server::Node("b".into()));
        bench.answer_of(&standby, asked, &[1, 2]);
        assert_eq!(bench.asked(), None);
        let Some(ToCore::Subscribed(subscribed)) = bench.inbox.messages.try_iter().last() else {
            panic!("no answer");
        };
        assert!(subscribed.complete);
        assert_eq!(subscribed.snapshots, [(Bench::session(2), "{}".into())]);
        for (server, heard) in [(Server::Local, false), (standby, true)] {
            bench.edge.receive(&server, FromOwner::Event(event(6)));
            assert_eq!(bench.inbox.messages.try_recv().is_ok(), heard);
        }
        // The owner is asked again with the next look at the map.
        bench.edge.rebalance();
        let (asked, owner) = bench.asked().unwrap();
        assert_eq!(owner, Server::Local);
        bench.refuse(asked);
        assert_eq!(bench.asked(), None);
        bench
            .edge
            .receive(&Server::Node("b".into()), FromOwner::Event(event(7)));
        assert!(bench.inbox.messages.try_recv().is_ok());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_realm_is_turned_to_the_owner_of_a_new_map_and_stays_there_until_its_link_fails() {
    let test = async {
        let bench = Bench::with_standby();
        let moving = || bench.edge.moving().count();
        bench.subscribe(&[1]);
        bench.answer(bench.pending(), &[1]);
        bench.offer(2, (0, 1));
        bench.edge.rebalance();
        assert_eq!((bench.asked(), moving()), (None, 0));
        bench.offer(3, (1, 0));
        bench.edge.rebalance();
        let (moves, owner) = bench.asked().unwrap();
        assert_eq!((&owner, moving()), (&Server::Node("b".into()), 1));
        bench.answer_of(&owner, moves, &[1]);
        bench.edge.rebalance();
        assert_eq!((bench.asked(), moving()), (None, 0));
        // Nobody is there.
        while bench.edge.links.is_trusted("b") {
            sleep(Duration::from_millis(1)).await;
        }
        bench.edge.rebalance();
        let asked = bench.asked().map(|(_, server)| server);
        assert_eq!((asked, moving()), (Some(Server::Local), 1));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn subscriptions_that_a_link_has_no_room_for_are_sent_when_there_is_some() {
    let test = async {
        let bench = Bench::new();
        bench.offer(1, (1, 0));
        let links = &bench.edge.links;
        let node: Rc<str> = "b".into();
        let much = Frame::Unsub {
            realm: guild(),
            users: vec![id(i64::MAX as u64); 2_000_000],
            moved: false,
        };
        links.send(&node, &much);
        assert!(!links.has_room("b"));
        let queued = links.queued_bytes();
        bench.subscribe(&[1]);
        let waits = bench.asked();
        assert_eq!(waits.as_ref().map(|(_, of)| of), Some(&Server::Node(node)));
        bench.edge.look_after();
        assert_eq!(
            (bench.asked(), links.queued_bytes()),
            (waits.clone(), queued)
        );
        // Nobody is there: the next link has room.
        while links.is_trusted("b") {
            sleep(Duration::from_millis(1)).await;
        }
        bench.offer(2, (1, 0));
        bench.edge.look_after();
        let asked = bench.asked();
        assert_ne!(asked, waits);
        assert_eq!(asked.map(|(_, of)| of), waits.map(|(_, of)| of));
        assert!(links.queued_bytes() > 0);
    };
    LocalSet::new().run_until(test).await;
}

#[test]
fn users_who_show_as_much_as_they_may_fit_into_a_frame_of_subscriptions() {
    let text = "x".repeat(PERSON_MESSAGE_BYTES_MAX);
    let json = serde_json::value::to_raw_value(&text).unwrap();
    let activities = Arc::new(vec![Activity::new(1, json)]);
    let mut user = Subscriber::new(id(i64::MAX as u64), Vec::new());
    user.presence = Presence::of_session(Platform::Desktop, Status::Dnd, Some(&activities));
    let sub = Sub {
        id: u64::MAX,
        realm: guild(),
        from: Some(Position {
            era: u32::MAX,
            seq: u64::MAX,
        }),
        users: vec![user],
        presences: true,
    };
    let bytes = Frame::Sub(vec![sub]).encode().len();
    assert!(bytes > PERSON_MESSAGE_BYTES_MAX);
    assert!(USERS_PER_FRAME_MAX * bytes < FRAME_BYTES_MAX, "{bytes}");
}
