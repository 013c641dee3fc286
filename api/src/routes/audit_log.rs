//! The audit log as it is read. Spec: limits-and-errors › Audit log, Pagination.
//!
//! Entries are written by `crate::audit`.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    id::marker::{Any, AuditEntry as EntryId, Guild, User},
    model::{self, AuditAction, AuditChange, AuditEntry, Command, ScheduledEvent, Thread},
};
use guildhall_store::{
    scheduled_events::{Which, scheduled_events},
    thread,
    user::UserRow,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    commands,
    integrations::{self, PartialIntegration},
    webhooks::{self, WebhookBody},
};
use crate::{
    access,
    app::App,
    auth::CurrentUser,
    automod::{Rule, rule::rules},
    error::Result,
    extract::{Form, Json, Path, Query},
    form::FormErrors,
};

/// Actions whose targets are in a list of the reply.
const ON_WEBHOOKS: [AuditAction; 3] = [
    AuditAction::WEBHOOK_CREATE,
    AuditAction::WEBHOOK_UPDATE,
    AuditAction::WEBHOOK_DELETE,
];
const ON_INTEGRATIONS: [AuditAction; 3] = [
    AuditAction::INTEGRATION_CREATE,
    AuditAction::INTEGRATION_UPDATE,
    AuditAction::INTEGRATION_DELETE,
];
/// What befalls a single date has the event for its target.
const ON_SCHEDULED_EVENTS: [AuditAction; 6] = [
    AuditAction::GUILD_SCHEDULED_EVENT_CREATE,
    AuditAction::GUILD_SCHEDULED_EVENT_UPDATE,
    AuditAction::GUILD_SCHEDULED_EVENT_DELETE,
    AuditAction::GUILD_SCHEDULED_EVENT_EXCEPTION_CREATE,
    AuditAction::GUILD_SCHEDULED_EVENT_EXCEPTION_UPDATE,
    AuditAction::GUILD_SCHEDULED_EVENT_EXCEPTION_DELETE,
];
const ON_THREADS: [AuditAction; 3] = [
    AuditAction::THREAD_CREATE,
    AuditAction::THREAD_UPDATE,
    AuditAction::THREAD_DELETE,
];
const ON_COMMANDS: [AuditAction; 1] = [AuditAction::APPLICATION_COMMAND_PERMISSION_UPDATE];
const ON_AUTOMOD_RULES: [AuditAction; 3] = [
    AuditAction::AUTO_MODERATION_RULE_CREATE,
    AuditAction::AUTO_MODERATION_RULE_UPDATE,
    AuditAction::AUTO_MODERATION_RULE_DELETE,
];

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_guild_audit_log_entries))
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct ListEntries {
    /// Entries of this actor.
    user_id: Option<Id<User>>,
    /// Entries about this.
    target_id: Option<Id<Any>>,
    action_type: Option<u16>,
    /// Newest first; the default.
    before: Option<Id<EntryId>>,
    /// Oldest first.
    after: Option<u64>,
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

impl Form for ListEntries {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=100);
        }
    }
}

/// Entries with what they speak of, as far as it is still there, each by id.
#[derive(Serialize, ToSchema)]
struct AuditLog {
    audit_log_entries: Vec<AuditEntry>,
    /// Actors and targets.
    users: Vec<model::User>,
    integrations: Vec<PartialIntegration>,
    /// Without their tokens.
    webhooks: Vec<WebhookBody>,
    guild_scheduled_events: Vec<ScheduledEvent>,
    threads: Vec<Thread>,
    application_commands: Vec<Command>,
    auto_moderation_rules: Vec<Rule>,
}

/// VIEW_AUDIT_LOG. What entries speak of is shown to whoever reads them, in whatever channel it is.
///
/// Errors: 10004, 50001, 50013, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/audit-logs",
    tag = "Audit log",
    params(ListEntries),
    responses((status = 200, body = AuditLog))
)]
async fn list_guild_audit_log_entries(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    Query(query): Query<ListEntries>,
) -> Result<Json<AuditLog>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::VIEW_AUDIT_LOG).await?;
    let entries = entries(&mut db, guild_id, &query).await?;
    let users = users(&mut db, &entries).await?;
    let integrations = targets(&entries, &ON_INTEGRATIONS);
    let integrations = integrations::partial(&mut db, guild_id, &integrations).await?;
    let webhooks = targets(&entries, &ON_WEBHOOKS);
    let webhooks = webhooks::without_tokens(&app, &mut db, guild_id, &webhooks).await?;
    let events = targets(&entries, &ON_SCHEDULED_EVENTS);
    let events = match events.as_slice() {
        [] => Vec::new(),
        events => scheduled_events(&mut db, guild_id, Which::Any(events), false).await?,
    };
    let threads = thread::by_ids(&mut *db, &targets(&entries, &ON_THREADS)).await?;
    let commands = targets(&entries, &ON_COMMANDS);
    let commands = commands::by_ids(&mut *db, guild_id, &commands).await?;
    let rule_ids = targets(&entries, &ON_AUTOMOD_RULES);
    let rules = match rule_ids.as_slice() {
        [] => Vec::new(),
        ids => {
            let mut rules = rules(&mut *db, guild_id).await?;
            rules.retain(|rule| ids.contains(&rule.id()));
            rules
        }
    };
    Ok(Json(AuditLog {
        audit_log_entries: entries,
        users,
        integrations,
        webhooks,
        guild_scheduled_events: events,
        threads,
        application_commands: commands,
        auto_moderation_rules: rules,
    }))
}

