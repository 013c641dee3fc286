//! The endpoints, a file per resource.

mod applications;
mod auth;
mod gateway;
mod messages;
pub(crate) mod meta;
mod oauth2;
mod users;

use axum::Router;

use crate::app::App;

/// Every endpoint below the version prefix.
pub(crate) fn router() -> Router<App> {
    Router::new()
        .merge(applications::router())
        .merge(auth::router())
        .merge(gateway::router())
        .merge(messages::router())
        .merge(oauth2::router())
        .merge(users::router())
}
