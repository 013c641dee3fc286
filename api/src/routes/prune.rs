//! Prune: members nobody has seen for days are removed. Spec: endpoints › prune_guild.
//!
//! Seen is who joined, or whose account used the API (`crate::seen`), within these days.
//! Bots, the owner, the caller and whoever stands at or above the caller stay; so does who
//! has a role that is not in `include_roles`.

use std::ops::RangeInclusive;

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{Guild, Role, User},
    model::AuditAction,
    permissions::Rank,
    shard::realm,
};
use guildhall_store::{ids_from_db, ids_to_db};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::members;
use crate::{
    access::{self, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::{Error, Result},
    extract::{Form, Json, Path, Query},
    form::{Fault, FormErrors},
    telemetry::{self, TRACE},
};

const NEEDED: Permissions = Permissions::MANAGE_GUILD.union(Permissions::KICK_MEMBERS);
const DAYS_DEFAULT: i64 = 7;
const ROLES_MAX: usize = 100;
/// Members removed by one transaction.
const BATCH: i64 = 25;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(preview_prune_guild, prune_guild))
}

/// Roles separated by commas, or as a list.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
enum Roles {
    List(Vec<Id<Role>>),
    Text(String),
}

impl Roles {
    fn check(&self, form: &mut FormErrors) {
        let count = match self {
            Self::List(list) => list.len(),
            Self::Text(text) => {
                let mut parts = text.split(',').filter(|part| !part.trim().is_empty());
                let wrong = parts.clone().find(|part| Self::parse(part).is_none());
                if let Some(wrong) = wrong {
                    let shown = wrong.chars().take(100).collect();
                    form.add("include_roles", Fault::NotSnowflake(shown));
                }
                parts.by_ref().count()
            }
        };
        if count > ROLES_MAX {
            let (min, max) = (0, ROLES_MAX);
            form.add("include_roles", Fault::BadLength { min, max });
        }
    }

    fn parse(text: &str) -> Option<Id<Role>> {
        text.trim().parse().ok()
    }

    fn ids(&self) -> Vec<Id<Role>> {
        match self {
            Self::List(list) => list.clone(),
            Self::Text(text) => text.split(',').filter_map(Self::parse).collect(),
        }
    }
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Preview {
    /// 7 by default.
    #[param(minimum = 1, maximum = 30)]
    days: Option<i64>,
    /// Separated by commas.
    include_roles: Option<String>,
}

impl Form for Preview {
    fn check(&self, form: &mut FormErrors) {
        if let Some(days) = self.days {
            form.range("days", days, 1..=30);
        }
        if let Some(roles) = &self.include_roles {
            Roles::Text(roles.clone()).check(form);
        }
    }
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct Prune {
    /// 7 by default.
    #[schema(minimum = 1, maximum = 30)]
    days: Option<i64>,
    /// False: the answer does not wait.
    compute_prune_count: Option<bool>,
    include_roles: Option<Roles>,
}

impl Form for Prune {
    fn check(&self, form: &mut FormErrors) {
        if let Some(days) = self.days {
            form.range("days", days, 1..=30);
        }
        if let Some(roles) = &self.include_roles {
            roles.check(form);
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct Pruned {
    /// Null: not counted.
    pruned: Option<i64>,
}

/// Whom to remove.
struct Wanted {
    days: i32,
    /// Roles that do not save their holders.
    roles: Vec<i64>,
}

impl Wanted {
    /// Errors: 10011; 50013 for roles that are not below the caller.
    fn new(access: &GuildAccess, days: Option<i64>, roles: &[Id<Role>]) -> Result<Self> {
        for &role in roles {
            access.role(role).ok_or(ErrorCode::UnknownRole)?;
        }
        let wanted = Self {
            days: days.unwrap_or(DAYS_DEFAULT) as i32,
            roles: ids_to_db(roles),
        };
        wanted.require_below(access)?;
        Ok(wanted)
    }

    /// A role that was deleted since has no holders to save. Errors: 50013.
    fn require_below(&self, access: &GuildAccess) -> Result<()> {
        for &role in &self.roles {
            if let Some(role) = access.role(Id::from_db(role)) {
                access.require_above(role.rank())?;
            }
        }
        Ok(())
    }

    /// Up to `limit` of them within a range of user ids, ascending; of `among` only, if given.
    async fn find(
        &self,
        db: &mut PgConnection,
        access: &GuildAccess,
        range: RangeInclusive<i64>,
        among: Option<&[i64]>,
        limit: i64,
    ) -> Result<Vec<i64>> {
        // Nobody is below one without roles.
        if access.rank() == Rank::Everyone {
            return Ok(Vec::new());
        }
        let found = sqlx::query_scalar!(
            r#"select m.user_id
               from member m
               join account a on a.user_id = m.user_id
               left join account_seen s on s.user_id = m.user_id
               where m.guild_id = $1 and m.user_id between $2 and $9
                 and m.user_id not in ($3, $4)
                 and not a.bot and m.roles <@ $5::bigint[]
                 and m.joined_at < now() - make_interval(days => $6)
                 and coalesce(s.seen_on, (a.created_at at time zone 'utc')::date)
                     < (now() at time zone 'utc')::date - $6::int
                 and ($7::bigint[] is null or m.user_id = any($7))
               order by m.user_id limit $8"#,
            access.id.to_db(),
            *range.start(),
            access.owner.to_db(),
            access.user.to_db(),
            &self.roles,
            self.days,
            among,
            limit,
            *range.end(),
        )
        .fetch_all(db)
        .await?;
        Ok(found)
    }
}

/// How many a prune would remove. Errors: 10004, 10011, 50001, 50013, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/prune",
    tag = "Members",
    params(Preview),
    responses((status = 200, body = Pruned))
)]
async fn preview_prune_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    Query(query): Query<Preview>,
) -> Result<Json<Pruned>> {
    /// Rows of one statement.
    const PAGE: i64 = 20_000;
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, NEEDED).await?;
    let roles = query.include_roles.map(|text| Roles::Text(text).ids());
    let wanted = Wanted::new(&access, query.days, &roles.unwrap_or_default())?;
    let (mut count, mut after) = (0, 0);
    loop {
        let rest = after + 1..=i64::MAX;
        let page = wanted.find(&mut db, &access, rest, None, PAGE).await?;
        count += page.len() as i64;
        match page.last() {
            Some(&last) if page.len() as i64 == PAGE => after = last,
            _ => break,
        }
    }
    let pruned = Some(count);
    Ok(Json(Pruned { pruned }))
}

/// Removes them, a few per transaction, which all count in one entry of the audit log. The work goes
/// on when nobody waits for the count; a process that stops leaves the rest.
///
/// Errors: 10004, 10011, 50001, 50013, 50035.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/prune",
    tag = "Members",
    responses((status = 200, body = Pruned))
)]
async fn prune_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<Prune>,
) -> Result<Json<Pruned>> {
    let access = access::guild(&app.db, &user, guild_id, NEEDED).await?;
    let roles = body
        .include_roles
        .map(|roles| roles.ids())
        .unwrap_or_default();
    let wanted = Wanted::new(&access, body.days, &roles)?;
    let (told, outcome) = oneshot::channel();
    let outcome = (body.compute_prune_count != Some(false)).then_some(outcome);
    let worker = app.clone();
    let work = async move {
        let pruned = prune(&worker, &user, guild_id, &wanted, &reason).await;
        // The request did not wait, or no longer does.
        if let Err(Err(error)) = told.send(pruned) {
            tracing::warn!(?error, "a prune ended early");
        }
    };
    app.work.spawn(TRACE.scope(telemetry::trace(), work));
    let Some(outcome) = outcome else {
        return Ok(Json(Pruned { pruned: None }));
    };
    let outcome = outcome
        .await
        .map_err(|_| Error::Internal("a prune panicked".to_owned()))?;
    let pruned = Some(outcome?);
    Ok(Json(Pruned { pruned }))
}

