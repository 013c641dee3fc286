//! READY, and READY_SUPPLEMENTAL after it. Spec: gateway.md › READY, Capabilities.
//!
//! Builds bodies only: what they show was read by the node and the guilds' owners.

mod guild;
mod json;
mod people;
mod read_states;

pub(super) use guild::guild_create;
pub(super) use people::Person;

use guildhall_shared::{Id, gateway, id::marker, model::UnavailableGuild};
use serde::Serialize;
use serde_json::Value;

use self::json::{Empty, to_json};
use crate::{identity::Identity, names::SessionId};

/// What bots read; the rest is empty but expected by some library.
#[derive(Serialize)]
struct ReadyOfBot<'a> {
    v: u8,
    user: &'a guildhall_shared::model::CurrentUser,
    guilds: Vec<UnavailableGuild>,
    session_id: String,
    resume_gateway_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<Application>,
    session_type: &'static str,
    /// They learn of private channels by messages.
    private_channels: [Value; 0],
    relationships: [Value; 0],
    presences: [Value; 0],
    guild_join_requests: [Value; 0],
    geo_ordered_rtc_regions: [Value; 0],
    user_settings: Empty,
    _trace: [Value; 0],
}

#[derive(Serialize)]
struct Application {
    id: Id<marker::Application>,
    flags: u64,
}

/// A bot's READY: its guilds follow one by one.
pub(super) fn for_bot(
    identity: &Identity,
    session: SessionId,
    resume_url: &str,
    shard: Option<(u32, u32)>,
) -> Vec<u8> {
    let guilds = identity.guilds.iter().map(|&id| UnavailableGuild {
        id,
        unavailable: true,
    });
    to_json(&ReadyOfBot {
        v: gateway::VERSION,
        user: &identity.user,
        guilds: guilds.collect(),
        session_id: session.to_string(),
        resume_gateway_url: resume_url,
        shard,
        application: identity
            .application
            .map(|(id, flags)| Application { id, flags }),
        session_type: "normal",
        private_channels: [],
        relationships: [],
        presences: [],
        guild_join_requests: [],
        geo_ordered_rtc_regions: [],
        user_settings: Empty {},
        _trace: [],
    })
}

#[cfg(test)]
mod tests;
