//! What surrounds every request: who calls, whether they may call so often, and 429.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use guildhall_shared::{Id, Timestamp, id::marker::User};
use serde_json::json;

use super::{
    Scope, Verdict,
    counter::Count,
    invalid::is_invalid,
    rules::{Bucket, Owner},
};
use crate::{
    app::App,
    auth::{self, Authenticated},
    config::RateLimits,
    error::{add_retry_headers, json_response},
    request::{client_address, network, without_version},
};

/// Finds out who calls, counts the request, and answers 429 in place of the handler.
pub(crate) async fn run(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let address = client_address(request.extensions(), request.headers(), app.config.proxies);
    let address = network(address);
    let is_on = app.limiter.mode == RateLimits::On;
    if is_on && let Some(until) = app.limiter.blocked.until(address, Instant::now()) {
        app.limiter.metrics.rate_limited.inc();
        let left = until.saturating_duration_since(Instant::now());
        return too_many_requests(left, Scope::Global);
    }
    // If the database is away, handlers that need the caller will say so.
    let caller = auth::authenticate(&app, request.headers()).await.ok();
    let user = caller.as_ref().and_then(Option::as_ref).map(|user| user.id);
    if let Some(caller) = caller {
        request.extensions_mut().insert(Authenticated(caller));
    }
    if !is_on {
        return next.run(request).await;
    }
    let response = limited(&app, address, user, request, next).await;
    if is_invalid(&response) {
        Box::pin(app.limiter.count_invalid(address)).await;
    }
    response
}

async fn limited(
    app: &App,
    address: IpAddr,
    user: Option<Id<User>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let Some(route) = route else {
        return next.run(request).await;
    };
    let bucket = Bucket::of(
        request.method(),
        without_version(route.as_str()),
        without_version(request.uri().path()),
    );
    let who = match (bucket.owner, user) {
        (Owner::Caller, Some(user)) => format!("u{user}"),
        (Owner::Caller, None) | (Owner::Address, _) => format!("a{address}"),
        (Owner::Token, _) => format!("t{}", bucket.major),
    };
    let (mut response, count) = match Box::pin(app.limiter.judge(&who, &bucket)).await {
        Verdict::Serve { bucket } => (next.run(request).await, Some(bucket)),
        Verdict::Full { bucket } => {
            app.limiter.metrics.rate_limited.inc();
            let response = too_many_requests(bucket.reset_after, Scope::User);
            (response, Some(bucket))
        }
        Verdict::Refuse { count, scope } => {
            app.limiter.metrics.rate_limited.inc();
            (too_many_requests(count.reset_after, scope), None)
        }
    };
    if let Some(count) = count {
        add_bucket_headers(response.headers_mut(), &bucket, count);
    }
    response
}

fn too_many_requests(retry_after: Duration, scope: Scope) -> Response {
    let message = match scope {
        Scope::Shared => "The resource is being rate limited.",
        Scope::User | Scope::Global => "You are being rate limited.",
    };
    let body = json!({
        "message": message,
        "retry_after": (retry_after.as_secs_f64() * 1000.0).ceil() / 1000.0,
        "global": scope == Scope::Global,
    });
    let mut response = json_response(StatusCode::TOO_MANY_REQUESTS, &body).into_response();
    let headers = response.headers_mut();
    add_retry_headers(headers, retry_after, scope.name());
    if scope == Scope::Global {
        headers.insert("x-ratelimit-global", HeaderValue::from_static("true"));
    }
    response
}

fn add_bucket_headers(headers: &mut HeaderMap, bucket: &Bucket, count: Count) {
    let reset_at = Timestamp::now().0 + count.reset_after;
    let reset_at = reset_at.unix_timestamp_nanos() as f64 / 1e9;
    let remaining = bucket.limit.requests.saturating_sub(count.used);
    let mut put = |name: &'static str, value: String| {
        let value = HeaderValue::from_str(&value).expect("numbers and hex are header text");
        headers.insert(name, value);
    };
    put("x-ratelimit-limit", bucket.limit.requests.to_string());
    put("x-ratelimit-remaining", remaining.to_string());
    put("x-ratelimit-reset", format!("{reset_at:.3}"));
    put(
        "x-ratelimit-reset-after",
        format!("{:.3}", count.reset_after.as_secs_f64()),
    );
    put("x-ratelimit-bucket", bucket.hash.clone());
    headers
        .entry("x-ratelimit-scope")
        .or_insert(HeaderValue::from_static("user"));
}
