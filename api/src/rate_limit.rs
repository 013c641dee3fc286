//! Rate limits: buckets, the headers that tell of them, and 429. Spec: limits-and-errors › Rate limits.
//!
//! Counts in Redis, so that all API processes count together; alone while Redis is away.
//! Never looks at a body.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use guildhall_shared::{Timestamp, keys};
use redis::aio::ConnectionManager;
use rustc_hash::FxHashMap;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    app::App,
    auth::{self, Authenticated},
    config::RateLimits,
    error::json_response,
    http,
    telemetry::Metrics,
};

/// Requests of a bucket per window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    requests: u32,
    window: Duration,
}

const fn limit(requests: u32, seconds: u64) -> Limit {
    Limit {
        requests,
        window: Duration::from_secs(seconds),
    }
}

/// Requests of one account (or address) over all routes.
const GLOBAL: Limit = limit(50, 1);

/// The limit of a route; the defaults of limits-and-errors › Rate limits.
fn limit_of(method: &Method, route: &str) -> Limit {
    match (method.as_str(), route) {
        ("POST", "/channels/{channel_id}/messages")
        | ("PATCH", "/channels/{channel_id}/messages/{message_id}")
        | ("POST", "/channels/{channel_id}/typing") => limit(5, 5),
        ("DELETE", "/channels/{channel_id}/messages/{message_id}") => limit(5, 1),
        ("GET", "/channels/{channel_id}/messages") => limit(50, 5),
        ("PATCH", "/guilds/{guild_id}/members/{user_id}")
        | ("PUT" | "DELETE", "/guilds/{guild_id}/members/{user_id}/roles/{role_id}") => {
            limit(10, 10)
        }
        ("POST", "/guilds/{guild_id}/channels" | "/guilds/{guild_id}/roles") => {
            limit(250, 48 * 3600)
        }
        ("GET", "/gateway/bot") => limit(2, 5),
        ("POST", "/auth/login" | "/auth/register") => limit(5, 60),
        _ => limit(50, 1),
    }
}

/// What a request counts against.
#[derive(Debug)]
struct Bucket {
    /// Account or address.
    who: String,
    /// Opaque name of the route; the header's value.
    hash: String,
    /// The channel, guild or webhook at the top of the path; empty for the rest.
    major: String,
    limit: Limit,
}

impl Bucket {
    fn new(who: String, method: &Method, route: &str, path: &str) -> Self {
        let digest = Sha256::digest(format!("{method} {route}").as_bytes());
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let major = match segments.next() {
            Some("channels" | "guilds" | "webhooks") => segments.next().unwrap_or_default(),
            _ => "",
        };
        Self {
            who,
            hash: hex::encode(&digest[..16]),
            // An id has at most 20 digits; anything longer is no id and finds no route.
            major: major.chars().take(20).collect(),
            limit: limit_of(method, route),
        }
    }

    fn key(&self) -> String {
        format!("{}:{}", self.hash, self.major)
    }
}

/// How a bucket stands after a request was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    used: u32,
    reset_after: Duration,
}

/// A request's two counts: of its account over all routes, and of its bucket.
/// Above the global limit the bucket is not counted.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    global: Count,
    bucket: Count,
}

