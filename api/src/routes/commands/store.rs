//! Commands as rows.

use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker,
    model::{Command, CommandBody, CommandKind},
};
use guildhall_store::ids_to_db;
use sqlx::{PgConnection, PgExecutor, types::Json as Jsonb};

use super::place::Place;
use crate::error::Result;

/// Commands of one kind, global or of one guild.
const CHAT_INPUT_MAX: usize = 100;
const CONTEXT_MENU_MAX: usize = 15;

pub(super) struct CommandRow {
    pub(super) command_id: i64,
    pub(super) application_id: i64,
    pub(super) guild_id: Option<i64>,
    pub(super) kind: i16,
    pub(super) name: String,
    pub(super) version: i64,
    pub(super) body: Jsonb<CommandBody>,
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

pub(super) async fn list(db: impl PgExecutor<'_>, place: Place) -> Result<Vec<Command>> {
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

/// Those of these that can be used in a guild, by id.
pub(crate) async fn by_ids(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
    ids: &[Id<marker::Command>],
) -> Result<Vec<Command>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as!(
        CommandRow,
        r#"select command_id, application_id, guild_id, kind, name, version,
                  body as "body: Jsonb<CommandBody>"
           from application_command
           where command_id = any($1) and (guild_id is null or guild_id = $2)
           order by command_id"#,
        &ids_to_db(ids),
        guild.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Command::from).collect())
}

/// Errors: 10063, also for a command of another place.
pub(super) async fn find_in(
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
pub(super) async fn store(db: &mut PgConnection, command: &Command) -> Result<()> {
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
pub(super) fn check_counts(commands: &[Command]) -> Result<()> {
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

/// Writes the commands anew, so that names may be swapped among them.
pub(super) async fn store_all(
    db: &mut PgConnection,
    place: Place,
    commands: &[Command],
) -> Result<()> {
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

/// Takes commands with their permissions.
pub(super) async fn delete(
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
