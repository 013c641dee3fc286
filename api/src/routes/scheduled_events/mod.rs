//! Scheduled events. Spec: objects.md › Scheduled event; permissions.md › Scheduled events and
//! stages.

mod body;
mod exceptions;
pub(crate) mod expire;
mod users;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Channel, Guild},
    model::{AuditAction, ChannelKind, EventEntity, EventStatus, RecurrenceRule, ScheduledEvent},
};
use guildhall_store::scheduled_events::{Which, scheduled_events};
use serde::Deserialize;
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::users::forget_user;
use self::{
    body::{CreateEvent, UpdateEvent},
    exceptions::{
        __path_create_guild_scheduled_event_exception,
        __path_delete_guild_scheduled_event_exception,
        __path_update_guild_scheduled_event_exception, create_guild_scheduled_event_exception,
        delete_guild_scheduled_event_exception, update_guild_scheduled_event_exception,
    },
    users::{
        __path_count_guild_scheduled_event_users, __path_create_guild_scheduled_event_user,
        __path_delete_guild_scheduled_event_user,
        __path_list_guild_scheduled_event_exception_users, __path_list_guild_scheduled_event_users,
        count_guild_scheduled_event_users, create_guild_scheduled_event_user,
        delete_guild_scheduled_event_user, list_guild_scheduled_event_exception_users,
        list_guild_scheduled_event_users,
    },
};
use super::stages::{self, NewStage};
use crate::{
    access::{self, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, Query},
    form::{Fault, FormErrors},
    media::{ImageOf, store_optional_image},
};

/// Scheduled and active ones.
const OPEN_MAX: i64 = 100;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            list_guild_scheduled_events,
            create_guild_scheduled_event
        ))
        .routes(routes!(
            get_guild_scheduled_event,
            update_guild_scheduled_event,
            delete_guild_scheduled_event
        ))
        .routes(routes!(create_guild_scheduled_event_exception))
        .routes(routes!(
            update_guild_scheduled_event_exception,
            delete_guild_scheduled_event_exception
        ))
        .routes(routes!(list_guild_scheduled_event_users))
        .routes(routes!(
            create_guild_scheduled_event_user,
            delete_guild_scheduled_event_user
        ))
        .routes(routes!(count_guild_scheduled_event_users))
        .routes(routes!(list_guild_scheduled_event_exception_users))
}

/// Those who see its channel, or the whole guild for what takes place elsewhere.
fn visibility(event: &ScheduledEvent) -> Visibility {
    let intents = Intents::GUILD_SCHEDULED_EVENTS;
    match event.channel_id {
        Some(channel) => Visibility::channel(channel, intents),
        None => Visibility::realm(intents),
    }
}

/// An event that the caller may see, whose guild's head is locked if `lock`.
///
/// Errors: 10004, 10070, 50001.
async fn seen(
    db: &mut PgConnection,
    user: &CurrentUser,
    guild: Id<Guild>,
    id: Id<marker::ScheduledEvent>,
    with_user_count: bool,
) -> Result<(GuildAccess, ScheduledEvent)> {
    let access = access::guild(&mut *db, user, guild, Permissions::empty()).await?;
    let found = scheduled_events(&mut *db, guild, Which::One(id), with_user_count).await?;
    let event = found.into_iter().next();
    let event = event.ok_or(ErrorCode::UnknownScheduledEvent)?;
    if let Some(channel) = event.channel_id {
        access::channel(db, user, channel, Permissions::VIEW_CHANNEL).await?;
    }
    Ok((access, event))
}

/// [`seen`] for who changes it: their own, or with MANAGE_EVENTS anybody's.
///
/// Errors: 10004, 10070, 50001, 50013.
async fn for_change(
    db: &mut PgConnection,
    user: &CurrentUser,
    guild: Id<Guild>,
    id: Id<marker::ScheduledEvent>,
) -> Result<(GuildAccess, ScheduledEvent)> {
    access::lock_realms(&mut *db, [guild.cast()]).await?;
    let (access, event) = seen(&mut *db, user, guild, id, false).await?;
    let any_of = to_change(&event, user);
    may_hold(db, user, &access, &event, any_of).await?;
    Ok((access, event))
}

/// Any of these it takes to change an event.
fn to_change(event: &ScheduledEvent, user: &CurrentUser) -> Permissions {
    match event.creator_id == Some(user.id) {
        true => Permissions::CREATE_EVENTS | Permissions::MANAGE_EVENTS,
        false => Permissions::MANAGE_EVENTS,
    }
}

