//! READY. Spec: gateway.md › READY.

use bytes::Bytes;
use guildhall_shared::{gateway, model::UnavailableGuild};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{bus::Identity, session::SessionId};

/// What both kinds of account get; the rest is empty but expected by some library.
#[derive(Serialize)]
struct Ready<'a, G: Serialize> {
    v: u8,
    user: &'a guildhall_shared::model::CurrentUser,
    guilds: G,
    session_id: String,
    resume_gateway_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<Application>,
    session_type: &'static str,
    private_channels: [Value; 0],
    relationships: [Value; 0],
    presences: [Value; 0],
    guild_join_requests: [Value; 0],
    geo_ordered_rtc_regions: [Value; 0],
    user_settings: Empty,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    for_users: Option<ForUsers>,
    _trace: [Value; 0],
}

#[derive(Serialize)]
struct Application {
    id: guildhall_shared::Id<guildhall_shared::id::marker::Application>,
    flags: u64,
}

#[derive(Default, Serialize)]
struct Empty {}

/// What clients of people read besides.
#[derive(Default, Serialize)]
struct ForUsers {
    read_state: [Value; 0],
    user_guild_settings: [Value; 0],
    users: [Value; 0],
    merged_members: Vec<Value>,
    sessions: [Value; 0],
    connected_accounts: [Value; 0],
    notes: Empty,
    consents: Empty,
    experiments: [Value; 0],
    guild_experiments: [Value; 0],
    friend_suggestion_count: u32,
    country_code: &'static str,
}

/// A bot's READY: its guilds follow one by one.
pub(super) fn for_bot(
    identity: &Identity,
    session: SessionId,
    resume_url: &str,
    shard: Option<(u32, u32)>,
) -> Vec<u8> {
    let guilds: Vec<UnavailableGuild> = identity
        .guilds
        .iter()
        .map(|&id| UnavailableGuild {
            id,
            unavailable: true,
        })
        .collect();
    ready(identity, guilds, session, resume_url, shard, None)
}

/// A user's READY, with its guilds whole; each is the JSON of a GUILD_CREATE.
pub(super) fn for_user(
    identity: &Identity,
    guilds: &[Bytes],
    session: SessionId,
    resume_url: &str,
    shard: Option<(u32, u32)>,
) -> Vec<u8> {
    let guilds: Vec<&RawValue> = guilds
        .iter()
        .filter_map(|guild| serde_json::from_slice(guild).ok())
        .collect();
    ready(
        identity,
        guilds,
        session,
        resume_url,
        shard,
        Some(ForUsers::default()),
    )
}

fn ready<G: Serialize>(
    identity: &Identity,
    guilds: G,
    session: SessionId,
    resume_url: &str,
    shard: Option<(u32, u32)>,
    for_users: Option<ForUsers>,
) -> Vec<u8> {
    let ready = Ready {
        v: gateway::VERSION,
        user: &identity.user,
        guilds,
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
        for_users,
        _trace: [],
    };
    serde_json::to_vec(&ready).expect("READY has string keys and no failing serializer")
}
