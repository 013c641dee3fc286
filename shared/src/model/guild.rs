//! Guilds. Spec: objects.md › Guild.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Channel, Member, PresenceView, Role, ScheduledEvent, StageInstance, Thread, VoiceState,
};
use crate::{
    Timestamp,
    id::{Id, marker},
};

/// Settings that no query filters on; one jsonb column in the database.
/// Every field has a default, so a row written before a field existed still reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GuildSettings {
    pub splash: Option<String>,
    pub discovery_splash: Option<String>,
    pub banner: Option<String>,
    pub home_header: Option<String>,
    pub region: String,
    pub afk_channel_id: Option<Id<marker::Channel>>,
    /// Seconds.
    pub afk_timeout: u32,
    pub widget_enabled: bool,
    pub widget_channel_id: Option<Id<marker::Channel>>,
    pub verification_level: u8,
    pub default_message_notifications: u8,
    pub explicit_content_filter: u8,
    pub features: Vec<String>,
    pub mfa_level: u8,
    pub application_id: Option<Id<marker::Application>>,
    pub system_channel_id: Option<Id<marker::Channel>>,
    pub system_channel_flags: u32,
    pub rules_channel_id: Option<Id<marker::Channel>>,
    pub max_presences: Option<u32>,
    pub max_members: u32,
    pub max_stage_video_channel_users: u32,
    pub max_video_channel_users: u32,
    pub vanity_url_code: Option<String>,
    pub premium_tier: u8,
    pub premium_subscription_count: u32,
    pub preferred_locale: String,
    pub public_updates_channel_id: Option<Id<marker::Channel>>,
    pub safety_alerts_channel_id: Option<Id<marker::Channel>>,
    pub nsfw: bool,
    pub nsfw_level: u8,
    pub premium_progress_bar_enabled: bool,
    pub incidents_data: Option<Value>,
}

impl Default for GuildSettings {
    fn default() -> Self {
        Self {
            splash: None,
            discovery_splash: None,
            banner: None,
            home_header: None,
            region: "deprecated".to_owned(),
            afk_channel_id: None,
            afk_timeout: 300,
            widget_enabled: false,
            widget_channel_id: None,
            verification_level: 0,
            default_message_notifications: 0,
            explicit_content_filter: 0,
            features: Vec::new(),
            mfa_level: 0,
            application_id: None,
            system_channel_id: None,
            system_channel_flags: 0,
            rules_channel_id: None,
            max_presences: None,
            max_members: 500_000,
            max_stage_video_channel_users: 50,
            max_video_channel_users: 25,
            vanity_url_code: None,
            premium_tier: 0,
            premium_subscription_count: 0,
            preferred_locale: "en-US".to_owned(),
            public_updates_channel_id: None,
            safety_alerts_channel_id: None,
            nsfw: false,
            nsfw_level: 0,
            premium_progress_bar_enabled: false,
            incidents_data: None,
        }
    }
}

/// A guild as REST answers and GUILD_UPDATE carry it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Guild {
    pub id: Id<marker::Guild>,
    pub name: String,
    pub icon: Option<String>,
    pub description: Option<String>,
    pub owner_id: Id<marker::User>,
    #[serde(flatten)]
    pub settings: GuildSettings,
    /// Holds the role whose id is the guild's.
    pub roles: Vec<Role>,
    pub emojis: Vec<Value>,
    pub stickers: Vec<Value>,
}

/// A guild as GUILD_CREATE carries it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct GatewayGuild<'a> {
    #[serde(flatten)]
    pub guild: &'a Guild,
    /// When the receiving member joined.
    pub joined_at: Timestamp,
    pub large: bool,
    /// `false` on the initial load, absent for a guild newly joined: libraries tell them apart by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<bool>,
    pub member_count: u64,
    /// Without `guild_id` and `member`.
    pub voice_states: Vec<&'a VoiceState>,
    pub members: Vec<&'a Member>,
    pub channels: Vec<&'a Channel>,
    /// Active ones that the receiver sees, with their own membership.
    pub threads: Vec<Thread>,
    #[schema(value_type = Vec<Object>)]
    pub presences: Vec<PresenceView<'a>>,
    pub stage_instances: Vec<&'a StageInstance>,
    pub guild_scheduled_events: Vec<&'a ScheduledEvent>,
    pub soundboard_sounds: Vec<&'a Value>,
}

/// A guild announced but not sent yet, or in outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnavailableGuild {
    pub id: Id<marker::Guild>,
    pub unavailable: bool,
}
