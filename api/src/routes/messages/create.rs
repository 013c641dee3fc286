//! New messages: what a request may say, the check of whether it may, the writer's job.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::Intents,
    id::marker::{self, Channel, Guild},
    keys,
    model::{Member, Message, MessageKind, MessageReference},
};
use guildhall_store::account;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{
    Unsupported,
    content::{self, AllowedMentions, Embed, Mentions, Nonce},
    event::bodies,
    load::{self, Extra},
    mentions::{Answered, resolve_mentions},
    post::{draft, post},
};
use crate::{
    access::Place,
    app::App,
    auth::CurrentUser,
    error::{Error, Result},
    extract::{Form, Json, Path, null_is_default},
    form::{Fault, FormErrors},
    http,
    media::{self, AttachmentForm, Upload},
    message_writer::{NewMessage, Outcome},
    routes::{automod, dms, threads},
};

/// Flags that a client may set on a new message: SUPPRESS_EMBEDS and SUPPRESS_NOTIFICATIONS.
const FLAGS_SETTABLE: u64 = 1 << 2 | 1 << 12;
/// How often a message is checked again because its guild changed meanwhile.
const CHECKS_MAX: usize = 6;

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(crate) struct CreateMessage {
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
    /// What there is to say of the files, by their number.
    #[serde(deserialize_with = "null_is_default")]
    attachments: Vec<AttachmentForm>,
    #[serde(flatten)]
    unsupported: Unsupported,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = MessageReferenceRequest)]
struct Reference {
    #[serde(default, rename = "type", deserialize_with = "null_is_default")]
    kind: u8,
    message_id: Id<marker::Message>,
    #[serde(default)]
    channel_id: Option<Id<Channel>>,
    #[serde(default)]
    fail_if_not_exists: Option<bool>,
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
        AttachmentForm::check_all(&self.attachments, form);
        self.unsupported.check(form);
    }
}

