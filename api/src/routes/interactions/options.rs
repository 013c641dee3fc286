//! Values of a command's options, and the objects they name.

use std::collections::BTreeMap;

use guildhall_shared::{
    Id, Permissions,
    id::marker::{Any, Application},
    model::CommandOption,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{id_of, message};
use crate::{
    access::{self, Place},
    auth::CurrentUser,
    error::Result,
    form::{Fault, FormErrors},
    media::Media,
    routes::messages,
};

const OPTIONS_MAX: usize = 25;
const TEXT_LENGTH_MAX: usize = 6000;

/// An option with its value, or a subcommand with options.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct OptionInput {
    #[serde(rename = "type")]
    #[schema(required)]
    pub(super) kind: Option<u8>,
    #[schema(required)]
    pub(super) name: Option<String>,
    pub(super) value: Option<Value>,
    #[serde(deserialize_with = "crate::extract::null_is_default")]
    #[schema(no_recursion)]
    pub(super) options: Vec<OptionInput>,
    pub(super) focused: Option<bool>,
}

/// What can be said without knowing the command.
pub(super) fn check_shape(form: &mut FormErrors, options: &[OptionInput]) {
    shape(form, "data.options", options, 0);
}

fn shape(form: &mut FormErrors, path: &str, options: &[OptionInput], depth: usize) {
    if options.len() > OPTIONS_MAX {
        let (min, max) = (0, OPTIONS_MAX);
        form.add(path, Fault::BadLength { min, max });
        return;
    }
    for (index, option) in options.iter().enumerate() {
        form.required(&format!("{path}.{index}.name"), &option.name);
        if depth < 2 {
            let path = format!("{path}.{index}.options");
            shape(form, &path, &option.options, depth + 1);
        }
    }
}

/// Options as the user gave them.
pub(super) struct Given<'a> {
    pub(super) options: &'a [OptionInput],
    /// Choices are asked for: what is required may still be missing.
    pub(super) is_partial: bool,
}

/// Options as the application gets them.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) options: Vec<Value>,
    /// The type of the option that waits for choices.
    pub(super) focused: Option<u8>,
    /// Names of the subcommand and its group.
    path: Vec<String>,
}

impl Written {
    /// The command's name with those of group and subcommand.
    pub(super) fn full_name(&self, command: &str) -> String {
        let names = std::iter::once(command).chain(self.path.iter().map(String::as_str));
        names.collect::<Vec<_>>().join(" ")
    }
}

impl Given<'_> {
    pub(super) fn check(
        &self,
        known: &[CommandOption],
        form: &mut FormErrors,
        resolved: &mut Resolved,
    ) -> Written {
        let mut written = Written::default();
        let options = self.list(
            "data.options",
            known,
            self.options,
            form,
            resolved,
            &mut written,
        );
        written.options = options;
        written
    }

    fn list(
        &self,
        path: &str,
        known: &[CommandOption],
        given: &[OptionInput],
        form: &mut FormErrors,
        resolved: &mut Resolved,
        written: &mut Written,
    ) -> Vec<Value> {
        let mut list = Vec::new();
        let is_nested = known
            .iter()
            .any(|option| option.kind <= CommandOption::GROUP);
        if is_nested && given.len() != 1 {
            form.add(path, Fault::Required);
            return list;
        }
        for (index, option) in given.iter().enumerate() {
            let path = format!("{path}.{index}");
            let name = option.name.as_deref().unwrap_or_default();
            let found = known.iter().find(|known| known.name == name);
            let is_double = given[..index].iter().any(|other| other.name == option.name);
            let Some(found) = found.filter(|_| !is_double) else {
                form.add(
                    format!("{path}.name"),
                    Fault::NotEnum(name.chars().take(100).collect()),
                );
                continue;
            };
            if option.kind.is_some_and(|kind| kind != found.kind) {
                let kind = option.kind.unwrap_or_default();
                form.add(format!("{path}.type"), Fault::NotEnum(kind.to_string()));
                continue;
            }
            let mut value = json!({ "name": found.name, "type": found.kind });
            if found.kind <= CommandOption::GROUP {
                written.path.push(found.name.clone());
                let path = format!("{path}.options");
                let inner = self.list(
                    &path,
                    &found.options,
                    &option.options,
                    form,
                    resolved,
                    written,
                );
                value["options"] = Value::Array(inner);
                list.push(value);
                continue;
            }
            let is_focused = self.is_partial && option.focused == Some(true);
            if is_focused {
                if found.autocomplete != Some(true) || written.focused.is_some() {
                    form.add(format!("{path}.focused"), Fault::Choices("(False,)"));
                }
                written.focused = Some(found.kind);
                value["focused"] = json!(true);
            }
            let value_path = format!("{path}.value");
            let Some(text) = form.required(&value_path, &option.value) else {
                continue;
            };
            // What is being typed is text, whatever it will become.
            value["value"] = match is_focused {
                true => match text {
                    Value::String(text) => {
                        json!(text.chars().take(TEXT_LENGTH_MAX).collect::<String>())
                    }
                    other => json!(other.to_string()),
                },
                false => checked(form, &value_path, found, text, resolved),
            };
            list.push(value);
        }
        if !self.is_partial {
            for missing in known.iter().filter(|option| option.required == Some(true)) {
                if given
                    .iter()
                    .all(|option| option.name.as_ref() != Some(&missing.name))
                {
                    form.add(path, Fault::Required);
                }
            }
        }
        list
    }
}

