//! What an owner read of a realm and passes on, without Postgres and Redis.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use guildhall_shared::{
    envelope::{Durability, Visibility},
    gateway::{EventKind, Intents},
    id::marker::User,
};
use guildhall_store::pool;
use prometheus::Registry;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncReadExt, duplex},
    task::{LocalSet, yield_now},
};

use super::*;
use crate::{
    bus::Subscriber,
    node::{
        database::PATIENCE,
        metrics::Metrics,
        owner::{Peer, feed::Feed},
        redis,
        relay::{
            frame::{self, FRAME_BYTES_MAX, Frame, Sub},
            outbox::{OUTBOX_BYTES_MAX, Outbox},
        },
        stored::Stored,
    },
};

/// Far more than may wait for a link.
const EVENTS: u64 = 100;
const EVENT_BYTES: usize = OUTBOX_BYTES_MAX / 50;

fn owner() -> Rc<Owner> {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let client = redis::client("redis://127.0.0.1:1").unwrap();
    let commands = client.connection().unwrap();
    let postgres: PgConnectOptions = "postgres://127.0.0.1:1/none".parse().unwrap();
    let stored = Stored::Postgres(pool::open(postgres, 1, PATIENCE));
    let feed = Feed::new(client, commands, metrics.clone());
    Owner::new(stored, feed, metrics, 1)
}

#[tokio::test]
async fn what_fills_a_large_gap_waits_for_room_on_the_links_of_those_who_listen() {
    let test = async {
        let (owner, outbox) = (owner(), Outbox::new());
        let edge = owner.edge_up("b".to_owned(), Peer::Remote(outbox.clone()));
        let user: Id<User> = Id::new(77 << 22).unwrap();
        let realm: Id<RealmMarker> = user.cast();
        let sub = Sub {
            id: 1,
            realm,
            from: None,
            users: vec![Subscriber::new(user, Vec::new())],
            presences: false,
        };
        owner.subscribe(edge, vec![sub]);
        owner.opened(realm, Realm::user(realm, Position { era: 1, seq: 0 }));
        let body = Bytes::from(vec![b'x'; EVENT_BYTES]);
        let event = move |seq| Envelope {
            realm,
            durability: Durability::Durable(Position { era: 1, seq }),
            kind: EventKind::MessageCreate,
            vis: Visibility::realm(Intents::empty()),
            at_ms: 0,
            trace: 0,
            body: body.clone(),
            alt: None,
        };
        spawn_local(async move {
            let mut passed = 0;
            for seq in 1..=EVENTS {
                owner.pass_on(event(seq), &mut passed).await;
            }
        });
        // As far as it goes while nothing is written.
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(!outbox.broken.is_cancelled());
        assert!(outbox.bytes() < OUTBOX_BYTES_MAX / 2);

        let (mut writer, mut reader) = duplex(EVENT_BYTES);
        spawn_local(async move { outbox.write_to(&mut writer).await });
        let (mut buffer, mut had) = (BytesMut::new(), 0);
        while had < EVENTS {
            let Some(payload) = frame::cut(&mut buffer, FRAME_BYTES_MAX).unwrap() else {
                assert_ne!(reader.read_buf(&mut buffer).await.unwrap(), 0);
                continue;
            };
            if let Frame::Ev(event) = Frame::decode(payload).unwrap() {
                had += 1;
                assert_eq!(event.position().unwrap().seq, had);
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn events_of_a_realm_that_could_not_be_read_are_not_wanted_any_longer() {
    let test = async {
        let owner = owner();
        let edge = owner.edge_up("b".to_owned(), Peer::Remote(Outbox::new()));
        let realm: Id<RealmMarker> = Id::new(77 << 22).unwrap();
        let sub = Sub {
            id: 1,
            realm,
            from: None,
            users: vec![Subscriber::new(Id::new(10).unwrap(), Vec::new())],
            presences: false,
        };
        owner.subscribe(edge, vec![sub]);
        let shard = ShardId::of(realm, 1);
        owner.feed.ensure(shard).await;
        owner.close_idle();
        assert_eq!(owner.feed.wanted(), [shard]);
        assert!(owner.not_opened(realm));
        owner.close_idle();
        assert!(owner.feed.wanted().is_empty());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_lacks_too_much_is_told_from_where_on_it_is_to_be_had() {
    let test = async {
        let owner = owner();
        let said = Rc::new(RefCell::new(Vec::new()));
        let hears = said.clone();
        let tell = move |message: FromOwner| hears.borrow_mut().push(message);
        let edge = owner.edge_up("a".to_owned(), Peer::Local(Box::new(tell)));
        let user: Id<User> = Id::new(77 << 22).unwrap();
        let realm: Id<RealmMarker> = user.cast();
        let at = |seq| Position { era: 1, seq };
        let subscribe = |id, from| {
            let sub = Sub {
                id,
                realm,
                from,
                users: vec![Subscriber::new(user, Vec::new())],
                presences: false,
            };
            owner.subscribe(edge, vec![sub]);
        };
        subscribe(1, None);
        owner.opened(realm, Realm::user(realm, at(3 * REPLAY_MAX)));
        subscribe(2, Some(at(1)));
        for _ in 0..100 {
            yield_now().await;
        }
        let lost = said.take().into_iter().find_map(|message| match message {
            FromOwner::SubOk(ok) if ok.id == 2 => Some(ok.lost),
            _ => None,
        });
        assert_eq!(lost, Some(Some(at(2 * REPLAY_MAX))));
    };
    LocalSet::new().run_until(test).await;
}
