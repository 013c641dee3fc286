//! Who is interested in a scheduled event, or in one of its dates.

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker::{self, Guild},
    model::{Member, ScheduledEvent, User},
};
use guildhall_store::{ids_to_db, user::UserRow};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};

use super::{seen, visibility};
use crate::{
    access,
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path, Query, from_zero},
    form::FormErrors,
};

/// Somebody is interested (the only answer there is).
const INTERESTED: u8 = 1;
const LIST_MAX: i64 = 100;

/// One who is interested.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventUser {
    guild_scheduled_event_id: Id<marker::ScheduledEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guild_scheduled_event_exception_id: Option<Id<marker::EventException>>,
    user_id: Id<marker::User>,
    user: User,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<Member>,
    response: u8,
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListUsers {
    with_member: bool,
    /// 1 to 100; 100 if not given.
    limit: Option<i64>,
    /// Wins over `after`.
    before: Option<Id<marker::User>>,
    #[serde(default, deserialize_with = "from_zero")]
    after: Option<Id<marker::User>>,
}

impl Form for ListUsers {
    fn check(&self, form: &mut FormErrors) {
        if let Some(limit) = self.limit {
            form.range("limit", limit, 1..=LIST_MAX);
        }
    }
}

/// By user id, ascending; `before` gives those next to it.
async fn list(
    db: &mut PgConnection,
    event: &ScheduledEvent,
    exception: Option<Id<marker::EventException>>,
    query: &ListUsers,
) -> Result<Vec<EventUser>> {
    let backwards = query.before.is_some();
    let after = query.after.filter(|_| !backwards).map_or(0, Id::to_db);
    macro_rules! page {
        ($order:literal) => {
            sqlx::query_as!(
                UserRow,
                "select a.user_id, a.username, a.discriminator, a.global_name, a.avatar, a.banner,
                        a.accent_color, a.bot, a.public_flags
                 from scheduled_event_user u join account a using (user_id)
                 where u.event_id = $1 and u.exception_id = $2 and u.user_id > $3
                   and u.user_id < $4
                 order by u.user_id "
                    + $order
                    + " limit $5",
                event.id.to_db(),
                exception.map_or(0, Id::to_db),
                after,
                query.before.map_or(i64::MAX, Id::to_db),
                query.limit.unwrap_or(LIST_MAX),
            )
            .fetch_all(&mut *db)
            .await?
        };
    }
    let rows = if backwards {
        page!("desc")
    } else {
        page!("asc")
    };
    let mut users: Vec<User> = rows.into_iter().map(User::from).collect();
    if backwards {
        users.reverse();
    }
    let mut members: BTreeMap<Id<marker::User>, Member> = BTreeMap::new();
    if query.with_member {
        let ids: Vec<_> = users.iter().map(|user| user.id).collect();
        members = members_of(db, event.guild_id, &ids).await?;
    }
    let users = users.into_iter().map(|user| EventUser {
        guild_scheduled_event_id: event.id,
        guild_scheduled_event_exception_id: exception,
        user_id: user.id,
        member: members.remove(&user.id),
        user,
        response: INTERESTED,
    });
    Ok(users.collect())
}

async fn members_of(
    db: &mut PgConnection,
    guild: Id<Guild>,
    users: &[Id<marker::User>],
) -> Result<BTreeMap<Id<marker::User>, Member>> {
    let mut members = BTreeMap::new();
    for &user in users {
        if let Some(member) = guildhall_store::guild::member(&mut *db, guild, user).await? {
            members.insert(user, member);
        }
    }
    Ok(members)
}

/// Errors: 10004, 10070, 50001, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}/users",
    tag = "Scheduled events",
    params(ListUsers),
    responses((status = 200, body = Vec<EventUser>))
)]
pub(super) async fn list_guild_scheduled_event_users(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id)): Path<(Id<Guild>, Id<marker::ScheduledEvent>)>,
    Query(query): Query<ListUsers>,
) -> Result<Json<Vec<EventUser>>> {
    let mut db = app.db.acquire().await?;
    let (_, event) = seen(&mut db, &user, guild_id, event_id, false).await?;
    Ok(Json(list(&mut db, &event, None, &query).await?))
}

/// Those interested in one date. Errors: 10004, 10070, 50001, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}/{guild_scheduled_event_exception_id}/users",
    tag = "Scheduled events",
    params(ListUsers),
    responses((status = 200, body = Vec<EventUser>))
)]
pub(super) async fn list_guild_scheduled_event_exception_users(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id, exception_id)): Path<(
        Id<Guild>,
        Id<marker::ScheduledEvent>,
        Id<marker::EventException>,
    )>,
    Query(query): Query<ListUsers>,
) -> Result<Json<Vec<EventUser>>> {
    let mut db = app.db.acquire().await?;
    let (_, event) = seen(&mut db, &user, guild_id, event_id, false).await?;
    let mut known = event.guild_scheduled_event_exceptions.iter();
    if !known.any(|known| known.event_exception_id == exception_id) {
        return Err(ErrorCode::UnknownScheduledEvent.into());
    }
    let users = list(&mut db, &event, Some(exception_id), &query).await?;
    Ok(Json(users))
}

#[derive(Debug, Deserialize, Default, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct CountUsers {
    /// At most 10, separated by commas.
    guild_scheduled_event_exception_ids: Option<String>,
}

const COUNTED_MAX: usize = 10;

