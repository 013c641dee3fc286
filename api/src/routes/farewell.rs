//! Disabling and deleting one's account (calls of user clients; no official page), and
//! locking one (operators).

use axum::{Router, extract::State, http::StatusCode, routing::put};
use guildhall_shared::{Id, error_code::ErrorCode, id::marker, shard::realm};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access,
    app::App,
    auth::{self, CurrentUser, Operator},
    deeds,
    error::Result,
    extract::{Form, Json, Path},
    form::FormErrors,
    oauth,
    routes::{account_work, auth::tries},
    second_factor::{self, Shown},
    sessions::{self, Which},
    tickets,
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(user_disable))
        .routes(routes!(user_delete))
}

/// Routes of operators, at the root of the host.
pub(crate) fn operators() -> Router<App> {
    Router::new().route(
        "/internal/accounts/{user_id}/lock",
        put(lock_account).delete(unlock_account),
    )
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct Confirmation {
    #[schema(required, max_length = 72)]
    password: Option<String>,
    /// Of the second factor, if there is one; not needed with `X-Discord-MFA-Authorization`.
    #[schema(max_length = 64)]
    code: Option<String>,
}

impl Form for Confirmation {
    fn check(&self, form: &mut FormErrors) {
        if let Some(code) = &self.code {
            form.length("code", code, 0..=64);
        }
    }
}

/// Errors: 20001, 50035 on `password`, 60003, 60008, 429.
async fn confirm(app: &App, caller: &CurrentUser, shown: Shown, body: &Confirmation) -> Result<()> {
    caller.require_human()?;
    auth::check_password_of(app, caller.id, body.password.as_deref()).await?;
    second_factor::require(app, caller, shown, body.code.as_deref()).await
}

/// Ends all sessions; logging in again wakes the account.
///
/// Errors: 401, 20001, 50035, 60003, 60008.
#[utoipa::path(
    post,
    path = "/users/@me/disable",
    tag = "Accounts",
    responses((status = 204, description = "All tokens are void, all sockets close"))
)]
async fn user_disable(
    State(app): State<App>,
    caller: CurrentUser,
    shown: Shown,
    Json(body): Json<Confirmation>,
) -> Result<StatusCode> {
    confirm(&app, &caller, shown, &body).await?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    caller.require_session(&mut tx).await?;
    sqlx::query!(
        "update account set state = 1 where user_id = $1 and state = 0",
        caller.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    tickets::void_all(&mut tx, caller.id).await?;
    let event = sessions::revoke(&mut tx, caller.id, Which::All).await?;
    tx.commit().await?;
    app.tokens.forget(caller.id);
    app.publisher.publish(event);
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes the account. What the user wrote stays, by a deleted user; they leave their
/// guilds and group DMs, and everything of theirs goes, in steps after the answer. Tokens of
/// their bots are void too.
///
/// Errors: 401, 20001, 40011 while they own guilds, 50035, 60003, 60008.
#[utoipa::path(
    post,
    path = "/users/@me/delete",
    tag = "Accounts",
    responses((status = 204, description = "All tokens are void, all sockets close"))
)]
async fn user_delete(
    State(app): State<App>,
    caller: CurrentUser,
    shown: Shown,
    Json(body): Json<Confirmation>,
) -> Result<StatusCode> {
    confirm(&app, &caller, shown, &body).await?;
    let mut tx = app.db.begin().await?;
    let bots = sqlx::query_scalar!(
        "select application_id from application where owner_id = $1 order by application_id",
        caller.id.to_db(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let bots: Vec<Id<marker::User>> = bots.into_iter().map(Id::from_db).collect();
    let mut all = bots.clone();
    all.push(caller.id);
    all.sort_unstable();
    access::lock_realms(&mut tx, all.iter().map(|&user| realm(user))).await?;
    caller.require_session(&mut tx).await?;
    let owns = sqlx::query_scalar!(
        r#"select exists (select from guild where owner_id = $1) as "owns!""#,
        caller.id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if owns {
        return Err(ErrorCode::OwnsGuilds.into());
    }
    account_work::bury(&mut tx, caller.id).await?;
    let mut events = Vec::new();
    for &user in &all {
        events.extend(sessions::revoke(&mut tx, user, Which::All).await?);
    }
    tx.commit().await?;
    for user in all {
        app.tokens.forget(user);
    }
    app.publisher.publish(events);
    account_work::work_in_background(&app);
    tries::forget(&app, caller.id).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Locks an account: nobody logs in, all tokens are void, those of applications too, all sockets
/// close. A bot's account too; locking a person leaves their bots alone.
///
/// Errors: 401 without an operator token, 10013.
async fn lock_account(
    State(app): State<App>,
    operator: Operator,
    Path(user_id): Path<Id<marker::User>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [user_id.cast()]).await?;
    let locked = sqlx::query!(
        "update account set state = 2 where user_id = $1 and state <> 3",
        user_id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    if locked.rows_affected() == 0 {
        return Err(ErrorCode::UnknownUser.into());
    }
    tickets::void_all(&mut tx, user_id).await?;
    oauth::withdraw_all(&mut *tx, user_id).await?;
    let detail = json!({ "user": user_id });
    deeds::record(&mut tx, &operator, "account_lock", detail).await?;
    let event = sessions::revoke(&mut tx, user_id, Which::All).await?;
    tx.commit().await?;
    app.tokens.forget(user_id);
    app.publisher.publish(event);
    tracing::info!(operator = operator.name, "an account was locked");
    Ok(StatusCode::NO_CONTENT)
}

/// Errors: 401 without an operator token, 10013 for who is not locked.
async fn unlock_account(
    State(app): State<App>,
    operator: Operator,
    Path(user_id): Path<Id<marker::User>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let unlocked = sqlx::query!(
        "update account set state = 0 where user_id = $1 and state = 2",
        user_id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    if unlocked.rows_affected() == 0 {
        return Err(ErrorCode::UnknownUser.into());
    }
    let detail = json!({ "user": user_id });
    deeds::record(&mut tx, &operator, "account_unlock", detail).await?;
    tx.commit().await?;
    tracing::info!(operator = operator.name, "an account was unlocked");
    Ok(StatusCode::NO_CONTENT)
}
