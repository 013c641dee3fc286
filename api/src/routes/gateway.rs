//! Where the gateway is. Spec: Topics › Gateway.

use axum::{Router, extract::State, http::StatusCode, response::Response, routing::get};
use serde_json::json;

use crate::{app::App, auth::CurrentUser, error::json_response};

/// Guilds of a bot per recommended bot shard; libraries must shard at 2500.
const GUILDS_PER_SHARD: usize = 1000;
/// Identifies of a bot per day, as clients are told; not counted.
const SESSION_STARTS: u32 = 1000;
const DAY_MS: u32 = 86_400_000;
/// Bot shards that may identify at once: more makes large bots start quickly.
const IDENTIFY_CONCURRENCY: u32 = 16;

pub(crate) fn router() -> Router<App> {
    Router::new()
        .route("/gateway", get(get_gateway))
        .route("/gateway/bot", get(get_bot_gateway))
}

/// Works with and without a token.
async fn get_gateway(State(app): State<App>) -> Response {
    json_response(StatusCode::OK, &json!({ "url": app.config.gateway_url }))
}

/// The gateway and how many bot shards to open. Errors: 401.
/// [Get Gateway Bot](https://docs.discord.com/developers/events/gateway#get-gateway-bot)
async fn get_bot_gateway(
    State(app): State<App>,
    caller: CurrentUser,
) -> crate::error::Result<Response> {
    let guilds = guildhall_store::account::guild_ids(&app.db, caller.id).await?;
    let body = json!({
        "url": app.config.gateway_url,
        "shards": guilds.len().div_ceil(GUILDS_PER_SHARD).max(1),
        "session_start_limit": {
            "total": SESSION_STARTS,
            "remaining": SESSION_STARTS,
            "reset_after": DAY_MS,
            "max_concurrency": IDENTIFY_CONCURRENCY,
        },
    });
    Ok(json_response(StatusCode::OK, &body))
}
