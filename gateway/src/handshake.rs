//! From an accepted socket to an upgraded WebSocket: hyper reads the request, fastwebsockets
//! answers it, and afterwards nothing of hyper is left.

use std::{cell::Cell, convert::Infallible, time::Duration};

use bytes::Bytes;
use fastwebsockets::upgrade;
use guildhall_shared::gateway::CloseCode;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
    upgrade::Parts,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::oneshot, time::timeout};

use crate::format::Format;

/// A client has this long to send its upgrade request.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// An upgraded connection.
#[derive(Debug)]
pub(crate) struct Upgraded {
    pub(crate) stream: TcpStream,
    /// What the client sent right behind its request.
    pub(crate) unread: Vec<u8>,
    /// What its query asks for, or how to close it at once.
    pub(crate) format: Result<Format, CloseCode>,
}

/// Upgrades one connection; `None` if the client asked for something else, which it has been
/// answered, or did not finish in time.
pub(crate) async fn upgrade(stream: TcpStream) -> Option<Upgraded> {
    let (sender, receiver) = oneshot::channel();
    // hyper may call the service again; only the first upgrade counts.
    let (sender, format) = (Cell::new(Some(sender)), Cell::new(Ok(Format::default())));
    let service = service_fn(|mut request: Request<Incoming>| {
        // Taken before fastwebsockets sees the request: its own future would wrap the socket,
        // which we write ourselves.
        let upgrade = hyper::upgrade::on(&mut request);
        let wanted = Format::from_query(request.uri().query());
        let response = respond(&mut request);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(sender) = sender.take()
        {
            format.set(wanted);
            let _ = sender.send(upgrade);
        }
        async move { Ok::<_, Infallible>(response) }
    });
    let serve = async {
        let served = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        served.ok()?;
        let upgraded = receiver.await.ok()?.await.ok()?;
        let Parts { io, read_buf, .. } = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
        Some((io.into_inner(), read_buf.to_vec()))
    };
    let (stream, unread) = timeout(HANDSHAKE_TIMEOUT, serve).await.ok()??;
    Some(Upgraded {
        stream,
        unread,
        format: format.get(),
    })
}

fn respond(request: &mut Request<Incoming>) -> Response<Full<Bytes>> {
    // With a body it would be a matter of opinion where the frames begin.
    let is_plain_get = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream();
    if !is_plain_get || !upgrade::is_upgrade_request(request) {
        let message = "this is a WebSocket endpoint";
        return refuse(StatusCode::UPGRADE_REQUIRED, message);
    }
    // Checks the version and derives the accept key.
    match upgrade::upgrade(&mut *request) {
        Ok((response, _)) => response.map(|_| Full::default()),
        Err(_) => refuse(StatusCode::BAD_REQUEST, "malformed upgrade request"),
    }
}

fn refuse(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let body = format!(r#"{{"message":"{}: {message}","code":0}}"#, status.as_u16());
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    if status == StatusCode::UPGRADE_REQUIRED {
        response.headers_mut().insert(
            header::UPGRADE,
            header::HeaderValue::from_static("websocket"),
        );
    }
    response
}
