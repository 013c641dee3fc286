//! Adding bots to guilds (the OAuth2 page's calls). Spec: Topics › OAuth2, bot authorization flow.

use axum::{Router, extract::State, http::StatusCode, response::Response, routing::get};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
    model::{Application, AuditAction, Role, RoleColors, RoleTags},
};
use guildhall_store::guild;
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;

use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::{Result, json_response},
    events,
    extract::{Form, Json, Query},
    form::{Fault, FormErrors},
    routes::{
        applications,
        members::{self, NewMember},
        roles, users,
    },
};

const ROLES_MAX: i64 = 250;

pub(crate) fn router() -> Router<App> {
    Router::new().route(
        "/oauth2/authorize",
        get(preview_authorization).post(authorize),
    )
}

/// The query of both calls, as in a bot's invite link.
#[derive(Deserialize)]
struct AuthorizeQuery {
    client_id: Option<Id<marker::Application>>,
    /// Separated by spaces; only `bot` (with or without `applications.commands`) is served.
    scope: Option<String>,
    permissions: Option<Permissions>,
    guild_id: Option<Id<marker::Guild>>,
}

impl Form for AuthorizeQuery {
    fn check(&self, form: &mut FormErrors) {
        form.required("client_id", &self.client_id);
        let scopes = self.scope.as_deref().unwrap_or("bot").split([' ', '+']);
        if !scopes.into_iter().any(|scope| scope == "bot") {
            form.add("scope", Fault::Choices("('bot',)"));
        }
    }
}

/// What the consent page shows. Errors: 10002, 20001, 50035.
async fn preview_authorization(
    State(app): State<App>,
    caller: CurrentUser,
    Query(query): Query<AuthorizeQuery>,
) -> Result<Response> {
    caller.require_human()?;
    let application = find_invitable(&app, &caller, query.client_id).await?;
    let mut guilds = users::all_guilds(&mut *app.db.acquire().await?, caller.id).await?;
    guilds.retain(|guild| guild.permissions.contains(Permissions::MANAGE_GUILD));
    let guilds: Vec<_> = guilds
        .iter()
        .map(|guild| {
            json!({
                "id": guild.id,
                "name": guild.name,
                "icon": guild.icon,
                "permissions": guild.permissions,
                "mfa_level": 0,
            })
        })
        .collect();
    let body = json!({
        "application": application,
        "bot": application.bot,
        "user": caller.user(),
        "guilds": guilds,
        "authorized": false,
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// Errors: 10002; 20012 for somebody else's private bot.
async fn find_invitable(
    app: &App,
    caller: &CurrentUser,
    id: Option<Id<marker::Application>>,
) -> Result<Application> {
    let id = id.ok_or(ErrorCode::UnknownApplication)?;
    let application = applications::find(&app.db, &app.config.cluster_key, id).await?;
    if application.bot_public || application.owner.id == caller.id {
        Ok(application)
    } else {
        Err(ErrorCode::NotAuthorizedOnApplication.into())
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Authorize {
    authorize: Option<bool>,
    guild_id: Option<Id<marker::Guild>>,
    permissions: Option<Permissions>,
}

impl Form for Authorize {}

/// Adds an application's bot to a guild, with a role of its own if it asks for permissions.
///
/// The role holds only what the caller holds as well: nobody gives away more than they have.
/// Errors: 10002, 10004, 20001, 20012, 30005, 40007, 50013, 50035.
async fn authorize(
    State(app): State<App>,
    caller: CurrentUser,
    Query(query): Query<AuthorizeQuery>,
    reason: Reason,
    Json(body): Json<Authorize>,
) -> Result<Response> {
    caller.require_human()?;
    let application = find_invitable(&app, &caller, query.client_id).await?;
    let guild_id = body
        .guild_id
        .or(query.guild_id)
        .ok_or_else(|| FormErrors::one("guild_id", Fault::Required))?;
    if body.authorize == Some(false) {
        let location = format!(
            "{}/oauth2/authorized?error=access_denied",
            app.config.public_url
        );
        return Ok(json_response(
            StatusCode::OK,
            &json!({ "location": location }),
        ));
    }
    let wanted = body.permissions.or(query.permissions).unwrap_or_default();

    let mut tx = app.db.begin().await?;
    let bot = application.bot.id;
    access::lock_realms(&mut tx, [guild_id.cast(), bot.cast()]).await?;
    let granter = access::guild(&mut *tx, &caller, guild_id, Permissions::MANAGE_GUILD).await?;
    if guild::member(&mut *tx, guild_id, bot).await?.is_none() {
        let granted = wanted & granter.base();
        let events = add_bot(
            &app,
            &mut tx,
            guild_id,
            &application,
            granted,
            caller.id,
            &reason,
        )
        .await?;
        tx.commit().await?;
        app.publisher.publish(events);
    }
    let location = format!("{}/oauth2/authorized", app.config.public_url);
    Ok(json_response(
        StatusCode::OK,
        &json!({ "location": location }),
    ))
}

/// Makes the bot a member; both heads are locked. Order: gateway.md › 18.
async fn add_bot(
    app: &App,
    db: &mut PgConnection,
    guild_id: Id<marker::Guild>,
    application: &Application,
    permissions: Permissions,
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
    let Some((member, joined)) = members::admit(db, guild_id, &application.bot, start).await?
    else {
        return Ok(told);
    };
    told.extend(joined);
    sqlx::query!(
        "insert into integration (guild_id, integration_id, application_id, user_id, role_id)
         values ($1, $2, $2, $3, $4) on conflict do nothing",
        guild_id.to_db(),
        application.id.to_db(),
        actor.to_db(),
        role.as_ref().map(|role| role.id.to_db()),
    )
    .execute(&mut *db)
    .await?;
    let integration = integration(guild_id, application, role.as_ref());
    for (kind, body) in [
        (EventKind::IntegrationCreate, integration.clone()),
        (
            EventKind::GuildIntegrationsUpdate,
            json!({ "guild_id": guild_id }),
        ),
    ] {
        let vis = Visibility::realm(Intents::GUILD_INTEGRATIONS);
        told.push(events::append(db, guild_id, kind, vis, &body, None).await?);
    }
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
    let vis = || Visibility::realm(Intents::GUILD_INTEGRATIONS);
    let body = json!({ "id": bot, "guild_id": guild, "application_id": bot });
    let kind = EventKind::IntegrationDelete;
    let deleted = events::append(db, guild, kind, vis(), &body, None).await?;
    let body = json!({ "guild_id": guild });
    let kind = EventKind::GuildIntegrationsUpdate;
    let updated = events::append(db, guild, kind, vis(), &body, None).await?;
    Ok(vec![deleted, updated])
}

/// An integration as events carry it.
fn integration(
    guild_id: Id<marker::Guild>,
    application: &Application,
    role: Option<&Role>,
) -> serde_json::Value {
    json!({
        "id": application.id,
        "guild_id": guild_id,
        "name": application.name,
        "type": "discord",
        "enabled": true,
        "role_id": role.map(|role| role.id),
        "account": { "id": application.id, "name": application.name },
        "application": {
            "id": application.id,
            "name": application.name,
            "icon": application.icon,
            "description": application.description,
            "summary": "",
            "bot": application.bot,
        },
        "scopes": ["bot", "applications.commands"],
    })
}