async fn prune(
    app: &App,
    user: &CurrentUser,
    guild_id: Id<Guild>,
    wanted: &Wanted,
    reason: &Reason,
) -> Result<i64> {
    let mut entry = None;
    let removed = remove_all(app, user, guild_id, wanted, reason, &mut entry).await;
    // Also of one that broke off.
    if let Some(entry) = entry {
        let mut tx = app.db.begin().await?;
        access::lock_realms(&mut tx, [realm(guild_id)]).await?;
        let event = entry.end(&mut tx).await?;
        tx.commit().await?;
        app.publisher.publish([event]);
    }
    removed
}

/// `entry` is there once somebody was removed.
async fn remove_all(
    app: &App,
    user: &CurrentUser,
    guild_id: Id<Guild>,
    wanted: &Wanted,
    reason: &Reason,
    entry: &mut Option<audit::Running>,
) -> Result<i64> {
    let (mut count, mut after) = (0, 0);
    loop {
        // Early enough that the entry still gets its event.
        if app.work.is_closed() || app.stop.is_cancelled() {
            return Err(Error::Unavailable("the process stops"));
        }
        let access = access::guild(&app.db, user, guild_id, NEEDED).await?;
        let mut tx = app.db.begin().await?;
        let rest = after + 1..=i64::MAX;
        let found = wanted.find(&mut tx, &access, rest, None, BATCH).await?;
        let (Some(&first), Some(&last)) = (found.first(), found.last()) else {
            return Ok(count);
        };
        after = last;
        let users: Vec<Id<User>> = ids_from_db(found.clone());
        let heads = users.into_iter().map(realm).chain([realm(guild_id)]);
        access::lock_realms(&mut tx, heads).await?;
        // Again, now that nothing can change any more.
        let access = access::guild(&mut *tx, user, guild_id, NEEDED).await?;
        wanted.require_below(&access)?;
        let found = wanted
            .find(&mut tx, &access, first..=last, Some(&found), BATCH)
            .await?;
        if found.is_empty() {
            continue;
        }
        let mut events = Vec::new();
        for &target in &found {
            let member = members::find(&mut tx, guild_id, Id::from_db(target)).await?;
            events.extend(members::remove(&mut tx, guild_id, &member).await?);
        }
        let removed = count + found.len() as i64;
        let logged = match entry.clone() {
            Some(mut begun) => {
                begun.set(&mut tx, "members_removed", removed).await?;
                begun
            }
            None => {
                let new = Entry::new(guild_id, user.id, AuditAction::MEMBER_PRUNE, reason)
                    .option("delete_member_days", wanted.days)
                    .option("members_removed", removed);
                audit::Running::begin(app, &mut tx, new).await?
            }
        };
        tx.commit().await?;
        app.publisher.publish(events);
        count = removed;
        *entry = Some(logged);
    }
}
