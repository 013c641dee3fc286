//! Messages. Spec: limits-and-errors › Messages; objects.md › Message.

mod content;
mod load;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use bytes::Bytes;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Alt, Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Channel, Guild, Role},
    model::{ChannelKind, Member, Message, MessageKind, MessageReference, User, present},
};
use guildhall_store::{account, ids_to_db};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;

use self::{
    content::{AllowedMentions, Embed, Mentions, Nonce},
    load::{Extra, Page},
};
use crate::{
    access::{self, ChannelAccess, GuildAccess},
    app::App,
    auth::CurrentUser,
    error::{Error, Result},
    events,
    extract::{Form, Json, Path, Query, null_is_default},
    form::{Fault, FormErrors},
    http,
    message_writer::{NewMessage, Outcome},
};

/// Flags that a client may set on a new message: SUPPRESS_EMBEDS and SUPPRESS_NOTIFICATIONS.
const FLAGS_SETTABLE: u64 = 1 << 2 | 1 << 12;
/// Flags that an edit may change.
const FLAGS_EDITABLE: u64 = 1 << 2;
/// How often a message is checked again because its guild changed meanwhile.
const CHECKS_MAX: usize = 5;
/// Messages older than this are not deleted in bulk.
const BULK_DELETE_AGE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

pub(crate) fn router() -> Router<App> {
    let one = get(get_message)
        .patch(update_message)
        .delete(delete_message);
    Router::new()
        .route(
            "/channels/{channel_id}/messages",
            get(list_messages).post(create_message),
        )
        .route(
            "/channels/{channel_id}/messages/bulk-delete",
            post(bulk_delete_messages),
        )
        .route("/channels/{channel_id}/messages/{message_id}", one)
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct CreateMessage {
    content: Option<String>,
    nonce: Option<Nonce>,
    #[serde(deserialize_with = "null_is_default")]
    enforce_nonce: bool,
    #[serde(deserialize_with = "null_is_default")]
    tts: bool,
    #[serde(deserialize_with = "null_is_default")]
    embeds: Vec<Embed>,
    allowed_mentions: Option<AllowedMentions>,
    message_reference: Option<Reference>,
    #[serde(deserialize_with = "null_is_default")]
    flags: u64,
    #[serde(flatten)]
    unsupported: Unsupported,
}

#[derive(Debug, Deserialize)]
struct Reference {
    #[serde(default, rename = "type", deserialize_with = "null_is_default")]
    kind: u8,
    message_id: Id<marker::Message>,
    #[serde(default)]
    channel_id: Option<Id<Channel>>,
    #[serde(default)]
    fail_if_not_exists: Option<bool>,
}

/// Parts of a message that this server does not have. Saying so beats losing them.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Unsupported {
    #[serde(deserialize_with = "null_is_default")]
    components: Vec<Value>,
    #[serde(deserialize_with = "null_is_default")]
    sticker_ids: Vec<Value>,
    #[serde(deserialize_with = "null_is_default")]
    attachments: Vec<Value>,
    poll: Option<Value>,
}

impl Unsupported {
    fn check(&self, form: &mut FormErrors) {
        let given = [
            ("components", !self.components.is_empty()),
            ("sticker_ids", !self.sticker_ids.is_empty()),
            ("attachments", !self.attachments.is_empty()),
            ("poll", self.poll.is_some()),
        ];
        for (field, given) in given {
            if given {
                let message = "This server does not support this field yet.";
                form.add(field, Fault::Other("FEATURE_NOT_SUPPORTED", message.into()));
            }
        }
    }
}

impl Form for CreateMessage {
    fn check(&self, form: &mut FormErrors) {
        if let Some(content) = &self.content {
            content::check_content(content, form);
        }
        if let Some(nonce) = &self.nonce {
            nonce.check(form);
        }
        content::check_embeds(&self.embeds, form);
        if let Some(allowed) = &self.allowed_mentions {
            allowed.check(form);
        }
        if self
            .message_reference
            .as_ref()
            .is_some_and(|reference| reference.kind != 0)
        {
            form.add("message_reference.type", Fault::Choices("(0)"));
        }
        self.unsupported.check(form);
    }
}

