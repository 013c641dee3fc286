//! The code of its own choice by which a guild is joined. Spec: endpoints › vanity-url.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::Guild,
    model::{AuditAction, present},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::guilds;
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::FormErrors,
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_guild_vanity_url, guild_vanity_update))
}

/// A guild's vanity code, and how often it was used.
#[derive(Debug, Serialize, ToSchema)]
struct VanityUrl {
    code: Option<String>,
    uses: i32,
}

async fn read(db: &mut PgConnection, guild: Id<Guild>) -> Result<VanityUrl> {
    let row = sqlx::query_as!(
        VanityUrl,
        r#"select code as "code?", uses from vanity_url where guild_id = $1"#,
        guild.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.unwrap_or(VanityUrl {
        code: None,
        uses: 0,
    }))
}

/// Errors: 10004, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/vanity-url",
    tag = "Guilds",
    responses((status = 200, body = VanityUrl))
)]
async fn get_guild_vanity_url(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<VanityUrl>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::MANAGE_GUILD).await?;
    Ok(Json(read(&mut db, guild_id).await?))
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateVanity {
    /// 2 to 32 letters, digits and hyphens; null or empty for none.
    #[serde(deserialize_with = "present")]
    code: Option<Option<String>>,
}

impl Form for UpdateVanity {
    fn check(&self, form: &mut FormErrors) {
        form.required("code", &self.code);
    }
}

/// Errors: 10004, 20001, 50001, 50013, 50020 for a code that is taken or cannot be one, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/vanity-url",
    tag = "Guilds",
    responses((status = 200, body = VanityUrl))
)]
async fn guild_vanity_update(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<UpdateVanity>,
) -> Result<Json<VanityUrl>> {
    user.require_human()?;
    let code = body.code.flatten().filter(|code| !code.is_empty());
    if code.as_ref().is_some_and(|code| !is_code(code)) {
        return Err(ErrorCode::VanityTaken.into());
    }
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let (mut guild, _) = guilds::by_id(&mut tx, guild_id).await?;
    let before = guild.clone();
    match &code {
        None => {
            sqlx::query!(
                "delete from vanity_url where guild_id = $1",
                guild_id.to_db()
            )
            .execute(&mut *tx)
            .await?;
        }
        Some(code) => take(&mut tx, guild_id, code).await?,
    }
    guild.settings.vanity_url_code = code;
    let vanity = read(&mut tx, guild_id).await?;
    if guild == before {
        tx.commit().await?;
        return Ok(Json(vanity));
    }
    let has = guild.settings.vanity_url_code.is_some();
    guilds::update::set_feature(&mut guild.settings, "VANITY_URL", has);
    let mut events = vec![guilds::store(&mut tx, &guild).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::GUILD_UPDATE, &reason)
        .target(guild_id)
        .changed(&before, &guild)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(vanity))
}

fn is_code(code: &str) -> bool {
    (2..=32).contains(&code.len())
        && code
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Errors: 50020.
async fn take(db: &mut PgConnection, guild: Id<Guild>, code: &str) -> Result<()> {
    // Somebody else's: left to the unique index, which also knows of those not committed yet.
    let taken = sqlx::query!(
        "insert into vanity_url (guild_id, code)
         select $1, $2 where not exists (select from invite where code = $2)
                         and not exists (select from group_invite where code = $2)
         on conflict (guild_id) do update
         set code = excluded.code,
             uses = case when lower(vanity_url.code) = lower(excluded.code)
                         then vanity_url.uses else 0 end",
        guild.to_db(),
        code,
    )
    .execute(db)
    .await;
    match taken {
        Ok(taken) if taken.rows_affected() == 1 => Ok(()),
        Ok(_) => Err(ErrorCode::VanityTaken.into()),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Err(ErrorCode::VanityTaken.into())
        }
        Err(error) => Err(error.into()),
    }
}
