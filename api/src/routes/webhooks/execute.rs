//! Webhooks by their token: looking, changing, removing, and writing messages.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use guildhall_shared::{
    Id,
    envelope::Envelope,
    error_code::ErrorCode,
    id::marker::{self, Channel},
    model::{ChannelKind, Message, MessageKind},
};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    INCOMING, UpdateWebhook, Viewer, Webhook, WebhookBody, apply, body, by_token, changed_avatar,
    github::GithubEvent, slack::SlackMessage, update,
};
use crate::{
    access::{self, Audience},
    app::App,
    audit::Reason,
    error::Result,
    extract::{Form, Json, Path, Query},
    routes::{
        interactions,
        messages::{self, Mentioner, NewMessageForm, Persona, Request, Sender},
        threads,
    },
    text::clean,
    upload::{Files, Upload, read_after},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            get_webhook_by_token,
            execute_webhook,
            update_webhook_by_token,
            delete_webhook_by_token
        ))
        .routes(routes!(execute_slack_compatible_webhook))
        .routes(routes!(execute_github_compatible_webhook))
}

/// Before a body is read: a webhook's own token, or one of an interaction that stands for it.
///
/// Errors: 10008, 10015, 50027.
pub(super) async fn check_token(app: &App, id: Id<marker::Webhook>, token: &str) -> Result<()> {
    if interactions::is_token(token) {
        return interactions::check_token(app, id, token).await;
    }
    by_token(&app.db, id, token).await?;
    Ok(())
}

/// The webhook without its maker. Errors: 10015, 50027.
#[utoipa::path(
    get,
    path = "/webhooks/{webhook_id}/{webhook_token}",
    tag = "Webhooks",
    security(()),
    responses((status = 200, body = WebhookBody))
)]
async fn get_webhook_by_token(
    State(app): State<App>,
    Path((webhook_id, token)): Path<(Id<marker::Webhook>, String)>,
) -> Result<Json<WebhookBody>> {
    let mut db = app.db.acquire().await?;
    let webhook = by_token(&mut *db, webhook_id, &token).await?;
    body(&app, &mut db, Viewer::Token, webhook).await
}

/// Name and picture only. Errors: 10015, 50027, 50035.
#[utoipa::path(
    patch,
    path = "/webhooks/{webhook_id}/{webhook_token}",
    tag = "Webhooks",
    security(()),
    request_body = UpdateWebhook,
    responses((status = 200, body = WebhookBody))
)]
async fn update_webhook_by_token(
    State(app): State<App>,
    Path((webhook_id, token)): Path<(Id<marker::Webhook>, String)>,
    reason: Reason,
    request: axum::extract::Request,
) -> Result<Json<WebhookBody>> {
    let check = check_own_token(&app, webhook_id, &token);
    let Json(change) = read_after::<Json<UpdateWebhook>>(check, request, &app).await?;
    let avatar = changed_avatar(&app, webhook_id, &change).await?;
    let mut tx = app.db.begin().await?;
    let before = by_token_for_change(&mut tx, webhook_id, &token).await?;
    let mut webhook = before.clone();
    apply(&mut webhook, &change, avatar);
    let actor = webhook_id.cast();
    let events = update(&app, &mut tx, &before, &webhook, actor, &reason).await?;
    let body = body(&app, &mut tx, Viewer::Token, webhook).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(body)
}

