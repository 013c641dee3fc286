//! Single dates of a recurring event that are moved or cancelled.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Timestamp,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::EventKind,
    id::{
        DISCORD_EPOCH_MS,
        marker::{self, Guild},
    },
    model::{AuditAction, EventException, ScheduledEvent, present},
};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{body::check_ahead, for_change, visibility};
use crate::{
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    integration,
};

const EXCEPTIONS_MAX: usize = 100;

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct CreateException {
    /// The date by the rule.
    #[schema(required)]
    original_scheduled_start_time: Option<Timestamp>,
    scheduled_start_time: Option<Timestamp>,
    scheduled_end_time: Option<Timestamp>,
    is_canceled: Option<bool>,
}

impl Form for CreateException {
    fn check(&self, form: &mut FormErrors) {
        form.required(
            "original_scheduled_start_time",
            &self.original_scheduled_start_time,
        );
        for (path, at) in [
            (
                "original_scheduled_start_time",
                self.original_scheduled_start_time,
            ),
            ("scheduled_start_time", self.scheduled_start_time),
            ("scheduled_end_time", self.scheduled_end_time),
        ] {
            check_ahead(form, path, at);
        }
    }
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct UpdateException {
    #[serde(deserialize_with = "present")]
    scheduled_start_time: Option<Option<Timestamp>>,
    #[serde(deserialize_with = "present")]
    scheduled_end_time: Option<Option<Timestamp>>,
    #[serde(deserialize_with = "present")]
    is_canceled: Option<Option<bool>>,
}

impl Form for UpdateException {
    fn check(&self, form: &mut FormErrors) {
        let (start, end) = (self.scheduled_start_time, self.scheduled_end_time);
        check_ahead(form, "scheduled_start_time", start.flatten());
        check_ahead(form, "scheduled_end_time", end.flatten());
    }
}

/// An exception's id is the snowflake of its date.
fn id_at(at: Timestamp) -> Option<Id<marker::EventException>> {
    let ms = u64::try_from(at.0.unix_timestamp_nanos() / 1_000_000).ok()?;
    Id::new(ms.checked_sub(DISCORD_EPOCH_MS)?.checked_mul(1 << 22)?)
}

fn check_times(event: &ScheduledEvent, exception: &EventException) -> Result<()> {
    let start = exception
        .scheduled_start_time
        .unwrap_or(event.scheduled_start_time);
    if exception.scheduled_start_time.is_some()
        && exception.scheduled_end_time.is_some_and(|end| end <= start)
    {
        let message = "The event ends before it starts.";
        let fault = Fault::Other("GUILD_SCHEDULED_EVENT_END_TIME_TOO_EARLY", message.into());
        return Err(FormErrors::one("scheduled_end_time", fault));
    }
    Ok(())
}

/// For clients of people: bots know no such event.
async fn announce(
    db: &mut PgConnection,
    event: &ScheduledEvent,
    kind: EventKind,
    exception: &EventException,
) -> Result<Envelope> {
    let vis = Visibility {
        except: integration::bots_of(&mut *db, event.guild_id).await?,
        ..visibility(event)
    };
    events::append(db, event.guild_id, kind, vis, exception, None).await
}

fn audited(exception: &EventException) -> serde_json::Value {
    serde_json::json!({
        "scheduled_start_time": exception.scheduled_start_time,
        "scheduled_end_time": exception.scheduled_end_time,
        "is_canceled": exception.is_canceled,
    })
}

/// As who may change the event. Errors: 10004, 10070, 50001, 50013, 50035, 180000.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}/exceptions",
    tag = "Scheduled events",
    responses((status = 200, body = EventException))
)]
pub(super) async fn create_guild_scheduled_event_exception(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id)): Path<(Id<Guild>, Id<marker::ScheduledEvent>)>,
    reason: Reason,
    Json(body): Json<CreateException>,
) -> Result<Json<EventException>> {
    let mut tx = app.db.begin().await?;
    let (_, event) = for_change(&mut tx, &user, guild_id, event_id).await?;
    if !event.status.is_open() {
        return Err(ErrorCode::FinishedEvent.into());
    }
    let path = "original_scheduled_start_time";
    let original = body.original_scheduled_start_time;
    let original = original.unwrap_or(event.scheduled_start_time);
    let rule = event.recurrence_rule.as_ref();
    let id = id_at(original).filter(|_| rule.is_some_and(|rule| rule.is_date(original)));
    let Some(event_exception_id) = id else {
        let message = "The event does not take place then.";
        let fault = Fault::Other("GUILD_SCHEDULED_EVENT_EXCEPTION_INVALID", message.into());
        return Err(FormErrors::one(path, fault));
    };
    let known = &event.guild_scheduled_event_exceptions;
    let is_known = |known: &EventException| known.event_exception_id == event_exception_id;
    if known.iter().any(is_known) || known.len() >= EXCEPTIONS_MAX {
        let message = "This date has an exception already, or the event too many.";
        let fault = Fault::Other("GUILD_SCHEDULED_EVENT_EXCEPTION_EXISTS", message.into());
        return Err(FormErrors::one(path, fault));
    }
    let exception = EventException {
        event_id,
        event_exception_id,
        scheduled_start_time: body.scheduled_start_time,
        scheduled_end_time: body.scheduled_end_time,
        is_canceled: body.is_canceled.unwrap_or_default(),
    };
    check_times(&event, &exception)?;
    sqlx::query!(
        "insert into scheduled_event_exception
           (event_id, exception_id, original_at, starts_at, ends_at, canceled)
         values ($1, $2, $3, $4, $5, $6)",
        event_id.to_db(),
        exception.event_exception_id.to_db(),
        original.0,
        exception.scheduled_start_time.map(|at| at.0),
        exception.scheduled_end_time.map(|at| at.0),
        exception.is_canceled,
    )
    .execute(&mut *tx)
    .await?;
    let kind = EventKind::GuildScheduledEventExceptionCreate;
    let mut envelopes = vec![announce(&mut tx, &event, kind, &exception).await?];
    let action = AuditAction::GUILD_SCHEDULED_EVENT_EXCEPTION_CREATE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(event_id)
        .created(&audited(&exception))?;
    envelopes.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(Json(exception))
}

