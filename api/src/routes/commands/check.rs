//! What a command may say. Spec: limits-and-errors › application command.

use std::{collections::BTreeMap, sync::LazyLock};

use guildhall_shared::model::{Command, CommandKind, CommandOption, Localizations};
use regex::Regex;
use serde_json::Value;

use super::input::{ChoiceInput, CommandInput, OptionInput};
use crate::{
    error::Result,
    form::{Fault, FormErrors},
    text::clean,
};

const NAME_MAX: usize = 32;
const DESCRIPTION_MAX: usize = 100;
const OPTIONS_MAX: usize = 25;
const CHOICES_MAX: usize = 25;
const CHOICE_LENGTH_MAX: usize = 100;
/// More than there are kinds; what is named twice is kept once.
const CHANNEL_TYPES_MAX: usize = 25;
const TEXT_LENGTH_MAX: i64 = 6000;
/// Characters of a command with all it holds, each text in its longest translation.
const WHOLE_MAX: usize = 8000;
/// Whole numbers that every client can hold.
const INTEGER_MAX: f64 = 9_007_199_254_740_991.0;

const LOCALES: [&str; 34] = [
    "ar", "bg", "cs", "da", "de", "el", "en-GB", "en-US", "es-419", "es-ES", "fi", "fr", "he",
    "hi", "hr", "hu", "id", "it", "ja", "ko", "lt", "nl", "no", "pl", "pt-BR", "ro", "ru", "sv-SE",
    "th", "tr", "uk", "vi", "zh-CN", "zh-TW",
];

static NAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[-_'\p{L}\p{N}\p{sc=Deva}\p{sc=Thai}]{1,32}$").expect("the pattern is fixed")
});

/// A command that is to be made, at `prefix` of the body.
pub(super) fn new_command(
    form: &mut FormErrors,
    prefix: &str,
    input: &CommandInput,
    is_of_guild: bool,
) {
    let kind = input.kind();
    if !(1..=4).contains(&kind.0) || (is_of_guild && kind == CommandKind::ENTRY_POINT) {
        form.add(format!("{prefix}type"), Fault::Choices("(1, 2, 3, 4)"));
    }
    form.required(&format!("{prefix}name"), &input.name);
    if kind == CommandKind::CHAT_INPUT {
        form.required(&format!("{prefix}description"), &input.description);
    }
    fields(form, prefix, input, kind);
}

/// What is to change of a command.
pub(super) fn changes(form: &mut FormErrors, input: &CommandInput, kind: CommandKind) {
    fields(form, "", input, kind);
}

fn fields(form: &mut FormErrors, prefix: &str, input: &CommandInput, kind: CommandKind) {
    let is_chat = kind == CommandKind::CHAT_INPUT;
    if let Some(name) = &input.name {
        check_name(form, &format!("{prefix}name"), name, is_chat);
    }
    if let Some(Some(all)) = &input.name_localizations {
        each_localization(
            form,
            &format!("{prefix}name_localizations"),
            all,
            |form, path, text| {
                check_name(form, path, text, is_chat);
            },
        );
    }
    if let Some(description) = &input.description {
        let path = format!("{prefix}description");
        match kind {
            CommandKind::CHAT_INPUT => form.length(&path, description, 1..=DESCRIPTION_MAX),
            CommandKind::ENTRY_POINT => form.length(&path, description, 0..=DESCRIPTION_MAX),
            _ if !description.is_empty() => {
                let message = "Context menu commands cannot have description";
                let code = "APPLICATION_COMMAND_CONTEXT_MENU_DESCRIPTION_NOT_ALLOWED";
                form.add(path, Fault::Other(code, message.into()));
            }
            _ => {}
        }
    }
    if let Some(Some(all)) = &input.description_localizations {
        let path = format!("{prefix}description_localizations");
        each_localization(form, &path, all, |form, path, text| {
            form.length(path, text, 1..=DESCRIPTION_MAX);
        });
    }
    if let Some(Some(options)) = &input.options {
        let path = format!("{prefix}options");
        if !is_chat && !options.is_empty() {
            let message = "Context menu commands cannot have options";
            let code = "APPLICATION_COMMAND_CONTEXT_MENU_OPTIONS_NOT_ALLOWED";
            form.add(path, Fault::Other(code, message.into()));
        } else {
            check_options(form, &path, options, Depth::Command);
        }
    }
    if let Some(Some(contexts)) = &input.contexts {
        check_set(form, &format!("{prefix}contexts"), contexts, 2);
    }
    if let Some(Some(types)) = &input.integration_types {
        check_set(form, &format!("{prefix}integration_types"), types, 1);
    }
    if let Some(Some(handler)) = input.handler
        && !(1..=2).contains(&handler)
    {
        form.add(format!("{prefix}handler"), Fault::Choices("(1, 2)"));
    }
}

