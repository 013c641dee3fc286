//! Events from Redis: the sharded channels of the open shards, on one connection per primary,
//! and the shards' streams for what was missed. A single server is the only primary.
//!
//! Everything here may fail or lose events: the owner's check in Postgres finds them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use guildhall_redis::{Client, Connection, Primary};
use guildhall_shared::{envelope::Envelope, keys, shard::ShardId};
use redis::{PushInfo, PushKind, RedisResult, Value, aio::ConnectionLike};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinHandle, spawn_local},
    time::{interval, sleep},
};

use super::Owner;
use crate::{
    clock::{self, select},
    node::{metrics::Metrics, redis::TIMEOUT},
};

/// Pushes of a connection that wait to be handled; what does not fit is dropped and found
/// lacking.
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
/// How far clocks of nodes are apart, with something to spare.
const CLOCKS_APART_MS: u64 = 5_000;

/// Subscriptions of shard channels, and the way to their streams.
pub(crate) struct Feed {
    client: Client,
    commands: Connection,
    metrics: Metrics,
    /// Connections to primaries, by their names; subscribing if not `up` yet.
    lines: RefCell<FxHashMap<Arc<str>, Line>>,
    /// Wanted shards, and the primary whose present connection has them.
    shards: RefCell<FxHashMap<ShardId, Option<Arc<str>>>>,
    /// The longest that an event took since somebody asked.
    lag_max_ms: Cell<u64>,
    /// Somebody published a map.
    pub(crate) map_changed: Notify,
}

struct Line {
    connection: guildhall_redis::Line,
    up: bool,
}

impl Feed {
    pub(crate) fn new(client: Client, commands: Connection, metrics: Metrics) -> Rc<Self> {
        Rc::new(Self {
            client,
            commands,
            metrics,
            lines: RefCell::default(),
            shards: RefCell::default(),
            lag_max_ms: Cell::new(0),
            map_changed: Notify::new(),
        })
    }

    /// A connection for commands.
    pub(super) fn commands(&self) -> Connection {
        self.commands.clone()
    }

    /// Milliseconds from an event's storing to its arrival: the longest since this was asked.
    pub(crate) fn take_lag_max_ms(&self) -> u64 {
        self.lag_max_ms.take()
    }

    /// Whether events arrive from everywhere.
    pub(crate) fn is_up(&self) -> bool {
        let layout = self.client.layout();
        let layout = layout.borrow();
        let mut primaries = layout.primaries().iter();
        !layout.primaries().is_empty() && primaries.all(|primary| self.is_line_up(primary))
    }

    /// Whether events arrive from anywhere.
    pub(crate) fn is_any_up(&self) -> bool {
        self.lines.borrow().values().any(|line| line.up)
    }

    /// Whether those of a shard do, should somebody want them.
    fn brings(&self, shard: ShardId) -> bool {
        let home = self.home(&keys::shard_events(shard));
        home.is_some_and(|home| self.is_line_up(&home))
    }

    /// Those of which events do not arrive.
    pub(super) fn not_brought(&self, mut shards: Vec<ShardId>) -> Vec<ShardId> {
        if self.is_up() {
            return Vec::new();
        }
        shards.retain(|&shard| !self.brings(shard));
        shards
    }

    fn is_line_up(&self, primary: &Primary) -> bool {
        let lines = self.lines.borrow();
        lines.get(&primary.name).is_some_and(|line| line.up)
    }

    /// The primary that carries a channel now.
    fn home(&self, channel: &str) -> Option<Arc<Primary>> {
        let layout = self.client.layout();
        let layout = layout.borrow();
        layout.home(channel.as_bytes()).cloned()
    }

    /// Wants a shard's events; returns once they arrive, or at once while Redis is away.
    pub(crate) async fn ensure(&self, shard: ShardId) {
        if self.shards.borrow_mut().entry(shard).or_default().is_some() {
            return;
        }
        let Some(home) = self.home(&keys::shard_events(shard)) else {
            return;
        };
        let connection = {
            let lines = self.lines.borrow();
            lines.get(&home.name).map(|line| line.connection.clone())
        };
        if let Some(connection) = connection
            && let Err(error) = self.subscribe(&home.name, connection, &[shard]).await
        {
            tracing::warn!(%error, %shard, "shard channel not subscribed");
            self.client.doubt_layout();
        }
    }

    /// Shards whose events are wanted.
    pub(super) fn wanted(&self) -> Vec<ShardId> {
        self.shards.borrow().keys().copied().collect()
    }

