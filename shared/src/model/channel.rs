//! Channels. Spec: objects.md › Channel.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Timestamp,
    id::{Id, marker},
    permissions::{ChannelClass, Overwrite},
};

/// A channel's type number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ChannelKind(pub u8);

impl ChannelKind {
    pub const TEXT: Self = Self(0);
    pub const DM: Self = Self(1);
    pub const VOICE: Self = Self(2);
    pub const GROUP_DM: Self = Self(3);
    pub const CATEGORY: Self = Self(4);
    pub const ANNOUNCEMENT: Self = Self(5);
    pub const STAGE: Self = Self(13);
    pub const FORUM: Self = Self(15);
    pub const MEDIA: Self = Self(16);

    pub fn is_voice(self) -> bool {
        matches!(self, Self::VOICE | Self::STAGE)
    }

    /// Whether messages can be sent to it.
    pub fn has_messages(self) -> bool {
        matches!(
            self,
            Self::TEXT | Self::DM | Self::VOICE | Self::GROUP_DM | Self::ANNOUNCEMENT | Self::STAGE
        ) || self.is_thread()
    }

    pub fn is_thread(self) -> bool {
        matches!(self.0, 10..=12)
    }

    /// Which implicit denials apply.
    pub fn class(self) -> ChannelClass {
        match self {
            Self::VOICE | Self::STAGE => ChannelClass::Voice,
            Self::CATEGORY => ChannelClass::Plain,
            _ if self.is_thread() => ChannelClass::Thread,
            _ => ChannelClass::Text,
        }
    }
}

/// Settings that no query filters on; one jsonb column in the database.
/// Which of them a channel has depends on its kind: the others stay absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ChannelSettings {
    #[serde(
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub topic: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nsfw: Option<bool>,
    /// Bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
    /// 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_limit: Option<u32>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_user: Option<u32>,
    #[serde(
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub rtc_region: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_quality_mode: Option<u8>,
    /// Minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_auto_archive_duration: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_thread_rate_limit_per_user: Option<u32>,
    #[serde(
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_pin_timestamp: Option<Option<Timestamp>>,
    pub flags: u64,
}

/// A guild channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Channel {
    pub id: Id<marker::Channel>,
    #[serde(rename = "type")]
    pub kind: ChannelKind,
    pub guild_id: Id<marker::Guild>,
    pub name: String,
    pub position: i32,
    pub parent_id: Option<Id<marker::Channel>>,
    pub permission_overwrites: Vec<Overwrite>,
    /// Absent where no messages are; null when there are none yet.
    #[serde(
        default,
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_message_id: Option<Option<Id<marker::Message>>>,
    #[serde(flatten)]
    pub settings: ChannelSettings,
}
