//! What an application writes after its first answer: changes to it, and more messages. Its
//! token takes the place of a webhook's, in the same paths.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker::{self, Webhook},
    model::{Message, MessageFlags, MessageKind},
};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    Kind, Row,
    callback::DEFERRED_MESSAGE,
    lock_by_token, mentioner,
    message::{self, Reach, Shown},
    state,
};
use crate::{
    access::Audience,
    app::App,
    error::Result,
    extract::{Json, Path},
    routes::{
        applications,
        messages::{self, EditForm, NewMessageForm, Request, Sender},
        webhooks,
    },
    upload::{Files, Upload},
};

/// Further messages of an application that only the user brought to the place.
const GUESTS_MAX: i64 = 5;

/// The answered interaction of a token, its row locked.
///
/// Errors: 10015 for one that was not answered yet, and for one that only asked for choices, which
/// no message answers; 50027 for one that is over; else as [`refuse`].
async fn open(db: &mut PgConnection, application: Id<Webhook>, token: &str) -> Result<Row> {
    let row = lock_by_token(db, token).await?;
    let Some(row) = row.filter(|row| row.application == application.cast()) else {
        return refuse(db, application, token).await;
    };
    if !row.is_open() {
        return Err(ErrorCode::InvalidWebhookToken.into());
    }
    if row.state != state::ANSWERED || row.kind == Kind::AUTOCOMPLETE {
        return Err(ErrorCode::UnknownWebhook.into());
    }
    Ok(row)
}

/// Before a body is read. Errors: as [`open`].
pub(crate) async fn check_token(app: &App, application: Id<Webhook>, token: &str) -> Result<()> {
    let mut db = app.db.acquire().await?;
    open(&mut db, application, token).await?;
    Ok(())
}

/// A token of no interaction: a webhook's own has no first answer.
///
/// Errors: 10008, 10015 for an id of nothing, 50027.
async fn refuse<T>(db: &mut PgConnection, id: Id<Webhook>, token: &str) -> Result<T> {
    match applications::exists(&mut *db, id.cast()).await? {
        true => Err(ErrorCode::InvalidWebhookToken.into()),
        false => {
            webhooks::by_token(&mut *db, id, token).await?;
            Err(ErrorCode::UnknownMessage.into())
        }
    }
}

/// One more message. While the first answer is still to come, it is that one.
///
/// Errors: 10015, 40094, 50006, 50027, 50035.
pub(crate) async fn follow_up(
    app: &App,
    application: Id<Webhook>,
    token: &str,
    form: &NewMessageForm,
    files: &Files,
) -> Result<Message> {
    let mut tx = app.db.begin().await?;
    let row = open(&mut tx, application, token).await?;
    let asked = match (row.response, row.response_message) {
        _ if form.is_ephemeral() => Reach::User,
        // It may turn out to be the first answer.
        (Some(DEFERRED_MESSAGE), Some(original)) => Reach::of_message(&mut tx, original).await?,
        _ => Reach::Channel,
    };
    let (audience, is_quiet) = message::lock_for_new(&mut tx, &row, asked).await?;
    let mut message = message::draft(app, &mut tx, &row).await?;
    message.kind = MessageKind::DEFAULT;
    message.interaction = None;
    if let (Some(original), Some(metadata)) =
        (row.response_message, &mut message.interaction_metadata)
    {
        metadata["original_response_message_id"] = json!(original);
    }
    let original = loading(app, &mut tx, &row).await?;
    if let Some(original) = &original {
        message = Message::clone(&original.message);
    }
    let place = row.bot_place(&mut tx).await?;
    let request = Request {
        sender: Sender::Interaction,
        mentioner: mentioner(place.as_ref()),
        form,
        files,
    };
    messages::compose(app, &mut tx, request, &mut message).await?;
    let envelopes = match original {
        Some(original) => {
            // Who sees it was said with the first answer.
            message.flags &= !MessageFlags::EPHEMERAL;
            message.flags |= original.message.flags & MessageFlags::EPHEMERAL;
            let is_ephemeral = original.is_ephemeral;
            let mut told = match is_ephemeral {
                true => Vec::new(),
                false => message::make_ready(&mut tx, &audience).await?,
            };
            message::store_late(&mut tx, &message).await?;
            told.extend(message::changed(&mut tx, &row, &audience, &message, is_ephemeral).await?);
            told
        }
        None => {
            check_count(&mut tx, &row).await?;
            if is_quiet {
                message.flags |= MessageFlags::EPHEMERAL;
            }
            message::post(&mut tx, &row, &audience, &message).await?
        }
    };
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(message)
}

/// Before one more message, besides the first answer. Errors: 40094.
async fn check_count(db: &mut PgConnection, row: &Row) -> Result<()> {
    if row.context.guest.is_none() {
        return Ok(());
    }
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from interaction_message
           where interaction_id = $1 and message_id is distinct from $2"#,
        row.id.to_db(),
        row.response_message.map(Id::to_db),
    )
    .fetch_one(db)
    .await?;
    if count < GUESTS_MAX {
        Ok(())
    } else {
        Err(ErrorCode::MaximumFollowUps.into())
    }
}