/// Stores a message and numbers its MESSAGE_CREATE; both happen or neither.
///
/// The permission check may come from memory: the writer refuses it if anything changed
/// since, and it is made again.
///
/// Errors: 10003, 20016, 50001, 50006, 50008, 50013, 50035, 160002.
async fn create_message(
    State(app): State<App>,
    mut author: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Json(body): Json<CreateMessage>,
) -> Result<Json<Message>> {
    let content = content::clean_content(body.content.as_deref().unwrap_or_default());
    if content.is_empty() && body.embeds.is_empty() {
        return Err(ErrorCode::EmptyMessage.into());
    }
    let embeds = content::embeds_to_json(&body.embeds)?;
    let mentions = Mentions::find(&content, body.allowed_mentions.as_ref());
    let id = app.snowflakes.next()?;
    let nonce = body.nonce.as_ref();
    let enforced = nonce.filter(|_| body.enforce_nonce).map(Nonce::key);
    let mut slowmode_passed = false;

    for _ in 0..CHECKS_MAX {
        let access = app.access.channel(&app.db, author.id, channel_id).await;
        let access = access.and_then(|access| {
            check_sending(&access, &body)?;
            Ok(access)
        });
        // A refusal from memory may be out of date too: then ask again, without it.
        let access = match access {
            Ok(access) => access,
            Err(_) => {
                app.access.forget(author.id, channel_id);
                let access = app.access.channel(&app.db, author.id, channel_id).await?;
                check_sending(&access, &body)?;
                access
            }
        };
        let held = access.permissions();
        if !std::mem::replace(&mut slowmode_passed, true) {
            check_slowmode(&app, &author, &access, held).await?;
        }
        let answered = match &body.message_reference {
            Some(reference) => answered_message(&app, &access, held, reference).await?,
            None => Answered::default(),
        };
        let mentioned =
            resolve_mentions(&app.db, &access.guild, held, &mentions, &answered).await?;
        let message = Message {
            id,
            channel_id,
            guild_id: None,
            author: author.user().clone(),
            member: None,
            content: content.clone(),
            timestamp: Timestamp::from_unix_ms(id.created_ms()),
            edited_timestamp: None,
            tts: body.tts,
            mention_everyone: mentioned.everyone,
            mentions: mentioned.users,
            mention_roles: mentioned.roles,
            attachments: Vec::new(),
            embeds: embeds.clone(),
            components: Vec::new(),
            pinned: false,
            kind: match answered.reference {
                Some(_) => MessageKind::REPLY,
                None => MessageKind::DEFAULT,
            },
            flags: body.flags & FLAGS_SETTABLE,
            nonce: nonce.map(Nonce::to_json),
            message_reference: answered.reference,
            referenced_message: answered.message.map(|message| message.map(Box::new)),
        };
        let new = new_message(&access.guild, &author, &message, enforced.clone())?;
        match app.message_writer.store(new).await? {
            Outcome::Stored => return Ok(Json(message)),
            Outcome::Duplicate(first) => {
                let mut db = app.db.acquire().await?;
                let mut first = load::message(&mut db, channel_id, first)
                    .await?
                    .ok_or(ErrorCode::UnknownMessage)?;
                first.nonce = nonce.map(Nonce::to_json);
                return Ok(Json(first));
            }
            Outcome::Stale => {
                app.access.forget(author.id, channel_id);
                app.tokens.forget(author.id);
                let account = account::by_token(&app.db, author.token)
                    .await?
                    .ok_or(ErrorCode::Unauthorized)?;
                author.account = Arc::new(account);
            }
        }
    }
    Err(Error::Unavailable("the guild keeps changing"))
}

/// Errors: 50001, 50008, 50013.
fn check_sending(access: &ChannelAccess, body: &CreateMessage) -> Result<()> {
    let mut needed = Permissions::empty();
    if access.channel.kind.is_thread() {
        needed |= Permissions::SEND_MESSAGES_IN_THREADS;
    } else {
        needed |= Permissions::SEND_MESSAGES;
    }
    if body.tts {
        needed |= Permissions::SEND_TTS_MESSAGES;
    }
    if !body.embeds.is_empty() {
        needed |= Permissions::EMBED_LINKS;
    }
    access.require(Permissions::VIEW_CHANNEL)?;
    if !access.channel.kind.has_messages() {
        return Err(ErrorCode::NonTextChannel.into());
    }
    access.require(needed)?;
    Ok(())
}

