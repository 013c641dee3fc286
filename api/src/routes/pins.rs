//! Pins, by both families of routes. Spec: limits-and-errors › Pagination; objects.md › Message.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Channel, Guild},
    model::{AuditAction, Message, MessageKind, MessageReference},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{self, Audience, Place},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path, Query},
    form::FormErrors,
    routes::{dms, messages},
};

/// Of one channel.
const PINS_MAX: i64 = 250;
/// Of one answer.
const PAGE_MAX: i64 = 50;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_pins))
        .routes(routes!(create_pin, delete_pin))
        .routes(routes!(deprecated_list_pins))
        .routes(routes!(deprecated_create_pin, deprecated_delete_pin))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct ListQuery {
    /// Only pins older than this.
    #[param(value_type = Option<String>, format = DateTime)]
    before: Option<Timestamp>,
    #[param(minimum = 1, maximum = 50)]
    limit: Option<i64>,
}

impl Form for ListQuery {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=PAGE_MAX);
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct PinnedMessages {
    items: Vec<PinnedMessage>,
    has_more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct PinnedMessage {
    pinned_at: Timestamp,
    message: Message,
}

/// Newest pin first. Without READ_MESSAGE_HISTORY: none. Errors: 10003, 50001, 50035.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/messages/pins",
    tag = "Pins",
    params(ListQuery),
    responses((status = 200, body = PinnedMessages))
)]
async fn list_pins(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<PinnedMessages>> {
    let limit = query.limit.unwrap_or(PAGE_MAX);
    pins(&app, &user, channel_id, query.before, limit)
        .await
        .map(Json)
}

/// The newest 50. Without READ_MESSAGE_HISTORY: none. Errors: 10003, 50001.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/pins",
    tag = "Pins",
    responses((status = 200, body = Vec<Message>))
)]
async fn deprecated_list_pins(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<Json<Vec<Message>>> {
    let pins = pins(&app, &user, channel_id, None, PAGE_MAX).await?;
    Ok(Json(
        pins.items.into_iter().map(|pin| pin.message).collect(),
    ))
}

async fn pins(
    app: &App,
    user: &CurrentUser,
    channel: Id<Channel>,
    before: Option<Timestamp>,
    limit: i64,
) -> Result<PinnedMessages> {
    let mut db = app.db.acquire().await?;
    let place = access::place(&mut db, user, channel, Permissions::VIEW_CHANNEL).await?;
    let mut pins = PinnedMessages {
        items: Vec::new(),
        has_more: false,
    };
    if !place
        .permissions()
        .contains(Permissions::READ_MESSAGE_HISTORY)
    {
        return Ok(pins);
    }
    let mut rows = sqlx::query!(
        "select message_id, pinned_at from pin
         where channel_id = $1 and pinned_at < coalesce($2, 'infinity'::timestamptz)
         order by pinned_at desc, message_id desc limit $3",
        channel.to_db(),
        before.map(|before| before.0),
        limit + 1,
    )
    .fetch_all(&mut *db)
    .await?;
    pins.has_more = rows.len() as i64 > limit;
    rows.truncate(limit as usize);
    let places: Vec<_> = rows
        .iter()
        .map(|row| (channel, Id::from_db(row.message_id)))
        .collect();
    let messages = messages::load::messages_at(&app.media, &mut db, user.id, &places).await?;
    pins.items = messages
        .into_iter()
        .filter_map(|message| {
            let id = message.id.to_db();
            let row = rows.iter().find(|row| row.message_id == id)?;
            Some(PinnedMessage {
                pinned_at: Timestamp(row.pinned_at),
                message: messages::shown_to(user, place.guild_id(), message),
            })
        })
        .collect();
    Ok(pins)
}

/// Pins a message, tells so in the channel (type 6). Errors: 10003, 10008, 30003, 50001, 50007,
/// 50013, 50021, 50278.
#[utoipa::path(
    put,
    path = "/channels/{channel_id}/messages/pins/{message_id}",
    tag = "Pins",
    responses((status = 204, description = "The message is pinned"))
)]
async fn create_pin(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
    reason: Reason,
) -> Result<StatusCode> {
    pin(&app, &user, channel_id, message_id, &reason).await
}

/// [`create_pin`] by its older path. Errors: the same.
#[utoipa::path(
    put,
    path = "/channels/{channel_id}/pins/{message_id}",
    tag = "Pins",
    responses((status = 204, description = "The message is pinned"))
)]
async fn deprecated_create_pin(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
    reason: Reason,
) -> Result<StatusCode> {
    pin(&app, &user, channel_id, message_id, &reason).await
}

