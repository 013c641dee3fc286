//! Who may use an application's commands in a guild.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    envelope::{Scope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
    model::{AuditAction, CommandPermission, CommandPermissions},
    shard::realm,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgConnection, PgExecutor, types::Json as Jsonb};
use utoipa::ToSchema;

use super::{
    GuildCommandPath,
    place::{require_application, require_in_guild},
    store::find,
};
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, null_is_default},
    form::{Fault, FormErrors},
    integration,
};

const ENTRIES_MAX: usize = 100;

/// What a guild has set for an application's commands.
pub(crate) async fn rules(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
    applications: &[i64],
) -> Result<Vec<CommandPermissions>> {
    let rows = sqlx::query!(
        r#"select application_id, target_id,
                  permissions as "permissions: Jsonb<Vec<CommandPermission>>"
           from application_command_permission
           where guild_id = $1 and application_id = any($2) order by application_id, target_id"#,
        guild.to_db(),
        applications,
    )
    .fetch_all(db)
    .await?;
    let rules = rows.into_iter().map(|row| CommandPermissions {
        id: Id::from_db(row.target_id),
        application_id: Id::from_db(row.application_id),
        guild_id: guild,
        permissions: row.permissions.0,
    });
    Ok(rules.collect())
}

/// Those that were set, of the application itself and of its commands.
///
/// Errors: 10004, 20002, 20012, 50001.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/guilds/{guild_id}/commands/permissions",
    tag = "Application Commands",
    responses((status = 200, body = [CommandPermissions]))
)]
pub(super) async fn list_guild_application_command_permissions(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, guild_id)): Path<(Id<marker::Application>, Id<marker::Guild>)>,
) -> Result<Json<Vec<CommandPermissions>>> {
    let mut db = app.db.acquire().await?;
    check_reader(&mut db, &caller, application_id, guild_id).await?;
    let set = rules(&mut *db, guild_id, &[application_id.to_db()]).await?;
    Ok(Json(set))
}

/// The application reads its own; members of the guild read all.
///
/// Errors: 10004, 20012, 50001.
async fn check_reader(
    db: &mut PgConnection,
    caller: &CurrentUser,
    application: Id<marker::Application>,
    guild: Id<marker::Guild>,
) -> Result<()> {
    if caller.bot || caller.access.is_some() {
        require_application(caller, application)?;
    } else {
        access::guild(&mut *db, caller, guild, Permissions::empty()).await?;
    }
    require_in_guild(db, application, guild).await
}

/// Errors: 10004, 10063, 10066 when none were set, 20002, 20012, 50001.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/guilds/{guild_id}/commands/{command_id}/permissions",
    tag = "Application Commands",
    responses((status = 200, body = CommandPermissions))
)]
pub(super) async fn get_guild_application_command_permissions(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, guild_id, command_id)): Path<GuildCommandPath>,
) -> Result<Json<CommandPermissions>> {
    let mut db = app.db.acquire().await?;
    check_reader(&mut db, &caller, application_id, guild_id).await?;
    check_target(&mut db, application_id, guild_id, command_id).await?;
    let set = rules(&mut *db, guild_id, &[application_id.to_db()]).await?;
    let found = set.into_iter().find(|set| set.id == command_id.cast());
    Ok(Json(found.ok_or(ErrorCode::UnknownCommandPermissions)?))
}

