//! Bans: who may not be in a guild. Spec: objects.md › Ban; permissions.md › Hierarchy.

mod purge;

use std::collections::BTreeSet;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Scope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{Guild, User},
    model::{self, AuditAction},
    shard::realm,
};
use guildhall_store::{ids_from_db, ids_to_db, user::UserRow, user_of};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::purge::Purge;
pub(crate) use self::purge::{purge_turns, resume_purges};
use super::members;
use crate::{
    access::{self, GuildAccess},
    account,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, Query},
    form::{Fault, FormErrors},
    integration,
    text::clean,
};

const BULK_MAX: usize = 200;
/// Seconds: a week.
const DELETE_MESSAGES_MAX: i64 = 604_800;
/// Found by one search.
const SEARCH_MAX: i64 = 100;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_guild_bans))
        .routes(routes!(ban_search))
        .routes(routes!(
            get_guild_ban,
            ban_user_from_guild,
            unban_user_from_guild
        ))
        .routes(routes!(bulk_ban_users_from_guild))
}

#[derive(Debug, Serialize, ToSchema)]
struct Ban {
    reason: Option<String>,
    user: model::User,
}

struct Row {
    reason: Option<String>,
    user_id: i64,
    username: String,
    discriminator: String,
    global_name: Option<String>,
    avatar: Option<String>,
    banner: Option<String>,
    accent_color: Option<i32>,
    bot: bool,
    public_flags: i64,
}

impl From<Row> for Ban {
    fn from(row: Row) -> Self {
        Self {
            user: user_of!(row),
            reason: row.reason,
        }
    }
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct ListBans {
    /// Users before this id; wins over `after`.
    before: Option<Id<User>>,
    after: Option<u64>,
    /// 1000 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

impl Form for ListBans {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=1000);
        }
    }
}

/// By user id. Errors: 10004, 50001, 50013, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/bans",
    tag = "Bans",
    params(ListBans),
    responses((status = 200, body = Vec<Ban>))
)]
async fn list_guild_bans(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    Query(query): Query<ListBans>,
) -> Result<Json<Vec<Ban>>> {
    access::guild(&app.db, &user, guild_id, Permissions::BAN_MEMBERS).await?;
    // `before` is the page that ends there, still ascending.
    let after = match query.before {
        None => query.after.map_or(0, |after| after.min(i64::MAX as u64)) as i64,
        Some(_) => 0,
    };
    macro_rules! page {
        ($order:literal) => {
            sqlx::query_as!(
                Row,
                "select b.reason, a.user_id, a.username, a.discriminator, a.global_name,
                        a.avatar, a.banner, a.accent_color, a.bot, a.public_flags
                 from ban b join account a using (user_id)
                 where b.guild_id = $1 and b.user_id > $2 and b.user_id < $3
                   and a.user_id > $2 and a.user_id < $3
                 order by b.user_id "
                    + $order
                    + " limit $4",
                guild_id.to_db(),
                after,
                query.before.map_or(i64::MAX, Id::to_db),
                query.limit.unwrap_or(1000),
            )
            .fetch_all(&app.db)
            .await?
        };
    }
    let rows = match query.before {
        None => page!("asc"),
        Some(_) => {
            let mut rows = page!("desc");
            rows.reverse();
            rows
        }
    };
    Ok(Json(rows.into_iter().map(Ban::from).collect()))
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct SearchBans {
    /// How the username or display name begins, in any case.
    #[param(min_length = 1, max_length = 100)]
    query: Option<String>,
    /// Ids separated by commas.
    user_ids: Option<String>,
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

impl Form for SearchBans {
    fn check(&self, form: &mut FormErrors) {
        if let Some(query) = &self.query {
            form.length("query", query, 1..=100);
        }
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=SEARCH_MAX);
        }
        if let Some(ids) = &self.user_ids {
            let wrong = ids.split(',').find(|id| id.parse::<Id<User>>().is_err());
            if let Some(wrong) = wrong {
                let shown = wrong.chars().take(100).collect();
                form.add("user_ids", Fault::NotSnowflake(shown));
            } else if ids.split(',').count() > SEARCH_MAX as usize {
                let (min, max) = (0, SEARCH_MAX as usize);
                form.add("user_ids", Fault::BadLength { min, max });
            }
        }
    }
}

