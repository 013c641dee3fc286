//! Guilds. Spec: objects.md › Guild.

pub(crate) mod build;
mod create;
pub(crate) mod update;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
    model::{AuditAction, Guild, GuildSettings},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    create::{__path_guild_create, guild_create},
    update::{__path_update_guild, update_guild},
};
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    collect,
    error::Result,
    events,
    extract::{Form, Json, Path, Query},
    form::{Fault, FormErrors},
    online,
    second_factor::SecondFactor,
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(guild_create))
        .routes(routes!(get_guild, update_guild, guild_delete))
        .routes(routes!(guild_delete_legacy))
        .routes(routes!(guild_mfa_level))
        .routes(routes!(get_guild_preview))
}

/// Errors: 10004.
pub(super) async fn by_id(db: &mut PgConnection, id: Id<marker::Guild>) -> Result<(Guild, u64)> {
    let found = guildhall_store::guild::by_id(db, id).await?;
    Ok(found.ok_or(ErrorCode::UnknownGuild)?)
}

/// Stores a changed guild and numbers its GUILD_UPDATE.
pub(super) async fn store(db: &mut PgConnection, guild: &Guild) -> Result<Envelope> {
    sqlx::query!(
        "update guild set name = $2, description = $3, owner_id = $4, settings = $5, icon = $6
         where guild_id = $1",
        guild.id.to_db(),
        guild.name,
        guild.description,
        guild.owner_id.to_db(),
        Jsonb(&guild.settings) as Jsonb<&GuildSettings>,
        guild.icon,
    )
    .execute(&mut *db)
    .await?;
    let (kind, vis) = (EventKind::GuildUpdate, Visibility::realm(Intents::GUILDS));
    events::append(db, guild.id, kind, vis, guild, None).await
}

/// Takes a channel that is being deleted out of the guild's settings, if it is in them.
pub(super) async fn forget_channel(
    db: &mut PgConnection,
    guild_id: Id<marker::Guild>,
    channel: Id<marker::Channel>,
) -> Result<Option<Envelope>> {
    let (mut guild, _) = by_id(db, guild_id).await?;
    let settings = &mut guild.settings;
    let mut named = false;
    for field in [
        &mut settings.afk_channel_id,
        &mut settings.widget_channel_id,
        &mut settings.system_channel_id,
        &mut settings.rules_channel_id,
        &mut settings.public_updates_channel_id,
        &mut settings.safety_alerts_channel_id,
    ] {
        named |= field.take_if(|named| *named == channel).is_some();
    }
    if !named {
        return Ok(None);
    }
    store(db, &guild).await.map(Some)
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct WithCounts {
    with_counts: bool,
}

impl Form for WithCounts {}

#[derive(Serialize, ToSchema)]
struct GuildWithCounts {
    #[serde(flatten)]
    guild: Guild,
    #[serde(skip_serializing_if = "Option::is_none")]
    approximate_member_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approximate_presence_count: Option<u64>,
}

/// Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}",
    tag = "Guilds",
    params(WithCounts),
    responses((status = 200, body = GuildWithCounts))
)]
async fn get_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<marker::Guild>>,
    Query(query): Query<WithCounts>,
) -> Result<Json<GuildWithCounts>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let (guild, members) = by_id(&mut db, guild_id).await?;
    let present = match query.with_counts {
        true => Some(online::count(&app, guild_id).await),
        false => None,
    };
    Ok(Json(GuildWithCounts {
        guild,
        approximate_member_count: query.with_counts.then_some(members),
        approximate_presence_count: present,
    }))
}

#[derive(Serialize, ToSchema)]
struct GuildPreview {
    id: Id<marker::Guild>,
    name: String,
    icon: Option<String>,
    description: Option<String>,
    home_header: Option<String>,
    splash: Option<String>,
    discovery_splash: Option<String>,
    features: Vec<String>,
    approximate_member_count: u64,
    approximate_presence_count: u64,
    emojis: Vec<Value>,
    stickers: Vec<Value>,
}