/// One or more different numbers from 0.
fn check_set(form: &mut FormErrors, path: &str, values: &[u8], max: u8) {
    if values.is_empty() || values.len() > usize::from(max) + 1 {
        let max = usize::from(max) + 1;
        form.add(path, Fault::BadLength { min: 1, max });
        return;
    }
    for (index, value) in values.iter().enumerate() {
        let path = format!("{path}.{index}");
        if *value > max {
            form.add(path, Fault::NotEnum(value.to_string()));
        } else if values[..index].contains(value) {
            let message = "The set already contains this value";
            let code = "SET_TYPE_ALREADY_CONTAINS_VALUE";
            form.add(path, Fault::Other(code, message.into()));
        }
    }
}

/// Chat input is called by typing: letters, digits and a few marks, all lower-case.
fn check_name(form: &mut FormErrors, path: &str, name: &str, is_chat: bool) {
    form.length(path, name, 1..=NAME_MAX);
    let name = name.trim();
    let is_typed = NAME.is_match(name) && name.to_lowercase() == name;
    if is_chat && !is_typed && !name.is_empty() {
        let message = "Command name is invalid";
        let code = "APPLICATION_COMMAND_INVALID_NAME";
        form.add(path, Fault::Other(code, message.into()));
    }
}

fn each_localization(
    form: &mut FormErrors,
    path: &str,
    all: &BTreeMap<String, Option<String>>,
    check: impl Fn(&mut FormErrors, &str, &str),
) {
    for (locale, text) in all.iter().take(LOCALES.len() + 1) {
        if !LOCALES.contains(&locale.as_str()) {
            form.add(path, Fault::NotEnum(locale.chars().take(100).collect()));
        } else if let Some(text) = text {
            check(form, &format!("{path}.{locale}"), text);
        }
    }
}

/// Where options stand.
#[derive(Clone, Copy, PartialEq)]
enum Depth {
    Command,
    Group,
    Subcommand,
}

fn check_options(form: &mut FormErrors, path: &str, options: &[OptionInput], depth: Depth) {
    if options.len() > OPTIONS_MAX {
        let (min, max) = (0, OPTIONS_MAX);
        form.add(path, Fault::BadLength { min, max });
        return;
    }
    let is_nested = |option: &OptionInput| option.kind() <= CommandOption::GROUP;
    let mut optional_seen = false;
    for (index, option) in options.iter().enumerate() {
        let path = format!("{path}.{index}");
        check_option(form, &path, option);
        let kind = option.kind();
        let is_allowed = match depth {
            Depth::Command => is_nested(option) == options.first().is_some_and(is_nested),
            Depth::Group => kind == CommandOption::SUBCOMMAND,
            Depth::Subcommand => kind > CommandOption::GROUP,
        };
        if !is_allowed && option.kind.is_some() {
            let message = "Sub-command and sub-command group option types are mutually exclusive \
                           to all other types";
            let code = "APPLICATION_COMMAND_OPTIONS_TYPE_INVALID";
            form.add(format!("{path}.type"), Fault::Other(code, message.into()));
        } else if kind == CommandOption::GROUP {
            check_options(
                form,
                &format!("{path}.options"),
                &option.options,
                Depth::Group,
            );
        } else if kind == CommandOption::SUBCOMMAND {
            check_options(
                form,
                &format!("{path}.options"),
                &option.options,
                Depth::Subcommand,
            );
        }
        let is_required = option.required == Some(true);
        if is_required && optional_seen {
            let message = "Required options must be placed before non-required options";
            let code = "APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID";
            form.add(path.clone(), Fault::Other(code, message.into()));
        }
        optional_seen |= !is_required;
        if options[..index]
            .iter()
            .any(|other| is_same(&other.name, &option.name))
        {
            let message = "Option name already exists";
            let code = "APPLICATION_COMMAND_OPTIONS_NAME_ALREADY_EXISTS";
            form.add(format!("{path}.name"), Fault::Other(code, message.into()));
        }
    }
}

/// Whether two names are stored as one.
fn is_same(one: &Option<String>, other: &Option<String>) -> bool {
    one.as_deref().map(clean) == other.as_deref().map(clean)
}

