//! Group commit of new messages: many requests, one transaction (design: hot-path.md §9).
//!
//! A writer owns a connection. What queued while its last commit ran is its next batch, so
//! an idle server commits one message at once and a busy one commits many. One realm is
//! always in one writer of this process; other processes are kept apart by the head's lock.
//!
//! What holds, and why:
//! - I1: the batch locks the heads of its realms, counts on from what they say, and stores
//!   messages, events and the new heads by one statement of one transaction.
//! - I2: a request is answered after the commit of its batch.
//! - I7: a permission check made at `state_seq` holds at the commit, because the locked
//!   head still says that number; else the request is told [`Outcome::Stale`] and checks again.
//!   The author's account was read at a `state_seq` of its own realm, which is compared
//!   in the same statement.
//! - I15: messages of one channel and author meet under one head's lock, so a nonce is
//!   looked up and stored with nothing in between.
//!
//! Never checks permissions and never builds a body.

use std::time::Duration;

use bytes::Bytes;
use guildhall_shared::{
    Id, Timestamp,
    envelope::{Alt, Durability, Envelope, Visibility},
    gateway::EventKind,
    id::marker::{Channel, Message, Realm, User},
    shard::Position,
};
use rustc_hash::FxHashMap;
use sqlx::{Connection, PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::{Error, Result},
    events::Publisher,
};

/// Writers of this process, each with a connection of its own. One makes the largest
/// batches, and measured more than two; with more cores for Postgres more may win.
const WRITERS: usize = 1;
/// The statements of a batch are the same for every batch, and planning them with its values
/// takes Postgres as long as running them.
const BEGIN: &str = "begin; set local plan_cache_mode = force_generic_plan";
/// Messages of one commit.
const BATCH_MAX: usize = 64;
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
    message: NewMessage,
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
            .try_send(Job { message, answer })
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
                received = tokio::time::timeout(idle_max, jobs.recv_many(&mut batch, BATCH_MAX)) => received,
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
        let mut tx = connection
            .begin_with(BEGIN)
            .await
            .map_err(Failure::Before)?;
        let mut heads = lock_heads(&mut tx, batch).await.map_err(Failure::Before)?;
        let nonces = known_nonces(&mut tx, batch)
            .await
            .map_err(Failure::Before)?;
        let decisions = decide(batch, &mut heads, nonces);
        let stored: Vec<(&NewMessage, Numbered)> = batch
            .iter()
            .zip(&decisions)
            .filter_map(|(job, decision)| match decision {
                Decision::Store(numbers) => Some((&job.message, numbers)),
                Decision::Stale | Decision::Duplicate(_) => None,
            })
            .flat_map(|(message, numbers)| numbers.iter().map(move |&at| (message, at)))
            .collect();
        if !stored.is_empty() {
            insert(&mut tx, &stored).await.map_err(Failure::Before)?;
            count_in_threads(&mut tx, &stored)
                .await
                .map_err(Failure::Before)?;
        }
        tx.commit().await.map_err(Failure::InCommit)?;
        let at_ms = (Timestamp::now().0.unix_timestamp_nanos() / 1_000_000) as u64;
        let events = stored
            .into_iter()
            .map(|(message, at)| envelope(message, at, at_ms))
            .collect();
        Ok((decisions, events))
    }
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

/// A realm's head as locked, counted on by the messages of the batch.
#[derive(Debug, Clone, Copy)]
struct Head {
    shard: i32,
    era: i32,
    seq: i64,
    state_seq: u64,
}

/// The heads a batch depends on.
#[derive(Debug, Default)]
struct Heads {
    /// Locked.
    realms: FxHashMap<Id<Realm>, Head>,
    /// `state_seq` only, as committed when the statement began.
    authors: FxHashMap<Id<User>, u64>,
}

/// Where an event got its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbered {
    realm: Id<Realm>,
    /// Of the message's events the one that its row is stored with.
    first: bool,
    shard: i32,
    era: i32,
    seq: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    /// By realm, as the message names them.
    Store(Vec<Numbered>),
    Stale,
    Duplicate(Id<Message>),
}

impl Decision {
    fn outcome(self) -> Outcome {
        match self {
            Self::Store(_) => Outcome::Stored,
            Self::Stale => Outcome::Stale,
            Self::Duplicate(first) => Outcome::Duplicate(first),
        }
    }
}

type Nonces = FxHashMap<(Id<Channel>, Id<User>, String), Id<Message>>;

