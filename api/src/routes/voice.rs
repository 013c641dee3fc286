//! Voice: regions, and who is where. Spec: objects.md › Voice state; gateway.md › Voice
//! signalling. Media is another server's (`VOICE_ENDPOINT`).

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Scope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Channel, Guild, User},
    model::{AuditAction, ChannelKind, VoiceState, present},
    voice::VoiceServer,
};
use guildhall_store::voice::{self, change};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{self, ChannelAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    telemetry,
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_voice_regions))
        .routes(routes!(list_guild_voice_regions))
        .routes(routes!(get_self_voice_state, update_self_voice_state))
        .routes(routes!(get_voice_state, update_voice_state))
}

/// Where media servers stand.
#[derive(Debug, Serialize, ToSchema)]
struct VoiceRegion {
    id: &'static str,
    name: &'static str,
    optimal: bool,
    deprecated: bool,
    custom: bool,
}

/// There is one: the server's own.
const REGIONS: [VoiceRegion; 1] = [VoiceRegion {
    id: "main",
    name: "Main",
    optimal: true,
    deprecated: false,
    custom: false,
}];

/// For everyone, also without a token.
#[utoipa::path(
    get,
    path = "/voice/regions",
    tag = "Voice",
    responses((status = 200, body = Vec<VoiceRegion>))
)]
async fn list_voice_regions() -> Json<[VoiceRegion; 1]> {
    Json(REGIONS)
}

/// Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/regions",
    tag = "Voice",
    responses((status = 200, body = Vec<VoiceRegion>))
)]
async fn list_guild_voice_regions(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<[VoiceRegion; 1]>> {
    access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    Ok(Json(REGIONS))
}

/// A member's state, as REST shows it. Errors: 10065.
async fn read(db: &mut PgConnection, guild_id: Id<Guild>, user: Id<User>) -> Result<VoiceState> {
    let found = voice::states(&mut *db, guild_id, Some(user), None).await?;
    let state = found.into_iter().next();
    let mut state = state.ok_or(ErrorCode::UnknownVoiceState)?;
    state.member = guildhall_store::guild::member(db, guild_id, user).await?;
    Ok(state)
}

/// Errors: 10004, 10065, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/voice-states/@me",
    tag = "Voice",
    responses((status = 200, body = VoiceState))
)]
async fn get_self_voice_state(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<VoiceState>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    Ok(Json(read(&mut db, guild_id, user.id).await?))
}

/// For who may enter the channel. Errors: 10004, 10065, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/voice-states/{user_id}",
    tag = "Voice",
    responses((status = 200, body = VoiceState))
)]
async fn get_voice_state(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
) -> Result<Json<VoiceState>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let state = read(&mut db, guild_id, user_id).await?;
    if let Some(channel) = state.channel_id
        && user_id != user.id
    {
        access::channel(&mut db, &user, channel, Permissions::CONNECT).await?;
    }
    Ok(Json(state))
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateSelf {
    /// The channel one is in.
    channel_id: Option<Id<Channel>>,
    suppress: Option<bool>,
    /// Not in the past; null takes the hand down.
    #[serde(deserialize_with = "present")]
    request_to_speak_timestamp: Option<Option<Timestamp>>,
}

impl Form for UpdateSelf {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(at)) = self.request_to_speak_timestamp
            && at.0 < Timestamp::now().0 - time::Duration::MINUTE
        {
            let message = "This is in the past.";
            let fault = Fault::Other("DATE_TIME_TYPE_TOO_EARLY", message.into());
            form.add("request_to_speak_timestamp", fault);
        }
    }
}

