//! A rule: what it is made of, how it is stored, and what a request may say of it.

use std::ops::RangeInclusive;

use guildhall_shared::{
    Id, Permissions,
    envelope::{Scope, Visibility},
    gateway::Intents,
    id::marker::{AutomodRule as RuleId, Channel, Guild, Role, User},
    model::present,
};
use guildhall_store::ids_from_db;
use serde::{Deserialize, Serialize};
use sqlx::{PgExecutor, types::Json as Jsonb};
use utoipa::ToSchema;

use super::matcher::{self, Matcher};
use crate::{
    error::Result,
    form::{Fault, FormErrors},
};

pub(crate) const KEYWORD: u8 = 1;
pub(crate) const SPAM: u8 = 3;
pub(crate) const PRESET: u8 = 4;
pub(crate) const MENTION_SPAM: u8 = 5;
pub(crate) const MEMBER_PROFILE: u8 = 6;
const TRIGGERS: [u8; 5] = [KEYWORD, SPAM, PRESET, MENTION_SPAM, MEMBER_PROFILE];

pub(crate) const BLOCK_MESSAGE: u8 = 1;
pub(crate) const SEND_ALERT: u8 = 2;
pub(crate) const TIMEOUT: u8 = 3;
pub(crate) const BLOCK_INTERACTION: u8 = 4;

pub(crate) const ON_MESSAGE: u8 = 1;
pub(crate) const ON_MEMBER: u8 = 2;

const KEYWORDS_MAX: usize = 1000;
const KEYWORD_LENGTH_MAX: usize = 60;
const PATTERNS_MAX: usize = 10;
const PATTERN_LENGTH_MAX: usize = 260;
const PRESET_ALLOWED_MAX: usize = 1000;
const ACTIONS_MAX: usize = 5;
const EXEMPT_ROLES_MAX: usize = 20;
const EXEMPT_CHANNELS_MAX: usize = 50;
const CUSTOM_MESSAGE_MAX: usize = 150;
/// Seconds: 28 days.
const TIMEOUT_MAX: i64 = 2_419_200;
pub(crate) const MENTIONS_MAX: u32 = 50;

pub(crate) fn all(list: &Option<Vec<String>>) -> impl Iterator<Item = &str> {
    list.iter().flatten().map(String::as_str)
}

/// What a rule looks for: the fields of its trigger type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct TriggerMetadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    keyword_filter: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regex_patterns: Option<Vec<String>>,
    /// 1 profanity, 2 sexual content, 3 slurs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) presets: Option<Vec<u8>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_list: Option<Vec<String>>,
    /// 0 to 50 in one message; 50 if not given, as none at all is what few want.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mention_total_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mention_raid_protection_enabled: Option<bool>,
}

impl TriggerMetadata {
    /// With every field of the trigger, and without those of others.
    pub(crate) fn of_type(self, trigger: u8) -> Self {
        let none = Self::default();
        match trigger {
            KEYWORD | MEMBER_PROFILE => Self {
                keyword_filter: Some(self.keyword_filter.unwrap_or_default()),
                regex_patterns: Some(self.regex_patterns.unwrap_or_default()),
                allow_list: Some(self.allow_list.unwrap_or_default()),
                ..none
            },
            PRESET => Self {
                presets: Some(self.presets.unwrap_or_default()),
                allow_list: Some(self.allow_list.unwrap_or_default()),
                ..none
            },
            MENTION_SPAM => Self {
                mention_total_limit: Some(self.mention_total_limit.unwrap_or(MENTIONS_MAX)),
                mention_raid_protection_enabled: Some(
                    self.mention_raid_protection_enabled.unwrap_or_default(),
                ),
                ..none
            },
            _ => none,
        }
    }

    /// What looks for the keywords and patterns.
    pub(crate) fn words(&self) -> Matcher {
        Matcher::words(
            all(&self.keyword_filter),
            all(&self.regex_patterns),
            all(&self.allow_list),
        )
    }

