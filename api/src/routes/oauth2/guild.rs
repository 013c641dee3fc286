//! A bot in a guild: added with a role of its own, and the integration that says so.

use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
    model::{Application, AuditAction, Role, RoleColors, RoleTags},
};
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    app::App,
    audit::{self, Entry, Reason},
    error::Result,
    events,
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
    sqlx::query!(
        "insert into integration (guild_id, integration_id, application_id, user_id, role_id, scopes)
         values ($1, $2, $2, $3, $4, $5) on conflict do nothing",
        guild_id.to_db(),
        application.id.to_db(),
        actor.to_db(),
        role.as_ref().map(|role| role.id.to_db()),
        scopes,
    )
    .execute(&mut *db)
    .await?;
    let role = role.map(|role| role.id);
    let integration = integration(guild_id, application, role, scopes);
    told.extend(tell(db, guild_id, EventKind::IntegrationCreate, &integration).await?);
    told.extend(members::greet(app, db, guild_id, &member).await?);
    let (bot, id) = (application.bot.id, application.id);
    let added = Entry::new(guild_id, actor, AuditAction::BOT_ADD, reason).target(bot);
    told.extend(audit::append(app, db, added).await?);
    let created = Entry::new(guild_id, actor, AuditAction::INTEGRATION_CREATE, reason)
        .target(id)
        .change("type", None, Some(integration["type"].clone()))
        .change("name", None, Some(integration["name"].clone()));
    told.extend(audit::append(app, db, created).await?);
    Ok(told)
}

/// Adds to what a bot that is in the guild was authorized for; the guild's head is locked.
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
    let integration = integration(guild_id, application, role, &changed.scopes);
    let mut told = tell(db, guild_id, EventKind::IntegrationUpdate, &integration).await?;
    let entry = Entry::new(guild_id, actor, AuditAction::INTEGRATION_UPDATE, reason)
        .target(application.id)
        .change(
            "scopes",
            Some(json!(changed.before)),
            Some(json!(changed.scopes)),
        );
    told.extend(audit::append(app, db, entry).await?);
    Ok(told)
}

/// Numbers an integration's event and the one that says that some integration has changed.
async fn tell(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    kind: EventKind,
    integration: &serde_json::Value,
) -> Result<Vec<Envelope>> {
    let vis = || Visibility::realm(Intents::GUILD_INTEGRATIONS);
    let first = events::append(&mut *db, guild, kind, vis(), integration, None).await?;
    let kind = EventKind::GuildIntegrationsUpdate;
    let body = json!({ "guild_id": guild });
    let second = events::append(db, guild, kind, vis(), &body, None).await?;
    Ok(vec![first, second])
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

/// Forgets that a bot is in a guild, whose head is locked, and numbers the events that say so.
pub(crate) async fn remove_integration(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    bot: Id<marker::User>,
) -> Result<Vec<Envelope>> {
    sqlx::query!(
        "delete from integration where guild_id = $1 and integration_id = $2",
        guild.to_db(),
        bot.to_db(),
    )
    .execute(&mut *db)
    .await?;
    let body = json!({ "id": bot, "guild_id": guild, "application_id": bot });
    tell(db, guild, EventKind::IntegrationDelete, &body).await
}

/// An integration as events carry it.
fn integration(
    guild_id: Id<marker::Guild>,
    application: &Application,
    role: Option<Id<marker::Role>>,
    scopes: &[String],
) -> serde_json::Value {
    json!({
        "id": application.id,
        "guild_id": guild_id,
        "name": application.name,
        "type": "discord",
        "enabled": true,
        "role_id": role,
        "account": { "id": application.id, "name": application.name },
        "application": {
            "id": application.id,
            "name": application.name,
            "icon": application.icon,
            "description": application.description,
            "summary": "",
            "bot": application.bot,
        },
        "scopes": scopes,
    })
}
