//! What is connected to a guild: applications, with their bots or without. Spec: objects.md ›
//! Integration.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{self, Guild, Role},
    model::{AuditAction, User},
    shard::realm,
};
use guildhall_store::{ids_to_db, user::UserRow};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::members;
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Json, Path},
    integration,
};

const LIST_MAX: i64 = 50;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_guild_integrations))
        .routes(routes!(delete_guild_integration))
}

/// An application in a guild.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Integration {
    pub(crate) id: Id<marker::Integration>,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    role_id: Option<Id<Role>>,
    /// Who added it; not in events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<User>,
    account: Account,
    application: IntegrationApplication,
    scopes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct Account {
    id: String,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct IntegrationApplication {
    id: Id<marker::Application>,
    name: String,
    icon: Option<String>,
    description: String,
    summary: &'static str,
    #[serde(rename = "type")]
    kind: Option<u8>,
    bot: User,
}

/// As much of an integration as the audit log shows.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct PartialIntegration {
    id: Id<marker::Integration>,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    account: Account,
    application_id: Id<marker::Application>,
}

/// Those of these that a guild has, by id.
pub(crate) async fn partial(
    db: &mut PgConnection,
    guild: Id<Guild>,
    ids: &[Id<marker::Integration>],
) -> Result<Vec<PartialIntegration>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = read(db, guild, Some(ids)).await?;
    let partial = found.into_iter().map(|whole| PartialIntegration {
        id: whole.id,
        name: whole.name,
        kind: whole.kind,
        account: whole.account,
        application_id: whole.application.id,
    });
    Ok(partial.collect())
}

/// A guild's integrations by id: the first of all, or those of `only` that are there.
async fn read(
    db: &mut PgConnection,
    guild: Id<Guild>,
    only: Option<&[Id<marker::Integration>]>,
) -> Result<Vec<Integration>> {
    let limit = only.map_or(LIST_MAX, |ids| ids.len() as i64);
    let only = only.map(ids_to_db);
    let rows = sqlx::query!(
        r#"select i.integration_id, i.application_id, i.role_id, i.scopes, p.name, p.icon,
                  p.description, b.user_id, b.username, b.discriminator, b.global_name, b.avatar,
                  b.banner, b.accent_color, b.bot, b.public_flags, a.user_id as "adder_id?",
                  a.username as "adder_username?", a.discriminator as "adder_discriminator?",
                  a.global_name as adder_global_name, a.avatar as adder_avatar,
                  a.banner as adder_banner, a.accent_color as adder_accent_color,
                  a.bot as "adder_bot?", a.public_flags as "adder_public_flags?"
           from integration i
           join application p using (application_id)
           join account b on b.user_id = i.application_id
           left join account a on a.user_id = i.user_id
           where i.guild_id = $1 and ($2::bigint[] is null or i.integration_id = any($2))
           order by i.integration_id limit $3"#,
        guild.to_db(),
        only.as_deref(),
        limit,
    )
    .fetch_all(db)
    .await?;
    let integrations = rows.into_iter().map(|row| {
        let adder = || {
            Some(UserRow {
                user_id: row.adder_id?,
                username: row.adder_username?,
                discriminator: row.adder_discriminator?,
                global_name: row.adder_global_name,
                avatar: row.adder_avatar,
                banner: row.adder_banner,
                accent_color: row.adder_accent_color,
                bot: row.adder_bot?,
                public_flags: row.adder_public_flags?,
            })
        };
        let bot = UserRow {
            user_id: row.user_id,
            username: row.username,
            discriminator: row.discriminator,
            global_name: row.global_name,
            avatar: row.avatar,
            banner: row.banner,
            accent_color: row.accent_color,
            bot: row.bot,
            public_flags: row.public_flags,
        };
        let application: Id<marker::Application> = Id::from_db(row.application_id);
        Integration {
            id: Id::from_db(row.integration_id),
            name: row.name.clone(),
            kind: "discord",
            enabled: true,
            role_id: row.role_id.map(Id::from_db),
            user: adder().map(Into::into),
            account: Account {
                id: application.to_string(),
                name: row.name.clone(),
            },
            application: IntegrationApplication {
                id: application,
                name: row.name,
                icon: row.icon,
                description: row.description,
                summary: "",
                kind: None,
                bot: bot.into(),
            },
            scopes: row.scopes,
        }
    });
    Ok(integrations.collect())
}

/// By id, the first 50: more cannot be read. Errors: 10004, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/integrations",
    tag = "Guilds",
    responses((status = 200, body = Vec<Integration>))
)]
async fn list_guild_integrations(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Vec<Integration>>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::MANAGE_GUILD).await?;
    Ok(Json(read(&mut db, guild_id, None).await?))
}

/// Its bot, if it is there, leaves the guild, however high its role: who may bring bots in may take
/// them out.
///
/// Errors: 10004, 10005, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/integrations/{integration_id}",
    tag = "Guilds",
    responses((status = 204, description = "It is gone, and its bot with it"))
)]
async fn delete_guild_integration(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, integration_id)): Path<(Id<Guild>, Id<marker::Integration>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    // Its id is its application's, which is its bot's.
    let bot: Id<marker::User> = integration_id.cast();
    access::lock_realms(&mut tx, [realm(guild_id), realm(bot)]).await?;
    access::guild(&mut *tx, &user, guild_id, Permissions::MANAGE_GUILD).await?;
    let found = read(&mut tx, guild_id, Some(&[integration_id]))
        .await?
        .pop();
    let integration = found.ok_or(ErrorCode::UnknownIntegration)?;
    let member = guildhall_store::guild::member(&mut *tx, guild_id, bot).await?;
    let mut envelopes = match member {
        Some(member) => members::remove(&mut tx, guild_id, &member).await?,
        None => integration::remove(&mut tx, guild_id, bot).await?,
    };
    let entry = Entry::new(guild_id, user.id, AuditAction::INTEGRATION_DELETE, &reason)
        .target(integration_id)
        .change("name", Some(integration.name.into()), None)
        .change("type", Some(integration.kind.into()), None);
    envelopes.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(StatusCode::NO_CONTENT)
}
