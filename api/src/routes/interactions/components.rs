//! Using a component of a message: what may be chosen in it.

use serde_json::Value;

use super::{id_of, options::Resolved};
use crate::{
    error::Result,
    form::{Fault, FormErrors},
    routes::messages,
};

const BUTTON: u64 = 2;
pub(super) const STRING_SELECT: u64 = 3;
const USER_SELECT: u64 = 5;
const ROLE_SELECT: u64 = 6;
const MENTIONABLE_SELECT: u64 = 7;
const CHANNEL_SELECT: u64 = 8;

/// The component that was used.
pub(super) struct Used {
    pub(super) kind: u64,
    pub(super) id: Value,
    pub(super) is_select: bool,
}

/// Errors: 50035 for a component that the message does not have, and for values it does not offer.
pub(super) fn check_use(
    all: &[Value],
    custom_id: &str,
    kind: u8,
    values: &[String],
    resolved: &mut Resolved,
) -> Result<Used> {
    let found = messages::find_custom_id(all, custom_id);
    let usable = found
        .filter(|component| component["type"] == u64::from(kind) && component["disabled"] != true);
    let Some(component) = usable else {
        let message = "This component is not in the message";
        let fault = Fault::Other("COMPONENT_VALIDATION_FAILED", message.into());
        return Err(FormErrors::one("data.custom_id", fault));
    };
    let mut form = FormErrors::new();
    let kind = u64::from(kind);
    let is_select = kind != BUTTON;
    if is_select {
        check_values(&mut form, "data.values", component, values, resolved);
    }
    form.finish()?;
    Ok(Used {
        kind,
        id: component["id"].clone(),
        is_select,
    })
}

/// How many values there must and may be.
pub(super) fn bounds(select: &Value) -> (usize, usize) {
    let bound = |key: &str| select[key].as_u64().unwrap_or(1) as usize;
    (bound("min_values"), bound("max_values"))
}

/// Values chosen in a select, of a message or of a form.
pub(super) fn check_values(
    form: &mut FormErrors,
    path: &str,
    select: &Value,
    values: &[String],
    resolved: &mut Resolved,
) {
    let (min, max) = bounds(select);
    if !(min..=max).contains(&values.len()) {
        form.add(path, Fault::BadLength { min, max });
        return;
    }
    let kind = select["type"].as_u64().unwrap_or_default();
    for (index, value) in values.iter().enumerate() {
        let path = format!("{path}.{index}");
        if values[..index].contains(value) {
            let message = "The set already contains this value";
            let code = "SET_TYPE_ALREADY_CONTAINS_VALUE";
            form.add(path, Fault::Other(code, message.into()));
            continue;
        }
        if !matches!(kind, USER_SELECT..=CHANNEL_SELECT) {
            let options = select["options"].as_array().map(Vec::as_slice);
            let mut options = options.unwrap_or_default().iter();
            if !options.any(|option| option["value"] == **value) {
                form.add(path, Fault::NotEnum(value.chars().take(100).collect()));
            }
            continue;
        }
        let Some(id) = id_of(&Value::String(value.clone())) else {
            form.add(path, Fault::NotSnowflake(value.chars().take(100).collect()));
            continue;
        };
        match kind {
            USER_SELECT => resolved.want_user(id, &path),
            ROLE_SELECT => resolved.want_role(id, &path),
            MENTIONABLE_SELECT => resolved.want_mentionable(id, &path),
            _ => {
                let kinds = select["channel_types"].as_array().map(Vec::as_slice);
                let kinds = kinds.unwrap_or_default().iter();
                let kinds: Vec<u8> = kinds
                    .filter_map(|k| u8::try_from(k.as_u64()?).ok())
                    .collect();
                resolved.want_channel(id, &path, &kinds);
            }
        }
    }
}

/// Whether a component is a select of strings, as forms have them too.
pub(super) fn is_select(kind: u64) -> bool {
    matches!(kind, STRING_SELECT | USER_SELECT..=CHANNEL_SELECT)
}