type OfEvent = (
    Id<Guild>,
    Id<marker::ScheduledEvent>,
    Id<marker::EventException>,
);

/// Errors: 10070.
fn find(event: &ScheduledEvent, id: Id<marker::EventException>) -> Result<EventException> {
    let mut known = event.guild_scheduled_event_exceptions.iter();
    let found = known.find(|known| known.event_exception_id == id).cloned();
    Ok(found.ok_or(ErrorCode::UnknownScheduledEvent)?)
}

/// Errors: 10004, 10070, 50001, 50013, 50035, 180000.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}/exceptions/{exception_id}",
    tag = "Scheduled events",
    responses((status = 200, body = EventException))
)]
pub(super) async fn update_guild_scheduled_event_exception(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id, exception_id)): Path<OfEvent>,
    reason: Reason,
    Json(body): Json<UpdateException>,
) -> Result<Json<EventException>> {
    let mut tx = app.db.begin().await?;
    let (_, event) = for_change(&mut tx, &user, guild_id, event_id).await?;
    if !event.status.is_open() {
        return Err(ErrorCode::FinishedEvent.into());
    }
    let before = find(&event, exception_id)?;
    let mut after = before.clone();
    if let Some(start) = body.scheduled_start_time {
        after.scheduled_start_time = start;
    }
    if let Some(end) = body.scheduled_end_time {
        after.scheduled_end_time = end;
    }
    if let Some(is_canceled) = body.is_canceled {
        after.is_canceled = is_canceled.unwrap_or_default();
    }
    check_times(&event, &after)?;
    if after == before {
        return Ok(Json(after));
    }
    sqlx::query!(
        "update scheduled_event_exception set starts_at = $3, ends_at = $4, canceled = $5
         where event_id = $1 and exception_id = $2",
        event_id.to_db(),
        exception_id.to_db(),
        after.scheduled_start_time.map(|at| at.0),
        after.scheduled_end_time.map(|at| at.0),
        after.is_canceled,
    )
    .execute(&mut *tx)
    .await?;
    let kind = EventKind::GuildScheduledEventExceptionUpdate;
    let mut envelopes = vec![announce(&mut tx, &event, kind, &after).await?];
    let action = AuditAction::GUILD_SCHEDULED_EVENT_EXCEPTION_UPDATE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(event_id)
        .changed(&audited(&before), &audited(&after))?;
    envelopes.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(Json(after))
}

/// The date is as the rule says again. Errors: 10004, 10070, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}/exceptions/{exception_id}",
    tag = "Scheduled events",
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn delete_guild_scheduled_event_exception(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id, exception_id)): Path<OfEvent>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let (_, event) = for_change(&mut tx, &user, guild_id, event_id).await?;
    let exception = find(&event, exception_id)?;
    sqlx::query!(
        "delete from scheduled_event_exception where event_id = $1 and exception_id = $2",
        event_id.to_db(),
        exception_id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    let kind = EventKind::GuildScheduledEventExceptionDelete;
    let mut envelopes = vec![announce(&mut tx, &event, kind, &exception).await?];
    let action = AuditAction::GUILD_SCHEDULED_EVENT_EXCEPTION_DELETE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(event_id)
        .deleted(&audited(&exception))?;
    envelopes.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(StatusCode::NO_CONTENT)
}