    fn check(&self, form: &mut FormErrors) {
        let lists = [
            ("keyword_filter", &self.keyword_filter, KEYWORDS_MAX),
            ("allow_list", &self.allow_list, PRESET_ALLOWED_MAX),
        ];
        for (name, list, max) in lists {
            check_list(form, name, list.as_deref(), max, KEYWORD_LENGTH_MAX);
        }
        let patterns = self.regex_patterns.as_deref();
        check_list(
            form,
            "regex_patterns",
            patterns,
            PATTERNS_MAX,
            PATTERN_LENGTH_MAX,
        );
        for (index, pattern) in patterns.unwrap_or_default().iter().enumerate() {
            if pattern.chars().count() <= PATTERN_LENGTH_MAX
                && matcher::compile_pattern(pattern).is_none()
            {
                let message = "The pattern is none, or too big.";
                let fault = Fault::Other("AUTO_MODERATION_INVALID_REGEX", message.into());
                form.add(format!("trigger_metadata.regex_patterns.{index}"), fault);
            }
        }
        if let Some(presets) = &self.presets
            && presets.iter().any(|preset| !(1..=3).contains(preset))
        {
            form.add("trigger_metadata.presets", Fault::Choices("(1, 2, 3)"));
        }
        if let Some(limit) = self.mention_total_limit {
            let path = "trigger_metadata.mention_total_limit";
            form.range(path, i64::from(limit), 0..=i64::from(MENTIONS_MAX));
        }
    }
}

fn check_list(
    form: &mut FormErrors,
    name: &str,
    list: Option<&[String]>,
    count_max: usize,
    length_max: usize,
) {
    let path = format!("trigger_metadata.{name}");
    let list = list.unwrap_or_default();
    if list.len() > count_max {
        form.add(
            path,
            Fault::BadLength {
                min: 0,
                max: count_max,
            },
        );
        return;
    }
    for (index, text) in list.iter().enumerate() {
        check_text(form, &format!("{path}.{index}"), text, 1..=length_max);
    }
}

/// Of text that is kept as it is, with the space around it: Postgres takes no NUL.
fn check_text(form: &mut FormErrors, path: &str, text: &str, allowed: RangeInclusive<usize>) {
    form.whole_length(path, text, allowed);
    if text.contains('\0') {
        form.add(path, Fault::NotMatching);
    }
}

/// What a rule does when it finds something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Action {
    /// 1 block the message, 2 send an alert, 3 time out, 4 block interaction.
    #[serde(rename = "type")]
    pub(crate) kind: u8,
    #[serde(default, deserialize_with = "crate::extract::null_is_default")]
    pub(crate) metadata: ActionMetadata,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ActionMetadata {
    /// Where the alert goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channel_id: Option<Id<Channel>>,
    /// Of the timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) duration_seconds: Option<i64>,
    /// What the author of a blocked message is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_message: Option<String>,
}

/// A rule as it is stored, answered and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Rule {
    pub(crate) id: Id<RuleId>,
    pub(crate) guild_id: Id<Guild>,
    pub(crate) creator_id: Id<User>,
    pub(crate) name: String,
    /// 1 a message is sent, 2 a member joins or changes.
    pub(crate) event_type: u8,
    /// 1 keyword, 3 spam, 4 keyword preset, 5 mention spam, 6 member profile.
    pub(crate) trigger_type: u8,
    pub(crate) trigger_metadata: TriggerMetadata,
    pub(crate) actions: Vec<Action>,
    pub(crate) enabled: bool,
    pub(crate) exempt_roles: Vec<Id<Role>>,
    pub(crate) exempt_channels: Vec<Id<Channel>>,
}

impl Rule {
    pub(crate) fn id(&self) -> Id<RuleId> {
        self.id
    }
}

struct Row {
    rule_id: i64,
    guild_id: i64,
    creator_id: i64,
    name: String,
    event_type: i16,
    trigger_type: i16,
    enabled: bool,
    trigger_metadata: Jsonb<TriggerMetadata>,
    actions: Jsonb<Vec<Action>>,
    exempt_roles: Vec<i64>,
    exempt_channels: Vec<i64>,
}

impl From<Row> for Rule {
    fn from(row: Row) -> Self {
        Self {
            id: Id::from_db(row.rule_id),
            guild_id: Id::from_db(row.guild_id),
            creator_id: Id::from_db(row.creator_id),
            name: row.name,
            event_type: row.event_type as u8,
            trigger_type: row.trigger_type as u8,
            trigger_metadata: row.trigger_metadata.0,
            actions: row.actions.0,
            enabled: row.enabled,
            exempt_roles: ids_from_db(row.exempt_roles),
            exempt_channels: ids_from_db(row.exempt_channels),
        }
    }
}