/// Whether the caller may have the event where it is, with one of the permissions besides what the
/// place asks for.
///
/// Errors: 10003, 50001, 50013.
async fn may_hold(
    db: &mut PgConnection,
    user: &CurrentUser,
    access: &GuildAccess,
    event: &ScheduledEvent,
    any_of: Permissions,
) -> Result<()> {
    let held = match event.channel_id {
        None => access.base(),
        Some(channel) => {
            let needed = match event.entity_type {
                EventEntity::STAGE => stages::MODERATOR,
                _ => Permissions::CONNECT,
            };
            access::channel(db, user, channel, needed)
                .await?
                .permissions()
        }
    };
    if held.intersects(any_of) {
        Ok(())
    } else {
        Err(ErrorCode::MissingPermissions.into())
    }
}

/// Stores a changed event and numbers its GUILD_SCHEDULED_EVENT_UPDATE. The guild's head is
/// locked.
pub(crate) async fn store(db: &mut PgConnection, event: &ScheduledEvent) -> Result<Vec<Envelope>> {
    let metadata = event.entity_metadata.as_ref();
    sqlx::query!(
        "update scheduled_event
         set channel_id = $2, name = $3, description = $4, image = $5, starts_at = $6,
             ends_at = $7, status = $8, entity_type = $9, entity_id = $10, location = $11,
             recurrence_rule = $12
         where event_id = $1",
        event.id.to_db(),
        event.channel_id.map(Id::to_db),
        event.name,
        event.description,
        event.image,
        event.scheduled_start_time.0,
        event.scheduled_end_time.map(|at| at.0),
        i16::from(event.status.0),
        i16::from(event.entity_type.0),
        event.entity_id.map(Id::to_db),
        metadata.map(|metadata| metadata.location.as_str()),
        event.recurrence_rule.as_ref().map(Jsonb) as Option<Jsonb<&RecurrenceRule>>,
    )
    .execute(&mut *db)
    .await?;
    let event = ScheduledEvent {
        user_count: None,
        ..event.clone()
    };
    let (kind, vis) = (EventKind::GuildScheduledEventUpdate, visibility(&event));
    Ok(vec![
        events::append(db, event.guild_id, kind, vis, &event, None).await?,
    ])
}

/// Deletes the events of a channel that is being deleted. The guild's head is locked.
pub(crate) async fn delete_of_channel(
    db: &mut PgConnection,
    guild: Id<Guild>,
    channel: Id<Channel>,
) -> Result<Vec<Envelope>> {
    let mut envelopes = Vec::new();
    for event in scheduled_events(&mut *db, guild, Which::Open, false).await? {
        if event.channel_id == Some(channel) {
            envelopes.push(delete(db, &event).await?);
        }
    }
    Ok(envelopes)
}

async fn delete(db: &mut PgConnection, event: &ScheduledEvent) -> Result<Envelope> {
    sqlx::query!(
        "delete from scheduled_event where event_id = $1",
        event.id.to_db()
    )
    .execute(&mut *db)
    .await?;
    let (kind, vis) = (EventKind::GuildScheduledEventDelete, visibility(event));
    events::append(db, event.guild_id, kind, vis, event, None).await
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct WithUserCount {
    with_user_count: bool,
}

impl Form for WithUserCount {}

/// Scheduled and active ones that the caller may see. Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/scheduled-events",
    tag = "Scheduled events",
    params(WithUserCount),
    responses((status = 200, body = Vec<ScheduledEvent>))
)]
async fn list_guild_scheduled_events(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    Query(query): Query<WithUserCount>,
) -> Result<Json<Vec<ScheduledEvent>>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let mut shown = Vec::new();
    let with_count = query.with_user_count;
    for event in scheduled_events(&mut db, guild_id, Which::Open, with_count).await? {
        let sees = match event.channel_id {
            None => true,
            Some(channel) => {
                let needed = Permissions::VIEW_CHANNEL;
                access::channel(&mut db, &user, channel, needed)
                    .await
                    .is_ok()
            }
        };
        if sees {
            shown.push(event);
        }
    }
    Ok(Json(shown))
}

