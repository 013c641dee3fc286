//! A channel of a guild, and the way of a message's event into the cluster as often as wanted.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use guildhall_api::{
    events::{self, Publisher},
    telemetry::Metrics,
};
use guildhall_gateway::dispatch::{Dispatch, Layout};
use guildhall_redis::{Client, Patience};
use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::{EventKind, Intents},
    id::marker::{Guild, Realm},
    shard::{self, Position},
};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    context::TrueContext,
    rest::Rest,
    swarm::now_ns,
    world::{self, Account},
};

/// As in the API.
const REDIS: Patience = Patience {
    answer: Duration::from_millis(500),
    retries: 1,
    pause_max: None,
};
/// Size of a MESSAGE_CREATE frame, if the message without its text is not longer.
const FRAME_BYTES: usize = 600;
/// Length of its text at least, so that there is something to compress.
const TEXT_BYTES_MIN: usize = 60;
/// What messages are made of.
const WORDS: [&str; 24] = [
    "the", "of", "and", "to", "in", "that", "it", "was", "for", "on", "are", "with", "they", "be",
    "at", "one", "have", "this", "from", "window", "garden", "morning", "answer", "question",
];

/// Members who write, in turns that chance decides.
const AUTHORS: u64 = 40;

/// One guild's channel.
pub struct Stage {
    pub guild: Id<Guild>,
    pub channel: String,
    /// A MESSAGE_CREATE as the API stored it; sent again under new numbers.
    pub message: Envelope,
    /// Its WebSocket frame, as the gateway lays it out.
    pub frame: Vec<u8>,
    /// Where all messages that are sent are compressed as well, if anywhere.
    pub context: Option<TrueContext>,
    /// Where stands in the message's body what differs from message to message.
    places: Places,
    db: PgPool,
    publisher: Publisher,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Stage {
    /// Makes the channel and posts the message. `cluster`: database, Redis, shards.
    pub async fn build(
        rest: &mut Rest,
        owner: &Account,
        guild: &str,
        overwrites: Value,
        (database_url, redis_url, shards): (&str, &str, u16),
    ) -> Result<Self> {
        let channel = world::make_channel(rest, owner, guild, overwrites).await?;
        // One writer: a statement after the other, as of one API process.
        let db = PgPoolOptions::new()
            .max_connections(2)
            .connect(database_url)
            .await
            .context("DATABASE_URL")?;
        let guild: Id<Guild> = guild.parse().context("guild id")?;
        let realm = shard::realm(guild);
        let mut length = TEXT_BYTES_MIN;
        let (message, frame) = loop {
            let path = format!("/channels/{channel}/messages");
            let body = json!({ "content": "x".repeat(length) });
            rest.call("POST", &path, &owner.token, &body).await?;
            let message = newest(&db, realm).await?;
            let frame = frame_of(&message);
            if frame.len() >= FRAME_BYTES {
                break (message, frame);
            }
            length += FRAME_BYTES - frame.len();
        };
        let places = Places::of(&message.body, length)?;
        let client = Client::open(redis_url, REDIS).context("REDIS_URL")?;
        let mut redis = client.connection().context("REDIS_URL")?;
        let ping = redis::cmd("PING").exec_async(&mut redis).await;
        ping.context("REDIS_URL")?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let publisher = Publisher::start(redis, shards, Metrics::new()?, &tasks, stop.clone());
        Ok(Self {
            guild,
            channel,
            message,
            frame,
            context: None,
            places,
            db,
            publisher,
            tasks,
            stop,
        })
    }

    /// Stores `count` messages' events in one transaction and publishes them, as the API does. Each
    /// has a text of its own, all of one length.
    /// When they were published, on the clock of [`now_ns`].
    pub async fn send(&mut self, count: u16) -> Result<u64> {
        let mut transaction = self.db.begin().await?;
        let mut stored = Vec::new();
        for _ in 0..count {
            let body = self.retold();
            if let Some(context) = &mut self.context {
                context.write(self.message.kind.name(), &body)?;
            }
            let event = events::append_bytes(
                &mut transaction,
                self.guild,
                self.message.kind,
                self.message.vis.clone(),
                body,
                self.message.alt.clone(),
            )
            .await?;
            stored.push(event);
        }
        transaction.commit().await?;
        let now = now_ns();
        self.publisher.publish(stored);
        Ok(now)
    }

    /// The message's body as another one of a busy guild: of another member, at another time,
    /// with another text.
    fn retold(&self) -> Bytes {
        let mut body = self.message.body.to_vec();
        let mut text = String::new();
        while text.len() < self.places.text.len() {
            text.push_str(WORDS[rand::random_range(0..WORDS.len())]);
            text.push(' ');
        }
        let author = rand::random_range(1..=AUTHORS).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut put = |place: &Range<usize>, with: &str| {
            let with = with.as_bytes().iter().cycle();
            for (byte, with) in body[place.clone()].iter_mut().zip(with) {
                *byte = *with;
            }
        };
        put(&self.places.text, &text);
        put(
            &self.places.id,
            &rand::random_range(0..u64::MAX).to_string(),
        );
        put(
            &self.places.micros,
            &format!("{:06}", rand::random_range(0..1_000_000)),
        );
        put(&self.places.author, &format!("{author:020}"));
        put(&self.places.name, &format!("{author:x}"));
        body.into()
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.db.close().await;
    }
}

/// What the sessions of a scenario listen to.
pub fn listening_intents() -> Intents {
    Intents::GUILDS | Intents::GUILD_MESSAGES | Intents::MESSAGE_CONTENT
}

/// Length of the text in a frame of 126 to 65535 bytes.
pub fn payload_len(frame: &[u8]) -> usize {
    frame.len() - 4
}

/// The newest event of a realm, which must be a message.
async fn newest(db: &PgPool, realm: Id<Realm>) -> Result<Envelope> {
    let heads = guildhall_store::events::heads(db, &[realm]).await?;
    let head = heads.first().context("the guild has no events")?.position;
    let before = Position {
        seq: head.seq - 1,
        ..head
    };
    let found = guildhall_store::events::since(db, realm, before, 1).await?;
    let event = found.into_iter().next().context("the event is gone")?;
    ensure!(event.kind == EventKind::MessageCreate, "no message");
    Ok(event)
}

/// Where things stand in a body; what is put there is as long.
struct Places {
    text: Range<usize>,
    /// All but the first digits of the message's id, as of ids of one hour.
    id: Range<usize>,
    /// The fraction of its time.
    micros: Range<usize>,
    /// All but the first digit of the author's id.
    author: Range<usize>,
    /// The author's name.
    name: Range<usize>,
}

impl Places {
    /// Errors: the body is of no message with so long a text of letters x.
    fn of(body: &[u8], length: usize) -> Result<Self> {
        let value: Value = serde_json::from_slice(body)?;
        let place = |pointer: &str, skip: usize| {
            let text = value.pointer(pointer).and_then(Value::as_str);
            let text = text.with_context(|| format!("the message has no {pointer}"))?;
            let wanted = format!("\"{text}\"");
            let mut windows = body.windows(wanted.len());
            let start = windows.position(|window| window == wanted.as_bytes());
            let start = start.context("the body is not written as it is read")? + 1;
            ensure!(skip < text.len(), "{pointer} is too short");
            Ok(start + skip..start + text.len())
        };
        let time = place("/timestamp", "2026-11-30T09:12:51.".len())?;
        let text = place("/content", 0)?;
        ensure!(text.len() == length, "the message has another text");
        Ok(Self {
            text,
            id: place("/id", 5)?,
            micros: time.start..(time.start + 6).min(time.end),
            author: place("/author/id", 1)?,
            name: place("/author/username", 0)?,
        })
    }
}

fn frame_of(message: &Envelope) -> Vec<u8> {
    let dispatch = Dispatch::new(message.kind, &message.body, Instant::now());
    Layout::of([&dispatch].into_iter()).numbered(1).to_vec()
}