/// Waits of people (not bots) in channels with slowmode, kept in Redis; with Redis away
/// nobody waits. Errors: 20016.
async fn check_slowmode(
    app: &App,
    author: &CurrentUser,
    access: &ChannelAccess,
    held: Permissions,
) -> Result<()> {
    let seconds = access.channel.settings.rate_limit_per_user.unwrap_or(0);
    if seconds == 0 || author.bot || held.contains(Permissions::BYPASS_SLOWMODE) {
        return Ok(());
    }
    let key =
        guildhall_shared::keys::rate_limit(&format!("slow:{}:{}", access.channel.id, author.id));
    let mut redis = app.redis.clone();
    let asked: redis::RedisResult<(Option<String>, i64)> = redis::pipe()
        .cmd("SET")
        .arg(&key)
        .arg(1)
        .arg("NX")
        .arg("EX")
        .arg(seconds)
        .cmd("PTTL")
        .arg(&key)
        .query_async(&mut redis)
        .await;
    match asked {
        Ok((None, left_ms)) if left_ms > 0 => Err(Error::Slowmode {
            retry_after: Duration::from_millis(left_ms as u64),
        }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The message that a new one answers.
#[derive(Default)]
struct Answered {
    reference: Option<MessageReference>,
    message: Option<Option<Message>>,
}

/// Errors: 50035 for a message that is not there or written by the server, 160002.
async fn answered_message(
    app: &App,
    access: &ChannelAccess,
    held: Permissions,
    wanted: &Reference,
) -> Result<Answered> {
    let (channel, guild) = (access.channel.id, access.guild.id);
    let fault = |code, message: &'static str| {
        Err(FormErrors::one(
            "message_reference",
            Fault::Other(code, message.into()),
        ))
    };
    if !held.contains(Permissions::READ_MESSAGE_HISTORY) {
        return Err(ErrorCode::NoReadMessageHistory.into());
    }
    let mut db = app.db.acquire().await?;
    let found = if wanted.channel_id.is_some_and(|wanted| wanted != channel) {
        None
    } else {
        load::message(&mut db, channel, wanted.message_id).await?
    };
    match found {
        Some(message) if !message.kind.is_written() => fault(
            "REPLIES_CANNOT_REPLY_TO_SYSTEM_MESSAGE",
            "Cannot reply to a system message",
        ),
        Some(mut message) => {
            message.referenced_message = None;
            Ok(Answered {
                reference: Some(MessageReference {
                    kind: 0,
                    message_id: Some(message.id),
                    channel_id: channel,
                    guild_id: Some(guild),
                }),
                message: Some(Some(message)),
            })
        }
        None if wanted.fail_if_not_exists.unwrap_or(true) => {
            fault("REPLIES_UNKNOWN_MESSAGE", "Unknown message")
        }
        None => Ok(Answered::default()),
    }
}

/// Mentions that exist and that the author may make.
struct Mentioned {
    users: Vec<User>,
    roles: Vec<Id<Role>>,
    everyone: bool,
}

async fn resolve_mentions(
    db: impl PgExecutor<'_>,
    guild: &GuildAccess,
    held: Permissions,
    wanted: &Mentions,
    answered: &Answered,
) -> Result<Mentioned> {
    let may_mention_all = held.contains(Permissions::MENTION_EVERYONE);
    let everyone_role: Id<Role> = guild.id.cast();
    let roles = wanted.roles.iter().copied().filter(|&role| {
        let known = guild.role(role).filter(|_| role != everyone_role);
        known.is_some_and(|role| role.mentionable || may_mention_all)
    });
    let mut users = Vec::new();
    if !wanted.users.is_empty() {
        let found = load::users(db, &ids_to_db(&wanted.users)).await?;
        users.extend(
            wanted
                .users
                .iter()
                .filter_map(|user| found.get(user).cloned()),
        );
    }
    if let Some(Some(message)) = &answered.message
        && wanted.replied_user
        && users.iter().all(|user| user.id != message.author.id)
    {
        users.push(message.author.clone());
    }
    Ok(Mentioned {
        users,
        roles: roles.collect(),
        everyone: wanted.everyone && may_mention_all,
    })
}

/// A message as the gateway sends it: with its guild and its author's membership.
#[derive(Serialize)]
struct GatewayMessage<'a> {
    #[serde(flatten)]
    message: &'a Message,
    guild_id: Id<Guild>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<&'a Member>,
}

/// `d` of MESSAGE_CREATE or MESSAGE_UPDATE, and its variant without content.
fn bodies(
    guild: Id<Guild>,
    member: Option<&Member>,
    message: &Message,
) -> Result<(Bytes, Option<Alt>)> {
    let body = |message: &Message| {
        serde_json::to_vec(&GatewayMessage {
            message,
            guild_id: guild,
            member,
        })
        .map(Bytes::from)
    };
    let full = body(message)?;
    let has_content = !message.content.is_empty()
        || !message.embeds.is_empty()
        || !message.attachments.is_empty()
        || !message.components.is_empty();
    if !has_content {
        return Ok((full, None));
    }
    let mut full_for = vec![message.author.id];
    full_for.extend(message.mentions.iter().map(|user| user.id));
    full_for.dedup();
    let bare = Message {
        content: String::new(),
        embeds: Vec::new(),
        attachments: Vec::new(),
        components: Vec::new(),
        // Somebody else's content rides in here.
        referenced_message: message.referenced_message.as_ref().map(|message| {
            message.as_ref().map(|message| {
                Box::new(Message {
                    content: String::new(),
                    embeds: Vec::new(),
                    ..Message::clone(message)
                })
            })
        }),
        ..message.clone()
    };
    let alt = Alt {
        full_for,
        body: body(&bare)?,
    };
    Ok((full, Some(alt)))
}

fn visibility(channel: Id<Channel>) -> Visibility {
    Visibility::channel(channel, Intents::GUILD_MESSAGES)
}

fn new_message(
    guild: &GuildAccess,
    author: &CurrentUser,
    message: &Message,
    nonce: Option<String>,
) -> Result<NewMessage> {
    let (body, alt) = bodies(guild.id, Some(&guild.member), message)?;
    let extra = Extra {
        embeds: message.embeds.clone(),
        message_reference: message.message_reference.clone(),
    };
    Ok(NewMessage {
        guild: guild.id,
        guild_state_seq: guild.state_seq,
        author: author.id,
        author_state_seq: author.account.state_seq,
        channel: message.channel_id,
        id: message.id,
        kind: message.kind.0,
        flags: message.flags,
        content: message.content.clone(),
        tts: message.tts,
        mention_everyone: message.mention_everyone,
        mentions: message.mentions.iter().map(|user| user.id).collect(),
        mention_roles: message.mention_roles.clone(),
        extra: extra.to_db()?,
        nonce,
        body,
        vis: visibility(message.channel_id),
        alt,
        trace: http::trace(),
    })
}

/// The server says in a channel that somebody joined (type 7). The guild's head is locked.
pub(crate) async fn create_join_message(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    channel: Id<Channel>,
    member: &Member,
) -> Result<Option<Envelope>> {
    let Some(user) = &member.user else {
        return Ok(None);
    };
    let id: Id<marker::Message> = app.snowflakes.next()?;
    let message = Message {
        id,
        channel_id: channel,
        guild_id: None,
        author: user.clone(),
        member: None,
        content: String::new(),
        timestamp: Timestamp::from_unix_ms(id.created_ms()),
        edited_timestamp: None,
        tts: false,
        mention_everyone: false,
        mentions: Vec::new(),
        mention_roles: Vec::new(),
        attachments: Vec::new(),
        embeds: Vec::new(),
        components: Vec::new(),
        pinned: false,
        kind: MessageKind::USER_JOIN,
        flags: 0,
        nonce: None,
        message_reference: None,
        referenced_message: None,
    };
    sqlx::query!(
        "insert into message (channel_id, message_id, author_id, kind, content)
         values ($1, $2, $3, $4, '')",
        channel.to_db(),
        id.to_db(),
        user.id.to_db(),
        i16::from(message.kind.0),
    )
    .execute(&mut *db)
    .await?;
    let member = Member {
        user: None,
        ..member.clone()
    };
    let (body, alt) = bodies(guild, Some(&member), &message)?;
    let vis = visibility(channel);
    let event = events::append_bytes(db, guild, EventKind::MessageCreate, vis, body, alt).await?;
    Ok(Some(event))
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct ListMessages {
    around: Option<Id<marker::Message>>,
    before: Option<Id<marker::Message>>,
    after: Option<Id<marker::Message>>,
    limit: Option<i64>,
}

impl Form for ListMessages {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=100);
        }
    }
}

