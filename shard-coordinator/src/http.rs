//! The listener: `/health`, `/ready`, `/metrics`, `/version` for probes, the operators' API and their page.

mod admin;
mod caller;
mod events;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guildhall_redis::Connection;
use http_body_util::{Either, Full, channel::Channel};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::AdminKey;
use crate::config::Config;
use crate::dashboard;
use crate::telemetry::Metrics;

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 64;
/// Longest life of a connection; each carries one request. A stream of events goes on for as
/// long, and the client then asks for the next.
const CONNECTION_MAX: Duration = Duration::from_secs(10 * 60);
/// Longest wait for the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// All at once, or events as they come.
type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// Answers everybody who asks this coordinator anything.
pub(crate) struct Server {
    metrics: Arc<Metrics>,
    admin: admin::Admin,
}

impl Server {
    /// `key` is absent if there is to be no operators' API.
    pub(crate) fn new(
        config: &Config,
        key: Option<AdminKey>,
        db: PgPool,
        redis: Connection,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let admin = admin::Admin::new(config, key, db, redis);
        Arc::new(Self { metrics, admin })
    }

    /// Answers until `stop`.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, stop: &CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    let answer = move |request: Request<Incoming>| {
                        let server = Arc::clone(&server);
                        async move { Ok::<_, Infallible>(server.answer(request).await) }
                    };
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_MAX)
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), service_fn(answer));
                    connections.spawn(tokio::time::timeout(CONNECTION_MAX, connection));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if admin::is_path(request.uri().path()) {
            return self.admin.answer(request).await;
        }
        let page = match request.method() {
            &Method::GET | &Method::HEAD => dashboard::file(request.uri().path()),
            _ => None,
        };
        let other = || probe(request.method(), request.uri().path(), &self.metrics);
        page.unwrap_or_else(other).map(Either::Left)
    }
}

fn probe(method: &Method, path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n");
    }
    match path {
        "/health" => reply(StatusCode::OK, TEXT, "alive\n"),
        "/ready" if metrics.is_ready(Instant::now()) => reply(StatusCode::OK, TEXT, "ready\n"),
        "/ready" => reply(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            "no good round lately\n",
        ),
        "/metrics" => reply(
            StatusCode::OK,
            "text/plain; version=0.0.4",
            metrics.to_text(),
        ),
        "/version" => reply(
            StatusCode::OK,
            JSON,
            concat!(
                r#"{"name":"shard-coordinator","version":""#,
                env!("CARGO_PKG_VERSION"),
                r#""}"#
            ),
        ),
        _ => reply(StatusCode::NOT_FOUND, TEXT, "not found\n"),
    }
}

fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: Method, path: &str, metrics: &Metrics) -> u16 {
        probe(&method, path, metrics).status().as_u16()
    }

    #[test]
    fn probes_tell_a_living_process_from_a_ready_one() {
        let metrics = Metrics::new();
        assert_eq!(status(Method::GET, "/health", &metrics), 200);
        assert_eq!(status(Method::GET, "/ready", &metrics), 503);
        metrics.round_succeeded(Instant::now());
        assert_eq!(status(Method::GET, "/ready", &metrics), 200);
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let metrics = Metrics::new();
        assert_eq!(status(Method::GET, "/metrics", &metrics), 200);
        assert_eq!(status(Method::GET, "/version", &metrics), 200);
        assert_eq!(status(Method::GET, "/", &metrics), 404);
        assert_eq!(status(Method::POST, "/health", &metrics), 405);
    }
}
