//! The endpoints, a file per resource.

pub(crate) mod applications;
mod audit_log;
mod auth;
mod channels;
mod gateway;
mod guilds;
mod invites;
pub(crate) mod members;
pub(crate) mod messages;
pub(crate) mod meta;
mod oauth2;
mod pins;
pub(crate) mod polls;
pub(crate) mod reactions;
mod roles;
mod typing;
mod users;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// Every endpoint below the version prefix.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(applications::router())
        .merge(audit_log::router())
        .merge(auth::router().into())
        .merge(channels::router().into())
        .merge(gateway::router().into())
        .merge(guilds::router().into())
        .merge(invites::router().into())
        .merge(members::router().into())
        .merge(messages::router())
        .merge(oauth2::router().into())
        .merge(pins::router())
        .merge(polls::router())
        .merge(reactions::router())
        .merge(roles::router().into())
        .merge(typing::router())
        .merge(users::router().into())
}

/// A name as it is stored: trimmed, without the one character that Postgres refuses.
fn clean(text: &str) -> String {
    text.replace('\0', "").trim().to_owned()
}
