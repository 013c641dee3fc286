//! Messages. Spec: objects.md › Message.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Member, User};
use crate::{
    Timestamp,
    id::{Id, marker},
};

/// A message's type number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct MessageKind(pub u8);

impl MessageKind {
    pub const DEFAULT: Self = Self(0);
    pub const USER_JOIN: Self = Self(7);
    pub const REPLY: Self = Self(19);

    /// Whether somebody wrote it, as opposed to the server.
    pub fn is_written(self) -> bool {
        matches!(self, Self::DEFAULT | Self::REPLY | Self(20) | Self(23))
    }

    pub fn is_deletable(self) -> bool {
        !matches!(self.0, 1..=5 | 21)
    }
}

/// A message. `guild_id` and `member` are the gateway's extras: REST answers have neither.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    pub id: Id<marker::Message>,
    pub channel_id: Id<marker::Channel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guild_id: Option<Id<marker::Guild>>,
    pub author: User,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    pub content: String,
    pub timestamp: Timestamp,
    pub edited_timestamp: Option<Timestamp>,
    pub tts: bool,
    pub mention_everyone: bool,
    pub mentions: Vec<User>,
    pub mention_roles: Vec<Id<marker::Role>>,
    pub attachments: Vec<Value>,
    pub embeds: Vec<Value>,
    pub components: Vec<Value>,
    pub pinned: bool,
    #[serde(rename = "type")]
    pub kind: MessageKind,
    pub flags: u64,
    /// Only in the answer to its creator and in MESSAGE_CREATE: string or integer, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_reference: Option<MessageReference>,
    /// Replies only; null if the message replied to is gone.
    #[serde(
        default,
        deserialize_with = "super::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(no_recursion)]
    pub referenced_message: Option<Option<Box<Message>>>,
}

/// Which message another one answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageReference {
    #[serde(rename = "type")]
    pub kind: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<Id<marker::Message>>,
    pub channel_id: Id<marker::Channel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guild_id: Option<Id<marker::Guild>>,
}
