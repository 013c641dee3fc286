//! Automod rules: read, made, changed, deleted. Spec: objects.md › Auto moderation rule;
//! limits-and-errors › Limits.
//!
//! `crate::automod` says what one is and what it finds, [`mod@act`] acts.

mod act;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{AutomodRule as RuleId, Channel, Guild},
    model::AuditAction,
};
use guildhall_store::ids_to_db;
use serde::Deserialize;
use sqlx::{PgConnection, PgExecutor, types::Json as Jsonb};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::act::{act, act_after, act_on_name};
use crate::{
    access::{self, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    automod::rule::{
        Action, ActionMetadata, BLOCK_INTERACTION, BLOCK_MESSAGE, KEYWORD, MEMBER_PROFILE,
        MENTION_SPAM, ON_MEMBER, ON_MESSAGE, PRESET, Rule, RuleFields, SEND_ALERT, TIMEOUT,
        TriggerMetadata, rules, visibility,
    },
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    text::clean,
};

const KEYWORD_RULES_MAX: usize = 6;
const ALLOWED_MAX: usize = 100;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            list_auto_moderation_rules,
            create_auto_moderation_rule
        ))
        .routes(routes!(
            get_auto_moderation_rule,
            update_auto_moderation_rule,
            delete_auto_moderation_rule
        ))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(transparent)]
struct CreateRule(RuleFields);

impl Form for CreateRule {
    fn check(&self, form: &mut FormErrors) {
        form.required("name", &self.0.name);
        form.required("event_type", &self.0.event_type);
        form.required("trigger_type", &self.0.trigger_type);
        self.0.check_fields(form);
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(transparent)]
struct UpdateRule(RuleFields);

impl Form for UpdateRule {
    fn check(&self, form: &mut FormErrors) {
        self.0.check_fields(form);
    }
}

/// Errors: 404; rules have no code of their own.
async fn rule(db: impl PgExecutor<'_>, guild: Id<Guild>, id: Id<RuleId>) -> Result<Rule> {
    let found = rules(db, guild)
        .await?
        .into_iter()
        .find(|rule| rule.id == id);
    Ok(found.ok_or(ErrorCode::NotFound)?)
}

/// MANAGE_GUILD. Errors: 10004, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/auto-moderation/rules",
    tag = "Automod",
    responses((status = 200, body = Vec<Rule>))
)]
async fn list_auto_moderation_rules(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Vec<Rule>>> {
    access::guild(&app.db, &user, guild_id, Permissions::MANAGE_GUILD).await?;
    Ok(Json(rules(&app.db, guild_id).await?))
}

/// MANAGE_GUILD. Errors: 404, 10004, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/auto-moderation/rules/{rule_id}",
    tag = "Automod",
    responses((status = 200, body = Rule))
)]
async fn get_auto_moderation_rule(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, rule_id)): Path<(Id<Guild>, Id<RuleId>)>,
) -> Result<Json<Rule>> {
    access::guild(&app.db, &user, guild_id, Permissions::MANAGE_GUILD).await?;
    Ok(Json(rule(&app.db, guild_id, rule_id).await?))
}

