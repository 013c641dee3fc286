//! What banned people wrote lately: deleted in steps, after the ban.
//!
//! A ban queues it in its own transaction, and any process goes on where another one ended. Messages
//! are looked for outside the guild's lock, which is taken only to delete some. Never asks who may
//! ban: the routes do.

use std::sync::Arc;

use guildhall_shared::{
    Id, Timestamp,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Any, Guild, Message, User},
};
use guildhall_store::{ids_from_db, ids_to_db};
use sqlx::{PgConnection, PgPool};
use time::Duration;
use tokio::sync::Semaphore;

use crate::{
    access,
    app::App,
    error::Result,
    routes::messages::{self, MessageDeleteBulk},
    rows::Rows,
    snowflakes::first_id_at,
};

/// Messages deleted by one step, and told of by one MESSAGE_DELETE_BULK.
const DELETE_BATCH: i64 = 100;
/// Messages that one step looks at.
const SEEN_MAX: i64 = 2000;
/// Channels that one statement looks into.
const CHANNELS_AT_ONCE: usize = 500;
/// Purges that a process works on at a time; more stay on the queue.
const AT_ONCE: usize = 4;
/// The clocks of processes, which messages have their ids from, are not so far apart.
const CLOCKS_APART: Duration = Duration::seconds(10);

/// What is to be deleted of those whom one request bans.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purge {
    guild: Id<Guild>,
    id: Id<Any>,
    /// The least id of a message that goes.
    since: i64,
}

impl Purge {
    /// Of what was written in the last `seconds`; `None` for 0.
    pub(super) fn new(app: &App, guild: Id<Guild>, seconds: i64) -> Result<Option<Self>> {
        if seconds == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            guild,
            id: app.snowflakes.next()?,
            since: first_id_at(Timestamp::now().0 - Duration::seconds(seconds)),
        }))
    }

    /// Stores it for these authors, or adds them to those it has: then it starts over. After the
    /// commit: [`start`].
    pub(super) async fn queue(&self, db: &mut PgConnection, authors: &[Id<User>]) -> Result<()> {
        sqlx::query!(
            "insert into ban_purge (guild_id, purge_id, user_ids, since_id, until_id)
             values ($1, $2, $3, $4, $5)
             on conflict (guild_id, purge_id) do update set
               user_ids = ban_purge.user_ids || excluded.user_ids, until_id = excluded.until_id,
               channel_id = 0, message_id = 0, at = now()",
            self.guild.to_db(),
            self.id.to_db(),
            &ids_to_db(authors),
            self.since,
            first_id_at(Timestamp::now().0 + CLOCKS_APART),
        )
        .execute(db)
        .await?;
        Ok(())
    }
}

/// Turns of those who work on purges.
pub(crate) fn purge_turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE))
}

/// Does now what was queued, rather than in housekeeping's time.
pub(super) fn start(app: &App, purge: Purge) {
    spawn(app, Some(purge));
}

/// Goes on with what was left by processes that ended, or that were busy. For housekeeping.
pub(crate) fn resume_purges(app: &App) {
    spawn(app, None);
}

fn spawn(app: &App, first: Option<Purge>) {
    let Ok(turn) = Arc::clone(&app.purges).try_acquire_owned() else {
        return; // who works takes what is on the queue next
    };
    let worker = app.clone();
    app.work.spawn(async move {
        let _turn = turn;
        if let Err(error) = work(&worker, first).await {
            tracing::warn!(
                ?error,
                "messages of banned users are still there; the next round goes on"
            );
        }
    });
}

/// `first`, then whatever nobody is at.
async fn work(app: &App, first: Option<Purge>) -> Result<()> {
    let mut rows = Rows::default();
    let mut next = match first {
        Some(purge) => Job::of(&app.db, purge).await?,
        None => Job::claim(&app.db).await?,
    };
    while let Some(job) = next {
        rows.done(job.work_off(app).await)?;
        if app.stop.is_cancelled() {
            break;
        }
        next = Job::claim(&app.db).await?;
    }
    Ok(())
}

