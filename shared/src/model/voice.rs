//! Voice states and stages. Spec: objects.md › Presence and voice.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Member;
use crate::{
    Timestamp,
    id::{Id, marker},
};

/// Where a user is in a guild's voice channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VoiceState {
    /// Absent inside a GUILD_CREATE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guild_id: Option<Id<marker::Guild>>,
    /// Null: no longer in any.
    pub channel_id: Option<Id<marker::Channel>>,
    pub user_id: Id<marker::User>,
    /// Absent inside a GUILD_CREATE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    /// The gateway session that joined.
    pub session_id: String,
    /// By a moderator, as is `mute`.
    pub deaf: bool,
    pub mute: bool,
    pub self_deaf: bool,
    pub self_mute: bool,
    pub self_stream: bool,
    pub self_video: bool,
    /// In the audience of a stage.
    pub suppress: bool,
    pub request_to_speak_timestamp: Option<Timestamp>,
}

/// A stage that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StageInstance {
    pub id: Id<marker::StageInstance>,
    pub guild_id: Id<marker::Guild>,
    pub channel_id: Id<marker::Channel>,
    /// 1 to 120 characters.
    pub topic: String,
    /// 2: for the guild only.
    pub privacy_level: u8,
    pub discoverable_disabled: bool,
    pub guild_scheduled_event_id: Option<Id<marker::ScheduledEvent>>,
}
