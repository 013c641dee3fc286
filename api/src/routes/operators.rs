//! How operators help somebody back into their account, and take messages and guilds down. At
//! the root of the host; no official page. What is done is told in `cluster_audit` ([`deeds`]).

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{delete, get, post},
};
use guildhall_shared::{Id, error_code::ErrorCode, id::marker};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::{
    auth::{PasswordReset, hand_over_reset},
    guilds, messages, webhooks,
};
use crate::{
    access, account,
    app::App,
    auth::Operator,
    deeds,
    error::Result,
    extract::{Json, Path},
    second_factor,
    sessions::{self, Which},
    tickets,
};

pub(crate) fn router() -> Router<App> {
    Router::new()
        .route(
            "/internal/accounts/{user_id}/password-reset",
            post(create_password_reset),
        )
        .route(
            "/internal/accounts/{user_id}/second-factor",
            delete(remove_second_factor),
        )
        .route(
            "/internal/channels/{channel_id}/messages/{message_id}",
            delete(take_down_message),
        )
        .route(
            "/internal/guilds/{guild_id}",
            get(show_guild).delete(take_down_guild),
        )
}

/// Makes a ticket for a new password, to be handed over; the one before is void. Whoever has a
/// second factor still has to show it.
///
/// Errors: 401 without an operator token, 10013 for bots, locked and deleted accounts too.
async fn create_password_reset(
    State(app): State<App>,
    operator: Operator,
    Path(user_id): Path<Id<marker::User>>,
) -> Result<Json<PasswordReset>> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [user_id.cast()]).await?;
    let reset = hand_over_reset(&app, &mut tx, user_id).await?;
    let detail = json!({ "user": user_id });
    deeds::record(&mut tx, &operator, "password_reset", detail).await?;
    tx.commit().await?;
    tracing::info!(
        operator = operator.name,
        "a ticket for an account's new password was made"
    );
    Ok(Json(reset))
}

/// Takes the second factor off an account, with its backup codes: the password alone lets in.
/// All tokens and tickets are void, as with every change of factors.
///
/// Errors: 401 without an operator token, 10013, 60002.
async fn remove_second_factor(
    State(app): State<App>,
    operator: Operator,
    Path(user_id): Path<Id<marker::User>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [user_id.cast()]).await?;
    account::require_not_deleted(&mut tx, user_id).await?;
    if !second_factor::is_on(&mut tx, user_id).await? {
        return Err(ErrorCode::NoSecondFactor.into());
    }
    second_factor::switch_off(&mut tx, user_id).await?;
    tickets::void_all(&mut tx, user_id).await?;
    let detail = json!({ "user": user_id });
    deeds::record(&mut tx, &operator, "second_factor_remove", detail).await?;
    let mut events = vec![account::append_update(&mut tx, user_id).await?];
    events.extend(sessions::revoke(&mut tx, user_id, Which::All).await?);
    tx.commit().await?;
    app.tokens.forget(user_id);
    app.publisher.publish(events);
    tracing::info!(
        operator = operator.name,
        "the second factor of an account was removed"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a message, in any channel, as its author would; the guild's audit log says nothing of
/// it.
///
/// Errors: 401 without an operator token, 10003, 10008, 50021.
async fn take_down_message(
    State(app): State<App>,
    operator: Operator,
    Path((channel_id, message_id)): Path<(Id<marker::Channel>, Id<marker::Message>)>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let audience = access::audience_for_change(&mut tx, channel_id).await?;
    let deleted = messages::delete_messages(&mut tx, channel_id, &[message_id])
        .await?
        .pop()
        .ok_or(ErrorCode::UnknownMessage)?;
    if !deleted.kind.is_deletable() {
        return Err(ErrorCode::SystemMessage.into());
    }
    let detail = json!({ "channel": channel_id, "message": message_id, "author": deleted.author });
    deeds::record(&mut tx, &operator, "message_delete", detail).await?;
    let events = messages::announce_delete(&mut tx, &audience, message_id).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    if deleted.crossposted {
        webhooks::deliver_soon(&app, channel_id, message_id);
    }
    tracing::info!(operator = operator.name, "a message was taken down");
    Ok(StatusCode::NO_CONTENT)
}

/// A guild as operators read it.
#[derive(Debug, Serialize)]
struct OwnedGuild {
    id: Id<marker::Guild>,
    name: String,
    owner_id: Id<marker::User>,
    owner_username: String,
    member_count: i32,
}

/// Errors: 10004.
async fn read_guild(db: &mut PgConnection, guild_id: Id<marker::Guild>) -> Result<OwnedGuild> {
    let row = sqlx::query!(
        "select g.name, g.owner_id, g.member_count, a.username
         from guild g join account a on a.user_id = g.owner_id
         where g.guild_id = $1",
        guild_id.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(ErrorCode::UnknownGuild)?;
    Ok(OwnedGuild {
        id: guild_id,
        name: row.name,
        owner_id: Id::from_db(row.owner_id),
        owner_username: row.username,
        member_count: row.member_count,
    })
}

/// Whose guild it is. Errors: 401 without an operator token, 10004.
async fn show_guild(
    State(app): State<App>,
    operator: Operator,
    Path(guild_id): Path<Id<marker::Guild>>,
) -> Result<Json<OwnedGuild>> {
    let mut tx = app.db.begin().await?;
    let guild = read_guild(&mut tx, guild_id).await?;
    let detail = json!({ "guild": guild_id });
    deeds::record(&mut tx, &operator, "guild_read", detail).await?;
    tx.commit().await?;
    tracing::info!(operator = operator.name, "a guild was looked up");
    Ok(Json(guild))
}

/// Deletes a guild as its owner would. Errors: 401 without an operator token, 10004.
async fn take_down_guild(
    State(app): State<App>,
    operator: Operator,
    Path(guild_id): Path<Id<marker::Guild>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild_id.cast()]).await?;
    let guild = read_guild(&mut tx, guild_id).await?;
    let detail = json!({ "guild": guild_id, "owner": guild.owner_id });
    deeds::record(&mut tx, &operator, "guild_delete", detail).await?;
    let event = guilds::delete_guild(&mut tx, guild_id).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    tracing::info!(operator = operator.name, "a guild was taken down");
    Ok(StatusCode::NO_CONTENT)
}
