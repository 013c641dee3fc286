//! Application commands, global and of one guild. Spec: Interactions › Application Commands.

mod announce;
mod check;
mod context;
mod index;
mod input;
mod localize;
mod permissions;
mod place;
mod store;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use guildhall_shared::{Id, id::marker, model::Command};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::{
    check::{check_choice_names, check_value},
    context::{CallContext, Presence, is_portable, is_usable_by_installer},
    index::{is_usable, is_usable_in_dm},
    permissions::rules,
    place::require_application,
    store::{by_ids, find},
};
use self::{
    input::{BulkInput, CommandInput},
    place::{Place, bulk_set_at, create_at, delete_at, get_at, list_at, update_at},
};
use crate::{
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path, Query, null_is_default},
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            list_application_commands,
            create_application_command,
            bulk_set_application_commands
        ))
        .routes(routes!(
            get_application_command,
            update_application_command,
            delete_application_command
        ))
        .routes(routes!(
            list_guild_application_commands,
            create_guild_application_command,
            bulk_set_guild_application_commands
        ))
        .routes(routes!(
            get_guild_application_command,
            update_guild_application_command,
            delete_guild_application_command
        ))
        .routes(routes!(
            permissions::list_guild_application_command_permissions
        ))
        .routes(routes!(
            permissions::get_guild_application_command_permissions,
            permissions::set_guild_application_command_permissions
        ))
        .routes(routes!(index::guild_command_index))
        .routes(routes!(index::channel_command_index))
        .routes(routes!(index::user_command_index))
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct ListCommands {
    /// All translations, in place of those in the caller's language.
    #[serde(deserialize_with = "null_is_default")]
    with_localizations: bool,
}

impl Form for ListCommands {}

/// Errors: 20002, 20012.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/commands",
    tag = "Application Commands",
    params(ListCommands),
    responses((status = 200, body = [Command]))
)]
async fn list_application_commands(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
    Query(query): Query<ListCommands>,
    headers: HeaderMap,
) -> Result<Json<Vec<Command>>> {
    list_at(
        &app,
        &caller,
        Place::global(application_id),
        &query,
        &headers,
    )
    .await
}

/// 201 for a new command; 200 where kind and name were there: it is replaced.
///
/// Errors: 20002, 20012, 30032, 30034, 50035.
#[utoipa::path(
    post,
    path = "/applications/{application_id}/commands",
    tag = "Application Commands",
    responses((status = 200, body = Command), (status = 201, body = Command))
)]
async fn create_application_command(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
    Json(body): Json<CommandInput>,
) -> Result<Response> {
    create_at(&app, &caller, Place::global(application_id), body).await
}

/// Replaces every global command. Errors: 20002, 20012, 30032, 30034, 50035.
#[utoipa::path(
    put,
    path = "/applications/{application_id}/commands",
    tag = "Application Commands",
    responses((status = 200, body = [Command]))
)]
async fn bulk_set_application_commands(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
    Json(body): Json<BulkInput>,
) -> Result<Json<Vec<Command>>> {
    bulk_set_at(&app, &caller, Place::global(application_id), body).await
}

/// Errors: 10063, 20002, 20012.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/commands/{command_id}",
    tag = "Application Commands",
    responses((status = 200, body = Command))
)]
async fn get_application_command(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, command_id)): Path<(Id<marker::Application>, Id<marker::Command>)>,
) -> Result<Json<Command>> {
    get_at(&app, &caller, Place::global(application_id), command_id).await
}

/// What is given is replaced as a whole. Errors: 10063, 20002, 20012, 40041, 50035.
#[utoipa::path(
    patch,
    path = "/applications/{application_id}/commands/{command_id}",
    tag = "Application Commands",
    responses((status = 200, body = Command))
)]
async fn update_application_command(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, command_id)): Path<(Id<marker::Application>, Id<marker::Command>)>,
    Json(body): Json<CommandInput>,
) -> Result<Json<Command>> {
    let place = Place::global(application_id);
    update_at(&app, &caller, place, command_id, body).await
}

