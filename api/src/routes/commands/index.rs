//! What a member can call in a guild or a channel: what a client's picker of commands loads.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    command_access::{Asker, Rules, may_use},
    id::marker,
    model::{Command, CommandBody, CommandPermissions, PublicApplication},
};
use serde::Serialize;
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::ToSchema;

use super::{rules, store::CommandRow};
use crate::{
    access::{self, GuildAccess},
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Json, Path},
    routes::applications,
};

/// Commands of one answer.
const COMMANDS_MAX: i64 = 5000;
/// `contexts` of a command that can be used in guilds.
const CONTEXT_GUILD: u8 = 0;
/// `integration_types` of a command that comes with an application into a guild.
const GUILD_INSTALL: u8 = 0;

/// Applications with the commands that the caller may use.
#[derive(Serialize, ToSchema)]
pub(super) struct CommandIndex {
    applications: Vec<PublicApplication>,
    application_commands: Vec<Command>,
    /// That of the newest command.
    version: Option<Id<marker::Any>>,
}

/// For members. Errors: 10004, 20001, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/application-command-index",
    tag = "Application Commands",
    responses((status = 200, body = CommandIndex))
)]
pub(super) async fn guild_command_index(
    State(app): State<App>,
    caller: CurrentUser,
    Path(guild_id): Path<Id<marker::Guild>>,
) -> Result<Json<CommandIndex>> {
    caller.require_human()?;
    let mut db = app.db.acquire().await?;
    let guild = access::guild(&mut *db, &caller, guild_id, Permissions::empty()).await?;
    let held = guild.base();
    let index = index(&app, &mut db, &guild, held, None).await?;
    Ok(Json(index))
}

/// For those who see the channel. Errors: 10003, 20001, 50001.
#[utoipa::path(
    get,
    path = "/channels/{channel_id}/application-command-index",
    tag = "Application Commands",
    responses((status = 200, body = CommandIndex))
)]
pub(super) async fn channel_command_index(
    State(app): State<App>,
    caller: CurrentUser,
    Path(channel_id): Path<Id<marker::Channel>>,
) -> Result<Json<CommandIndex>> {
    caller.require_human()?;
    let mut db = app.db.acquire().await?;
    let needed = Permissions::VIEW_CHANNEL;
    let access = access::channel(&mut db, &caller, channel_id, needed).await?;
    let channel = &access.channel;
    // Rules name channels, not threads.
    let ruled = match channel.kind.is_thread() {
        true => channel.parent_id,
        false => Some(channel.id),
    };
    let held = access.permissions();
    let index = index(&app, &mut db, &access.guild, held, ruled).await?;
    Ok(Json(index))
}

async fn index(
    app: &App,
    db: &mut PgConnection,
    guild: &GuildAccess,
    held: Permissions,
    channel: Option<Id<marker::Channel>>,
) -> Result<CommandIndex> {
    let rows = sqlx::query_as!(
        CommandRow,
        r#"select c.command_id, c.application_id, c.guild_id, c.kind, c.name, c.version,
                  c.body as "body: Jsonb<CommandBody>"
           from integration i join application_command c using (application_id)
           where i.guild_id = $1 and (c.guild_id is null or c.guild_id = $1)
           order by c.application_id, c.command_id limit $2"#,
        guild.id.to_db(),
        COMMANDS_MAX,
    )
    .fetch_all(&mut *db)
    .await?;
    let mut ids: Vec<i64> = rows.iter().map(|row| row.application_id).collect();
    ids.dedup();
    let set = rules(&mut *db, guild.id, &ids).await?;
    let asker = Asker {
        guild: guild.id,
        user: guild.user,
        roles: &guild.member.roles,
        held,
        channel,
    };
    let commands: Vec<Command> = rows
        .into_iter()
        .map(Command::from)
        .filter(|command| is_usable(asker, &set, command))
        .collect();
    ids.retain(|&id| {
        let mut used = commands.iter();
        used.any(|command| command.application_id.to_db() == id)
    });
    let found = applications::find_all(&mut *db, &app.config.cluster_key, &ids).await?;
    Ok(CommandIndex {
        applications: found.into_iter().map(PublicApplication::from).collect(),
        version: commands.iter().map(|command| command.version).max(),
        application_commands: commands,
    })
}

/// Whether a guild's rules let the asker use a command.
pub(crate) fn is_usable(asker: Asker<'_>, set: &[CommandPermissions], command: &Command) -> bool {
    let of = |id: Id<marker::Any>| {
        let found = set
            .iter()
            .find(|set| set.id == id && set.application_id == command.application_id);
        found.map_or(&[][..], |set| &set.permissions)
    };
    let contexts = command.body.contexts.as_deref();
    let is_for_guilds = contexts.is_none_or(|contexts| contexts.contains(&CONTEXT_GUILD));
    let rules = Rules {
        default: command.body.default_member_permissions,
        command: of(command.id.cast()),
        application: of(command.application_id.cast()),
    };
    let is_installed = command.body.integration_types.contains(&GUILD_INSTALL);
    is_installed && is_for_guilds && may_use(asker, rules)
}
