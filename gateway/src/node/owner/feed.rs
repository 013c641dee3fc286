//! Events from Redis: the sharded channels of the open shards, on one connection, and the
//! shards' streams for what was missed.
//!
//! Everything here may fail or lose events: the owner's check in Postgres finds them.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use guildhall_shared::{envelope::Envelope, keys, shard::ShardId};
use redis::{
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisResult, Value,
    aio::{ConnectionManager, MultiplexedConnection},
};
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_local,
    time::{interval, sleep},
};

use super::Owner;
use crate::node::{metrics::Metrics, redis::TIMEOUT};

/// Pushes that wait to be handled; what does not fit is dropped and found lacking.
const PUSHES_MAX: usize = 65_536;
/// Channels subscribed by one pipeline.
const CHANNELS_PER_PIPELINE: usize = 64;
/// How far back a stream is read.
const STREAM_AGE: Duration = Duration::from_secs(60);
/// Pause before the first, and longest pause before a further connection attempt.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(2);
/// Time between pings; a connection that does not answer one in time is given up.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Subscriptions of shard channels, and the way to their streams.
pub(crate) struct Feed {
    client: Client,
    commands: ConnectionManager,
    metrics: Metrics,
    connection: RefCell<Option<MultiplexedConnection>>,
    /// Wanted shards, and whether the present connection has them.
    shards: RefCell<HashMap<ShardId, bool>>,
    up: Cell<bool>,
    /// The longest that an event took since somebody asked.
    lag_max_ms: Cell<u64>,
    /// Somebody published a map.
    pub(crate) map_changed: Notify,
}

impl Feed {
    pub(crate) fn new(client: Client, commands: ConnectionManager, metrics: Metrics) -> Rc<Self> {
        Rc::new(Self {
            client,
            commands,
            metrics,
            connection: RefCell::default(),
            shards: RefCell::default(),
            up: Cell::new(false),
            lag_max_ms: Cell::new(0),
            map_changed: Notify::new(),
        })
    }

    /// A connection for commands.
    pub(super) fn commands(&self) -> ConnectionManager {
        self.commands.clone()
    }

    /// Milliseconds from an event's storing to its arrival: the longest since this was asked.
    pub(crate) fn take_lag_max_ms(&self) -> u64 {
        self.lag_max_ms.take()
    }

    /// Whether events arrive at all.
    pub(crate) fn is_up(&self) -> bool {
        self.up.get()
    }

    /// Wants a shard's events; returns once they arrive, or at once while Redis is away.
    pub(crate) async fn ensure(&self, shard: ShardId) {
        if *self.shards.borrow_mut().entry(shard).or_insert(false) {
            return;
        }
        let connection = self.connection.borrow().clone();
        if let Some(connection) = connection
            && let Err(error) = self.subscribe(connection, &[shard]).await
        {
            tracing::warn!(%error, %shard, "shard channel not subscribed");
        }
    }

    /// Nobody wants a shard's events any more.
    pub(crate) fn release(self: &Rc<Self>, shard: ShardId) {
        self.shards.borrow_mut().remove(&shard);
        let feed = self.clone();
        spawn_local(async move {
            let connection = feed.connection.borrow().clone();
            if feed.shards.borrow().contains_key(&shard) {
                return;
            }
            if let Some(mut connection) = connection {
                let mut command = redis::cmd("SUNSUBSCRIBE");
                command.arg(keys::shard_events(shard));
                if let Err(error) = connection.send_packed_command(&command).await {
                    tracing::debug!(%error, %shard, "shard channel not unsubscribed");
                }
            }
        });
    }

    /// What a shard's stream has of the last [`STREAM_AGE`]; nothing while Redis is away.
    pub(crate) async fn recent(&self, shard: ShardId) -> Vec<Envelope> {
        if !self.is_up() {
            return Vec::new();
        }
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(STREAM_AGE);
        let mut commands = self.commands.clone();
        let entries: RedisResult<Value> = redis::cmd("XRANGE")
            .arg(keys::shard_events(shard))
            .arg(since.as_millis() as u64)
            .arg("+")
            .query_async(&mut commands)
            .await;
        match entries {
            Ok(entries) => envelopes(entries),
            Err(error) => {
                tracing::warn!(%error, %shard, "shard stream not read");
                Vec::new()
            }
        }
    }

