//! Health, readiness, version and metrics, for operators and their probes.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::status::Status;

/// Answers until dropped.
pub(crate) async fn serve(listener: TcpListener, status: Arc<Status>, registry: Registry) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let (status, registry) = (status.clone(), registry.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = respond(&request, &status, &registry);
                async move { Ok::<_, Infallible>(response) }
            });
            // A probe that breaks off is of no interest.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn respond(
    request: &Request<Incoming>,
    status: &Status,
    registry: &Registry,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return reply(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            Bytes::from_static(b"method not allowed\n"),
        );
    }
    match request.uri().path() {
        "/health" => reply(StatusCode::OK, "text/plain", Bytes::from_static(b"ok\n")),
        "/ready" if status.is_ready() => {
            reply(StatusCode::OK, "text/plain", Bytes::from_static(b"ready\n"))
        }
        "/ready" => reply(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            Bytes::from_static(b"not ready\n"),
        ),
        "/version" => {
            let body = format!(
                "{{\"name\":\"guildhall-gateway\",\"version\":\"{}\"}}\n",
                env!("CARGO_PKG_VERSION")
            );
            reply(StatusCode::OK, "application/json", body.into())
        }
        "/metrics" => {
            let mut body = Vec::new();
            match TextEncoder::new().encode(&registry.gather(), &mut body) {
                Ok(()) => reply(StatusCode::OK, prometheus::TEXT_FORMAT, body.into()),
                Err(error) => {
                    tracing::error!(%error, "metrics not encoded");
                    reply(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "text/plain",
                        Bytes::new(),
                    )
                }
            }
        }
        _ => reply(
            StatusCode::NOT_FOUND,
            "text/plain",
            Bytes::from_static(b"not found\n"),
        ),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}
