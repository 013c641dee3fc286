//! What operators and load balancers ask: health, readiness, metrics, version, registration.

use std::time::Duration;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    app::App,
    auth::Operator,
    deeds,
    error::{Error, Result, json_response},
    extract::{Form, Json},
    form::FormErrors,
    routes::{farewell, operators, policies::registration_is_open},
};

/// Readiness waits no longer than this for the database.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// For probes and load balancers, at every listener.
pub(crate) fn probes() -> Router<App> {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/version", get(version))
}

/// For operators and monitoring, not for the public.
pub(crate) fn internal() -> Router<App> {
    Router::new()
        .route("/metrics", get(metrics))
        .route(
            "/internal/registration",
            get(show_registration).put(set_registration),
        )
        .merge(farewell::operators())
        .merge(operators::router())
}

/// The process lives.
async fn health() -> Response {
    json_response(StatusCode::OK, &json!({ "status": "ok" }))
}

/// 200 when requests can be served: the database answers and ids can be made.
/// Redis is not needed.
async fn ready(State(app): State<App>) -> Response {
    let asked = sqlx::query_scalar!("select 1 as one").fetch_one(&app.db);
    let database = matches!(tokio::time::timeout(READY_TIMEOUT, asked).await, Ok(Ok(_)));
    let snowflakes = app.snowflakes.is_leased();
    let status = if database && snowflakes {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json_response(
        status,
        &json!({ "database": database, "snowflakes": snowflakes }),
    )
}

async fn metrics(State(app): State<App>) -> Result<Response> {
    let text = app
        .metrics
        .render()
        .map_err(|error| Error::Internal(format!("metrics: {error}")))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

async fn version() -> Response {
    let body =
        json!({ "name": "guildhall-api", "version": env!("CARGO_PKG_VERSION"), "api": [9, 10] });
    json_response(StatusCode::OK, &body)
}

/// Whether anyone may register, over all API processes.
#[derive(Debug, Serialize, Deserialize)]
struct RegistrationState {
    open: Option<bool>,
}

impl Form for RegistrationState {
    fn check(&self, form: &mut FormErrors) {
        form.required("open", &self.open);
    }
}

/// Errors: 401 without an operator token.
async fn show_registration(
    State(app): State<App>,
    _operator: Operator,
) -> Result<Json<RegistrationState>> {
    let open = registration_is_open(&app, &app.db).await?;
    Ok(Json(RegistrationState { open: Some(open) }))
}

/// Opens or closes registration at once, for every API process; `REGISTRATION=closed`
/// keeps a process closed. Errors: 401 without an operator token.
async fn set_registration(
    State(app): State<App>,
    operator: Operator,
    Json(body): Json<RegistrationState>,
) -> Result<Json<RegistrationState>> {
    let value = if body.open == Some(true) {
        "open"
    } else {
        "closed"
    };
    let mut tx = app.db.begin().await?;
    sqlx::query!(
        "insert into cluster_setting (key, value) values ('registration', $1)
         on conflict (key) do update set value = excluded.value",
        value,
    )
    .execute(&mut *tx)
    .await?;
    let detail = json!({ "registration": value });
    deeds::record(&mut tx, &operator, "registration", detail).await?;
    tx.commit().await?;
    tracing::info!(
        operator = operator.name,
        registration = value,
        "registration was set"
    );
    let open = registration_is_open(&app, &app.db).await?;
    Ok(Json(RegistrationState { open: Some(open) }))
}
