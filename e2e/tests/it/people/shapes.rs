//! READY of a client with all capabilities, read strictly: every field that is sent is named
//! here, and nothing else is.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The capabilities of a third-party web client.
pub(super) const WEB: u64 = 16_381;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to see that they are there")]
pub(super) struct Ready {
    v: u8,
    pub(super) user: User,
    pub(super) guilds: Vec<Guild>,
    session_id: String,
    static_client_session_id: String,
    resume_gateway_url: String,
    session_type: String,
    pub(super) auth_session_id_hash: String,
    auth: Auth,
    pub(super) private_channels: Vec<Private>,
    pub(super) relationships: Vec<Related>,
    pub(super) read_state: Versioned<ReadState>,
    pub(super) user_guild_settings: Versioned<Value>,
    pub(super) users: Vec<User>,
    user_settings: BTreeMap<String, Value>,
    pub(super) merged_members: Vec<Vec<Merged>>,
    pub(super) sessions: Vec<Value>,
    analytics_token: String,
    country_code: String,
    consents: BTreeMap<String, BTreeMap<String, bool>>,
    tutorial: Option<Value>,
    connected_accounts: Vec<Value>,
    guild_join_requests: Vec<Value>,
    experiments: Vec<Value>,
    guild_experiments: Vec<Value>,
    friend_suggestion_count: u32,
    notification_settings: BTreeMap<String, u32>,
    geo_ordered_rtc_regions: Vec<String>,
    api_code_version: u32,
    _trace: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to see that they are there")]
struct Auth {
    authenticator_types: Vec<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Versioned<T> {
    pub(super) entries: Vec<T>,
    pub(super) partial: bool,
    pub(super) version: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct User {
    pub(super) id: String,
    #[expect(dead_code, reason = "read to see that it is there")]
    username: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to see that they are there")]
pub(super) struct Guild {
    pub(super) id: String,
    pub(super) properties: BTreeMap<String, Value>,
    pub(super) data_mode: String,
    pub(super) lazy: bool,
    version: u64,
    guild_hashes: BTreeMap<String, Value>,
    joined_at: String,
    large: bool,
    unavailable: Option<bool>,
    member_count: u64,
    pub(super) channels: Vec<Value>,
    threads: Vec<Value>,
    stage_instances: Vec<Value>,
    guild_scheduled_events: Vec<Value>,
    soundboard_sounds: Vec<Value>,
    pub(super) roles: Vec<Value>,
    emojis: Vec<Value>,
    stickers: Vec<Value>,
    premium_subscription_count: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to see that they are there")]
pub(super) struct Private {
    pub(super) id: String,
    #[serde(rename = "type")]
    kind: u8,
    pub(super) last_message_id: Option<String>,
    last_pin_timestamp: Option<String>,
    flags: u64,
    pub(super) recipient_ids: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to see that they are there")]
pub(super) struct Related {
    pub(super) id: String,
    pub(super) user_id: String,
    user: User,
    #[serde(rename = "type")]
    pub(super) kind: u8,
    nickname: Option<String>,
    is_spam_request: bool,
    stranger_request: bool,
    user_ignored: bool,
    since: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to see that they are there")]
pub(super) struct ReadState {
    pub(super) id: String,
    read_state_type: u8,
    pub(super) last_message_id: Option<String>,
    pub(super) mention_count: usize,
    last_pin_timestamp: Option<String>,
    last_viewed: Option<i32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Merged {
    pub(super) user_id: String,
    #[expect(dead_code, reason = "read to see that it is there")]
    roles: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to see that they are there")]
pub(super) struct Supplemental {
    pub(super) guilds: Vec<GuildSupplement>,
    pub(super) merged_members: Vec<Vec<Merged>>,
    pub(super) merged_presences: Presences,
    lazy_private_channels: Vec<Value>,
    disclose: Vec<Value>,
    game_invites: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to see that they are there")]
pub(super) struct GuildSupplement {
    pub(super) id: String,
    voice_states: Vec<Value>,
    activity_instances: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to see that they are there")]
pub(super) struct Presences {
    friends: Vec<Value>,
    pub(super) guilds: Vec<Vec<Value>>,
}
