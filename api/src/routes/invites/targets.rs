//! Invites that only certain users may take: their list, as a CSV file.

use std::collections::BTreeSet;

use axum::{
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker::User,
    model::{AuditAction, Invite},
    shard::realm,
};
use guildhall_store::{ids_from_db, ids_to_db};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{by_code, inviter};
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Json, Path},
    form::{Fault, FormErrors},
    text::clean,
};

/// Users of one invite.
const USERS_MAX: usize = 10_000;
const FIELD: &str = "target_users_file";
const COMPLETED: i16 = 2;

/// An invite whose list the caller may see: its inviter, and who holds any of the permissions.
///
/// Errors: 10006, 50001, 50013.
async fn for_targets(
    db: &mut PgConnection,
    user: &CurrentUser,
    code: &str,
    any_of: &[Permissions],
) -> Result<Invite> {
    let invite = by_code(&mut *db, code).await?;
    let none = Permissions::empty();
    let access = access::guild(db, user, invite.guild_id, none).await?;
    if inviter(&invite) != Some(user.id) {
        access.require_one_of(access.base(), any_of)?;
    }
    Ok(invite)
}

/// The users as CSV with the header `user_id`. Errors: 10006, 10129, 50001, 50013.
#[utoipa::path(
    get,
    path = "/invites/{code}/target-users",
    tag = "Invites",
    responses((status = 200, description = "The users", content_type = "text/csv"))
)]
pub(super) async fn get_invite_target_users(
    State(app): State<App>,
    user: CurrentUser,
    Path(code): Path<String>,
) -> Result<Response> {
    let mut db = app.db.acquire().await?;
    let any_of = &[Permissions::MANAGE_GUILD, Permissions::VIEW_AUDIT_LOG];
    let code = clean(&code);
    let invite = for_targets(&mut db, &user, &code, any_of).await?;
    let users = sqlx::query_scalar!(
        "select user_id from invite_target_user where code = $1 order by user_id",
        invite.code,
    )
    .fetch_all(&mut *db)
    .await?;
    if users.is_empty() {
        return Err(ErrorCode::UnknownTargetUsers.into());
    }
    let mut csv = "user_id\n".to_owned();
    for user in ids_from_db::<User>(users) {
        csv.push_str(&user.to_string());
        csv.push('\n');
    }
    Ok(([(header::CONTENT_TYPE, "text/csv")], csv).into_response())
}

/// Puts a list in place of the one there is, from the file `target_users_file` of a multipart
/// body: one id per line, after the header `user_id`. From then on nobody else takes the invite.
///
/// Errors: 10006, 50001, 50013, 50035.
#[utoipa::path(
    put,
    path = "/invites/{code}/target-users",
    tag = "Invites",
    responses((status = 204, description = "They may take the invite"))
)]
pub(super) async fn update_invite_target_users(
    State(app): State<App>,
    user: CurrentUser,
    Path(code): Path<String>,
    reason: Reason,
    request: Request,
) -> Result<StatusCode> {
    let users = parse(&file(request).await?)?;
    let code = clean(&code);
    let mut tx = app.db.begin().await?;
    let guild_id = by_code(&mut tx, &code).await?.guild_id;
    access::lock_realms(&mut tx, [realm(guild_id)]).await?;
    let invite = for_targets(&mut tx, &user, &code, &[Permissions::MANAGE_GUILD]).await?;
    if invite.is_vanity {
        return Err(ErrorCode::UnknownInvite.into());
    }
    let ids: Vec<Id<User>> = users.into_iter().collect();
    sqlx::query!(
        "update invite set targeted = true where code = $1",
        invite.code
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from invite_target_user where code = $1",
        invite.code
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "insert into invite_target_user (code, user_id) select $1, unnest($2::bigint[])",
        invite.code,
        &ids_to_db(&ids),
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "insert into invite_target_job (code, status, total, processed, completed_at)
         values ($1, $2, $3, $3, now())
         on conflict (code) do update
         set status = excluded.status, total = excluded.total, processed = excluded.processed,
             created_at = now(), completed_at = now(), error = null",
        invite.code,
        COMPLETED,
        ids.len() as i32,
    )
    .execute(&mut *tx)
    .await?;
    let entry = Entry::new(guild_id, user.id, AuditAction::INVITE_UPDATE, &reason).change(
        "code",
        None,
        Some(invite.code.into()),
    );
    let told = audit::append(&app, &mut tx, entry).await?;
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(StatusCode::NO_CONTENT)
}

