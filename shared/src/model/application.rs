//! Applications. Spec: objects.md › Application.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::User;
use crate::id::{Id, marker};

/// An application as its owner and its bot see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Application {
    pub id: Id<marker::Application>,
    pub name: String,
    pub icon: Option<String>,
    pub description: String,
    /// Deprecated, always empty; some libraries still read it.
    pub summary: String,
    #[serde(rename = "type")]
    pub kind: Option<u8>,
    pub bot: User,
    pub bot_public: bool,
    pub bot_require_code_grant: bool,
    /// Hex Ed25519 public key, 64 digits.
    pub verify_key: String,
    pub flags: u64,
    /// `flags` as a string.
    pub flags_new: String,
    pub owner: User,
    pub team: Option<Value>,
    pub redirect_uris: Vec<String>,
    pub interactions_endpoint_url: Option<String>,
    pub role_connections_verification_url: Option<String>,
    pub approximate_guild_count: u64,
    pub approximate_user_install_count: u64,
    pub approximate_user_authorization_count: u64,
    pub explicit_content_filter: u8,
    pub eligible_oauth2_scopes: Vec<String>,
}

impl Application {
    /// Intents a new application may use: all three privileged ones, by their
    /// self-service flags (a self-hosted server trusts its users with them).
    pub const FLAGS_NEW: u64 = 1 << 13 | 1 << 15 | 1 << 19;
}