/// Errors: 10015, 50027.
#[utoipa::path(
    delete,
    path = "/webhooks/{webhook_id}/{webhook_token}",
    tag = "Webhooks",
    security(()),
    responses((status = 204, description = "It is gone"))
)]
async fn delete_webhook_by_token(
    State(app): State<App>,
    Path((webhook_id, token)): Path<(Id<marker::Webhook>, String)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let webhook = by_token_for_change(&mut tx, webhook_id, &token).await?;
    let actor = webhook_id.cast();
    let events = super::delete(&app, &mut tx, &webhook, actor, &reason).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Before a body is read: a webhook's own token. Errors: 10015, 50027.
async fn check_own_token(app: &App, id: Id<marker::Webhook>, token: &str) -> Result<()> {
    by_token(&app.db, id, token).await?;
    Ok(())
}

/// The webhook of a token, as it is now that its guild's head is locked. Errors: 10015, 50027.
pub(super) async fn by_token_for_change(
    db: &mut PgConnection,
    id: Id<marker::Webhook>,
    token: &str,
) -> Result<Webhook> {
    let webhook = by_token(&mut *db, id, token).await?;
    access::lock_realms(db, [webhook.guild.cast()]).await?;
    by_token(db, id, token).await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct ExecuteQuery {
    /// Whether the answer is the message; in Slack's form, where it is if nothing is said, `"ok"`.
    wait: Option<bool>,
    /// A thread in the webhook's channel.
    thread_id: Option<Id<Channel>>,
    /// Accepted; components are always kept.
    #[serde(rename = "with_components")]
    _with_components: Option<bool>,
}

impl Form for ExecuteQuery {}

/// Writes a message in the webhook's name, or as a follow-up to an interaction: the token of
/// one stands for a webhook's, and the answer is always the message.
///
/// Errors: 10003, 10015, 40066, 40067, 40094 after five follow-ups of an application that only its
/// user brought to the place, 50006, 50013, 50027, 50035, 160006, 160007, 220001, 220002, 220003.
#[utoipa::path(
    post,
    path = "/webhooks/{webhook_id}/{webhook_token}",
    tag = "Webhooks",
    security(()),
    params(ExecuteQuery),
    request_body = NewMessageForm,
    responses(
        (status = 200, body = Message, description = "With wait=true"),
        (status = 204, description = "The message is sent")
    )
)]
async fn execute_webhook(
    State(app): State<App>,
    Path((webhook_id, token)): Path<(Id<marker::Webhook>, String)>,
    Query(query): Query<ExecuteQuery>,
    request: axum::extract::Request,
) -> Result<Response> {
    let check = check_token(&app, webhook_id, &token);
    let Upload { body: form, files } =
        Upload::<NewMessageForm>::after(check, request, &app).await?;
    if interactions::is_token(&token) {
        let message = interactions::follow_up(&app, webhook_id, &token, &form, &files).await?;
        return Ok(Json(message).into_response());
    }
    let of = (webhook_id, token.as_str());
    let message = execute(&app, of, query.thread_id, &form, &files).await?;
    Ok(match query.wait {
        Some(true) => Json(message).into_response(),
        Some(false) | None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Writes what Slack's form of a message says, as JSON or as a form with it in `payload` or in
/// fields of its own; answers `"ok"`, as Slack does, or null with wait=false. Files are passed over.
///
/// Errors: 10003, 10015, 50006, 50027, 50035.
#[utoipa::path(
    post,
    path = "/webhooks/{webhook_id}/{webhook_token}/slack",
    tag = "Webhooks",
    security(()),
    params(ExecuteQuery),
    request_body = SlackMessage,
    responses((status = 200, body = Option<String>))
)]
async fn execute_slack_compatible_webhook(
    State(app): State<App>,
    Path((webhook_id, token)): Path<(Id<marker::Webhook>, String)>,
    Query(query): Query<ExecuteQuery>,
    request: axum::extract::Request,
) -> Result<Json<Option<&'static str>>> {
    let check = check_token(&app, webhook_id, &token);
    let Upload { body: slack, .. } = Upload::<SlackMessage>::after(check, request, &app).await?;
    let form = slack.into_form()?;
    let (of, files) = ((webhook_id, token.as_str()), Files::none(&app));
    execute(&app, of, query.thread_id, &form, &files).await?;
    Ok(Json(query.wait.unwrap_or(true).then_some("ok")))
}

