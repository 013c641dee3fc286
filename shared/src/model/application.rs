//! Applications. Spec: objects.md › Application.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::User;
use crate::{
    Permissions,
    id::{Id, marker},
};

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
    /// Hex Ed25519 public key, 64 digits: what interactions sent over HTTP are signed with.
    pub verify_key: String,
    pub flags: u64,
    /// `flags` as a string.
    pub flags_new: String,
    pub owner: User,
    pub team: Option<Value>,
    pub redirect_uris: Vec<String>,
    #[serde(flatten)]
    pub settings: ApplicationSettings,
    pub approximate_guild_count: u64,
    pub approximate_user_install_count: u64,
    pub approximate_user_authorization_count: u64,
    pub eligible_oauth2_scopes: Vec<String>,
    /// 1: not to be verified. No page names it; discord.py-self reads no application without.
    pub verification_state: u8,
}

/// Settings that no query filters on; one jsonb column in the database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ApplicationSettings {
    /// Where interactions are sent instead of to the gateway.
    pub interactions_endpoint_url: Option<String>,
    pub role_connections_verification_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_install_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_params: Option<InstallParams>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integration_types_config: Option<BTreeMap<String, IntegrationTypeConfig>>,
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cover_image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_participants: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_of_service_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy_policy_url: Option<String>,
    pub explicit_content_filter: u8,
    pub event_webhooks_url: Option<String>,
    /// 1: off, 2: on.
    pub event_webhooks_status: u8,
    pub event_webhooks_types: Vec<String>,
}

impl Default for ApplicationSettings {
    fn default() -> Self {
        Self {
            interactions_endpoint_url: None,
            role_connections_verification_url: None,
            custom_install_url: None,
            install_params: None,
            integration_types_config: None,
            tags: Vec::new(),
            cover_image: None,
            max_participants: None,
            terms_of_service_url: None,
            privacy_policy_url: None,
            explicit_content_filter: 0,
            event_webhooks_url: None,
            event_webhooks_status: 1,
            event_webhooks_types: Vec::new(),
        }
    }
}

/// What an application's default invite link asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct InstallParams {
    pub scopes: Vec<String>,
    pub permissions: Permissions,
}

/// How an application is installed in one context: `"0"` a guild, `"1"` a user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct IntegrationTypeConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth2_install_params: Option<InstallParams>,
}

/// An application as everyone sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PublicApplication {
    pub id: Id<marker::Application>,
    pub name: String,
    pub icon: Option<String>,
    pub description: String,
    pub summary: String,
    #[serde(rename = "type")]
    pub kind: Option<u8>,
    pub bot: User,
    pub bot_public: bool,
    pub bot_require_code_grant: bool,
    pub verify_key: String,
    pub flags: u64,
    pub flags_new: String,
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_install_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_params: Option<InstallParams>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integration_types_config: Option<BTreeMap<String, IntegrationTypeConfig>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_of_service_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_policy_url: Option<String>,
}

impl Application {
    /// Intents a new application may use: all three privileged ones, by their
    /// self-service flags (a self-hosted server trusts its users with them).
    pub const FLAGS_NEW: u64 = 1 << 13 | 1 << 15 | 1 << 19;
}

impl From<Application> for PublicApplication {
    fn from(application: Application) -> Self {
        let settings = application.settings;
        Self {
            id: application.id,
            name: application.name,
            icon: application.icon,
            description: application.description,
            summary: application.summary,
            kind: application.kind,
            bot: application.bot,
            bot_public: application.bot_public,
            bot_require_code_grant: application.bot_require_code_grant,
            verify_key: application.verify_key,
            flags: application.flags,
            flags_new: application.flags_new,
            tags: settings.tags,
            custom_install_url: settings.custom_install_url,
            install_params: settings.install_params,
            integration_types_config: settings.integration_types_config,
            terms_of_service_url: settings.terms_of_service_url,
            privacy_policy_url: settings.privacy_policy_url,
        }
    }
}