/// The rules of a guild, oldest first.
pub(crate) async fn rules(db: impl PgExecutor<'_>, guild: Id<Guild>) -> Result<Vec<Rule>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select rule_id, guild_id, creator_id, name, event_type, trigger_type, enabled,
                  trigger_metadata as "trigger_metadata: Jsonb<TriggerMetadata>",
                  actions as "actions: Jsonb<Vec<Action>>", exempt_roles, exempt_channels
           from automod_rule where guild_id = $1 order by rule_id"#,
        guild.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Rule::from).collect())
}

/// Those who may manage rules and have one of `intents`.
pub(crate) fn visibility(intents: Intents) -> Visibility {
    let scope = Scope::Permissions {
        any_of: Permissions::MANAGE_GUILD,
        channel: None,
    };
    Visibility::of(scope, intents)
}

/// What a request says about a rule; absent fields stay as they are.
#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(crate) struct RuleFields {
    #[schema(min_length = 1, max_length = 100)]
    pub(crate) name: Option<String>,
    pub(crate) event_type: Option<u8>,
    pub(crate) trigger_type: Option<u8>,
    pub(crate) trigger_metadata: Option<TriggerMetadata>,
    #[schema(max_items = 5)]
    pub(crate) actions: Option<Vec<Action>>,
    #[serde(deserialize_with = "present")]
    pub(crate) enabled: Option<Option<bool>>,
    /// Null: none.
    #[serde(deserialize_with = "present")]
    #[schema(max_items = 20)]
    pub(crate) exempt_roles: Option<Option<Vec<Id<Role>>>>,
    /// Null: none.
    #[serde(deserialize_with = "present")]
    #[schema(max_items = 50)]
    pub(crate) exempt_channels: Option<Option<Vec<Id<Channel>>>>,
}

impl RuleFields {
    pub(crate) fn check_fields(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            form.length("name", name, 1..=100);
        }
        if self.event_type.is_some_and(|kind| !(1..=2).contains(&kind)) {
            form.add("event_type", Fault::Choices("(1, 2)"));
        }
        if self
            .trigger_type
            .is_some_and(|kind| !TRIGGERS.contains(&kind))
        {
            form.add("trigger_type", Fault::Choices("(1, 3, 4, 5, 6)"));
        }
        if let Some(metadata) = &self.trigger_metadata {
            metadata.check(form);
        }
        let roles = self.exempt_roles.as_ref().and_then(Option::as_ref);
        let channels = self.exempt_channels.as_ref().and_then(Option::as_ref);
        for (path, count, max) in [
            ("exempt_roles", roles.map(Vec::len), EXEMPT_ROLES_MAX),
            (
                "exempt_channels",
                channels.map(Vec::len),
                EXEMPT_CHANNELS_MAX,
            ),
        ] {
            if count.is_some_and(|count| count > max) {
                form.add(path, Fault::BadLength { min: 0, max });
            }
        }
        let Some(actions) = &self.actions else { return };
        if !(1..=ACTIONS_MAX).contains(&actions.len()) {
            let (min, max) = (1, ACTIONS_MAX);
            form.add("actions", Fault::BadLength { min, max });
        }
        for (index, action) in actions.iter().enumerate() {
            let at = |field: &str| format!("actions.{index}.{field}");
            let metadata = &action.metadata;
            if let Some(message) = &metadata.custom_message {
                let path = at("metadata.custom_message");
                check_text(form, &path, message, 0..=CUSTOM_MESSAGE_MAX);
            }
            match action.kind {
                SEND_ALERT => {
                    form.required(&at("metadata.channel_id"), &metadata.channel_id);
                }
                TIMEOUT => {
                    let path = at("metadata.duration_seconds");
                    if let Some(&seconds) = form.required(&path, &metadata.duration_seconds) {
                        form.range(&path, seconds, 0..=TIMEOUT_MAX);
                    }
                }
                BLOCK_MESSAGE | BLOCK_INTERACTION => {}
                _ => form.add(at("type"), Fault::Choices("(1, 2, 3, 4)")),
            }
        }
    }
}