/// For members, and for everyone where the guild is discoverable. Errors: 10004.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/preview",
    tag = "Guilds",
    responses((status = 200, body = GuildPreview))
)]
async fn get_guild_preview(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<marker::Guild>>,
) -> Result<Json<GuildPreview>> {
    let mut db = app.db.acquire().await?;
    let (guild, members) = by_id(&mut db, guild_id).await?;
    let discoverable = guild.settings.features.iter().any(|f| f == "DISCOVERABLE");
    if !discoverable {
        let member = guildhall_store::guild::member(&mut *db, guild_id, user.id).await?;
        member.ok_or(ErrorCode::UnknownGuild)?;
    }
    let approximate_presence_count = online::count(&app, guild_id).await;
    Ok(Json(GuildPreview {
        id: guild_id,
        name: guild.name,
        icon: guild.icon,
        description: guild.description,
        home_header: guild.settings.home_header,
        splash: guild.settings.splash,
        discovery_splash: guild.settings.discovery_splash,
        features: guild.settings.features,
        approximate_member_count: members,
        approximate_presence_count,
        emojis: guild.emojis,
        stickers: guild.stickers,
    }))
}

#[derive(Serialize)]
struct GuildDelete {
    id: Id<marker::Guild>,
}

/// Deletes a guild, which is there, and numbers its GUILD_DELETE. Its head is locked.
///
/// The numbers go on: this is the realm's last event. Rows of the guild are collected later
/// (`collect`).
pub(super) async fn delete_guild(
    db: &mut PgConnection,
    guild_id: Id<marker::Guild>,
) -> Result<Envelope> {
    collect::of_guild(&mut *db, guild_id).await?;
    sqlx::query!("delete from guild where guild_id = $1", guild_id.to_db())
        .execute(&mut *db)
        .await?;
    // Names that others may want at once.
    sqlx::query!(
        "delete from vanity_url where guild_id = $1",
        guild_id.to_db()
    )
    .execute(&mut *db)
    .await?;
    let (kind, vis) = (EventKind::GuildDelete, Visibility::realm(Intents::GUILDS));
    let body = GuildDelete { id: guild_id };
    events::append(db, guild_id, kind, vis, &body, None).await
}

/// The owner's. Errors: 10004, 20001, 50001, 50013, 60003.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}",
    tag = "Guilds",
    responses((status = 204, description = "It is gone"))
)]
async fn guild_delete(
    State(app): State<App>,
    user: CurrentUser,
    _shown: SecondFactor,
    Path(guild_id): Path<Id<marker::Guild>>,
) -> Result<StatusCode> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    if !access.is_owner() {
        return Err(ErrorCode::MissingPermissions.into());
    }
    let event = delete_guild(&mut tx, guild_id).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}

/// As [`guild_delete`]; older clients' way. Errors: 10004, 20001, 50001, 50013, 60003.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/delete",
    tag = "Guilds",
    responses((status = 204, description = "It is gone"))
)]
async fn guild_delete_legacy(
    app: State<App>,
    user: CurrentUser,
    shown: SecondFactor,
    guild_id: Path<Id<marker::Guild>>,
) -> Result<StatusCode> {
    guild_delete(app, user, shown, guild_id).await
}

#[derive(Debug, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
struct MfaLevel {
    /// 1: moderators need a second factor.
    #[schema(required)]
    level: Option<u8>,
}

impl Form for MfaLevel {
    fn check(&self, form: &mut FormErrors) {
        if let Some(&level) = form.required("level", &self.level)
            && level > 1
        {
            form.add("level", Fault::NotEnum(level.to_string()));
        }
    }
}

/// The owner's. Errors: 10004, 20001, 50001, 50013, 50035.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/mfa",
    tag = "Guilds",
    responses((status = 200, body = MfaLevel))
)]
async fn guild_mfa_level(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<marker::Guild>>,
    reason: Reason,
    Json(body): Json<MfaLevel>,
) -> Result<Json<MfaLevel>> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    if !access.is_owner() {
        return Err(ErrorCode::MissingPermissions.into());
    }
    let (mut guild, _) = by_id(&mut tx, guild_id).await?;
    let before = guild.clone();
    guild.settings.mfa_level = body.level.unwrap_or_default();
    if guild != before {
        let mut events = vec![store(&mut tx, &guild).await?];
        let entry = Entry::new(guild_id, user.id, AuditAction::GUILD_UPDATE, &reason)
            .target(guild_id)
            .changed(&before, &guild)?;
        events.extend(audit::append(&app, &mut tx, entry).await?);
        tx.commit().await?;
        app.publisher.publish(events);
    }
    Ok(Json(body))
}
