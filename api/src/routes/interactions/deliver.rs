//! Interactions on their way to applications: over the gateway, or signed to an endpoint whose
//! reply is the answer. Either way the deadline is watched.

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{StatusCode, header::CONTENT_TYPE},
};
use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Alt, Envelope, Visibility},
    gateway::EventKind,
    id::marker::{Application, Interaction, Realm},
};
use reqwest::Url;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{ANSWER_TIMEOUT, Failure, callback, fail_unanswered};
use crate::{
    app::App,
    error::{Error, Result},
    events,
    keys::Use,
    outgoing::{Answer, Unreachable},
    signing::ApplicationKey,
    upload::Upload,
};

/// Interactions that this process waits for the answers of; more are refused.
static WATCHED: Semaphore = Semaphore::const_new(10_000);

/// A place among those that are watched. Errors: 503 when there are too many.
pub(super) fn seat() -> Result<SemaphorePermit<'static>> {
    let seat = WATCHED.try_acquire();
    seat.map_err(|_| Error::Unavailable("too many interactions wait for their answers"))
}

/// An interaction on its way to its application.
pub(super) struct Delivery {
    pub(super) id: Id<Interaction>,
    pub(super) application: Id<Application>,
    pub(super) token: String,
    /// `None`: it goes over the gateway.
    pub(super) endpoint: Option<String>,
    pub(super) interaction: Value,
}

/// Numbers INTERACTION_CREATE for the bot alone, in the realm that leads to the right one of
/// its shards: the guild's, or for direct messages the bot's own. `blank`: what sessions without the
/// intent for content get, if it is something else.
pub(super) async fn to_gateway(
    db: &mut PgConnection,
    realm: Id<Realm>,
    application: Id<Application>,
    interaction: &Value,
    blank: Option<&Value>,
) -> Result<Envelope> {
    let vis = Visibility::users(vec![application.cast()]);
    let kind = EventKind::InteractionCreate;
    let alt = match blank {
        Some(blank) => Some(Alt {
            full_for: Vec::new(),
            body: serde_json::to_vec(blank)?.into(),
            parts: Vec::new(),
        }),
        None => None,
    };
    events::append(db, realm, kind, vis, interaction, alt).await
}

/// How a delivery ended that is not just waited for.
enum Sent {
    /// The reply was the answer, or nothing that could be one.
    Over,
    /// The application answers by a call.
    Accepted,
}

/// Waits for the answer in the background, after the commit.
pub(super) fn watch(app: &App, delivery: Delivery, seat: SemaphorePermit<'static>) {
    let app = app.clone();
    app.clone().tasks.spawn(async move {
        let _seat = seat;
        let waiting = async {
            let deadline = Instant::now() + ANSWER_TIMEOUT;
            let sent = match &delivery.endpoint {
                Some(endpoint) => send(&app, &delivery, endpoint).await,
                None => Sent::Accepted,
            };
            let why = match sent {
                Sent::Over => Failure::Unknown,
                Sent::Accepted => {
                    tokio::time::sleep_until(deadline).await;
                    Failure::Timeout
                }
            };
            fail_unanswered(&app, delivery.id, why).await
        };
        if let Some(Err(error)) = app.stop.run_until_cancelled(waiting).await {
            tracing::warn!(?error, "an interaction was not ended");
        }
    });
}

/// Sends an interaction to an endpoint and takes its reply for the answer; 202 says that it
/// answers by a call.
async fn send(app: &App, delivery: &Delivery, endpoint: &str) -> Sent {
    let Ok(url) = app.outgoing.parse(endpoint) else {
        return Sent::Over;
    };
    let Ok(body) = serde_json::to_vec(&delivery.interaction).map(Bytes::from) else {
        return Sent::Over;
    };
    let reply = match post_signed(app, delivery.application, &url, &body).await {
        Ok(reply) if reply.status == StatusCode::ACCEPTED => return Sent::Accepted,
        Ok(reply) if reply.status.is_success() => reply,
        Ok(_) => return Sent::Over,
        Err(error) => {
            tracing::debug!(%error, "an interactions endpoint did not answer");
            return Sent::Over;
        }
    };
    let answered = async {
        let Upload { body, files } = Upload::from_request(as_request(reply), app).await?;
        callback::answer(app, delivery.id, &delivery.token, body, &files).await
    };
    let answered = answered.await;
    if let Err(error) = answered {
        tracing::debug!(code = ?error.code(), "an endpoint's reply was refused");
    }
    Sent::Over
}

/// Sends it signed by the application's key. While the cluster's key is renewed, an endpoint that
/// refuses the signature (401) may know the application by another one: each is tried, all of
/// them within the time for one answer.
async fn post_signed(
    app: &App,
    application: Id<Application>,
    url: &Url,
    body: &Bytes,
) -> Result<Answer, Unreachable> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut refused = None;
    for key in app.keys.all() {
        let headers = ApplicationKey::new(key, application).headers(body);
        let left = deadline.saturating_duration_since(Instant::now());
        let sent = app.outgoing.post(url.clone(), headers, body.clone(), left);
        let reply = sent.await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            if app.keys.is_previous(key) {
                app.keys.note(Use::Interaction, key);
                tracing::info!(
                    application.id = %application,
                    "an interactions endpoint has the previous verify_key"
                );
            }
            return Ok(reply);
        }
        refused.get_or_insert(reply);
    }
    refused.ok_or(Unreachable::NoAnswer)
}

/// A reply as the body of a request: both may be JSON, or a form with files.
fn as_request(reply: Answer) -> Request {
    let mut request = Request::new(Body::from(reply.body));
    // Endpoints that name no type mean JSON.
    let is_form = reply.content_type.filter(|kind| {
        let start = kind.as_bytes().get(..19);
        start.is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/form-data"))
    });
    if let Some(kind) = is_form {
        request.headers_mut().insert(CONTENT_TYPE, kind);
    }
    request
}
