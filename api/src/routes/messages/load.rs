//! Message rows as wire objects.

use std::collections::BTreeMap;

use guildhall_shared::{
    Id, Timestamp,
    id::marker::{Channel, Message as MessageMarker, User as UserMarker},
    model::{Message, MessageKind, MessageReference, User},
};
use guildhall_store::{account::UserRow, ids_from_db};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, types::Json};
use time::OffsetDateTime;

use crate::error::Result;

/// What has no column of its own in `message`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Extra {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) embeds: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message_reference: Option<MessageReference>,
}

impl Extra {
    /// As stored; null when there is nothing.
    pub(super) fn to_db(&self) -> serde_json::Result<Option<String>> {
        if *self == Self::default() {
            return Ok(None);
        }
        serde_json::to_string(self).map(Some)
    }
}

/// Which messages of a channel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Page {
    One(Id<MessageMarker>),
    Newest,
    Before(Id<MessageMarker>),
    After(Id<MessageMarker>),
    Around(Id<MessageMarker>),
}

struct Row {
    channel_id: i64,
    message_id: i64,
    author_id: i64,
    kind: i16,
    flags: i64,
    content: String,
    edited_at: Option<OffsetDateTime>,
    tts: bool,
    mention_everyone: bool,
    mentions: Vec<i64>,
    mention_roles: Vec<i64>,
    extra: Option<Json<Extra>>,
}

/// Messages of a page, newest first, with the messages they answer.
pub(super) async fn messages(
    db: &mut PgConnection,
    channel: Id<Channel>,
    page: Page,
    limit: i64,
) -> Result<Vec<Message>> {
    let rows = match page {
        Page::One(id) => by_ids(&mut *db, channel, &[id.to_db()]).await?,
        Page::Newest => before(&mut *db, channel, i64::MAX, limit).await?,
        Page::Before(id) => before(&mut *db, channel, id.to_db(), limit).await?,
        Page::After(id) => after(&mut *db, channel, id.to_db(), limit).await?,
        Page::Around(id) => {
            let newer = after(&mut *db, channel, id.to_db(), limit / 2).await?;
            let older = limit - limit / 2;
            // The message itself counts to the older side.
            let older = before(&mut *db, channel, id.to_db().saturating_add(1), older).await?;
            newer.into_iter().chain(older).collect()
        }
    };
    assemble(db, channel, rows).await
}

/// One message with the message it answers.
pub(super) async fn message(
    db: &mut PgConnection,
    channel: Id<Channel>,
    id: Id<MessageMarker>,
) -> Result<Option<Message>> {
    Ok(messages(db, channel, Page::One(id), 1).await?.pop())
}

/// Accounts that exist, by id.
pub(super) async fn users(
    db: impl PgExecutor<'_>,
    ids: &[i64],
) -> Result<BTreeMap<Id<UserMarker>, User>> {
    let rows = sqlx::query_as!(
        UserRow,
        "select a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                a.accent_color, a.bot, a.public_flags
         from account a where a.user_id = any($1)",
        ids,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (Id::from_db(row.user_id), User::from(row)))
        .collect())
}

async fn before(
    db: impl PgExecutor<'_>,
    channel: Id<Channel>,
    before: i64,
    limit: i64,
) -> Result<Vec<Row>> {
    Ok(sqlx::query_as!(
        Row,
        r#"select channel_id, message_id, author_id, kind, flags, content, edited_at, tts,
                  mention_everyone, mentions, mention_roles, extra as "extra: Json<Extra>"
           from message where channel_id = $1 and message_id < $2
           order by message_id desc limit $3"#,
        channel.to_db(),
        before,
        limit,
    )
    .fetch_all(db)
    .await?)
}

/// The oldest ones after the id, listed newest first all the same.
async fn after(
    db: impl PgExecutor<'_>,
    channel: Id<Channel>,
    after: i64,
    limit: i64,
) -> Result<Vec<Row>> {
    let mut rows = sqlx::query_as!(
        Row,
        r#"select channel_id, message_id, author_id, kind, flags, content, edited_at, tts,
                  mention_everyone, mentions, mention_roles, extra as "extra: Json<Extra>"
           from message where channel_id = $1 and message_id > $2
           order by message_id limit $3"#,
        channel.to_db(),
        after,
        limit,
    )
    .fetch_all(db)
    .await?;
    rows.reverse();
    Ok(rows)
}

async fn by_ids(db: impl PgExecutor<'_>, channel: Id<Channel>, ids: &[i64]) -> Result<Vec<Row>> {
    Ok(sqlx::query_as!(
        Row,
        r#"select channel_id, message_id, author_id, kind, flags, content, edited_at, tts,
                  mention_everyone, mentions, mention_roles, extra as "extra: Json<Extra>"
           from message where channel_id = $1 and message_id = any($2)
           order by message_id desc"#,
        channel.to_db(),
        ids,
    )
    .fetch_all(db)
    .await?)
}

/// Adds authors, mentioned users and the messages answered: two more queries at most.
async fn assemble(
    db: &mut PgConnection,
    channel: Id<Channel>,
    rows: Vec<Row>,
) -> Result<Vec<Message>> {
    let answered = ids(rows.iter().filter_map(answered_id));
    let answered = match answered.as_slice() {
        [] => Vec::new(),
        ids => by_ids(&mut *db, channel, ids).await?,
    };
    let all = || rows.iter().chain(&answered);
    let people = ids(all().flat_map(|row| row.mentions.iter().copied().chain([row.author_id])));
    let people = users(&mut *db, &people).await?;
    let answered: BTreeMap<i64, Message> = answered
        .into_iter()
        .filter_map(|row| Some((row.message_id, to_message(row, &people)?)))
        .collect();
    let messages = rows.into_iter().filter_map(|row| {
        let reply_to = (row.kind == i16::from(MessageKind::REPLY.0)).then(|| answered_id(&row));
        let mut message = to_message(row, &people)?;
        message.referenced_message =
            reply_to.map(|id| id.and_then(|id| answered.get(&id)).cloned().map(Box::new));
        Some(message)
    });
    Ok(messages.collect())
}

fn answered_id(row: &Row) -> Option<i64> {
    let reference = row.extra.as_ref()?.message_reference.as_ref()?;
    reference.message_id.map(Id::to_db)
}

fn ids(ids: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut ids: Vec<i64> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// `None` only if the author's row is gone, which nothing removes.
fn to_message(row: Row, people: &BTreeMap<Id<UserMarker>, User>) -> Option<Message> {
    let id: Id<MessageMarker> = Id::from_db(row.message_id);
    let extra = row.extra.map(|extra| extra.0).unwrap_or_default();
    let mentions: Vec<Id<UserMarker>> = ids_from_db(row.mentions);
    Some(Message {
        id,
        channel_id: Id::from_db(row.channel_id),
        guild_id: None,
        author: people.get(&Id::from_db(row.author_id))?.clone(),
        member: None,
        content: row.content,
        timestamp: Timestamp::from_unix_ms(id.created_ms()),
        edited_timestamp: row.edited_at.map(Timestamp),
        tts: row.tts,
        mention_everyone: row.mention_everyone,
        mentions: mentions
            .iter()
            .filter_map(|user| people.get(user).cloned())
            .collect(),
        mention_roles: ids_from_db(row.mention_roles),
        attachments: Vec::new(),
        embeds: extra.embeds,
        components: Vec::new(),
        pinned: false,
        kind: MessageKind(row.kind as u8),
        flags: row.flags as u64,
        nonce: None,
        message_reference: extra.message_reference,
        referenced_message: None,
    })
}
