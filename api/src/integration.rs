//! Applications in guilds, with their bots or without: which are where, and the events that say so.
//!
//! The integration's id is the application's, which is the bot's. Never lets one in: that is
//! `routes::oauth2`.

use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::marker,
    model::Application,
};
use guildhall_store::ids_from_db;
use serde_json::json;
use sqlx::{PgConnection, PgExecutor};

use crate::{error::Result, events};

/// Type of an integration that is an application.
pub(crate) const KIND: &str = "discord";

/// The bots of a guild, and those whose commands alone are there.
pub(crate) async fn bots_of(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
) -> Result<Vec<Id<marker::User>>> {
    let bots = sqlx::query_scalar!(
        "select application_id from integration where guild_id = $1",
        guild.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(ids_from_db(bots))
}

/// Whether an application is in a guild, with its bot or without.
pub(crate) async fn is_in_guild(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
    application: Id<marker::Application>,
) -> Result<bool> {
    let is_in = sqlx::query_scalar!(
        r#"select exists (select from integration
                          where guild_id = $1 and integration_id = $2) as "is!""#,
        guild.to_db(),
        application.to_db(),
    )
    .fetch_one(db)
    .await?;
    Ok(is_in)
}

/// The guilds that an application's commands are in, whether its bot is or not.
pub(crate) async fn guild_ids(
    db: impl PgExecutor<'_>,
    application: Id<marker::Application>,
) -> Result<Vec<Id<marker::Guild>>> {
    let guilds = sqlx::query_scalar!(
        "select guild_id from integration join guild using (guild_id) where application_id = $1",
        application.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(ids_from_db(guilds))
}

/// Forgets that an application is in a guild, whose head is locked, and numbers the events that
/// say so.
pub(crate) async fn remove(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    bot: Id<marker::User>,
) -> Result<Vec<Envelope>> {
    let gone = sqlx::query!(
        "delete from integration where guild_id = $1 and integration_id = $2",
        guild.to_db(),
        bot.to_db(),
    )
    .execute(&mut *db)
    .await?;
    if gone.rows_affected() == 0 {
        return Ok(Vec::new());
    }
    let body = json!({ "id": bot, "guild_id": guild, "application_id": bot });
    tell(db, guild, EventKind::IntegrationDelete, &body).await
}

/// An integration as events carry it. Without a role none is named: Kord reads no null there.
pub(crate) fn body(
    guild_id: Id<marker::Guild>,
    application: &Application,
    role: Option<Id<marker::Role>>,
    scopes: &[String],
) -> serde_json::Value {
    let mut integration = json!({
        "id": application.id,
        "guild_id": guild_id,
        "name": application.name,
        "type": KIND,
        "enabled": true,
        "account": { "id": application.id, "name": application.name },
        "application": {
            "id": application.id,
            "name": application.name,
            "icon": application.icon,
            "description": application.description,
            "summary": "",
            "bot": application.bot,
        },
        "scopes": scopes,
    });
    if let Some(role) = role {
        integration["role_id"] = json!(role);
    }
    integration
}

/// Numbers an integration's event and the one that says that some integration has changed.
pub(crate) async fn tell(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    kind: EventKind,
    integration: &serde_json::Value,
) -> Result<Vec<Envelope>> {
    let vis = || Visibility::realm(Intents::GUILD_INTEGRATIONS);
    let first = events::append(&mut *db, guild, kind, vis(), integration, None).await?;
    let kind = EventKind::GuildIntegrationsUpdate;
    let body = json!({ "guild_id": guild });
    let second = events::append(db, guild, kind, vis(), &body, None).await?;
    Ok(vec![first, second])
}
