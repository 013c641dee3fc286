//! Messages of many guilds at a steady rate, stored and published as an API does it: numbered in
//! one statement, then handed to Redis. No API is in the way, so that gateways are measured alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use guildhall_redis::Connection;
use guildhall_shared::envelope::{Durability, Envelope, Visibility};
use guildhall_shared::gateway::EventKind;
use guildhall_shared::id::{Id, marker::Realm};
use guildhall_shared::keys;
use guildhall_shared::shard::{Position, ShardId};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use super::town::Town;
use crate::cluster::Cluster;

/// Between two statements.
const TICK: Duration = Duration::from_millis(10);
/// Where the id goes.
const ID: &str = "@id@";

/// A message of a guild that is told again under other ids.
struct Pattern {
    realm: Id<Realm>,
    /// Encoded, as `realm_event` keeps it.
    vis: Vec<u8>,
    visibility: Visibility,
    /// Of the message; those of the others count up from it.
    id: u64,
    body: String,
}

/// A running feed.
pub(super) struct Feed {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<f64>>,
}

impl Feed {
    /// So many events a second, of one guild after the other; at least as many guilds as events of
    /// one [`TICK`]. Everybody hears the first message of each guild too, which an API writes.
    pub(super) async fn start(cluster: &Cluster, town: &Town, per_s: usize) -> Result<Self> {
        let db = cluster.db().await?;
        let mut patterns = Vec::new();
        for guild in &town.guilds {
            let id = town.owner(guild).say(&guild.channel, "a pattern").await;
            patterns.push(pattern(&db, guild.id, &id).await?);
        }
        let each = (per_s * TICK.as_millis() as usize / 1_000).clamp(1, patterns.len());
        let feeder = Feeder {
            db,
            redis: cluster.redis().await?,
            shards: cluster.shards(),
            patterns,
            next: 0,
            told: 0,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(feeder.run(each, Arc::clone(&stop)));
        Ok(Self { stop, task })
    }

    /// Ends it; how many a second there were.
    ///
    /// Errors: it could not store.
    pub(super) async fn finish(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the feed broke off")?
    }
}

struct Feeder {
    db: PgPool,
    redis: Connection,
    shards: u16,
    patterns: Vec<Pattern>,
    /// Whose turn it is.
    next: usize,
    told: u64,
}

impl Feeder {
    async fn run(mut self, each: usize, stop: Arc<AtomicBool>) -> Result<f64> {
        let began = Instant::now();
        let mut tick = interval(TICK);
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await; // those that were missed come at once: the rate is kept
            self.tell(each).await?;
        }
        Ok(self.told as f64 / began.elapsed().as_secs_f64())
    }

    /// One event each of the next guilds.
    async fn tell(&mut self, count: usize) -> Result<()> {
        let (mut realms, mut vis, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        let mut events: HashMap<i64, (usize, Bytes)> = HashMap::new();
        for _ in 0..count {
            self.told += 1;
            let pattern = &self.patterns[self.next];
            let body = pattern
                .body
                .replace(ID, &(pattern.id + self.told).to_string())
                .into_bytes();
            realms.push(pattern.realm.to_db());
            vis.push(pattern.vis.clone());
            bodies.push(body.clone());
            events.insert(pattern.realm.to_db(), (self.next, body.into()));
            self.next = (self.next + 1) % self.patterns.len();
        }
        let rows: Vec<(i64, i32, i64, i64)> = sqlx::query_as(
            "with told as (
               select * from unnest($1::bigint[], $2::bytea[], $3::bytea[])
                 as t (realm_id, vis, body)
             ), head as (
               update realm_head h set seq = h.seq + 1 from told t
               where h.realm_id = t.realm_id
               returning h.realm_id, h.shard, h.era, h.seq, t.vis, t.body
             )
             insert into realm_event (realm_id, seq, shard, era, kind, vis, body)
             select realm_id, seq, shard, era, $4::smallint, vis, body from head
             returning realm_id, era, seq, (extract(epoch from at) * 1000)::bigint",
        )
        .bind(realms)
        .bind(vis)
        .bind(bodies)
        .bind(EventKind::MessageCreate.number() as i16)
        .fetch_all(&self.db)
        .await
        .context("the feed cannot store")?;

        let mut pipeline = redis::pipe();
        for (realm, era, seq, at_ms) in rows {
            let Some((place, body)) = events.remove(&realm) else {
                continue;
            };
            let pattern = &self.patterns[place];
            let envelope = Envelope {
                realm: pattern.realm,
                durability: Durability::Durable(Position {
                    era: era as u32,
                    seq: seq as u64,
                }),
                kind: EventKind::MessageCreate,
                vis: pattern.visibility.clone(),
                at_ms: at_ms as u64,
                trace: 0,
                body,
                alt: None,
            };
            let key = keys::shard_events(ShardId::of(pattern.realm, self.shards));
            let bytes = envelope.encode();
            pipeline
                .cmd("XADD")
                .arg(&key)
                .arg("MAXLEN")
                .arg("~")
                .arg(keys::STREAM_LENGTH_MAX)
                .arg("*")
                .arg(keys::STREAM_FIELD)
                .arg(&bytes[..])
                .ignore();
            pipeline.cmd("SPUBLISH").arg(&key).arg(&bytes[..]).ignore();
        }
        // As of an API: what is not published, the owner finds. It counts as it comes.
        let _ = pipeline.query_async::<()>(&mut self.redis).await;
        Ok(())
    }
}

/// The event of a message that an API has stored.
async fn pattern(db: &PgPool, guild: u64, message: &str) -> Result<Pattern> {
    let realm = Id::from_db(guild as i64);
    let rows: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "select vis, body from realm_event where realm_id = $1 and kind = $2 order by seq desc",
    )
    .bind(guild as i64)
    .bind(EventKind::MessageCreate.number() as i16)
    .fetch_all(db)
    .await?;
    for (vis, body) in rows {
        let mut body: Value = serde_json::from_slice(&body)?;
        if body["id"] == message {
            body["id"] = json!(ID);
            return Ok(Pattern {
                realm,
                visibility: Visibility::decode(&mut vis.as_slice())?,
                vis,
                id: message.parse().context("message id")?,
                body: body.to_string(),
            });
        }
    }
    bail!("message {message} has no event")
}
