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
}
