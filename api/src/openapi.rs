//! Our own OpenAPI document, made from the routes' code: the same call that adds a handler to
//! the router adds it to the document, so the two agree.

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use utoipa::openapi::{
    InfoBuilder, OpenApi, SecurityRequirement, Server,
    security::{ApiKey, ApiKeyValue, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::app::App;

/// The routes below the version prefix, and those that show them: the document at
/// `/openapi.json` and a viewer, bundled into the program, at `/docs`.
pub(crate) fn split(routes: OpenApiRouter<App>) -> (Router<App>, Router<App>) {
    let (router, mut document) = routes.split_for_parts();
    describe(&mut document);
    let json = Bytes::from(
        document
            .to_json()
            .expect("the document is made of plain values"),
    );
    let serve = get(async move || {
        let headers = [(header::CONTENT_TYPE, "application/json")];
        (StatusCode::OK, headers, json.clone()).into_response()
    });
    let viewer = SwaggerUi::new("/docs").config(Config::new(["/openapi.json"]));
    let pages = Router::new().route("/openapi.json", serve).merge(viewer);
    (router, pages)
}

/// Adds what no handler says.
fn describe(document: &mut OpenApi) {
    document.info = InfoBuilder::new()
        .title("Guildhall")
        .description(Some(
            "The REST API of this server, wire-compatible with Discord's v10.",
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    document.servers = Some(vec![Server::new("/api/v10")]);
    let token = ApiKeyValue::with_description(
        "authorization",
        "A user's token as it is, a bot's after \"Bot \", an OAuth2 access token after \"Bearer \".",
    );
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::ApiKey(ApiKey::Header(token)));
    document.security = Some(vec![SecurityRequirement::new(
        "token",
        Vec::<String>::new(),
    )]);
}
