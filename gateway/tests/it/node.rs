//! The node on real Postgres and Redis: events, gaps, relay, the death of an owner.
#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

mod asks;
mod delivery;
mod feed;
mod identify;
mod presence;
mod relay;
mod resume;
mod running;
mod snapshots;
mod status;
mod subscriptions;
mod voice;
mod watch;
mod way;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use guildhall_gateway::{
    bus::{Inbox, SnapshotRequest, Subscriber, Subscription, ToCore, ToNode},
    names::SessionKey,
};
use guildhall_shared::{
    Id,
    cluster_map::{Assignment, ClusterMap, MapVersion, NodeStatus},
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, Realm, User},
    keys,
    shard::{Position, ShardId},
    token::Token,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::running::Node;

const SHARDS: u16 = 16;
/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wait for something that must not come.
const QUIET: Duration = Duration::from_millis(300);
/// Between two looks at something that cannot wake a test.
const LOOK: Duration = Duration::from_millis(5);

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
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
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

    /// Overwrites that hide a channel from everybody but the owner.
    fn hidden(&self) -> Value {
        json!([{"id": self.guild, "type": 0, "allow": "0", "deny": "1024"}])
    }

    /// Makes a voice channel, whose id is so far behind the open one's.
    async fn make_voice(&self, behind: u64, overwrites: Value, settings: Value) -> Id<Channel> {
        let channel = Id::<Channel>::new(self.open.get() + behind).unwrap();
        sqlx::query(
            "insert into channel (channel_id, guild_id, kind, name, overwrites, settings)
             values ($1, $2, 2, 'voice', $3, $4)",
        )
        .bind(channel.to_db())
        .bind(self.guild.to_db())
        .bind(overwrites)
        .bind(settings)
        .execute(&self.db)
        .await
        .unwrap();
        channel
    }

    /// Makes every account a person's.
    async fn without_bots(&self) {
        sqlx::query("update account set bot = false")
            .execute(&self.db)
            .await
            .unwrap();
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

    /// Somebody types in the open channel.
    fn typing(&self) -> Envelope {
        Envelope {
            realm: self.realm(),
            durability: Durability::Ephemeral,
            kind: EventKind::TypingStart,
            vis: Visibility::channel(self.open, Intents::GUILD_MESSAGE_TYPING),
            at_ms: 0,
            trace: 0,
            body: "{}".into(),
            alt: None,
        }
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
            stopping: Default::default(),
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
                        session: session(slot),
                        ..SNAPSHOT
                    };
                    Subscriber::new(user, vec![request])
                })
                .collect(),
        }
    }
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

/// Looks until `look` finds what it looks for.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The session in this place of its core.
const fn session(slot: u32) -> SessionKey {
    SessionKey {
        slot,
        generation: 1,
    }
}

/// What most sessions ask of a guild.
const SNAPSHOT: SnapshotRequest = SnapshotRequest {
    session: session(1),
    large_threshold: 50,
    members: true,
    presences: false,
    unavailable: Some(false),
};

fn seq(event: &Envelope) -> u64 {
    event.position().unwrap().seq
}