/// The first answer, if it is still to come.
async fn loading(app: &App, db: &mut PgConnection, row: &Row) -> Result<Option<Shown>> {
    let Some(original) = row.response_message else {
        return Ok(None);
    };
    let shown = message::shown(&app.media, db, row, original).await?;
    Ok(shown.filter(|shown| shown.message.flags & MessageFlags::LOADING != 0))
}

/// The message that is meant; `None`: the first answer. Errors: 10008 if it is still to come.
fn named(row: &Row, id: Option<Id<marker::Message>>) -> Result<Id<marker::Message>> {
    Ok(id
        .or(row.response_message)
        .ok_or(ErrorCode::UnknownMessage)?)
}

/// An interaction, who hears of its message, and the message; locked from here to the commit.
///
/// Errors: 10008, 10015, 50027.
async fn own_for_change(
    app: &App,
    db: &mut PgConnection,
    (application, token): (Id<Webhook>, &str),
    id: Option<Id<marker::Message>>,
) -> Result<(Row, Audience, Shown)> {
    let row = open(&mut *db, application, token).await?;
    let id = named(&row, id)?;
    let reach = Reach::of_message(&mut *db, id).await?;
    let audience = message::lock(&mut *db, &row, reach).await?;
    let shown = message::own(&app.media, &mut *db, &row, id).await?;
    Ok((row, audience, shown))
}

/// Errors: 10008, 10015, 50027.
pub(crate) async fn read_message(
    app: &App,
    application: Id<Webhook>,
    token: &str,
    id: Option<Id<marker::Message>>,
) -> Result<Message> {
    let mut tx = app.db.begin().await?;
    let row = open(&mut tx, application, token).await?;
    let id = named(&row, id)?;
    Ok(*message::own(&app.media, &mut tx, &row, id).await?.message)
}

/// `None`: the first answer. Errors: 10008, 10015, 50006, 50027, 50035, 50083.
pub(crate) async fn edit_message(
    app: &App,
    application: Id<Webhook>,
    token: &str,
    id: Option<Id<marker::Message>>,
    (form, files): (&EditForm, &Files),
) -> Result<Message> {
    let mut tx = app.db.begin().await?;
    let (row, audience, shown) = own_for_change(app, &mut tx, (application, token), id).await?;
    let (message, envelopes) =
        message::edit(app, &mut tx, &row, &audience, shown, (form, files)).await?;
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(message)
}

/// `None`: the first answer. Errors: 10008, 10015, 50027.
pub(crate) async fn delete_message(
    app: &App,
    application: Id<Webhook>,
    token: &str,
    id: Option<Id<marker::Message>>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let (row, audience, shown) = own_for_change(app, &mut tx, (application, token), id).await?;
    let envelopes = message::delete(&mut tx, &row, &audience, &shown).await?;
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(StatusCode::NO_CONTENT)
}

type OriginalPath = Path<(Id<Webhook>, String)>;

/// The first answer to an interaction. Errors: 10008, 10015, 50027.
#[utoipa::path(
    get,
    path = "/webhooks/{webhook_id}/{webhook_token}/messages/@original",
    tag = "Interactions",
    security(()),
    responses((status = 200, body = Message))
)]
pub(super) async fn get_original_webhook_message(
    State(app): State<App>,
    Path((webhook_id, webhook_token)): OriginalPath,
) -> Result<Json<Message>> {
    let message = read_message(&app, webhook_id, &webhook_token, None).await?;
    Ok(Json(message))
}

/// Changes the first answer to an interaction. Errors: 10008, 10015, 50006, 50027, 50035, 50083.
#[utoipa::path(
    patch,
    path = "/webhooks/{webhook_id}/{webhook_token}/messages/@original",
    tag = "Interactions",
    security(()),
    request_body = EditForm,
    responses((status = 200, body = Message))
)]
pub(super) async fn update_original_webhook_message(
    State(app): State<App>,
    Path((webhook_id, webhook_token)): OriginalPath,
    request: axum::extract::Request,
) -> Result<Json<Message>> {
    let check = check_token(&app, webhook_id, &webhook_token);
    let Upload { body, files } = Upload::<EditForm>::after(check, request, &app).await?;
    let message = edit_message(&app, webhook_id, &webhook_token, None, (&body, &files)).await?;
    Ok(Json(message))
}

/// Takes the first answer to an interaction back. Errors: 10008, 10015, 50027.
#[utoipa::path(
    delete,
    path = "/webhooks/{webhook_id}/{webhook_token}/messages/@original",
    tag = "Interactions",
    security(()),
    responses((status = 204, description = "Gone"))
)]
pub(super) async fn delete_original_webhook_message(
    State(app): State<App>,
    Path((webhook_id, webhook_token)): OriginalPath,
) -> Result<StatusCode> {
    delete_message(&app, webhook_id, &webhook_token, None).await
}
