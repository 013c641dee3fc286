//! Message rows as wire objects.
//!
//! A page of any length costs a handful of statements: rows, the messages they answer,
//! people, reactions, polls, threads.

use std::collections::BTreeMap;

use guildhall_shared::{
    Id, Timestamp,
    id::marker::{
        Application, Attachment, Channel, Message as MessageMarker, User as UserMarker, Webhook,
    },
    model::{Message, MessageFlags, MessageKind, MessageReference, Poll, User},
};
use guildhall_store::{ids_from_db, thread, user::UserRow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, types::Json};
use time::OffsetDateTime;

use super::components::linked_files;
use crate::{
    error::Result,
    media::{ImageOf, Media},
    routes::{polls, reactions},
};

/// What has no column of its own in `message`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Extra {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) embeds: Vec<Value>,
    /// As they go out; 0007_media.sql follows their files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) attachments: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) embedded_files: Vec<Id<Attachment>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) components: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sticker_items: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) message_snapshots: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_reference: Option<MessageReference>,
    /// Without results: they are counted in `poll`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) poll: Option<Poll>,
    /// Who a webhook said it is; `author_id` is the webhook's id then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) persona: Option<Persona>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) webhook_id: Option<Id<Webhook>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) application_id: Option<Id<Application>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interaction_metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interaction: Option<Value>,
}

/// Name and picture under which a webhook wrote one message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Persona {
    pub(crate) username: String,
    /// A hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) avatar: Option<String>,
    /// Where the picture is kept: the triggers of 0031 see to it that it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    picture: Option<String>,
}

impl Persona {
    pub(crate) fn new(username: String, avatar: Option<String>) -> Self {
        Self {
            username,
            avatar,
            picture: None,
        }
    }

    /// As a message's author shows it, its picture among those that are kept.
    fn of(author: &User) -> Self {
        let path = |hash: &String| ImageOf::WebhookAvatar(author.id).path(hash);
        Self {
            picture: author.avatar.as_ref().map(path),
            ..Self::new(author.username.clone(), author.avatar.clone())
        }
    }

    /// The user object of a webhook's message.
    pub(crate) fn user(self, webhook: Id<Webhook>) -> User {
        User {
            id: webhook.cast(),
            username: self.username,
            discriminator: "0000".to_owned(),
            global_name: None,
            avatar: self.avatar,
            bot: true,
            public_flags: 0,
            flags: 0,
            banner: None,
            accent_color: None,
            avatar_decoration_data: None,
            collectibles: None,
            primary_guild: None,
        }
    }
}

impl Extra {
    /// What of a message goes into the column.
    pub(crate) fn of(message: &Message) -> Self {
        // Answers to interactions name their application as webhook: its bot is their author.
        let author = message.author.id.get();
        let is_bot = message.application_id.is_some_and(|id| id.get() == author);
        let is_webhook = !is_bot && message.webhook_id.is_some_and(|id| id.get() == author);
        Self {
            embeds: message.embeds.clone(),
            attachments: message.attachments.clone(),
            embedded_files: message.embedded_files.clone(),
            components: message.components.clone(),
            sticker_items: message.sticker_items.clone(),
            message_snapshots: message.message_snapshots.clone(),
            message_reference: message.message_reference.clone(),
            poll: message.poll.as_ref().map(|poll| Poll {
                results: None,
                ..poll.clone()
            }),
            persona: is_webhook.then(|| Persona::of(&message.author)),
            webhook_id: message.webhook_id,
            application_id: message.application_id,
            interaction_metadata: message.interaction_metadata.clone(),
            interaction: message.interaction.clone(),
        }
    }

    /// As stored; null when there is nothing.
    pub(crate) fn to_db(&self) -> serde_json::Result<Option<String>> {
        if *self == Self::default() {
            return Ok(None);
        }
        serde_json::to_string(self).map(Some)
    }
}

/// Which messages of a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Page {
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
    pinned: bool,
    extra: Option<Json<Extra>>,
}

