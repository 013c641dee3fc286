//! Roles. Spec: objects.md › Role; permissions.md › Hierarchy.

mod holders;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Guild},
    model::{AuditAction, Role, RoleColors, present},
    permissions::Rank,
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::holders::take_deleted;
use super::{channels::stored, emojis};
use crate::{
    access::{self, GuildAccess, RoleInfo},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    media::{ImageOf, check_image, store_optional_image},
    text::clean,
};

const ROLES_MAX: usize = 250;
const COLOR_MAX: i64 = 0xFF_FFFF;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            list_guild_roles,
            create_guild_role,
            bulk_update_guild_roles
        ))
        .routes(routes!(holders::guild_role_member_counts))
        .routes(routes!(
            get_guild_role,
            update_guild_role,
            delete_guild_role
        ))
        .routes(routes!(holders::role_member_ids))
        .routes(routes!(holders::role_members_add))
        .routes(routes!(
            holders::add_guild_member_role,
            holders::delete_guild_member_role
        ))
}

/// Body of GUILD_ROLE_CREATE and GUILD_ROLE_UPDATE.
#[derive(Serialize)]
pub(crate) struct RoleEvent<'a> {
    pub(crate) guild_id: Id<Guild>,
    pub(crate) role: &'a Role,
}

#[derive(Serialize)]
struct RoleDelete {
    guild_id: Id<Guild>,
    role_id: Id<marker::Role>,
}

pub(crate) fn visibility() -> Visibility {
    Visibility::realm(Intents::GUILDS)
}

/// Numbers GUILD_ROLE_CREATE or GUILD_ROLE_UPDATE.
pub(crate) async fn append(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    kind: EventKind,
    role: &Role,
) -> Result<Envelope> {
    let body = RoleEvent { guild_id, role };
    events::append(db, guild_id, kind, visibility(), &body, None).await
}

/// Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/roles",
    tag = "Roles",
    responses((status = 200, body = Vec<Role>))
)]
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
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/roles/{role_id}",
    tag = "Roles",
    responses((status = 200, body = Role))
)]
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

/// What a request says about a role; absent fields stay as they are, null gives a field its first
/// value back.
#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct RoleFields {
    #[serde(deserialize_with = "present")]
    #[schema(min_length = 1, max_length = 100)]
    name: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    permissions: Option<Option<Permissions>>,
    #[serde(deserialize_with = "present")]
    #[schema(maximum = 16_777_215)]
    color: Option<Option<u32>>,
    #[serde(deserialize_with = "present")]
    colors: Option<Option<Colors>>,
    #[serde(deserialize_with = "present")]
    hoist: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    mentionable: Option<Option<bool>>,
    /// Of icon and emoji a role has one: giving one takes the other away.
    #[serde(deserialize_with = "present")]
    icon: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    #[schema(max_length = 100)]
    unicode_emoji: Option<Option<String>>,
}

/// With `primary_color`: all three are set. Null and absence are the same.
#[derive(Debug, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
struct Colors {
    #[schema(maximum = 16_777_215)]
    primary_color: Option<u32>,
    #[schema(maximum = 16_777_215)]
    secondary_color: Option<u32>,
    #[schema(maximum = 16_777_215)]
    tertiary_color: Option<u32>,
}

impl RoleFields {
    /// `colors` wins over its older twin.
    fn colors(&self) -> Option<RoleColors> {
        match (&self.colors, self.color) {
            (Some(Some(colors)), color) => Some(RoleColors {
                primary_color: colors.primary_color.or(color.flatten()).unwrap_or_default(),
                secondary_color: colors.secondary_color,
                tertiary_color: colors.tertiary_color,
            }),
            (None, None) => None,
            (Some(None) | None, color) => Some(RoleColors {
                primary_color: color.flatten().unwrap_or_default(),
                ..RoleColors::default()
            }),
        }
    }
}

