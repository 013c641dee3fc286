//! The node on real Postgres and Redis: events, gaps, relay, the death of an owner.
#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

mod asks;
mod presence;
mod snapshots;
mod status;
mod watch;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use guildhall_gateway::{
    bus::{
        self, CoreHandle, IdentifyRequest, Inbox, Refused, SessionKey, SnapshotRequest, Subscribed,
        Subscriber, Subscription, ToCore, ToNode, ViewChange, VoiceRequest,
    },
    codec::VoiceCommand,
    node::{self, ClusterKey, Status},
};
use guildhall_shared::{
    Id,
    cluster_map::{Assignment, ClusterMap, MapVersion, NodeStatus},
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::{CloseCode, EventKind, Intents},
    id::marker::{Channel, Guild, Realm, User},
    keys,
    shard::{Position, ShardId},
    token::Token,
    voice::VoiceSettings,
};
use guildhall_store::events::Span;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const SHARDS: u16 = 16;
const START_TIME: EventKind = EventKind::VoiceChannelStartTimeUpdate;
/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wait for something that must not come.
const QUIET: Duration = Duration::from_millis(300);
/// No Redis listens there.
const NOBODY: &str = "redis://127.0.0.1:1";

/// Redis databases are shared with other processes: each test takes one of its own.
static DATABASE: AtomicU32 = AtomicU32::new(0);
/// Channels are not: each test takes its own ids.
static IDS: AtomicU64 = AtomicU64::new(1);

/// Channels of Redis are shared by all tests: the one that floods them runs alone, as what has no number
/// (presence) may be lost then.
static FLOOD: RwLock<()> = RwLock::const_new(());

#[expect(dead_code, reason = "held as long as the test lasts")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A guild with an owner, a member, an open channel, and ways to make events.
struct World {
    _turn: Turn,
    db: PgPool,
    url: String,
    redis_url: String,
    redis: redis::aio::MultiplexedConnection,
    guild: Id<Guild>,
    owner: Id<User>,
    member: Id<User>,
    open: Id<Channel>,
}

impl World {
    async fn new(db: PgPool) -> Self {
        Self::in_turn(db, Turn::Shared(FLOOD.read().await)).await
    }

    async fn alone(db: PgPool) -> Self {
        Self::in_turn(db, Turn::Alone(FLOOD.write().await)).await
    }

    async fn in_turn(db: PgPool, turn: Turn) -> Self {
        let base = IDS.fetch_add(1, Ordering::Relaxed);
        let stamp = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_micros() as u64;
        let id = |n: u64| (stamp % 1_000_000_000) << 26 | base << 16 | n;
        let (owner, member, guild, open) = (id(1), id(2), id(3), id(4));
        let shard = |id: u64| ShardId::of(Id::<Realm>::new(id).unwrap(), SHARDS).0;
        sqlx::raw_sql("create table realm_event_rest partition of realm_event default")
            .execute(&db)
            .await
            .unwrap();
        for (user, name) in [(owner, "owner"), (member, "member")] {
            sqlx::query("insert into account (user_id, username, bot) values ($1, $2, $3)")
                .bind(user as i64)
                .bind(name)
                .bind(name == "member")
                .execute(&db)
                .await
                .unwrap();
        }
        for realm in [owner, member, guild] {
            sqlx::query("insert into realm_head (realm_id, shard) values ($1, $2)")
                .bind(realm as i64)
                .bind(i32::from(shard(realm)))
                .execute(&db)
                .await
                .unwrap();
        }
        sqlx::query(
            "insert into guild (guild_id, name, owner_id, member_count) values ($1, 'Hall', $2, 2)",
        )
        .bind(guild as i64)
        .bind(owner as i64)
        .execute(&db)
        .await
        .unwrap();
        sqlx::query("insert into role (guild_id, role_id, name, position, permissions) values ($1, $1, '@everyone', 0, 1024)")
            .bind(guild as i64)
            .execute(&db)
            .await
            .unwrap();
        for user in [owner, member] {
            sqlx::query("insert into member (guild_id, user_id) values ($1, $2)")
                .bind(guild as i64)
                .bind(user as i64)
                .execute(&db)
                .await
                .unwrap();
        }
        sqlx::query(
            "insert into channel (channel_id, guild_id, kind, name) values ($1, $2, 0, 'open')",
        )
        .bind(open as i64)
        .bind(guild as i64)
        .execute(&db)
        .await
        .unwrap();
        let name: String = sqlx::query_scalar("select current_database()")
            .fetch_one(&db)
            .await
            .unwrap();
        let url = std::env::var("DATABASE_URL").unwrap();
        let (server, _) = url.rsplit_once('/').unwrap();
        let redis_url = format!(
            "{}/{}",
            std::env::var("REDIS_URL").unwrap().trim_end_matches('/'),
            1 + DATABASE.fetch_add(1, Ordering::Relaxed) % 15
        );
        let client = redis::Client::open(redis_url.as_str()).unwrap();
        // One test floods the server all of them share: the default is 500 ms.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let mut redis = client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap();
        empty(&mut redis).await;
        Self {
            _turn: turn,
            url: format!("{server}/{name}"),
            redis_url,
            redis,
            guild: Id::new(guild).unwrap(),
            owner: Id::new(owner).unwrap(),
            member: Id::new(member).unwrap(),
            open: Id::new(open).unwrap(),
            db,
        }
    }

    /// Makes a token of an account.
    async fn make_token(&self, user: Id<User>, secret: u8) -> Token {
        let token = Token::mint(user, 1_767_323_045_678, [secret; 32]);
        sqlx::query("insert into auth_token (token_hash, user_id) values ($1, $2)")
            .bind(token.hash().0.as_slice())
            .bind(user.to_db())
            .execute(&self.db)
            .await
            .unwrap();
        token
    }

