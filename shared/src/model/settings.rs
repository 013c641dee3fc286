//! What people set for themselves. Spec: objects.md › User settings, User guild settings.
//!
//! Only the shapes and their bounds; the server acts on few of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::present;
use crate::{
    Timestamp,
    id::{Id, marker},
};

/// Guilds named in one list of the settings.
pub const SETTINGS_GUILDS_MAX: usize = 200;
/// Folders of guilds.
pub const FOLDERS_MAX: usize = 200;
/// Channels with settings of their own, per guild.
pub const CHANNEL_OVERRIDES_MAX: usize = 1000;

macro_rules! settings {
    ($($field:ident: $type:ty = $default:expr;)*) => {
        /// A user's settings in full.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(default)]
        pub struct UserSettings {
            $(pub $field: $type,)*
            pub custom_status: Option<CustomStatus>,
            pub friend_source_flags: Option<FriendSourceFlags>,
        }

        impl Default for UserSettings {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    custom_status: None,
                    friend_source_flags: Some(FriendSourceFlags::default()),
                }
            }
        }

        /// The settings that change; serialized, only those. Null is "unchanged" except
        /// where it means something.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(default)]
        pub struct UserSettingsChange {
            $(
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
            #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            pub custom_status: Option<Option<CustomStatus>>,
            #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            pub friend_source_flags: Option<Option<FriendSourceFlags>>,
        }
    };
}

settings! {
    activity_restricted_guild_ids: Vec<Id<marker::Guild>> = Vec::new();
    activity_joining_restricted_guild_ids: Vec<Id<marker::Guild>> = Vec::new();
    afk_timeout: u32 = 600;
    allow_accessibility_detection: bool = false;
    allow_activity_party_privacy_friends: bool = true;
    allow_activity_party_privacy_voice_channel: bool = true;
    animate_emoji: bool = true;
    animate_stickers: u8 = 0;
    contact_sync_enabled: bool = false;
    convert_emoticons: bool = true;
    default_guilds_restricted: bool = false;
    detect_platform_accounts: bool = false;
    developer_mode: bool = false;
    disable_games_tab: bool = true;
    enable_tts_command: bool = true;
    explicit_content_filter: u8 = 1;
    friend_discovery_flags: u32 = 0;
    gif_auto_play: bool = true;
    guild_folders: Vec<GuildFolder> = Vec::new();
    inline_attachment_media: bool = true;
    inline_embed_media: bool = true;
    locale: String = "en-US".to_owned();
    message_display_compact: bool = false;
    native_phone_integration_enabled: bool = false;
    passwordless: bool = false;
    render_embeds: bool = true;
    render_reactions: bool = true;
    restricted_guilds: Vec<Id<marker::Guild>> = Vec::new();
    show_current_game: bool = true;
    slayer_sdk_receive_dms_in_game: u8 = 0;
    soundboard_volume: f64 = 100.0;
    status: Status = Status::Online;
    stream_notifications_enabled: bool = true;
    theme: Theme = Theme::Dark;
    timezone_offset: i32 = 0;
    view_nsfw_commands: bool = false;
    view_nsfw_guilds: bool = false;
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Online,
    Idle,
    Dnd,
    Invisible,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Theme {
    #[default]
    Dark,
    Light,
    Darker,
    Midnight,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CustomStatus {
    /// At most 128 characters.
    pub text: Option<String>,
    pub emoji_id: Option<Id<marker::Any>>,
    pub emoji_name: Option<String>,
    pub expires_at: Option<Timestamp>,
}

/// Whose friend requests are let through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct FriendSourceFlags {
    pub all: bool,
    pub mutual_friends: bool,
    pub mutual_guilds: bool,
}

impl Default for FriendSourceFlags {
    fn default() -> Self {
        Self {
            all: true,
            mutual_friends: true,
            mutual_guilds: true,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GuildFolder {
    /// Null for a guild outside of folders.
    pub id: Option<i64>,
    pub guild_ids: Vec<Id<marker::Guild>>,
    /// At most 32 characters.
    pub name: Option<String>,
    pub color: Option<u32>,
}

macro_rules! guild_settings {
    ($($field:ident: $type:ty = $default:expr;)*) => {
        /// A user's settings for one guild as they are stored.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct StoredGuildSettings {
            $(pub $field: $type,)*
            pub mute_config: Option<MuteConfig>,
            pub channel_overrides: BTreeMap<Id<marker::Channel>, StoredChannelOverride>,
            /// Number of changes so far.
            pub version: u64,
        }

        impl Default for StoredGuildSettings {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    mute_config: None,
                    channel_overrides: BTreeMap::new(),
                    version: 0,
                }
            }
        }

        /// The settings of one guild that change.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(default)]
        pub struct UserGuildSettingsChange {
            $(pub $field: Option<$type>,)*
            #[serde(deserialize_with = "present")]
            pub mute_config: Option<Option<MuteConfig>>,
            /// By channel; a channel's whole override, null for none.
            #[schema(value_type = Option<BTreeMap<String, StoredChannelOverride>>)]
            pub channel_overrides:
                Option<BTreeMap<Id<marker::Channel>, Option<StoredChannelOverride>>>,
        }

        impl StoredGuildSettings {
            /// Takes over what is there, and counts the change.
            pub fn apply(&mut self, change: UserGuildSettingsChange) {
                $(if let Some(value) = change.$field {
                    self.$field = value;
                })*
                if let Some(value) = change.mute_config {
                    self.mute_config = value;
                }
                for (channel, value) in change.channel_overrides.unwrap_or_default() {
                    match value {
                        Some(value) => self.channel_overrides.insert(channel, value),
                        None => self.channel_overrides.remove(&channel),
                    };
                }
                self.version += 1;
            }

            /// As clients see it; `None`: of direct messages.
            pub fn into_wire(self, guild_id: Option<Id<marker::Guild>>) -> UserGuildSettings {
                let overrides = self.channel_overrides.into_iter();
                UserGuildSettings {
                    guild_id,
                    $($field: self.$field,)*
                    mute_config: self.mute_config,
                    channel_overrides: overrides
                        .map(|(channel_id, settings)| ChannelOverride { channel_id, settings })
                        .collect(),
                    version: self.version,
                }
            }
        }

        /// A user's settings for one guild.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
        pub struct UserGuildSettings {
            /// Null: of direct messages.
            pub guild_id: Option<Id<marker::Guild>>,
            $(pub $field: $type,)*
            pub mute_config: Option<MuteConfig>,
            pub channel_overrides: Vec<ChannelOverride>,
            pub version: u64,
        }
    };
}

guild_settings! {
    flags: u32 = 0;
    hide_muted_channels: bool = false;
    message_notifications: u8 = 3;
    mobile_push: bool = true;
    mute_scheduled_events: bool = false;
    muted: bool = false;
    notify_highlights: u8 = 0;
    suppress_everyone: bool = false;
    suppress_roles: bool = false;
}

/// How long something is muted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MuteConfig {
    pub end_time: Option<Timestamp>,
    /// Seconds; -1 for ever.
    pub selected_time_window: Option<i64>,
}

