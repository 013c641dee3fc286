//! Commands as requests write them.

use std::collections::BTreeMap;

use guildhall_shared::{
    Id, Permissions,
    id::marker,
    model::{CommandBody, CommandChoice, CommandKind, CommandOption, Localizations, present},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    extract::{Form, null_is_default},
    form::{Fault, FormErrors},
    text::clean,
};

/// Commands of one request: as many as there may be in one place.
const BULK_MAX: usize = 130;

/// Translations; null is none.
type LocalizationsInput = BTreeMap<String, Option<String>>;

/// A command, new or what is to change of one. What depends on its kind is checked by `check`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct CommandInput {
    pub(super) id: Option<Id<marker::Command>>,
    /// 1 chat input (default), 2 user, 3 message, 4 entry point.
    #[serde(rename = "type")]
    #[schema(minimum = 1, maximum = 4)]
    pub(super) kind: Option<u8>,
    #[schema(min_length = 1, max_length = 32)]
    pub(super) name: Option<String>,
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Localizations>)]
    pub(super) name_localizations: Option<Option<LocalizationsInput>>,
    #[schema(max_length = 100)]
    pub(super) description: Option<String>,
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Localizations>)]
    pub(super) description_localizations: Option<Option<LocalizationsInput>>,
    #[serde(deserialize_with = "present")]
    pub(super) options: Option<Option<Vec<OptionInput>>>,
    #[serde(deserialize_with = "present")]
    pub(super) default_member_permissions: Option<Option<Permissions>>,
    #[serde(deserialize_with = "present")]
    pub(super) dm_permission: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    pub(super) contexts: Option<Option<Vec<u8>>>,
    #[serde(deserialize_with = "present")]
    pub(super) integration_types: Option<Option<Vec<u8>>>,
    pub(super) nsfw: Option<bool>,
    #[serde(deserialize_with = "present")]
    pub(super) handler: Option<Option<u8>>,
}

impl Form for CommandInput {}

/// Commands that replace all others; null is none.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(transparent)]
pub(super) struct BulkInput(pub(super) Option<Vec<CommandInput>>);

