//! What deleted guilds and channels have left: rows without foreign keys, which may be many.
//!
//! A guild's are [`guild`]'s. Whoever deletes a channel removes its row at once and puts it on the queue (`collect`);
//! housekeeping deletes the rest in bounded statements. A table that keeps rows by
//! `channel_id` without a foreign key gets its step in [`step`]. Threads of a channel that is gone
//! are rows of `channel` still, which nobody gets at: [`step_of_threads`].

mod guild;

pub(crate) use self::guild::deleted_guilds;

use guildhall_shared::{
    Id,
    id::marker::{Channel, Guild},
};
use sqlx::{PgConnection, PgPool, PgTransaction};

use crate::{access, error::Result};

/// `kind`: everything kept by channel_id.
const CHANNEL: i16 = 1;
/// `kind`: the threads of a channel.
const THREADS: i16 = 2;
/// Threads that one step deletes.
const THREADS_MAX: i64 = 50;
/// Rows of one table that one statement deletes.
const ROWS_MAX: i64 = 1000;
/// Statements of one round of housekeeping; the next one goes on.
const STEPS_MAX: u32 = 500;

/// Deletes a channel of any kind and queues what it leaves behind. The caller numbers events.
pub(crate) async fn delete_channel(db: &mut PgConnection, channel: Id<Channel>) -> Result<()> {
    sqlx::query!(
        "with gone as (delete from channel where channel_id = $1 returning channel_id)
         insert into collect (kind, id) select $2, channel_id from gone on conflict do nothing",
        channel.to_db(),
        CHANNEL,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Queues the threads of a channel that is deleted in the same transaction; all are archived. `access`
/// finds no thread without its channel.
pub(crate) async fn threads_of(db: &mut PgConnection, parent: Id<Channel>) -> Result<()> {
    sqlx::query!(
        "insert into collect (kind, id)
         select $2, $1::bigint where exists (select from thread where parent_id = $1)
         on conflict do nothing",
        parent.to_db(),
        THREADS,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Queues what all channels and threads of a guild will leave behind; call before the guild is
/// deleted, in the same transaction.
pub(crate) async fn of_guild(db: &mut PgConnection, guild: Id<Guild>) -> Result<()> {
    sqlx::query!(
        "insert into collect (kind, id)
         select $2, channel_id from channel where guild_id = $1 on conflict do nothing",
        guild.to_db(),
        CHANNEL,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// One round: the oldest entries first, a bounded number of statements. What fails is put behind
/// the others, so that it holds up none of them.
pub(crate) async fn run(db: &PgPool) -> Result<()> {
    let entries = sqlx::query!(
        "select kind, id from collect where kind in ($1, $2) order by at limit $3",
        CHANNEL,
        THREADS,
        i64::from(STEPS_MAX),
    )
    .fetch_all(db)
    .await?;
    let mut steps = 0;
    for entry in entries {
        let (kind, channel) = (entry.kind, entry.id);
        loop {
            if steps >= STEPS_MAX {
                return Ok(());
            }
            steps += 1;
            let done = match kind {
                THREADS => step_of_threads(db, channel).await,
                _ => step(db, channel).await,
            };
            match done {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(?error, channel, "what a channel left was not collected");
                    postpone(db, kind, channel).await?;
                    break;
                }
            }
        }
    }
    Ok(())
}

async fn postpone(db: &PgPool, kind: i16, channel: i64) -> Result<()> {
    sqlx::query!(
        "update collect set at = now() where kind = $1 and id = $2",
        kind,
        channel,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Has an entry for this transaction alone: who deletes rows that another process is deleting sees
/// nothing left and is not to believe it. False: another one is at it, or it is done.
async fn take(db: &mut PgConnection, kind: i16, channel: i64) -> Result<bool> {
    let entry = sqlx::query_scalar!(
        "select id from collect where kind = $1 and id = $2 for update skip locked",
        kind,
        channel,
    )
    .fetch_optional(db)
    .await?;
    Ok(entry.is_some())
}

/// The end of a step, with the entry if it was the last one; true while there may be more.
async fn finish(mut tx: PgTransaction<'_>, kind: i16, channel: i64, is_last: bool) -> Result<bool> {
    if is_last {
        sqlx::query!(
            "delete from collect where kind = $1 and id = $2",
            kind,
            channel,
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(!is_last)
}

/// Deletes some threads of a channel that is gone, as [`delete_channel`] does, and the entry with
/// the last of them; true while there may be more. Their members go first, which may be many: under
/// the guild's lock, as they do when somebody leaves the guild.
async fn step_of_threads(db: &PgPool, parent: i64) -> Result<bool> {
    let mut tx = db.begin().await?;
    let guild = sqlx::query_scalar!(
        "select guild_id from thread where parent_id = $1 limit 1",
        parent,
    )
    .fetch_optional(&mut *tx)
    .await?;
    access::lock_realms(&mut tx, guild.map(Id::from_db)).await?;
    if !take(&mut tx, THREADS, parent).await? {
        return Ok(false);
    }
    let threads = sqlx::query_scalar!(
        "select thread_id from thread where parent_id = $1 order by thread_id limit $2",
        parent,
        THREADS_MAX,
    )
    .fetch_all(&mut *tx)
    .await?;
    let members = sqlx::query!(
        "delete from thread_member where ctid = any(array(
           select ctid from thread_member where thread_id = any($1) limit $2))",
        &threads,
        ROWS_MAX,
    )
    .execute(&mut *tx)
    .await?;
    if members.rows_affected() == ROWS_MAX as u64 {
        return finish(tx, THREADS, parent, false).await;
    }
    sqlx::query!(
        "with gone as (delete from channel where channel_id = any($1) returning channel_id)
         insert into collect (kind, id) select $2, channel_id from gone on conflict do nothing",
        &threads,
        CHANNEL,
    )
    .execute(&mut *tx)
    .await?;
    let is_last = (threads.len() as i64) < THREADS_MAX;
    finish(tx, THREADS, parent, is_last).await
}

/// Deletes some rows of every table, and the entry with the last of them; true while there may be
/// more.
async fn step(db: &PgPool, channel: i64) -> Result<bool> {
    let mut tx = db.begin().await?;
    if !take(&mut tx, CHANNEL, channel).await? {
        return Ok(false);
    }
    let most = sqlx::query_scalar!(
        r#"with messages as (
             delete from message where channel_id = $1 and message_id = any(array(
               select message_id from message where channel_id = $1 limit $2))
             returning 1
           ), counts as (
             delete from reaction_count where ctid = any(array(
               select ctid from reaction_count where channel_id = $1 limit $2))
             returning 1
           ), reactions as (
             delete from reaction where ctid = any(array(
               select ctid from reaction where channel_id = $1 limit $2))
             returning 1
           ), pins as (
             delete from pin where ctid = any(array(
               select ctid from pin where channel_id = $1 limit $2))
             returning 1
           ), polls as (
             delete from poll where ctid = any(array(
               select ctid from poll where channel_id = $1 limit $2))
             returning 1
           ), votes as (
             delete from poll_vote where ctid = any(array(
               select ctid from poll_vote where channel_id = $1 limit $2))
             returning 1
           ), leftovers as (
             delete from message_leftover where ctid = any(array(
               select ctid from message_leftover where channel_id = $1 limit $2))
             returning 1
           ), nonces as (
             delete from message_nonce where ctid = any(array(
               select ctid from message_nonce where channel_id = $1 limit $2))
             returning 1
           ), searched as (
             delete from message_search where ctid = any(array(
               select ctid from message_search where channel_id = $1 limit $2))
             returning 1
           ), read as (
             delete from read_state where ctid = any(array(
               select ctid from read_state where channel_id = $1 limit $2))
             returning 1
           ), mentions as (
             delete from user_mention where ctid = any(array(
               select ctid from user_mention where channel_id = $1 limit $2))
             returning 1
           ), jobs as (
             delete from crosspost_job where ctid = any(array(
               select ctid from crosspost_job where channel_id = $1 limit $2))
             returning 1
           ), indexed as (
             delete from message_search_channel where channel_id = $1
           )
           select greatest((select count(*) from messages), (select count(*) from counts),
                           (select count(*) from reactions), (select count(*) from pins),
                           (select count(*) from polls), (select count(*) from votes),
                           (select count(*) from leftovers), (select count(*) from nonces),
                           (select count(*) from searched), (select count(*) from read),
                           (select count(*) from mentions), (select count(*) from jobs))
             as "most!""#,
        channel,
        ROWS_MAX,
    )
    .fetch_one(&mut *tx)
    .await?;
    finish(tx, CHANNEL, channel, most < ROWS_MAX).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Channels of no guild, the first of them the oldest on the queue, each with messages that
    /// one step does not delete and a file that one of them shows.
    async fn delete_channels(db: &PgPool, channels: &[i64]) {
        let author = "insert into account (user_id, username) values (1, 'alice')";
        sqlx::query(author).execute(db).await.unwrap();
        for &channel in channels {
            for statement in [
                "insert into channel (channel_id, kind) values ($1, 0)",
                "insert into media_file (path, content_type, size)
                 values ('attachments/' || $1::bigint, 'text/plain', 1)",
                "insert into message (channel_id, message_id, author_id, content)
                 select $1, n, 1, '' from generate_series(1, 2400) n",
                "update message set extra = jsonb_build_object(
                   'attachments', jsonb_build_array(jsonb_build_object('id', channel_id::text)))
                 where channel_id = $1 and message_id = 2400",
                "insert into reaction_count (channel_id, message_id, emoji) values ($1, 1, 'x')",
                "insert into read_state (user_id, channel_id) values (1, $1)",
            ] {
                let statement = sqlx::query(statement).bind(channel);
                statement.execute(db).await.unwrap();
            }
            let mut db = db.acquire().await.unwrap();
            delete_channel(&mut db, Id::from_db(channel)).await.unwrap();
        }
    }

    /// Messages, other rows, files that are shown, entries of the queue.
    async fn left(db: &PgPool, channel: i64) -> [i64; 4] {
        let row: (i64, i64, i64, i64) = sqlx::query_as(
            "select (select count(*) from message where channel_id = $1),
                    (select count(*) from reaction_count where channel_id = $1)
                      + (select count(*) from read_state where channel_id = $1),
                    (select count(*) from media_file
                     where path = 'attachments/' || $1::bigint and collect_at is null),
                    (select count(*) from collect where id = $1)",
        )
        .bind(channel)
        .fetch_one(db)
        .await
        .unwrap();
        row.into()
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn what_a_channel_leaves_goes_in_batches_that_a_crash_does_not_stop(db: PgPool) {
        delete_channels(&db, &[3]).await;
        assert_eq!(left(&db, 3).await, [2400, 2, 1, 1]);
        assert!(step(&db, 3).await.unwrap());
        let [messages, others, _, entries] = left(&db, 3).await;
        assert_eq!((messages, others, entries), (1400, 0, 1));
        // The process is gone; another one goes on.
        run(&db).await.unwrap();
        assert_eq!(left(&db, 3).await, [0; 4]);
        run(&db).await.unwrap();
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_channel_another_process_is_at_is_not_taken_for_empty(db: PgPool) {
        delete_channels(&db, &[3, 4]).await;
        let mut other = db.begin().await.unwrap();
        sqlx::query("select from collect where id = 3 for update")
            .execute(&mut *other)
            .await
            .unwrap();
        run(&db).await.unwrap();
        assert_eq!(left(&db, 3).await, [2400, 2, 1, 1]);
        assert_eq!(left(&db, 4).await, [0; 4]);
        other.rollback().await.unwrap();
        run(&db).await.unwrap();
        assert_eq!(left(&db, 3).await, [0; 4]);
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn threads_go_in_batches_and_their_members_before_them(db: PgPool) {
        sqlx::raw_sql(
            "insert into account (user_id, username)
             select n, 'user-' || n from generate_series(1, 1100) n;
             insert into guild (guild_id, name, owner_id) values (2, 'home', 1);
             insert into realm_head (realm_id, shard) values (2, 0);
             insert into member (guild_id, user_id) select 2, n from generate_series(1, 1100) n;
             insert into channel (channel_id, guild_id, kind, parent_id)
             select 10 + n, 2, 11, 3 from generate_series(1, 60) n;
             insert into thread (thread_id, guild_id, parent_id, owner_id, archived,
                                 auto_archive_minutes)
             select 10 + n, 2, 3, 1, true, 60 from generate_series(1, 60) n;
             insert into thread_member (thread_id, user_id, guild_id)
             select 11, n, 2 from generate_series(1, 1100) n;",
        )
        .execute(&db)
        .await
        .unwrap();
        let parent = Id::from_db(3);
        threads_of(&mut db.acquire().await.unwrap(), parent)
            .await
            .unwrap();
        // Threads, their members, entries of the queue.
        let left = async || -> (i64, i64, i64) {
            sqlx::query_as(
                "select (select count(*) from thread), (select count(*) from thread_member),
                        (select count(*) from collect)",
            )
            .fetch_one(&db)
            .await
            .unwrap()
        };
        assert_eq!(left().await, (60, 1100, 1));
        assert!(step_of_threads(&db, 3).await.unwrap());
        assert_eq!(left().await, (60, 100, 1));
        assert!(step_of_threads(&db, 3).await.unwrap());
        assert_eq!(left().await, (10, 0, 51));
        assert!(!step_of_threads(&db, 3).await.unwrap());
        assert_eq!(left().await, (0, 0, 60));
        run(&db).await.unwrap();
        assert_eq!(left().await, (0, 0, 0));
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_channel_that_fails_holds_up_no_other(db: PgPool) {
        delete_channels(&db, &[3, 4]).await;
        sqlx::raw_sql(
            "create function refuse() returns trigger language plpgsql as $$
             begin raise exception 'refused'; end $$;
             create trigger refuse before delete on message for each row
               when (old.channel_id = 3) execute function refuse();",
        )
        .execute(&db)
        .await
        .unwrap();
        run(&db).await.unwrap();
        assert_eq!(left(&db, 3).await, [2400, 2, 1, 1]);
        assert_eq!(left(&db, 4).await, [0; 4]);
        sqlx::raw_sql("drop trigger refuse on message")
            .execute(&db)
            .await
            .unwrap();
        run(&db).await.unwrap();
        assert_eq!(left(&db, 3).await, [0; 4]);
    }
}
