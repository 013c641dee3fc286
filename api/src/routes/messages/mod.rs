//! Messages. Spec: limits-and-errors › Messages; objects.md › Message.

mod components;
mod compose;
mod content;
mod create;
mod event;
pub(crate) mod load;
mod mentions;
mod post;
mod remove;
mod request;
mod sight;
pub(crate) mod slowmode;
mod stickers;
mod texts;
mod voice;

use std::{ops::RangeInclusive, time::Duration};

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Channel, Guild},
    model::{AuditAction, ChannelKind, Member, Message, MessageFlags, MessageKind},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::{
    components::{find_custom_id, parse_select},
    compose::{Request, compose, edit},
    content::Embed,
    create::create_join_message,
    load::Persona,
    mentions::Mentioner,
    post::{announce_update_in, draft, post, post_in, store_changes},
    remove::{announce_delete, delete_leftovers, delete_messages},
    request::{EditForm, NewMessageForm, Sender, check_webhook_name},
    sight::{is_read_by, shown_to},
    texts::all_texts,
};
use self::{
    create::{__path_create_message, create_message},
    load::Page,
};
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    automod::Verdict,
    error::Result,
    extract::{Form, Json, Path, Query, from_zero},
    form::FormErrors,
    routes::{automod, webhooks},
    upload::Upload,
};

/// Messages that one request deletes in bulk.
const BULK_DELETE: RangeInclusive<usize> = 2..=100;
/// Messages older than this are not deleted in bulk.
const BULK_DELETE_AGE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_messages, create_message))
        .routes(routes!(bulk_delete_messages))
        .routes(routes!(get_message, update_message, delete_message))
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct ListMessages {
    around: Option<Id<marker::Message>>,
    before: Option<Id<marker::Message>>,
    #[serde(default, deserialize_with = "from_zero")]
    after: Option<Id<marker::Message>>,
    /// 1 to 100; 50 if not given.
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
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/messages",
    tag = "Messages",
    params(ListMessages),
    responses((status = 200, body = Vec<Message>))
)]
async fn list_messages(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Query(query): Query<ListMessages>,
) -> Result<Json<Vec<Message>>> {
    let mut db = app.db.acquire().await?;
    let place = access::place(&mut db, &user, channel_id, Permissions::VIEW_CHANNEL).await?;
    let held = place.require(connect_if_voice(place.kind()))?;
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
    let messages = load::messages(&app.media, &mut db, user.id, channel_id, page, limit).await?;
    let guild = place.guild_id();
    let messages = messages.into_iter();
    let shown = messages.map(|message| shown_to(&user, guild, message));
    Ok(Json(shown.collect()))
}

fn connect_if_voice(kind: ChannelKind) -> Permissions {
    if kind.is_voice() {
        Permissions::CONNECT
    } else {
        Permissions::empty()
    }
}

/// Errors: 10003, 10008, 50001, 50013.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/messages/{message_id}",
    tag = "Messages",
    responses((status = 200, body = Message))
)]
async fn get_message(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
) -> Result<Json<Message>> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::READ_MESSAGE_HISTORY;
    let place = access::place(&mut db, &user, channel_id, needed).await?;
    let message = load::message(&app.media, &mut db, user.id, channel_id, message_id).await?;
    let message = message.ok_or(ErrorCode::UnknownMessage)?;
    Ok(Json(shown_to(&user, place.guild_id(), message)))
}

/// The author changes everything, others with MANAGE_MESSAGES whether embeds are shown.
///
/// Errors: 10003, 10008, 50001, 50005, 50006, 50021, 50035, 50083, 160005, 200000, 520003.
#[utoipa::path(
    patch,
    path = "/channels/{channel_id}/messages/{message_id}",
    tag = "Messages",
    request_body = EditForm,
    responses((status = 200, body = Message))
)]
async fn update_message(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
    Upload {
        mut body,
        mut files,
    }: Upload<EditForm>,
) -> Result<Json<Message>> {
    let slots = body.attachments.as_deref().unwrap_or_default();
    files
        .claim_slots(&app.media, channel_id, user.id, slots)
        .await?;
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    place.require_unarchived()?;
    place.require_unlocked()?;
    let mut message = load::message(&app.media, &mut tx, user.id, channel_id, message_id)
        .await?
        .ok_or(ErrorCode::UnknownMessage)?;
    if message.author.id != user.id {
        let says_more = body.changes_content(&files) || body.poll.is_some();
        if says_more || body.flags.is_none() {
            return Err(ErrorCode::CannotEditOthersMessage.into());
        }
        place.require(Permissions::MANAGE_MESSAGES)?;
        body.keep_flags_of_others();
    } else if !message.kind.is_written() {
        return Err(ErrorCode::SystemMessage.into());
    }
    if body.has_embeds() {
        place.require(Permissions::EMBED_LINKS)?;
    }
    if !files.is_empty() {
        place.require(Permissions::ATTACH_FILES)?;
    }
    let request = Request {
        sender: Sender::User,
        mentioner: Mentioner::Caller(&place),
        form: &body,
        files: &files,
    };
    edit(&app, &mut tx, request, &mut message).await?;
    let verdict = match body.changes_content(&files) {
        true => {
            app.automod
                .judge(&mut *tx, &user, &place, || all_texts(&message))
                .await?
        }
        false => Verdict::default(),
    };
    if verdict.blocks() {
        tx.rollback().await?;
        automod::act(&app, &user, &place, &verdict, None).await?;
        return Err(ErrorCode::BlockedByAutomod.into());
    }
    let author = author_member_in(&mut tx, place.guild_id(), &message).await?;
    let audience = place.audience();
    let events = announce_update_in(&mut tx, &audience, author.as_ref(), &message).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    if message.flags & MessageFlags::CROSSPOSTED != 0 {
        webhooks::deliver_soon(&app, channel_id, message_id);
    }
    automod::act_after(&app, &user, &place, &verdict, Some(message.id)).await;
    Ok(Json(shown_to(&user, place.guild_id(), message)))
}