fn check_option(form: &mut FormErrors, path: &str, option: &OptionInput) {
    let kind = option.kind();
    if form
        .required(&format!("{path}.type"), &option.kind)
        .is_some()
        && !(1..=11).contains(&kind)
    {
        form.add(format!("{path}.type"), Fault::NotEnum(kind.to_string()));
    }
    if let Some(name) = form.required(&format!("{path}.name"), &option.name) {
        check_name(form, &format!("{path}.name"), name, true);
    }
    if let Some(text) = form.required(&format!("{path}.description"), &option.description) {
        form.length(&format!("{path}.description"), text, 1..=DESCRIPTION_MAX);
    }
    if let Some(all) = &option.name_localizations {
        each_localization(
            form,
            &format!("{path}.name_localizations"),
            all,
            |form, path, text| {
                check_name(form, path, text, true);
            },
        );
    }
    if let Some(all) = &option.description_localizations {
        let path = format!("{path}.description_localizations");
        each_localization(form, &path, all, |form, path, text| {
            form.length(path, text, 1..=DESCRIPTION_MAX);
        });
    }
    let is_number = matches!(kind, CommandOption::INTEGER | CommandOption::NUMBER);
    let is_text = kind == CommandOption::STRING;
    let is_channel = kind == CommandOption::CHANNEL;
    let is_nested = kind <= CommandOption::GROUP;
    let misplaced = [
        (
            "choices",
            !option.choices.is_empty() && !is_number && !is_text,
        ),
        (
            "autocomplete",
            option.autocomplete == Some(true) && !is_number && !is_text,
        ),
        (
            "channel_types",
            !option.channel_types.is_empty() && !is_channel,
        ),
        ("min_value", option.min_value.is_some() && !is_number),
        ("max_value", option.max_value.is_some() && !is_number),
        ("min_length", option.min_length.is_some() && !is_text),
        ("max_length", option.max_length.is_some() && !is_text),
        ("options", !option.options.is_empty() && !is_nested),
    ];
    for (field, is_misplaced) in misplaced {
        if is_misplaced {
            let message = "This field is not allowed for this option type";
            let code = "APPLICATION_COMMAND_OPTIONS_FIELD_INVALID";
            form.add(
                format!("{path}.{field}"),
                Fault::Other(code, message.into()),
            );
        }
    }
    if option.autocomplete == Some(true) && !option.choices.is_empty() {
        let message = "Choices cannot be given together with autocomplete";
        let fault = Fault::Other("BASE_TYPE_CONFLICT", message.into());
        form.add(format!("{path}.autocomplete"), fault);
    }
    if let Some(length) = option.min_length {
        form.range(
            &format!("{path}.min_length"),
            length.into(),
            0..=TEXT_LENGTH_MAX,
        );
    }
    if let Some(length) = option.max_length {
        form.range(
            &format!("{path}.max_length"),
            length.into(),
            1..=TEXT_LENGTH_MAX,
        );
    }
    for (field, value) in [
        ("min_value", option.min_value),
        ("max_value", option.max_value),
    ] {
        let Some(value) = value else { continue };
        let is_whole = kind != CommandOption::INTEGER || value.fract() == 0.0;
        if !is_whole || value.abs() > INTEGER_MAX {
            form.add(format!("{path}.{field}"), Fault::NotInt(value.to_string()));
        }
    }
    let is_reversed = option
        .min_value
        .zip(option.max_value)
        .is_some_and(|(min, max)| min > max)
        || option
            .min_length
            .zip(option.max_length)
            .is_some_and(|(min, max)| min > max);
    if is_reversed {
        let message = "The minimum is above the maximum";
        let fault = Fault::Other("BASE_TYPE_CONFLICT", message.into());
        form.add(path, fault);
    }
    if option.channel_types.len() > CHANNEL_TYPES_MAX {
        let (min, max) = (0, CHANNEL_TYPES_MAX);
        form.add(
            format!("{path}.channel_types"),
            Fault::BadLength { min, max },
        );
    }
    let channel_types = option.channel_types.iter().take(CHANNEL_TYPES_MAX);
    for (index, kind) in channel_types.enumerate() {
        if !matches!(kind, 0..=5 | 10..=16) {
            let path = format!("{path}.channel_types.{index}");
            form.add(path, Fault::NotEnum(kind.to_string()));
        }
    }
    check_choices(form, &format!("{path}.choices"), &option.choices, kind);
}

fn check_choices(form: &mut FormErrors, path: &str, choices: &[ChoiceInput], kind: u8) {
    if choices.len() > CHOICES_MAX {
        let (min, max) = (0, CHOICES_MAX);
        form.add(path, Fault::BadLength { min, max });
        return;
    }
    for (index, choice) in choices.iter().enumerate() {
        let path = format!("{path}.{index}");
        if let Some(name) = form.required(&format!("{path}.name"), &choice.name) {
            form.length(&format!("{path}.name"), name, 1..=CHOICE_LENGTH_MAX);
        }
        if let Some(all) = &choice.name_localizations {
            check_choice_names(form, &format!("{path}.name_localizations"), all);
        }
        if choices[..index]
            .iter()
            .any(|other| is_same(&other.name, &choice.name))
        {
            let message = "Choice name already exists";
            let code = "APPLICATION_COMMAND_OPTIONS_CHOICE_NAME_ALREADY_EXISTS";
            form.add(format!("{path}.name"), Fault::Other(code, message.into()));
        }
        let value_path = format!("{path}.value");
        if let Some(value) = form.required(&value_path, &choice.value) {
            check_value(form, &value_path, value, kind);
        }
    }
}