/// Newest first. Without READ_MESSAGE_HISTORY: none. Errors: 10003, 50001, 50013.
async fn list_messages(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Query(query): Query<ListMessages>,
) -> Result<Json<Vec<Message>>> {
    let mut db = app.db.acquire().await?;
    let access = access::channel(&mut *db, &user, channel_id, Permissions::VIEW_CHANNEL).await?;
    let held = access.require(connect_if_voice(access.channel.kind))?;
    if !held.contains(Permissions::READ_MESSAGE_HISTORY) {
        return Ok(Json(Vec::new()));
    }
    let page = match query {
        ListMessages {
            around: Some(id), ..
        } => Page::Around(id),
        ListMessages {
            before: Some(id), ..
        } => Page::Before(id),
        ListMessages {
            after: Some(id), ..
        } => Page::After(id),
        _ => Page::Newest,
    };
    let limit = query.limit.unwrap_or(50);
    let messages = load::messages(&mut db, channel_id, page, limit).await?;
    Ok(Json(messages))
}

fn connect_if_voice(kind: ChannelKind) -> Permissions {
    if kind.is_voice() {
        Permissions::CONNECT
    } else {
        Permissions::empty()
    }
}

/// Errors: 10003, 10008, 50001, 50013.
async fn get_message(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
) -> Result<Json<Message>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::READ_MESSAGE_HISTORY;
    access::channel(&mut *db, &user, channel_id, needed).await?;
    let message = load::message(&mut db, channel_id, message_id).await?;
    Ok(Json(message.ok_or(ErrorCode::UnknownMessage)?))
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct UpdateMessage {
    #[serde(deserialize_with = "present")]
    content: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    embeds: Option<Option<Vec<Embed>>>,
    allowed_mentions: Option<AllowedMentions>,
    #[serde(deserialize_with = "present")]
    flags: Option<Option<u64>>,
    #[serde(flatten)]
    unsupported: Unsupported,
}