/// [`author_member`] in any place: none in private channels.
pub(crate) async fn author_member_in(
    db: &mut PgConnection,
    guild: Option<Id<Guild>>,
    message: &Message,
) -> Result<Option<Member>> {
    match guild {
        Some(guild) => author_member(db, guild, message).await,
        None => Ok(None),
    }
}

/// The membership of a message's author, without its user; none for webhooks and who left.
pub(crate) async fn author_member(
    db: &mut PgConnection,
    guild: Id<Guild>,
    message: &Message,
) -> Result<Option<Member>> {
    let member = guildhall_store::guild::member(db, guild, message.author.id).await?;
    Ok(member.map(|member| Member {
        user: None,
        ..member
    }))
}

/// One's own, or with MANAGE_MESSAGES anybody's. Errors: 10003, 10008, 50001, 50013, 50021.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/messages/{message_id}",
    tag = "Messages",
    responses((status = 204, description = "It is gone"))
)]
async fn delete_message(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    let deleted = delete_messages(&mut tx, channel_id, &[message_id])
        .await?
        .pop()
        .ok_or(ErrorCode::UnknownMessage)?;
    // What is refused from here on is rolled back. An alert's author is who it is about.
    if deleted.author != user.id || deleted.kind == MessageKind::AUTO_MODERATION_ACTION {
        place.require(Permissions::MANAGE_MESSAGES)?;
    } else if let Some(access) = place.thread()
        && access.thread.thread_metadata.locked
        && access.thread.thread_metadata.archived
    {
        place.require(Permissions::MANAGE_THREADS)?;
    }
    if !deleted.kind.is_deletable() {
        return Err(ErrorCode::SystemMessage.into());
    }
    let mut events = announce_delete(&mut tx, &place.audience(), message_id).await?;
    if let Some(guild) = place.guild_id()
        && deleted.author != user.id
    {
        let entry = Entry::new(guild, user.id, AuditAction::MESSAGE_DELETE, &reason)
            .target(deleted.author)
            .option("channel_id", channel_id);
        events.extend(audit::append(&app, &mut tx, entry).await?);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    if deleted.crossposted {
        webhooks::deliver_soon(&app, channel_id, message_id);
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, ToSchema)]
struct BulkDelete {
    #[serde(default)]
    messages: Option<Vec<Id<marker::Message>>>,
}

impl Form for BulkDelete {
    fn check(&self, form: &mut FormErrors) {
        form.required("messages", &self.messages);
    }
}

/// Body of MESSAGE_DELETE_BULK.
#[derive(Serialize)]
pub(super) struct MessageDeleteBulk {
    pub(super) ids: Vec<Id<marker::Message>>,
    pub(super) channel_id: Id<Channel>,
    /// Absent in private channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guild_id: Option<Id<Guild>>,
}

/// Ids that are no messages are passed over.
///
/// Errors: 10003, 20002, 50001, 50013, 50016 unless they are 2 to 100, 50021, 50034.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/messages/bulk-delete",
    tag = "Messages",
    responses((status = 204, description = "They are gone"))
)]
async fn bulk_delete_messages(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    reason: Reason,
    Json(body): Json<BulkDelete>,
) -> Result<StatusCode> {
    user.require_bot()?;
    let mut wanted = body.messages.unwrap_or_default();
    let count = wanted.len();
    if !BULK_DELETE.contains(&count) {
        return Err(ErrorCode::BulkDeleteCount.into());
    }
    wanted.sort_unstable();
    wanted.dedup();
    let oldest = now_ms().saturating_sub(BULK_DELETE_AGE_MAX.as_millis() as u64);
    if wanted.len() != count || wanted.first().is_some_and(|id| id.created_ms() < oldest) {
        return Err(ErrorCode::MessageTooOld.into());
    }
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_MESSAGES;
    let place = access::place_for_change(&mut tx, &user, channel_id, needed).await?;
    let deleted = delete_messages(&mut tx, channel_id, &wanted).await?;
    if deleted.is_empty() {
        return Ok(StatusCode::NO_CONTENT);
    }
    if !deleted.iter().all(|deleted| deleted.kind.is_deletable()) {
        return Err(ErrorCode::SystemMessage.into());
    }
    let count = deleted.len();
    let body = MessageDeleteBulk {
        ids: deleted.iter().map(|deleted| deleted.id).collect(),
        channel_id,
        guild_id: place.guild_id(),
    };
    let (kind, intents) = (EventKind::MessageDeleteBulk, Intents::GUILD_MESSAGES);
    let mut events = place.append(&mut tx, kind, intents, &body).await?;
    if let Some(guild) = place.guild_id() {
        let entry = Entry::new(guild, user.id, AuditAction::MESSAGE_BULK_DELETE, &reason)
            .target(channel_id)
            .option("count", count);
        events.extend(audit::append(&app, &mut tx, entry).await?);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    for gone in deleted.iter().filter(|deleted| deleted.crossposted) {
        webhooks::deliver_soon(&app, channel_id, gone.id);
    }
    Ok(StatusCode::NO_CONTENT)
}

fn now_ms() -> u64 {
    (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as u64
}