/// Writes what GitHub tells by `X-GitHub-Event`; events nobody wants to read are passed over.
///
/// Errors: 10003, 10015, 50027, 50035.
#[utoipa::path(
    post,
    path = "/webhooks/{webhook_id}/{webhook_token}/github",
    tag = "Webhooks",
    security(()),
    params(ExecuteQuery),
    request_body = GithubEvent,
    responses((status = 204, description = "The message is sent"))
)]
async fn execute_github_compatible_webhook(
    State(app): State<App>,
    Path((webhook_id, token)): Path<(Id<marker::Webhook>, String)>,
    Query(query): Query<ExecuteQuery>,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> Result<StatusCode> {
    let check = check_own_token(&app, webhook_id, &token);
    let Json(event) = read_after::<Json<GithubEvent>>(check, request, &app).await?;
    let name = headers
        .get("x-github-event")
        .and_then(|name| name.to_str().ok())
        .unwrap_or_default();
    if let Some(form) = event.into_form(name)? {
        let (of, files) = ((webhook_id, token.as_str()), Files::none(&app));
        execute(&app, of, query.thread_id, &form, &files).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn execute(
    app: &App,
    (id, token): (Id<marker::Webhook>, &str),
    thread: Option<Id<Channel>>,
    form: &NewMessageForm,
    files: &Files,
) -> Result<Message> {
    let picture = match form.avatar_url.as_deref().filter(|url| !url.is_empty()) {
        Some(address) => {
            by_token(&app.db, id, token).await?;
            app.pictures
                .fetch(&app.outgoing, &app.media, id, address)
                .await?
        }
        None => None,
    };
    let mut tx = app.db.begin().await?;
    let webhook = by_token_for_change(&mut tx, id, token).await?;
    if webhook.kind != INCOMING {
        return Err(ErrorCode::SystemWebhook.into());
    }
    let (audience, mut events) = destination(app, &mut tx, &webhook, thread, form).await?;
    let username = match &form.username {
        Some(username) => clean(username),
        None => webhook.name.clone(),
    };
    let persona = Persona::new(username, picture.or(webhook.avatar.clone()));
    let author = persona.user(webhook.id);
    let mut message = messages::draft(app, audience.channel, author, MessageKind::DEFAULT)?;
    if form.names_a_thread() {
        message.id = audience.channel.cast();
    }
    message.webhook_id = Some(webhook.id);
    message.application_id = webhook.application;
    let request = Request {
        sender: Sender::Webhook,
        mentioner: Mentioner::Anybody(Some(webhook.guild)),
        form,
        files,
    };
    messages::compose(app, &mut tx, request, &mut message).await?;
    events.extend(messages::post_in(&mut tx, &audience, None, &message).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(message)
}

/// Where a webhook's message goes, the guild's head locked: its channel, a thread in it, or a
/// post of a forum made for it.
///
/// Errors: 10003, 40066, 40067, 50013, 50035, 160006, 220001, 220002, 220003.
async fn destination(
    app: &App,
    db: &mut PgConnection,
    webhook: &Webhook,
    thread: Option<Id<Channel>>,
    form: &NewMessageForm,
) -> Result<(Audience, Vec<Envelope>)> {
    let name = form.thread_name.as_deref();
    let name = name.filter(|_| form.names_a_thread());
    let channel = match (thread, name) {
        (Some(_), Some(_)) => return Err(ErrorCode::ForumWebhookThreadTwice.into()),
        // Before that channel's head is locked: it may be one of any guild that is named here.
        (Some(thread), None) => own_thread(db, webhook, thread).await?,
        (None, _) => webhook.channel,
    };
    let audience = access::audience_for_change(db, channel).await?;
    let is_forum = matches!(audience.kind, ChannelKind::FORUM | ChannelKind::MEDIA);
    match name {
        Some(name) if is_forum => {
            let place = (webhook.guild, webhook.channel);
            let tags = &form.applied_tags;
            threads::post_of_webhook(app, db, place, webhook.id.cast(), name, tags).await
        }
        Some(_) => Err(ErrorCode::WebhookThreadOnlyInForums.into()),
        None if is_forum => Err(ErrorCode::ForumWebhookNeedsThread.into()),
        None => {
            let woken = threads::wake(db, &audience).await?;
            Ok((audience, woken))
        }
    }
}

/// A thread, if it is in the webhook's channel. Errors: 10003.
pub(super) async fn own_thread(
    db: &mut PgConnection,
    webhook: &Webhook,
    thread: Id<Channel>,
) -> Result<Id<Channel>> {
    let parent = sqlx::query_scalar!(
        "select parent_id from thread where thread_id = $1",
        thread.to_db(),
    )
    .fetch_optional(db)
    .await?;
    match parent.map(Id::from_db) {
        Some(parent) if parent == webhook.channel => Ok(thread),
        Some(_) | None => Err(ErrorCode::UnknownChannel.into()),
    }
}
