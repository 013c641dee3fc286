//! Serving: the listeners, what surrounds every request, and the drain.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use guildhall_shared::{error_code::ErrorCode, listen::is_public};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};
use tracing::Instrument;

use crate::{
    app::App, config::Config, deeds, error::Error, openapi, rate_limit, request::without_version,
    routes, socket::Socket, start::StartError, telemetry::TRACE,
};

/// Larger bodies are answered 413, except on the routes that take images or files.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Bodies of requests that hold images or sounds as text.
const IMAGE_BODY_BYTES_MAX: usize = 12 << 20;
/// A request that takes longer is given up with 503; its transaction is rolled back.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// [`REQUEST_TIMEOUT`] of requests that bring files; each pause in them is limited besides.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// Connections of operators and their machines; more wait in the listen queue.
const INTERNAL_CONNECTIONS_MAX: usize = 64;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;
/// Pause after `accept` fails (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests still running after this long are cut off when the process stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Who comes to a listener.
#[derive(Debug, Clone, Copy)]
enum Callers {
    /// Clients and operators.
    Everybody,
    Clients,
    Operators,
}

/// The routes of a listener.
fn router(app: App, callers: Callers) -> Router {
    let operators = || {
        let refusals = middleware::from_fn_with_state(app.clone(), deeds::record_refusals);
        routes::meta::internal()
            .method_not_allowed_fallback(method_not_allowed)
            .route_layer(refusals)
    };
    let router = match callers {
        Callers::Everybody => for_clients(&app).merge(operators()),
        Callers::Clients => for_clients(&app),
        Callers::Operators => operators(),
    };
    let router = router
        .merge(routes::meta::probes().method_not_allowed_fallback(method_not_allowed))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(app.clone(), limit_body))
        .layer(middleware::from_fn_with_state(app.clone(), observe));
    let router = match callers {
        Callers::Everybody | Callers::Clients => router.layer(cors()),
        Callers::Operators => router, // no page of others has any business there
    };
    router.with_state(app)
}

/// The API, its document and files.
fn for_clients(app: &App) -> Router<App> {
    let limits = middleware::from_fn_with_state(app.clone(), rate_limit::layer::run);
    let (api, document) = openapi::split(routes::router());
    let api = api
        .method_not_allowed_fallback(method_not_allowed)
        .layer(limits);
    Router::new()
        .nest("/api/v10", api.clone())
        .nest("/api/v9", api.clone())
        .nest("/api", api)
        .merge(document)
        .merge(routes::instance::well_known().method_not_allowed_fallback(method_not_allowed))
        .merge(routes::cdn::router().method_not_allowed_fallback(method_not_allowed))
}

async fn method_not_allowed() -> Error {
    ErrorCode::MethodNotAllowed.into()
}

/// 50041 for a version of the API that is not served; else 404.
async fn not_found(uri: Uri) -> Error {
    let version = uri.path().strip_prefix("/api/v").and_then(|rest| {
        let digits = rest.split('/').next()?;
        digits.parse::<u8>().ok()
    });
    match version {
        Some(9 | 10) | None => ErrorCode::NotFound.into(),
        Some(_) => ErrorCode::InvalidApiVersion.into(),
    }
}

/// Browsers of any origin may call: credentials are in a header, never in a cookie.
fn cors() -> CorsLayer {
    let exposed = [
        "retry-after",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "x-ratelimit-reset-after",
        "x-ratelimit-bucket",
        "x-ratelimit-scope",
        "x-ratelimit-global",
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::any())
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::list(exposed.map(HeaderName::from_static)))
        .max_age(Duration::from_secs(86_400))
}

/// Refuses bodies that are announced as too large before a byte of them is read, and limits
/// what the body extractors read of the others.
async fn limit_body(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let in_memory = if takes_images(&request) {
        IMAGE_BODY_BYTES_MAX
    } else {
        BODY_BYTES_MAX
    };
    let max = if is_upload(&request) {
        app.media.upload_bytes_max()
    } else {
        in_memory as u64
    };
    if announced.is_some_and(|length| length > max) {
        return Error::from(ErrorCode::RequestEntityTooLarge).into_response();
    }
    DefaultBodyLimit::max(in_memory).apply(&mut request);
    next.run(request).await
}

/// Whether it brings files, which the extractors stream and limit themselves.
fn is_upload(request: &Request) -> bool {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let multipart = content_type
        .get(..19)
        .is_some_and(|start| start.eq_ignore_ascii_case("multipart/form-data"));
    multipart || route(request).starts_with("/attachments/upload/")
}

