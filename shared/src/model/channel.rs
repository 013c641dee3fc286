//! Channels. Spec: objects.md › Channel.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Timestamp,
    id::{Id, marker},
    model::{Member, User},
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
    pub const ANNOUNCEMENT_THREAD: Self = Self(10);
    pub const PUBLIC_THREAD: Self = Self(11);
    pub const PRIVATE_THREAD: Self = Self(12);
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

    /// A DM or group DM.
    pub fn is_private(self) -> bool {
        matches!(self, Self::DM | Self::GROUP_DM)
    }

    /// Whether it holds posts (threads) and no messages of its own.
    pub fn is_forum(self) -> bool {
        matches!(self, Self::FORUM | Self::MEDIA)
    }

    /// Whether threads can be made in it.
    pub fn holds_threads(self) -> bool {
        matches!(self, Self::TEXT | Self::ANNOUNCEMENT) || self.is_forum()
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
    /// Forums only; at most 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_tags: Option<Vec<ForumTag>>,
    #[serde(
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub default_reaction_emoji: Option<Option<DefaultReaction>>,
    #[serde(
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub default_sort_order: Option<Option<u8>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_forum_layout: Option<u8>,
    #[serde(
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub default_tag_setting: Option<Option<String>>,
    /// What a voice channel is about at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Of a voice channel: since when there has been somebody in it; Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice_start_time: Option<i64>,
    pub flags: u64,
}

impl ChannelSettings {
    /// Of threads: pinned to the top of their forum.
    pub const FLAG_PINNED: u64 = 1 << 1;
    /// Of forums: every post must have a tag.
    pub const FLAG_REQUIRE_TAG: u64 = 1 << 4;
    /// Of media channels.
    pub const FLAG_HIDE_MEDIA_DOWNLOADS: u64 = 1 << 15;
}

/// A tag that posts of a forum can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForumTag {
    pub id: Id<marker::Tag>,
    /// 1 to 20 characters.
    pub name: String,
    /// Only who has MANAGE_THREADS adds or removes it.
    #[serde(default)]
    pub moderated: bool,
    #[serde(default)]
    pub emoji_id: Option<Id<marker::Any>>,
    #[serde(default)]
    pub emoji_name: Option<String>,
}

/// The emoji of a forum's reaction button: one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DefaultReaction {
    #[serde(default)]
    pub emoji_id: Option<Id<marker::Any>>,
    #[serde(default)]
    pub emoji_name: Option<String>,
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

impl Channel {
    /// Libraries read positions as 16 bit integers, and no guild with a greater one.
    pub const POSITION_MAX: i32 = 0x7FFF;
}

/// A thread. Its permissions are its parent's (see [`crate::permissions::in_thread`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Thread {
    pub id: Id<marker::Channel>,
    #[serde(rename = "type")]
    pub kind: ChannelKind,
    pub guild_id: Id<marker::Guild>,
    pub parent_id: Id<marker::Channel>,
    pub owner_id: Id<marker::User>,
    pub name: String,
    pub last_message_id: Option<Id<marker::Message>>,
    #[serde(default)]
    pub last_pin_timestamp: Option<Timestamp>,
    pub flags: u64,
    /// Seconds.
    pub rate_limit_per_user: u32,
    /// Messages in it now, without the one it started from.
    pub message_count: u32,
    /// At most 50, however many there are.
    pub member_count: u32,
    /// Messages ever sent, deleted ones included.
    pub total_message_sent: u32,
    pub thread_metadata: ThreadMetadata,
    /// Of posts in forums; at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applied_tags: Vec<Id<marker::Tag>>,
    /// The receiver's own membership, where there is one receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<ThreadMember>,
}

/// What only threads have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ThreadMetadata {
    pub archived: bool,
    /// Minutes: 60, 1440, 4320 or 10080.
    pub auto_archive_duration: u32,
    /// Last change of `archived` or `auto_archive_duration`.
    pub archive_timestamp: Timestamp,
    pub locked: bool,
    /// Private threads only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitable: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_timestamp: Option<Timestamp>,
}

/// A user in a thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ThreadMember {
    /// The thread's; absent inside GUILD_CREATE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id<marker::Channel>>,
    /// Absent inside GUILD_CREATE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Id<marker::User>>,
    pub join_timestamp: Timestamp,
    pub flags: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted: Option<bool>,
    #[serde(
        default,
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    pub mute_config: Option<Option<serde_json::Value>>,
    /// Where it was asked for, and in THREAD_MEMBERS_UPDATE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
}

/// A DM or group DM as one of its participants sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PrivateChannel {
    pub id: Id<marker::Channel>,
    #[serde(rename = "type")]
    pub kind: ChannelKind,
    pub last_message_id: Option<Id<marker::Message>>,
    #[serde(default)]
    pub last_pin_timestamp: Option<Timestamp>,
    pub flags: u64,
    /// The others.
    pub recipients: Vec<User>,
    /// What only group DMs have.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupFields>,
}

/// What a group DM has besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupFields {
    /// Null: shown by its recipients' names.
    pub name: Option<String>,
    /// 32 lower-case hex digits.
    pub icon: Option<String>,
    pub owner_id: Id<marker::User>,
    pub managed: bool,
}

/// A channel of any kind, as REST answers carry it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AnyChannel {
    Guild(Box<Channel>),
    Thread(Box<Thread>),
    Private(Box<PrivateChannel>),
}