/// Messages of a page as `viewer` sees them, newest first, with the messages they answer.
pub(crate) async fn messages(
    media: &Media,
    db: &mut PgConnection,
    viewer: Id<UserMarker>,
    channel: Id<Channel>,
    page: Page,
    limit: i64,
) -> Result<Vec<Message>> {
    let rows = match page {
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
    assemble(media, db, viewer, rows).await
}

/// One message with the message it answers, as `viewer` sees it.
pub(crate) async fn message(
    media: &Media,
    db: &mut PgConnection,
    viewer: Id<UserMarker>,
    channel: Id<Channel>,
    id: Id<MessageMarker>,
) -> Result<Option<Message>> {
    Ok(messages_at(media, db, viewer, &[(channel, id)])
        .await?
        .pop())
}

/// Messages of any channels, in the order asked for; those that are gone are left out.
pub(crate) async fn messages_at(
    media: &Media,
    db: &mut PgConnection,
    viewer: Id<UserMarker>,
    places: &[(Id<Channel>, Id<MessageMarker>)],
) -> Result<Vec<Message>> {
    let rows = by_keys(
        &mut *db,
        &places
            .iter()
            .map(|(channel, id)| (channel.to_db(), id.to_db()))
            .collect::<Vec<_>>(),
    )
    .await?;
    let mut messages: BTreeMap<_, _> = assemble(media, db, viewer, rows)
        .await?
        .into_iter()
        .map(|message| ((message.channel_id, message.id), message))
        .collect();
    let messages = places.iter().filter_map(|place| messages.remove(place));
    Ok(messages.collect())
}

/// Accounts that exist, by id.
pub(crate) async fn users(
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
                  mention_everyone, mentions, mention_roles, pinned, extra as "extra: Json<Extra>"
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
                  mention_everyone, mentions, mention_roles, pinned, extra as "extra: Json<Extra>"
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

async fn by_keys(db: impl PgExecutor<'_>, keys: &[(i64, i64)]) -> Result<Vec<Row>> {
    let (channels, ids): (Vec<i64>, Vec<i64>) = keys.iter().copied().unzip();
    Ok(sqlx::query_as!(
        Row,
        r#"select m.channel_id, m.message_id, author_id, kind, flags, content, edited_at, tts,
                  mention_everyone, mentions, mention_roles, pinned, extra as "extra: Json<Extra>"
           from unnest($1::bigint[], $2::bigint[]) as wanted (channel_id, message_id)
           join message m using (channel_id, message_id)"#,
        &channels,
        &ids,
    )
    .fetch_all(db)
    .await?)
}

/// Adds authors, mentioned users, the messages answered, reactions, votes and threads.
async fn assemble(
    media: &Media,
    db: &mut PgConnection,
    viewer: Id<UserMarker>,
    rows: Vec<Row>,
) -> Result<Vec<Message>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut answered: Vec<(i64, i64)> = rows.iter().filter_map(answered_key).collect();
    answered.sort_unstable();
    answered.dedup();
    let answered = match answered.as_slice() {
        [] => Vec::new(),
        keys => by_keys(&mut *db, keys).await?,
    };
    let all = || rows.iter().chain(&answered);
    let people = ids(all().flat_map(|row| row.mentions.iter().copied().chain([row.author_id])));
    let people = users(&mut *db, &people).await?;
    let keys: Vec<(i64, i64)> = rows
        .iter()
        .map(|row| (row.channel_id, row.message_id))
        .collect();
    let mut reactions = reactions::of_messages(&mut *db, viewer, &keys).await?;
    let with_polls: Vec<(i64, i64)> = all()
        .filter(|row| row.extra.as_ref().is_some_and(|extra| extra.poll.is_some()))
        .map(|row| (row.channel_id, row.message_id))
        .collect();
    let results = match with_polls.as_slice() {
        [] => BTreeMap::new(),
        keys => polls::results(&mut *db, viewer, keys).await?,
    };
    let with_threads: Vec<Id<Channel>> = rows
        .iter()
        .filter(|row| row.flags as u64 & MessageFlags::HAS_THREAD != 0)
        .map(|row| Id::from_db(row.message_id))
        .collect();
    let mut threads = BTreeMap::new();
    for thread in thread::by_ids(&mut *db, &with_threads).await? {
        threads.insert(thread.id.cast(), serde_json::to_value(thread)?);
    }
    let finish = |row: Row| {
        let key = (row.channel_id, row.message_id);
        let mut message = to_message(row, &people)?;
        sign_anew(media, &mut message);
        if let Some(poll) = &mut message.poll {
            poll.results = results.get(&key).cloned();
        }
        Some(message)
    };
    let answered: BTreeMap<(i64, i64), Message> = answered
        .into_iter()
        .filter_map(|row| Some(((row.channel_id, row.message_id), finish(row)?)))
        .collect();
    let messages = rows.into_iter().filter_map(|row| {
        let key = (row.channel_id, row.message_id);
        let answers = shows_answered(row.kind).then(|| answered_key(&row));
        let mut message = finish(row)?;
        message.reactions = reactions.remove(&key).unwrap_or_default();
        message.thread = threads.remove(&message.id);
        message.referenced_message = answers.map(|key| {
            key.and_then(|key| answered.get(&key))
                .cloned()
                .map(Box::new)
        });
        Some(message)
    });
    Ok(messages.collect())
}

/// Replies and the first message of a thread made from a message.
fn shows_answered(kind: i16) -> bool {
    const THREAD_STARTER: i16 = 21;
    kind == i16::from(MessageKind::REPLY.0) || kind == THREAD_STARTER
}

/// Channel and id of the message that this one shows as answered.
fn answered_key(row: &Row) -> Option<(i64, i64)> {
    if !shows_answered(row.kind) {
        return None;
    }
    let reference = row.extra.as_ref()?.message_reference.as_ref()?;
    Some((reference.channel_id.to_db(), reference.message_id?.to_db()))
}

fn ids(ids: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut ids: Vec<i64> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Addresses of attachments are stored as they went out, perhaps under a key of before.
pub(crate) fn sign_anew(media: &Media, message: &mut Message) {
    let own = shown_files(message);
    if own.is_empty() {
        return;
    }
    let parts = [
        &mut message.attachments,
        &mut message.embeds,
        &mut message.components,
        &mut message.message_snapshots,
    ];
    for value in parts.into_iter().flatten() {
        media.sign_anew(&own, value);
    }
}

/// The attachments that a message shows, as 0007_media.sql counts them.
fn shown_files(message: &Message) -> Vec<Id<Attachment>> {
    let mut files = message.embedded_files.clone();
    files.extend(linked_files(&message.components));
    let forwarded = message.message_snapshots.iter();
    let forwarded = forwarded.filter_map(|snapshot| snapshot["message"]["attachments"].as_array());
    let listed = message.attachments.iter().chain(forwarded.flatten());
    files.extend(listed.filter_map(|file| file["id"].as_str()?.parse::<Id<Attachment>>().ok()));
    files
}

/// `None` only if the author's row is gone, which nothing removes.
fn to_message(row: Row, people: &BTreeMap<Id<UserMarker>, User>) -> Option<Message> {
    let extra = row.extra.map(|extra| extra.0).unwrap_or_default();
    let mentions: Vec<Id<UserMarker>> = ids_from_db(row.mentions);
    let author = match extra.persona {
        Some(persona) => persona.user(Id::from_db(row.author_id)),
        None => people.get(&Id::from_db(row.author_id))?.clone(),
    };
    Some(Message {
        content: row.content,
        edited_timestamp: row.edited_at.map(Timestamp),
        tts: row.tts,
        mention_everyone: row.mention_everyone,
        mentions: mentions
            .iter()
            .filter_map(|user| people.get(user).cloned())
            .collect(),
        mention_roles: ids_from_db(row.mention_roles),
        embeds: extra.embeds,
        attachments: extra.attachments,
        embedded_files: extra.embedded_files,
        components: extra.components,
        sticker_items: extra.sticker_items,
        message_snapshots: extra.message_snapshots,
        poll: extra.poll,
        pinned: row.pinned,
        flags: row.flags as u64,
        message_reference: extra.message_reference,
        webhook_id: extra.webhook_id,
        application_id: extra.application_id,
        interaction_metadata: extra.interaction_metadata,
        interaction: extra.interaction,
        ..Message::new(
            Id::from_db(row.message_id),
            Id::from_db(row.channel_id),
            author,
            MessageKind(row.kind as u8),
        )
    })
}
