//! Open stages. Spec: objects.md › Stage instance; permissions.md › Scheduled events and stages.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, ScheduledEvent},
    model::{AuditAction, ChannelKind, EventStatus, Message, MessageKind, StageInstance},
};
use guildhall_store::{
    scheduled_events::{Which, scheduled_events},
    voice,
};
use serde::Deserialize;
use sqlx::{PgConnection, PgExecutor};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{messages, scheduled_events};
use crate::{
    access::{self, ChannelAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    rows::Rows,
    text::clean,
};

/// Who runs a stage holds all of these.
pub(crate) const MODERATOR: Permissions = Permissions::MANAGE_CHANNELS
    .union(Permissions::MUTE_MEMBERS)
    .union(Permissions::MOVE_MEMBERS);
/// Of guilds only; public stages (1) are no more.
const PRIVACY_GUILD: u8 = 2;
/// Silent stages of one round.
const SILENT_MAX: i64 = 200;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_stage_instance))
        .routes(routes!(
            get_stage_instance,
            update_stage_instance,
            delete_stage_instance
        ))
}

fn check_privacy(form: &mut FormErrors, level: Option<u8>) {
    if let Some(level) = level.filter(|&level| level != PRIVACY_GUILD) {
        form.add("privacy_level", Fault::NotEnum(level.to_string()));
    }
}

async fn announce(
    db: &mut PgConnection,
    kind: EventKind,
    stage: &StageInstance,
) -> Result<Envelope> {
    let vis = Visibility::channel(stage.channel_id, Intents::GUILDS);
    events::append(db, stage.guild_id, kind, vis, stage, None).await
}

/// The stage of a channel, if it is open.
pub(crate) async fn of_channel(
    db: &mut PgConnection,
    guild: Id<Guild>,
    channel: Id<Channel>,
) -> Result<Option<StageInstance>> {
    let found = voice::stages(db, guild, Some(channel)).await?;
    Ok(found.into_iter().next())
}

/// The stage of a channel, and the caller there. Errors: 10003, 10067, 50001, 50013.
async fn at(
    db: &mut PgConnection,
    user: &CurrentUser,
    channel: Id<Channel>,
    needed: Permissions,
) -> Result<(ChannelAccess, StageInstance)> {
    let access = access::channel(&mut *db, user, channel, needed).await?;
    let stage = of_channel(db, access.guild.id, channel).await?;
    Ok((access, stage.ok_or(ErrorCode::UnknownStageInstance)?))
}

/// A stage that is to be.
pub(crate) struct NewStage<'a> {
    pub(crate) topic: &'a str,
    /// The event that takes place on it.
    pub(crate) event: Option<Id<ScheduledEvent>>,
    /// Whether the message that tells of it mentions @everyone.
    pub(crate) mention_everyone: bool,
}

/// Opens a stage for the caller: the row and its event, the message in its chat and the entry in the
/// audit log. The guild's head is locked.
///
/// Errors: 150006 if it is open.
pub(crate) async fn open(
    app: &App,
    db: &mut PgConnection,
    user: &CurrentUser,
    access: &ChannelAccess,
    new: NewStage<'_>,
    reason: &Reason,
) -> Result<(StageInstance, Vec<Envelope>)> {
    let stage = StageInstance {
        id: app.snowflakes.next()?,
        guild_id: access.guild.id,
        channel_id: access.channel.id,
        topic: new.topic.to_owned(),
        privacy_level: PRIVACY_GUILD,
        discoverable_disabled: true,
        guild_scheduled_event_id: new.event,
    };
    let opened = sqlx::query!(
        "insert into stage_instance (stage_id, guild_id, channel_id, topic, privacy_level,
                                     discoverable_disabled, event_id)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict (channel_id) do nothing",
        stage.id.to_db(),
        stage.guild_id.to_db(),
        stage.channel_id.to_db(),
        stage.topic,
        i16::from(stage.privacy_level),
        stage.discoverable_disabled,
        new.event.map(Id::to_db),
    )
    .execute(&mut *db)
    .await?;
    if opened.rows_affected() == 0 {
        return Err(ErrorCode::StageOpen.into());
    }
    let mut envelopes = vec![announce(db, EventKind::StageInstanceCreate, &stage).await?];
    let mut message = notice(app, user, &stage, MessageKind::STAGE_START)?;
    message.mention_everyone = new.mention_everyone;
    envelopes.push(say(db, access, &message).await?);
    let action = AuditAction::STAGE_INSTANCE_CREATE;
    let entry = entry(user, action, &stage, reason).created(&audited(&stage))?;
    envelopes.extend(audit::append(app, db, entry).await?);
    Ok((stage, envelopes))
}

/// Closes a stage for the caller, with all that [`open`] does. The guild's head is locked.
pub(crate) async fn end(
    app: &App,
    db: &mut PgConnection,
    user: &CurrentUser,
    access: &ChannelAccess,
    stage: &StageInstance,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    let mut envelopes = vec![delete(db, stage).await?];
    let message = notice(app, user, stage, MessageKind::STAGE_END)?;
    envelopes.push(say(db, access, &message).await?);
    let action = AuditAction::STAGE_INSTANCE_DELETE;
    let entry = entry(user, action, stage, reason).deleted(&audited(stage))?;
    envelopes.extend(audit::append(app, db, entry).await?);
    Ok(envelopes)
}