/// Stores a message and numbers its MESSAGE_CREATE; both happen or neither.
///
/// The permission check may come from memory: the writer refuses it if anything changed
/// since, and it is made again.
///
/// Errors: 10003, 20016, 50001, 50006, 50008, 50013, 50035, 160002, 200000.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/messages",
    tag = "Messages",
    responses((status = 200, body = Message))
)]
pub(super) async fn create_message(
    State(app): State<App>,
    mut author: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Upload { body, mut files }: Upload<CreateMessage>,
) -> Result<Json<Message>> {
    files
        .claim_slots(&app, channel_id, author.id, &body.attachments)
        .await?;
    let attachments = files.attach(&app.media, channel_id, &body.attachments, &[])?;
    let content = content::clean_content(body.content.as_deref().unwrap_or_default());
    if content.is_empty() && body.embeds.is_empty() && attachments.is_empty() {
        return Err(ErrorCode::EmptyMessage.into());
    }
    let embeds = content::embeds_to_json(&body.embeds)?;
    let mentions = Mentions::find(&content, body.allowed_mentions.as_ref());
    let id = app.snowflakes.next()?;
    let nonce = body.nonce.as_ref();
    let enforced = nonce.filter(|_| body.enforce_nonce).map(Nonce::key);
    let (mut slowmode_passed, mut moderated, mut readied) = (false, false, false);

    for _ in 0..CHECKS_MAX {
        let access = app.access.place(&app.db, author.id, channel_id).await;
        let place = access.and_then(|place| {
            check_sending(&place, &body, !files.is_empty())?;
            Ok(place)
        });
        // A refusal from memory may be out of date too: then ask again, without it.
        let place = match place {
            Ok(place) => place,
            Err(_) => {
                app.access.forget(author.id, channel_id);
                let place = app.access.place(&app.db, author.id, channel_id).await?;
                check_sending(&place, &body, !files.is_empty())?;
                place
            }
        };
        if !std::mem::replace(&mut readied, true) && make_ready(&app, &author, &place).await? {
            app.access.forget(author.id, channel_id);
            continue;
        }
        let held = place.permissions();
        if !std::mem::replace(&mut slowmode_passed, true) {
            check_slowmode(&app, &author, &place, held).await?;
        }
        let verdict = automod::judge(&app, &app.db, &author, &place, &content).await?;
        if !verdict.is_clean() && !std::mem::replace(&mut moderated, true) {
            automod::act(&app, &author, &place, &content, &verdict, id).await?;
        }
        let answered = match &body.message_reference {
            Some(reference) => answered_message(&app, &author, &place, held, reference).await?,
            None => Answered::default(),
        };
        let mentioned = resolve_mentions(&app.db, &place, held, &mentions, &answered).await?;
        let kind = match answered.reference {
            Some(_) => MessageKind::REPLY,
            None => MessageKind::DEFAULT,
        };
        let mut message = Message {
            content: content.clone(),
            attachments: attachments.clone(),
            tts: body.tts,
            mention_everyone: mentioned.everyone,
            mentions: mentioned.users,
            mention_roles: mentioned.roles,
            embeds: embeds.clone(),
            flags: body.flags & FLAGS_SETTABLE,
            nonce: nonce.map(Nonce::to_json),
            message_reference: answered.reference,
            referenced_message: answered.message.map(|message| message.map(Box::new)),
            ..Message::new(id, channel_id, author.user().clone(), kind)
        };
        media::link_embedded(&mut message);
        let new = new_message(&place, &author, &message, enforced.clone())?;
        match app.message_writer.store(new).await? {
            Outcome::Stored => return Ok(Json(message)),
            Outcome::Duplicate(first) => {
                let mut db = app.db.acquire().await?;
                let mut first = load::message(&mut db, author.id, channel_id, first)
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

/// Wakes a thread and joins it; opens a private channel for all. True if the place has changed.
///
/// Errors: 50007.
async fn make_ready(app: &App, author: &CurrentUser, place: &Place) -> Result<bool> {
    match place {
        Place::Channel(_) => Ok(false),
        Place::Thread(access) => threads::make_ready(app, author, access).await,
        Place::Private(access) => dms::make_ready(app, author, access).await,
    }
}

/// Errors: 50001, 50007, 50008, 50013, 160005.
fn check_sending(place: &Place, body: &CreateMessage, files: bool) -> Result<()> {
    let mut needed = place.sending();
    if body.tts {
        needed |= Permissions::SEND_TTS_MESSAGES;
    }
    if !body.embeds.is_empty() {
        needed |= Permissions::EMBED_LINKS;
    }
    if files {
        needed |= Permissions::ATTACH_FILES;
    }
    place.require(Permissions::VIEW_CHANNEL)?;
    if !place.kind().has_messages() {
        return Err(ErrorCode::NonTextChannel.into());
    }
    let held = place.require(needed)?;
    if let Some(access) = place.thread()
        && access.thread.thread_metadata.locked
        && !held.contains(Permissions::MANAGE_THREADS)
    {
        return Err(ErrorCode::ThreadLocked.into());
    }
    Ok(())
}

impl CreateMessage {
    /// What sending it takes besides the permission to send.
    pub(crate) fn needed(&self) -> Permissions {
        let mut needed = Permissions::empty();
        if self.tts {
            needed |= Permissions::SEND_TTS_MESSAGES;
        }
        if !self.embeds.is_empty() {
            needed |= Permissions::EMBED_LINKS;
        }
        needed
    }
}

/// Fills a message that is stored with something else (the first of a post).
///
/// Errors: 50006, 50035.
pub(crate) async fn compose_first(
    db: &mut PgConnection,
    place: &Place,
    form: &CreateMessage,
    message: &mut Message,
) -> Result<()> {
    message.content = content::clean_content(form.content.as_deref().unwrap_or_default());
    message.embeds = content::embeds_to_json(&form.embeds)?;
    message.flags = form.flags & FLAGS_SETTABLE;
    if message.is_empty() {
        return Err(ErrorCode::EmptyMessage.into());
    }
    let wanted = Mentions::find(&message.content, form.allowed_mentions.as_ref());
    let held = place.permissions();
    let found = resolve_mentions(db, place, held, &wanted, &Answered::default()).await?;
    message.mentions = found.users;
    message.mention_roles = found.roles;
    message.mention_everyone = found.everyone;
    Ok(())
}

/// Waits of people (not bots) in channels with slowmode, kept in Redis; with Redis away
/// nobody waits. Errors: 20016.
async fn check_slowmode(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    held: Permissions,
) -> Result<()> {
    check_slowmode_as(app, author, place, held, "slow").await
}

/// [`check_slowmode`] of something else that a channel slows down (new threads), by its own name.
pub(crate) async fn check_slowmode_as(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    held: Permissions,
    what: &str,
) -> Result<()> {
    let seconds = place.slowmode_seconds();
    if seconds == 0 || author.bot || held.contains(Permissions::BYPASS_SLOWMODE) {
        return Ok(());
    }
    let key = keys::rate_limit(&format!("{what}:{}:{}", place.id(), author.id));
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

/// Errors: 50035 for a message that is not there or written by the server, 160002.
async fn answered_message(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    held: Permissions,
    wanted: &Reference,
) -> Result<Answered> {
    let channel = place.id();
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
        load::message(&mut db, author.id, channel, wanted.message_id).await?
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
                    guild_id: place.guild_id(),
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

fn new_message(
    place: &Place,
    author: &CurrentUser,
    message: &Message,
    nonce: Option<String>,
) -> Result<NewMessage> {
    let (body, alt) = bodies(place.guild_id(), place.member(), message)?;
    Ok(NewMessage {
        realms: place.checked_at(),
        in_thread: place.kind().is_thread(),
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
        extra: Extra::of(message).to_db()?,
        nonce,
        body,
        vis: place.visibility(Intents::GUILD_MESSAGES),
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
    let message = draft(app, channel, user.clone(), MessageKind::USER_JOIN)?;
    let event = post(db, guild, Some(member), &message).await?;
    Ok(Some(event))
}