/// What the fields alone do not tell: whether they go together and name what is there. A channel
/// for alerts that the rule had `before` may be gone.
///
/// Errors: 50013 for timeouts without MODERATE_MEMBERS, 50035.
async fn check_rule(
    db: &mut PgConnection,
    access: &GuildAccess,
    before: Option<&Rule>,
    rule: &Rule,
) -> Result<()> {
    let mut form = FormErrors::new();
    let wanted_event = match rule.trigger_type {
        MEMBER_PROFILE => ON_MEMBER,
        _ => ON_MESSAGE,
    };
    if rule.event_type != wanted_event {
        let message = "The event does not go with the trigger.";
        let fault = Fault::Other("AUTO_MODERATION_INVALID_EVENT_TYPE", message.into());
        form.add("event_type", fault);
    }
    let allowed = rule
        .trigger_metadata
        .allow_list
        .as_ref()
        .map_or(0, Vec::len);
    if rule.trigger_type != PRESET && allowed > ALLOWED_MAX {
        let (min, max) = (0, ALLOWED_MAX);
        form.add("trigger_metadata.allow_list", Fault::BadLength { min, max });
    }
    let channels: Vec<Id<Channel>> = rule
        .actions
        .iter()
        .filter_map(|action| action.metadata.channel_id)
        .collect();
    let known = sqlx::query_scalar!(
        "select channel_id from channel
         where guild_id = $1 and channel_id = any($2) and kind in (0, 5)",
        access.id.to_db(),
        &ids_to_db(&channels),
    )
    .fetch_all(db)
    .await?;
    let had_before = |channel: Id<Channel>| {
        let mut actions = before.into_iter().flat_map(|before| &before.actions);
        actions.any(|action| action.metadata.channel_id == Some(channel))
    };
    for (index, action) in rule.actions.iter().enumerate() {
        let fits = match action.kind {
            BLOCK_MESSAGE => rule.event_type == ON_MESSAGE,
            TIMEOUT => [KEYWORD, MENTION_SPAM].contains(&rule.trigger_type),
            BLOCK_INTERACTION => rule.trigger_type == MEMBER_PROFILE,
            _ => true,
        };
        if !fits {
            let message = "The action does not go with the trigger.";
            let fault = Fault::Other("AUTO_MODERATION_INVALID_ACTION_TYPE", message.into());
            form.add(format!("actions.{index}.type"), fault);
        }
        if let (SEND_ALERT, Some(channel)) = (action.kind, action.metadata.channel_id)
            && !known.contains(&channel.to_db())
            && !had_before(channel)
        {
            let message = "This is no text channel of the guild.";
            let fault = Fault::Other("CHANNEL_INVALID", message.into());
            form.add(format!("actions.{index}.metadata.channel_id"), fault);
        }
    }
    form.finish()?;
    if rule.actions.iter().any(|action| action.kind == TIMEOUT) {
        access.require(Permissions::MODERATE_MEMBERS)?;
    }
    Ok(())
}

/// Numbers one of the three events of rules, for who may manage them.
async fn append(db: &mut PgConnection, kind: EventKind, rule: &Rule) -> Result<Envelope> {
    let vis = visibility(Intents::AUTO_MODERATION_CONFIGURATION);
    events::append(db, rule.guild_id, kind, vis, rule, None).await
}

/// Without actions: to block what the rule is about.
///
/// Errors: 10004, 50001, 50013, 50035 (also for too many rules of the type).
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/auto-moderation/rules",
    tag = "Automod",
    responses((status = 200, body = Rule))
)]
async fn create_auto_moderation_rule(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(CreateRule(body)): Json<CreateRule>,
) -> Result<Json<Rule>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let trigger_type = body.trigger_type.unwrap_or(KEYWORD);
    let others = rules(&mut *tx, guild_id).await?;
    let same = others
        .iter()
        .filter(|rule| rule.trigger_type == trigger_type);
    let max = match trigger_type {
        KEYWORD => KEYWORD_RULES_MAX,
        _ => 1,
    };
    if same.count() >= max {
        let message = format!("Maximum number of rules of this type reached ({max}).");
        let code = "AUTO_MODERATION_MAX_RULES_OF_TYPE_EXCEEDED";
        let fault = Fault::Other(code, message.into());
        return Err(FormErrors::one("trigger_type", fault));
    }
    let block = match trigger_type {
        MEMBER_PROFILE => BLOCK_INTERACTION,
        _ => BLOCK_MESSAGE,
    };
    let rule = Rule {
        id: app.snowflakes.next()?,
        guild_id,
        creator_id: user.id,
        name: clean(body.name.as_deref().unwrap_or_default()),
        event_type: body.event_type.unwrap_or(ON_MESSAGE),
        trigger_type,
        trigger_metadata: body
            .trigger_metadata
            .unwrap_or_default()
            .of_type(trigger_type),
        actions: body.actions.unwrap_or_else(|| {
            vec![Action {
                kind: block,
                metadata: ActionMetadata::default(),
            }]
        }),
        enabled: body.enabled.flatten().unwrap_or_default(),
        exempt_roles: distinct(body.exempt_roles.flatten()),
        exempt_channels: distinct(body.exempt_channels.flatten()),
    };
    check_rule(&mut tx, &access, None, &rule).await?;
    sqlx::query!(
        "insert into automod_rule (rule_id, guild_id, creator_id, name, event_type, trigger_type,
                                   enabled, trigger_metadata, actions, exempt_roles,
                                   exempt_channels)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        rule.id.to_db(),
        guild_id.to_db(),
        user.id.to_db(),
        rule.name,
        i16::from(rule.event_type),
        i16::from(rule.trigger_type),
        rule.enabled,
        Jsonb(&rule.trigger_metadata) as Jsonb<&TriggerMetadata>,
        Jsonb(&rule.actions) as Jsonb<&Vec<Action>>,
        &ids_to_db(&rule.exempt_roles),
        &ids_to_db(&rule.exempt_channels),
    )
    .execute(&mut *tx)
    .await?;
    let mut events = vec![append(&mut tx, EventKind::AutoModerationRuleCreate, &rule).await?];
    let action = AuditAction::AUTO_MODERATION_RULE_CREATE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(rule.id)
        .created(&rule)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(rule))
}