impl Form for UpdateMessage {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(content)) = &self.content {
            content::check_content(content, form);
        }
        if let Some(Some(embeds)) = &self.embeds {
            content::check_embeds(embeds, form);
        }
        if let Some(allowed) = &self.allowed_mentions {
            allowed.check(form);
        }
        self.unsupported.check(form);
    }
}

/// The author changes everything, others with MANAGE_MESSAGES the flags.
///
/// Errors: 10003, 10008, 50001, 50005, 50006, 50021, 50035.
async fn update_message(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
    Json(body): Json<UpdateMessage>,
) -> Result<Json<Message>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let held = access.permissions();
    let mut message = load::message(&mut tx, channel_id, message_id)
        .await?
        .ok_or(ErrorCode::UnknownMessage)?;
    let changes_text = body.content.is_some() || body.embeds.is_some();
    if message.author.id != user.id {
        if changes_text || body.flags.is_none() {
            return Err(ErrorCode::CannotEditOthersMessage.into());
        }
        access::require(held, Permissions::MANAGE_MESSAGES)?;
    } else if !message.kind.is_written() {
        return Err(ErrorCode::SystemMessage.into());
    }
    if let Some(content) = body.content {
        message.content = content::clean_content(content.as_deref().unwrap_or_default());
    }
    if let Some(embeds) = body.embeds {
        let embeds = embeds.unwrap_or_default();
        if !embeds.is_empty() {
            access::require(held, Permissions::EMBED_LINKS)?;
        }
        message.embeds = content::embeds_to_json(&embeds)?;
    }
    if message.kind.is_written() && message.content.is_empty() && message.embeds.is_empty() {
        return Err(ErrorCode::EmptyMessage.into());
    }
    if let Some(flags) = body.flags {
        let wanted = flags.unwrap_or_default() & FLAGS_EDITABLE;
        message.flags = message.flags & !FLAGS_EDITABLE | wanted;
    }
    if changes_text {
        let wanted = Mentions::find(&message.content, body.allowed_mentions.as_ref());
        let answered = Answered {
            reference: None,
            message: message
                .referenced_message
                .as_ref()
                .map(|message| message.as_deref().cloned()),
        };
        let found = resolve_mentions(&mut *tx, &access.guild, held, &wanted, &answered).await?;
        message.mentions = found.users;
        message.mention_roles = found.roles;
        message.mention_everyone = found.everyone;
        // Postgres keeps microseconds; the answer says what a later read will.
        message.edited_timestamp = Some(Timestamp::from_unix_ms(now_ms()));
    }
    let mentions: Vec<i64> = message
        .mentions
        .iter()
        .map(|user| user.id.to_db())
        .collect();
    let extra = Extra {
        embeds: message.embeds.clone(),
        message_reference: message.message_reference.clone(),
    };
    let extra = extra.to_db()?.map(RawValue::from_string).transpose()?;
    sqlx::query!(
        "update message set content = $3, flags = $4, edited_at = $5, mention_everyone = $6,
                            mentions = $7, mention_roles = $8, extra = $9
         where channel_id = $1 and message_id = $2",
        channel_id.to_db(),
        message_id.to_db(),
        message.content,
        message.flags as i64,
        message.edited_timestamp.map(|at| at.0),
        message.mention_everyone,
        &mentions,
        &ids_to_db(&message.mention_roles),
        extra.map(sqlx::types::Json) as Option<sqlx::types::Json<Box<RawValue>>>,
    )
    .execute(&mut *tx)
    .await?;
    let author = match message.author.id == user.id {
        true => Some(access.guild.member.clone()),
        false => guildhall_store::guild::member(&mut *tx, access.guild.id, message.author.id)
            .await?
            .map(|member| Member {
                user: None,
                ..member
            }),
    };
    let sent = Message {
        tts: false,
        ..message.clone()
    };
    let (bytes, alt) = bodies(access.guild.id, author.as_ref(), &sent)?;
    let (guild, vis) = (access.guild.id, visibility(channel_id));
    let event =
        events::append_bytes(&mut tx, guild, EventKind::MessageUpdate, vis, bytes, alt).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(Json(message))
}

