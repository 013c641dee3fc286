//! Messages that are stored inside somebody else's transaction: of webhooks, interactions,
//! threads, and those the server writes itself. `create_message` goes through the group
//! commit of `message_writer` instead.
//!
//! Never checks permissions and never validates: the caller has done both.

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Alt, Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild},
    model::{Member, Message, MessageKind, User},
};
use guildhall_store::ids_to_db;
use serde_json::value::RawValue;
use sqlx::{PgConnection, types::Json};

use super::{event::bodies, load::Extra};
use crate::{
    access::Audience,
    app::App,
    error::Result,
    events,
    routes::{polls, search},
};

/// An empty message of the server's own kinds, with a new id: fill it and [`post`] it.
pub(crate) fn draft(
    app: &App,
    channel: Id<Channel>,
    author: User,
    kind: MessageKind,
) -> Result<Message> {
    Ok(Message::new(app.snowflakes.next()?, channel, author, kind))
}

/// Stores a message and numbers its MESSAGE_CREATE, both in the caller's transaction, whose
/// guild's head is locked (`access::channel_for_change`, `access::lock_realms`). Publish the
/// event after the commit.
///
/// `member` is the author's membership, if the author has one: webhooks have none. What the
/// message has in `mentions`, `poll`, `components`, … is stored as it is.
///
/// In a guild channel that is no thread; [`post_in`] is for any place.
pub(crate) async fn post(
    db: &mut PgConnection,
    guild: Id<Guild>,
    member: Option<&Member>,
    message: &Message,
) -> Result<Envelope> {
    insert(db, message).await?;
    let member = member.map(without_user);
    let (body, alt) = bodies(Some(guild), member.as_ref(), message.clone())?;
    let vis = Visibility::channel(message.channel_id, Intents::GUILD_MESSAGES);
    events::append_bytes(db, guild, EventKind::MessageCreate, vis, body, alt).await
}

/// [`post`] in any place: a thread counts the message, and a private channel makes one event
/// per participant. The heads of `audience` are locked (`access::place_for_change`,
/// `access::audience_for_change`).
pub(crate) async fn post_in(
    db: &mut PgConnection,
    audience: &Audience,
    member: Option<&Member>,
    message: &Message,
) -> Result<Vec<Envelope>> {
    insert(db, message).await?;
    if audience.kind.is_thread() {
        count_in_thread(db, message).await?;
    }
    let member = member.map(without_user);
    let (body, alt) = bodies(audience.guild, member.as_ref(), message.clone())?;
    let vis = audience.visibility(Intents::GUILD_MESSAGES);
    let kind = EventKind::MessageCreate;
    audience.append_bytes(db, kind, vis, body, alt).await
}

/// The message that a thread starts from is not counted.
async fn count_in_thread(db: &mut PgConnection, message: &Message) -> Result<()> {
    let is_starter =
        message.kind == MessageKind::THREAD_STARTER || message.id.get() == message.channel_id.get();
    sqlx::query!(
        "update thread
         set message_count = message_count + $2, total_message_sent = total_message_sent + $2,
             active_at = now()
         where thread_id = $1",
        message.channel_id.to_db(),
        i32::from(!is_starter),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// [`announce_update`] in any place, as [`post_in`].
pub(crate) async fn announce_update_in(
    db: &mut PgConnection,
    audience: &Audience,
    member: Option<&Member>,
    message: &Message,
) -> Result<Vec<Envelope>> {
    let (body, alt) = update_bodies(audience.guild, member, message)?;
    let vis = audience.visibility(Intents::GUILD_MESSAGES);
    let kind = EventKind::MessageUpdate;
    audience.append_bytes(db, kind, vis, body, alt).await
}

fn update_bodies(
    guild: Option<Id<Guild>>,
    member: Option<&Member>,
    message: &Message,
) -> Result<(Bytes, Option<Alt>)> {
    let sent = Message {
        tts: false,
        nonce: None,
        ..message.clone()
    };
    let member = member.map(without_user);
    bodies(guild, member.as_ref(), sent)
}

/// Stores everything of a message that an edit can change.
pub(crate) async fn store_changes(db: &mut PgConnection, message: &Message) -> Result<()> {
    let mentions: Vec<_> = message.mentions.iter().map(|user| user.id).collect();
    sqlx::query!(
        "update message set content = $3, flags = $4, edited_at = $5, mention_everyone = $6,
                            mentions = $7, mention_roles = $8,
                            extra = case when extra ? 'persona'
                              then jsonb_set($9, '{persona}', extra -> 'persona') else $9 end
         where channel_id = $1 and message_id = $2",
        message.channel_id.to_db(),
        message.id.to_db(),
        message.content,
        message.flags as i64,
        message.edited_timestamp.map(|at| at.0),
        message.mention_everyone,
        &ids_to_db(&mentions),
        &ids_to_db(&message.mention_roles),
        extra(message)? as Option<Json<Box<RawValue>>>,
    )
    .execute(&mut *db)
    .await?;
    search::index::refresh(db, message).await
}

async fn insert(db: &mut PgConnection, message: &Message) -> Result<()> {
    let mentions: Vec<_> = message.mentions.iter().map(|user| user.id).collect();
    sqlx::query!(
        "insert into message (channel_id, message_id, author_id, kind, flags, content, tts,
                              mention_everyone, mentions, mention_roles, extra)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        message.channel_id.to_db(),
        message.id.to_db(),
        message.author.id.to_db(),
        i16::from(message.kind.0),
        message.flags as i64,
        message.content,
        message.tts,
        message.mention_everyone,
        &ids_to_db(&mentions),
        &ids_to_db(&message.mention_roles),
        extra(message)? as Option<Json<Box<RawValue>>>,
    )
    .execute(&mut *db)
    .await?;
    if !mentions.is_empty() {
        sqlx::query!(
            "insert into user_mention (user_id, message_id, channel_id)
             select user_id, $2, $3 from unnest($1::bigint[]) as mentioned (user_id)
             on conflict do nothing",
            &ids_to_db(&mentions),
            message.id.to_db(),
            message.channel_id.to_db(),
        )
        .execute(&mut *db)
        .await?;
    }
    if let Some(poll) = &message.poll {
        polls::open(db, message.channel_id, message.id, poll).await?;
    }
    Ok(())
}

fn extra(message: &Message) -> Result<Option<Json<Box<RawValue>>>> {
    let text = Extra::of(message).to_db()?;
    Ok(text.map(RawValue::from_string).transpose()?.map(Json))
}

fn without_user(member: &Member) -> Member {
    Member {
        user: None,
        ..member.clone()
    }
}
