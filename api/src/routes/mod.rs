//! The endpoints, a file per resource.

pub(crate) mod account_work;
pub(crate) mod applications;
mod attachments;
mod audit_log;
pub(crate) mod auth;
pub(crate) mod automod;
pub(crate) mod bans;
pub(crate) mod cdn;
mod channels;
mod commands;
pub(crate) mod dms;
mod emojis;
mod farewell;
mod gateway;
pub(crate) mod guilds;
mod incidents;
pub(crate) mod instance;
mod integrations;
pub(crate) mod interactions;
mod invites;
pub(crate) mod members;
pub(crate) mod mentions;
pub(crate) mod messages;
pub(crate) mod meta;
mod mfa;
mod notes;
pub(crate) mod oauth2;
mod onboarding;
mod operators;
mod pins;
pub(crate) mod policies;
pub(crate) mod polls;
mod profile;
mod prune;
pub(crate) mod reactions;
mod read_states;
pub(crate) mod relationships;
pub(crate) mod roles;
pub(crate) mod scheduled_events;
pub(crate) mod search;
mod settings;
mod sinks;
mod soundboard;
pub(crate) mod stages;
pub(crate) mod stickers;
mod templates;
pub(crate) mod threads;
mod typing;
pub(crate) mod users;
mod vanity;
pub(crate) mod voice;
pub(crate) mod webhooks;
mod welcome_screen;
mod widget;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// Every endpoint below the version prefix.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(applications::router())
        .merge(attachments::router())
        .merge(audit_log::router())
        .merge(auth::router())
        .merge(automod::router())
        .merge(bans::router())
        .merge(channels::router())
        .merge(commands::router())
        .merge(dms::router())
        .merge(emojis::router())
        .merge(farewell::router())
        .merge(gateway::router())
        .merge(guilds::router())
        .merge(incidents::router())
        .merge(instance::router())
        .merge(integrations::router())
        .merge(interactions::router())
        .merge(invites::router())
        .merge(members::router())
        .merge(mentions::router())
        .merge(messages::router())
        .merge(mfa::router())
        .merge(notes::router())
        .merge(oauth2::router())
        .merge(onboarding::router())
        .merge(pins::router())
        .merge(polls::router())
        .merge(profile::router())
        .merge(prune::router())
        .merge(reactions::router())
        .merge(read_states::router())
        .merge(relationships::router())
        .merge(roles::router())
        .merge(scheduled_events::router())
        .merge(search::router())
        .merge(settings::router())
        .merge(sinks::router())
        .merge(soundboard::router())
        .merge(stages::router())
        .merge(stickers::router())
        .merge(templates::router())
        .merge(threads::router())
        .merge(typing::router())
        .merge(users::router())
        .merge(vanity::router())
        .merge(voice::router())
        .merge(webhooks::router())
        .merge(welcome_screen::router())
        .merge(widget::router())
}