/// Decides in order of arrival, numbering what is to be stored.
fn decide(batch: &[Job], heads: &mut Heads, mut nonces: Nonces) -> Vec<Decision> {
    let decisions = batch.iter().map(|Job { message, .. }| {
        let holds = |(realm, state_seq): &(Id<Realm>, u64)| {
            let head = heads.realms.get(realm);
            head.is_some_and(|head| head.state_seq == *state_seq)
        };
        if message.realms.is_empty()
            || !message.realms.iter().all(holds)
            || heads.authors.get(&message.author) != Some(&message.author_state_seq)
        {
            return Decision::Stale;
        }
        if let Some(nonce) = &message.nonce {
            let key = (message.channel, message.author, nonce.clone());
            if let Some(&first) = nonces.get(&key) {
                return Decision::Duplicate(first);
            }
            nonces.insert(key, message.id);
        }
        let numbers = message
            .realms
            .iter()
            .enumerate()
            .filter_map(|(at, (realm, _))| {
                let head = heads.realms.get_mut(realm)?;
                head.seq += 1;
                Some(Numbered {
                    realm: *realm,
                    first: at == 0,
                    shard: head.shard,
                    era: head.era,
                    seq: head.seq,
                })
            });
        Decision::Store(numbers.collect())
    });
    decisions.collect()
}

/// Locks the realms' heads, the smallest id first as everyone does, and reads the authors'.
async fn lock_heads(db: &mut PgConnection, batch: &[Job]) -> sqlx::Result<Heads> {
    let realms = batch.iter().flat_map(|job| &job.message.realms);
    let realms = distinct(realms.map(|(realm, _)| realm.to_db()));
    let authors = distinct(batch.iter().map(|job| job.message.author.to_db()));
    let rows = sqlx::query!(
        r#"with locked as (
             select realm_id, shard, era, seq, state_seq from realm_head
             where realm_id = any($1) order by realm_id for update
           )
           select realm_id as "realm_id!", shard as "shard!", era as "era!", seq as "seq!",
                  state_seq as "state_seq!", true as "locked!" from locked
           union all
           select realm_id, shard, era, seq, state_seq, false from realm_head
           where realm_id = any($2)"#,
        &realms,
        &authors,
    )
    .fetch_all(db)
    .await?;
    let mut heads = Heads::default();
    for row in rows {
        let state_seq = row.state_seq as u64;
        if row.locked {
            let head = Head {
                shard: row.shard,
                era: row.era,
                seq: row.seq,
                state_seq,
            };
            heads.realms.insert(Id::from_db(row.realm_id), head);
        } else {
            heads.authors.insert(Id::from_db(row.realm_id), state_seq);
        }
    }
    Ok(heads)
}

/// Which enforced nonces of the batch have made a message already. Asked under the lock,
/// and only if there are any.
async fn known_nonces(db: &mut PgConnection, batch: &[Job]) -> sqlx::Result<Nonces> {
    let enforced: Vec<(&NewMessage, &str)> = batch
        .iter()
        .filter_map(|job| Some((&job.message, job.message.nonce.as_deref()?)))
        .collect();
    if enforced.is_empty() {
        return Ok(Nonces::default());
    }
    let channels: Vec<i64> = enforced.iter().map(|(m, _)| m.channel.to_db()).collect();
    let authors: Vec<i64> = enforced.iter().map(|(m, _)| m.author.to_db()).collect();
    let nonces: Vec<&str> = enforced.iter().map(|(_, nonce)| *nonce).collect();
    let rows = sqlx::query!(
        "select n.channel_id, n.author_id, n.nonce, n.message_id
         from unnest($1::bigint[], $2::bigint[], $3::text[]) as asked (channel_id, author_id, nonce)
         join message_nonce n using (channel_id, author_id, nonce)",
        &channels,
        &authors,
        nonces.as_slice() as &[&str],
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let key = (
                Id::from_db(row.channel_id),
                Id::from_db(row.author_id),
                row.nonce,
            );
            (key, Id::from_db(row.message_id))
        })
        .collect())
}