/// Counts requests per bucket.
pub(crate) struct Limiter {
    mode: RateLimits,
    redis: ConnectionManager,
    script: redis::Script,
    /// Until then (ms since `started`) Redis is not asked again.
    redis_away_until_ms: AtomicU64,
    started: Instant,
    local: Local,
    metrics: Metrics,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// Counts in `KEYS[1]` (global) and `KEYS[2]` (bucket); both live for one window.
const SCRIPT: &str = r"
local function count(key, window)
  local used = redis.call('INCR', key)
  local left = redis.call('PTTL', key)
  if left < 0 then
    redis.call('PEXPIRE', key, window)
    left = window
  end
  return used, left
end
local global, global_left = count(KEYS[1], ARGV[2])
if global > tonumber(ARGV[1]) then
  return {global, tonumber(global_left), 0, 0}
end
local used, left = count(KEYS[2], ARGV[3])
return {global, tonumber(global_left), used, tonumber(left)}
";

/// Slower than this is as good as away.
const REDIS_TIMEOUT: Duration = Duration::from_millis(150);
/// Pause before Redis is asked again after it failed.
const REDIS_PAUSE: Duration = Duration::from_secs(1);

impl Limiter {
    pub(crate) fn new(mode: RateLimits, redis: ConnectionManager, metrics: Metrics) -> Self {
        Self {
            mode,
            redis,
            script: redis::Script::new(SCRIPT),
            redis_away_until_ms: AtomicU64::new(0),
            started: Instant::now(),
            local: Local::default(),
            metrics,
        }
    }

    async fn count(&self, bucket: &Bucket) -> Verdict {
        let now_ms = self.started.elapsed().as_millis() as u64;
        if now_ms >= self.redis_away_until_ms.load(Ordering::Relaxed) {
            match tokio::time::timeout(REDIS_TIMEOUT, self.count_in_redis(bucket)).await {
                Ok(Ok(verdict)) => return verdict,
                Ok(Err(_)) | Err(_) => {
                    let until = now_ms + REDIS_PAUSE.as_millis() as u64;
                    self.redis_away_until_ms.store(until, Ordering::Relaxed);
                }
            }
        }
        self.metrics.rate_limit_fallbacks.inc();
        self.local.count(bucket, Instant::now())
    }