    /// Keeps the connection, as long as the task lives.
    pub(crate) async fn run(self: Rc<Self>, owner: Rc<Owner>) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.connected(&owner).await {
                Ok(()) => pause = RETRY_FIRST,
                Err(error) => {
                    tracing::warn!(%error, "no event feed from Redis; Postgres is asked instead");
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
            }
            self.up.set(false);
            self.connection.take();
            for subscribed in self.shards.borrow_mut().values_mut() {
                *subscribed = false;
            }
            sleep(pause).await;
        }
    }

    /// One connection from beginning to end. Errors: it could not be made.
    async fn connected(self: &Rc<Self>, owner: &Rc<Owner>) -> RedisResult<()> {
        let (sender, mut pushes) = mpsc::channel(PUSHES_MAX);
        let dropped = self.metrics.pushes_dropped.clone();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_push_sender(move |push: PushInfo| {
                if sender.try_send(push).is_err() {
                    dropped.inc();
                }
                Ok::<(), ()>(())
            });
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        connection.subscribe(keys::MAP).await?;
        connection
            .send_packed_command(redis::cmd("SSUBSCRIBE").arg(keys::MAP))
            .await?;
        *self.connection.borrow_mut() = Some(connection.clone());
        let wanted: Vec<ShardId> = self.shards.borrow().keys().copied().collect();
        for shards in wanted.chunks(CHANNELS_PER_PIPELINE) {
            self.subscribe(connection.clone(), shards).await?;
        }
        self.up.set(true);
        self.map_changed.notify_one();
        tracing::info!(shards = wanted.len(), "event feed from Redis");
        let (owner_again, caught_up) = (owner.clone(), wanted);
        let catch_up = spawn_local(async move {
            for shard in caught_up {
                owner_again.from_stream(shard).await;
            }
        });
        let mut ping = interval(PING_INTERVAL);
        let (answers, mut answered) = mpsc::channel::<bool>(1);
        loop {
            tokio::select! {
                push = pushes.recv() => match push {
                    Some(push) if push.kind == PushKind::Disconnection => break,
                    Some(push) => self.take(push, owner),
                    None => break,
                },
                _ = ping.tick() => {
                    let (mut connection, answers) = (connection.clone(), answers.clone());
                    spawn_local(async move {
                        let answer: RedisResult<Value> =
                            redis::cmd("PING").query_async(&mut connection).await;
                        let _ = answers.try_send(answer.is_ok());
                    });
                }
                Some(alive) = answered.recv() => if !alive { break },
            }
        }
        catch_up.abort();
        tracing::warn!("event feed from Redis broke");
        Ok(())
    }

    async fn subscribe(
        &self,
        mut connection: MultiplexedConnection,
        shards: &[ShardId],
    ) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for &shard in shards {
            pipeline.cmd("SSUBSCRIBE").arg(keys::shard_events(shard));
        }
        let count = shards.len();
        connection.send_packed_commands(&pipeline, 0, count).await?;
        let mut known = self.shards.borrow_mut();
        for shard in shards {
            if let Some(subscribed) = known.get_mut(shard) {
                *subscribed = self.connection.borrow().is_some();
            }
        }
        Ok(())
    }

    fn take(&self, push: PushInfo, owner: &Rc<Owner>) {
        if !matches!(push.kind, PushKind::Message | PushKind::SMessage) {
            return;
        }
        let mut data = push.data.into_iter();
        let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
            (data.next(), data.next())
        else {
            return;
        };
        if channel == keys::MAP.as_bytes() {
            self.map_changed.notify_one();
            return;
        }
        match Envelope::decode(payload.into()) {
            Ok(event) => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let lag = (now.as_millis() as u64).saturating_sub(event.at_ms);
                self.metrics.feed_lag_ms.observe(lag as f64);
                self.lag_max_ms.set(lag.max(self.lag_max_ms.get()));
                owner.ingest(event);
            }
            Err(error) => tracing::warn!(%error, "published event dropped"),
        }
    }
}

/// The readable envelopes of an XRANGE answer: `[[id, [field, value, …]], …]`.
fn envelopes(entries: Value) -> Vec<Envelope> {
    let Value::Array(entries) = entries else {
        return Vec::new();
    };
    let fields = entries.into_iter().filter_map(|entry| match entry {
        Value::Array(entry) => entry.into_iter().nth(1),
        _ => None,
    });
    let payloads = fields.filter_map(|fields| {
        let Value::Array(fields) = fields else {
            return None;
        };
        let mut fields = fields.into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            if let (Value::BulkString(name), Value::BulkString(value)) = (name, value)
                && name == keys::STREAM_FIELD.as_bytes()
            {
                return Some(Bytes::from(value));
            }
        }
        None
    });
    payloads
        .filter_map(|payload| Envelope::decode(payload).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_another_shape_are_skipped() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entry = |field: &str| {
            Value::Array(vec![
                text("1-0"),
                Value::Array(vec![text(field), text("junk")]),
            ])
        };
        let entries = Value::Array(vec![Value::Nil, entry("x"), entry(keys::STREAM_FIELD)]);
        assert!(envelopes(entries).is_empty());
        assert!(envelopes(Value::Nil).is_empty());
    }
}
