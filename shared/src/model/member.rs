//! Members and roles. Spec: objects.md › Member, Role.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::User;
use crate::{
    Permissions, Timestamp,
    id::{Id, marker},
    permissions::Rank,
};

/// A user in a guild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Absent in the `member` of messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    pub nick: Option<String>,
    pub avatar: Option<String>,
    pub banner: Option<String>,
    /// Without @everyone.
    pub roles: Vec<Id<marker::Role>>,
    pub joined_at: Timestamp,
    pub premium_since: Option<Timestamp>,
    pub deaf: bool,
    pub mute: bool,
    pub flags: u64,
    pub pending: bool,
    pub communication_disabled_until: Option<Timestamp>,
    pub avatar_decoration_data: Option<serde_json::Value>,
    pub collectibles: Option<serde_json::Value>,
}

impl Member {
    /// Flag: a moderator has let the member off the guild's verification level.
    pub const BYPASSES_VERIFICATION: u64 = 1 << 2;
    /// Flag: automod found the member's name forbidden.
    pub const QUARANTINED: u64 = 1 << 7;

    /// Until when the member may only look and read: the end of a timeout; a quarantine has none.
    pub fn silenced_until(&self) -> Option<Timestamp> {
        silenced_until(self.flags, self.communication_disabled_until)
    }
}

/// [`Member::silenced_until`] of the two fields that tell it.
pub fn silenced_until(flags: u64, timeout: Option<Timestamp>) -> Option<Timestamp> {
    /// The last millisecond of the year 9999.
    const NEVER_MS: u64 = 253_402_300_799_999;
    match flags & Member::QUARANTINED {
        0 => timeout,
        _ => Some(Timestamp::from_unix_ms(NEVER_MS)),
    }
}

/// A role of a guild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Role {
    pub id: Id<marker::Role>,
    pub name: String,
    /// Deprecated twin of `colors.primary_color`; libraries still need it.
    pub color: u32,
    pub colors: RoleColors,
    pub hoist: bool,
    pub icon: Option<String>,
    pub unicode_emoji: Option<String>,
    pub position: i32,
    pub permissions: Permissions,
    pub managed: bool,
    pub mentionable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<RoleTags>,
    pub flags: u64,
}

/// Colours of a role, 0 to 0xFFFFFF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RoleColors {
    pub primary_color: u32,
    pub secondary_color: Option<u32>,
    pub tertiary_color: Option<u32>,
}

/// What a managed role belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RoleTags {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bot_id: Option<Id<marker::User>>,
}

impl Role {
    /// Libraries read positions as 16 bit integers, and no guild with a greater one.
    pub const POSITION_MAX: i32 = 0x7FFF;

    pub fn rank(&self) -> Rank {
        Rank::role(self.position, self.id)
    }
}