/// On a stage: raises or lowers one's hand (REQUEST_TO_SPEAK), steps down, or with
/// MUTE_MEMBERS up.
///
/// Errors: 10004, 10065, 50001, 50013, 50024 in other channels, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/voice-states/@me",
    tag = "Voice",
    responses((status = 204, description = "Changed"))
)]
async fn update_self_voice_state(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    Json(body): Json<UpdateSelf>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let before = read(&mut tx, guild_id, user.id).await?;
    let access = stage(&mut tx, &user, &before, body.channel_id).await?;
    let mut after = before.clone();
    if let Some(request) = body.request_to_speak_timestamp {
        if request.is_some() {
            access.require(Permissions::REQUEST_TO_SPEAK)?;
        }
        after.request_to_speak_timestamp = request;
    }
    if let Some(suppress) = body.suppress {
        if !suppress {
            access.require(Permissions::MUTE_MEMBERS)?;
        }
        after.suppress = suppress;
        if !suppress {
            after.request_to_speak_timestamp = None;
        }
    }
    store(app, tx, guild_id, before, after, None).await
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateOther {
    /// The channel they are in.
    channel_id: Option<Id<Channel>>,
    suppress: Option<bool>,
}

impl Form for UpdateOther {}

/// Brings somebody onto a stage, or down from it.
///
/// Errors: 10004, 10065, 50001, 50013, 50024 in other channels, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/voice-states/{user_id}",
    tag = "Voice",
    responses((status = 204, description = "Changed"))
)]
async fn update_voice_state(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
    reason: Reason,
    Json(body): Json<UpdateOther>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let before = read(&mut tx, guild_id, user_id).await?;
    let access = stage(&mut tx, &user, &before, body.channel_id).await?;
    access.require(Permissions::MUTE_MEMBERS)?;
    let mut after = before.clone();
    if let Some(suppress) = body.suppress {
        after.suppress = suppress;
        // Invited to speak: the hand goes up until they step up themselves.
        after.request_to_speak_timestamp = None;
    }
    let audited = |state: &VoiceState| json!({ "suppress": state.suppress });
    let entry = Entry::new(guild_id, user.id, AuditAction::MEMBER_UPDATE, &reason)
        .target(user_id)
        .changed(&audited(&before), &audited(&after))?;
    store(app, tx, guild_id, before, after, Some(entry)).await
}

/// The caller at the stage somebody is on, which is `named` if one is named.
async fn stage(
    db: &mut PgConnection,
    user: &CurrentUser,
    state: &VoiceState,
    named: Option<Id<Channel>>,
) -> Result<ChannelAccess> {
    let channel = state.channel_id.ok_or(ErrorCode::UnknownVoiceState)?;
    if named.is_some_and(|named| named != channel) {
        return Err(ErrorCode::UnknownVoiceState.into());
    }
    let access = access::channel(db, user, channel, Permissions::VIEW_CHANNEL).await?;
    if access.channel.kind != ChannelKind::STAGE {
        return Err(ErrorCode::InvalidChannelType.into());
    }
    Ok(access)
}

async fn store(
    app: App,
    mut tx: sqlx::Transaction<'_, sqlx::Postgres>,
    guild_id: Id<Guild>,
    before: VoiceState,
    after: VoiceState,
    entry: Option<Entry>,
) -> Result<StatusCode> {
    if after != before {
        let (_, mut events) = change::put(&mut tx, guild_id, after, telemetry::trace()).await?;
        if let Some(entry) = entry {
            events.extend(audit::append(&app, &mut tx, entry).await?);
        }
        tx.commit().await?;
        app.publisher.publish(events);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Sends one who was moved their VOICE_SERVER_UPDATE: to the session that is in voice alone.
pub(crate) fn tell_of_server(app: &App, state: &VoiceState) -> Result<()> {
    let Some(server) = VoiceServer::for_state(&app.config.voice.settings(), state) else {
        return Ok(());
    };
    let vis = Visibility::of(Scope::Users([state.user_id].into()), Intents::empty());
    app.publisher
        .publish_ephemeral(state.user_id, EventKind::VoiceServerUpdate, vis, &server)
}

/// Stays of one round.
const STALE_MAX: i64 = 200;

/// Ends the stays of sessions whose gateway has not been heard of: it died.
pub(crate) async fn end_stale(app: &App) -> Result<()> {
    let stale = sqlx::query!(
        "select guild_id, user_id, session_id from voice_state where alive_until < now() limit $1",
        STALE_MAX,
    )
    .fetch_all(&app.db)
    .await?;
    for row in stale {
        let (guild, user) = (Id::from_db(row.guild_id), Id::from_db(row.user_id));
        let session = Some(row.session_id.as_str());
        let mut tx = app.db.begin().await?;
        let events = change::disconnect(&mut tx, guild, user, session, 0).await?;
        tx.commit().await?;
        app.publisher.publish(events);
    }
    Ok(())
}
