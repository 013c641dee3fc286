//! Application commands. Spec: objects.md › Application command.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    Permissions,
    id::{Id, marker},
};

/// Text by locale.
pub type Localizations = BTreeMap<String, String>;

/// A command that users call an application by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Command {
    pub id: Id<marker::Command>,
    pub application_id: Id<marker::Application>,
    /// Absent: in every guild of the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guild_id: Option<Id<marker::Guild>>,
    #[serde(rename = "type")]
    pub kind: CommandKind,
    pub name: String,
    /// New with every change.
    pub version: Id<marker::Any>,
    #[serde(flatten)]
    pub body: CommandBody,
}

/// A command's type number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct CommandKind(pub u8);

impl CommandKind {
    pub const CHAT_INPUT: Self = Self(1);
    pub const USER: Self = Self(2);
    pub const MESSAGE: Self = Self(3);
    pub const ENTRY_POINT: Self = Self(4);
}

/// What no query filters on; one jsonb column in the database.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CommandBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_localized: Option<String>,
    pub name_localizations: Option<Localizations>,
    /// Empty for all but chat input.
    pub description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description_localized: Option<String>,
    pub description_localizations: Option<Localizations>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<CommandOption>,
    /// Null: everyone may use it; `"0"`: administrators.
    pub default_member_permissions: Option<Permissions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dm_permission: Option<bool>,
    /// Null: everywhere.
    pub contexts: Option<Vec<u8>>,
    pub integration_types: Vec<u8>,
    pub nsfw: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<u8>,
}

/// A parameter of a command, a subcommand or a group of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CommandOption {
    #[serde(rename = "type")]
    pub kind: u8,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_localized: Option<String>,
    pub name_localizations: Option<Localizations>,
    pub description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description_localized: Option<String>,
    pub description_localizations: Option<Localizations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<CommandChoice>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub options: Vec<CommandOption>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channel_types: Vec<u8>,
    /// A number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_value: Option<Value>,
    /// A number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autocomplete: Option<bool>,
}

impl CommandOption {
    pub const SUBCOMMAND: u8 = 1;
    pub const GROUP: u8 = 2;
    pub const STRING: u8 = 3;
    pub const INTEGER: u8 = 4;
    pub const BOOLEAN: u8 = 5;
    pub const USER: u8 = 6;
    pub const CHANNEL: u8 = 7;
    pub const ROLE: u8 = 8;
    pub const MENTIONABLE: u8 = 9;
    pub const NUMBER: u8 = 10;
    pub const ATTACHMENT: u8 = 11;
}

/// One of the values an option may have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CommandChoice {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_localized: Option<String>,
    #[serde(default)]
    pub name_localizations: Option<Localizations>,
    /// Text or a number, as the option's type is.
    pub value: Value,
}

/// Who may use a command in a guild.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CommandPermissions {
    /// A command's id; the application's for all its commands without permissions of their own.
    pub id: Id<marker::Any>,
    pub application_id: Id<marker::Application>,
    pub guild_id: Id<marker::Guild>,
    pub permissions: Vec<CommandPermission>,
}

/// An entry about a role, a user or a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandPermission {
    /// The guild's id stands for @everyone, one less for all channels.
    pub id: Id<marker::Any>,
    /// 1 role, 2 user, 3 channel.
    #[serde(rename = "type")]
    pub kind: u8,
    pub permission: bool,
}

impl CommandPermission {
    pub const ROLE: u8 = 1;
    pub const USER: u8 = 2;
    pub const CHANNEL: u8 = 3;
}
