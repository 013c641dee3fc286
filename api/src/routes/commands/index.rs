//! What somebody can call in a guild or a channel: what a client's picker of commands loads.

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

use super::{
    context::{CallContext, GUILD_INSTALL, is_portable, is_usable_by_installer},
    rules,
    store::CommandRow,
};
use crate::{
    access::{self, GuildAccess, Place, Recipient},
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Json, Path},
    routes::applications,
};

/// Commands of one answer.
const COMMANDS_MAX: i64 = 5000;

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
    let spot = Spot::Guild(asker(&guild, guild.base(), None));
    let index = index(&app, &mut db, caller.id, spot).await?;
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
    let place = access::place(&mut db, &caller, channel_id, needed).await?;
    let spot = match &place {
        Place::Channel(access) => {
            let ruled = Some(access.channel.id);
            Spot::Guild(asker(&access.guild, access.permissions(), ruled))
        }
        // Rules name channels, not threads.
        Place::Thread(access) => {
            let ruled = Some(access.parent.id);
            Spot::Guild(asker(&access.guild, access.permissions(), ruled))
        }
        Place::Private(access) => Spot::Private(access.other().filter(|other| other.bot)),
    };
    let index = index(&app, &mut db, caller.id, spot).await?;
    Ok(Json(index))
}

/// Of the applications that the caller has installed, wherever they may be used. Errors: 20001.
#[utoipa::path(
    get,
    path = "/users/@me/application-command-index",
    tag = "Application Commands",
    responses((status = 200, body = CommandIndex))
)]
pub(super) async fn user_command_index(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<CommandIndex>> {
    caller.require_human()?;
    let mut db = app.db.acquire().await?;
    let index = index(&app, &mut db, caller.id, Spot::Anywhere).await?;
    Ok(Json(index))
}

/// What an index is of.
#[derive(Clone, Copy)]
enum Spot<'a> {
    Guild(Asker<'a>),
    /// Direct messages; the bot, if it is a bot's.
    Private(Option<Recipient>),
    /// Whatever the caller has installed.
    Anywhere,
}

impl Spot<'_> {
    fn guild(self) -> Option<Id<marker::Guild>> {
        match self {
            Self::Guild(asker) => Some(asker.guild),
            Self::Private(_) | Self::Anywhere => None,
        }
    }

    fn bot(self) -> Option<Id<marker::User>> {
        match self {
            Self::Private(bot) => bot.map(|bot| bot.user),
            Self::Guild(_) | Self::Anywhere => None,
        }
    }

    /// Whether the application being here lets the caller use a command of it.
    fn gives(self, set: &[CommandPermissions], command: &Command) -> bool {
        match self {
            Self::Guild(asker) => is_usable(asker, set, command),
            Self::Private(Some(_)) => is_usable_in_dm(command),
            Self::Private(None) | Self::Anywhere => false,
        }
    }

    /// Whether the caller may bring a command here.
    fn lets_in(self, command: &Command) -> bool {
        match self {
            Self::Guild(asker) => {
                is_usable_by_installer(command, CallContext::Guild, Some(asker.held))
            }
            Self::Private(Some(_)) => is_usable_by_installer(command, CallContext::BotDm, None),
            Self::Private(None) => is_usable_by_installer(command, CallContext::Private, None),
            Self::Anywhere => is_portable(command),
        }
    }
}

fn asker(
    guild: &GuildAccess,
    held: Permissions,
    channel: Option<Id<marker::Channel>>,
) -> Asker<'_> {
    Asker {
        guild: guild.id,
        user: guild.user,
        roles: &guild.member.roles,
        held,
        channel,
    }
}

async fn index(
    app: &App,
    db: &mut PgConnection,
    caller: Id<marker::User>,
    spot: Spot<'_>,
) -> Result<CommandIndex> {
    let rows = sqlx::query!(
        r#"with here as (
             select application_id from integration where guild_id = $1
             union select application_id from application where application_id = $2
           ), own as (
             select application_id from oauth2_grant where user_id = $3 and installed
           )
           select c.command_id, c.application_id, c.guild_id, c.kind, c.name, c.version,
                  c.body as "body: Jsonb<CommandBody>",
                  c.application_id in (select application_id from here) as "is_here!",
                  c.application_id in (select application_id from own) as "is_own!"
           from (select application_id from here union select application_id from own) a
           join application_command c using (application_id)
           where c.guild_id is null or c.guild_id = $1
           order by c.application_id, c.command_id limit $4"#,
        spot.guild().map(Id::to_db),
        spot.bot().map(Id::to_db),
        caller.to_db(),
        COMMANDS_MAX,
    )
    .fetch_all(&mut *db)
    .await?;
    let mut ids: Vec<i64> = rows.iter().map(|row| row.application_id).collect();
    ids.dedup();
    let set = match spot.guild() {
        Some(guild) => rules(&mut *db, guild, &ids).await?,
        None => Vec::new(),
    };
    let commands = rows.into_iter().filter_map(|row| {
        let (is_here, is_own) = (row.is_here, row.is_own);
        let command = Command::from(CommandRow {
            command_id: row.command_id,
            application_id: row.application_id,
            guild_id: row.guild_id,
            kind: row.kind,
            name: row.name,
            version: row.version,
            body: row.body,
        });
        let is_given = is_here && spot.gives(&set, &command);
        (is_given || is_own && spot.lets_in(&command)).then_some(command)
    });
    let commands: Vec<Command> = commands.collect();
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
    let rules = Rules {
        default: command.body.default_member_permissions,
        command: of(command.id.cast()),
        application: of(command.application_id.cast()),
    };
    let is_installed = command.body.integration_types.contains(&GUILD_INSTALL);
    is_installed && CallContext::Guild.takes(&command.body) && may_use(asker, rules)
}

/// Whether a command may be used in direct messages with its application's bot.
pub(crate) fn is_usable_in_dm(command: &Command) -> bool {
    command.guild_id.is_none()
        && command.body.integration_types.contains(&GUILD_INSTALL)
        && CallContext::BotDm.takes(&command.body)
}
