//! The endpoints, a file per resource.

pub(crate) mod applications;
mod audit_log;
pub(crate) mod auth;
mod bans;
mod channels;
mod farewell;
mod gateway;
pub(crate) mod guilds;
mod instance;
mod integrations;
mod invites;
pub(crate) mod members;
pub(crate) mod messages;
pub(crate) mod meta;
mod mfa;
mod notes;
mod oauth2;
mod onboarding;
mod pins;
pub(crate) mod policies;
pub(crate) mod polls;
mod profile;
pub(crate) mod reactions;
pub(crate) mod relationships;
pub(crate) mod roles;
pub(crate) mod scheduled_events;
mod settings;
mod sinks;
mod stages;
mod templates;
mod typing;
pub(crate) mod users;
mod vanity;
pub(crate) mod voice;
mod welcome_screen;
mod widget;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// Every endpoint below the version prefix.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(applications::router())
        .merge(audit_log::router())
        .merge(auth::router())
        .merge(bans::router())
        .merge(channels::router().into())
        .merge(farewell::router())
        .merge(gateway::router())
        .merge(guilds::router())
        .merge(instance::router())
        .merge(integrations::router())
        .merge(invites::router())
        .merge(members::router())
        .merge(messages::router())
        .merge(mfa::router())
        .merge(notes::router())
        .merge(oauth2::router().into())
        .merge(pins::router())
        .merge(polls::router())
        .merge(reactions::router())
        .merge(onboarding::router())
        .merge(profile::router())
        .merge(relationships::router())
        .merge(roles::router())
        .merge(scheduled_events::router())
        .merge(settings::router())
        .merge(sinks::router())
        .merge(stages::router())
        .merge(templates::router())
        .merge(typing::router())
        .merge(users::router())
        .merge(vanity::router())
        .merge(voice::router())
        .merge(welcome_screen::router())
        .merge(widget::router())
}

/// A name as it is stored: trimmed, without the one character that Postgres refuses.
fn clean(text: &str) -> String {
    text.replace('\0', "").trim().to_owned()
}
