//! Where the gateway is. Spec: Topics › Gateway.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, auth::CurrentUser, error::Result, extract::Json};

/// Guilds of a bot per recommended bot shard; libraries must shard at 2500.
const GUILDS_PER_SHARD: usize = 1000;
/// Identifies of a bot per day, as clients are told; not counted.
const SESSION_STARTS: u32 = 1000;
const DAY_MS: u32 = 86_400_000;
/// Bot shards that may identify at once: more makes large bots start quickly.
const IDENTIFY_CONCURRENCY: u32 = 16;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_gateway))
        .routes(routes!(get_bot_gateway))
}

#[derive(Serialize, ToSchema)]
struct Gateway {
    url: String,
}

/// Works with and without a token.
#[utoipa::path(
    get,
    path = "/gateway",
    tag = "Gateway",
    security(()),
    responses((status = 200, body = Gateway))
)]
async fn get_gateway(State(app): State<App>) -> Json<Gateway> {
    let url = app.config.gateway_url.clone();
    Json(Gateway { url })
}

#[derive(Serialize, ToSchema)]
struct GatewayOfBot {
    url: String,
    /// Bot shards to open.
    shards: usize,
    session_start_limit: SessionStartLimit,
}

#[derive(Serialize, ToSchema)]
struct SessionStartLimit {
    total: u32,
    remaining: u32,
    /// Milliseconds.
    reset_after: u32,
    max_concurrency: u32,
}

/// The gateway and how many bot shards to open. Errors: 401.
/// [Get Gateway Bot](https://docs.discord.com/developers/events/gateway#get-gateway-bot)
#[utoipa::path(
    get,
    path = "/gateway/bot",
    tag = "Gateway",
    responses((status = 200, body = GatewayOfBot))
)]
async fn get_bot_gateway(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<GatewayOfBot>> {
    let guilds = guildhall_store::account::guild_ids(&app.db, caller.id).await?;
    Ok(Json(GatewayOfBot {
        url: app.config.gateway_url.clone(),
        shards: guilds.len().div_ceil(GUILDS_PER_SHARD).max(1),
        session_start_limit: SessionStartLimit {
            total: SESSION_STARTS,
            remaining: SESSION_STARTS,
            reset_after: DAY_MS,
            max_concurrency: IDENTIFY_CONCURRENCY,
        },
    }))
}