impl Form for RoleFields {
    fn check(&self, form: &mut FormErrors) {
        if let Some(Some(name)) = &self.name {
            form.length("name", name, 1..=100);
        }
        let mut colors = vec![("color", self.color.flatten())];
        if let Some(Some(set)) = &self.colors {
            colors.push(("colors.primary_color", set.primary_color));
            colors.push(("colors.secondary_color", set.secondary_color));
            colors.push(("colors.tertiary_color", set.tertiary_color));
        }
        for (path, color) in colors {
            if let Some(color) = color {
                form.range(path, i64::from(color), 0..=COLOR_MAX);
            }
        }
        let icon = self.icon.as_ref().and_then(Option::as_deref);
        check_image(form, "icon", icon);
        if let Some(Some(emoji)) = &self.unicode_emoji {
            form.length("unicode_emoji", emoji, 1..=100);
        }
    }
}

/// Stores a new icon, for who may give roles one. Errors: 10004, 50001, 50013, 50035.
async fn store_icon(
    app: &App,
    user: &CurrentUser,
    guild: Id<Guild>,
    role: Id<marker::Role>,
    body: &RoleFields,
) -> Result<Option<Option<String>>> {
    if body.icon.is_some() {
        access::guild(&app.db, user, guild, Permissions::MANAGE_ROLES).await?;
    }
    store_optional_image(&app.media, ImageOf::RoleIcon(role), "icon", &body.icon).await
}

fn apply_icon(role: &mut Role, icon: Option<Option<String>>, emoji: &Option<Option<String>>) {
    if let Some(icon) = icon {
        role.unicode_emoji = role.unicode_emoji.take().filter(|_| icon.is_none());
        role.icon = icon;
    }
    if let Some(emoji) = emoji {
        role.icon = role.icon.take().filter(|_| emoji.is_none());
        role.unicode_emoji = emoji.as_deref().map(clean);
    }
}

/// Without permissions given, those of @everyone. Errors: 10004, 30005, 50001, 50013, 50035.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/roles",
    tag = "Roles",
    responses((status = 200, body = Role))
)]
async fn create_guild_role(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<RoleFields>,
) -> Result<Json<Role>> {
    let id = app.snowflakes.next()?;
    let icon = store_icon(&app, &user, guild_id, id, &body).await?;
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
    let colors = body.colors().unwrap_or_default();
    let mut role = Role {
        id,
        name: clean_name(body.name.flatten()),
        color: colors.primary_color,
        colors,
        hoist: body.hoist.flatten().unwrap_or_default(),
        icon: None,
        unicode_emoji: None,
        // The lowest place above @everyone, beside the others that are there.
        position: 1,
        permissions,
        managed: false,
        mentionable: body.mentionable.flatten().unwrap_or_default(),
        tags: None,
        flags: 0,
    };
    apply_icon(&mut role, icon, &body.unicode_emoji);
    insert(&mut tx, guild_id, &role).await?;
    let mut events = vec![append(&mut tx, guild_id, EventKind::GuildRoleCreate, &role).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::ROLE_CREATE, &reason)
        .target(role.id)
        .created(&role)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(role))
}

fn clean_name(name: Option<String>) -> String {
    name.map_or_else(|| "new role".to_owned(), |name| clean(&name))
}

