//! Notes that people keep about others, for themselves (calls of user clients; no official
//! page).

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
};
use guildhall_store::personal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access, account,
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    text::clean,
};

const NOTE_LENGTH_MAX: usize = 256;
/// Notes of one person.
const NOTES_MAX: i64 = 1000;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(user_notes))
        .routes(routes!(user_note_get, user_note_put))
}

/// All notes, by whom they are about. Errors: 401, 20001.
#[utoipa::path(
    get,
    path = "/users/@me/notes",
    tag = "Users",
    responses((status = 200, body = BTreeMap<String, String>))
)]
async fn user_notes(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<BTreeMap<Id<marker::User>, String>>> {
    caller.require_human()?;
    Ok(Json(personal::notes(&app.db, caller.id).await?))
}

#[derive(Serialize, ToSchema)]
struct Note {
    note: String,
    user_id: Id<marker::User>,
    /// Whom it is about.
    note_user_id: Id<marker::User>,
}

/// Errors: 401, 10013 without a note, 20001.
#[utoipa::path(
    get,
    path = "/users/@me/notes/{user_id}",
    tag = "Users",
    responses((status = 200, body = Note))
)]
async fn user_note_get(
    State(app): State<App>,
    caller: CurrentUser,
    Path(user_id): Path<Id<marker::User>>,
) -> Result<Json<Note>> {
    caller.require_human()?;
    let note = sqlx::query_scalar!(
        "select note from user_note where user_id = $1 and about_id = $2",
        caller.id.to_db(),
        user_id.to_db(),
    )
    .fetch_optional(&app.db)
    .await?
    .ok_or(ErrorCode::UnknownUser)?;
    Ok(Json(Note {
        note,
        user_id: caller.id,
        note_user_id: user_id,
    }))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct PutNote {
    /// Empty or null: no note any more.
    #[schema(max_length = 256)]
    note: Option<String>,
}

impl Form for PutNote {}

/// Errors: 401, 10013, 20001, 50015 above 256 characters.
#[utoipa::path(
    put,
    path = "/users/@me/notes/{user_id}",
    tag = "Users",
    responses((status = 204, description = "The caller's sessions are told"))
)]
async fn user_note_put(
    State(app): State<App>,
    caller: CurrentUser,
    Path(user_id): Path<Id<marker::User>>,
    Json(body): Json<PutNote>,
) -> Result<StatusCode> {
    caller.require_human()?;
    let note = clean(&body.note.unwrap_or_default());
    if note.chars().count() > NOTE_LENGTH_MAX {
        return Err(ErrorCode::NoteTooLong.into());
    }
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    if note.is_empty() {
        sqlx::query!(
            "delete from user_note where user_id = $1 and about_id = $2",
            caller.id.to_db(),
            user_id.to_db(),
        )
        .execute(&mut *tx)
        .await?;
    } else {
        let stored = sqlx::query!(
            "insert into user_note (user_id, about_id, note)
             select $1, user_id, $3 from account
             where user_id = $2 and state <> 3
               and (select count(*) from user_note where user_id = $1 and about_id <> $2) < $4
             on conflict (user_id, about_id) do update set note = excluded.note",
            caller.id.to_db(),
            user_id.to_db(),
            note,
            NOTES_MAX,
        )
        .execute(&mut *tx)
        .await?;
        if stored.rows_affected() == 0 {
            account::require_not_deleted(&mut tx, user_id).await?;
            return Err(ErrorCode::BadRequest.into());
        }
    }
    let event = append_update(&mut tx, caller.id, user_id, &note).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}

/// Numbers USER_NOTE_UPDATE for who wrote the note. Their realm's head is locked.
async fn append_update(
    db: &mut PgConnection,
    writer: Id<marker::User>,
    about: Id<marker::User>,
    note: &str,
) -> Result<Envelope> {
    let body = json!({ "id": about, "note": note });
    let vis = Visibility::realm(Intents::empty());
    events::append(db, writer, EventKind::UserNoteUpdate, vis, &body, None).await
}

/// Erases what others noted about somebody whose account is deleted, of so many at once; they are
/// told. False when there is none left.
pub(super) async fn erase_some(app: &App, about: Id<marker::User>, at_once: i64) -> Result<bool> {
    let writers = sqlx::query_scalar!(
        "select user_id from user_note where about_id = $1 limit $2",
        about.to_db(),
        at_once,
    )
    .fetch_all(&app.db)
    .await?;
    if writers.is_empty() {
        return Ok(false);
    }
    let mut tx = app.db.begin().await?;
    let realms = writers.iter().map(|&writer| Id::from_db(writer));
    access::lock_realms(&mut tx, realms).await?;
    let erased = sqlx::query_scalar!(
        "delete from user_note where about_id = $1 and user_id = any ($2) returning user_id",
        about.to_db(),
        &writers,
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut events = Vec::new();
    for writer in erased {
        events.push(append_update(&mut tx, Id::from_db(writer), about, "").await?);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(true)
}
