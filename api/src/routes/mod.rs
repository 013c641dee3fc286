//! The endpoints, a file per resource.

pub(crate) mod applications;
mod attachments;
mod audit_log;
pub(crate) mod auth;
pub(crate) mod automod;
mod bans;
pub(crate) mod cdn;
mod channels;
mod commands;
mod dms;
mod emojis;
mod farewell;
mod gateway;
mod guilds;
mod incidents;
mod instance;
mod invites;
pub(crate) mod members;
pub(crate) mod mentions;
pub(crate) mod messages;
pub(crate) mod meta;
mod mfa;
mod notes;
pub(crate) mod oauth2;
mod pins;
pub(crate) mod policies;
pub(crate) mod polls;
mod profile;
mod prune;
pub(crate) mod reactions;
mod read_states;
pub(crate) mod relationships;
pub(crate) mod roles;
pub(crate) mod search;
mod settings;
mod sinks;
mod soundboard;
mod stickers;
pub(crate) mod threads;
mod typing;
pub(crate) mod users;
pub(crate) mod webhooks;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// Every endpoint below the version prefix.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(applications::router())
        .merge(audit_log::router())
        .merge(attachments::router())
        .merge(auth::router())
        .merge(automod::router())
        .merge(bans::router())
        .merge(channels::router())
        .merge(dms::router())
        .merge(commands::router())
        .merge(farewell::router())
        .merge(gateway::router())
        .merge(emojis::router())
        .merge(soundboard::router())
        .merge(stickers::router())
        .merge(guilds::router().into())
        .merge(incidents::router())
        .merge(instance::router())
        .merge(invites::router().into())
        .merge(members::router())
        .merge(mentions::router())
        .merge(messages::router())
        .merge(mfa::router())
        .merge(notes::router())
        .merge(oauth2::router())
        .merge(pins::router())
        .merge(polls::router())
        .merge(reactions::router())
        .merge(profile::router())
        .merge(prune::router())
        .merge(relationships::router())
        .merge(read_states::router())
        .merge(roles::router())
        .merge(search::router())
        .merge(settings::router())
        .merge(sinks::router())
        .merge(threads::router())
        .merge(typing::router())
        .merge(users::router())
        .merge(webhooks::router())
}

/// A name as it is stored: trimmed, without the one character that Postgres refuses.
fn clean(text: &str) -> String {
    text.replace('\0', "").trim().to_owned()
}
