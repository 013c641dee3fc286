//! Group commit of new messages: many requests, one transaction (design: hot-path.md §9).
//!
//! A writer owns a connection. What queued while its last commit ran is its next batch, so
//! an idle server commits one message at once and a busy one commits many. One realm is
//! always in one writer of this process; other processes are kept apart by the head's lock.
//!
//! What holds, and why:
//! - I1: the batch locks the heads of its realms, counts on from what they say, and stores
//!   messages, events and the new heads in one transaction.
//! - I2: a request is answered after the commit of its batch.
//! - I7: a permission check made at `state_seq` holds at the commit, because the locked
//!   head still says that number; else the request is told [`Outcome::Stale`] and checks again.
//!   The author's account was read at a `state_seq` of its own realm, which is compared
//!   in the same statement.
//! - I15: messages of one channel and author meet under one head's lock, so a nonce is
//!   looked up and stored with nothing in between.
//!
//! Never checks permissions and never builds a body.

mod numbers;
mod rows;

use std::{io, time::Duration};

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Alt, Durability, Envelope, Visibility},
    gateway::EventKind,
    id::marker::{Channel, Message, Realm, User},
    shard::Position,
};
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction, pool::PoolConnection};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::numbers::{Decision, Numbered, decide, known_nonces, lock_heads};
use crate::{
    error::{DatabaseError, Error, Result},
    events::Publisher,
};

/// Writers of this process, each with a connection of its own. One makes the largest
/// batches, and measured more than two; with more cores for Postgres more may win.
const WRITERS: usize = 1;
/// The statements of a batch are the same for every batch, and planning them with its values
/// takes Postgres as long as running them.
const BEGIN: &str = "begin; set local plan_cache_mode = force_generic_plan";
/// From the lock of the heads to the commit; a batch that takes longer is given up. Its events
/// bear the time of the lock, and the owners' look at the log reaches back further than this.
const BATCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Messages of one commit.
const BATCH_MAX: usize = 256;
/// Messages waiting for one writer; more are answered 503.
const QUEUE_MAX: usize = 4096;
/// An unused connection goes back to the pool after this.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(2);

/// A message whose author was allowed to send it when the heads of its realms and of the author
/// had these `state_seq`s.
#[derive(Debug)]
pub(crate) struct NewMessage {
    /// Its events' realms, ascending and never none: see `Place::checked_at`.
    pub(crate) realms: Vec<(Id<Realm>, u64)>,
    /// Whether its channel is a thread, which counts its messages.
    pub(crate) in_thread: bool,
    pub(crate) author: Id<User>,
    pub(crate) author_state_seq: u64,
    pub(crate) channel: Id<Channel>,
    pub(crate) id: Id<Message>,
    pub(crate) kind: u8,
    pub(crate) flags: u64,
    pub(crate) content: String,
    pub(crate) tts: bool,
    pub(crate) mention_everyone: bool,
    pub(crate) mentions: Vec<Id<User>>,
    pub(crate) mention_roles: Vec<Id<guildhall_shared::id::marker::Role>>,
    /// JSON of what has no column.
    pub(crate) extra: Option<String>,
    /// Enforced: a second message with it is not stored.
    pub(crate) nonce: Option<String>,
    /// `d` of its MESSAGE_CREATE.
    pub(crate) body: Bytes,
    pub(crate) vis: Visibility,
    pub(crate) alt: Option<Alt>,
    pub(crate) trace: u128,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Committed and numbered.
    Stored,
    /// Not stored: something changed since the check. Check again.
    Stale,
    /// Not stored: this earlier message has the nonce.
    Duplicate(Id<Message>),
}

struct Job {
    /// Boxed: a job is moved several times.
    message: Box<NewMessage>,
    answer: oneshot::Sender<Result<Outcome>>,
}

/// Hands messages to the writers.
#[derive(Debug)]
pub(crate) struct MessageWriter {
    queues: Vec<mpsc::Sender<Job>>,
}

impl MessageWriter {
    /// Starts the writers. They end when the handle is gone or `stop` is cancelled.
    pub(crate) fn start(
        db: &PgPool,
        publisher: &Publisher,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let queues = (0..WRITERS).map(|_| {
            let (queue, jobs) = mpsc::channel(QUEUE_MAX);
            let writer = Writer {
                db: db.clone(),
                publisher: publisher.clone(),
                connection: None,
            };
            tasks.spawn(writer.run(jobs, stop.clone()));
            queue
        });
        Self {
            queues: queues.collect(),
        }
    }

    /// Stores a message; back after its commit.
    ///
    /// Errors: 503 when too many wait or the database fails. The message is then not
    /// stored, or, if the connection broke during the commit, possibly stored: its event
    /// is delivered like any other, and a retry with an enforced nonce finds it.
    pub(crate) async fn store(&self, message: NewMessage) -> Result<Outcome> {
        let first = message.realms.first().map_or(0, |(realm, _)| realm.get());
        let queue = &self.queues[(first >> 22) as usize % self.queues.len()];
        let (answer, outcome) = oneshot::channel();
        queue
            .try_send(Job {
                message: Box::new(message),
                answer,
            })
            .map_err(|_| Error::Unavailable("too many messages wait to be stored"))?;
        outcome
            .await
            .map_err(|_| Error::Unavailable("the process is stopping"))?
    }
}

struct Writer {
    db: PgPool,
    publisher: Publisher,
    /// Kept while there is work.
    connection: Option<PoolConnection<Postgres>>,
}

/// How far a failed batch got.
#[derive(Debug)]
enum Failure {
    /// Rolled back: nothing of it is stored.
    Before(sqlx::Error),
    /// Nobody knows.
    InCommit(sqlx::Error),
}

