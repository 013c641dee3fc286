//! Audit log entries, and how a change is described. Spec: limits-and-errors › Audit log.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::id::{Id, marker};

macro_rules! actions {
    ($($name:ident = $number:literal),* $(,)?) => {
        /// What was done. Numbers without a name here are somebody else's and kept as they are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        pub struct AuditAction(pub u16);

        impl AuditAction {
            $(pub const $name: Self = Self($number);)*

            /// Every action with a name.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

actions! {
    GUILD_UPDATE = 1,
    CHANNEL_CREATE = 10,
    CHANNEL_UPDATE = 11,
    CHANNEL_DELETE = 12,
    CHANNEL_OVERWRITE_CREATE = 13,
    CHANNEL_OVERWRITE_UPDATE = 14,
    CHANNEL_OVERWRITE_DELETE = 15,
    MEMBER_KICK = 20,
    MEMBER_PRUNE = 21,
    MEMBER_BAN_ADD = 22,
    MEMBER_BAN_REMOVE = 23,
    MEMBER_UPDATE = 24,
    MEMBER_ROLE_UPDATE = 25,
    MEMBER_MOVE = 26,
    MEMBER_DISCONNECT = 27,
    BOT_ADD = 28,
    ROLE_CREATE = 30,
    ROLE_UPDATE = 31,
    ROLE_DELETE = 32,
    INVITE_CREATE = 40,
    INVITE_UPDATE = 41,
    INVITE_DELETE = 42,
    WEBHOOK_CREATE = 50,
    WEBHOOK_UPDATE = 51,
    WEBHOOK_DELETE = 52,
    EMOJI_CREATE = 60,
    EMOJI_UPDATE = 61,
    EMOJI_DELETE = 62,
    MESSAGE_DELETE = 72,
    MESSAGE_BULK_DELETE = 73,
    MESSAGE_PIN = 74,
    MESSAGE_UNPIN = 75,
    INTEGRATION_CREATE = 80,
    INTEGRATION_UPDATE = 81,
    INTEGRATION_DELETE = 82,
    STAGE_INSTANCE_CREATE = 83,
    STAGE_INSTANCE_UPDATE = 84,
    STAGE_INSTANCE_DELETE = 85,
    STICKER_CREATE = 90,
    STICKER_UPDATE = 91,
    STICKER_DELETE = 92,
    GUILD_SCHEDULED_EVENT_CREATE = 100,
    GUILD_SCHEDULED_EVENT_UPDATE = 101,
    GUILD_SCHEDULED_EVENT_DELETE = 102,
    THREAD_CREATE = 110,
    THREAD_UPDATE = 111,
    THREAD_DELETE = 112,
    APPLICATION_COMMAND_PERMISSION_UPDATE = 121,
    SOUNDBOARD_SOUND_CREATE = 130,
    SOUNDBOARD_SOUND_UPDATE = 131,
    SOUNDBOARD_SOUND_DELETE = 132,
    AUTO_MODERATION_RULE_CREATE = 140,
    AUTO_MODERATION_RULE_UPDATE = 141,
    AUTO_MODERATION_RULE_DELETE = 142,
    AUTO_MODERATION_BLOCK_MESSAGE = 143,
    AUTO_MODERATION_FLAG_TO_CHANNEL = 144,
    AUTO_MODERATION_USER_COMM_DISABLED = 145,
    AUTO_MODERATION_QUARANTINE_USER = 146,
    ONBOARDING_PROMPT_CREATE = 163,
    ONBOARDING_PROMPT_UPDATE = 164,
    ONBOARDING_PROMPT_DELETE = 165,
    ONBOARDING_CREATE = 166,
    ONBOARDING_UPDATE = 167,
    VOICE_CHANNEL_STATUS_CREATE = 192,
    VOICE_CHANNEL_STATUS_DELETE = 193,
    GUILD_SCHEDULED_EVENT_EXCEPTION_CREATE = 200,
    GUILD_SCHEDULED_EVENT_EXCEPTION_UPDATE = 201,
    GUILD_SCHEDULED_EVENT_EXCEPTION_DELETE = 202,
}

impl AuditAction {
    /// Whether the same deed done again soon counts up the entry that is there
    /// (`options.count`) instead of making another.
    pub fn is_counted(self) -> bool {
        [
            Self::MESSAGE_DELETE,
            Self::MEMBER_MOVE,
            Self::MEMBER_DISCONNECT,
        ]
        .contains(&self)
    }
}

/// One field of what was changed; a missing side means that it had no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditChange {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_value: Option<Value>,
}

/// What somebody did in a guild, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    pub id: Id<marker::AuditEntry>,
    pub action_type: AuditAction,
    /// Null: the server itself.
    pub user_id: Option<Id<marker::User>>,
    pub target_id: Option<Id<marker::Any>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<AuditChange>,
    /// Values are text, numbers too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Fields that tell nothing: who it is stands in `target_id`, and the rest is derived
/// or has entries of its own.
const SILENT: [&str; 10] = [
    "id",
    "guild_id",
    "user",
    "roles",
    "emojis",
    "stickers",
    "tags",
    "last_message_id",
    "last_pin_timestamp",
    "joined_at",
];

/// Fields whose name in the log says that the value is a hash.
const HASHES: [(&str, &str); 5] = [
    ("icon", "icon_hash"),
    ("avatar", "avatar_hash"),
    ("splash", "splash_hash"),
    ("discovery_splash", "discovery_splash_hash"),
    ("banner", "banner_hash"),
];

/// What differs between two states of an object, by key. Null is the same as absence:
/// an object that was made goes from null to what it is, a deleted one to null.
pub fn audit_changes(before: &Value, after: &Value) -> Vec<AuditChange> {
    let none = Map::new();
    let before = before.as_object().unwrap_or(&none);
    let after = after.as_object().unwrap_or(&none);
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let side = |object: &Map<String, Value>, key: &str| {
        object.get(key).filter(|value| !value.is_null()).cloned()
    };
    keys.into_iter()
        .filter(|key| !SILENT.contains(&key.as_str()))
        .filter_map(|key| {
            let (old_value, new_value) = (side(before, key), side(after, key));
            let renamed = HASHES.iter().find(|(name, _)| name == key);
            (old_value != new_value).then(|| AuditChange {
                key: renamed.map_or_else(|| key.clone(), |(_, hash)| (*hash).to_owned()),
                old_value,
                new_value,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let before = json!({ "id": "1", "name": "a", "topic": null, "nsfw": false, "icon": "x" });
        let after = json!({ "id": "2", "name": "b", "nsfw": false, "parent_id": "3" });
        let changes = serde_json::to_value(audit_changes(&before, &after)).unwrap();
        let wanted = json!([
            { "key": "icon_hash", "old_value": "x" },
            { "key": "name", "old_value": "a", "new_value": "b" },
            { "key": "parent_id", "new_value": "3" },
        ]);
        assert_eq!(changes, wanted);
    }

    proptest! {
        #[test]
        fn applying_the_changes_leads_from_one_state_to_the_other(
            before in object(), after in object(),
        ) {
            let mut state = before.clone();
            for change in audit_changes(&Value::Object(before), &Value::Object(after.clone())) {
                prop_assert_eq!(state.get(&change.key).cloned(), change.old_value.clone());
                prop_assert_ne!(&change.old_value, &change.new_value);
                match change.new_value {
                    Some(value) => state.insert(change.key, value),
                    None => state.remove(&change.key),
                };
            }
            prop_assert_eq!(state, after);
        }
    }

    prop_compose! {
        fn object()(fields in prop::collection::btree_map("[a-e]", 0..3u8, 0..5)) -> Map<String, Value> {
            fields.into_iter().map(|(key, value)| (key, json!(value))).collect()
        }
    }
}