impl Form for BulkInput {
    fn check(&self, form: &mut FormErrors) {
        if self.0.as_ref().is_some_and(|all| all.len() > BULK_MAX) {
            let (min, max) = (0, BULK_MAX);
            form.add("", Fault::BadLength { min, max });
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct OptionInput {
    #[serde(rename = "type")]
    #[schema(required, minimum = 1, maximum = 11)]
    pub(super) kind: Option<u8>,
    #[schema(required, min_length = 1, max_length = 32)]
    pub(super) name: Option<String>,
    #[schema(value_type = Option<Localizations>)]
    pub(super) name_localizations: Option<LocalizationsInput>,
    #[schema(required, min_length = 1, max_length = 100)]
    pub(super) description: Option<String>,
    #[schema(value_type = Option<Localizations>)]
    pub(super) description_localizations: Option<LocalizationsInput>,
    pub(super) required: Option<bool>,
    #[serde(deserialize_with = "null_is_default")]
    #[schema(max_items = 25)]
    pub(super) choices: Vec<ChoiceInput>,
    #[serde(deserialize_with = "null_is_default")]
    #[schema(no_recursion, max_items = 25)]
    pub(super) options: Vec<OptionInput>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) channel_types: Vec<u8>,
    pub(super) min_value: Option<f64>,
    pub(super) max_value: Option<f64>,
    pub(super) min_length: Option<u32>,
    pub(super) max_length: Option<u32>,
    pub(super) autocomplete: Option<bool>,
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ChoiceInput {
    #[schema(required, min_length = 1, max_length = 100)]
    pub(super) name: Option<String>,
    #[schema(value_type = Option<Localizations>)]
    pub(super) name_localizations: Option<LocalizationsInput>,
    #[schema(required)]
    pub(super) value: Option<Value>,
}

impl CommandInput {
    pub(super) fn kind(&self) -> CommandKind {
        self.kind.map_or(CommandKind::CHAT_INPUT, CommandKind)
    }

    pub(super) fn has_name(&self) -> bool {
        self.name.is_some()
    }

    /// As it is stored.
    pub(super) fn name(&self) -> String {
        clean(self.name.as_deref().unwrap_or_default())
    }

    /// What is given replaces what was there.
    pub(super) fn into_body(self, mut body: CommandBody, kind: CommandKind) -> CommandBody {
        if let Some(all) = self.name_localizations {
            body.name_localizations = localizations(all);
        }
        if let Some(description) = self.description {
            body.description = clean(&description);
        }
        if let Some(all) = self.description_localizations {
            body.description_localizations = localizations(all);
        }
        if let Some(options) = self.options {
            let options = options.unwrap_or_default().into_iter();
            body.options = options.map(OptionInput::into_option).collect();
        }
        if let Some(permissions) = self.default_member_permissions {
            body.default_member_permissions = permissions;
        }
        if let Some(permission) = self.dm_permission {
            body.dm_permission = permission;
        }
        if let Some(contexts) = self.contexts {
            body.contexts = contexts;
        }
        if let Some(types) = self.integration_types {
            body.integration_types = types.unwrap_or_default();
        }
        if body.integration_types.is_empty() {
            body.integration_types = vec![0];
        }
        if let Some(nsfw) = self.nsfw {
            body.nsfw = nsfw;
        }
        if let Some(handler) = self.handler {
            body.handler = handler;
        }
        if kind == CommandKind::ENTRY_POINT && body.handler.is_none() {
            body.handler = Some(1);
        }
        body
    }
}

impl OptionInput {
    pub(super) fn kind(&self) -> u8 {
        self.kind.unwrap_or_default()
    }

    fn into_option(self) -> CommandOption {
        let kind = self.kind();
        let is_integer = kind == CommandOption::INTEGER;
        let number = |value: f64| match is_integer {
            true => json!(value as i64),
            false => json!(value),
        };
        let mut channel_types: Vec<u8> = Vec::new();
        for kind in self.channel_types {
            if !channel_types.contains(&kind) {
                channel_types.push(kind);
            }
        }
        CommandOption {
            kind,
            name: clean(self.name.as_deref().unwrap_or_default()),
            name_localized: None,
            name_localizations: localizations(self.name_localizations),
            description: clean(self.description.as_deref().unwrap_or_default()),
            description_localized: None,
            description_localizations: localizations(self.description_localizations),
            required: self.required,
            choices: self
                .choices
                .into_iter()
                .map(|choice| CommandChoice {
                    name: clean(choice.name.as_deref().unwrap_or_default()),
                    name_localized: None,
                    name_localizations: localizations(choice.name_localizations),
                    value: match choice.value.unwrap_or_default() {
                        Value::Number(value) if is_integer => {
                            value.as_f64().map_or(Value::Null, number)
                        }
                        value => value,
                    },
                })
                .collect(),
            options: self.options.into_iter().map(Self::into_option).collect(),
            channel_types,
            min_value: self.min_value.map(number),
            max_value: self.max_value.map(number),
            min_length: self.min_length,
            max_length: self.max_length,
            autocomplete: self.autocomplete,
        }
    }
}

/// Without those that are null; none if none is left.
fn localizations(all: Option<LocalizationsInput>) -> Option<Localizations> {
    let kept: Localizations = all?
        .into_iter()
        .filter_map(|(locale, text)| Some((locale, clean(&text?))))
        .collect();
    (!kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_written_as_such() {
        let input = json!({
            "type": 4, "min_value": 1.0, "choices": [{ "name": "x", "value": 5.0 }],
        });
        let input: OptionInput = serde_json::from_value(input).unwrap();
        let option = input.into_option();
        assert_eq!(option.min_value, Some(json!(1)));
        assert_eq!(option.choices[0].value, json!(5));
    }
}