/// What entries of these actions are about, each once, ascending.
fn targets<T>(entries: &[AuditEntry], actions: &[AuditAction]) -> Vec<Id<T>> {
    let about = entries
        .iter()
        .filter(|entry| actions.contains(&entry.action_type));
    let ids: BTreeSet<Id<Any>> = about.filter_map(|entry| entry.target_id).collect();
    ids.into_iter().map(Id::cast).collect()
}

struct Row {
    entry_id: i64,
    action: i16,
    user_id: Option<i64>,
    target_id: Option<i64>,
    changes: Jsonb<Vec<AuditChange>>,
    options: Jsonb<BTreeMap<String, String>>,
    reason: Option<String>,
}

impl From<Row> for AuditEntry {
    fn from(row: Row) -> Self {
        Self {
            id: Id::from_db(row.entry_id),
            action_type: AuditAction(row.action as u16),
            user_id: row.user_id.map(Id::from_db),
            target_id: row.target_id.map(Id::from_db),
            changes: row.changes.0,
            options: row.options.0,
            reason: row.reason,
        }
    }
}

async fn entries(
    db: &mut PgConnection,
    guild: Id<Guild>,
    query: &ListEntries,
) -> Result<Vec<AuditEntry>> {
    let ascending = query.after.is_some() && query.before.is_none();
    // `after=0` is how libraries ask for the oldest.
    let after = query.after.map_or(0, |after| after.min(i64::MAX as u64)) as i64;
    // A statement for each index and each way along it: a plan that is kept for all values has no
    // use for an index whose column may be anything. Without a filter the range is the guild's,
    // or the planner may go through the newer entries of all others.
    macro_rules! select {
        ($place:literal, $order:literal) => {
            sqlx::query_as!(
                Row,
                r#"select entry_id, action, user_id, target_id,
                          changes as "changes: Jsonb<Vec<AuditChange>>",
                          options as "options: Jsonb<BTreeMap<String, String>>", reason
                   from audit_entry
                   where ($4::bigint is null or user_id = $4)
                     and ($5::bigint is null or target_id = $5)
                     and ($6::smallint is null or action = $6)
                     and "#
                    + $place
                    + " order by "
                    + $order
                    + " limit $7",
                guild.to_db(),
                after,
                query.before.map_or(i64::MAX, Id::to_db),
                query.user_id.map(Id::to_db),
                query.target_id.map(Id::to_db),
                query.action_type.map(|action| action as i16),
                query.limit.unwrap_or(50),
            )
            .fetch_all(db)
            .await?
        };
    }
    macro_rules! along {
        ($place:literal) => {
            if ascending {
                select!($place, "guild_id, entry_id")
            } else {
                select!($place, "guild_id desc, entry_id desc")
            }
        };
    }
    let rows = match (query.target_id, query.user_id, query.action_type) {
        (Some(_), _, _) => {
            along!("guild_id = $1 and target_id = $5 and entry_id > $2 and entry_id < $3")
        }
        (None, Some(_), Some(_)) => along!(
            "guild_id = $1 and user_id = $4 and action = $6 and entry_id > $2 and entry_id < $3"
        ),
        (None, Some(_), None) => {
            along!("guild_id = $1 and user_id = $4 and entry_id > $2 and entry_id < $3")
        }
        (None, None, Some(_)) => {
            along!("guild_id = $1 and action = $6 and entry_id > $2 and entry_id < $3")
        }
        (None, None, None) => {
            along!("(guild_id, entry_id) > ($1, $2) and (guild_id, entry_id) < ($1, $3)")
        }
    };
    Ok(rows.into_iter().map(AuditEntry::from).collect())
}

/// Actors, and targets that are users. An id of something else is nobody's account.
async fn users(db: &mut PgConnection, entries: &[AuditEntry]) -> Result<Vec<model::User>> {
    let ids: BTreeSet<i64> = entries
        .iter()
        .flat_map(|entry| [entry.user_id.map(Id::to_db), entry.target_id.map(Id::to_db)])
        .flatten()
        .collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    let rows = sqlx::query_as!(
        UserRow,
        "select user_id, username, discriminator, global_name, avatar, banner, accent_color, bot,
                public_flags
         from account where user_id = any($1) order by user_id",
        &ids,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(model::User::from).collect())
}