    /// Nobody wants a shard's events any more.
    pub(crate) fn release(self: &Rc<Self>, shard: ShardId) {
        let at = self.shards.borrow_mut().remove(&shard).flatten();
        let home = || self.home(&keys::shard_events(shard));
        let at = at.or_else(|| home().map(|home| home.name.clone()));
        let feed = self.clone();
        spawn_local(async move {
            let connection = {
                let lines = feed.lines.borrow();
                at.and_then(|at| lines.get(&at).map(|line| line.connection.clone()))
            };
            if feed.shards.borrow().contains_key(&shard) {
                return;
            }
            if let Some(mut connection) = connection {
                let mut command = redis::cmd("SUNSUBSCRIBE");
                command.arg(keys::shard_events(shard));
                if let Err(error) = connection.req_packed_command(&command).await {
                    tracing::debug!(%error, %shard, "shard channel not unsubscribed");
                }
            }
        });
    }

    /// What a shard's stream has of the last [`STREAM_AGE`]; nothing while Redis is away.
    pub(crate) async fn recent(&self, shard: ShardId) -> Vec<Envelope> {
        if !self.brings(shard) {
            return Vec::new();
        }
        let since = clock::unix_ms().saturating_sub(STREAM_AGE.as_millis() as u64);
        let mut commands = self.commands.clone();
        let entries: RedisResult<Value> = redis::cmd("XRANGE")
            .arg(keys::shard_events(shard))
            .arg(since)
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

    /// Keeps a connection to each primary, as long as the task lives.
    pub(crate) async fn run(self: Rc<Self>, owner: Rc<Owner>) {
        let mut layout = self.client.layout();
        let mut kept: FxHashMap<Arc<str>, JoinHandle<()>> = FxHashMap::default();
        loop {
            let now = layout.borrow_and_update().clone();
            kept.retain(|name, task| {
                let is_there = now.primaries().iter().any(|one| one.name == *name);
                if !is_there {
                    task.abort();
                    self.lose(name);
                }
                is_there
            });
            for primary in now.primaries() {
                let task = || spawn_local(self.clone().keep(primary.clone(), owner.clone()));
                kept.entry(primary.name.clone()).or_insert_with(task);
            }
            if layout.changed().await.is_err() {
                return; // the client is gone, and so is this
            }
        }
    }

    /// Keeps the connection to one primary.
    async fn keep(self: Rc<Self>, primary: Arc<Primary>, owner: Rc<Owner>) {
        let mut pause = RETRY_FIRST;
        // Unix milliseconds until which it is certain that nothing was missed.
        let heard = Cell::new(clock::unix_ms());
        loop {
            match self.connected(&primary, &owner, &heard).await {
                Ok(()) => pause = RETRY_FIRST,
                Err(error) => {
                    tracing::warn!(
                        %error,
                        redis.primary = &*primary.name,
                        "no event feed from Redis; Postgres is asked instead"
                    );
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
            }
            self.lose(&primary.name);
            self.client.doubt_layout();
            sleep(pause).await;
        }
    }

    /// There is no connection to this primary any more.
    fn lose(&self, name: &Arc<str>) {
        self.lines.borrow_mut().remove(name);
        for at in self.shards.borrow_mut().values_mut() {
            if at.as_ref() == Some(name) {
                *at = None;
            }
        }
    }

    /// One connection from beginning to end. Errors: it could not be made.
    async fn connected(
        self: &Rc<Self>,
        primary: &Arc<Primary>,
        owner: &Rc<Owner>,
        heard: &Cell<u64>,
    ) -> RedisResult<()> {
        let (sender, mut pushes) = mpsc::channel(PUSHES_MAX);
        let dropped = self.metrics.pushes_dropped.clone();
        let pushed = move |push: PushInfo| {
            if sender.try_send(push).is_err() {
                dropped.inc();
            }
        };
        let mut connection = primary.line(TIMEOUT, pushed).await?;
        let name = &primary.name;
        let mut layout = self.client.layout();
        let line = Line {
            connection: connection.clone(),
            up: false,
        };
        self.lines.borrow_mut().insert(name.clone(), line);
        let mut has_map = false;
        let wanted = self.settle(&mut connection, name, &mut has_map).await?;
        if let Some(line) = self.lines.borrow_mut().get_mut(name) {
            line.up = true;
        }
        self.map_changed.notify_one();
        tracing::info!(
            shards = wanted.len(),
            redis.primary = &**name,
            "event feed from Redis"
        );
        let since = heard.get().saturating_sub(CLOCKS_APART_MS);
        let catching_up = spawn_local(catch_up(owner.clone(), wanted, since));
        let mut ping = interval(PING_INTERVAL);
        let (answers, mut answered) = mpsc::channel::<bool>(1);
        loop {
            select! {
                push = pushes.recv() => match push {
                    Some(push) if push.kind == PushKind::Disconnection => break,
                    Some(push) if self.is_sent_away(&push, name) => break,
                    Some(push) => self.take(push, owner),
                    None => break,
                },
                _ = ping.tick() => {
                    if self.lacks(name) {
                        layout.mark_changed();
                    }
                    let (mut connection, answers) = (connection.clone(), answers.clone());
                    spawn_local(async move {
                        let answer: RedisResult<Value> =
                            redis::cmd("PING").query_async(&mut connection).await;
                        let _ = answers.try_send(answer.is_ok());
                    });
                }
                Some(alive) = answered.recv() => match alive {
                    true if catching_up.is_finished() => heard.set(clock::unix_ms()),
                    true => {}
                    false => break,
                },
                Ok(()) = layout.changed() => {
                    // Pushes wait meanwhile; there is room for them.
                    let came = self.settle(&mut connection, name, &mut has_map).await?;
                    // How long they were nowhere is not known.
                    spawn_local(catch_up(owner.clone(), came, 0));
                }
            }
        }
        catching_up.abort();
        tracing::warn!(redis.primary = &**name, "event feed from Redis broke");
        Ok(())
    }

    /// Subscribes what a primary carries and this node lacks: the map's channel, and wanted
    /// shards; those it returns.
    async fn settle(
        &self,
        connection: &mut guildhall_redis::Line,
        name: &Arc<str>,
        has_map: &mut bool,
    ) -> RedisResult<Vec<ShardId>> {
        let layout = self.client.layout().borrow().clone();
        let is_here = |channel: &str| {
            let home = layout.home(channel.as_bytes());
            home.is_some_and(|home| home.name == *name)
        };
        let had_map = std::mem::replace(has_map, is_here(keys::MAP));
        if *has_map && !had_map {
            connection.subscribe(keys::MAP).await?;
            connection
                .req_packed_command(redis::cmd("SSUBSCRIBE").arg(keys::MAP))
                .await?
                .extract_error()?;
            self.map_changed.notify_one();
        }
        let lacking: Vec<ShardId> = {
            let shards = self.shards.borrow();
            let lacking = shards.iter().filter(|(shard, at)| {
                at.as_ref() != Some(name) && is_here(&keys::shard_events(**shard))
            });
            lacking.map(|(&shard, _)| shard).collect()
        };
        for shards in lacking.chunks(CHANNELS_PER_PIPELINE) {
            self.subscribe(name, connection.clone(), shards).await?;
        }
        Ok(lacking)
    }

    /// Whether a wanted shard is subscribed nowhere though its primary is this one.
    fn lacks(&self, name: &Arc<str>) -> bool {
        let layout = self.client.layout().borrow().clone();
        let shards = self.shards.borrow();
        let mut nowhere = shards.iter().filter(|(_, at)| at.is_none());
        nowhere.any(|(shard, _)| {
            let home = layout.home(keys::shard_events(*shard).as_bytes());
            home.is_some_and(|home| home.name == *name)
        })
    }

    /// Redis itself ended a subscription: the channel's slot is somewhere else now. A connection
    /// on which that happens may take it for the answer to a command, and each answer after that
    /// for another one's, so it is made anew.
    fn is_sent_away(&self, push: &PushInfo, name: &Arc<str>) -> bool {
        let (PushKind::SUnsubscribe, Some(Value::BulkString(channel))) =
            (&push.kind, push.data.first())
        else {
            return false;
        };
        let is_wanted = |shard: &ShardId| keys::shard_events(*shard).as_bytes() == &channel[..];
        // A single server, which has no name, ends none.
        !name.is_empty()
            && (channel == keys::MAP.as_bytes() || self.shards.borrow().keys().any(is_wanted))
    }

    async fn subscribe(
        &self,
        name: &Arc<str>,
        mut connection: guildhall_redis::Line,
        shards: &[ShardId],
    ) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for &shard in shards {
            pipeline.cmd("SSUBSCRIBE").arg(keys::shard_events(shard));
        }
        let count = shards.len();
        let answers = connection.req_packed_commands(&pipeline, 0, count).await?;
        let is_here = self.lines.borrow().contains_key(name);
        let mut known = self.shards.borrow_mut();
        let mut refused = None;
        for (shard, answer) in shards.iter().zip(answers) {
            match (answer.extract_error(), known.get_mut(shard)) {
                (Ok(_), Some(at)) => *at = is_here.then(|| name.clone()),
                (Ok(_), None) => {}
                (Err(error), _) => refused = Some(error),
            }
        }
        refused.map_or(Ok(()), Err)
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
                let lag = clock::unix_ms().saturating_sub(event.at_ms);
                self.metrics.feed_lag_ms.observe(lag as f64);
                self.lag_max_ms.set(lag.max(self.lag_max_ms.get()));
                owner.ingest(event);
            }
            Err(error) => tracing::warn!(%error, "published event dropped"),
        }
    }
}

/// Reads what the shards' streams have, and what friends have shown since then.
async fn catch_up(owner: Rc<Owner>, shards: Vec<ShardId>, since_ms: u64) {
    for &shard in &shards {
        owner.from_stream(shard).await;
    }
    owner.tell_of_friends(&shards, since_ms).await;
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