/// A channel's own settings, without its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StoredChannelOverride {
    pub collapsed: bool,
    pub flags: u32,
    /// 0 all, 1 mentions, 2 nothing, 3 as the guild.
    pub message_notifications: u8,
    pub muted: bool,
    pub mute_config: Option<MuteConfig>,
}

impl Default for StoredChannelOverride {
    fn default() -> Self {
        Self {
            collapsed: false,
            flags: 0,
            message_notifications: 3,
            muted: false,
            mute_config: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChannelOverride {
    pub channel_id: Id<marker::Channel>,
    #[serde(flatten)]
    pub settings: StoredChannelOverride,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stored_differences_read_as_whole_settings() {
        let settings: UserSettings =
            serde_json::from_value(json!({ "theme": "light", "gone": 1 })).unwrap();
        assert_eq!(settings.theme, Theme::Light);
        assert_eq!(settings.locale, "en-US");
        let whole = serde_json::to_value(&settings).unwrap();
        assert!(whole["custom_status"].is_null());
        assert_eq!(whole["friend_source_flags"]["all"], true);
    }

    #[test]
    fn a_change_writes_only_itself() {
        let change: UserSettingsChange = serde_json::from_value(
            json!({ "custom_status": null, "locale": null, "theme": "dark" }),
        )
        .unwrap();
        let written = serde_json::to_value(&change).unwrap();
        assert_eq!(written, json!({ "custom_status": null, "theme": "dark" }));
    }

    #[test]
    fn overrides_come_and_go_by_channel() {
        let mut settings = StoredGuildSettings::default();
        let change = |body| serde_json::from_value::<UserGuildSettingsChange>(body).unwrap();
        settings.apply(change(
            json!({ "muted": true, "channel_overrides": { "5": { "muted": true }, "6": {} } }),
        ));
        settings.apply(change(json!({ "channel_overrides": { "6": null } })));
        let wire = settings.into_wire(None);
        assert_eq!(
            (wire.version, wire.muted, wire.channel_overrides.len()),
            (2, true, 1)
        );
        let wire = serde_json::to_value(&wire).unwrap();
        assert_eq!(wire["channel_overrides"][0]["channel_id"], "5");
        assert_eq!(wire["channel_overrides"][0]["muted"], true);
    }
}