impl Writer {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let idle_max = match self.connection {
                Some(_) => CONNECTION_IDLE_MAX,
                None => Duration::MAX,
            };
            let received = tokio::select! {
                biased;
                received = timeout(idle_max, jobs.recv_many(&mut batch, BATCH_MAX)) => received,
                () = stop.cancelled() => return,
            };
            match received {
                Ok(0) => return,
                Ok(_) => self.store(&mut batch).await,
                Err(_) => self.connection = None,
            }
        }
    }

    /// Stores a batch, answers its requests, publishes its events.
    async fn store(&mut self, batch: &mut Vec<Job>) {
        let refused = match self.try_twice(batch).await {
            Ok(()) => return,
            Err(error) => error,
        };
        // A row that Postgres refuses must not take the others with it. Everything was
        // rolled back, so each may be tried on its own.
        if batch.len() > 1 && matches!(refused, Error::Database(_)) {
            for job in std::mem::take(batch) {
                let mut alone = vec![job];
                if let Err(error) = self.try_twice(&mut alone).await {
                    fail(&mut alone, error);
                }
            }
        } else {
            fail(batch, refused);
        }
    }

    /// Tries a batch, and once more on a new connection if the first one broke or the
    /// database cut the transaction off before its commit: nothing is stored then.
    ///
    /// `Ok`: all are answered. `Err`: none is, and all failed for this reason.
    async fn try_twice(&mut self, batch: &mut Vec<Job>) -> Result<()> {
        let mut retried = false;
        loop {
            let error = match self.try_once(batch).await {
                Ok((decisions, events)) => {
                    self.publisher.publish(events);
                    for (job, decision) in batch.drain(..).zip(decisions) {
                        // Nobody listens when the client has gone; the message stays.
                        let _ = job.answer.send(Ok(decision.outcome()));
                    }
                    return Ok(());
                }
                Err(Failure::InCommit(error)) => {
                    self.discard_connection();
                    tracing::error!(%error, "a commit of messages broke; they may be stored");
                    return Err(Error::Unavailable("the commit was not confirmed"));
                }
                Err(Failure::Before(error)) if batch.len() > 1 && is_of_a_row(&error) => {
                    return Err(Error::Database(DatabaseError(error)));
                }
                Err(Failure::Before(error)) => Error::from(error),
            };
            if !matches!(error, Error::Unavailable(_)) {
                return Err(error);
            }
            self.discard_connection();
            if std::mem::replace(&mut retried, true) {
                return Err(error);
            }
        }
    }

    fn discard_connection(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
    }

    async fn try_once(&mut self, batch: &[Job]) -> Result<(Vec<Decision>, Vec<Envelope>), Failure> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.db.acquire().await.map_err(Failure::Before)?),
        };
        let prepared = prepare(connection, batch).await;
        let (tx, decisions, at) = prepared.map_err(Failure::Before)?;
        tx.commit().await.map_err(Failure::InCommit)?;
        let metrics = self.publisher.metrics();
        metrics.message_batch_size.observe(batch.len() as f64);
        let at_ms = (at.unix_timestamp_nanos() / 1_000_000) as u64;
        let events = stored(batch, &decisions)
            .map(|(message, at)| envelope(message, at, at_ms))
            .collect();
        Ok((decisions, events))
    }
}

/// Whether a file is gone that one of the messages shows: its trigger alone says this here, where no
/// transaction is serializable.
fn is_of_a_row(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("40001")
}

/// Everything of a batch up to its commit, and the time of its events.
async fn prepare<'c>(
    connection: &'c mut PgConnection,
    batch: &[Job],
) -> sqlx::Result<(Transaction<'c, Postgres>, Vec<Decision>, OffsetDateTime)> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let mut heads = lock_heads(&mut tx, batch).await?;
    let at = heads.at;
    let stored = async {
        let nonces = known_nonces(&mut tx, batch).await?;
        let decisions = decide(batch, &mut heads, nonces);
        let rows: Vec<_> = stored(batch, &decisions).collect();
        if !rows.is_empty() {
            rows::insert(&mut tx, &rows, at).await?;
        }
        Ok::<_, sqlx::Error>(decisions)
    };
    let late = |_| sqlx::Error::Io(io::ErrorKind::TimedOut.into());
    let decisions = timeout(BATCH_TIMEOUT, stored).await.map_err(late)??;
    Ok((tx, decisions, at))
}

/// The messages of a batch that are stored, once per event.
fn stored<'b>(
    batch: &'b [Job],
    decisions: &'b [Decision],
) -> impl Iterator<Item = (&'b NewMessage, Numbered)> {
    let stored = batch.iter().zip(decisions).filter_map(|(job, decision)| {
        let Decision::Store(numbers) = decision else {
            return None;
        };
        Some(numbers.iter().map(|&at| (&*job.message, at)))
    });
    stored.flatten()
}

/// Tells every request of a batch why it failed.
fn fail(batch: &mut Vec<Job>, error: Error) {
    if let Error::Database(error) = &error {
        tracing::error!(%error, "messages were refused");
    }
    for job in batch.drain(..) {
        let _ = job.answer.send(Err(match &error {
            Error::Unavailable(why) => Error::Unavailable(why),
            other => Error::Internal(other.to_string()),
        }));
    }
}

fn envelope(message: &NewMessage, at: Numbered, at_ms: u64) -> Envelope {
    Envelope {
        realm: at.realm,
        durability: Durability::Durable(Position {
            era: at.era as u32,
            seq: at.seq as u64,
        }),
        kind: EventKind::MessageCreate,
        vis: message.vis.clone(),
        at_ms,
        trace: message.trace,
        body: message.body.clone(),
        alt: message.alt.clone(),
    }
}