#[derive(Serialize)]
struct MessageDelete {
    id: Id<marker::Message>,
    channel_id: Id<Channel>,
    guild_id: Id<Guild>,
}

/// One's own, or with MANAGE_MESSAGES anybody's. Errors: 10003, 10008, 50001, 50013, 50021.
async fn delete_message(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let deleted = sqlx::query!(
        "delete from message where channel_id = $1 and message_id = $2 returning author_id, kind",
        channel_id.to_db(),
        message_id.to_db(),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(ErrorCode::UnknownMessage)?;
    // What is refused from here on is rolled back.
    if deleted.author_id != user.id.to_db() {
        access.require(Permissions::MANAGE_MESSAGES)?;
    }
    if !MessageKind(deleted.kind as u8).is_deletable() {
        return Err(ErrorCode::SystemMessage.into());
    }
    let guild_id = access.guild.id;
    let body = MessageDelete {
        id: message_id,
        channel_id,
        guild_id,
    };
    let (kind, vis) = (EventKind::MessageDelete, visibility(channel_id));
    let event = events::append(&mut tx, guild_id, kind, vis, &body, None).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct BulkDelete {
    #[serde(default)]
    messages: Option<Vec<Id<marker::Message>>>,
}

impl Form for BulkDelete {
    fn check(&self, form: &mut FormErrors) {
        if let Some(messages) = form.required("messages", &self.messages)
            && !(2..=100).contains(&messages.len())
        {
            form.add("messages", Fault::BadLength { min: 2, max: 100 });
        }
    }
}

#[derive(Serialize)]
struct MessageDeleteBulk {
    ids: Vec<Id<marker::Message>>,
    channel_id: Id<Channel>,
    guild_id: Id<Guild>,
}

/// Ids that are no messages are passed over. Errors: 10003, 20002, 50001, 50013, 50034.
async fn bulk_delete_messages(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Json(body): Json<BulkDelete>,
) -> Result<StatusCode> {
    user.require_bot()?;
    let mut wanted = body.messages.unwrap_or_default();
    let count = wanted.len();
    wanted.sort_unstable();
    wanted.dedup();
    let oldest = now_ms().saturating_sub(BULK_DELETE_AGE_MAX.as_millis() as u64);
    if wanted.len() != count || wanted.first().is_some_and(|id| id.created_ms() < oldest) {
        return Err(ErrorCode::MessageTooOld.into());
    }
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_MESSAGES;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let deleted = sqlx::query_scalar!(
        "delete from message where channel_id = $1 and message_id = any($2) returning message_id",
        channel_id.to_db(),
        &ids_to_db(&wanted),
    )
    .fetch_all(&mut *tx)
    .await?;
    if deleted.is_empty() {
        return Ok(StatusCode::NO_CONTENT);
    }
    let guild_id = access.guild.id;
    let body = MessageDeleteBulk {
        ids: guildhall_store::ids_from_db(deleted),
        channel_id,
        guild_id,
    };
    let (kind, vis) = (EventKind::MessageDeleteBulk, visibility(channel_id));
    let event = events::append(&mut tx, guild_id, kind, vis, &body, None).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}

fn now_ms() -> u64 {
    (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as u64
}
