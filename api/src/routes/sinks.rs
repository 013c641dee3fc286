//! What clients call and this server has nothing to say to: empty lists, and a
//! telemetry sink. Spec: endpoints, tier 3, where the notes ask for it or a path would be taken for
//! another's.

use axum::http::StatusCode;
use guildhall_shared::{Id, id::marker::Application};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::FormErrors,
    routes::commands::require_application,
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(experiments))
        .routes(routes!(science))
        .routes(routes!(teams_list))
        .routes(routes!(user_library))
        .routes(routes!(billing_stub))
        .routes(routes!(list_my_connections))
        .routes(routes!(get_entitlements))
        .routes(routes!(applications_detectable))
        .routes(routes!(auth_password_strength))
}

#[derive(Serialize, ToSchema)]
struct Experiments {
    fingerprint: Option<String>,
    assignments: [u8; 0],
    guild_experiments: [u8; 0],
}

/// There are no experiments.
#[utoipa::path(
    get,
    path = "/experiments",
    tag = "Instance",
    security(()),
    responses((status = 200, body = Experiments))
)]
async fn experiments() -> Json<Experiments> {
    Json(Experiments {
        fingerprint: None,
        assignments: [],
        guild_experiments: [],
    })
}

/// Telemetry is taken and forgotten.
#[utoipa::path(
    post,
    path = "/science",
    tag = "Instance",
    security(()),
    responses((status = 204, description = "Forgotten"))
)]
async fn science() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// There are no teams. Errors: 401, 20001.
#[utoipa::path(
    get,
    path = "/teams",
    tag = "Users",
    responses((status = 200, body = [u8]))
)]
async fn teams_list(caller: CurrentUser) -> Result<Json<[u8; 0]>> {
    nothing(&caller)
}

/// Nobody has games. Errors: 401, 20001.
#[utoipa::path(
    get,
    path = "/users/@me/library",
    tag = "Users",
    responses((status = 200, body = [u8]))
)]
async fn user_library(caller: CurrentUser) -> Result<Json<[u8; 0]>> {
    nothing(&caller)
}

/// Nobody pays. Errors: 401, 20001.
#[utoipa::path(
    get,
    path = "/users/@me/billing/payment-sources",
    tag = "Users",
    responses((status = 200, body = [u8]))
)]
async fn billing_stub(caller: CurrentUser) -> Result<Json<[u8; 0]>> {
    nothing(&caller)
}

/// Accounts are not connected to others elsewhere. Errors: 401, 20001.
#[utoipa::path(
    get,
    path = "/users/@me/connections",
    tag = "Users",
    responses((status = 200, body = [u8]))
)]
async fn list_my_connections(caller: CurrentUser) -> Result<Json<[u8; 0]>> {
    nothing(&caller)
}

/// Nothing is sold, so nobody has bought anything. Errors: 401, 20002, 20012.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/entitlements",
    tag = "Applications",
    responses((status = 200, body = [u8]))
)]
async fn get_entitlements(
    caller: CurrentUser,
    Path(application_id): Path<Id<Application>>,
) -> Result<Json<[u8; 0]>> {
    require_application(&caller, application_id)?;
    Ok(Json([]))
}

/// No game is told by its process. Works without a token.
#[utoipa::path(
    get,
    path = "/applications/detectable",
    tag = "Applications",
    security(()),
    responses((status = 200, body = [u8]))
)]
async fn applications_detectable() -> Json<[u8; 0]> {
    Json([])
}

fn nothing(caller: &CurrentUser) -> Result<Json<[u8; 0]>> {
    caller.require_human()?;
    Ok(Json([]))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct Candidate {
    #[schema(required, max_length = 72)]
    password: Option<String>,
}

impl Form for Candidate {
    fn check(&self, form: &mut FormErrors) {
        form.required("password", &self.password);
    }
}

#[derive(Serialize, ToSchema)]
struct Strength {
    /// Whether it would be taken.
    valid: bool,
    /// 0 to 4.
    password_strength: u8,
}

/// What a form shows while a password is typed: length and kinds of characters.
///
/// Errors: 50035.
#[utoipa::path(
    post,
    path = "/auth/password/validate",
    tag = "Accounts",
    security(()),
    responses((status = 200, body = Strength))
)]
async fn auth_password_strength(Json(body): Json<Candidate>) -> Json<Strength> {
    let password = body.password.unwrap_or_default();
    let length = password.chars().count();
    let kinds: [fn(char) -> bool; 4] = [
        |c| c.is_lowercase(),
        |c| c.is_uppercase(),
        |c| c.is_numeric(),
        |c| !c.is_alphanumeric(),
    ];
    let kinds = kinds
        .iter()
        .filter(|kind| password.chars().any(kind))
        .count();
    let strength = match (length, kinds) {
        (0..8, _) => 0,
        (8..12, 0..=1) => 1,
        (8..12, _) => 2,
        (_, 0..=1) => 3,
        _ => 4,
    };
    Json(Strength {
        valid: (8..=72).contains(&length),
        password_strength: strength,
    })
}
