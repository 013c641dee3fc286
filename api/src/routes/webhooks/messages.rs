//! Messages of a webhook, by the webhook's token.
//!
//! The token of an interaction stands for a webhook's: then these are the messages that answered
//! it. `@original` names the first of them; a webhook has none.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker::{self, Channel},
    model::{Message, MessageFlags},
};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Webhook, by_token, deliver_soon,
    execute::{by_token_for_change, check_token, own_thread},
};
use crate::{
    access::{self, Audience},
    app::App,
    error::Result,
    extract::{Form, Json, Path, Query},
    media::Media,
    routes::{
        interactions,
        messages::{self, EditForm, Mentioner, Request, Sender},
        threads,
    },
    upload::Upload,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(
        get_webhook_message,
        update_webhook_message,
        delete_webhook_message
    ))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct MessageQuery {
    /// The thread that the message is in.
    thread_id: Option<Id<Channel>>,
    /// Accepted; components are always kept.
    #[serde(rename = "with_components")]
    _with_components: Option<bool>,
}

impl Form for MessageQuery {}

/// The channel that a webhook's message is looked for in. Errors: 10003.
async fn channel_of(
    db: &mut PgConnection,
    webhook: &Webhook,
    thread: Option<Id<Channel>>,
) -> Result<Id<Channel>> {
    match thread.filter(|&thread| thread != webhook.channel) {
        Some(thread) => own_thread(db, webhook, thread).await,
        None => Ok(webhook.channel),
    }
}

/// A message that the webhook wrote. Errors: 10008.
async fn own_message(
    media: &Media,
    db: &mut PgConnection,
    webhook: &Webhook,
    channel: Id<Channel>,
    id: Id<marker::Message>,
) -> Result<Message> {
    let message = messages::load::message(media, db, webhook.id.cast(), channel, id).await?;
    let message = message.filter(|message| message.author.id == webhook.id.cast());
    message.ok_or_else(|| ErrorCode::UnknownMessage.into())
}

/// Errors: 10003, 10008, 10015, 50027.
#[utoipa::path(
    get,
    path = "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}",
    tag = "Webhooks",
    security(()),
    params(MessageQuery),
    responses((status = 200, body = Message))
)]
async fn get_webhook_message(
    State(app): State<App>,
    Path((webhook_id, token, message_id)): Path<(Id<marker::Webhook>, String, Id<marker::Message>)>,
    Query(query): Query<MessageQuery>,
) -> Result<Json<Message>> {
    if interactions::is_token(&token) {
        let id = Some(message_id);
        let message = interactions::read_message(&app, webhook_id, &token, id).await?;
        return Ok(Json(message));
    }
    let mut db = app.db.acquire().await?;
    let webhook = by_token(&mut *db, webhook_id, &token).await?;
    let channel = channel_of(&mut db, &webhook, query.thread_id).await?;
    let message = own_message(&app.media, &mut db, &webhook, channel, message_id).await?;
    Ok(Json(message))
}

/// The webhook, where its message is, and the message; the guild's head is locked.
async fn for_change(
    media: &Media,
    db: &mut PgConnection,
    id: Id<marker::Webhook>,
    token: &str,
    thread: Option<Id<Channel>>,
    message: Id<marker::Message>,
) -> Result<(Webhook, Audience, Message)> {
    let webhook = by_token_for_change(db, id, token).await?;
    let channel = channel_of(db, &webhook, thread).await?;
    let audience = access::audience_for_change(db, channel).await?;
    let message = own_message(media, db, &webhook, channel, message).await?;
    Ok((webhook, audience, message))
}

/// Errors: 10003, 10008, 10015, 50006, 50027, 50035, 50083.
#[utoipa::path(
    patch,
    path = "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}",
    tag = "Webhooks",
    security(()),
    params(MessageQuery),
    request_body = EditForm,
    responses((status = 200, body = Message))
)]
async fn update_webhook_message(
    State(app): State<App>,
    Path((webhook_id, token, message_id)): Path<(Id<marker::Webhook>, String, Id<marker::Message>)>,
    Query(query): Query<MessageQuery>,
    request: axum::extract::Request,
) -> Result<Json<Message>> {
    let check = check_token(&app, webhook_id, &token);
    let Upload { body: form, files } = Upload::<EditForm>::after(check, request, &app).await?;
    if interactions::is_token(&token) {
        let (id, change) = (Some(message_id), (&form, &files));
        let message = interactions::edit_message(&app, webhook_id, &token, id, change).await?;
        return Ok(Json(message));
    }
    let mut tx = app.db.begin().await?;
    let thread = query.thread_id;
    let (webhook, audience, mut message) =
        for_change(&app.media, &mut tx, webhook_id, &token, thread, message_id).await?;
    threads::require_awake(&mut tx, &audience).await?;
    let request = Request {
        sender: Sender::Webhook,
        mentioner: Mentioner::Anybody(Some(webhook.guild)),
        form: &form,
        files: &files,
    };
    messages::edit(&app, &mut tx, request, &mut message).await?;
    let events = messages::announce_update_in(&mut tx, &audience, None, &message).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    if message.flags & MessageFlags::CROSSPOSTED != 0 {
        deliver_soon(&app, message.channel_id, message.id);
    }
    Ok(Json(message))
}

/// Errors: 10003, 10008, 10015, 50027.
#[utoipa::path(
    delete,
    path = "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}",
    tag = "Webhooks",
    security(()),
    params(MessageQuery),
    responses((status = 204, description = "It is gone"))
)]
async fn delete_webhook_message(
    State(app): State<App>,
    Path((webhook_id, token, message_id)): Path<(Id<marker::Webhook>, String, Id<marker::Message>)>,
    Query(query): Query<MessageQuery>,
) -> Result<StatusCode> {
    if interactions::is_token(&token) {
        let id = Some(message_id);
        return interactions::delete_message(&app, webhook_id, &token, id).await;
    }
    let mut tx = app.db.begin().await?;
    let thread = query.thread_id;
    let (_, audience, message) =
        for_change(&app.media, &mut tx, webhook_id, &token, thread, message_id).await?;
    messages::delete_messages(&mut tx, message.channel_id, &[message.id]).await?;
    let events = messages::announce_delete(&mut tx, &audience, message.id).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    if message.flags & MessageFlags::CROSSPOSTED != 0 {
        deliver_soon(&app, message.channel_id, message.id);
    }
    Ok(StatusCode::NO_CONTENT)
}