    /// Gives the member, who is a bot, an application and a token.
    async fn make_bot(&self, secret: u8) -> Token {
        sqlx::query("insert into application (application_id, owner_id, name, verify_key) values ($1, $2, 'x', '')")
            .bind(self.member.to_db())
            .bind(self.owner.to_db())
            .execute(&self.db)
            .await
            .unwrap();
        self.make_token(self.member, secret).await
    }

    fn realm(&self) -> Id<Realm> {
        self.guild.cast()
    }

    /// Stores the guild's next event.
    async fn store(&self, kind: EventKind, vis: Visibility, body: &Value) -> Envelope {
        let body = body.to_string();
        let mut bytes = Vec::new();
        vis.encode(&mut bytes);
        let mut tx = self.db.begin().await.unwrap();
        let (era, seq): (i32, i64) = sqlx::query_as(
            "update realm_head set seq = seq + 1 where realm_id = $1 returning era, seq",
        )
        .bind(self.realm().to_db())
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        sqlx::query(
            "insert into realm_event (realm_id, seq, shard, era, kind, vis, body)
             values ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(self.realm().to_db())
        .bind(seq)
        .bind(i32::from(ShardId::of(self.realm(), SHARDS).0))
        .bind(era)
        .bind(kind.number() as i16)
        .bind(bytes)
        .bind(body.as_bytes())
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        Envelope {
            realm: self.realm(),
            durability: Durability::Durable(Position {
                era: era as u32,
                seq: seq as u64,
            }),
            kind,
            vis,
            at_ms: 0,
            trace: 0,
            body: body.into(),
            alt: None,
        }
    }

    async fn store_message(&self) -> Envelope {
        let vis = Visibility::channel(self.open, Intents::GUILD_MESSAGES);
        let body = json!({"id": "77", "channel_id": self.open});
        self.store(EventKind::MessageCreate, vis, &body).await
    }

    async fn publish(&self, event: &Envelope) {
        let key = keys::shard_events(ShardId::of(event.realm, SHARDS));
        let bytes = event.encode().to_vec();
        let mut redis = self.redis.clone();
        let () = redis::pipe()
            .cmd("XADD")
            .arg(&key)
            .arg("*")
            .arg(keys::STREAM_FIELD)
            .arg(&bytes)
            .ignore()
            .cmd("SPUBLISH")
            .arg(&key)
            .arg(&bytes)
            .ignore()
            .query_async(&mut redis)
            .await
            .unwrap();
    }

    async fn post(&self) -> u64 {
        let event = self.store_message().await;
        self.publish(&event).await;
        event.position().unwrap().seq
    }

    /// Publishes a map in which one node owns everything and another stands by.
    async fn publish_map(&self, version: u64, nodes: &[&Node], owner: u16, standby: Option<u16>) {
        let relays: Vec<SocketAddr> = nodes.iter().map(|node| node.relay()).collect();
        self.publish_map_with(version, nodes, &relays, (owner, standby))
            .await;
    }

    /// Publishes a map in which the nodes are reached at these addresses.
    async fn publish_map_with(
        &self,
        version: u64,
        nodes: &[&Node],
        relays: &[SocketAddr],
        (owner, standby): (u16, Option<u16>),
    ) {
        let map = ClusterMap {
            version: MapVersion { term: 1, version },
            nodes: nodes.iter().map(|node| node.id.clone()).collect(),
            relay_addrs: relays.iter().map(SocketAddr::to_string).collect(),
            shards: vec![
                Assignment {
                    owner: Some(owner),
                    standby,
                };
                usize::from(SHARDS)
            ],
            drains: Default::default(),
        };
        let json = serde_json::to_string(&map).unwrap();
        let mut redis = self.redis.clone();
        let () = redis::pipe()
            .cmd("SET")
            .arg(keys::MAP)
            .arg(&json)
            .ignore()
            .cmd("PUBLISH")
            .arg(keys::MAP)
            .arg(&json)
            .ignore()
            .query_async(&mut redis)
            .await
            .unwrap();
    }

    fn subscription(&self, users: &[Id<User>], from: Option<Position>) -> Subscription {
        Subscription {
            realm: self.realm(),
            from,
            users: users
                .iter()
                .zip(1..)
                .map(|(&user, slot)| {
                    let request = SnapshotRequest {
                        session: SessionKey {
                            slot,
                            generation: 1,
                        },
                        large_threshold: 50,
                        members: true,
                        presences: false,
                        unavailable: Some(false),
                    };
                    Subscriber::new(user, vec![request])
                })
                .collect(),
        }
    }
}

/// A node with two cores, which are the test; most tests use the first only.
struct Node {
    id: String,
    requests: mpsc::Sender<ToNode>,
    inbox: Inbox,
    second: Inbox,
    status: Arc<Status>,
    registry: prometheus::Registry,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<Result<(), node::Error>>>,
}

/// Each node of a test has one of its own.
fn boot_of(id: &str) -> u32 {
    id.bytes().map(u32::from).sum()
}

/// Removes all that a database of Redis holds. Not by FLUSHDB, which every node of the server takes
/// for a loss, and other tests have theirs there.
async fn empty(redis: &mut redis::aio::MultiplexedConnection) {
    let script = "for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('DEL', key) end";
    let () = redis::cmd("EVAL")
        .arg(script)
        .arg(0)
        .query_async(redis)
        .await
        .unwrap();
}

impl Node {
    fn start(world: &World, id: &str) -> Self {
        Self::start_with(world, id, &world.redis_url, "key")
    }

