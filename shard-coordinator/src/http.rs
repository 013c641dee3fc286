//! `/health`, `/ready`, `/metrics`, `/version`: read-only, for operators and probes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 64;
/// Longest life of a connection; each carries one request.
const CONNECTION_MAX: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until `stop`.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, stop: &CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let metrics = Arc::clone(&metrics);
                let answer = move |request: Request<Incoming>| {
                    let response = respond(request.method(), request.uri().path(), &metrics);
                    async { Ok::<_, Infallible>(response) }
                };
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
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

fn respond(method: &Method, path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const JSON: &str = "application/json";
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
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: Method, path: &str, metrics: &Metrics) -> u16 {
        respond(&method, path, metrics).status().as_u16()
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