impl CountUsers {
    fn ids(&self) -> Vec<Id<marker::EventException>> {
        let ids = self.guild_scheduled_event_exception_ids.iter();
        ids.flat_map(|ids| ids.split(','))
            .filter_map(|id| id.trim().parse().ok())
            .collect()
    }
}

impl Form for CountUsers {
    fn check(&self, form: &mut FormErrors) {
        if self.ids().len() > COUNTED_MAX {
            let (min, max) = (0, COUNTED_MAX);
            form.add(
                "guild_scheduled_event_exception_ids",
                crate::form::Fault::BadLength { min, max },
            );
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserCounts {
    guild_scheduled_event_count: i64,
    /// By the exception's id.
    guild_scheduled_event_exception_counts: BTreeMap<String, i64>,
}

/// Errors: 10004, 10070, 50001, 50035.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}/users/counts",
    tag = "Scheduled events",
    params(CountUsers),
    responses((status = 200, body = UserCounts))
)]
pub(super) async fn count_guild_scheduled_event_users(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id)): Path<(Id<Guild>, Id<marker::ScheduledEvent>)>,
    Query(query): Query<CountUsers>,
) -> Result<Json<UserCounts>> {
    let mut db = app.db.acquire().await?;
    seen(&mut db, &user, guild_id, event_id, false).await?;
    let wanted = query.ids();
    let rows = sqlx::query!(
        r#"select exception_id, count(*) as "count!" from scheduled_event_user
           where event_id = $1 and (exception_id = 0 or exception_id = any($2))
           group by exception_id"#,
        event_id.to_db(),
        &ids_to_db(&wanted),
    )
    .fetch_all(&mut *db)
    .await?;
    let count = |id: i64| rows.iter().find(|row| row.exception_id == id);
    let count = |id| count(id).map_or(0, |row| row.count);
    Ok(Json(UserCounts {
        guild_scheduled_event_count: count(0),
        guild_scheduled_event_exception_counts: wanted
            .iter()
            .map(|id| (id.to_string(), count(id.to_db())))
            .collect(),
    }))
}

/// Body of GUILD_SCHEDULED_EVENT_USER_ADD and …_REMOVE.
#[derive(Serialize)]
struct UserEvent {
    guild_scheduled_event_id: Id<marker::ScheduledEvent>,
    user_id: Id<marker::User>,
    guild_id: Id<Guild>,
}

/// The caller is interested. Errors: 10004, 10070, 20001, 50001, 180000.
#[utoipa::path(
    put,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}/users/@me",
    tag = "Scheduled events",
    responses((status = 200, body = EventUser))
)]
pub(super) async fn create_guild_scheduled_event_user(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id)): Path<(Id<Guild>, Id<marker::ScheduledEvent>)>,
) -> Result<Json<EventUser>> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild_id.cast()]).await?;
    let (access, event) = seen(&mut tx, &user, guild_id, event_id, false).await?;
    if !event.status.is_open() {
        return Err(ErrorCode::FinishedEvent.into());
    }
    let added = sqlx::query!(
        "insert into scheduled_event_user (event_id, user_id) values ($1, $2)
         on conflict do nothing",
        event_id.to_db(),
        user.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    if added.rows_affected() > 0 {
        let body = UserEvent {
            guild_scheduled_event_id: event_id,
            user_id: user.id,
            guild_id,
        };
        let (kind, vis) = (EventKind::GuildScheduledEventUserAdd, visibility(&event));
        let told = events::append(&mut tx, guild_id, kind, vis, &body, None).await?;
        tx.commit().await?;
        app.publisher.publish([told]);
    }
    Ok(Json(EventUser {
        guild_scheduled_event_id: event_id,
        guild_scheduled_event_exception_id: None,
        user_id: user.id,
        user: user.user().clone(),
        member: Some(access.member),
        response: INTERESTED,
    }))
}

/// The caller is no longer interested. Errors: 10004, 10070, 10071, 20001, 50001.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/scheduled-events/{guild_scheduled_event_id}/users/@me",
    tag = "Scheduled events",
    responses((status = 204, description = "No longer interested"))
)]
pub(super) async fn delete_guild_scheduled_event_user(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, event_id)): Path<(Id<Guild>, Id<marker::ScheduledEvent>)>,
) -> Result<StatusCode> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild_id.cast()]).await?;
    let (_, event) = seen(&mut tx, &user, guild_id, event_id, false).await?;
    let removed = sqlx::query!(
        "delete from scheduled_event_user where event_id = $1 and user_id = $2",
        event_id.to_db(),
        user.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    if removed.rows_affected() == 0 {
        return Err(ErrorCode::UnknownScheduledEventUser.into());
    }
    let body = UserEvent {
        guild_scheduled_event_id: event_id,
        user_id: user.id,
        guild_id,
    };
    let (kind, vis) = (EventKind::GuildScheduledEventUserRemove, visibility(&event));
    let told = events::append(&mut tx, guild_id, kind, vis, &body, None).await?;
    tx.commit().await?;
    app.publisher.publish([told]);
    Ok(StatusCode::NO_CONTENT)
}

/// Who is no longer a member is interested in none of the guild's events. Nobody is told: that the
/// member is gone says it. The guild's head is locked.
pub(crate) async fn forget_user(
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: Id<marker::User>,
) -> Result<()> {
    sqlx::query!(
        "delete from scheduled_event_user u using scheduled_event e
         where u.user_id = $2 and e.event_id = u.event_id and e.guild_id = $1",
        guild.to_db(),
        user.to_db(),
    )
    .execute(db)
    .await?;
    Ok(())
}
