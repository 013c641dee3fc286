//! Roles. Spec: objects.md › Role; permissions.md › Hierarchy.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, put},
};
use guildhall_shared::{
    Id, Permissions,
    envelope::Visibility,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Guild, User},
    model::{AuditAction, Role, RoleColors, present},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::members;
use crate::{
    access::{self, GuildAccess, RoleInfo},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
};

const ROLES_MAX: usize = 250;

pub(crate) fn router() -> Router<App> {
    let one = get(get_guild_role)
        .patch(update_guild_role)
        .delete(delete_guild_role);
    let of_member = put(add_guild_member_role).delete(delete_guild_member_role);
    Router::new()
        .route(
            "/guilds/{guild_id}/roles",
            get(list_guild_roles).post(create_guild_role),
        )
        .route("/guilds/{guild_id}/roles/{role_id}", one)
        .route(
            "/guilds/{guild_id}/members/{user_id}/roles/{role_id}",
            of_member,
        )
}

/// Body of GUILD_ROLE_CREATE and GUILD_ROLE_UPDATE.
#[derive(Serialize)]
pub(super) struct RoleEvent<'a> {
    pub(super) guild_id: Id<Guild>,
    pub(super) role: &'a Role,
}

#[derive(Serialize)]
pub(super) struct RoleDelete {
    pub(super) guild_id: Id<Guild>,
    pub(super) role_id: Id<marker::Role>,
}

pub(super) fn visibility() -> Visibility {
    Visibility::realm(Intents::GUILDS)
}

/// Errors: 10004, 50001.
async fn list_guild_roles(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Vec<Role>>> {
    access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    Ok(Json(
        guildhall_store::guild::roles(&app.db, guild_id).await?,
    ))
}

/// Errors: 10004, 10011, 50001.
async fn get_guild_role(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, role_id)): Path<(Id<Guild>, Id<marker::Role>)>,
) -> Result<Json<Role>> {
    access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    let mut db = app.db.acquire().await?;
    Ok(Json(role(&mut db, guild_id, role_id).await?))
}

async fn role(db: &mut PgConnection, guild: Id<Guild>, role: Id<marker::Role>) -> Result<Role> {
    let roles = guildhall_store::guild::roles(db, guild).await?;
    let found = roles.into_iter().find(|found| found.id == role);
    Ok(found.ok_or(ErrorCode::UnknownRole)?)
}

/// What a request says about a role; absent fields stay as they are.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct RoleFields {
    #[serde(deserialize_with = "present")]
    name: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    permissions: Option<Option<Permissions>>,
    color: Option<u32>,
    colors: Option<Colors>,
    hoist: Option<bool>,
    mentionable: Option<bool>,
    icon: Option<String>,
    unicode_emoji: Option<String>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Colors {
    primary_color: Option<u32>,
}

impl RoleFields {
    fn color(&self) -> Option<u32> {
        let primary = self.colors.as_ref().and_then(|colors| colors.primary_color);
        primary.or(self.color)
    }
}

impl Form for RoleFields {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(name)) = &self.name {
            form.length("name", name, 1..=100);
        }
        let primary = self.colors.as_ref().and_then(|colors| colors.primary_color);
        for (path, color) in [("color", self.color), ("colors.primary_color", primary)] {
            if let Some(color) = color {
                form.range(path, i64::from(color), 0..=0xFF_FFFF);
            }
        }
        for (path, given) in [
            ("icon", self.icon.is_some()),
            ("unicode_emoji", self.unicode_emoji.is_some()),
        ] {
            if given {
                form.add(path, super::guilds::no_images());
            }
        }
    }
}