/// Its permissions go too. Errors: 10063, 20002, 20012.
#[utoipa::path(
    delete,
    path = "/applications/{application_id}/commands/{command_id}",
    tag = "Application Commands",
    responses((status = 204, description = "Gone"))
)]
async fn delete_application_command(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, command_id)): Path<(Id<marker::Application>, Id<marker::Command>)>,
) -> Result<StatusCode> {
    delete_at(&app, &caller, Place::global(application_id), command_id).await
}

/// Errors: 10004, 20002, 20012, 50001.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/guilds/{guild_id}/commands",
    tag = "Application Commands",
    params(ListCommands),
    responses((status = 200, body = [Command]))
)]
async fn list_guild_application_commands(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, guild_id)): Path<(Id<marker::Application>, Id<marker::Guild>)>,
    Query(query): Query<ListCommands>,
    headers: HeaderMap,
) -> Result<Json<Vec<Command>>> {
    let place = Place::guild(application_id, guild_id);
    list_at(&app, &caller, place, &query, &headers).await
}

/// 201 for a new command; 200 where kind and name were there: it is replaced.
///
/// Errors: 10004, 20002, 20012, 30032, 30034, 50001, 50035.
#[utoipa::path(
    post,
    path = "/applications/{application_id}/guilds/{guild_id}/commands",
    tag = "Application Commands",
    responses((status = 200, body = Command), (status = 201, body = Command))
)]
async fn create_guild_application_command(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, guild_id)): Path<(Id<marker::Application>, Id<marker::Guild>)>,
    Json(body): Json<CommandInput>,
) -> Result<Response> {
    let place = Place::guild(application_id, guild_id);
    create_at(&app, &caller, place, body).await
}

/// Replaces every command of the application in the guild.
///
/// Errors: 10004, 20002, 20012, 30032, 30034, 50001, 50035.
#[utoipa::path(
    put,
    path = "/applications/{application_id}/guilds/{guild_id}/commands",
    tag = "Application Commands",
    responses((status = 200, body = [Command]))
)]
async fn bulk_set_guild_application_commands(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, guild_id)): Path<(Id<marker::Application>, Id<marker::Guild>)>,
    Json(body): Json<BulkInput>,
) -> Result<Json<Vec<Command>>> {
    let place = Place::guild(application_id, guild_id);
    bulk_set_at(&app, &caller, place, body).await
}

/// Of a path below a guild's commands.
type GuildCommandPath = (
    Id<marker::Application>,
    Id<marker::Guild>,
    Id<marker::Command>,
);

/// Errors: 10004, 10063, 20002, 20012, 50001.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/guilds/{guild_id}/commands/{command_id}",
    tag = "Application Commands",
    responses((status = 200, body = Command))
)]
async fn get_guild_application_command(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, guild_id, command_id)): Path<GuildCommandPath>,
) -> Result<Json<Command>> {
    let place = Place::guild(application_id, guild_id);
    get_at(&app, &caller, place, command_id).await
}

/// What is given is replaced as a whole.
///
/// Errors: 10004, 10063, 20002, 20012, 40041, 50001, 50035.
#[utoipa::path(
    patch,
    path = "/applications/{application_id}/guilds/{guild_id}/commands/{command_id}",
    tag = "Application Commands",
    responses((status = 200, body = Command))
)]
async fn update_guild_application_command(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, guild_id, command_id)): Path<GuildCommandPath>,
    Json(body): Json<CommandInput>,
) -> Result<Json<Command>> {
    let place = Place::guild(application_id, guild_id);
    update_at(&app, &caller, place, command_id, body).await
}

/// Its permissions go too. Errors: 10004, 10063, 20002, 20012, 50001.
#[utoipa::path(
    delete,
    path = "/applications/{application_id}/guilds/{guild_id}/commands/{command_id}",
    tag = "Application Commands",
    responses((status = 204, description = "Gone"))
)]
async fn delete_guild_application_command(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, guild_id, command_id)): Path<GuildCommandPath>,
) -> Result<StatusCode> {
    let place = Place::guild(application_id, guild_id);
    delete_at(&app, &caller, place, command_id).await
}
