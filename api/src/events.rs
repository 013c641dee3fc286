//! Events: numbered in the transaction of their change, then handed to Redis.
//!
//! Never retries and keeps no outbox: an event that is stored but not published is found
//! by the shard's owner, who misses its number (design: path of one event).

use std::time::Duration;

use bytes::Bytes;
use guildhall_redis::Connection;
use guildhall_shared::{
    Id, Timestamp,
    envelope::{Alt, Durability, Envelope, Visibility},
    gateway::EventKind,
    keys,
    shard::{self, Position, ShardId},
};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::Result,
    telemetry::{self, Metrics},
};

/// Events waiting for Redis; more are dropped, and repaired by the owners.
const QUEUE_EVENTS_MAX: usize = 16_384;
/// Events of one pipeline.
const BATCH_EVENTS_MAX: usize = 256;
/// A pipeline that takes longer is given up; the owners have read its events elsewhere by then.
const PIPELINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Gives a new guild or user its event numbers, starting at 0. Once, with its row.
pub(crate) async fn create_realm<T>(
    db: &mut PgConnection,
    realm: Id<T>,
    shards: u16,
) -> Result<()> {
    sqlx::query!(
        "insert into realm_head (realm_id, shard) values ($1, $2)",
        realm.to_db(),
        i32::from(ShardId::of(realm, shards).0),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Numbers and stores one event of a realm (a guild or a user), as the last step of the
/// transaction that makes the change. `body` is the dispatch's `d`.
///
/// From here to the commit the realm's head row is locked: of several realms, append to
/// the smaller id first.
pub(crate) async fn append<T>(
    db: &mut PgConnection,
    realm: Id<T>,
    kind: EventKind,
    vis: Visibility,
    body: &impl Serialize,
    alt: Option<Alt>,
) -> Result<Envelope> {
    let body = Bytes::from(serde_json::to_vec(body)?);
    append_bytes(db, realm, kind, vis, body, alt).await
}

/// [`append`] of a body that is JSON already.
pub async fn append_bytes<T>(
    db: &mut PgConnection,
    realm: Id<T>,
    kind: EventKind,
    vis: Visibility,
    body: Bytes,
    alt: Option<Alt>,
) -> Result<Envelope> {
    let trace = telemetry::trace();
    Ok(guildhall_store::events::append(db, realm, kind, vis, body, alt, trace).await?)
}

/// [`append_bytes`] of many events of one kind, in this order, by one statement.
pub(crate) async fn append_many<T>(
    db: &mut PgConnection,
    realm: Id<T>,
    kind: EventKind,
    events: Vec<(Visibility, Bytes)>,
) -> Result<Vec<Envelope>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let vis: Vec<Vec<u8>> = events
        .iter()
        .map(|(vis, _)| {
            let mut bytes = Vec::new();
            vis.encode(&mut bytes);
            bytes
        })
        .collect();
    let bodies: Vec<&[u8]> = events.iter().map(|(_, body)| &body[..]).collect();
    let rows = sqlx::query!(
        r#"with head as (
             update realm_head
             set seq = seq + $2, state_seq = case when $3 then seq + $2 else state_seq end
             where realm_id = $1
             returning shard, era, seq - $2 as before
           )
           insert into realm_event (realm_id, seq, shard, era, kind, vis, body)
           select $1, before + e.place, shard, era, $4, e.vis, e.body
           from head, unnest($5::bytea[], $6::bytea[]) with ordinality as e (vis, body, place)
           returning era, seq, at"#,
        realm.to_db(),
        events.len() as i64,
        kind.changes_access(),
        kind.number() as i16,
        &vis,
        bodies.as_slice() as &[&[u8]],
    )
    .fetch_all(db)
    .await?;
    let mut rows: Vec<_> = rows
        .into_iter()
        .map(|row| (row.seq, row.era, row.at))
        .collect();
    rows.sort_unstable();
    let numbered = rows.into_iter().zip(events);
    Ok(numbered
        .map(|((seq, era, at), (vis, body))| Envelope {
            realm: shard::realm(realm),
            durability: Durability::Durable(Position {
                era: era as u32,
                seq: seq as u64,
            }),
            kind,
            vis,
            at_ms: (at.unix_timestamp_nanos() / 1_000_000) as u64,
            trace: telemetry::trace(),
            body,
            alt: None,
        })
        .collect())
}

/// Hands events to Redis in the background.
#[derive(Debug, Clone)]
pub struct Publisher {
    queue: mpsc::Sender<Envelope>,
    metrics: Metrics,
}

impl Publisher {
    /// Starts the background task. It ends, the queue emptied, when all publishers are
    /// gone or `stop` is cancelled.
    pub fn start(
        redis: Connection,
        shards: u16,
        metrics: Metrics,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_EVENTS_MAX);
        tasks.spawn(run(redis, shards, events, metrics.clone(), stop));
        Self { queue, metrics }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Publishes committed events, in this order. Never waits: what does not fit is
    /// dropped and found by the owner of its shard.
    pub fn publish(&self, events: impl IntoIterator<Item = Envelope>) {
        for event in events {
            if self.queue.try_send(event).is_err() {
                self.metrics.events_unpublished.inc();
            }
        }
    }

    /// Publishes an event that has no number (typing): lost if anything is in its way.
    pub(crate) fn publish_ephemeral<T>(
        &self,
        realm: Id<T>,
        kind: EventKind,
        vis: Visibility,
        body: &impl Serialize,
    ) -> Result<()> {
        let now = Timestamp::now().0.unix_timestamp_nanos() / 1_000_000;
        self.publish([Envelope {
            realm: shard::realm(realm),
            durability: Durability::Ephemeral,
            kind,
            vis,
            at_ms: now as u64,
            trace: telemetry::trace(),
            body: serde_json::to_vec(body)?.into(),
            alt: None,
        }]);
        Ok(())
    }
}

async fn run(
    mut redis: Connection,
    shards: u16,
    mut events: mpsc::Receiver<Envelope>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        let count = tokio::select! {
            biased;
            count = events.recv_many(&mut batch, BATCH_EVENTS_MAX) => count,
            () = stop.cancelled() => 0,
        };
        if count == 0 {
            return;
        }
        let mut pipeline = redis::pipe();
        let mut ends = Vec::with_capacity(count);
        for event in batch.drain(..) {
            add_to(&mut pipeline, shards, &event);
            ends.push(pipeline.len() - 1);
        }
        let sent = pipeline.query_async::<()>(&mut redis);
        let unpublished = match tokio::time::timeout(PIPELINE_TIMEOUT, sent).await {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => unpublished(error, &ends),
            Err(_) => count,
        };
        let published = count - unpublished;
        metrics.events_published.inc_by(published as u64);
        metrics.events_unpublished.inc_by(unpublished as u64);
    }
}

/// How many events a pipeline did not publish; `ends`: their last commands. Where Redis has
/// several servers, some of them may have done theirs.
fn unpublished(error: redis::RedisError, ends: &[usize]) -> usize {
    match error.into_server_errors() {
        Some(failed) => {
            let failed = failed.iter().map(|(command, _)| command);
            failed.filter(|command| ends.contains(command)).count()
        }
        None => ends.len(),
    }
}

fn add_to(pipeline: &mut redis::Pipeline, shards: u16, event: &Envelope) {
    let key = keys::shard_events(ShardId::of(event.realm, shards));
    let bytes = event.encode();
    if event.durability != Durability::Ephemeral {
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
    }
    pipeline.cmd("SPUBLISH").arg(&key).arg(&bytes[..]).ignore();
}
