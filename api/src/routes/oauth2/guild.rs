//! An application let into a guild: its bot, added with a role of its own, or its commands alone.

use guildhall_shared::{
    Id, Permissions,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker,
    model::{Application, AuditAction, Role, RoleColors, RoleTags},
};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    app::App,
    audit::{self, Entry, Reason},
    error::Result,
    integration,
    routes::{
        members::{self, NewMember},
        roles,
    },
};

const ROLES_MAX: i64 = 250;

/// Makes the bot a member; both heads are locked. Order: gateway.md › 18.
pub(super) async fn add_bot(
    app: &App,
    db: &mut PgConnection,
    guild_id: Id<marker::Guild>,
    application: &Application,
    (permissions, scopes): (Permissions, &[String]),
    actor: Id<marker::User>,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    let role = match permissions.is_empty() {
        true => None,
        false => Some(create_managed_role(app, db, guild_id, application, permissions).await?),
    };
    let mut told = Vec::new();
    if let Some(role) = &role {
        told.push(roles::append(db, guild_id, EventKind::GuildRoleCreate, role).await?);
    }
    let held: Vec<_> = role.iter().map(|role| role.id).collect();
    let start = NewMember {
        roles: &held,
        ..NewMember::default()
    };
    let Some((member, joined)) = members::admit(app, db, guild_id, &application.bot, start).await?
    else {
        return Ok(told);
    };
    told.extend(joined);
    let role = role.map(|role| role.id);
    // Its commands may have been there before.
    let stored = sqlx::query!(
        r#"with before as (
             select scopes from integration where guild_id = $1 and integration_id = $2)
           insert into integration as i
             (guild_id, integration_id, application_id, user_id, role_id, scopes)
           values ($1, $2, $2, $3, $4, $5)
           on conflict (guild_id, integration_id) do update
           set user_id = excluded.user_id, role_id = excluded.role_id,
               scopes = (select array_agg(distinct scope order by scope)
                         from unnest(i.scopes || excluded.scopes) scope)
           returning i.scopes, (select scopes from before) as "before?""#,
        guild_id.to_db(),
        application.id.to_db(),
        actor.to_db(),
        role.map(Id::to_db),
        scopes,
    )
    .fetch_one(&mut *db)
    .await?;
    let integration = integration::body(guild_id, application, role, &stored.scopes);
    let kind = match stored.before {
        Some(_) => EventKind::IntegrationUpdate,
        None => EventKind::IntegrationCreate,
    };
    told.extend(integration::tell(db, guild_id, kind, &integration).await?);
    told.extend(members::greet(app, db, guild_id, &member).await?);
    let added = Entry::new(guild_id, actor, AuditAction::BOT_ADD, reason);
    let added = added.target(application.bot.id);
    told.extend(audit::append(app, db, added).await?);
    let entry = match stored.before {
        Some(before) => changed_entry(
            guild_id,
            actor,
            reason,
            application,
            &before,
            &stored.scopes,
        ),
        None => created_entry(guild_id, actor, reason, application),
    };
    told.extend(audit::append(app, db, entry).await?);
    Ok(told)
}

/// Lets an application's commands into a guild without its bot; both heads are locked.
///
/// Errors: 40007.
pub(super) async fn add_commands(
    app: &App,
    db: &mut PgConnection,
    guild_id: Id<marker::Guild>,
    application: &Application,
    scopes: &[String],
    actor: Id<marker::User>,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    members::require_not_banned(db, guild_id, application.bot.id).await?;
    let added = sqlx::query!(
        "insert into integration (guild_id, integration_id, application_id, user_id, scopes)
         values ($1, $2, $2, $3, $4) on conflict do nothing",
        guild_id.to_db(),
        application.id.to_db(),
        actor.to_db(),
        scopes,
    )
    .execute(&mut *db)
    .await?;
    if added.rows_affected() == 0 {
        return add_scopes(app, db, guild_id, application, scopes, actor, reason).await;
    }
    let integration = integration::body(guild_id, application, None, scopes);
    let mut told =
        integration::tell(db, guild_id, EventKind::IntegrationCreate, &integration).await?;
    let entry = created_entry(guild_id, actor, reason, application);
    told.extend(audit::append(app, db, entry).await?);
    Ok(told)
}

fn created_entry(
    guild_id: Id<marker::Guild>,
    actor: Id<marker::User>,
    reason: &Reason,
    application: &Application,
) -> Entry {
    Entry::new(guild_id, actor, AuditAction::INTEGRATION_CREATE, reason)
        .target(application.id)
        .change("type", None, Some(json!(integration::KIND)))
        .change("name", None, Some(json!(application.name)))
}

fn changed_entry(
    guild_id: Id<marker::Guild>,
    actor: Id<marker::User>,
    reason: &Reason,
    application: &Application,
    before: &[String],
    after: &[String],
) -> Entry {
    Entry::new(guild_id, actor, AuditAction::INTEGRATION_UPDATE, reason)
        .target(application.id)
        .change("scopes", Some(json!(before)), Some(json!(after)))
}

/// Adds to what an application that is in the guild was authorized for; the guild's head is locked.
pub(super) async fn add_scopes(
    app: &App,
    db: &mut PgConnection,
    guild_id: Id<marker::Guild>,
    application: &Application,
    scopes: &[String],
    actor: Id<marker::User>,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    let changed = sqlx::query!(
        r#"update integration i
           set scopes = (select array_agg(distinct scope order by scope)
                         from unnest(i.scopes || $3) scope)
           from integration before
           where i.guild_id = $1 and i.integration_id = $2 and not i.scopes @> $3
             and before.guild_id = i.guild_id and before.integration_id = i.integration_id
           returning i.scopes, i.role_id, before.scopes as before"#,
        guild_id.to_db(),
        application.id.to_db(),
        scopes,
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(changed) = changed else {
        return Ok(Vec::new());
    };
    let role = changed.role_id.map(Id::from_db);
    let integration = integration::body(guild_id, application, role, &changed.scopes);
    let mut told =
        integration::tell(db, guild_id, EventKind::IntegrationUpdate, &integration).await?;
    let (before, after) = (&changed.before, &changed.scopes);
    let entry = changed_entry(guild_id, actor, reason, application, before, after);
    told.extend(audit::append(app, db, entry).await?);
    Ok(told)
}

/// The role that only this bot has. Errors: 30005.
async fn create_managed_role(
    app: &App,
    db: &mut PgConnection,
    guild_id: Id<marker::Guild>,
    application: &Application,
    permissions: Permissions,
) -> Result<Role> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from role where guild_id = $1"#,
        guild_id.to_db(),
    )
    .fetch_one(&mut *db)
    .await?;
    if count >= ROLES_MAX {
        return Err(ErrorCode::MaximumRoles.into());
    }
    let role = Role {
        id: app.snowflakes.next()?,
        name: application.name.clone(),
        color: 0,
        colors: RoleColors::default(),
        hoist: false,
        icon: None,
        unicode_emoji: None,
        position: 1,
        permissions,
        managed: true,
        mentionable: false,
        tags: Some(RoleTags {
            bot_id: Some(application.bot.id),
        }),
        flags: 0,
    };
    roles::insert(db, guild_id, &role).await?;
    Ok(role)
}