/// Whether its JSON may hold images or sounds (`data:image/png;base64,…`).
fn takes_images(request: &Request) -> bool {
    const ROUTES: [&str; 16] = [
        "/applications/{application_id}",
        "/applications/{application_id}/bot",
        "/applications/{application_id}/emojis",
        "/applications/@me",
        "/channels/{channel_id}",
        "/channels/{channel_id}/webhooks",
        "/guilds",
        "/guilds/{guild_id}",
        "/guilds/{guild_id}/emojis",
        "/guilds/{guild_id}/members/@me",
        "/guilds/{guild_id}/roles",
        "/guilds/{guild_id}/roles/{role_id}",
        "/guilds/{guild_id}/scheduled-events",
        "/guilds/{guild_id}/soundboard-sounds",
        "/users/@me",
        "/webhooks/{webhook_id}",
    ];
    let route = route(request);
    let starts = |prefix| route.starts_with(prefix);
    ROUTES.contains(&route)
        || starts("/guilds/{guild_id}/scheduled-events/")
        || starts("/guilds/templates/")
        || starts("/webhooks/{webhook_id}/")
}

/// The route that was found for a request, without its version; empty for none.
fn route(request: &Request) -> &str {
    request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", |route| without_version(route.as_str()))
}

/// Gives each request a trace id, a time limit and its place in the metrics.
async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let trace: u128 = rand::random();
    let span = tracing::info_span!(
        "request",
        trace = %format_args!("{trace:032x}"),
        %method,
        route = route.as_ref().map(MatchedPath::as_str),
    );
    let limit = if is_upload(&request) {
        UPLOAD_TIMEOUT
    } else {
        REQUEST_TIMEOUT
    };
    let response = tokio::time::timeout(limit, next.run(request));
    let response = TRACE.scope(trace, response.instrument(span)).await;
    let mut response = response
        .unwrap_or_else(|_| Error::Unavailable("the request took too long").into_response());
    let route = route
        .as_ref()
        .map_or("unmatched", |route| without_version(route.as_str()));
    keep_from_caches(route, response.headers_mut());
    let method = match method.as_str() {
        known @ ("GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS") => known,
        _ => "other",
    };
    let status = response.status();
    app.metrics
        .requests
        .with_label_values(&[method, route, status.as_str()])
        .inc();
    app.metrics
        .request_seconds
        .with_label_values(&[group(route), class(status)])
        .observe(started.elapsed().as_secs_f64());
    response
}

/// Answers hold tokens and what their caller alone may see: no cache keeps one, unless it says
/// itself for how long or is the same for everybody.
fn keep_from_caches(route: &str, headers: &mut HeaderMap) {
    let is_public = route == "/openapi.json" || route.starts_with("/docs");
    if is_public || headers.contains_key(header::CACHE_CONTROL) {
        return;
    }
    let never = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, never);
    if route == "/oauth2/token" {
        // RFC 6749 wants it said to caches of HTTP/1.0, too.
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    }
}

/// What a route is about: the first part of its path.
fn group(route: &str) -> &str {
    route
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or("")
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

/// Where a process is reached.
#[derive(Debug)]
pub struct Listeners {
    pub public: TcpListener,
    /// For operators, who then find nothing at the public one.
    pub internal: Option<TcpListener>,
}

impl Listeners {
    /// Errors: an address that is taken, or not this machine's; one for operators that everybody
    /// could reach without `API_INTERNAL_PUBLIC`.
    pub fn open(config: &Config) -> Result<Self, StartError> {
        let public = config.internal_listen.filter(|at| is_public(at.ip()));
        if let Some(public) = public.filter(|_| !config.internal_public) {
            return Err(StartError::PublicInternal(public));
        }
        let public = listen(config.listen).map_err(StartError::Listen)?;
        let internal = config.internal_listen.map(listen).transpose();
        let internal = internal.map_err(StartError::InternalListen)?;
        Ok(Self { public, internal })
    }
}

/// A listener with a long backlog.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves until `stop`, then lets running requests finish, those of both listeners at once.
pub async fn serve(listeners: Listeners, app: App, stop: CancellationToken) {
    let Listeners { public, internal } = listeners;
    let connections_max = app.config.connections_max as usize;
    let Some(internal) = internal else {
        return serve_at(public, connections_max, app, Callers::Everybody, stop).await;
    };
    tokio::join!(
        serve_at(
            public,
            connections_max,
            app.clone(),
            Callers::Clients,
            stop.clone(),
        ),
        serve_at(
            internal,
            INTERNAL_CONNECTIONS_MAX,
            app,
            Callers::Operators,
            stop,
        ),
    );
}

async fn serve_at(
    listener: TcpListener,
    connections_max: usize,
    app: App,
    callers: Callers,
    stop: CancellationToken,
) {
    let patience = Patience {
        idle: Duration::from_secs(app.config.idle_seconds_max.into()),
        stall: Duration::from_secs(app.config.stall_seconds_max.into()),
    };
    let places = Arc::new(Semaphore::new(connections_max));
    let router = TowerToHyperService::new(router(app, callers));
    let connections = GracefulShutdown::new();
    loop {
        // Without a place, connections stay in the kernel's queue.
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            let place = place.expect("nobody closes the semaphore");
            let (stream, peer) = listener.accept().await?;
            Ok::<_, io::Error>((stream, peer, place))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                serve_connection((stream, peer, place), &router, &connections, patience);
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, connections.shutdown()).await;
    if drained.is_err() {
        tracing::warn!("requests were still running when the drain ended");
    }
}

/// How long a connection waits for its client.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// For a request and its head, from the last answer on.
    idle: Duration,
    /// For any of an answer to be taken.
    stall: Duration,
}