/// Closes the stage of a channel, if it is open, when nobody does it who could be named as author
/// of a message or in the audit log, or when the chat goes with it. The guild's head is locked.
pub(crate) async fn close(
    db: &mut PgConnection,
    guild: Id<Guild>,
    channel: Id<Channel>,
) -> Result<Option<Envelope>> {
    match of_channel(&mut *db, guild, channel).await? {
        Some(stage) => delete(db, &stage).await.map(Some),
        None => Ok(None),
    }
}

async fn delete(db: &mut PgConnection, stage: &StageInstance) -> Result<Envelope> {
    sqlx::query!(
        "delete from stage_instance where stage_id = $1",
        stage.id.to_db()
    )
    .execute(&mut *db)
    .await?;
    announce(db, EventKind::StageInstanceDelete, stage).await
}

/// What the server says in the stage's chat of what the caller did.
fn notice(
    app: &App,
    user: &CurrentUser,
    stage: &StageInstance,
    kind: MessageKind,
) -> Result<Message> {
    let mut message = messages::draft(app, stage.channel_id, user.user().clone(), kind)?;
    message.content.clone_from(&stage.topic);
    Ok(message)
}

async fn say(db: &mut PgConnection, access: &ChannelAccess, message: &Message) -> Result<Envelope> {
    messages::post(db, access.guild.id, Some(&access.guild.member), message).await
}

/// An entry of the audit log about a stage, without what has changed.
fn entry(user: &CurrentUser, action: AuditAction, stage: &StageInstance, reason: &Reason) -> Entry {
    Entry::new(stage.guild_id, user.id, action, reason)
        .target(stage.id)
        .option("channel_id", stage.channel_id)
}

/// A stage as the audit log tells of it.
fn audited(stage: &StageInstance) -> serde_json::Value {
    serde_json::json!({ "topic": stage.topic, "privacy_level": stage.privacy_level })
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct CreateStage {
    #[schema(required)]
    channel_id: Option<Id<Channel>>,
    /// 1 to 120 characters.
    #[schema(required, min_length = 1, max_length = 120)]
    topic: Option<String>,
    privacy_level: Option<u8>,
    /// @everyone is told: needs MENTION_EVERYONE.
    send_start_notification: Option<bool>,
    /// An event of this stage, which starts with it.
    guild_scheduled_event_id: Option<Id<ScheduledEvent>>,
}

impl Form for CreateStage {
    fn check(&self, form: &mut FormErrors) {
        form.required("channel_id", &self.channel_id);
        if let Some(topic) = form.required("topic", &self.topic) {
            form.length("topic", topic, 1..=120);
        }
        check_privacy(form, self.privacy_level);
    }
}

/// For moderators of the stage. It is closed once nobody has spoken on it for five minutes, one of a
/// scheduled event with the event.
///
/// Errors: 10003, 10070, 50001, 50013, 50024, 50035, 50091, 150006.
#[utoipa::path(
    post,
    path = "/stage-instances",
    tag = "Stages",
    responses((status = 200, body = StageInstance))
)]
async fn create_stage_instance(
    State(app): State<App>,
    user: CurrentUser,
    reason: Reason,
    Json(body): Json<CreateStage>,
) -> Result<Json<StageInstance>> {
    let channel = body.channel_id.ok_or(ErrorCode::UnknownChannel)?;
    let topic = clean(body.topic.as_deref().unwrap_or_default());
    let mut tx = app.db.begin().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let access = access::channel_for_change(&mut tx, &user, channel, needed).await?;
    if access.channel.kind != ChannelKind::STAGE {
        return Err(ErrorCode::InvalidChannelType.into());
    }
    access.require(MODERATOR)?;
    if body.send_start_notification == Some(true) {
        access.require(Permissions::MENTION_EVERYONE)?;
    }
    let event = body.guild_scheduled_event_id;
    let new = NewStage {
        topic: &topic,
        event,
        mention_everyone: body.send_start_notification == Some(true),
    };
    let (stage, mut envelopes) = open(&app, &mut tx, &user, &access, new, &reason).await?;
    if let Some(event) = event {
        let found = scheduled_events(&mut tx, stage.guild_id, Which::One(event), false).await?;
        let scheduled = found.into_iter().next();
        let mut scheduled = scheduled.ok_or(ErrorCode::UnknownScheduledEvent)?;
        if scheduled.channel_id != Some(channel) {
            return Err(ErrorCode::EventEntityMismatch.into());
        }
        if !scheduled.status.is_open() {
            return Err(ErrorCode::FinishedEvent.into());
        }
        scheduled.status = EventStatus::ACTIVE;
        scheduled.entity_id = Some(stage.id.cast());
        envelopes.extend(scheduled_events::store(&mut tx, &scheduled).await?);
    }
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(Json(stage))
}

