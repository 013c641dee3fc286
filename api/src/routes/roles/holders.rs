//! Who has which role: given, taken, counted; taken from everybody when it is gone.

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{self, Guild, User},
    model::Member,
};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::assignable;
use crate::{
    access,
    app::App,
    audit::Reason,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    routes::members,
};

/// Holders that one statement takes a deleted role from.
const TAKE_BATCH: i64 = 1000;
/// Statements of one round of housekeeping.
const TAKE_BATCHES_MAX: u32 = 100;
/// Ids listed, and members given a role by one request.
const HOLDERS_MAX: usize = 100;

type UserId = Id<User>;
type MemberRole = (Id<Guild>, Id<User>, Id<marker::Role>);

/// Also fine when the member has it already. Errors: 10004, 10007, 10011, 50001, 50013, 50028.
#[utoipa::path(
    put,
    path = "/guilds/{guild_id}/members/{user_id}/roles/{role_id}",
    tag = "Roles",
    responses((status = 204, description = "The member has it"))
)]
pub(super) async fn add_guild_member_role(
    State(app): State<App>,
    user: CurrentUser,
    Path(ids): Path<MemberRole>,
    reason: Reason,
) -> Result<StatusCode> {
    change_member_role(&app, &user, ids, true, &reason).await
}

/// Also fine when the member has it not. Errors: 10004, 10007, 10011, 50001, 50013, 50028.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/members/{user_id}/roles/{role_id}",
    tag = "Roles",
    responses((status = 204, description = "The member has it not"))
)]
pub(super) async fn delete_guild_member_role(
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
    let before = members::find(&mut tx, guild_id, target).await?;
    if before.roles.contains(&role_id) == give {
        return Ok(StatusCode::NO_CONTENT);
    }
    let mut member = before.clone();
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

/// How many members have each role, without @everyone. Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/roles/member-counts",
    tag = "Roles",
    responses((status = 200, body = BTreeMap<String, i64>))
)]
pub(super) async fn guild_role_member_counts(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<BTreeMap<Id<marker::Role>, i64>>> {
    let access = access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    let counts = sqlx::query!(
        r#"select role_id as "role_id!", count(*) as "count!"
           from member, unnest(roles) role_id where guild_id = $1 group by role_id"#,
        guild_id.to_db(),
    )
    .fetch_all(&app.db)
    .await?;
    let roles = access.roles.iter().map(|role| role.id);
    let mut by_role: BTreeMap<_, i64> = roles
        .filter(|&role| role != guild_id.cast())
        .map(|role| (role, 0))
        .collect();
    for row in counts {
        if let Some(count) = by_role.get_mut(&Id::from_db(row.role_id)) {
            *count = row.count;
        }
    }
    Ok(Json(by_role))
}

/// The first 100 holders. Errors: 10004, 10011, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/roles/{role_id}/member-ids",
    tag = "Roles",
    responses((status = 200, body = Vec<UserId>))
)]
pub(super) async fn role_member_ids(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, role_id)): Path<(Id<Guild>, Id<marker::Role>)>,
) -> Result<Json<Vec<Id<User>>>> {
    let access = access::guild(&app.db, &user, guild_id, Permissions::MANAGE_ROLES).await?;
    access.role(role_id).ok_or(ErrorCode::UnknownRole)?;
    let ids = sqlx::query_scalar!(
        "select user_id from member where guild_id = $1 and ($2 = any(roles) or $2 = $1)
         order by user_id limit $3",
        guild_id.to_db(),
        role_id.to_db(),
        HOLDERS_MAX as i64,
    )
    .fetch_all(&app.db)
    .await?;
    Ok(Json(guildhall_store::ids_from_db(ids)))
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct AddMembers {
    #[schema(required, max_items = 100)]
    member_ids: Option<Vec<Id<User>>>,
}

impl Form for AddMembers {
    fn check(&self, form: &mut FormErrors) {
        if let Some(ids) = form.required("member_ids", &self.member_ids)
            && ids.len() > HOLDERS_MAX
        {
            let fault = Fault::BadLength {
                min: 0,
                max: HOLDERS_MAX,
            };
            form.add("member_ids", fault);
        }
    }
}

/// Gives several members a role; who is no member is passed over. Answers with those who
/// have it now. Errors: 10004, 10011, 50001, 50013, 50028, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/roles/{role_id}/members",
    tag = "Roles",
    responses((status = 200, description = "Members by id", body = BTreeMap<String, Member>))
)]
pub(super) async fn role_members_add(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, role_id)): Path<(Id<Guild>, Id<marker::Role>)>,
    reason: Reason,
    Json(body): Json<AddMembers>,
) -> Result<Json<BTreeMap<Id<User>, Member>>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    assignable(&access, role_id)?;
    let (mut events, mut now) = (Vec::new(), BTreeMap::new());
    for target in body.member_ids.unwrap_or_default() {
        let found = guildhall_store::guild::member(&mut *tx, guild_id, target).await?;
        let Some(before) = found else { continue };
        let mut member = before.clone();
        if !member.roles.contains(&role_id) {
            member.roles.push(role_id);
            events.push(members::store(&mut tx, guild_id, target, &member).await?);
            let entry =
                members::audit_roles(&app, &mut tx, &access, &before, &member, &reason).await?;
            events.extend(entry);
        }
        now.insert(target, member);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(now))
}

/// Takes a role that is gone from its first holders, and notes it if there may be more.
pub(super) async fn take(
    db: &mut PgConnection,
    guild: Id<Guild>,
    role: Id<marker::Role>,
) -> Result<()> {
    if take_batch(db, guild, role).await? {
        sqlx::query!(
            "insert into deleted_role (guild_id, role_id) values ($1, $2) on conflict do nothing",
            guild.to_db(),
            role.to_db(),
        )
        .execute(db)
        .await?;
    }
    Ok(())
}

/// Whether there may be more.
async fn take_batch(
    db: &mut PgConnection,
    guild: Id<Guild>,
    role: Id<marker::Role>,
) -> Result<bool> {
    let taken = sqlx::query!(
        "update member set roles = array_remove(roles, $2)
         where guild_id = $1 and user_id in (
           select user_id from member where guild_id = $1 and $2 = any(roles) limit $3)",
        guild.to_db(),
        role.to_db(),
        TAKE_BATCH,
    )
    .execute(db)
    .await?;
    Ok(taken.rows_affected() >= TAKE_BATCH as u64)
}

/// Goes on with roles that had many holders. Housekeeping.
pub(crate) async fn take_deleted(app: &App) -> Result<()> {
    let noted = sqlx::query!("select guild_id, role_id from deleted_role limit 100")
        .fetch_all(&app.db)
        .await?;
    for row in noted {
        let (guild, role) = (Id::from_db(row.guild_id), Id::from_db(row.role_id));
        let mut batches = 0;
        while batches < TAKE_BATCHES_MAX {
            let mut tx = app.db.begin().await?;
            // Members are changed under the lock of their guild.
            access::lock_realms(&mut tx, [guild.cast()]).await?;
            let more = take_batch(&mut tx, guild, role).await?;
            if !more {
                sqlx::query!(
                    "delete from deleted_role where guild_id = $1 and role_id = $2",
                    row.guild_id,
                    row.role_id,
                )
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await?;
            if !more {
                break;
            }
            batches += 1;
        }
    }
    Ok(())
}