/// CREATE_EVENTS, and what the place asks for.
///
/// Errors: 10003, 10004, 30038, 50001, 50013, 50024, 50035.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/scheduled-events",
    tag = "Scheduled events",
    responses((status = 200, body = ScheduledEvent))
)]
async fn create_guild_scheduled_event(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<CreateEvent>,
) -> Result<Json<ScheduledEvent>> {
    let id = app.snowflakes.next()?;
    let cover = Some(body.image.clone()).filter(Option::is_some);
    let cover = store_cover(&app, &user, guild_id, id, &cover).await?;
    let mut tx = app.db.begin().await?;
    let none = Permissions::empty();
    let access = access::guild_for_change(&mut tx, &user, guild_id, none).await?;
    let event = ScheduledEvent {
        image: cover.flatten(),
        ..body.event(id, guild_id, user.user())?
    };
    let needed = Permissions::CREATE_EVENTS;
    check_place(&mut tx, &user, &access, &event, needed).await?;
    let open = sqlx::query_scalar!(
        r#"select count(*) as "count!" from scheduled_event
           where guild_id = $1 and status in (1, 2)"#,
        guild_id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if open >= OPEN_MAX {
        return Err(ErrorCode::MaximumScheduledEvents.into());
    }
    let metadata = event.entity_metadata.as_ref();
    sqlx::query!(
        "insert into scheduled_event (event_id, guild_id, channel_id, creator_id, name,
                                      description, image, starts_at, ends_at, status, entity_type,
                                      location, recurrence_rule)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        event.id.to_db(),
        guild_id.to_db(),
        event.channel_id.map(Id::to_db),
        user.id.to_db(),
        event.name,
        event.description,
        event.image,
        event.scheduled_start_time.0,
        event.scheduled_end_time.map(|at| at.0),
        i16::from(event.status.0),
        i16::from(event.entity_type.0),
        metadata.map(|metadata| metadata.location.as_str()),
        event.recurrence_rule.as_ref().map(Jsonb) as Option<Jsonb<&RecurrenceRule>>,
    )
    .execute(&mut *tx)
    .await?;
    let (kind, vis) = (EventKind::GuildScheduledEventCreate, visibility(&event));
    let mut envelopes = vec![events::append(&mut tx, guild_id, kind, vis, &event, None).await?];
    let action = AuditAction::GUILD_SCHEDULED_EVENT_CREATE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(event.id)
        .created(&audited(&event))?;
    envelopes.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(Json(event))
}

/// Keeps the image of a body for a member of the guild; one that the event does not show in the
/// end is collected. Errors: 10004, 50001, 50035.
async fn store_cover(
    app: &App,
    user: &CurrentUser,
    guild_id: Id<Guild>,
    event: Id<marker::ScheduledEvent>,
    image: &Option<Option<String>>,
) -> Result<Option<Option<String>>> {
    if image.is_some() {
        access::guild(&app.db, user, guild_id, Permissions::empty()).await?;
    }
    store_optional_image(&app.media, ImageOf::EventCover(event), "image", image).await
}

/// The channel is of the right kind, and the caller may hold such an event there.
async fn check_place(
    db: &mut PgConnection,
    user: &CurrentUser,
    access: &GuildAccess,
    event: &ScheduledEvent,
    any_of: Permissions,
) -> Result<()> {
    if let Some(channel) = event.channel_id {
        let needed = Permissions::VIEW_CHANNEL;
        let place = access::channel(&mut *db, user, channel, needed).await?;
        let wanted = match event.entity_type {
            EventEntity::STAGE => ChannelKind::STAGE,
            _ => ChannelKind::VOICE,
        };
        if place.guild.id != access.id || place.channel.kind != wanted {
            let message = "This is no channel of the guild that fits.";
            let fault = Fault::Other("CHANNEL_INVALID", message.into());
            return Err(FormErrors::one("channel_id", fault));
        }
    }
    may_hold(db, user, access, event, any_of).await
}

/// An event as the audit log tells of it.
fn audited(event: &ScheduledEvent) -> serde_json::Value {
    let metadata = event.entity_metadata.as_ref();
    serde_json::json!({
        "name": event.name,
        "description": event.description,
        "channel_id": event.channel_id,
        "scheduled_start_time": event.scheduled_start_time,
        "scheduled_end_time": event.scheduled_end_time,
        "privacy_level": event.privacy_level,
        "status": event.status,
        "entity_type": event.entity_type,
        "location": metadata.map(|metadata| &metadata.location),
        "image_hash": event.image,
        "recurrence_rule": event.recurrence_rule,
    })
}

