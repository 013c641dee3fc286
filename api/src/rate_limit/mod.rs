//! Rate limits: buckets, the headers that tell of them, and 429. Spec: limits-and-errors › Rate limits.
//!
//! Counts in Redis, so that all API processes count together; alone while Redis is away.
//! Never looks at a body.

mod counter;
mod invalid;
mod rules;

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use guildhall_redis::Connection;
use guildhall_shared::{Timestamp, keys};
use serde_json::json;
use sha2::{Digest, Sha256};

use self::{
    counter::{Count, Counter},
    invalid::{Blocked, INVALID, is_invalid},
    rules::{Bucket, Owner},
};
use crate::{
    app::App,
    auth::{self, Authenticated},
    config::RateLimits,
    error::{Error, Result, add_retry_headers, json_response},
    request::{client_address, network, without_version},
    telemetry::Metrics,
};

pub(crate) use rules::{GLOBAL, Limit};

/// Counts requests per bucket.
pub(crate) struct Limiter {
    mode: RateLimits,
    counter: Counter,
    blocked: Blocked,
    metrics: Metrics,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// What a request's counts come to.
enum Verdict {
    Serve {
        bucket: Count,
    },
    /// The bucket is full.
    Full {
        bucket: Count,
    },
    /// Another window is: everything of the caller, or what callers share.
    Refuse {
        count: Count,
        scope: Scope,
    },
}

/// Whose limit it is; the value of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    User,
    Shared,
    Global,
}

impl Scope {
    const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Shared => "shared",
            Self::Global => "global",
        }
    }
}

impl Limiter {
    pub(crate) fn new(mode: RateLimits, redis: Connection, metrics: Metrics) -> Self {
        Self {
            mode,
            counter: Counter::new(redis, metrics.clone()),
            blocked: Blocked::default(),
            metrics,
        }
    }

    /// Counts a try of something that must not be guessed, over all processes; `what` holds
    /// whose it is.
    ///
    /// Errors: 429.
    pub(crate) async fn attempt(&self, what: &str, limit: Limit) -> Result<()> {
        if self.mode == RateLimits::Off {
            return Ok(());
        }
        // Names and addresses are not kept in Redis as they are.
        let key = hex::encode(&Sha256::digest(what.as_bytes())[..16]);
        let window = (keys::rate_limit(&format!("try:{key}")), limit);
        let counts = self.counter.count(&[window]).await;
        match counts.first() {
            Some(count) if count.used > limit.requests => {
                self.metrics.rate_limited.inc();
                Err(Error::RateLimited {
                    retry_after: count.reset_after,
                })
            }
            _ => Ok(()),
        }
    }

    async fn judge(&self, who: &str, bucket: &Bucket) -> Verdict {
        let mut windows = Vec::with_capacity(2);
        let is_global = bucket.owner != Owner::Token;
        if is_global {
            windows.push((keys::rate_limit_of(who, "global"), GLOBAL));
        }
        windows.push((keys::rate_limit_of(who, &bucket.key()), bucket.limit));
        let counts = self.counter.count(&windows).await;
        if let (true, &[count]) = (is_global, counts.as_slice()) {
            let scope = Scope::Global;
            return Verdict::Refuse { count, scope };
        }
        let Some(&count) = counts.last() else {
            // Redis answered with less than it was asked for.
            let bucket = Count {
                used: 1,
                reset_after: bucket.limit.window,
            };
            return Verdict::Serve { bucket };
        };
        if count.used > bucket.limit.requests {
            return Verdict::Full { bucket: count };
        }
        if let Some((key, limit)) = &bucket.shared {
            let window = (keys::rate_limit(&format!("shared:{key}")), *limit);
            let counts = self.counter.count(&[window]).await;
            if let Some(&count) = counts.first().filter(|count| count.used > limit.requests) {
                let scope = Scope::Shared;
                return Verdict::Refuse { count, scope };
            }
        }
        Verdict::Serve { bucket: count }
    }

    /// Counts a refusal of an address, which is blocked after too many.
    async fn count_invalid(&self, address: IpAddr) {
        let window = (keys::rate_limit(&format!("invalid:{address}")), INVALID);
        let counts = self.counter.count(&[window]).await;
        if let Some(count) = counts.first().filter(|it| it.used >= INVALID.requests) {
            let until = Instant::now() + count.reset_after;
            self.blocked.block(address, until);
        }
    }
}

/// Finds out who calls, counts the request, and answers 429 in place of the handler.
pub(crate) async fn layer(State(app): State<App>, mut request: Request, next: Next) -> Response {
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
    user: Option<guildhall_shared::Id<guildhall_shared::id::marker::User>>,
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