fn distinct<T>(ids: Option<Vec<Id<T>>>) -> Vec<Id<T>> {
    let mut ids = ids.unwrap_or_default();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The trigger's type stays. Errors: 404, 10004, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/auto-moderation/rules/{rule_id}",
    tag = "Automod",
    responses((status = 200, body = Rule))
)]
async fn update_auto_moderation_rule(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, rule_id)): Path<(Id<Guild>, Id<RuleId>)>,
    reason: Reason,
    Json(UpdateRule(body)): Json<UpdateRule>,
) -> Result<Json<Rule>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let before = rule(&mut *tx, guild_id, rule_id).await?;
    let mut rule = before.clone();
    if let Some(name) = body.name {
        rule.name = clean(&name);
    }
    rule.event_type = body.event_type.unwrap_or(rule.event_type);
    if let Some(metadata) = body.trigger_metadata {
        rule.trigger_metadata = metadata.of_type(rule.trigger_type);
    }
    rule.actions = body.actions.unwrap_or(rule.actions);
    if let Some(enabled) = body.enabled {
        rule.enabled = enabled.unwrap_or_default();
    }
    rule.exempt_roles = body.exempt_roles.map_or(rule.exempt_roles, distinct);
    rule.exempt_channels = body.exempt_channels.map_or(rule.exempt_channels, distinct);
    check_rule(&mut tx, &access, Some(&before), &rule).await?;
    sqlx::query!(
        "update automod_rule
         set name = $2, event_type = $3, enabled = $4, trigger_metadata = $5, actions = $6,
             exempt_roles = $7, exempt_channels = $8
         where rule_id = $1",
        rule_id.to_db(),
        rule.name,
        i16::from(rule.event_type),
        rule.enabled,
        Jsonb(&rule.trigger_metadata) as Jsonb<&TriggerMetadata>,
        Jsonb(&rule.actions) as Jsonb<&Vec<Action>>,
        &ids_to_db(&rule.exempt_roles),
        &ids_to_db(&rule.exempt_channels),
    )
    .execute(&mut *tx)
    .await?;
    let mut events = vec![append(&mut tx, EventKind::AutoModerationRuleUpdate, &rule).await?];
    let action = AuditAction::AUTO_MODERATION_RULE_UPDATE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(rule_id)
        .changed(&before, &rule)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(rule))
}

/// MANAGE_GUILD. Errors: 404, 10004, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/auto-moderation/rules/{rule_id}",
    tag = "Automod",
    responses((status = 204, description = "Deleted"))
)]
async fn delete_auto_moderation_rule(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, rule_id)): Path<(Id<Guild>, Id<RuleId>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let rule = rule(&mut *tx, guild_id, rule_id).await?;
    sqlx::query!(
        "delete from automod_rule where rule_id = $1",
        rule_id.to_db()
    )
    .execute(&mut *tx)
    .await?;
    let mut events = vec![append(&mut tx, EventKind::AutoModerationRuleDelete, &rule).await?];
    let action = AuditAction::AUTO_MODERATION_RULE_DELETE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(rule_id)
        .deleted(&rule)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}