/// Bans by name or by user. Errors: 10004, 50001, 50013, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/bans/search",
    tag = "Bans",
    params(SearchBans),
    responses((status = 200, body = Vec<Ban>))
)]
async fn ban_search(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    Query(query): Query<SearchBans>,
) -> Result<Json<Vec<Ban>>> {
    user.require_human()?;
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::BAN_MEMBERS).await?;
    let given: Option<BTreeSet<i64>> = query.user_ids.map(|ids| {
        ids.split(',')
            .filter_map(|id| id.parse::<Id<User>>().ok())
            .map(Id::to_db)
            .collect()
    });
    let beginning = query.query.as_deref().map(clean);
    let named = match &beginning {
        Some(beginning) => account::named(&mut db, beginning).await?,
        None => None,
    };
    let ids: Option<Vec<i64>> = match (given, named) {
        (Some(given), Some(named)) => Some(given.intersection(&named).copied().collect()),
        (one, other) => one.or(other).map(|ids| ids.into_iter().collect()),
    };
    // Users are looked up one by one: among many bans a plan that is kept for all values looks for
    // them in all of the guild's. Of a common name some are soon found in these.
    macro_rules! search {
        ($bans:literal) => {
            sqlx::query_as!(
                Row,
                r#"select b.reason, a.user_id, a.username, a.discriminator, a.global_name,
                          a.avatar, a.banner, a.accent_color, a.bot, a.public_flags
                   from ("#
                    + $bans
                    + r#") b join account a using (user_id)
                   where ($3::text is null or begins(a.username, $3)
                      or begins(a.global_name, $3))
                   order by a.user_id limit $4"#,
                guild_id.to_db(),
                ids.as_deref(),
                beginning,
                query.limit.unwrap_or(10),
            )
            .fetch_all(&mut *db)
            .await?
        };
    }
    let rows = match ids {
        Some(_) => search!(
            "select found.user_id, found.reason
             from unnest($2::bigint[]) w (user_id) cross join lateral (
               select user_id, reason from ban
               where guild_id = $1 and ban.user_id = w.user_id offset 0) found"
        ),
        None => {
            search!("select user_id, reason from ban where guild_id = $1 and $2::bigint[] is null")
        }
    };
    Ok(Json(rows.into_iter().map(Ban::from).collect()))
}

/// Errors: 10004, 10026, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/bans/{user_id}",
    tag = "Bans",
    responses((status = 200, body = Ban))
)]
async fn get_guild_ban(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
) -> Result<Json<Ban>> {
    access::guild(&app.db, &user, guild_id, Permissions::BAN_MEMBERS).await?;
    let row = sqlx::query_as!(
        Row,
        "select b.reason, a.user_id, a.username, a.discriminator, a.global_name, a.avatar,
                a.banner, a.accent_color, a.bot, a.public_flags
         from ban b join account a using (user_id)
         where b.guild_id = $1 and b.user_id = $2",
        guild_id.to_db(),
        user_id.to_db(),
    )
    .fetch_optional(&app.db)
    .await?;
    Ok(Json(row.ok_or(ErrorCode::UnknownBan)?.into()))
}

/// Libraries write it into the body or, with an empty body, into the query.
#[derive(Debug, Deserialize, Default, IntoParams, ToSchema)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct BanUser {
    #[schema(minimum = 0, maximum = 604_800)]
    delete_message_seconds: Option<i64>,
    /// The older way to say it.
    #[schema(minimum = 0, maximum = 7)]
    delete_message_days: Option<i64>,
}

impl Form for BanUser {
    fn check(&self, form: &mut FormErrors) {
        if let Some(seconds) = self.delete_message_seconds {
            form.range("delete_message_seconds", seconds, 0..=DELETE_MESSAGES_MAX);
        }
        if let Some(days) = self.delete_message_days {
            form.range("delete_message_days", days, 0..=7);
            if self.delete_message_seconds.is_some() {
                let message = "Only one of delete_message_seconds and delete_message_days.";
                let fault = Fault::Other("BASE_TYPE_CONFLICT", message.into());
                form.add("delete_message_days", fault);
            }
        }
    }
}

