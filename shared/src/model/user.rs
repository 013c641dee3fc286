//! Users. Spec: objects.md › Users.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{Id, marker};

/// A user as everyone sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    pub id: Id<marker::User>,
    pub username: String,
    /// `"0"` for unique names; always a string.
    pub discriminator: String,
    pub global_name: Option<String>,
    /// 32 lower-case hex digits.
    pub avatar: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bot: bool,
    pub public_flags: u64,
    pub flags: u64,
    pub banner: Option<String>,
    pub accent_color: Option<u32>,
    pub avatar_decoration_data: Option<serde_json::Value>,
    pub collectibles: Option<serde_json::Value>,
    pub primary_guild: Option<serde_json::Value>,
}

/// A user as they see themselves (`GET /users/@me`, READY, USER_UPDATE).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CurrentUser {
    #[serde(flatten)]
    pub user: User,
    pub mfa_enabled: bool,
    pub locale: String,
    pub verified: bool,
    /// Null for bots.
    pub email: Option<String>,
    pub premium_type: u8,
    #[serde(default)]
    pub bio: String,
    #[serde(default)]
    pub pronouns: String,
    /// Absent for bots.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub private: Option<PrivateUser>,
}

/// What clients of people read of their own account besides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrivateUser {
    /// Always null: accounts have none here.
    pub phone: Option<String>,
    pub nsfw_allowed: bool,
    pub premium: bool,
    pub purchased_flags: u64,
    pub desktop: bool,
    pub mobile: bool,
    /// 2: one-time codes of an authenticator.
    pub authenticator_types: Vec<u8>,
}