/// A command that can be used in the guild, or the application itself. Errors: 10063.
async fn check_target(
    db: &mut PgConnection,
    application: Id<marker::Application>,
    guild: Id<marker::Guild>,
    target: Id<marker::Command>,
) -> Result<()> {
    if target == application.cast() {
        return Ok(());
    }
    let command = find(db, application, target).await?;
    if command.guild_id.is_none_or(|own| own == guild) {
        Ok(())
    } else {
        Err(ErrorCode::UnknownApplicationCommand.into())
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct SetPermissions {
    #[serde(deserialize_with = "null_is_default")]
    #[schema(max_items = 100)]
    permissions: Vec<EntryInput>,
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
struct EntryInput {
    #[schema(required)]
    id: Option<Id<marker::Any>>,
    #[serde(rename = "type")]
    #[schema(required, minimum = 1, maximum = 3)]
    kind: Option<u8>,
    #[schema(required)]
    permission: Option<bool>,
}

impl Form for SetPermissions {
    fn check(&self, form: &mut FormErrors) {
        if self.permissions.len() > ENTRIES_MAX {
            let (min, max) = (0, ENTRIES_MAX);
            form.add("permissions", Fault::BadLength { min, max });
        }
        let entries = self.permissions.iter().take(ENTRIES_MAX);
        for (index, entry) in entries.enumerate() {
            let path = |field: &str| format!("permissions.{index}.{field}");
            form.required(&path("id"), &entry.id);
            form.required(&path("permission"), &entry.permission);
            if let Some(kind) = form.required(&path("type"), &entry.kind)
                && !(1..=3).contains(kind)
            {
                form.add(path("type"), Fault::NotEnum(kind.to_string()));
            }
            let others = &self.permissions[..index];
            if others
                .iter()
                .any(|other| other.id == entry.id && other.kind == entry.kind)
            {
                let message = "The set already contains this value";
                let code = "SET_TYPE_ALREADY_CONTAINS_VALUE";
                form.add(path("id"), Fault::Other(code, message.into()));
            }
        }
    }
}

/// Replaces the entries of a command, or of the application itself; none takes them away.
/// By a person of the guild, with their own token or through the application.
///
/// Errors: 10002, 10004, 10063, 20001, 20012, 50001, 50013, 50035.
#[utoipa::path(
    put,
    path = "/applications/{application_id}/guilds/{guild_id}/commands/{command_id}/permissions",
    tag = "Application Commands",
    responses((status = 200, body = CommandPermissions))
)]
pub(super) async fn set_guild_application_command_permissions(
    State(app): State<App>,
    caller: CurrentUser,
    Path((application_id, guild_id, command_id)): Path<GuildCommandPath>,
    reason: Reason,
    Json(body): Json<SetPermissions>,
) -> Result<Json<CommandPermissions>> {
    caller.require_human()?;
    if caller.access.is_some() {
        require_application(&caller, application_id)?;
    }
    let entries = body.permissions.iter().filter_map(|entry| {
        Some(CommandPermission {
            id: entry.id?,
            kind: entry.kind?,
            permission: entry.permission?,
        })
    });
    let entries: Vec<CommandPermission> = entries.collect();
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD | Permissions::MANAGE_ROLES;
    let bot: Id<marker::User> = application_id.cast();
    access::lock_realms(&mut tx, [realm(guild_id), realm(bot)]).await?;
    let guild = access::guild(&mut *tx, &caller, guild_id, needed).await?;
    require_in_guild(&mut tx, application_id, guild_id).await?;
    check_target(&mut tx, application_id, guild_id, command_id).await?;
    check_entries(&mut tx, &guild, &entries).await?;
    let before = rules(&mut *tx, guild_id, &[application_id.to_db()]).await?;
    let before = before.into_iter().find(|set| set.id == command_id.cast());
    let before = before.map(|set| set.permissions).unwrap_or_default();
    if entries.is_empty() {
        sqlx::query!(
            "delete from application_command_permission
             where guild_id = $1 and application_id = $2 and target_id = $3",
            guild_id.to_db(),
            application_id.to_db(),
            command_id.to_db(),
        )
        .execute(&mut *tx)
        .await?;
    } else {
        sqlx::query!(
            "insert into application_command_permission (guild_id, application_id, target_id,
                                                         permissions)
             values ($1, $2, $3, $4)
             on conflict (guild_id, application_id, target_id)
             do update set permissions = excluded.permissions",
            guild_id.to_db(),
            application_id.to_db(),
            command_id.to_db(),
            Jsonb(&entries) as Jsonb<&Vec<CommandPermission>>,
        )
        .execute(&mut *tx)
        .await?;
    }
    let set = CommandPermissions {
        id: command_id.cast(),
        application_id,
        guild_id,
        permissions: entries,
    };
    let bots = integration::bots_of(&mut *tx, guild_id).await?;
    let managers = Scope::Permissions {
        any_of: Permissions::MANAGE_GUILD,
        channel: None,
    };
    let mut to_people = Visibility::of(managers, Intents::empty());
    to_people.except = bots;
    let to_bot = Visibility::users(vec![bot]);
    let kind = EventKind::ApplicationCommandPermissionsUpdate;
    // A bot that is no member hears nothing of the guild.
    let of_bot = match guildhall_store::guild::member(&mut *tx, guild_id, bot).await? {
        Some(_) => realm(guild_id),
        None => realm(bot),
    };
    let mut envelopes = Vec::new();
    for (realm, vis) in [(realm(guild_id), to_people), (of_bot, to_bot)] {
        envelopes.push(events::append(&mut tx, realm, kind, vis, &set, None).await?);
    }
    let entry = audit_entry(&caller, &set, &before, &reason);
    envelopes.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(Json(set))
}

/// Roles and channels must be of the guild. Errors: 50035.
async fn check_entries(
    db: &mut PgConnection,
    guild: &access::GuildAccess,
    entries: &[CommandPermission],
) -> Result<()> {
    let channels = entries
        .iter()
        .filter(|e| e.kind == CommandPermission::CHANNEL);
    let channels: Vec<i64> = channels.map(|entry| entry.id.to_db()).collect();
    let known = sqlx::query_scalar!(
        "select channel_id from channel where guild_id = $1 and channel_id = any($2)",
        guild.id.to_db(),
        &channels,
    )
    .fetch_all(db)
    .await?;
    let all_channels = guild.id.to_db() - 1;
    let mut form = FormErrors::new();
    for (index, entry) in entries.iter().enumerate() {
        let id = entry.id.to_db();
        let is_known = match entry.kind {
            CommandPermission::ROLE => guild.role(entry.id.cast()).is_some(),
            CommandPermission::CHANNEL => id == all_channels || known.contains(&id),
            _ => true,
        };
        if !is_known {
            let message = "Unknown role or channel";
            let code = "APPLICATION_COMMAND_PERMISSION_TARGET_UNKNOWN";
            let fault = Fault::Other(code, message.into());
            form.add(format!("permissions.{index}.id"), fault);
        }
    }
    form.finish()
}

fn audit_entry(
    caller: &CurrentUser,
    set: &CommandPermissions,
    before: &[CommandPermission],
    reason: &Reason,
) -> Entry {
    let action = AuditAction::APPLICATION_COMMAND_PERMISSION_UPDATE;
    let mut entry = Entry::new(set.guild_id, caller.id, action, reason)
        .target(set.id)
        .option("application_id", set.application_id);
    let same = |a: &CommandPermission, b: &CommandPermission| a.id == b.id && a.kind == b.kind;
    for new in &set.permissions {
        let old = before.iter().find(|old| same(old, new));
        if old != Some(new) {
            let old = old.map(|old| json!(old));
            entry = entry.change(&new.id.to_string(), old, Some(json!(new)));
        }
    }
    for old in before {
        if !set.permissions.iter().any(|new| same(old, new)) {
            entry = entry.change(&old.id.to_string(), Some(json!(old)), None);
        }
    }
    entry
}
