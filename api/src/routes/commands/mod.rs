//! Application commands, global and of one guild. Spec: Interactions › Application Commands.

mod check;
mod index;
mod input;
mod permissions;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
    model::{Command, CommandBody, CommandKind, CommandOption, Localizations},
};
use serde::Deserialize;
use serde_json::json;
use sqlx::{PgConnection, PgExecutor, types::Json as Jsonb};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::input::{BulkInput, CommandInput};
pub(crate) use self::{check::check_value, index::is_usable, permissions::rules};
use crate::{
    app::App,
    auth::CurrentUser,
    error::{Result, json_response},
    events,
    extract::{Form, Json, Path, Query, null_is_default},
    form::{Fault, FormErrors},
};

/// Commands of one kind, global or of one guild.
const CHAT_INPUT_MAX: usize = 100;
const CONTEXT_MENU_MAX: usize = 15;
/// Guilds that are told of a changed global command by one query.
const GUILDS_BATCH: i64 = 1000;

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
}

/// Whose commands: an application's global ones, or those it has in one guild.
#[derive(Debug, Clone, Copy)]
struct Place {
    application: Id<marker::Application>,
    guild: Option<Id<marker::Guild>>,
}

impl Place {
    fn global(application: Id<marker::Application>) -> Self {
        Self {
            application,
            guild: None,
        }
    }

    fn guild(application: Id<marker::Application>, guild: Id<marker::Guild>) -> Self {
        Self {
            application,
            guild: Some(guild),
        }
    }

    /// Errors: 20002, 20012, 10004; 50001 for a guild that the application is not in.
    async fn check(self, db: &mut PgConnection, caller: &CurrentUser) -> Result<()> {
        require_application(caller, self.application)?;
        match self.guild {
            Some(guild) => require_in_guild(db, self.application, guild).await,
            None => Ok(()),
        }
    }

    /// As [`Self::check`]; from here to the commit nobody else changes the application's commands.
    async fn lock(self, db: &mut PgConnection, caller: &CurrentUser) -> Result<()> {
        self.check(&mut *db, caller).await?;
        sqlx::query!(
            "select from application where application_id = $1 and deleted_at is null for update",
            self.application.to_db(),
        )
        .fetch_optional(db)
        .await?
        .ok_or(ErrorCode::UnknownApplication)?;
        Ok(())
    }
}

/// A bot or an access token speaks for one application. Errors: 20002, 20012.
fn require_application(caller: &CurrentUser, application: Id<marker::Application>) -> Result<()> {
    let own = match &caller.access {
        Some(access) => access.application,
        None => {
            caller.require_bot()?;
            caller.id.cast()
        }
    };
    if own == application {
        Ok(())
    } else {
        Err(ErrorCode::NotAuthorizedOnApplication.into())
    }
}

/// Errors: 10004, 50001.
async fn require_in_guild(
    db: &mut PgConnection,
    application: Id<marker::Application>,
    guild: Id<marker::Guild>,
) -> Result<()> {
    let is_in = sqlx::query_scalar!(
        r#"select exists (select from member m where m.guild_id = g.guild_id and m.user_id = $2)
                  as "in!"
           from guild g where g.guild_id = $1"#,
        guild.to_db(),
        application.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(ErrorCode::UnknownGuild)?;
    if is_in {
        Ok(())
    } else {
        Err(ErrorCode::MissingAccess.into())
    }
}

struct CommandRow {
    command_id: i64,
    application_id: i64,
    guild_id: Option<i64>,
    kind: i16,
    name: String,
    version: i64,
    body: Jsonb<CommandBody>,
}

impl From<CommandRow> for Command {
    fn from(row: CommandRow) -> Self {
        Self {
            id: Id::from_db(row.command_id),
            application_id: Id::from_db(row.application_id),
            guild_id: row.guild_id.map(Id::from_db),
            kind: CommandKind(row.kind as u8),
            name: row.name,
            version: Id::from_db(row.version),
            body: row.body.0,
        }
    }
}

async fn list(db: impl PgExecutor<'_>, place: Place) -> Result<Vec<Command>> {
    let rows = sqlx::query_as!(
        CommandRow,
        r#"select command_id, application_id, guild_id, kind, name, version,
                  body as "body: Jsonb<CommandBody>"
           from application_command
           where application_id = $1 and coalesce(guild_id, 0) = $2 order by command_id"#,
        place.application.to_db(),
        place.guild.map_or(0, Id::to_db),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Command::from).collect())
}