    async fn count_in_redis(&self, bucket: &Bucket) -> redis::RedisResult<Verdict> {
        let mut redis = self.redis.clone();
        let (global, global_ms, used, used_ms): (u32, u64, u32, u64) = self
            .script
            .key(keys::rate_limit_of(&bucket.who, "global"))
            .key(keys::rate_limit_of(&bucket.who, &bucket.key()))
            .arg(GLOBAL.requests)
            .arg(GLOBAL.window.as_millis() as u64)
            .arg(bucket.limit.window.as_millis() as u64)
            .invoke_async(&mut redis)
            .await?;
        let count = |used, ms| Count {
            used,
            reset_after: Duration::from_millis(ms),
        };
        Ok(Verdict {
            global: count(global, global_ms),
            bucket: count(used, used_ms),
        })
    }
}

/// Buckets remembered while Redis is away; more forget the others.
const LOCAL_BUCKETS_MAX: usize = 65_536;

/// The same counting in this process alone.
#[derive(Debug, Default)]
struct Local(Mutex<FxHashMap<String, (Instant, u32)>>);

impl Local {
    fn count(&self, bucket: &Bucket, now: Instant) -> Verdict {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= LOCAL_BUCKETS_MAX {
            windows.retain(|_, (end, _)| *end > now);
            if windows.len() >= LOCAL_BUCKETS_MAX {
                windows.clear();
            }
        }
        let mut count = |key: String, window: Duration| {
            let (end, used) = windows.entry(key).or_insert((now + window, 0));
            if *end <= now {
                (*end, *used) = (now + window, 0);
            }
            *used += 1;
            Count {
                used: *used,
                reset_after: *end - now,
            }
        };
        let global = count(format!("{}:global", bucket.who), GLOBAL.window);
        let bucket = if global.used > GLOBAL.requests {
            Count {
                used: 0,
                reset_after: Duration::ZERO,
            }
        } else {
            count(
                format!("{}:{}", bucket.who, bucket.key()),
                bucket.limit.window,
            )
        };
        Verdict { global, bucket }
    }
}

/// Finds out who calls, counts the request, and answers 429 in place of the handler.
pub(crate) async fn layer(State(app): State<App>, mut request: Request, next: Next) -> Response {
    // If the database is away, handlers that need the caller will say so.
    let caller = auth::authenticate(&app, request.headers()).await.ok();
    let user = caller.as_ref().and_then(Option::as_ref).map(|user| user.id);
    if let Some(caller) = caller {
        request.extensions_mut().insert(Authenticated(caller));
    }
    if app.limiter.mode == RateLimits::Off {
        return next.run(request).await;
    }
    let route = request.extensions().get::<MatchedPath>().cloned();
    let Some(route) = route else {
        return next.run(request).await;
    };
    let who = match user {
        Some(user) => format!("u{user}"),
        None => format!("a{}", address(&app, &request)),
    };
    let bucket = Bucket::new(
        who,
        request.method(),
        http::without_version(route.as_str()),
        http::without_version(request.uri().path()),
    );
    let verdict = app.limiter.count(&bucket).await;
    let is_global = verdict.global.used > GLOBAL.requests;
    let mut response = if is_global || verdict.bucket.used > bucket.limit.requests {
        app.limiter.metrics.rate_limited.inc();
        let count = if is_global {
            verdict.global
        } else {
            verdict.bucket
        };
        too_many_requests(count.reset_after, is_global)
    } else {
        next.run(request).await
    };
    if !is_global {
        add_bucket_headers(response.headers_mut(), &bucket, verdict.bucket);
    }
    response
}

fn address(app: &App, request: &Request) -> IpAddr {
    http::client_address(request.extensions(), request.headers(), app.config.proxies)
}

fn too_many_requests(retry_after: Duration, is_global: bool) -> Response {
    let body = json!({
        "message": "You are being rate limited.",
        "retry_after": (retry_after.as_secs_f64() * 1000.0).ceil() / 1000.0,
        "global": is_global,
    });
    let mut response = json_response(StatusCode::TOO_MANY_REQUESTS, &body).into_response();
    let headers = response.headers_mut();
    add_retry_headers(
        headers,
        retry_after,
        if is_global { "global" } else { "user" },
    );
    if is_global {
        headers.insert("x-ratelimit-global", HeaderValue::from_static("true"));
    }
    response
}

/// Headers that must come with every 429: discord.py raises without `Via`, twilight does
/// not wait without the scope.
pub(crate) fn add_retry_headers(
    headers: &mut HeaderMap,
    retry_after: Duration,
    scope: &'static str,
) {
    let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    headers.insert(header::VIA, HeaderValue::from_static("1.1 guildhall"));
    headers.insert("x-ratelimit-scope", HeaderValue::from_static(scope));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(path: &str) -> Bucket {
        let route = "/channels/{channel_id}/messages";
        Bucket::new("u1".to_owned(), &Method::POST, route, path)
    }

    #[test]
    fn channels_have_their_own_windows_under_one_hash() {
        let (a, b) = (
            bucket("/channels/7/messages"),
            bucket("/channels/8/messages"),
        );
        assert_eq!(a.hash, b.hash);
        assert_ne!(a.key(), b.key());
        let (local, now) = (Local::default(), Instant::now());
        for used in 1..=5 {
            assert_eq!(local.count(&a, now).bucket.used, used);
        }
        assert_eq!(local.count(&b, now).bucket.used, 1);
        assert_eq!(local.count(&b, now).global.used, 7);
        let later = now + Duration::from_secs(5);
        assert_eq!(local.count(&a, later).bucket.used, 1);
    }

    #[test]
    fn routes_without_a_major_parameter_share_a_bucket() {
        let route = "/users/{user_id}";
        let one = Bucket::new("u1".to_owned(), &Method::GET, route, "/users/1");
        let two = Bucket::new("u1".to_owned(), &Method::GET, route, "/users/2");
        assert_eq!(one.key(), two.key());
    }

    #[test]
    fn above_the_global_limit_the_bucket_is_not_counted() {
        let (local, now) = (Local::default(), Instant::now());
        for _ in 0..GLOBAL.requests {
            local.count(&bucket("/channels/7/messages"), now);
        }
        let verdict = local.count(&bucket("/channels/9/messages"), now);
        assert!(verdict.global.used > GLOBAL.requests);
        assert_eq!(verdict.bucket.used, 0);
    }
}
