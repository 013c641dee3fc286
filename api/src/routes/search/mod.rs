//! Search in messages: of a guild, of one channel. Spec: limits-and-errors › Pagination.
//!
//! Only channels whose history the caller may read are searched. A channel is indexed up to
//! now when it is searched ([`index`]); what does not fit into a request's share is indexed
//! behind it, and the answer is 202 until then.

pub(crate) mod index;
mod query;

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    gateway::Intents,
    id::marker::{Channel, Guild},
    model::{ChannelKind, Message},
};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    index::Progress,
    query::{Search, SearchParams},
};
use crate::{
    access::{self, GuildAccess},
    app::App,
    auth::CurrentUser,
    error::{Result, json_response},
    extract::{Json, Path},
    routes::messages,
};

/// Matches that are counted; of more there are said to be so many.
const TOTAL_MAX: i64 = 10_000;
/// Threads of one guild that a search looks into, the newest ones.
const THREADS_MAX: i64 = 10_000;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(guild_search))
        .routes(routes!(channel_search))
}

#[derive(Debug, Serialize, ToSchema)]
struct SearchResult {
    doing_deep_historical_index: bool,
    /// 10000 if there are more.
    total_results: i64,
    /// One list per match.
    messages: Vec<Vec<FoundMessage>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct FoundMessage {
    #[serde(flatten)]
    message: Message,
    hit: bool,
}

/// Said with 202 while the index is behind.
#[derive(Debug, Serialize, ToSchema)]
struct IndexNotReady {
    message: &'static str,
    code: u32,
    documents_indexed: u32,
    /// Seconds.
    retry_after: u32,
}

/// Searches all channels of a guild whose history the caller may read.
///
/// Errors: 10004, 50001 (also for bots without the message content intent), 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/messages/search",
    tag = "Search",
    params(SearchParams),
    responses(
        (status = 200, body = SearchResult),
        (status = 202, body = IndexNotReady, description = "Try again later")
    )
)]
async fn guild_search(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    RawQuery(query): RawQuery,
) -> Result<Response> {
    let search = Search::parse(query.as_deref().unwrap_or_default())?;
    let mut db = app.db.acquire().await?;
    let guild = access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    if let Some((_, flags)) = user.account.application
        && user.bot
        && !Intents::allowed_by_application(flags).contains(Intents::MESSAGE_CONTENT)
    {
        return Err(ErrorCode::MissingAccess.into());
    }
    let mut channels = readable(&mut db, &guild, search.include_nsfw).await?;
    if !search.channels.is_empty() {
        channels.retain(|channel| search.channels.contains(channel));
    }
    answer(&app, &mut db, &user, &search, &channels).await
}

/// Searches one channel of any kind. Errors: 10003, 20001, 50001, 50013, 50035.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/messages/search",
    tag = "Search",
    params(SearchParams),
    responses(
        (status = 200, body = SearchResult),
        (status = 202, body = IndexNotReady, description = "Try again later")
    )
)]
async fn channel_search(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    RawQuery(query): RawQuery,
) -> Result<Response> {
    user.require_human()?;
    let search = Search::parse(query.as_deref().unwrap_or_default())?;
    let mut db = app.db.acquire().await?;
    let needed = Permissions::VIEW_CHANNEL | Permissions::READ_MESSAGE_HISTORY;
    access::place(&mut db, &user, channel_id, needed).await?;
    answer(&app, &mut db, &user, &search, &[channel_id]).await
}

async fn answer(
    app: &App,
    db: &mut PgConnection,
    user: &CurrentUser,
    search: &Search,
    channels: &[Id<Channel>],
) -> Result<Response> {
    if let Progress::Behind { indexed } = index::catch_up(app, db, channels).await? {
        let code = ErrorCode::IndexNotReady;
        let body = IndexNotReady {
            message: code.message(),
            code: code.code(),
            documents_indexed: indexed,
            retry_after: 2,
        };
        return Ok(json_response(StatusCode::ACCEPTED, &body));
    }
    let (total_results, places) = search.run(db, channels, TOTAL_MAX).await?;
    let found = messages::load::messages_at(&app.media, db, user.id, &places).await?;
    let messages = found.into_iter().map(|message| {
        let message = Message {
            reactions: Vec::new(),
            ..message
        };
        vec![FoundMessage { message, hit: true }]
    });
    let result = SearchResult {
        doing_deep_historical_index: false,
        total_results,
        messages: messages.collect(),
    };
    Ok(Json(result).into_response())
}

/// Channels and threads of a guild whose history the caller may read.
async fn readable(
    db: &mut PgConnection,
    guild: &GuildAccess,
    include_nsfw: bool,
) -> Result<Vec<Id<Channel>>> {
    let needed = Permissions::VIEW_CHANNEL | Permissions::READ_MESSAGE_HISTORY;
    let channels = guildhall_store::guild::channels(&mut *db, guild.id).await?;
    let mut open = Vec::new();
    let mut moderated = Vec::new();
    for channel in channels {
        let held = guild.in_channel(channel.kind, &channel.permission_overwrites);
        let is_hidden = channel.settings.nsfw == Some(true) && !include_nsfw;
        if is_hidden || !held.contains(needed) {
            continue;
        }
        if channel.kind.is_voice() && !held.contains(Permissions::CONNECT) {
            continue;
        }
        if held.contains(Permissions::MANAGE_THREADS) {
            moderated.push(channel.id.to_db());
        }
        open.push(channel.id);
    }
    let parents: Vec<i64> = open.iter().map(|channel| channel.to_db()).collect();
    let threads = sqlx::query_scalar!(
        "select t.thread_id from thread t join channel c on c.channel_id = t.thread_id
         where t.guild_id = $1 and t.parent_id = any($2)
           and (c.kind <> $3 or t.parent_id = any($4) or exists (
             select from thread_member m where m.thread_id = t.thread_id and m.user_id = $5))
         order by t.thread_id desc limit $6",
        guild.id.to_db(),
        &parents,
        i16::from(ChannelKind::PRIVATE_THREAD.0),
        &moderated,
        guild.user.to_db(),
        THREADS_MAX,
    )
    .fetch_all(db)
    .await?;
    open.extend(threads.into_iter().map(Id::<Channel>::from_db));
    Ok(open)
}
