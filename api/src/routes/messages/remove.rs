//! Deleting messages with everything that hangs on them.

use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, Message, User},
    model::{MessageFlags, MessageKind},
};
use guildhall_store::ids_to_db;
use serde::Serialize;
use sqlx::PgConnection;

use crate::{access::Audience, app::App, error::Result};

/// Rows of reactions or votes that one statement of housekeeping deletes.
const ROWS_MAX: i64 = 2000;
/// Messages that one round of housekeeping cleans up after.
const MESSAGES_MAX: i64 = 500;

/// A message that was just deleted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deleted {
    pub(crate) id: Id<Message>,
    pub(crate) author: Id<User>,
    pub(crate) kind: MessageKind,
    /// Copies of it in other channels are to be told: [`crate::routes::webhooks::deliver_soon`].
    pub(crate) crossposted: bool,
}

/// Deletes messages of a channel with their pins, counts and polls; ids that are no messages
/// are passed over. Reactions and votes, which may be many, follow in [`delete_leftovers`].
///
/// Whoever deletes messages calls this, with the guild's head locked, and numbers the
/// MESSAGE_DELETE or MESSAGE_DELETE_BULK itself.
pub(crate) async fn delete_messages(
    db: &mut PgConnection,
    channel: Id<Channel>,
    messages: &[Id<Message>],
) -> Result<Vec<Deleted>> {
    let rows = sqlx::query!(
        r#"with gone as (
           delete from message where channel_id = $1 and message_id = any($2)
           returning message_id, author_id, kind, flags & $3 <> 0 as crossposted
         ), followed as (
           insert into crosspost_job (channel_id, message_id)
           select $1, message_id from gone where crossposted
           on conflict (channel_id, message_id) do update set at = now()
         ), unpinned as (
           delete from pin where channel_id = $1 and message_id = any($2)
         ), uncounted as (
           delete from reaction_count where channel_id = $1 and message_id = any($2)
           returning message_id
         ), closed as (
           delete from poll where channel_id = $1 and message_id = any($2) returning message_id
         ), left_over as (
           insert into message_leftover (channel_id, message_id)
           select $1, message_id from uncounted union select $1, message_id from closed
           on conflict do nothing
         ), uncounted_in_thread as (
           update thread set message_count = greatest(
             message_count - (select count(*)::int from gone where kind <> 21
                              and message_id <> $1), 0)
           where thread_id = $1
         )
         select message_id, author_id, kind, crossposted as "crossposted!" from gone"#,
        channel.to_db(),
        &ids_to_db(messages),
        MessageFlags::CROSSPOSTED as i64,
    )
    .fetch_all(&mut *db)
    .await?;
    // The statement before may have waited for who indexed them: it would not see those rows.
    sqlx::query!(
        "delete from message_search where channel_id = $1 and message_id = any($2)",
        channel.to_db(),
        &ids_to_db(messages),
    )
    .execute(db)
    .await?;
    let deleted = rows.into_iter().map(|row| Deleted {
        id: Id::from_db(row.message_id),
        author: Id::from_db(row.author_id),
        kind: MessageKind(row.kind as u8),
        crossposted: row.crossposted,
    });
    Ok(deleted.collect())
}

#[derive(Serialize)]
struct MessageDelete {
    id: Id<Message>,
    channel_id: Id<Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_id: Option<Id<Guild>>,
}

/// Numbers the MESSAGE_DELETE of one deleted message.
pub(crate) async fn announce_delete(
    db: &mut PgConnection,
    audience: &Audience,
    message: Id<Message>,
) -> Result<Vec<Envelope>> {
    let body = MessageDelete {
        id: message,
        channel_id: audience.channel,
        guild_id: audience.guild,
    };
    let vis = audience.visibility(Intents::GUILD_MESSAGES);
    let kind = EventKind::MessageDelete;
    audience.append(db, kind, vis, &body, None).await
}

/// Deletes what deleted messages have left, in bounded statements. For housekeeping.
pub(crate) async fn delete_leftovers(app: &App) -> Result<()> {
    let leftovers = sqlx::query!(
        "select channel_id, message_id from message_leftover limit $1",
        MESSAGES_MAX,
    )
    .fetch_all(&app.db)
    .await?;
    for left in leftovers {
        loop {
            let gone = sqlx::query_scalar!(
                r#"with reactions as (
                     delete from reaction where ctid = any(array(
                       select ctid from reaction where channel_id = $1 and message_id = $2
                       limit $3))
                     returning 1
                   ), votes as (
                     delete from poll_vote where ctid = any(array(
                       select ctid from poll_vote where channel_id = $1 and message_id = $2
                       limit $3))
                     returning 1
                   )
                   select (select count(*) from reactions) + (select count(*) from votes)
                     as "gone!""#,
                left.channel_id,
                left.message_id,
                ROWS_MAX,
            )
            .fetch_one(&app.db)
            .await?;
            if gone < ROWS_MAX {
                break;
            }
        }
        sqlx::query!(
            "delete from message_leftover where channel_id = $1 and message_id = $2",
            left.channel_id,
            left.message_id,
        )
        .execute(&app.db)
        .await?;
    }
    Ok(())
}
