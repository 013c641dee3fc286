//! The endpoints, a file per resource.

mod applications;
mod auth;
mod channels;
mod gateway;
mod guilds;
mod invites;
pub(crate) mod members;
mod messages;
pub(crate) mod meta;
mod oauth2;
mod roles;
mod typing;
mod users;

use axum::Router;

use crate::app::App;

/// Every endpoint below the version prefix.
pub(crate) fn router() -> Router<App> {
    Router::new()
        .merge(applications::router())
        .merge(auth::router())
        .merge(channels::router())
        .merge(gateway::router())
        .merge(guilds::router())
        .merge(invites::router())
        .merge(members::router())
        .merge(messages::router())
        .merge(oauth2::router())
        .merge(roles::router())
        .merge(typing::router())
        .merge(users::router())
}

/// A name as it is stored: trimmed, without the one character that Postgres refuses.
fn clean(text: &str) -> String {
    text.replace('\0', "").trim().to_owned()
}