/// Errors: 50035 without the file.
async fn file(request: Request) -> Result<Bytes> {
    let required = || FormErrors::one(FIELD, Fault::Required);
    let headers = request.headers().clone();
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(|_| required())?;
    let body = Bytes::from_request(request, &()).await;
    let body = body.map_err(|_| ErrorCode::RequestEntityTooLarge)?;
    let body = futures_util::stream::once(async move { Ok::<_, std::convert::Infallible>(body) });
    let mut parts = multer::Multipart::new(body, boundary);
    while let Some(part) = parts.next_field().await.map_err(|_| required())? {
        if part.name() == Some(FIELD) {
            return part.bytes().await.map_err(|_| required());
        }
    }
    Err(required())
}

/// Errors: 50035 for what is no list of ids, or too many.
fn parse(csv: &[u8]) -> Result<BTreeSet<Id<User>>> {
    let fault = |message: String| {
        let fault = Fault::Other("INVITE_TARGET_USERS_INVALID", message.into());
        FormErrors::one(FIELD, fault)
    };
    let text = std::str::from_utf8(csv).map_err(|_| fault("This is no text.".to_owned()))?;
    let mut users = BTreeSet::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim().trim_matches('"');
        if line.is_empty() || number == 0 && line.eq_ignore_ascii_case("user_id") {
            continue;
        }
        let id = line.parse();
        let id = id.map_err(|_| fault(format!("Line {} is no user's id.", number + 1)))?;
        users.insert(id);
        if users.len() > USERS_MAX {
            return Err(fault(format!("At most {USERS_MAX} users.")));
        }
    }
    if users.is_empty() {
        return Err(fault("There are no users.".to_owned()));
    }
    Ok(users)
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobStatus {
    /// 1 processing, 2 completed, 3 failed.
    status: i16,
    total_users: i32,
    processed_users: i32,
    created_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    error_message: Option<String>,
}

/// How far the newest list is. Errors: 10006, 10124, 50001, 50013.
#[utoipa::path(
    get,
    path = "/invites/{code}/target-users/job-status",
    tag = "Invites",
    responses((status = 200, body = JobStatus))
)]
pub(super) async fn get_invite_target_users_job_status(
    State(app): State<App>,
    user: CurrentUser,
    Path(code): Path<String>,
) -> Result<Json<JobStatus>> {
    let mut db = app.db.acquire().await?;
    let any_of = &[Permissions::MANAGE_GUILD, Permissions::VIEW_AUDIT_LOG];
    let code = clean(&code);
    let invite = for_targets(&mut db, &user, &code, any_of).await?;
    let row = sqlx::query!(
        "select status, total, processed, error, created_at, completed_at
         from invite_target_job where code = $1",
        invite.code,
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(ErrorCode::UnknownTargetUsersJob)?;
    Ok(Json(JobStatus {
        status: row.status,
        total_users: row.total,
        processed_users: row.processed,
        created_at: Some(Timestamp(row.created_at)),
        completed_at: row.completed_at.map(Timestamp),
        error_message: row.error,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_header_and_one_id_per_line() {
        let ids = |csv: &str| {
            let users = parse(csv.as_bytes());
            users.map(|users| users.into_iter().map(Id::get).collect::<Vec<_>>())
        };
        assert_eq!(ids("user_id\n2\r\n\"1\"\n\n2\n").unwrap(), [1, 2]);
        assert_eq!(ids("7").unwrap(), [7]);
        for bad in ["", "user_id\n", "user_id\nx", "1,2", "\u{0}"] {
            assert!(ids(bad).is_err(), "{bad}");
        }
    }
}