/// Messages, their nonces and events, and the heads that count them: one statement. One row
/// is one event; the first of a message brings the message.
async fn insert(db: &mut PgConnection, stored: &[(&NewMessage, Numbered)]) -> sqlx::Result<()> {
    fn column<T>(
        stored: &[(&NewMessage, Numbered)],
        value: impl Fn(&NewMessage, Numbered) -> T,
    ) -> Vec<T> {
        stored.iter().map(|(m, at)| value(m, *at)).collect()
    }
    // An array of arrays would have to be a rectangle: lists go as text.
    fn list<T>(ids: &[Id<T>]) -> String {
        let ids: Vec<String> = ids.iter().map(Id::to_string).collect();
        format!("{{{}}}", ids.join(","))
    }
    let realms = column(stored, |_, at| at.realm.to_db());
    let firsts = column(stored, |_, at| at.first);
    let seqs = column(stored, |_, at| at.seq);
    let shards = column(stored, |_, at| at.shard);
    let eras = column(stored, |_, at| at.era);
    let channels = column(stored, |m, _| m.channel.to_db());
    let ids = column(stored, |m, _| m.id.to_db());
    let authors = column(stored, |m, _| m.author.to_db());
    let kinds = column(stored, |m, _| i16::from(m.kind));
    let flags = column(stored, |m, _| m.flags as i64);
    let tts = column(stored, |m, _| m.tts);
    let everyone = column(stored, |m, _| m.mention_everyone);
    let mentions = column(stored, |m, _| list(&m.mentions));
    let mention_roles = column(stored, |m, _| list(&m.mention_roles));
    let contents: Vec<&str> = stored.iter().map(|(m, _)| m.content.as_str()).collect();
    let extras: Vec<Option<&str>> = stored.iter().map(|(m, _)| m.extra.as_deref()).collect();
    let nonces: Vec<Option<&str>> = stored.iter().map(|(m, _)| m.nonce.as_deref()).collect();
    let bodies: Vec<&[u8]> = stored.iter().map(|(m, _)| &m.body[..]).collect();
    let vis = column(stored, |m, _| {
        let mut bytes = Vec::new();
        m.vis.encode(&mut bytes);
        bytes
    });
    let alts = column(stored, |m, _| {
        m.alt.as_ref().map(|alt| {
            let mut bytes = Vec::with_capacity(alt.body.len() + 16);
            alt.encode(&mut bytes);
            bytes
        })
    });
    sqlx::query!(
        "with row as materialized (
           select * from unnest(
             $1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::bigint[], $6::bigint[],
             $7::bigint[], $8::smallint[], $9::bigint[], $10::bool[], $11::bool[], $12::text[],
             $13::text[], $14::text[], $15::text[], $16::text[], $17::bytea[], $18::bytea[],
             $19::bytea[], $21::bool[]
           ) as r (realm_id, seq, shard, era, channel_id, message_id, author_id, kind, flags,
                   tts, mention_everyone, mentions, mention_roles, content, extra, nonce, vis,
                   body, alt, first)
         ), counted as (
           update realm_head h set seq = newest.seq
           from (select realm_id, max(seq) as seq from row group by realm_id) newest
           where h.realm_id = newest.realm_id
         ), stored as (
           insert into message (channel_id, message_id, author_id, kind, flags, content, tts,
                                mention_everyone, mentions, mention_roles, extra)
           select channel_id, message_id, author_id, kind, flags, content, tts,
                  mention_everyone, mentions::bigint[], mention_roles::bigint[], extra::jsonb
           from row where first
         ), mentioned as (
           insert into user_mention (user_id, message_id, channel_id)
           select user_id, message_id, channel_id
           from row, unnest(mentions::bigint[]) as mentioned (user_id)
           where mentions <> '{}'
           on conflict do nothing
         ), remembered as (
           insert into message_nonce (channel_id, author_id, nonce, message_id)
           select channel_id, author_id, nonce, message_id from row
           where first and nonce is not null
         )
         insert into realm_event (realm_id, seq, shard, era, kind, vis, body, alt)
         select realm_id, seq, shard, era, $20, vis, body, alt from row",
        &realms,
        &seqs,
        &shards,
        &eras,
        &channels,
        &ids,
        &authors,
        &kinds,
        &flags,
        &tts,
        &everyone,
        &mentions,
        &mention_roles,
        contents.as_slice() as &[&str],
        extras.as_slice() as &[Option<&str>],
        nonces.as_slice() as &[Option<&str>],
        &vis,
        bodies.as_slice() as &[&[u8]],
        alts.as_slice() as &[Option<Vec<u8>>],
        EventKind::MessageCreate.number() as i16,
        &firsts,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Threads count their messages, and live on with each.
async fn count_in_threads(
    db: &mut PgConnection,
    stored: &[(&NewMessage, Numbered)],
) -> sqlx::Result<()> {
    let threads: Vec<i64> = stored
        .iter()
        .filter(|(message, at)| message.in_thread && at.first)
        .map(|(message, _)| message.channel.to_db())
        .collect();
    if threads.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update thread t
         set message_count = message_count + sent.count,
             total_message_sent = total_message_sent + sent.count, active_at = now()
         from (select thread_id, count(*)::int as count from unnest($1::bigint[]) as s (thread_id)
               group by thread_id) sent
         where t.thread_id = sent.thread_id",
        &threads,
    )
    .execute(db)
    .await?;
    Ok(())
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

fn distinct(ids: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut ids: Vec<i64> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use guildhall_shared::gateway::Intents;

    use super::*;

    fn id<T>(value: u64) -> Id<T> {
        Id::new(value).expect("test ids are not zero")
    }

    fn job(message: u64, guild: u64, state_seq: u64, nonce: Option<&str>) -> Job {
        let channel = id(guild + 1);
        Job {
            message: NewMessage {
                realms: vec![(id(guild), state_seq)],
                in_thread: false,
                author: id(7),
                author_state_seq: 3,
                channel,
                id: id(message),
                kind: 0,
                flags: 0,
                content: String::new(),
                tts: false,
                mention_everyone: false,
                mentions: Vec::new(),
                mention_roles: Vec::new(),
                extra: None,
                nonce: nonce.map(str::to_owned),
                body: Bytes::new(),
                vis: Visibility::channel(channel, Intents::GUILD_MESSAGES),
                alt: None,
                trace: 0,
            },
            answer: oneshot::channel().0,
        }
    }

    fn heads(author_state_seq: u64) -> Heads {
        let head = |seq, state_seq| Head {
            shard: 1,
            era: 2,
            seq,
            state_seq,
        };
        Heads {
            realms: [(id(100), head(9, 5)), (id(200), head(0, 0))]
                .into_iter()
                .collect(),
            authors: [(id(7), author_state_seq)].into_iter().collect(),
        }
    }

    fn numbered(realm: u64, first: bool, seq: i64) -> Numbered {
        Numbered {
            realm: id(realm),
            first,
            shard: 1,
            era: 2,
            seq,
        }
    }

    fn store(realm: u64, seq: i64) -> Decision {
        Decision::Store(vec![numbered(realm, true, seq)])
    }

    #[test]
    fn a_message_of_many_realms_is_in_all_or_none() {
        let private = |message, seqs: [u64; 2]| {
            let mut job = job(message, 100, 5, None);
            job.message.realms = vec![(id(100), seqs[0]), (id(200), seqs[1])];
            job
        };
        let batch = [private(1, [5, 0]), private(2, [5, 1]), private(3, [5, 0])];
        let both = |a, b| Decision::Store(vec![numbered(100, true, a), numbered(200, false, b)]);
        assert_eq!(
            decide(&batch, &mut heads(3), Nonces::default()),
            [both(10, 1), Decision::Stale, both(11, 2)]
        );
    }

    #[test]
    fn numbers_go_on_per_guild_and_skip_what_is_not_stored() {
        let batch = [
            job(1, 100, 5, None),
            job(2, 200, 0, None),
            job(3, 100, 4, None),
            job(4, 300, 0, None),
            job(5, 100, 5, None),
        ];
        assert_eq!(
            decide(&batch, &mut heads(3), Nonces::default()),
            [
                store(100, 10),
                store(200, 1),
                Decision::Stale,
                Decision::Stale,
                store(100, 11)
            ]
        );
    }

    #[test]
    fn a_changed_account_makes_its_messages_stale() {
        let batch = [job(1, 100, 5, None)];
        assert_eq!(
            decide(&batch, &mut heads(4), Nonces::default()),
            [Decision::Stale]
        );
    }

    #[test]
    fn a_nonce_makes_one_message() {
        let batch = [
            job(1, 100, 5, Some("a")),
            job(2, 100, 5, Some("a")),
            job(3, 100, 5, Some("b")),
            job(4, 100, 4, Some("c")),
            job(5, 100, 5, Some("c")),
        ];
        let known = [((id(101), id(7), "b".to_owned()), id(90))];
        assert_eq!(
            decide(&batch, &mut heads(3), known.into_iter().collect()),
            [
                store(100, 10),
                Decision::Duplicate(id(1)),
                Decision::Duplicate(id(90)),
                Decision::Stale,
                store(100, 11)
            ]
        );
    }
}