/// A choice's name in other languages.
pub(crate) fn check_choice_names(
    form: &mut FormErrors,
    path: &str,
    all: &BTreeMap<String, Option<String>>,
) {
    each_localization(form, path, all, |form, path, text| {
        form.whole_length(path, text, 1..=CHOICE_LENGTH_MAX);
    });
}

/// A choice's value has the type of its option.
pub(crate) fn check_value(form: &mut FormErrors, path: &str, value: &Value, kind: u8) {
    let shown = || value.to_string().chars().take(100).collect();
    match (kind, value) {
        (CommandOption::STRING, Value::String(text)) => {
            form.whole_length(path, text, 1..=CHOICE_LENGTH_MAX);
        }
        (CommandOption::STRING, _) => form.add(path, Fault::NotString),
        (CommandOption::INTEGER, Value::Number(number))
            if number
                .as_f64()
                .is_some_and(|n| n.fract() == 0.0 && n.abs() <= INTEGER_MAX) => {}
        (CommandOption::INTEGER, _) => form.add(path, Fault::NotInt(shown())),
        (CommandOption::NUMBER, Value::Number(number))
            if number.as_f64().is_some_and(|n| n.abs() <= INTEGER_MAX) => {}
        (CommandOption::NUMBER, _) => form.add(path, Fault::NotFloat(shown())),
        _ => {}
    }
}

/// Errors: 50035 for more text than a command may hold.
pub(super) fn whole(command: &Command) -> Result<()> {
    let body = &command.body;
    let count = longest(&command.name, &body.name_localizations)
        + longest(&body.description, &body.description_localizations)
        + body.options.iter().map(size).sum::<usize>();
    if count <= WHOLE_MAX {
        return Ok(());
    }
    let message = format!("Command exceeds maximum size ({WHOLE_MAX})");
    let fault = Fault::Other("APPLICATION_COMMAND_TOO_LARGE", message.into());
    Err(FormErrors::one("", fault))
}

fn size(option: &CommandOption) -> usize {
    let choices = option.choices.iter().map(|choice| {
        let value = choice.value.as_str().map_or(0, |text| text.chars().count());
        longest(&choice.name, &choice.name_localizations) + value
    });
    longest(&option.name, &option.name_localizations)
        + longest(&option.description, &option.description_localizations)
        + choices.sum::<usize>()
        + option.options.iter().map(size).sum::<usize>()
}

fn longest(text: &str, all: &Option<Localizations>) -> usize {
    let all = all.iter().flat_map(BTreeMap::values).map(String::as_str);
    let lengths = all.chain([text]).map(|text| text.chars().count());
    lengths.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_that_are_stored_as_one_are_one() {
        let text = |name: &str| json!({ "type": 3, "name": name, "description": "x" });
        let choice = |name: &str| json!({ "name": name, "value": "x" });
        let mut choosing = text("b");
        choosing["choices"] = json!([choice("one"), choice(" one")]);
        let options = json!([text("a"), text("a "), choosing]);
        let options: Vec<OptionInput> = serde_json::from_value(options).unwrap();
        let mut form = FormErrors::new();
        check_options(&mut form, "options", &options, Depth::Command);
        let code = |pointer: &str| form.to_json().pointer(pointer).cloned();
        assert_eq!(
            code("/options/1/name/_errors/0/code"),
            Some(json!("APPLICATION_COMMAND_OPTIONS_NAME_ALREADY_EXISTS"))
        );
        assert_eq!(
            code("/options/2/choices/1/name/_errors/0/code"),
            Some(json!(
                "APPLICATION_COMMAND_OPTIONS_CHOICE_NAME_ALREADY_EXISTS"
            ))
        );
    }

    #[test]
    fn chat_input_is_named_in_lower_case() {
        let is_good = |name: &str| {
            let mut form = FormErrors::new();
            check_name(&mut form, "name", name, true);
            form.is_empty()
        };
        for good in ["ping", "größe", "ピング", "a-b_c'd", "नमस्ते", "2"] {
            assert!(is_good(good), "{good}");
        }
        for bad in ["Ping", "a b", "", "a!", "x".repeat(33).as_str()] {
            assert!(!is_good(bad), "{bad}");
        }
    }
}
