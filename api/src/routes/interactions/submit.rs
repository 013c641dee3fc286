//! What a user wrote into a form.

use serde_json::{Map, Value, json};

use super::{
    components,
    modal::{
        CHECKBOX, CHECKBOX_GROUP, COMPONENTS_MAX, FILE_UPLOAD, GROUP_MAX, LABEL, OPTIONS_MAX,
        RADIO_GROUP, ROW, TEXT_INPUT, TEXT_MAX, kind_of,
    },
    options::Resolved,
};
use crate::{
    error::Result,
    form::{Fault, FormErrors},
};

/// What was written into the form `known`, as the application gets it.
///
/// Errors: 50035.
pub(super) fn check(known: &Value, given: &[Value], resolved: &mut Resolved) -> Result<Vec<Value>> {
    let mut form = FormErrors::new();
    let known = known.as_array().map(Vec::as_slice).unwrap_or_default();
    let inputs: Vec<&Value> = given
        .iter()
        .take(COMPONENTS_MAX)
        .flat_map(inputs_of)
        .collect();
    let mut written = Vec::new();
    for (index, component) in known.iter().enumerate() {
        let mut top = json!({ "type": component["type"], "id": component["id"] });
        match kind_of(component) {
            ROW => {
                let path = format!("data.components.{index}.components.0");
                let input = &component["components"][0];
                top["components"] = json!([answer(&mut form, &path, input, &inputs, resolved)]);
            }
            LABEL => {
                let path = format!("data.components.{index}.component");
                let input = &component["component"];
                top["component"] = answer(&mut form, &path, input, &inputs, resolved);
            }
            _ => {}
        }
        written.push(top);
    }
    form.finish()?;
    Ok(written)
}

fn inputs_of(component: &Value) -> Vec<&Value> {
    let children = component["components"].as_array();
    let children = children.into_iter().flatten().take(COMPONENTS_MAX);
    children.chain(component.get("component")).collect()
}

fn answer(
    form: &mut FormErrors,
    path: &str,
    known: &Value,
    given: &[&Value],
    resolved: &mut Resolved,
) -> Value {
    let kind = kind_of(known);
    let found = given
        .iter()
        .find(|given| given["custom_id"] == known["custom_id"]);
    let is_required = known["required"] != false;
    let mut written = Map::new();
    for key in ["type", "id", "custom_id"] {
        written.insert(key.to_owned(), known[key].clone());
    }
    match kind {
        TEXT_INPUT => {
            let path = format!("{path}.value");
            let text = found
                .and_then(|found| found["value"].as_str())
                .unwrap_or_default();
            let bound = |key: &str, default| known[key].as_u64().map_or(default, |n| n as usize);
            let (min, max) = (bound("min_length", 0), bound("max_length", TEXT_MAX));
            let length = text.chars().count();
            if is_required && length == 0 {
                form.add(path, Fault::Required);
            } else if length > 0 && !(min..=max).contains(&length) {
                form.add(path, Fault::BadLength { min, max });
            }
            written.insert("value".to_owned(), json!(text));
        }
        CHECKBOX => {
            let value = found.is_some_and(|found| found["value"] == true);
            written.insert("value".to_owned(), json!(value));
        }
        RADIO_GROUP => {
            let path = format!("{path}.value");
            let value = found.and_then(|found| found["value"].as_str());
            let options = known["options"].as_array().map(Vec::as_slice);
            let mut options = options.unwrap_or_default().iter();
            match value {
                None if is_required => form.add(path, Fault::Required),
                Some(value) if !options.any(|option| option["value"] == value) => {
                    form.add(path, Fault::NotEnum(value.chars().take(100).collect()));
                }
                _ => {}
            }
            written.insert("value".to_owned(), json!(value));
        }
        _ => {
            let path = format!("{path}.values");
            let values = found.and_then(|found| found["values"].as_array());
            let values = values.into_iter().flatten().take(OPTIONS_MAX + 1);
            let values: Vec<String> = values
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect();
            let mut bounds = known.clone();
            if kind == CHECKBOX_GROUP && bounds["max_values"].is_null() {
                bounds["max_values"] = json!(GROUP_MAX);
            }
            let is_given = is_required || !values.is_empty();
            let values = match is_given {
                true if kind == FILE_UPLOAD => files(form, &path, &bounds, &values, resolved),
                true => {
                    components::check_values(form, &path, &bounds, &values, resolved);
                    json!(values)
                }
                false => json!([]),
            };
            written.insert("values".to_owned(), values);
        }
    }
    Value::Object(written)
}

/// The ids of the files chosen for a field.
fn files(
    form: &mut FormErrors,
    path: &str,
    field: &Value,
    values: &[String],
    resolved: &mut Resolved,
) -> Value {
    let (min, max) = components::bounds(field);
    if !(min..=max).contains(&values.len()) {
        form.add(path, Fault::BadLength { min, max });
        return Value::Null;
    }
    let mut ids = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let path = format!("{path}.{index}");
        ids.push(resolved.want_file(form, &path, &json!(value)));
    }
    Value::Array(ids)
}
