//! What deleted guilds and channels have left: rows without foreign keys, which may be many.
//!
//! A guild's are [`guild`]'s. Whoever deletes a channel removes its row at once and puts it on the queue (`collect`);
//! housekeeping deletes the rest in bounded statements. A table that keeps rows by
//! `channel_id` without a foreign key gets its step in [`step`].

mod guild;

pub(crate) use self::guild::deleted_guilds;

use guildhall_shared::{
    Id,
    id::marker::{Channel, Guild},
};
use sqlx::{PgConnection, PgPool};

use crate::{app::App, error::Result};

/// `kind`: everything kept by channel_id.
const CHANNEL: i16 = 1;
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

/// [`delete_channel`] of all threads of a channel.
pub(crate) async fn delete_threads_of(db: &mut PgConnection, parent: Id<Channel>) -> Result<()> {
    sqlx::query!(
        "with gone as (
           delete from channel where channel_id in (
             select thread_id from thread where parent_id = $1)
           returning channel_id
         )
         insert into collect (kind, id) select $2, channel_id from gone on conflict do nothing",
        parent.to_db(),
        CHANNEL,
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

/// One round: the oldest entries first, a bounded number of statements. Rounds of several
/// processes do not hurt each other: a row is deleted once.
pub(crate) async fn run(app: &App) -> Result<()> {
    let mut steps = 0;
    while steps < STEPS_MAX {
        let oldest = sqlx::query!(
            "select kind, id from collect where kind = $1 order by at limit 1",
            CHANNEL,
        )
        .fetch_optional(&app.db)
        .await?;
        let Some(entry) = oldest else { return Ok(()) };
        while step(&app.db, entry.id).await? {
            steps += 1;
            if steps >= STEPS_MAX {
                return Ok(());
            }
        }
        sqlx::query!(
            "delete from collect where kind = $1 and id = $2",
            entry.kind,
            entry.id
        )
        .execute(&app.db)
        .await?;
        steps += 1;
    }
    Ok(())
}

/// Deletes some rows of every table; true while there may be more.
async fn step(db: &PgPool, channel: i64) -> Result<bool> {
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
    .fetch_one(db)
    .await?;
    Ok(most >= ROWS_MAX)
}