/// Stores a new role. The caller numbers its event.
pub(crate) async fn insert(db: &mut PgConnection, guild: Id<Guild>, role: &Role) -> Result<()> {
    let bot = role.tags.and_then(|tags| tags.bot_id);
    sqlx::query!(
        "insert into role (guild_id, role_id, name, color, secondary_color, tertiary_color, hoist,
                           position, permissions, managed, mentionable, bot_id, icon,
                           unicode_emoji)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        guild.to_db(),
        role.id.to_db(),
        role.name,
        role.colors.primary_color as i32,
        role.colors.secondary_color.map(|color| color as i32),
        role.colors.tertiary_color.map(|color| color as i32),
        role.hoist,
        role.position,
        role.permissions.bits() as i64,
        role.managed,
        role.mentionable,
        bot.map(Id::to_db),
        role.icon,
        role.unicode_emoji,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// @everyone may be changed in its permissions only. Bits that change must be the caller's.
///
/// Errors: 10004, 10011, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/roles/{role_id}",
    tag = "Roles",
    responses((status = 200, body = Role))
)]
async fn update_guild_role(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, role_id)): Path<(Id<Guild>, Id<marker::Role>)>,
    reason: Reason,
    Json(body): Json<RoleFields>,
) -> Result<Json<Role>> {
    let icon = store_icon(&app, &user, guild_id, role_id, &body).await?;
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let before = role(&mut tx, guild_id, role_id).await?;
    let mut role = before.clone();
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
        if let Some(colors) = body.colors() {
            role.color = colors.primary_color;
            role.colors = colors;
        }
        if let Some(name) = body.name {
            role.name = clean_name(name);
        }
        if let Some(hoist) = body.hoist {
            role.hoist = hoist.unwrap_or_default();
        }
        if let Some(mentionable) = body.mentionable {
            role.mentionable = mentionable.unwrap_or_default();
        }
        apply_icon(&mut role, icon, &body.unicode_emoji);
    }
    sqlx::query!(
        "update role set name = $3, color = $4, secondary_color = $5, tertiary_color = $6,
                         hoist = $7, permissions = $8, mentionable = $9, icon = $10,
                         unicode_emoji = $11
         where guild_id = $1 and role_id = $2",
        guild_id.to_db(),
        role_id.to_db(),
        role.name,
        role.colors.primary_color as i32,
        role.colors.secondary_color.map(|color| color as i32),
        role.colors.tertiary_color.map(|color| color as i32),
        role.hoist,
        role.permissions.bits() as i64,
        role.mentionable,
        role.icon,
        role.unicode_emoji,
    )
    .execute(&mut *tx)
    .await?;
    let mut events = vec![append(&mut tx, guild_id, EventKind::GuildRoleUpdate, &role).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::ROLE_UPDATE, &reason)
        .target(role_id)
        .changed(&before, &role)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(role))
}

#[derive(Debug, Deserialize, ToSchema)]
struct RolePosition {
    id: Id<marker::Role>,
    /// Null: as it is.
    #[serde(default)]
    #[schema(minimum = 0)]
    position: Option<i32>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(transparent)]
struct RolePositions(Vec<RolePosition>);

impl Form for RolePositions {
    fn check(&self, form: &mut FormErrors) {
        if self.0.len() > ROLES_MAX {
            form.add(
                "",
                Fault::BadLength {
                    min: 0,
                    max: ROLES_MAX,
                },
            );
        }
        for (index, wanted) in self.0.iter().enumerate() {
            if let Some(position) = wanted.position {
                let path = format!("{index}.position");
                form.range(&path, i64::from(position), 0..=i64::from(i32::MAX));
            }
        }
    }
}