impl BanUser {
    fn delete_seconds(&self) -> Option<i64> {
        let days = self.delete_message_days;
        self.delete_message_seconds
            .or(days.map(|days| days * 86_400))
    }
}

/// Also for who is no member; an application whose commands alone are in the guild leaves it. What
/// the user wrote lately is deleted after the answer, in steps. Banning somebody again changes nothing
/// else.
///
/// Errors: 10004, 10013, 50001, 50013, 50035.
#[utoipa::path(
    put,
    path = "/guilds/{guild_id}/bans/{user_id}",
    tag = "Bans",
    params(BanUser),
    responses((status = 204, description = "Banned"))
)]
async fn ban_user_from_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
    reason: Reason,
    Query(query): Query<BanUser>,
    Json(body): Json<BanUser>,
) -> Result<StatusCode> {
    let needed = Permissions::BAN_MEMBERS;
    let seconds = body.delete_seconds().or(query.delete_seconds());
    let purge = Purge::new(&app, guild_id, seconds.unwrap_or_default())?;
    ban(&app, &user, guild_id, user_id, needed, &reason, purge).await?;
    if let Some(purge) = purge {
        purge::start(&app, purge);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Bans one user, in one transaction, which also queues the purge, even of who is banned already.
///
/// Errors: 10004, 10013, 50001, 50013.
async fn ban(
    app: &App,
    user: &CurrentUser,
    guild_id: Id<Guild>,
    target: Id<User>,
    needed: Permissions,
    reason: &Reason,
    purge: Option<Purge>,
) -> Result<()> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [realm(guild_id), realm(target)]).await?;
    let access = access::guild(&mut *tx, user, guild_id, needed).await?;
    let account = account(&mut tx, target).await?;
    let member = guildhall_store::guild::member(&mut *tx, guild_id, target).await?;
    check_target(&access, target, member.as_ref())?;
    let banned = sqlx::query!(
        "insert into ban (guild_id, user_id, reason) values ($1, $2, $3) on conflict do nothing",
        guild_id.to_db(),
        target.to_db(),
        reason.0,
    )
    .execute(&mut *tx)
    .await?;
    if let Some(purge) = purge {
        purge.queue(&mut tx, &[target]).await?;
    }
    if banned.rows_affected() == 0 {
        tx.commit().await?;
        return Ok(());
    }
    let mut events = vec![append(&mut tx, guild_id, EventKind::GuildBanAdd, &account).await?];
    events.extend(match &member {
        Some(member) => members::remove(&mut tx, guild_id, member).await?,
        None => integration::remove(&mut tx, guild_id, target).await?,
    });
    let entry = Entry::new(guild_id, user.id, AuditAction::MEMBER_BAN_ADD, reason).target(target);
    events.extend(audit::append(app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(())
}

/// Nobody bans the owner, themselves or whoever stands at or above them.
///
/// Errors: 50013.
fn check_target(
    access: &GuildAccess,
    target: Id<User>,
    member: Option<&model::Member>,
) -> Result<()> {
    let roles = member.map_or(&[][..], |member| &member.roles);
    if target == access.user {
        return Err(ErrorCode::MissingPermissions.into());
    }
    match member {
        Some(_) => access.require_above(access.rank_of(target, roles)),
        None => Ok(()),
    }
}

async fn account(db: &mut PgConnection, user: Id<User>) -> Result<model::User> {
    let row = sqlx::query_as!(
        UserRow,
        "select user_id, username, discriminator, global_name, avatar, banner, accent_color, bot,
                public_flags
         from account where user_id = $1",
        user.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.ok_or(ErrorCode::UnknownUser)?.into())
}

/// Body of GUILD_BAN_ADD and GUILD_BAN_REMOVE.
#[derive(Serialize)]
struct BanEvent<'a> {
    guild_id: Id<Guild>,
    user: &'a model::User,
}

async fn append(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    kind: EventKind,
    user: &model::User,
) -> Result<Envelope> {
    let scope = Scope::Permissions {
        any_of: Permissions::BAN_MEMBERS.union(Permissions::VIEW_AUDIT_LOG),
        channel: None,
    };
    let vis = Visibility::of(scope, Intents::GUILD_MODERATION);
    let body = BanEvent { guild_id, user };
    events::append(db, guild_id, kind, vis, &body, None).await
}

/// Errors: 10004, 10026, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/bans/{user_id}",
    tag = "Bans",
    responses((status = 204, description = "No longer banned"))
)]
async fn unban_user_from_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, user_id)): Path<(Id<Guild>, Id<User>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::BAN_MEMBERS;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let removed = sqlx::query!(
        "delete from ban where guild_id = $1 and user_id = $2",
        guild_id.to_db(),
        user_id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    if removed.rows_affected() == 0 {
        return Err(ErrorCode::UnknownBan.into());
    }
    let account = account(&mut tx, user_id).await?;
    let mut events = vec![append(&mut tx, guild_id, EventKind::GuildBanRemove, &account).await?];
    let action = AuditAction::MEMBER_BAN_REMOVE;
    let entry = Entry::new(guild_id, user.id, action, &reason).target(user_id);
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct BulkBan {
    #[schema(required, min_items = 1, max_items = 200)]
    user_ids: Option<Vec<Id<User>>>,
    #[schema(minimum = 0, maximum = 604_800)]
    delete_message_seconds: Option<i64>,
}

impl Form for BulkBan {
    fn check(&self, form: &mut FormErrors) {
        if let Some(ids) = form.required("user_ids", &self.user_ids)
            && !(1..=BULK_MAX).contains(&ids.len())
        {
            let (min, max) = (1, BULK_MAX);
            form.add("user_ids", Fault::BadLength { min, max });
        }
        if let Some(seconds) = self.delete_message_seconds {
            form.range("delete_message_seconds", seconds, 0..=DELETE_MESSAGES_MAX);
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct BulkBanned {
    banned_users: Vec<Id<User>>,
    /// Above the caller, unknown, or banned already.
    failed_users: Vec<Id<User>>,
}

/// Each user by a transaction of its own; after the answer what they wrote lately is deleted, also if
/// the database fails on the way.
///
/// Errors: 10004, 50001, 50013, 50035, 500000 if nobody was banned.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/bulk-ban",
    tag = "Bans",
    responses((status = 200, body = BulkBanned))
)]
async fn bulk_ban_users_from_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<BulkBan>,
) -> Result<Json<BulkBanned>> {
    let needed = Permissions::BAN_MEMBERS | Permissions::MANAGE_GUILD;
    access::guild(&app.db, &user, guild_id, needed).await?;
    let mut wanted = body.user_ids.unwrap_or_default();
    wanted.sort_unstable();
    wanted.dedup();
    let known = sqlx::query_scalar!(
        "select user_id from ban where guild_id = $1 and user_id = any($2)",
        guild_id.to_db(),
        &ids_to_db(&wanted),
    )
    .fetch_all(&app.db)
    .await?;
    let known: Vec<Id<User>> = ids_from_db(known);
    let purge = Purge::new(
        &app,
        guild_id,
        body.delete_message_seconds.unwrap_or_default(),
    )?;
    // Of those banned before as well, as a single ban does it: it may be the same request again,
    // after one that broke off.
    if let Some(purge) = purge
        && !known.is_empty()
    {
        purge.queue(&mut *app.db.acquire().await?, &known).await?;
    }
    let (mut banned_users, mut failed_users) = (Vec::new(), Vec::new());
    let mut broken_off = None;
    for target in wanted {
        if known.contains(&target) {
            failed_users.push(target);
            continue;
        }
        match ban(&app, &user, guild_id, target, needed, &reason, purge).await {
            Ok(()) => banned_users.push(target),
            Err(error) if error.code().status() < 500 => failed_users.push(target),
            Err(error) => {
                broken_off = Some(error);
                break;
            }
        }
    }
    if let Some(purge) = purge {
        purge::start(&app, purge);
    }
    if let Some(error) = broken_off {
        return Err(error);
    }
    if banned_users.is_empty() {
        return Err(ErrorCode::BulkBanFailed.into());
    }
    Ok(Json(BulkBanned {
        banned_users,
        failed_users,
    }))
}
