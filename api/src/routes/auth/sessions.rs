//! Where somebody is logged in, and ending that.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    access,
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json},
    form::{Fault, FormErrors},
    second_factor::SecondFactor,
    sessions::{self, Which},
};

#[derive(Serialize, ToSchema)]
pub(super) struct Sessions {
    user_sessions: Vec<Session>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Session {
    /// Names the session; its token cannot be found from it.
    id_hash: String,
    /// At most some minutes old.
    approx_last_used_time: Timestamp,
    client_info: ClientInfo,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ClientInfo {
    os: Option<String>,
    platform: Option<String>,
    /// Always null: addresses are not kept.
    location: Option<String>,
}

/// The caller's sessions, the last used first; at most 50. Errors: 401, 20001.
#[utoipa::path(
    get,
    path = "/auth/sessions",
    tag = "Accounts",
    responses((status = 200, body = Sessions))
)]
pub(super) async fn auth_sessions_list(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<Sessions>> {
    caller.require_human()?;
    let rows = sqlx::query!(
        r#"select encode(sha256(token_hash), 'hex') as "name!", os, platform, last_used_at
           from auth_token where user_id = $1 order by last_used_at desc limit 50"#,
        caller.id.to_db(),
    )
    .fetch_all(&app.db)
    .await?;
    let user_sessions = rows
        .into_iter()
        .map(|row| Session {
            id_hash: row.name,
            approx_last_used_time: Timestamp(row.last_used_at),
            client_info: ClientInfo {
                os: row.os,
                platform: row.platform,
                location: None,
            },
        })
        .collect();
    Ok(Json(Sessions { user_sessions }))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct RevokeSessions {
    #[schema(required, min_items = 1, max_items = 64)]
    session_id_hashes: Option<Vec<String>>,
}

impl Form for RevokeSessions {
    fn check(&self, form: &mut FormErrors) {
        let path = "session_id_hashes";
        if let Some(hashes) = form.required(path, &self.session_id_hashes)
            && !(1..=64).contains(&hashes.len())
        {
            form.add(path, Fault::BadLength { min: 1, max: 64 });
        }
    }
}

/// Revokes sessions; what is not there is gone already. Errors: 401, 20001, 60003, 50035.
#[utoipa::path(
    post,
    path = "/auth/sessions/logout",
    tag = "Accounts",
    responses((status = 204, description = "Their tokens are void, their sockets close"))
)]
pub(super) async fn auth_sessions_revoke(
    State(app): State<App>,
    caller: CurrentUser,
    _shown: SecondFactor,
    Json(body): Json<RevokeSessions>,
) -> Result<StatusCode> {
    caller.require_human()?;
    let mut names = body.session_id_hashes.unwrap_or_default();
    // Postgres takes no NUL, and no session has one in its name.
    names.retain(|name| !name.contains('\0'));
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    let event = sessions::revoke(&mut tx, caller.id, Which::Named(&names)).await?;
    tx.commit().await?;
    app.tokens.forget(caller.id);
    app.publisher.publish(event);
    Ok(StatusCode::NO_CONTENT)
}