/// A stored purge and how far it is.
struct Job {
    guild_id: i64,
    purge_id: i64,
    user_ids: Vec<i64>,
    since_id: i64,
    until_id: i64,
    /// Channels before this one are done, and of it messages up to `message_id`.
    channel_id: i64,
    message_id: i64,
}

/// What a step leaves of a channel.
enum Step {
    More,
    Done,
    /// Another process is at the purge, or it has started over, or its guild is gone.
    Lost,
}

impl Job {
    async fn of(db: &PgPool, purge: Purge) -> Result<Option<Self>> {
        let job = sqlx::query_as!(
            Job,
            "select guild_id, purge_id, user_ids, since_id, until_id, channel_id, message_id
             from ban_purge where guild_id = $1 and purge_id = $2",
            purge.guild.to_db(),
            purge.id.to_db(),
        )
        .fetch_optional(db)
        .await?;
        Ok(job)
    }

    /// One that nobody was at for a while: this process is, from now on. Those of deleted guilds
    /// are collected with them.
    async fn claim(db: &PgPool) -> Result<Option<Self>> {
        let job = sqlx::query_as!(
            Job,
            r#"with free as materialized (
                 select p.guild_id, p.purge_id
                 from ban_purge p join guild g on g.guild_id = p.guild_id
                 where p.at < now() - interval '30 seconds'
                 order by p.at limit 1 for update of p skip locked
               )
               update ban_purge p set at = now() from free
               where p.guild_id = free.guild_id and p.purge_id = free.purge_id
               returning p.guild_id as "guild_id!", p.purge_id as "purge_id!",
                         p.user_ids as "user_ids!", p.since_id as "since_id!",
                         p.until_id as "until_id!", p.channel_id as "channel_id!",
                         p.message_id as "message_id!""#,
        )
        .fetch_optional(db)
        .await?;
        Ok(job)
    }

    /// Goes on to the end, unless the process stops or somebody else does it.
    async fn work_off(mut self, app: &App) -> Result<()> {
        let channels = sqlx::query_scalar!(
            "select channel_id from channel where guild_id = $1 and channel_id >= $2
             order by channel_id",
            self.guild_id,
            self.channel_id,
        )
        .fetch_all(&app.db)
        .await?;
        for some in channels.chunks(CHANNELS_AT_ONCE) {
            for channel in self.written_in(&app.db, some).await? {
                loop {
                    if app.stop.is_cancelled() {
                        return Ok(());
                    }
                    match self.step(app, channel).await {
                        Ok(Step::More) => {}
                        Ok(Step::Done) => break,
                        Ok(Step::Lost) => return Ok(()),
                        // The channel was deleted meanwhile, and its messages with it.
                        Err(error) if error.code() == ErrorCode::UnknownChannel => break,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        sqlx::query!(
            "delete from ban_purge
             where guild_id = $1 and purge_id = $2 and channel_id = $3 and message_id = $4
               and cardinality(user_ids) = $5",
            self.guild_id,
            self.purge_id,
            self.channel_id,
            self.message_id,
            self.user_ids.len() as i32,
        )
        .execute(&app.db)
        .await?;
        Ok(())
    }

    /// Those of the channels in which anybody wrote in the time.
    async fn written_in(&self, db: &PgPool, channels: &[i64]) -> Result<Vec<i64>> {
        let written_in = sqlx::query_scalar!(
            r#"select w.id as "id!"
               from unnest($1::bigint[]) with ordinality as w (id, place)
               -- By their key each, however small the planner thinks the table is.
               cross join lateral (
                 select m.message_id from message m
                 where m.channel_id = w.id and m.message_id >= $2 and m.message_id <= $3
                 order by m.message_id limit 1
               ) written
               order by w.place"#,
            channels,
            self.since_id,
            self.until_id,
        )
        .fetch_all(db)
        .await?;
        Ok(written_in)
    }

    /// Deletes a batch of a channel, and stores how far the purge is. What is not deletable
    /// (`MessageKind::is_deletable`) stays: a thread's first message was never counted, and of those
    /// that go nobody is told the kind.
    async fn step(&mut self, app: &App, channel: i64) -> Result<Step> {
        let after = match channel == self.channel_id {
            true => self.message_id,
            false => 0,
        };
        let page = sqlx::query!(
            r#"with page as (
                 select message_id, author_id, kind from message
                 where channel_id = $1 and message_id > $2 and message_id <= $3
                 order by message_id limit $4
               ), found as (
                 select message_id from page
                 where author_id = any($5) and kind not between 1 and 5 and kind <> 21
                 order by message_id limit $6
               )
               select array(select message_id from found order by message_id) as "found!",
                      (select max(message_id) from page) as newest,
                      (select count(*) from page) as "seen!""#,
            channel,
            after.max(self.since_id - 1),
            self.until_id,
            SEEN_MAX,
            &self.user_ids,
            DELETE_BATCH,
        )
        .fetch_one(&app.db)
        .await?;
        let is_full = page.found.len() as i64 == DELETE_BATCH;
        let is_last = !is_full && page.seen < SEEN_MAX;
        let seen_up_to = match is_full {
            true => page.found.last().copied(),
            false => page.newest,
        };
        let Some(seen_up_to) = seen_up_to.filter(|_| !is_last || !page.found.is_empty()) else {
            return Ok(Step::Done);
        };
        let mut tx = app.db.begin().await?;
        let events = match page.found.is_empty() {
            true => Vec::new(),
            false => self.delete(&mut tx, channel, page.found).await?,
        };
        if !self.move_on(&mut tx, channel, seen_up_to).await? {
            return Ok(Step::Lost);
        }
        tx.commit().await?;
        app.publisher.publish(events);
        (self.channel_id, self.message_id) = (channel, seen_up_to);
        Ok(match is_last {
            true => Step::Done,
            false => Step::More,
        })
    }

    /// Deletes messages, under the guild's lock, and numbers their MESSAGE_DELETE_BULK.
    ///
    /// Errors: 10003.
    async fn delete(
        &self,
        db: &mut PgConnection,
        channel: i64,
        found: Vec<i64>,
    ) -> Result<Vec<Envelope>> {
        let channel_id = Id::from_db(channel);
        let audience = access::audience_for_change(&mut *db, channel_id).await?;
        let found: Vec<Id<Message>> = ids_from_db(found);
        let deleted = messages::delete_messages(&mut *db, channel_id, &found).await?;
        let mut ids: Vec<Id<Message>> = deleted.iter().map(|message| message.id).collect();
        // Somebody else deleted them all.
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        ids.sort_unstable();
        let body = MessageDeleteBulk {
            ids,
            channel_id,
            guild_id: Some(Id::from_db(self.guild_id)),
        };
        let kind = EventKind::MessageDeleteBulk;
        audience
            .tell(db, kind, Intents::GUILD_MESSAGES, &body)
            .await
    }

    /// False if it is no longer where this process has left it.
    async fn move_on(&self, db: &mut PgConnection, channel: i64, message: i64) -> Result<bool> {
        let moved = sqlx::query!(
            "update ban_purge p set channel_id = $3, message_id = $4, at = now()
             where guild_id = $1 and purge_id = $2 and channel_id = $5 and message_id = $6
               and cardinality(user_ids) = $7
               and exists (select from guild g where g.guild_id = p.guild_id)",
            self.guild_id,
            self.purge_id,
            channel,
            message,
            self.channel_id,
            self.message_id,
            self.user_ids.len() as i32,
        )
        .execute(db)
        .await?;
        Ok(moved.rows_affected() > 0)
    }
}
