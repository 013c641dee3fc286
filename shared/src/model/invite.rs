//! Invites. Spec: objects.md › Invite.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ChannelKind, RoleColors, ScheduledEvent, User};
use crate::{
    Timestamp,
    id::{Id, marker},
};

/// An invite to a guild (type 0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Invite {
    #[serde(rename = "type")]
    pub kind: u8,
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inviter: Option<User>,
    /// Null: never.
    pub expires_at: Option<Timestamp>,
    pub guild_id: Id<marker::Guild>,
    pub guild: InviteGuild,
    pub channel: InviteChannel,
    /// 1: a stream of `target_user`; 2: the activity `target_application`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_type: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_user: Option<User>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_application: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guild_scheduled_event: Option<ScheduledEvent>,
    /// Given to whoever takes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<InviteRole>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approximate_member_count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approximate_presence_count: Option<u64>,
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<InviteMetadata>,
    /// It is the guild's vanity code, which nobody revokes.
    #[serde(skip)]
    pub is_vanity: bool,
}

/// An invite to a group DM (type 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupInvite {
    #[serde(rename = "type")]
    pub kind: u8,
    pub code: String,
    pub inviter: User,
    pub expires_at: Timestamp,
    pub channel: InviteGroup,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approximate_member_count: Option<u64>,
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<InviteMetadata>,
}

/// An invite of either kind, as REST answers carry it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AnyInvite {
    Guild(Box<Invite>),
    Group(Box<GroupInvite>),
}

impl From<Invite> for AnyInvite {
    fn from(invite: Invite) -> Self {
        Self::Guild(Box::new(invite))
    }
}

impl From<GroupInvite> for AnyInvite {
    fn from(invite: GroupInvite) -> Self {
        Self::Group(Box::new(invite))
    }
}

/// A role that comes with an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteRole {
    pub id: Id<marker::Role>,
    pub name: String,
    pub position: i32,
    pub color: u32,
    #[serde(default)]
    pub colors: RoleColors,
    #[serde(default)]
    pub icon: Option<String>,
    #[serde(default)]
    pub unicode_emoji: Option<String>,
}

/// What only those who manage invites see, or are in the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteMetadata {
    pub uses: u32,
    /// 0: no limit.
    pub max_uses: u32,
    /// Seconds; 0: never expires.
    pub max_age: u32,
    pub temporary: bool,
    pub created_at: Timestamp,
}

/// The guild of an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteGuild {
    pub id: Id<marker::Guild>,
    pub name: String,
    pub splash: Option<String>,
    pub banner: Option<String>,
    pub description: Option<String>,
    pub icon: Option<String>,
    pub features: Vec<String>,
    pub verification_level: u8,
    pub vanity_url_code: Option<String>,
    pub nsfw_level: u8,
    pub nsfw: bool,
    pub premium_subscription_count: u32,
    pub premium_tier: u8,
}

/// The channel of an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteChannel {
    pub id: Id<marker::Channel>,
    #[serde(rename = "type")]
    pub kind: ChannelKind,
    pub name: String,
}

/// The group DM of an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteGroup {
    pub id: Id<marker::Channel>,
    #[serde(rename = "type")]
    pub kind: ChannelKind,
    /// Null: shown by its recipients' names.
    pub name: Option<String>,
    /// 32 lower-case hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    /// Everybody in it, by id.
    pub recipients: Vec<InviteRecipient>,
}

/// Somebody in the group DM of an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteRecipient {
    pub id: Id<marker::User>,
    pub username: String,
    pub avatar: Option<String>,
}
