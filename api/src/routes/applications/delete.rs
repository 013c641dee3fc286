//! Deleting an application: its bot and its commands leave their guilds one by one, then the row
//! goes.
//!
//! The request marks the application, which nobody finds any more, and its tokens die with
//! the mark. What a process that stops leaves undone, the housekeeping of another finishes.

use std::collections::BTreeSet;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker::{self, Guild, User},
};
use guildhall_store::account;

use super::lock_own_bot_by_session;
use crate::{
    access, account::DELETED_BOT, app::App, auth::CurrentUser, error::Result, extract::Path,
    integration, routes::members, second_factor::SecondFactor, sessions::append_revocation,
};

/// Guilds that a request leaves; the housekeeping goes on with the rest.
const GUILDS_PER_REQUEST_MAX: usize = 50;
/// Guilds that a round of the housekeeping leaves.
const GUILDS_PER_ROUND_MAX: usize = 500;

/// Its messages stay, written by a bot that is no more. Errors: 10002, 20012, 60003.
#[utoipa::path(
    post,
    path = "/applications/{application_id}/delete",
    tag = "Applications",
    responses((status = 204, description = "Nobody finds it any more"))
)]
pub(super) async fn application_delete(
    State(app): State<App>,
    caller: CurrentUser,
    _shown: SecondFactor,
    Path(application_id): Path<Id<marker::Application>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let bot = lock_own_bot_by_session(&mut tx, &caller, application_id).await?;
    sqlx::query!(
        "update application set deleted_at = now() where application_id = $1",
        application_id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    let revoked = sqlx::query_scalar!(
        "delete from auth_token where user_id = $1 returning token_hash",
        bot.to_db(),
    )
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from oauth2_token where application_id = $1",
        application_id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    let event = append_revocation(&mut tx, bot, &revoked).await?;
    tx.commit().await?;
    app.tokens.forget(bot);
    app.publisher.publish([event]);
    // The answer does not depend on it: what fails here is done by the housekeeping.
    if let Err(error) = finish(&app, application_id, GUILDS_PER_REQUEST_MAX).await {
        tracing::warn!(?error, "an application is not yet wholly deleted");
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Goes on with applications that are marked as deleted.
pub(crate) async fn finish_deletions(app: &App) -> Result<()> {
    let marked = sqlx::query_scalar!(
        "select application_id from application where deleted_at is not null limit 20",
    )
    .fetch_all(&app.db)
    .await?;
    for id in marked {
        // One that fails keeps no other from being done.
        if let Err(error) = finish(app, Id::from_db(id), GUILDS_PER_ROUND_MAX).await {
            tracing::warn!(?error, "an application is not yet wholly deleted");
        }
    }
    Ok(())
}

/// Leaves up to `guilds_max` guilds, each in a transaction of its own; then, if none is
/// left, deletes the row with all that hangs on it.
async fn finish(app: &App, id: Id<marker::Application>, guilds_max: usize) -> Result<()> {
    let bot: Id<User> = id.cast();
    let of_bot = account::guild_ids(&app.db, bot).await?;
    let of_commands = integration::guild_ids(&app.db, id).await?;
    let guilds: BTreeSet<Id<Guild>> = of_bot.into_iter().chain(of_commands).collect();
    let is_last = guilds.len() <= guilds_max;
    for guild in guilds.into_iter().take(guilds_max) {
        leave(app, guild, bot).await?;
    }
    if !is_last {
        return Ok(());
    }
    let mut tx = app.db.begin().await?;
    sqlx::query!(
        "delete from application where application_id = $1 and deleted_at is not null",
        id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update account set username = $2, global_name = null, avatar = null, banner = null,
                            bio = ''
         where user_id = $1",
        bot.to_db(),
        format!("{DELETED_BOT}{bot}"),
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

async fn leave(app: &App, guild: Id<Guild>, bot: Id<User>) -> Result<()> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild.cast(), bot.cast()]).await?;
    let Some(member) = guildhall_store::guild::member(&mut *tx, guild, bot).await? else {
        let events = integration::remove(&mut tx, guild, bot).await?;
        tx.commit().await?;
        app.publisher.publish(events);
        return Ok(());
    };
    let owner = sqlx::query_scalar!(
        "select owner_id from guild where guild_id = $1",
        guild.to_db(),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(ErrorCode::UnknownGuild)?;
    // A guild is not left without its owner.
    if owner == bot.to_db() {
        return Ok(());
    }
    let events = members::remove(&mut tx, guild, &member).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(())
}