    fn start_with(world: &World, id: &str, redis_url: &str, key: &str) -> Self {
        let (handle, inbox): (CoreHandle, Inbox) = bus::inbox();
        let (second_handle, second) = bus::inbox();
        let (requests, receiver) = mpsc::channel(64);
        let (status, registry) = (Arc::new(Status::default()), prometheus::Registry::new());
        let shutdown = CancellationToken::new();
        let config = node::Config {
            node_id: id.to_owned(),
            boot: boot_of(id),
            resume: guildhall_gateway::config::ResumeLog::Async,
            database_url: world.url.clone(),
            redis_url: redis_url.to_owned(),
            relay_listen: "127.0.0.1:0".parse().unwrap(),
            relay_advertise: None,
            relay_public: false,
            gateway_url: "ws://127.0.0.1".into(),
            cluster_key: ClusterKey::new(key).unwrap(),
            shards: SHARDS,
            identify_concurrency: 1,
            db_connections_max: 4,
            voice: VoiceSettings::new(Some("voice.test:443".to_owned()), "a key"),
            status: status.clone(),
            registry: registry.clone(),
        };
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || {
            node::run(config, vec![handle, second_handle], receiver, stop)
        });
        let node = Self {
            id: id.to_owned(),
            requests,
            inbox,
            second,
            status,
            registry,
            shutdown,
            thread: Some(thread),
        };
        let started = Instant::now();
        while node.status.relay_addr().is_none() {
            assert!(started.elapsed() < PATIENCE, "the node does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        node
    }

    fn relay(&self) -> SocketAddr {
        self.status.relay_addr().unwrap()
    }

    async fn subscribe(&self, subscription: Subscription) {
        let subscriptions = vec![subscription];
        self.requests
            .send(ToNode::Subscribe {
                core: 0,
                subscriptions,
            })
            .await
            .unwrap();
    }

    async fn next_within(&self, time: Duration) -> Option<ToCore> {
        let deadline = Instant::now() + time;
        loop {
            if let Ok(message) = self.inbox.messages.try_recv() {
                return Some(message);
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn next(&self) -> ToCore {
        self.next_within(PATIENCE).await.expect("a message")
    }

    async fn subscribed(&self) -> Subscribed {
        match self.next().await {
            ToCore::Subscribed(subscribed) => *subscribed,
            other => panic!("not subscribed, but {other:?}"),
        }
    }

    async fn event(&self) -> Arc<Envelope> {
        match self.next().await {
            ToCore::Event(event) => event,
            other => panic!("no event, but {other:?}"),
        }
    }

    async fn view(&self) -> ViewChange {
        match self.next().await {
            ToCore::View { change, .. } => change,
            other => panic!("no view, but {other:?}"),
        }
    }

    async fn quiet(&self) {
        if let Some(message) = self.next_within(QUIET).await {
            panic!("unexpected {message:?}");
        }
    }

    /// A metric of this node without labels.
    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metric = &family.expect("a metric of this name").get_metric()[0];
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is(self) {
            assert!(started.elapsed() < PATIENCE, "never: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn seq(event: &Envelope) -> u64 {
    event.position().unwrap().seq
}

#[sqlx::test(migrations = "../migrations")]
async fn a_published_event_reaches_the_core(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.until("event feed", |node| node.status.is_ready())
        .await;
    node.subscribe(world.subscription(&[world.owner, world.member], None))
        .await;
    let subscribed = node.subscribed().await;
    assert_eq!(subscribed.position, Position { era: 1, seq: 0 });
    assert!(!subscribed.lost);
    assert_eq!(subscribed.snapshots.len(), 2);
    let guild: Value = serde_json::from_slice(&subscribed.snapshots[0].1).unwrap();
    assert_eq!(guild["id"], world.guild.to_string());
    assert_eq!(guild["channels"][0]["id"], world.open.to_string());
    assert_eq!(subscribed.view.users.len(), 2);
    for expected in 1..=20 {
        assert_eq!(world.post().await, expected);
    }
    for expected in 1..=20 {
        assert_eq!(seq(&*node.event().await), expected);
    }
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_that_was_never_published_is_found(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.subscribe(world.subscription(&[world.owner], None))
        .await;
    node.subscribed().await;
    world.store_message().await;
    assert_eq!(seq(&*node.event().await), 1);
    // The next one, published, shows that two before it are lacking.
    world.store_message().await;
    world.store_message().await;
    world.post().await;
    for expected in 2..=4 {
        assert_eq!(seq(&*node.event().await), expected);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn without_redis_events_still_come(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start_with(&world, "a", NOBODY, "key");
    node.subscribe(world.subscription(&[world.owner], None))
        .await;
    node.subscribed().await;
    for expected in 1..=3 {
        world.store_message().await;
        assert_eq!(seq(&*node.event().await), expected);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn repeats_and_disorder_do_not_show(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.subscribe(world.subscription(&[world.owner], None))
        .await;
    node.subscribed().await;
    let mut events = Vec::new();
    for _ in 0..6 {
        events.push(world.store_message().await);
    }
    for place in [1, 0, 0, 3, 1, 5, 2, 0, 4, 4, 3] {
        world.publish(&events[place]).await;
    }
    for expected in 1..=6 {
        assert_eq!(seq(&*node.event().await), expected);
    }
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_core_that_fell_behind_gets_what_it_lacks(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    for _ in 0..5 {
        world.store_message().await;
    }
    let from = Position { era: 1, seq: 2 };
    node.subscribe(world.subscription(&[world.owner], Some(from)))
        .await;
    let subscribed = node.subscribed().await;
    assert!(!subscribed.lost);
    assert_eq!(subscribed.position.seq, 5);
    let replayed: Vec<u64> = subscribed.replay.iter().map(|event| seq(event)).collect();
    assert_eq!(replayed, [3, 4, 5]);

    // From another era, or from events that are gone, only a snapshot helps.
    sqlx::query("delete from realm_event where seq = 1")
        .execute(&world.db)
        .await
        .unwrap();
    for from in [Position { era: 0, seq: 2 }, Position { era: 1, seq: 0 }] {
        node.subscribe(world.subscription(&[world.owner], Some(from)))
            .await;
        assert!(node.subscribed().await.lost, "{from:?}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_gap_that_cannot_be_filled_starts_the_realm_anew(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.subscribe(world.subscription(&[world.owner], None))
        .await;
    node.subscribed().await;
    world.store_message().await;
    sqlx::query("delete from realm_event")
        .execute(&world.db)
        .await
        .unwrap();
    world.post().await;
    let again = node.subscribed().await;
    assert!(again.lost);
    assert_eq!(again.position.seq, 2);
    assert_eq!(again.view.users.len(), 1);
    assert_eq!(world.post().await, 3);
    assert_eq!(seq(&*node.event().await), 3);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_revocation_comes_before_its_event(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.subscribe(world.subscription(&[world.owner, world.member], None))
        .await;
    node.subscribed().await;
    let update = json!({
        "id": world.open, "type": 0, "guild_id": world.guild, "name": "open", "position": 0,
        "parent_id": null, "flags": 0, "last_message_id": null,
        "permission_overwrites": [{"id": world.guild, "type": 0, "allow": "0", "deny": "1024"}],
    });
    let vis = Visibility::channel(world.open, Intents::GUILDS);
    let event = world.store(EventKind::ChannelUpdate, vis, &update).await;
    world.publish(&event).await;
    let view = node.view().await;
    assert_eq!(view.users, [(world.member, Some(Vec::new()))]);
    assert_eq!(seq(&*node.event().await), 1);
    for kind in [EventKind::ChannelUpdate, EventKind::ChannelDelete] {
        let event = node.event().await;
        assert_eq!(event.kind, kind);
        assert_eq!(event.durability, Durability::Ephemeral);
        assert_eq!(event.vis.scope, Scope::Users([world.member].into()));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_feed_that_breaks_again_and_again_loses_nothing(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.subscribe(world.subscription(&[world.owner], None))
        .await;
    node.subscribed().await;
    let database = format!(" db={} ", world.redis_url.rsplit('/').next().unwrap());
    for _ in 0..4 {
        let mut redis = world.redis.clone();
        let clients: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query_async(&mut redis)
            .await
            .unwrap();
        for client in clients
            .lines()
            .filter(|line| line.contains(&database) && !line.contains(" ssub=0 "))
        {
            let id = client.split([' ', '=']).nth(1).unwrap();
            let _: redis::RedisResult<u32> = redis::cmd("CLIENT")
                .arg("KILL")
                .arg("ID")
                .arg(id)
                .query_async(&mut redis)
                .await;
        }
        for _ in 0..20 {
            world.post().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for expected in 1..=80 {
        assert_eq!(seq(&*node.event().await), expected);
    }
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_newcomer_is_named_alone_and_all_hear_what_follows(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    for (user, complete) in [(world.owner, true), (world.member, false)] {
        node.subscribe(world.subscription(&[user], None)).await;
        let subscribed = node.subscribed().await;
        assert_eq!(subscribed.complete, complete);
        let named: Vec<_> = subscribed
            .view
            .users
            .iter()
            .map(|(user, _)| *user)
            .collect();
        assert_eq!(named, [user]);
        assert!(!subscribed.view.channels.is_empty());
        assert_eq!(subscribed.snapshots.len(), 1);
    }
    // Who asks from a position has lost something: all are named again.
    let from = Position { era: 1, seq: 0 };
    node.subscribe(world.subscription(&[world.owner], Some(from)))
        .await;
    let again = node.subscribed().await;
    assert!(again.complete);
    assert_eq!(again.view.users.len(), 2);
    assert_eq!(world.post().await, 1);
    assert_eq!(seq(&*node.event().await), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn cores_without_room_are_caught_up_later(db: PgPool) {
    let world = World::alone(db).await;
    let node = Node::start(&world, "a");
    for (core, user, inbox) in [
        (0, world.owner, &node.inbox),
        (1, world.member, &node.second),
    ] {
        let subscriptions = vec![world.subscription(&[user], None)];
        node.requests
            .send(ToNode::Subscribe {
                core,
                subscriptions,
            })
            .await
            .unwrap();
        while inbox.messages.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let typing = Envelope {
        realm: world.realm(),
        durability: Durability::Ephemeral,
        kind: EventKind::TypingStart,
        vis: Visibility::channel(world.open, Intents::GUILD_MESSAGE_TYPING),
        at_ms: 0,
        trace: 0,
        body: "{}".into(),
        alt: None,
    };
    let (key, bytes) = (
        keys::shard_events(ShardId::of(world.realm(), SHARDS)),
        typing.encode().to_vec(),
    );
    let mut redis = world.redis.clone();
    while node.metric("node_inbox_full_total") < 2.0 {
        let mut pipeline = redis::pipe();
        for _ in 0..10_000 {
            pipeline.cmd("SPUBLISH").arg(&key).arg(&bytes).ignore();
        }
        let _: redis::RedisResult<()> = pipeline.query_async(&mut redis).await;
    }
    world.post().await;
    world.post().await;
    tokio::time::sleep(QUIET).await;
    for inbox in [&node.inbox, &node.second] {
        let (mut at, started) = (0, Instant::now());
        while at < 2 {
            assert!(started.elapsed() < PATIENCE, "stands at {at}");
            match inbox.messages.try_recv() {
                Ok(ToCore::Event(event)) => {
                    if event.position().is_some() {
                        at += 1;
                        assert_eq!(seq(&event), at);
                    }
                }
                Ok(ToCore::Subscribed(subscribed)) => {
                    assert!(!subscribed.lost);
                    for event in &subscribed.replay {
                        at += 1;
                        assert_eq!(seq(event), at);
                    }
                }
                Ok(other) => panic!("unexpected {other:?}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_users_own_realm_needs_no_guild(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let realm: Id<Realm> = world.member.cast();
    node.subscribe(Subscription {
        realm,
        from: Some(Position { era: 1, seq: 0 }),
        users: vec![Subscriber::new(world.member, Vec::new())],
    })
    .await;
    let subscribed = node.subscribed().await;
    assert_eq!(subscribed.realm, realm);
    assert_eq!(subscribed.view.users, [(world.member, Some(Vec::new()))]);
    assert!(!subscribed.lost);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_strangers_subscription_shows_nothing(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let stranger = Id::new(999).unwrap();
    node.subscribe(world.subscription(&[stranger], None)).await;
    let subscribed = node.subscribed().await;
    assert_eq!(subscribed.view.users, [(stranger, None)]);
    assert!(subscribed.snapshots.is_empty());
}

/// The event of a join goes to the guild's owner and to the joiner's own realm by different
/// ways: the joiner may ask for the guild before its owner has heard of it.
#[sqlx::test(migrations = "../migrations")]
async fn a_newcomer_is_known_before_the_owner_has_heard_of_it(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.subscribe(world.subscription(&[world.owner], None))
        .await;
    node.subscribed().await;
    let newcomer: Id<User> = Id::new(world.guild.get() + 100).unwrap();
    sqlx::query("insert into account (user_id, username) values ($1, 'newcomer')")
        .bind(newcomer.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    sqlx::query("insert into member (guild_id, user_id) values ($1, $2)")
        .bind(world.guild.to_db())
        .bind(newcomer.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    let body = json!({
        "guild_id": world.guild, "roles": [], "nick": null, "avatar": null, "banner": null,
        "joined_at": "2026-01-02T03:04:05.678000+00:00", "premium_since": null, "deaf": false,
        "mute": false, "flags": 0, "pending": false, "communication_disabled_until": null,
        "avatar_decoration_data": null, "collectibles": null,
        "user": {
            "id": newcomer, "username": "newcomer", "discriminator": "0", "global_name": null,
            "avatar": null, "public_flags": 0, "flags": 0, "banner": null, "accent_color": null,
            "avatar_decoration_data": null, "collectibles": null, "primary_guild": null,
        },
    });
    let join = world
        .store(
            EventKind::GuildMemberAdd,
            Visibility::realm(Intents::GUILD_MEMBERS),
            &body,
        )
        .await;
    node.subscribe(world.subscription(&[newcomer], None)).await;
    let subscribed = loop {
        if let ToCore::Subscribed(subscribed) = node.next().await {
            break subscribed;
        }
    };
    assert_eq!(subscribed.snapshots.len(), 1, "{:?}", subscribed.view);
    assert!(Some(subscribed.position) >= join.position());
}

#[sqlx::test(migrations = "../migrations")]
async fn the_relay_carries_another_nodes_realms(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    world.publish_map(1, &[&a, &b], 1, Some(0)).await;
    // Two looks at the map: the first may have been under way.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    a.subscribe(world.subscription(&[world.owner, world.member], None))
        .await;
    let subscribed = a.subscribed().await;
    assert_eq!(subscribed.snapshots.len(), 2);
    assert_eq!(b.metric("node_links"), 1.0);
    for expected in 1..=10 {
        world.post().await;
        assert_eq!(seq(&*a.event().await), expected);
    }
    b.quiet().await;
    // Typing is passed on as well.
    let typing = Envelope {
        realm: world.realm(),
        durability: Durability::Ephemeral,
        kind: EventKind::TypingStart,
        vis: Visibility::channel(world.open, Intents::GUILD_MESSAGE_TYPING),
        at_ms: 0,
        trace: 0,
        body: "{}".into(),
        alt: None,
    };
    world.publish(&typing).await;
    assert_eq!(*a.event().await, typing);
}

#[sqlx::test(migrations = "../migrations")]
async fn when_the_owner_dies_the_standby_goes_on(db: PgPool) {
    let world = World::new(db).await;
    let a = Node::start(&world, "a");
    let mut b = Node::start(&world, "b");
    let c = Node::start(&world, "c");
    world.publish_map(1, &[&a, &b, &c], 1, Some(2)).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    a.subscribe(world.subscription(&[world.owner], None)).await;
    a.subscribed().await;
    for expected in 1..=5 {
        world.post().await;
        assert_eq!(seq(&*a.event().await), expected);
    }
    b.stop();
    // The stream goes on meanwhile; every number comes once, replayed or live.
    for _ in 0..20 {
        world.post().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut at = 5;
    while at < 25 {
        match a.next().await {
            ToCore::Event(event) => {
                at += 1;
                assert_eq!(seq(&event), at);
            }
            ToCore::Subscribed(subscribed) => {
                assert!(!subscribed.lost);
                assert_eq!(subscribed.view.users.len(), 1);
                for event in &subscribed.replay {
                    at += 1;
                    assert_eq!(seq(event), at);
                }
                assert_eq!(subscribed.position.seq, at);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    a.quiet().await;
    assert_eq!(c.metric("node_links"), 1.0);
}

/// Realms that a node has open, by a heartbeat from now on.
async fn realms_open(world: &World, node: &str) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let is_new = |status: &NodeStatus| u128::from(status.at_ms) >= now.as_millis();
    status::heartbeat(world, node, is_new).await.realms_owned
}

#[sqlx::test(migrations = "../migrations")]
async fn a_dead_owner_is_not_turned_back_to(db: PgPool) {
    let world = World::new(db).await;
    let a = Node::start(&world, "a");
    let mut b = Node::start(&world, "b");
    let c = Node::start(&world, "c");
    world.publish_map(1, &[&a, &b, &c], 1, Some(2)).await;
    status::heartbeat(&world, "a", |status| status.map.version == 1).await;
    a.subscribe(world.subscription(&[world.owner], None)).await;
    a.subscribed().await;
    let posts = async {
        for number in 0..300 {
            if number == 20 {
                b.shutdown.cancel();
            }
            world.post().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((), subscribed) = tokio::join!(posts, follow(&a.inbox, 300));
    // At the standby, and nowhere after that.
    assert_eq!(subscribed, 1);
    assert_eq!(realms_open(&world, "a").await, 0);
    assert_eq!(c.metric("node_links"), 1.0);
    b.stop();
}

/// Passes connections on, as long as the task lives; before and after they are only accepted.
fn pass_on(from: Arc<TcpListener>, to: SocketAddr) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut links = JoinSet::new();
        while let Ok((mut one, _)) = from.accept().await {
            links.spawn(async move {
                let mut other = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
            });
        }
    })
}

#[sqlx::test(migrations = "../migrations")]
async fn an_owner_gets_its_realms_back_when_it_answers_again(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    let c = Node::start(&world, "c");
    let gate = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let way = pass_on(gate.clone(), b.relay());
    let relays = [a.relay(), gate.local_addr().unwrap(), c.relay()];
    world
        .publish_map_with(1, &[&a, &b, &c], &relays, (1, Some(2)))
        .await;
    status::heartbeat(&world, "a", |status| status.map.version == 1).await;
    a.subscribe(world.subscription(&[world.owner], None)).await;
    a.subscribed().await;
    way.abort();
    a.subscribed().await;
    assert_eq!(c.metric("node_links"), 1.0);
    // Links to the owner are made and say nothing: nobody waits for them.
    if let Some(message) = a.next_within(Duration::from_secs(5)).await {
        panic!("unexpected {message:?}");
    }
    assert_eq!(world.post().await, 1);
    assert_eq!(seq(&*a.event().await), 1);
    let way = pass_on(gate, b.relay());
    let back = a.subscribed().await;
    assert!(!back.lost && back.replay.is_empty());
    assert_eq!(b.metric("node_links"), 1.0);
    assert_eq!(world.post().await, 2);
    assert_eq!(seq(&*a.event().await), 2);
    assert_eq!(realms_open(&world, "a").await, 0);
    way.abort();
}

/// The first of two users of a core leaves while the owner reads the guild for it.
#[sqlx::test(migrations = "../migrations")]
async fn who_waits_behind_one_that_left_is_answered_by_the_same_owner(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    world.publish_map(1, &[&a, &b], 1, None).await;
    status::heartbeat(&world, "a", |status| status.map.version == 1).await;
    let mut held = world.db.begin().await.unwrap();
    sqlx::query("lock table realm_head in access exclusive mode")
        .execute(&mut *held)
        .await
        .unwrap();
    a.subscribe(world.subscription(&[world.owner], None)).await;
    a.subscribe(world.subscription(&[world.member], None)).await;
    let started = Instant::now();
    let waiting = "select exists (
        select from pg_locks
        where relation = 'realm_head'::regclass and not granted
            and database = (select oid from pg_database where datname = current_database())
    )";
    while !sqlx::query_scalar::<_, bool>(waiting)
        .fetch_one(&mut *held)
        .await
        .unwrap()
    {
        assert!(started.elapsed() < PATIENCE, "the guild is not read");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    a.requests
        .send(ToNode::Unsubscribe {
            core: 0,
            realm: world.realm(),
            users: vec![world.owner],
        })
        .await
        .unwrap();
    a.quiet().await;
    held.rollback().await.unwrap();
    let subscribed = a.subscribed().await;
    let named: Vec<_> = subscribed
        .view
        .users
        .iter()
        .map(|(user, _)| *user)
        .collect();
    assert_eq!(named, [world.member]);
    assert_eq!(subscribed.snapshots.len(), 1);
    assert_eq!(realms_open(&world, "a").await, 0);
    assert_eq!(realms_open(&world, "b").await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_new_map_moves_realms_without_a_break(db: PgPool) {
    let world = World::new(db).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    a.subscribe(world.subscription(&[world.owner], None)).await;
    a.subscribed().await;
    world.post().await;
    assert_eq!(seq(&*a.event().await), 1);
    world.publish_map(1, &[&a, &b], 1, Some(0)).await;
    let mut at = 1;
    for _ in 0..100 {
        world.post().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut moved = false;
    while at < 101 || !moved {
        match a.next().await {
            ToCore::Event(event) => {
                at += 1;
                assert_eq!(seq(&event), at);
            }
            ToCore::Subscribed(subscribed) => {
                moved = true;
                for event in &subscribed.replay {
                    at += 1;
                    assert_eq!(seq(event), at);
                }
                assert_eq!(subscribed.position.seq, at);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(b.metric("node_links"), 1.0);
}

/// What a core has got of the realm, checked to be dense: events and replays.
async fn follow(inbox: &Inbox, last: u64) -> u32 {
    let (mut at, mut subscribed) = (0, 0);
    let started = Instant::now();
    while at < last {
        assert!(started.elapsed() < PATIENCE, "stands at {at}");
        match inbox.messages.try_recv() {
            Ok(ToCore::Event(event)) => {
                at += 1;
                assert_eq!(seq(&event), at);
            }
            Ok(ToCore::Subscribed(ok)) => {
                assert!(!ok.lost);
                subscribed += 1;
                for event in &ok.replay {
                    at += 1;
                    assert_eq!(seq(event), at);
                }
                assert_eq!(ok.position.seq, at);
            }
            Ok(other) => panic!("unexpected {other:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
    subscribed
}

#[sqlx::test(migrations = "../migrations")]
async fn all_cores_follow_a_realm_through_a_move_and_a_death(db: PgPool) {
    let world = World::new(db).await;
    let a = Node::start(&world, "a");
    let mut b = Node::start(&world, "b");
    let c = Node::start(&world, "c");
    for (core, user) in [(0, world.owner), (1, world.member)] {
        let subscriptions = vec![world.subscription(&[user], None)];
        a.requests
            .send(ToNode::Subscribe {
                core,
                subscriptions,
            })
            .await
            .unwrap();
    }
    let posts = async {
        tokio::time::sleep(QUIET).await;
        for number in 0..150 {
            if number == 20 {
                world.publish_map(1, &[&a, &b, &c], 1, Some(2)).await;
            }
            if number == 90 {
                b.shutdown.cancel();
            }
            world.post().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((), first, second) = tokio::join!(posts, follow(&a.inbox, 150), follow(&a.second, 150),);
    assert!(first >= 2 && second >= 2, "moved: {first} and {second}");
    assert_eq!(c.metric("node_links"), 1.0);
    b.stop();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_node_with_another_key_is_not_let_in(db: PgPool) {
    let world = World::new(db).await;
    let a = Node::start(&world, "a");
    let b = Node::start_with(&world, "b", &world.redis_url, "another key");
    world.publish_map(1, &[&a, &b], 1, None).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // It serves the realm itself rather than not at all.
    a.subscribe(world.subscription(&[world.owner], None)).await;
    a.subscribed().await;
    assert_eq!(b.metric("node_links"), 0.0);

    // Junk is answered with the end of the connection.
    let mut stream = TcpStream::connect(a.relay()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &[0xFF; 64])
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("the connection ends");
}

#[sqlx::test(migrations = "../migrations")]
async fn identify_knows_its_tokens(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let token = world.make_bot(7).await;
    let identify = async |token: &Token, intents, shard| {
        let session = SessionKey {
            slot: 3,
            generation: 4,
        };
        let request = IdentifyRequest {
            token: token.clone(),
            intents,
            shard,
        };
        node.requests
            .send(ToNode::Identify {
                core: 0,
                session,
                request,
            })
            .await
            .unwrap();
        match node.next().await {
            ToCore::Identified {
                session: of,
                result,
            } => {
                assert_eq!(of, session);
                result
            }
            other => panic!("not identified, but {other:?}"),
        }
    };
    let guilds = Some(Intents::GUILDS);
    let wrong = Token::mint(world.member, 1_767_323_045_678, [8; 32]);
    let close = |result: Result<_, Refused>| result.map(|_: Box<bus::Identity>| ()).unwrap_err();
    assert_eq!(
        close(identify(&wrong, guilds, (0, 1)).await),
        Refused::Close(CloseCode::AuthenticationFailed)
    );
    assert_eq!(
        close(identify(&token, None, (0, 1)).await),
        Refused::Close(CloseCode::InvalidIntents)
    );
    assert_eq!(
        close(identify(&token, Some(Intents::MESSAGE_CONTENT), (0, 1)).await),
        Refused::Close(CloseCode::DisallowedIntents)
    );
    let identity = identify(&token, guilds, (0, 1)).await.unwrap();
    assert_eq!(identity.guilds, [world.guild]);
    assert_eq!(identity.user.user.id, world.member);
    assert_eq!(
        close(identify(&token, guilds, (0, 1)).await),
        Refused::TryLater
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn clients_that_identify_at_once_are_each_told_their_own(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let bot = world.make_bot(7).await;
    let person = world.make_token(world.owner, 8).await;
    let wrong = Token::mint(world.member, 1_767_323_045_678, [9; 32]);
    let guilds = Some(Intents::GUILDS);
    let too_much = Some(Intents::MESSAGE_CONTENT);
    let asked = [
        (&wrong, guilds),
        (&bot, guilds),
        (&bot, too_much),
        (&person, guilds),
        (&person, None),
        (&bot, guilds),
    ];
    for (slot, (token, intents)) in (0..).zip(asked) {
        let session = SessionKey {
            slot,
            generation: 4,
        };
        let request = IdentifyRequest {
            token: token.clone(),
            intents,
            shard: (0, 1),
        };
        let core = 0;
        let identify = ToNode::Identify {
            core,
            session,
            request,
        };
        node.requests.send(identify).await.unwrap();
    }
    let mut told = BTreeMap::new();
    while told.len() < asked.len() {
        match node.next().await {
            ToCore::Identified { session, result } => {
                let who = result.map(|identity| identity.user.user.id);
                assert_eq!(told.insert(session.slot, who), None);
            }
            other => panic!("not identified, but {other:?}"),
        }
    }
    let told: Vec<_> = told.into_values().collect();
    assert_eq!(
        told,
        [
            Err(Refused::Close(CloseCode::AuthenticationFailed)),
            Ok(world.member),
            Err(Refused::Close(CloseCode::DisallowedIntents)),
            Ok(world.owner),
            Ok(world.owner),
            Err(Refused::TryLater),
        ]
    );
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn messages_between_a_read_and_a_snapshot_are_looked_up(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    for _ in 0..3 {
        world.store_message().await;
    }
    let vis = Visibility::realm(Intents::GUILDS);
    world.store(EventKind::GuildUpdate, vis, &json!({})).await;
    world.store_message().await;
    let session = SessionKey {
        slot: 3,
        generation: 4,
    };
    let between = async |era, after, up_to| {
        let span = Span {
            realm: world.realm(),
            after: Position { era, seq: after },
            up_to,
        };
        let request = ToNode::Missed {
            core: 0,
            session,
            spans: vec![span],
        };
        node.requests.send(request).await.unwrap();
        match node.next().await {
            ToCore::Missed {
                session: of,
                messages,
            } => {
                assert_eq!(of, session);
                let mut seqs: Vec<u64> = messages.iter().map(seq).collect();
                seqs.sort_unstable();
                seqs
            }
            other => panic!("no messages, but {other:?}"),
        }
    };
    assert_eq!(between(1, 1, 5).await, [2, 3, 5]);
    assert_eq!(between(1, 0, 4).await, [1, 2, 3]);
    assert!(between(2, 0, 5).await.is_empty());
    node.quiet().await;
}

impl Node {
    /// Op 4 of a session of `world.owner`.
    async fn voice(&self, world: &World, session: u32, channel: Option<Id<Channel>>) {
        let request = VoiceRequest {
            session: SessionKey {
                slot: session,
                generation: 1,
            },
            session_id: format!("session {session}"),
            user: world.owner,
            command: VoiceCommand {
                guild: world.guild,
                channel,
                self_mute: true,
                self_deaf: false,
                self_video: false,
            },
            ended: false,
        };
        let core = 0;
        let voice = ToNode::Voice { core, request };
        self.requests.send(voice).await.unwrap();
    }

    /// The next event, with the channel's start if it begins, and what a session alone is told, in
    /// whatever order they come.
    async fn voice_told(&self, begins: bool) -> (Arc<Envelope>, u32, Vec<(EventKind, Value)>) {
        let (mut event, mut told, mut begun) = (None, None, !begins);
        while event.is_none() || told.is_none() || !begun {
            match self.next().await {
                ToCore::Event(envelope) if envelope.kind == START_TIME => {
                    let body: Value = serde_json::from_slice(&envelope.body).unwrap();
                    assert!(body["voice_start_time"].as_i64() > Some(1_700_000_000));
                    begun = true;
                }
                ToCore::Event(envelope) => event = Some(envelope),
                ToCore::Tell {
                    session,
                    dispatches,
                    ..
                } => {
                    let bodies = dispatches.into_iter();
                    let bodies =
                        bodies.map(|(kind, body)| (kind, serde_json::from_slice(&body).unwrap()));
                    told = Some((session.slot, bodies.collect()));
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        let (slot, told) = told.unwrap();
        (event.unwrap(), slot, told)
    }
}

/// Chunks of the delivery log that Redis has, as strings.
async fn log_in_redis(world: &World) -> Vec<String> {
    let mut redis = world.redis.clone();
    let log: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
        .arg(keys::delivery_log(boot_of("a"), 0))
        .arg("-")
        .arg("+")
        .query_async(&mut redis)
        .await
        .unwrap();
    let chunks = log.ids.iter().map(|entry| entry.get(keys::STREAM_FIELD));
    chunks.map(Option::unwrap).collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_delivery_log_that_redis_lost_is_begun_anew_and_its_core_is_told(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    let deliver = async |number: u64, chunk: &'static str| {
        let delivered = ToNode::Delivered {
            core: 0,
            number,
            chunk: Bytes::from_static(chunk.as_bytes()),
            loss: 0,
        };
        node.requests.send(delivered).await.unwrap();
        let started = Instant::now();
        while log_in_redis(&world).await.last().map(String::as_str) != Some(chunk) {
            assert!(started.elapsed() < PATIENCE, "{chunk} is not in the log");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    deliver(0, "first").await;
    deliver(1, "second").await;
    let mut redis = world.redis.clone();
    empty(&mut redis).await;
    deliver(2, "third").await;
    assert_eq!(log_in_redis(&world).await, ["third"]);
    assert!(matches!(
        node.next().await,
        ToCore::RedisForgot {
            doubt: false,
            loss: 1
        }
    ));
    let lives: i64 = redis::cmd("PTTL")
        .arg(keys::delivery_log(boot_of("a"), 0))
        .query_async(&mut redis)
        .await
        .unwrap();
    assert!(lives > 0, "it would stay for ever");
    deliver(3, "fourth").await;
    assert_eq!(log_in_redis(&world).await, ["third", "fourth"]);
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn voice_is_entered_taken_over_and_left(db: PgPool) {
    let world = World::new(db).await;
    sqlx::query("update channel set kind = 2 where channel_id = $1")
        .bind(world.open.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    let node = Node::start(&world, "a");
    node.subscribe(world.subscription(&[world.owner], None))
        .await;
    node.subscribed().await;

    node.voice(&world, 1, Some(world.open)).await;
    let (event, slot, told) = node.voice_told(true).await;
    assert_eq!(event.kind, EventKind::VoiceStateUpdate);
    assert_eq!(event.vis.scope, Scope::Channel(world.open));
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(body["session_id"], "session 1");
    assert_eq!(body["self_mute"], true);
    assert_eq!(body["member"]["user"]["id"], world.owner.to_string());
    assert_eq!(slot, 1);
    let [(EventKind::VoiceServerUpdate, server)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(server["endpoint"], "voice.test:443");
    assert_eq!(server["guild_id"], world.guild.to_string());

    // Another session takes the place over; the first one can no longer leave it.
    node.voice(&world, 2, Some(world.open)).await;
    let (event, slot, _) = node.voice_told(false).await;
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!((slot, &body["session_id"]), (2, &json!("session 2")));
    node.voice(&world, 1, None).await;
    node.quiet().await;
    node.voice(&world, 2, None).await;
    let event = node.event().await;
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(body["channel_id"], Value::Null);
    let event = node.event().await;
    assert_eq!(event.kind, START_TIME);
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(body["voice_start_time"], Value::Null);
    let left: i64 = sqlx::query_scalar("select count(*) from voice_state")
        .fetch_one(&world.db)
        .await
        .unwrap();
    assert_eq!(left, 0);

    // The text channel it was before is none to enter.
    sqlx::query("update channel set kind = 0 where channel_id = $1")
        .bind(world.open.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    node.voice(&world, 2, Some(world.open)).await;
    node.quiet().await;
}