/// Moves roles that are below the caller to places below the caller; @everyone stays.
///
/// Errors: 10004, 10011, 50001, 50013, 50028, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/roles",
    tag = "Roles",
    responses((status = 200, description = "All roles", body = Vec<Role>))
)]
async fn bulk_update_guild_roles(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(RolePositions(wanted)): Json<RolePositions>,
) -> Result<Json<Vec<Role>>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let mut roles = guildhall_store::guild::roles(&mut *tx, guild_id).await?;
    let mut events = Vec::new();
    for RolePosition { id, position } in wanted {
        let role = roles
            .iter_mut()
            .find(|role| role.id == id)
            .ok_or(ErrorCode::UnknownRole)?;
        let position = position.map(|position| position.min(Role::POSITION_MAX));
        let Some(position) = position.filter(|&position| position != role.position) else {
            continue;
        };
        if id == guild_id.cast() {
            return Err(ErrorCode::InvalidRole.into());
        }
        // Only @everyone is at the bottom.
        let position = position.max(1);
        access.require_above(role.rank())?;
        access.require_above(Rank::role(position, id))?;
        let before = role.clone();
        role.position = position;
        sqlx::query!(
            "update role set position = $3 where guild_id = $1 and role_id = $2",
            guild_id.to_db(),
            id.to_db(),
            position,
        )
        .execute(&mut *tx)
        .await?;
        events.push(append(&mut tx, guild_id, EventKind::GuildRoleUpdate, role).await?);
        let entry = Entry::new(guild_id, user.id, AuditAction::ROLE_UPDATE, &reason)
            .target(id)
            .changed(&before, role)?;
        events.extend(audit::append(&app, &mut tx, entry).await?);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    roles.sort_by_key(|role| (role.position, role.id));
    Ok(Json(roles))
}

/// Takes it from its holders and out of overwrites too. Errors: 10004, 10011, 50001, 50013, 50028.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/roles/{role_id}",
    tag = "Roles",
    responses((status = 204, description = "Deleted"))
)]
async fn delete_guild_role(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, role_id)): Path<(Id<Guild>, Id<marker::Role>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let found = access.role(role_id).ok_or(ErrorCode::UnknownRole)?;
    if found.managed || role_id == guild_id.cast() {
        return Err(ErrorCode::InvalidRole.into());
    }
    access.require_above(found.rank())?;
    let before = role(&mut tx, guild_id, role_id).await?;
    let mut events = delete(&mut tx, guild_id, role_id).await?;
    let entry = Entry::new(guild_id, user.id, AuditAction::ROLE_DELETE, &reason)
        .target(role_id)
        .deleted(&before)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a role from the guild; numbers its GUILD_ROLE_DELETE and the updates of what named it.
///
/// Overwrites, emojis and the first holders lose it at once, further holders soon after
/// ([`take_deleted`]): a role that is gone gives nothing meanwhile.
pub(crate) async fn delete(
    db: &mut PgConnection,
    guild: Id<Guild>,
    role: Id<marker::Role>,
) -> Result<Vec<Envelope>> {
    sqlx::query!(
        "delete from role where guild_id = $1 and role_id = $2",
        guild.to_db(),
        role.to_db(),
    )
    .execute(&mut *db)
    .await?;
    holders::take(&mut *db, guild, role).await?;
    let body = RoleDelete {
        guild_id: guild,
        role_id: role,
    };
    let kind = EventKind::GuildRoleDelete;
    let mut told = vec![events::append(&mut *db, guild, kind, visibility(), &body, None).await?];
    for mut channel in guildhall_store::guild::channels(&mut *db, guild).await? {
        let overwrites = &mut channel.permission_overwrites;
        let before = overwrites.len();
        overwrites.retain(|overwrite| overwrite.id != role.cast());
        if overwrites.len() < before {
            told.push(stored::store(&mut *db, &channel).await?);
        }
    }
    told.extend(emojis::forget_role(db, guild, role).await?);
    Ok(told)
}

/// A role that the caller may give and take.
///
/// Errors: 10011, 50013, 50028 for managed roles and @everyone.
pub(crate) fn assignable(access: &GuildAccess, role: Id<marker::Role>) -> Result<&RoleInfo> {
    let found = access.role(role).ok_or(ErrorCode::UnknownRole)?;
    if found.managed || role == access.id.cast() {
        return Err(ErrorCode::InvalidRole.into());
    }
    access.require_above(found.rank())?;
    Ok(found)
}

/// A fault for ids in a list of roles that are no roles of the guild.
pub(crate) fn unknown_role(index: usize, form: &mut FormErrors) {
    let fault = Fault::Other("ROLE_UNKNOWN", "Unknown role".into());
    form.add(format!("roles.{index}"), fault);
}