/// Without permissions given, those of @everyone. Errors: 10004, 30005, 50001, 50013, 50035.
async fn create_guild_role(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<RoleFields>,
) -> Result<Json<Role>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    if access.roles.len() >= ROLES_MAX {
        return Err(ErrorCode::MaximumRoles.into());
    }
    let everyone = access.role(guild_id.cast());
    let permissions = match body.permissions.flatten() {
        Some(wanted) => {
            access.require(wanted)?;
            wanted
        }
        // The default may hold bits that the creator lacks only if @everyone holds them.
        None => everyone.map(|role| role.permissions).unwrap_or_default(),
    };
    let color = body.color().unwrap_or_default();
    let role = Role {
        id: app.snowflakes.next()?,
        name: match body.name.flatten() {
            Some(name) => super::clean(&name),
            None => "new role".to_owned(),
        },
        color,
        colors: RoleColors {
            primary_color: color,
            ..RoleColors::default()
        },
        hoist: body.hoist.unwrap_or_default(),
        icon: None,
        unicode_emoji: None,
        // The lowest place above @everyone, beside the others that are there.
        position: 1,
        permissions,
        managed: false,
        mentionable: body.mentionable.unwrap_or_default(),
        tags: None,
        flags: 0,
    };
    insert(&mut tx, guild_id, &role).await?;
    let event = RoleEvent {
        guild_id,
        role: &role,
    };
    let kind = EventKind::GuildRoleCreate;
    let mut events =
        vec![events::append(&mut tx, guild_id, kind, visibility(), &event, None).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::ROLE_CREATE, &reason)
        .target(role.id)
        .created(&role)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(role))
}

/// Stores a new role. The caller numbers its event.
pub(super) async fn insert(db: &mut PgConnection, guild: Id<Guild>, role: &Role) -> Result<()> {
    let bot = role.tags.and_then(|tags| tags.bot_id);
    sqlx::query!(
        "insert into role (guild_id, role_id, name, color, hoist, position, permissions, managed,
                           mentionable, bot_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        guild.to_db(),
        role.id.to_db(),
        role.name,
        role.color as i32,
        role.hoist,
        role.position,
        role.permissions.bits() as i64,
        role.managed,
        role.mentionable,
        bot.map(Id::to_db),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// @everyone may be changed in its permissions only. Bits that change must be the caller's.
///
/// Errors: 10004, 10011, 50001, 50013, 50035.
async fn update_guild_role(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, role_id)): Path<(Id<Guild>, Id<marker::Role>)>,
    reason: Reason,
    Json(body): Json<RoleFields>,
) -> Result<Json<Role>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let mut role = role(&mut tx, guild_id, role_id).await?;
    let before = role.clone();
    let is_everyone = role_id == guild_id.cast();
    if !is_everyone {
        access.require_above(role.rank())?;
    }
    if let Some(wanted) = body.permissions {
        let wanted = wanted.unwrap_or_default();
        access.require(wanted ^ role.permissions)?;
        role.permissions = wanted;
    }
    if !is_everyone {
        if let Some(color) = body.color() {
            role.color = color;
            role.colors.primary_color = color;
        }
        if let Some(name) = body.name {
            role.name = match name {
                Some(name) => super::clean(&name),
                None => "new role".to_owned(),
            };
        }
        role.hoist = body.hoist.unwrap_or(role.hoist);
        role.mentionable = body.mentionable.unwrap_or(role.mentionable);
    }
    sqlx::query!(
        "update role set name = $3, color = $4, hoist = $5, permissions = $6, mentionable = $7
         where guild_id = $1 and role_id = $2",
        guild_id.to_db(),
        role_id.to_db(),
        role.name,
        role.color as i32,
        role.hoist,
        role.permissions.bits() as i64,
        role.mentionable,
    )
    .execute(&mut *tx)
    .await?;
    let event = RoleEvent {
        guild_id,
        role: &role,
    };
    let kind = EventKind::GuildRoleUpdate;
    let mut events =
        vec![events::append(&mut tx, guild_id, kind, visibility(), &event, None).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::ROLE_UPDATE, &reason)
        .target(role_id)
        .changed(&before, &role)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(role))
}