/// A command wherever it is. Errors: 10063.
pub(crate) async fn find(
    db: impl PgExecutor<'_>,
    application: Id<marker::Application>,
    id: Id<marker::Command>,
) -> Result<Command> {
    let row = sqlx::query_as!(
        CommandRow,
        r#"select command_id, application_id, guild_id, kind, name, version,
                  body as "body: Jsonb<CommandBody>"
           from application_command where command_id = $1 and application_id = $2"#,
        id.to_db(),
        application.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(ErrorCode::UnknownApplicationCommand)?;
    Ok(row.into())
}

/// Errors: 10063, also for a command of another place.
async fn find_in(
    db: impl PgExecutor<'_>,
    place: Place,
    id: Id<marker::Command>,
) -> Result<Command> {
    let command = find(db, place.application, id).await?;
    if command.guild_id == place.guild {
        Ok(command)
    } else {
        Err(ErrorCode::UnknownApplicationCommand.into())
    }
}

/// Stores a command, new or changed. Its place must be locked.
async fn store(db: &mut PgConnection, command: &Command) -> Result<()> {
    sqlx::query!(
        "insert into application_command (command_id, application_id, guild_id, kind, name,
                                          version, body)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (command_id) do update
         set name = excluded.name, version = excluded.version, body = excluded.body",
        command.id.to_db(),
        command.application_id.to_db(),
        command.guild_id.map(Id::to_db),
        i16::from(command.kind.0),
        command.name,
        command.version.to_db(),
        Jsonb(&command.body) as Jsonb<&CommandBody>,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Errors: 30032.
fn check_counts(commands: &[Command]) -> Result<()> {
    let count = |kind: CommandKind| commands.iter().filter(|c| c.kind == kind).count();
    let is_within = count(CommandKind::CHAT_INPUT) <= CHAT_INPUT_MAX
        && count(CommandKind::USER) <= CONTEXT_MENU_MAX
        && count(CommandKind::MESSAGE) <= CONTEXT_MENU_MAX
        && count(CommandKind::ENTRY_POINT) <= 1;
    if is_within {
        Ok(())
    } else {
        Err(ErrorCode::MaximumCommands.into())
    }
}

/// Tells the people of the guilds concerned that what they may call has changed: of one guild
/// by a numbered event, of all of an application's guilds best effort, after the commit.
async fn announce(db: &mut PgConnection, place: Place) -> Result<Option<Envelope>> {
    let Some(guild) = place.guild else {
        return Ok(None);
    };
    let bots = bots_of(&mut *db, guild).await?;
    let (vis, body) = index_update(guild, bots);
    let kind = EventKind::GuildApplicationCommandIndexUpdate;
    events::append(db, guild, kind, vis, &body, None)
        .await
        .map(Some)
}

fn index_update(
    guild: Id<marker::Guild>,
    bots: Vec<Id<marker::User>>,
) -> (Visibility, serde_json::Value) {
    let mut vis = Visibility::realm(Intents::empty());
    // For people only.
    vis.except = bots;
    (vis, json!({ "guild_id": guild }))
}

/// The bots of a guild.
pub(crate) async fn bots_of(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
) -> Result<Vec<Id<marker::User>>> {
    let bots = sqlx::query_scalar!(
        "select application_id from integration where guild_id = $1",
        guild.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(guildhall_store::ids_from_db(bots))
}

/// After the commit of a change: publishes its event, or tells all guilds in the background.
fn published(app: &App, place: Place, event: Option<Envelope>) {
    if place.guild.is_some() {
        app.publisher.publish(event);
        return;
    }
    let told = app.clone();
    app.work.spawn(async move {
        let telling = tell_all_guilds(&told, place.application);
        if let Some(Err(error)) = told.stop.run_until_cancelled(telling).await {
            tracing::warn!(?error, "guilds were not told of a changed command");
        }
    });
}

async fn tell_all_guilds(app: &App, application: Id<marker::Application>) -> Result<()> {
    let mut after = 0;
    loop {
        let guilds = sqlx::query!(
            r#"select i.guild_id, (select array_agg(o.application_id) from integration o
                                   where o.guild_id = i.guild_id) as "bots!"
               from integration i
               where i.application_id = $1 and i.guild_id > $2 order by i.guild_id limit $3"#,
            application.to_db(),
            after,
            GUILDS_BATCH,
        )
        .fetch_all(&app.db)
        .await?;
        let Some(last) = guilds.last() else {
            return Ok(());
        };
        after = last.guild_id;
        for row in guilds {
            let guild: Id<marker::Guild> = Id::from_db(row.guild_id);
            let (vis, body) = index_update(guild, guildhall_store::ids_from_db(row.bots));
            let kind = EventKind::GuildApplicationCommandIndexUpdate;
            app.publisher.publish_ephemeral(guild, kind, vis, &body)?;
        }
    }
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

/// The language a reply is wanted in, as clients say it.
fn locale(headers: &HeaderMap) -> Option<&str> {
    let own = headers.get("x-discord-locale");
    let value = own.or_else(|| headers.get(header::ACCEPT_LANGUAGE))?;
    let first = value.to_str().ok()?.split([',', ';']).next()?.trim();
    Some(first)
}

/// Replaces translations by the one in the caller's language.
fn localize(command: &mut Command, locale: Option<&str>) {
    let pick = |all: &mut Option<Localizations>| {
        let all = all.take()?;
        all.get(locale?).cloned()
    };
    let body = &mut command.body;
    body.name_localized = pick(&mut body.name_localizations);
    body.description_localized = pick(&mut body.description_localizations);
    for option in &mut body.options {
        localize_option(option, &pick);
    }
}

fn localize_option(
    option: &mut CommandOption,
    pick: &impl Fn(&mut Option<Localizations>) -> Option<String>,
) {
    option.name_localized = pick(&mut option.name_localizations);
    option.description_localized = pick(&mut option.description_localizations);
    for choice in &mut option.choices {
        choice.name_localized = pick(&mut choice.name_localizations);
    }
    for inner in &mut option.options {
        localize_option(inner, pick);
    }
}

async fn list_at(
    app: &App,
    caller: &CurrentUser,
    place: Place,
    query: &ListCommands,
    headers: &HeaderMap,
) -> Result<Json<Vec<Command>>> {
    let mut db = app.db.acquire().await?;
    place.check(&mut db, caller).await?;
    let mut commands = list(&mut *db, place).await?;
    if !query.with_localizations {
        for command in &mut commands {
            localize(command, locale(headers));
        }
    }
    Ok(Json(commands))
}

async fn get_at(
    app: &App,
    caller: &CurrentUser,
    place: Place,
    id: Id<marker::Command>,
) -> Result<Json<Command>> {
    let mut db = app.db.acquire().await?;
    place.check(&mut db, caller).await?;
    Ok(Json(find_in(&mut *db, place, id).await?))
}

async fn create_at(
    app: &App,
    caller: &CurrentUser,
    place: Place,
    input: CommandInput,
) -> Result<Response> {
    let kind = input.kind();
    let mut form = FormErrors::new();
    check::new_command(&mut form, "", &input, place.guild.is_some());
    form.finish()?;
    let mut tx = app.db.begin().await?;
    place.lock(&mut tx, caller).await?;
    let mut commands = list(&mut *tx, place).await?;
    let name = input.name();
    let known = commands
        .iter()
        .position(|command| command.kind == kind && command.name == name);
    let id = match known {
        Some(index) => commands.swap_remove(index).id,
        None => app.snowflakes.next()?,
    };
    let command = Command {
        id,
        application_id: place.application,
        guild_id: place.guild,
        kind,
        name,
        version: app.snowflakes.next()?,
        body: input.into_body(CommandBody::default(), kind),
    };
    check::whole(&command)?;
    commands.push(command.clone());
    check_counts(&commands)?;
    store(&mut tx, &command).await?;
    let event = announce(&mut tx, place).await?;
    tx.commit().await?;
    published(app, place, event);
    let status = match known {
        Some(_) => StatusCode::OK,
        None => StatusCode::CREATED,
    };
    Ok(json_response(status, &command))
}

async fn update_at(
    app: &App,
    caller: &CurrentUser,
    place: Place,
    id: Id<marker::Command>,
    input: CommandInput,
) -> Result<Json<Command>> {
    let mut tx = app.db.begin().await?;
    place.lock(&mut tx, caller).await?;
    let mut command = find_in(&mut *tx, place, id).await?;
    let mut form = FormErrors::new();
    check::changes(&mut form, &input, command.kind);
    form.finish()?;
    if input.has_name() {
        command.name = input.name();
        let others = list(&mut *tx, place).await?;
        let is_taken = others.iter().any(|other| {
            other.id != id && other.kind == command.kind && other.name == command.name
        });
        if is_taken {
            return Err(ErrorCode::CommandNameExists.into());
        }
    }
    command.body = input.into_body(command.body, command.kind);
    command.version = app.snowflakes.next()?;
    check::whole(&command)?;
    store(&mut tx, &command).await?;
    let event = announce(&mut tx, place).await?;
    tx.commit().await?;
    published(app, place, event);
    Ok(Json(command))
}

async fn delete_at(
    app: &App,
    caller: &CurrentUser,
    place: Place,
    id: Id<marker::Command>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    place.lock(&mut tx, caller).await?;
    find_in(&mut *tx, place, id).await?;
    delete(&mut tx, place.application, &[id.to_db()]).await?;
    let event = announce(&mut tx, place).await?;
    tx.commit().await?;
    published(app, place, event);
    Ok(StatusCode::NO_CONTENT)
}

/// Takes commands with their permissions.
async fn delete(
    db: &mut PgConnection,
    application: Id<marker::Application>,
    ids: &[i64],
) -> Result<()> {
    sqlx::query!(
        "delete from application_command where command_id = any($1) and application_id = $2",
        ids,
        application.to_db(),
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "delete from application_command_permission
         where application_id = $2 and target_id = any($1)",
        ids,
        application.to_db(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Replaces all commands of a place; those whose kind and name were there keep their ids.
async fn bulk_set_at(
    app: &App,
    caller: &CurrentUser,
    place: Place,
    inputs: BulkInput,
) -> Result<Json<Vec<Command>>> {
    let mut form = FormErrors::new();
    let inputs = inputs.0.unwrap_or_default();
    for (index, input) in inputs.iter().enumerate() {
        check::new_command(
            &mut form,
            &format!("{index}."),
            input,
            place.guild.is_some(),
        );
        let is_double = inputs[..index]
            .iter()
            .any(|other| other.kind() == input.kind() && other.name() == input.name());
        if is_double {
            let message = "Application command names must be unique";
            let fault = Fault::Other("APPLICATION_COMMANDS_DUPLICATE_NAME", message.into());
            form.add(format!("{index}.name"), fault);
        }
    }
    form.finish()?;
    let mut tx = app.db.begin().await?;
    place.lock(&mut tx, caller).await?;
    let before = list(&mut *tx, place).await?;
    let mut after: Vec<Command> = Vec::with_capacity(inputs.len());
    for input in inputs {
        let (kind, name) = (input.kind(), input.name());
        // An id renames; without one, the name says which command it is.
        let by_id = before
            .iter()
            .find(|old| Some(old.id) == input.id && old.kind == kind);
        let by_name = || {
            let mut found = before.iter();
            found.find(|old| old.kind == kind && old.name == name)
        };
        let is_free = |old: &&Command| after.iter().all(|new| new.id != old.id);
        let old = by_id.or_else(by_name).filter(is_free);
        let id = match old {
            Some(old) => old.id,
            None => app.snowflakes.next()?,
        };
        let body = input.into_body(CommandBody::default(), kind);
        let is_same = old.is_some_and(|old| old.name == name && old.body == body);
        let version = match old {
            Some(old) if is_same => old.version,
            _ => app.snowflakes.next()?,
        };
        let command = Command {
            id,
            application_id: place.application,
            guild_id: place.guild,
            kind,
            name,
            version,
            body,
        };
        check::whole(&command)?;
        after.push(command);
    }
    check_counts(&after)?;
    if before != after {
        let gone: Vec<i64> = before
            .iter()
            .filter(|old| after.iter().all(|new| new.id != old.id))
            .map(|old| old.id.to_db())
            .collect();
        delete(&mut tx, place.application, &gone).await?;
        store_all(&mut tx, place, &after).await?;
    }
    let event = announce(&mut tx, place).await?;
    tx.commit().await?;
    published(app, place, event);
    Ok(Json(after))
}

/// Writes the commands anew, so that names may be swapped among them.
async fn store_all(db: &mut PgConnection, place: Place, commands: &[Command]) -> Result<()> {
    let ids: Vec<i64> = commands.iter().map(|command| command.id.to_db()).collect();
    let kinds: Vec<i16> = commands.iter().map(|c| i16::from(c.kind.0)).collect();
    let names: Vec<String> = commands.iter().map(|c| c.name.clone()).collect();
    let versions: Vec<i64> = commands.iter().map(|c| c.version.to_db()).collect();
    let bodies = commands.iter().map(|c| serde_json::to_string(&c.body));
    let bodies: Vec<String> = bodies.collect::<serde_json::Result<_>>()?;
    sqlx::query!(
        "delete from application_command where command_id = any($1)",
        &ids
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "insert into application_command (command_id, application_id, guild_id, kind, name,
                                          version, body)
         select id, $1, $2, kind, name, version, body::jsonb
         from unnest($3::bigint[], $4::smallint[], $5::text[], $6::bigint[], $7::text[])
              as row (id, kind, name, version, body)",
        place.application.to_db(),
        place.guild.map(Id::to_db),
        &ids,
        &kinds,
        &names,
        &versions,
        &bodies,
    )
    .execute(db)
    .await?;
    Ok(())
}

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
/// Errors: 20002, 20012, 30032, 50035.
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

/// Replaces every global command. Errors: 20002, 20012, 30032, 50035.
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
/// Errors: 10004, 20002, 20012, 30032, 50001, 50035.
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
/// Errors: 10004, 20002, 20012, 30032, 50001, 50035.
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
