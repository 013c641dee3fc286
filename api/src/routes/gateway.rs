//! Where the gateway is. Spec: Topics › Gateway.

use axum::extract::State;
use guildhall_shared::{
    Id,
    gateway::session_starts::{self, PERIOD},
    id::marker::User,
    keys,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, auth::CurrentUser, error::Result, extract::Json};

/// Guilds of a bot per recommended bot shard; libraries must shard at 2500.
const GUILDS_PER_SHARD: usize = 1000;

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
    reset_after: u64,
    max_concurrency: u16,
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
    let total = session_starts::total(guilds.len());
    let (started, reset_after) = started(&app, caller.id).await;
    Ok(Json(GatewayOfBot {
        url: app.config.gateway_url.clone(),
        shards: guilds.len().div_ceil(GUILDS_PER_SHARD).max(1),
        session_start_limit: SessionStartLimit {
            total,
            remaining: total.saturating_sub(started),
            reset_after,
            max_concurrency: app.config.identify_concurrency,
        },
    }))
}

/// Sessions that a bot has started in its present day, which gateways count, and milliseconds
/// to the day's end. A day begins with its first session; without Redis every day does.
async fn started(app: &App, bot: Id<User>) -> (u32, u64) {
    let key = keys::session_starts(bot);
    let mut redis = app.redis.clone();
    let read: redis::RedisResult<(Option<u32>, i64)> = redis::pipe()
        .get(&key)
        .pttl(&key)
        .query_async(&mut redis)
        .await;
    match read {
        Ok((Some(started), left)) => (started, u64::try_from(left).unwrap_or_default()),
        Ok((None, _)) => (0, PERIOD.as_millis() as u64),
        Err(error) => {
            tracing::debug!(%error, "session starts not read");
            (0, PERIOD.as_millis() as u64)
        }
    }
}