/// Takes it from its holders and out of overwrites too. Errors: 10004, 10011, 50001, 50013, 50028.
async fn delete_guild_role(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, role_id)): Path<(Id<Guild>, Id<marker::Role>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let role = access.role(role_id).ok_or(ErrorCode::UnknownRole)?;
    if role.managed || role_id == guild_id.cast() {
        return Err(ErrorCode::InvalidRole.into());
    }
    access.require_above(role.rank())?;
    let before = self::role(&mut tx, guild_id, role_id).await?;
    delete(&mut tx, guild_id, role_id).await?;
    let body = RoleDelete { guild_id, role_id };
    let kind = EventKind::GuildRoleDelete;
    let mut events =
        vec![events::append(&mut tx, guild_id, kind, visibility(), &body, None).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::ROLE_DELETE, &reason)
        .target(role_id)
        .deleted(&before)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a role from the guild. The caller numbers its event.
pub(super) async fn delete(
    db: &mut PgConnection,
    guild: Id<Guild>,
    role: Id<marker::Role>,
) -> Result<()> {
    sqlx::query!(
        "delete from role where guild_id = $1 and role_id = $2",
        guild.to_db(),
        role.to_db(),
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "update member set roles = array_remove(roles, $2) where guild_id = $1 and $2 = any(roles)",
        guild.to_db(),
        role.to_db(),
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "update channel set overwrites = (
           select coalesce(jsonb_agg(o), '[]') from jsonb_array_elements(overwrites) o
           where o ->> 'id' <> $2::text)
         where guild_id = $1 and overwrites @> jsonb_build_array(jsonb_build_object('id', $2::text))",
        guild.to_db(),
        role.to_string(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A role that the caller may give and take.
///
/// Errors: 10011, 50013, 50028 for managed roles and @everyone.
pub(super) fn assignable(access: &GuildAccess, role: Id<marker::Role>) -> Result<&RoleInfo> {
    let found = access.role(role).ok_or(ErrorCode::UnknownRole)?;
    if found.managed || role == access.id.cast() {
        return Err(ErrorCode::InvalidRole.into());
    }
    access.require_above(found.rank())?;
    Ok(found)
}

type MemberRole = (Id<Guild>, Id<User>, Id<marker::Role>);

/// Also fine when the member has it already. Errors: 10004, 10007, 10011, 50001, 50013, 50028.
async fn add_guild_member_role(
    State(app): State<App>,
    user: CurrentUser,
    Path(ids): Path<MemberRole>,
    reason: Reason,
) -> Result<StatusCode> {
    change_member_role(&app, &user, ids, true, &reason).await
}

/// Also fine when the member has it not. Errors: 10004, 10007, 10011, 50001, 50013, 50028.
async fn delete_guild_member_role(
    State(app): State<App>,
    user: CurrentUser,
    Path(ids): Path<MemberRole>,
    reason: Reason,
) -> Result<StatusCode> {
    change_member_role(&app, &user, ids, false, &reason).await
}

async fn change_member_role(
    app: &App,
    user: &CurrentUser,
    (guild_id, target, role_id): MemberRole,
    give: bool,
    reason: &Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::guild_for_change(&mut tx, user, guild_id, needed).await?;
    assignable(&access, role_id)?;
    let mut member = guildhall_store::guild::member(&mut *tx, guild_id, target)
        .await?
        .ok_or(ErrorCode::UnknownMember)?;
    if member.roles.contains(&role_id) == give {
        return Ok(StatusCode::NO_CONTENT);
    }
    let before = member.clone();
    if give {
        member.roles.push(role_id);
    } else {
        member.roles.retain(|&held| held != role_id);
    }
    let mut events = vec![members::store(&mut tx, guild_id, target, &member).await?];
    events.extend(members::audit_roles(app, &mut tx, &access, &before, &member, reason).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// A fault for ids in a list of roles that are no roles of the guild.
pub(super) fn unknown_role(index: usize, form: &mut FormErrors) {
    let fault = Fault::Other("ROLE_UNKNOWN", "Unknown role".into());
    form.add(format!("roles.{index}"), fault);
}
