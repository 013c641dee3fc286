//! What operators did, and what they were refused, in `cluster_audit`: beside the deeds of the
//! coordinators, whose history shows both. Rows are only ever added here; housekeeping deletes
//! those past their time.
//!
//! Details are ids and words of ours: never a token, or a text or name that people chose.

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use guildhall_shared::error_code::ErrorCode;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::{app::App, auth::Operator, error::Result};

/// Writes a row, in the transaction of what it tells of. No map has a part in it, so it bears none.
pub(crate) async fn record(
    db: &mut PgConnection,
    operator: &Operator,
    action: &str,
    detail: Value,
) -> Result<()> {
    sqlx::query!(
        "insert into cluster_audit (who, action, detail, term, version)
         values ($1, $2, $3, 0, 0)",
        operator.name,
        action,
        detail,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Writes down what operators ask for and are refused. Around the routes of operators.
pub(crate) async fn record_refusals(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>();
    let path = route.map(|route| with_ids(route.as_str(), request.uri().path()));
    let headers = request.headers().clone();
    let response = next.run(request).await;
    if !response.status().is_client_error() {
        return response;
    }
    // Who has no valid token is nobody that could be named.
    if let (Ok(operator), Some(path)) = (Operator::of(&app, &headers), path) {
        let code = response.extensions().get::<ErrorCode>();
        let detail = json!({
            "code": code.copied().map(ErrorCode::code),
            "status": response.status().as_u16(),
            "method": method.as_str(),
            "path": path,
        });
        if let Err(error) = record_alone(&app, &operator, "refused", detail).await {
            tracing::warn!(?error, "what an operator was refused is not in the history");
        }
    }
    response
}

async fn record_alone(app: &App, operator: &Operator, action: &str, detail: Value) -> Result<()> {
    record(&mut *app.db.acquire().await?, operator, action, detail).await
}

/// The path of a request without what was written in place of ids and is none.
fn with_ids(route: &str, path: &str) -> String {
    let is_id = |written: &str| written.bytes().all(|byte| byte.is_ascii_digit());
    let parts = route.split('/').zip(path.split('/'));
    let parts = parts.map(
        |(known, written)| match known.starts_with('{') && is_id(written) {
            true => written,
            false => known,
        },
    );
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_path_nothing_is_kept_but_ids() {
        let route = "/internal/channels/{channel_id}/messages/{message_id}";
        let kept = |channel: &str, message: &str| {
            let path = format!("/internal/channels/{channel}/messages/{message}");
            with_ids(route, &path)
        };
        assert_eq!(kept("1", "23"), "/internal/channels/1/messages/23");
        assert_eq!(
            kept("1", "hello%20you"),
            "/internal/channels/1/messages/{message_id}"
        );
        assert_eq!(with_ids("/metrics", "/metrics"), "/metrics");
    }
}