/// Errors: 10004, 10070, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}",
    tag = "Scheduled events",
    params(WithUserCount),
    responses((status = 200, body = ScheduledEvent))
)]
async fn get_guild_scheduled_event(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id)): Path<(Id<Guild>, Id<marker::ScheduledEvent>)>,
    Query(query): Query<WithUserCount>,
) -> Result<Json<ScheduledEvent>> {
    let mut db = app.db.acquire().await?;
    let with_count = query.with_user_count;
    let (_, event) = seen(&mut db, &user, guild_id, event_id, with_count).await?;
    Ok(Json(event))
}

/// Its maker's, or with MANAGE_EVENTS anybody's. A stage event that starts opens its stage; one
/// that ends closes it.
///
/// Errors: 10003, 10004, 10070, 50001, 50013, 50035, 50091, 150006, 180000.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}",
    tag = "Scheduled events",
    responses((status = 200, body = ScheduledEvent))
)]
async fn update_guild_scheduled_event(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id)): Path<(Id<Guild>, Id<marker::ScheduledEvent>)>,
    reason: Reason,
    Json(body): Json<UpdateEvent>,
) -> Result<Json<ScheduledEvent>> {
    let cover = store_cover(&app, &user, guild_id, event_id, &body.image).await?;
    let mut tx = app.db.begin().await?;
    let (access, before) = for_change(&mut tx, &user, guild_id, event_id).await?;
    if !before.status.is_open() {
        return Err(ErrorCode::FinishedEvent.into());
    }
    let mut after = body.apply(&before)?;
    if let Some(cover) = cover {
        after.image = cover;
    }
    if after.channel_id != before.channel_id || after.entity_type != before.entity_type {
        let any_of = to_change(&before, &user);
        check_place(&mut tx, &user, &access, &after, any_of).await?;
    }
    if after == before {
        return Ok(Json(after));
    }
    let mut envelopes = Vec::new();
    if after.status != before.status && after.entity_type == EventEntity::STAGE {
        envelopes.extend(change_stage(&app, &mut tx, &user, &before, &mut after, &reason).await?);
    }
    envelopes.extend(store(&mut tx, &after).await?);
    let action = AuditAction::GUILD_SCHEDULED_EVENT_UPDATE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(event_id)
        .changed(&audited(&before), &audited(&after))?;
    envelopes.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(Json(after))
}

/// Opens or closes the stage of an event whose status has changed.
async fn change_stage(
    app: &App,
    db: &mut PgConnection,
    user: &CurrentUser,
    before: &ScheduledEvent,
    event: &mut ScheduledEvent,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    let Some(channel) = event.channel_id else {
        return Ok(Vec::new());
    };
    if event.status != EventStatus::ACTIVE {
        return close_stage(app, db, user, before, reason).await;
    }
    let access = access::channel(&mut *db, user, channel, stages::MODERATOR).await?;
    let new = NewStage {
        topic: &event.name,
        event: Some(event.id),
        mention_everyone: false,
    };
    let (stage, opened) = stages::open(app, db, user, &access, new, reason).await?;
    event.entity_id = Some(stage.id.cast());
    Ok(opened)
}

/// Closes the stage that an event takes place on. One that has not begun has none: what is open in
/// its channel is another's.
async fn close_stage(
    app: &App,
    db: &mut PgConnection,
    user: &CurrentUser,
    event: &ScheduledEvent,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    let is_on_stage =
        event.entity_type == EventEntity::STAGE && event.status == EventStatus::ACTIVE;
    let Some(channel) = event.channel_id.filter(|_| is_on_stage) else {
        return Ok(Vec::new());
    };
    let Some(stage) = stages::of_channel(&mut *db, event.guild_id, channel).await? else {
        return Ok(Vec::new());
    };
    let access = access::channel(&mut *db, user, channel, stages::MODERATOR).await?;
    stages::end(app, db, user, &access, &stage, reason).await
}

/// A stage event that is active closes its stage. Errors: 10004, 10070, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}",
    tag = "Scheduled events",
    responses((status = 204, description = "It is gone"))
)]
async fn delete_guild_scheduled_event(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id)): Path<(Id<Guild>, Id<marker::ScheduledEvent>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let (_, event) = for_change(&mut tx, &user, guild_id, event_id).await?;
    let mut envelopes = close_stage(&app, &mut tx, &user, &event, &reason).await?;
    envelopes.push(delete(&mut tx, &event).await?);
    let action = AuditAction::GUILD_SCHEDULED_EVENT_DELETE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(event_id)
        .deleted(&audited(&event))?;
    envelopes.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(StatusCode::NO_CONTENT)
}