/// A value as its option wants it; what does not fit goes to `form`.
fn checked(
    form: &mut FormErrors,
    path: &str,
    option: &CommandOption,
    value: &Value,
    resolved: &mut Resolved,
) -> Value {
    let shown = || value.to_string().chars().take(100).collect::<String>();
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite()),
        _ => None,
    };
    let is_choice = |value: &Value| {
        option.choices.is_empty()
            || option.choices.iter().any(|choice| match value.as_f64() {
                Some(number) => choice.value.as_f64() == Some(number),
                None => choice.value == *value,
            })
    };
    let fitting = match option.kind {
        CommandOption::STRING => match value {
            Value::String(text) => {
                let min = option.min_length.map_or(0, |min| min as usize);
                let max = option
                    .max_length
                    .map_or(TEXT_LENGTH_MAX, |max| max as usize);
                if !(min..=max).contains(&text.chars().count()) {
                    form.add(path, Fault::BadLength { min, max });
                }
                json!(text)
            }
            _ => {
                form.add(path, Fault::NotString);
                return Value::Null;
            }
        },
        CommandOption::INTEGER | CommandOption::NUMBER => {
            let is_integer = option.kind == CommandOption::INTEGER;
            let found = number(value).filter(|number| {
                number.abs() <= 9_007_199_254_740_991.0 && (!is_integer || number.fract() == 0.0)
            });
            let Some(found) = found else {
                let fault = match is_integer {
                    true => Fault::NotInt(shown()),
                    false => Fault::NotFloat(shown()),
                };
                form.add(path, fault);
                return Value::Null;
            };
            check_range(form, path, option, found);
            match is_integer {
                true => json!(found as i64),
                false => json!(found),
            }
        }
        CommandOption::BOOLEAN => {
            if !value.is_boolean() {
                form.add(path, Fault::NotBool);
            }
            return value.clone();
        }
        CommandOption::ATTACHMENT => return resolved.want_file(form, path, value),
        kind => {
            let Some(id) = id_of(value) else {
                form.add(path, Fault::NotSnowflake(shown()));
                return Value::Null;
            };
            match kind {
                CommandOption::USER => resolved.want_user(id, path),
                CommandOption::ROLE => resolved.want_role(id, path),
                CommandOption::CHANNEL => resolved.want_channel(id, path, &option.channel_types),
                _ => resolved.want_mentionable(id, path),
            }
            return json!(id);
        }
    };
    if !is_choice(&fitting) {
        form.add(path, Fault::NotEnum(shown()));
    }
    fitting
}

fn check_range(form: &mut FormErrors, path: &str, option: &CommandOption, number: f64) {
    let what = match option.kind {
        CommandOption::INTEGER => "int",
        _ => "float",
    };
    let bound = |bound: &Option<Value>| bound.as_ref().and_then(Value::as_f64);
    if let Some(min) = bound(&option.min_value).filter(|min| number < *min) {
        let message = format!("{what} value should be greater than or equal to {min}.");
        form.add(path, Fault::Other("NUMBER_TYPE_MIN", message.into()));
    }
    if let Some(max) = bound(&option.max_value).filter(|max| number > *max) {
        let message = format!("{what} value should be less than or equal to {max}.");
        form.add(path, Fault::Other("NUMBER_TYPE_MAX", message.into()));
    }
}

/// Objects that are named by id, each with the place in the request that names it.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    users: BTreeMap<Id<Any>, String>,
    roles: BTreeMap<Id<Any>, String>,
    /// A user or a role.
    mentionables: BTreeMap<Id<Any>, String>,
    /// With the kinds that are allowed; none: all.
    channels: BTreeMap<Id<Any>, (String, Vec<u8>)>,
    messages: BTreeMap<Id<Any>, String>,
    /// Files of the request, by their number.
    files: BTreeMap<u64, Value>,
    /// Those that are named.
    attachments: Map<String, Value>,
}

impl Resolved {
    /// With the files that the request brings.
    pub(super) fn with_files(files: BTreeMap<u64, Value>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }

    /// The id of the file that a value names by its number; null with a fault if there is none.
    pub(super) fn want_file(&mut self, form: &mut FormErrors, path: &str, value: &Value) -> Value {
        let number = match value {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        let Some(file) = number.and_then(|number: u64| self.files.get(&number)) else {
            let message = "The attachment's file was not found";
            form.add(path, Fault::Other("ATTACHMENT_NOT_FOUND", message.into()));
            return Value::Null;
        };
        let id = file["id"].clone();
        let mut file = file.clone();
        file["ephemeral"] = json!(true);
        let key = id.as_str().unwrap_or_default();
        self.attachments.insert(key.to_owned(), file);
        id
    }

    pub(super) fn want_user(&mut self, id: Id<Any>, path: &str) {
        self.users.insert(id, path.to_owned());
    }

    pub(super) fn want_role(&mut self, id: Id<Any>, path: &str) {
        self.roles.insert(id, path.to_owned());
    }

    pub(super) fn want_mentionable(&mut self, id: Id<Any>, path: &str) {
        self.mentionables.insert(id, path.to_owned());
    }

    pub(super) fn want_channel(&mut self, id: Id<Any>, path: &str, kinds: &[u8]) {
        self.channels.insert(id, (path.to_owned(), kinds.to_vec()));
    }

    pub(super) fn want_message(&mut self, id: Id<Any>, path: &str) {
        self.messages.insert(id, path.to_owned());
    }

    /// `resolved` of the interaction. Errors: 50035 for what is not there or cannot be seen.
    pub(super) async fn read(
        self,
        media: &Media,
        db: &mut PgConnection,
        caller: &CurrentUser,
        application: Id<Application>,
        place: &Place,
    ) -> Result<Value> {
        let mut form = FormErrors::new();
        let mut found: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        let mut put = |kind: &'static str, id: Id<Any>, value: Value| {
            found.entry(kind).or_default().insert(id.to_string(), value);
        };
        let guild = place.guild();
        let role = |id: Id<Any>| guild.and_then(|guild| guild.role(id.cast()));
        let mut wanted_roles = self.roles;
        let mut wanted_users = self.users;
        for (id, path) in self.mentionables {
            match role(id) {
                Some(_) => wanted_roles.insert(id, path),
                None => wanted_users.insert(id, path),
            };
        }
        let ids: Vec<i64> = wanted_users.keys().map(|id| id.to_db()).collect();
        let users = messages::load::users(&mut *db, &ids).await?;
        for (id, path) in wanted_users {
            let Some(user) = users.get(&id.cast()) else {
                form.add(path, unresolved("user"));
                continue;
            };
            put("users", id, serde_json::to_value(user)?);
            let Some(guild) = guild else { continue };
            if let Some(member) =
                guildhall_store::guild::member(&mut *db, guild.id, id.cast()).await?
            {
                let held = guild.base_of_member(id.cast(), &member);
                let mut value = serde_json::to_value(member)?;
                if let Value::Object(map) = &mut value {
                    for key in ["user", "deaf", "mute"] {
                        map.remove(key);
                    }
                    map.insert("permissions".to_owned(), json!(held));
                }
                put("members", id, value);
            }
        }
        if let Some(guild) = guild.filter(|_| !wanted_roles.is_empty()) {
            let roles = guildhall_store::guild::roles(&mut *db, guild.id).await?;
            for (id, path) in std::mem::take(&mut wanted_roles) {
                match roles.iter().find(|role| role.id == id.cast()) {
                    Some(role) => put("roles", id, serde_json::to_value(role)?),
                    None => form.add(path, unresolved("role")),
                }
            }
        }
        for path in wanted_roles.into_values() {
            form.add(path, unresolved("role"));
        }
        for (id, (path, kinds)) in self.channels {
            let seen = access::place(db, caller, id.cast(), Permissions::VIEW_CHANNEL).await;
            let seen = match seen {
                Ok(seen) if seen.guild_id() == place.guild_id() => seen,
                _ => {
                    form.add(path, unresolved("channel"));
                    continue;
                }
            };
            if !kinds.is_empty() && !kinds.contains(&seen.kind().0) {
                form.add(path, unresolved("channel"));
                continue;
            }
            let mut value = match &seen {
                Place::Channel(access) => serde_json::to_value(&access.channel)?,
                Place::Thread(access) => serde_json::to_value(&access.thread)?,
                // Libraries read no channel without a name.
                Place::Private(access) => json!({
                    "id": access.id,
                    "type": access.kind,
                    "name": access.name.as_deref().unwrap_or_default(),
                }),
            };
            value["permissions"] = json!(seen.permissions());
            put("channels", id, value);
        }
        for (id, path) in self.messages {
            let (user, bot) = (caller.id, application.cast());
            let shown = message::shown_to(media, db, user, bot, place.id(), id.cast()).await?;
            let may_read = place
                .permissions()
                .contains(Permissions::READ_MESSAGE_HISTORY);
            match shown.filter(|shown| may_read && !shown.is_ephemeral) {
                Some(shown) => put("messages", id, serde_json::to_value(&*shown.message)?),
                None => form.add(path, unresolved("message")),
            }
        }
        form.finish()?;
        if !self.attachments.is_empty() {
            found.insert("attachments", self.attachments);
        }
        Ok(json!(found))
    }
}

fn unresolved(what: &str) -> Fault {
    let message = format!("This {what} cannot be chosen here");
    Fault::Other("INTERACTION_TARGET_UNKNOWN", message.into())
}