/// Errors: 10003, 10067, 50001.
#[utoipa::path(
    get,
    path = "/stage-instances/{channel_id}",
    tag = "Stages",
    responses((status = 200, body = StageInstance))
)]
async fn get_stage_instance(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
) -> Result<Json<StageInstance>> {
    let mut db = app.db.acquire().await?;
    let (_, stage) = at(&mut db, &user, channel_id, Permissions::VIEW_CHANNEL).await?;
    Ok(Json(stage))
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateStage {
    /// 1 to 120 characters.
    topic: Option<String>,
    privacy_level: Option<u8>,
}

impl Form for UpdateStage {
    fn check(&self, form: &mut FormErrors) {
        if let Some(topic) = &self.topic {
            form.length("topic", topic, 1..=120);
        }
        check_privacy(form, self.privacy_level);
    }
}

/// For moderators of the stage. Errors: 10003, 10067, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/stage-instances/{channel_id}",
    tag = "Stages",
    responses((status = 200, body = StageInstance))
)]
async fn update_stage_instance(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    reason: Reason,
    Json(body): Json<UpdateStage>,
) -> Result<Json<StageInstance>> {
    let mut tx = app.db.begin().await?;
    access::channel_for_change(&mut tx, &user, channel_id, MODERATOR).await?;
    let (access, before) = at(&mut tx, &user, channel_id, MODERATOR).await?;
    let mut stage = before.clone();
    if let Some(topic) = body.topic {
        stage.topic = clean(&topic);
    }
    if stage == before {
        return Ok(Json(stage));
    }
    sqlx::query!(
        "update stage_instance set topic = $2 where stage_id = $1",
        stage.id.to_db(),
        stage.topic,
    )
    .execute(&mut *tx)
    .await?;
    let kind = EventKind::StageInstanceUpdate;
    let mut envelopes = vec![announce(&mut tx, kind, &stage).await?];
    let message = notice(&app, &user, &stage, MessageKind::STAGE_TOPIC)?;
    envelopes.push(say(&mut tx, &access, &message).await?);
    let action = AuditAction::STAGE_INSTANCE_UPDATE;
    let entry =
        entry(&user, action, &stage, &reason).changed(&audited(&before), &audited(&stage))?;
    envelopes.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(Json(stage))
}

/// For moderators of the stage. An event that took place there is over, until its next date.
///
/// Errors: 10003, 10067, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/stage-instances/{channel_id}",
    tag = "Stages",
    responses((status = 204, description = "It is closed"))
)]
async fn delete_stage_instance(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::channel_for_change(&mut tx, &user, channel_id, MODERATOR).await?;
    let (access, stage) = at(&mut tx, &user, channel_id, MODERATOR).await?;
    let mut envelopes = Vec::new();
    if let Some(event) = stage.guild_scheduled_event_id {
        let found = scheduled_events(&mut tx, stage.guild_id, Which::One(event), false).await?;
        if let Some(event) = found.into_iter().next()
            && event.status == EventStatus::ACTIVE
        {
            let over = event.after_it();
            envelopes.extend(scheduled_events::store(&mut tx, &over).await?);
        }
    }
    envelopes.extend(end(&app, &mut tx, &user, &access, &stage, &reason).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(StatusCode::NO_CONTENT)
}

/// Closes stages on which nobody has spoken for minutes, each in a transaction of its own.
pub(crate) async fn close_silent(app: &App) -> Result<()> {
    let mut rows = Rows::default();
    for (guild, channel) in silent(&app.db, None).await? {
        rows.done(close_one(app, guild, channel).await)?;
    }
    Ok(())
}

/// Stages on which nobody has spoken for minutes: any, or that of the channel if it is such a one. A
/// scheduled event's ends with the event. A deleted guild has none.
async fn silent(
    db: impl PgExecutor<'_>,
    channel: Option<Id<Channel>>,
) -> Result<Vec<(Id<Guild>, Id<Channel>)>> {
    let rows = sqlx::query!(
        "select s.guild_id, s.channel_id from stage_instance s
         where ($1::bigint is null or s.channel_id = $1)
           and s.silent_since < now() - interval '5 minutes'
           and not exists (select from voice_state v
                           where v.channel_id = s.channel_id and not v.suppress)
           and not exists (select from scheduled_event e
                           where e.event_id = s.event_id and e.status = 2)
           and exists (select from guild g where g.guild_id = s.guild_id)
         order by s.silent_since limit $2",
        channel.map(Id::to_db),
        SILENT_MAX,
    )
    .fetch_all(db)
    .await?;
    let places = rows
        .into_iter()
        .map(|row| (Id::from_db(row.guild_id), Id::from_db(row.channel_id)));
    Ok(places.collect())
}

async fn close_one(app: &App, guild: Id<Guild>, channel: Id<Channel>) -> Result<()> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild.cast()]).await?;
    // Somebody speaks by now, or another process was quicker.
    if silent(&mut *tx, Some(channel)).await?.is_empty() {
        return Ok(());
    }
    let closed = close(&mut tx, guild, channel).await?;
    tx.commit().await?;
    app.publisher.publish(closed);
    Ok(())
}
