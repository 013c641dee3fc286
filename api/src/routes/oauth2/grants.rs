//! What users have allowed applications: shown to both sides, taken back by the user.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Timestamp,
    error_code::ErrorCode,
    id::marker,
    model::{PublicApplication, User},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::token::withdraw;
use crate::{
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Json, Path},
    routes::applications,
};

/// What an access token is good for.
#[derive(Serialize, ToSchema)]
pub(super) struct Authorization {
    application: PublicApplication,
    scopes: Vec<String>,
    expires: Timestamp,
    /// With the scope `identify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User>,
}

/// For access tokens. Errors: 401 for others, 10002.
/// [Get Current Authorization Information](https://docs.discord.com/developers/topics/oauth2#get-current-authorization-information)
#[utoipa::path(
    get,
    path = "/oauth2/@me",
    tag = "OAuth2",
    responses((status = 200, body = Authorization))
)]
pub(super) async fn get_my_oauth2_authorization(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<Authorization>> {
    let access = caller.access.as_deref().ok_or(ErrorCode::Unauthorized)?;
    let id = access.application;
    let application = applications::find(&app.db, &app.config.cluster_key, id).await?;
    Ok(Json(Authorization {
        application: application.into(),
        scopes: access.scopes.clone(),
        expires: access.expires_at,
        user: access.has("identify").then(|| caller.user().clone()),
    }))
}

/// An application that the caller has allowed something.
#[derive(Serialize, ToSchema)]
pub(super) struct Grant {
    id: Id<marker::Any>,
    scopes: Vec<String>,
    application: PublicApplication,
}

/// The applications that may act for the caller. Errors: 20001.
#[utoipa::path(
    get,
    path = "/oauth2/tokens",
    tag = "OAuth2",
    responses((status = 200, body = [Grant]))
)]
pub(super) async fn oauth_grants(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<Vec<Grant>>> {
    caller.require_human()?;
    let rows = sqlx::query!(
        "select grant_id, application_id, scopes from oauth2_grant where user_id = $1
         order by application_id limit 1000",
        caller.id.to_db(),
    )
    .fetch_all(&app.db)
    .await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.application_id).collect();
    let found = applications::find_all(&app.db, &app.config.cluster_key, &ids).await?;
    let grants = rows.into_iter().filter_map(|row| {
        let id = Id::from_db(row.application_id);
        let application = found.iter().find(|application| application.id == id)?;
        Some(Grant {
            id: Id::from_db(row.grant_id),
            scopes: row.scopes,
            application: application.clone().into(),
        })
    });
    Ok(Json(grants.collect()))
}

/// Takes back what was allowed; the application's tokens die. Errors: 10002, 20001.
#[utoipa::path(
    delete,
    path = "/oauth2/tokens/{token_id}",
    tag = "OAuth2",
    responses((status = 204, description = "It may do nothing more"))
)]
pub(super) async fn oauth_grant_delete(
    State(app): State<App>,
    caller: CurrentUser,
    Path(token_id): Path<Id<marker::Any>>,
) -> Result<StatusCode> {
    caller.require_human()?;
    let mut tx = app.db.begin().await?;
    let application = sqlx::query_scalar!(
        "select application_id from oauth2_grant where grant_id = $1 and user_id = $2",
        token_id.to_db(),
        caller.id.to_db(),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(ErrorCode::UnknownApplication)?;
    withdraw(&mut tx, caller.id, Id::from_db(application)).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
