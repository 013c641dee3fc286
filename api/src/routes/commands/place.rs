//! Whose commands a request is about, and what it does with them: the same for global ones and
//! those of a guild.

use axum::{
    http::{HeaderMap, StatusCode},
    response::Response,
};
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker,
    model::{Command, CommandBody},
};
use sqlx::PgConnection;

use super::{
    ListCommands,
    announce::{announce, published},
    check,
    input::{BulkInput, CommandInput},
    localize::{locale, localize},
    store::{check_counts, delete, find_in, list, store, store_all},
};
use crate::{
    app::App,
    auth::CurrentUser,
    error::{Result, json_response},
    extract::Json,
    form::{Fault, FormErrors},
    rate_limit::Limit,
};

/// New commands of a place; one that takes the place of another of its name is none.
const NEW_DAILY: Limit = Limit::per_seconds(200, 24 * 3600);

/// Whose commands: an application's global ones, or those it has in one guild.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) application: Id<marker::Application>,
    pub(super) guild: Option<Id<marker::Guild>>,
}

impl Place {
    pub(super) fn global(application: Id<marker::Application>) -> Self {
        Self {
            application,
            guild: None,
        }
    }

    pub(super) fn guild(application: Id<marker::Application>, guild: Id<marker::Guild>) -> Self {
        Self {
            application,
            guild: Some(guild),
        }
    }

    /// Errors: 20002, 20012, 10004; 50001 for a guild that the application is not in.
    pub(super) async fn check(self, db: &mut PgConnection, caller: &CurrentUser) -> Result<()> {
        require_application(caller, self.application)?;
        match self.guild {
            Some(guild) => require_in_guild(db, self.application, guild).await,
            None => Ok(()),
        }
    }

    /// As [`Self::check`]; from here to the commit nobody else changes the application's commands.
    pub(super) async fn lock(self, db: &mut PgConnection, caller: &CurrentUser) -> Result<()> {
        self.check(&mut *db, caller).await?;
        sqlx::query!(
            "select from application
             where application_id = $1 and deleted_at is null for no key update",
            self.application.to_db(),
        )
        .fetch_optional(db)
        .await?
        .ok_or(ErrorCode::UnknownApplication)?;
        Ok(())
    }

    /// Counts new commands that are about to be stored. Errors: 30034.
    async fn count_new(self, app: &App, new: usize) -> Result<()> {
        if new == 0 {
            return Ok(());
        }
        let guild = self.guild.map_or(0, Id::get);
        let what = format!("commands:{}/{guild}", self.application);
        let code = ErrorCode::DailyCommandCreates;
        app.limiter.spend(&what, new as u32, NEW_DAILY, code).await
    }
}

/// A bot or an access token speaks for one application. Errors: 20002, 20012.
pub(crate) fn require_application(
    caller: &CurrentUser,
    application: Id<marker::Application>,
) -> Result<()> {
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

/// With its bot or without. Errors: 10004, 50001.
pub(super) async fn require_in_guild(
    db: &mut PgConnection,
    application: Id<marker::Application>,
    guild: Id<marker::Guild>,
) -> Result<()> {
    let is_in = sqlx::query_scalar!(
        r#"select exists (select from member m where m.guild_id = g.guild_id and m.user_id = $2)
                  or exists (select from integration i
                             where i.guild_id = g.guild_id and i.integration_id = $2) as "in!"
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

pub(super) async fn list_at(
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

pub(super) async fn get_at(
    app: &App,
    caller: &CurrentUser,
    place: Place,
    id: Id<marker::Command>,
) -> Result<Json<Command>> {
    let mut db = app.db.acquire().await?;
    place.check(&mut db, caller).await?;
    Ok(Json(find_in(&mut *db, place, id).await?))
}

pub(super) async fn create_at(
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
    place.count_new(app, usize::from(known.is_none())).await?;
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

pub(super) async fn update_at(
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

pub(super) async fn delete_at(
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

/// Replaces all commands of a place; those whose kind and name were there keep their ids.
pub(super) async fn bulk_set_at(
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
    let is_new = |new: &&Command| before.iter().all(|old| old.id != new.id);
    let new = after.iter().filter(is_new).count();
    place.count_new(app, new).await?;
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