async fn pin(
    app: &App,
    user: &CurrentUser,
    channel_id: Id<Channel>,
    message_id: Id<marker::Message>,
    reason: &Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::PIN_MESSAGES | Permissions::READ_MESSAGE_HISTORY;
    let place = access::place_for_change(&mut tx, user, channel_id, needed).await?;
    place.require_unarchived()?;
    if let Place::Private(access) = &place {
        // What is said of it is a message.
        dms::require_let(&mut tx, access).await?;
    }
    let mut message = messages::load::message(&app.media, &mut tx, user.id, channel_id, message_id)
        .await?
        .ok_or(ErrorCode::UnknownMessage)?;
    if !message.kind.is_written() {
        return Err(ErrorCode::SystemMessage.into());
    }
    if message.pinned {
        return Ok(StatusCode::NO_CONTENT);
    }
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from pin where channel_id = $1"#,
        channel_id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if count >= PINS_MAX {
        return Err(ErrorCode::MaximumPins.into());
    }
    let pinned_at = sqlx::query_scalar!(
        "with pinned as (
           update message set pinned = true where channel_id = $1 and message_id = $2
         )
         insert into pin (channel_id, message_id) values ($1, $2) returning pinned_at",
        channel_id.to_db(),
        message_id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    message.pinned = true;
    let audience = place.audience();
    let author = messages::author_member_in(&mut tx, audience.guild, &message).await?;
    let mut events =
        messages::announce_update_in(&mut tx, &audience, author.as_ref(), &message).await?;
    events.extend(tell_pins(&mut tx, &audience, Some(pinned_at)).await?);
    let mut notice = messages::draft(
        app,
        channel_id,
        user.user().clone(),
        MessageKind::CHANNEL_PINNED_MESSAGE,
    )?;
    notice.message_reference = Some(MessageReference {
        kind: 0,
        message_id: Some(message_id),
        channel_id,
        guild_id: audience.guild,
    });
    events.extend(messages::post_in(&mut tx, &audience, place.member(), &notice).await?);
    let action = AuditAction::MESSAGE_PIN;
    events.extend(log(app, &mut tx, &place, action, &message, reason).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Errors: 10003, 10008, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/messages/pins/{message_id}",
    tag = "Pins",
    responses((status = 204, description = "The message is not pinned"))
)]
async fn delete_pin(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
    reason: Reason,
) -> Result<StatusCode> {
    unpin(&app, &user, channel_id, message_id, &reason).await
}

/// [`delete_pin`] by its older path. Errors: the same.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/pins/{message_id}",
    tag = "Pins",
    responses((status = 204, description = "The message is not pinned"))
)]
async fn deprecated_delete_pin(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, message_id)): Path<(Id<Channel>, Id<marker::Message>)>,
    reason: Reason,
) -> Result<StatusCode> {
    unpin(&app, &user, channel_id, message_id, &reason).await
}

async fn unpin(
    app: &App,
    user: &CurrentUser,
    channel_id: Id<Channel>,
    message_id: Id<marker::Message>,
    reason: &Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::PIN_MESSAGES;
    let place = access::place_for_change(&mut tx, user, channel_id, needed).await?;
    place.require_unarchived()?;
    let mut message = messages::load::message(&app.media, &mut tx, user.id, channel_id, message_id)
        .await?
        .ok_or(ErrorCode::UnknownMessage)?;
    if !message.pinned {
        return Ok(StatusCode::NO_CONTENT);
    }
    sqlx::query!(
        "with unpinned as (
           update message set pinned = false where channel_id = $1 and message_id = $2
         )
         delete from pin where channel_id = $1 and message_id = $2",
        channel_id.to_db(),
        message_id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    message.pinned = false;
    let newest = sqlx::query_scalar!(
        r#"select max(pinned_at) as "newest" from pin where channel_id = $1"#,
        channel_id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    let audience = place.audience();
    let author = messages::author_member_in(&mut tx, audience.guild, &message).await?;
    let mut events =
        messages::announce_update_in(&mut tx, &audience, author.as_ref(), &message).await?;
    events.extend(tell_pins(&mut tx, &audience, newest).await?);
    let action = AuditAction::MESSAGE_UNPIN;
    events.extend(log(app, &mut tx, &place, action, &message, reason).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// The audit log's entry, in guilds.
async fn log(
    app: &App,
    db: &mut PgConnection,
    place: &Place,
    action: AuditAction,
    message: &Message,
    reason: &Reason,
) -> Result<Option<Envelope>> {
    let Some(guild) = place.guild() else {
        return Ok(None);
    };
    let entry = Entry::new(guild.id, guild.user, action, reason)
        .target(message.author.id)
        .option("channel_id", message.channel_id)
        .option("message_id", message.id);
    audit::append(app, db, entry).await
}

#[derive(Serialize)]
struct ChannelPinsUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_id: Option<Id<Guild>>,
    channel_id: Id<Channel>,
    last_pin_timestamp: Option<Timestamp>,
}

/// Remembers and tells when the channel's newest pin was made.
async fn tell_pins(
    db: &mut PgConnection,
    audience: &Audience,
    newest: Option<OffsetDateTime>,
) -> Result<Vec<Envelope>> {
    let newest = newest.map(Timestamp);
    sqlx::query!(
        "update channel
         set settings = jsonb_set(settings, '{last_pin_timestamp}',
                                  coalesce(to_jsonb($2::text), 'null'))
         where channel_id = $1",
        audience.channel.to_db(),
        newest.map(|newest| newest.to_string()),
    )
    .execute(&mut *db)
    .await?;
    let body = ChannelPinsUpdate {
        guild_id: audience.guild,
        channel_id: audience.channel,
        last_pin_timestamp: newest,
    };
    let kind = EventKind::ChannelPinsUpdate;
    audience.tell(db, kind, Intents::GUILDS, &body).await
}