fn serve_connection(
    (stream, peer, place): (TcpStream, SocketAddr, OwnedSemaphorePermit),
    router: &TowerToHyperService<Router>,
    connections: &GracefulShutdown,
    patience: Patience,
) {
    // Replies are small; waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let router = router.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(uri) = with_plain_at(request.uri()) {
            *request.uri_mut() = uri;
        }
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Runs from the end of one request to that of the next one's head.
        .header_read_timeout(patience.idle)
        .serve_connection(TokioIo::new(Socket::new(stream, patience.stall)), service);
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        // Clients that go away in the middle of a request are everyday life.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
        drop(place);
    });
}

/// Some libraries encode whatever they put into a path: their `%40original` is the `@original`
/// of our routes, which are compared as they stand. `None`: the path has no such sign.
fn with_plain_at(uri: &Uri) -> Option<Uri> {
    const ENCODED: &str = "%40";
    let path = uri.path();
    if !path.contains(ENCODED) {
        return None;
    }
    let mut plain = path.replace(ENCODED, "@");
    if let Some(query) = uri.query() {
        plain.push('?');
        plain.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(plain.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Completes when the process is asked to end (SIGTERM or SIGINT).
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        config: Config,
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_refused_by_its_setting() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let other = listen(free).unwrap();
        let taken = other.local_addr().unwrap();
        let given = "test --database-url=d --redis-url=r --gateway-url=ws://g --cluster-key=k";
        let mut config = Settings::parse_from(given.split(' ')).config;
        let mut refused = |public, internal| {
            (config.listen, config.internal_listen) = (public, internal);
            Listeners::open(&config)
                .err()
                .map(|error| error.to_string())
        };
        let refusal = refused(taken, Some(free)).unwrap();
        assert!(refusal.starts_with("API_LISTEN: "), "{refusal}");
        let refusal = refused(free, Some(taken)).unwrap();
        assert!(refusal.starts_with("API_INTERNAL_LISTEN: "), "{refusal}");
        assert_eq!(refused(free, None), None);
        assert_eq!(refused(free, Some(free)), None);
    }

    #[tokio::test]
    async fn a_listener_for_operators_that_everybody_reaches_must_be_wanted() {
        let given = "test --database-url=d --redis-url=r --gateway-url=ws://g --cluster-key=k";
        let mut config = Settings::parse_from(given.split(' ')).config;
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.internal_listen = Some(SocketAddr::from(([0, 0, 0, 0], 0)));
        let refusal = Listeners::open(&config)
            .err()
            .map(|error| error.to_string());
        let refusal = refusal.expect("everybody can reach it");
        assert!(
            refusal.starts_with("API_INTERNAL_LISTEN: 0.0.0.0:0 can"),
            "{refusal}"
        );
        config.internal_public = true;
        assert!(Listeners::open(&config).is_ok());
    }

    #[test]
    fn an_encoded_at_sign_of_a_path_is_read_as_one() {
        let plain = |uri: &'static str| with_plain_at(&Uri::from_static(uri));
        let read = plain("/api/users/%40me?q=%40me%2F").unwrap();
        assert_eq!(read, "/api/users/@me?q=%40me%2F");
        let read = plain("http://host:1/a%2F/%40me").unwrap();
        assert_eq!(read, "http://host:1/a%2F/@me");
        assert_eq!(plain("/api/users/@me?q=%40me"), None);
        assert_eq!(plain("/a/%2540"), None);
    }

    #[test]
    fn durations_are_grouped_by_what_a_route_is_about() {
        assert_eq!(group("/channels/{channel_id}/messages"), "channels");
        assert_eq!(group("unmatched"), "unmatched");
        assert_eq!(group("/"), "");
        assert_eq!(class(StatusCode::NO_CONTENT), "2xx");
        assert_eq!(class(StatusCode::BAD_GATEWAY), "5xx");
    }
}
