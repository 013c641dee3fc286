//! Bodies against the official OpenAPI document.

use std::{collections::HashMap, sync::LazyLock};

use jsonschema::Validator;
use serde_json::{Value, json};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../api/tests/openapi/openapi.json"))
        .expect("the document is JSON")
});

/// Operations by their id.
static OPERATIONS: LazyLock<HashMap<&'static str, &'static Value>> = LazyLock::new(|| {
    let paths = DOCUMENT["paths"].as_object().into_iter().flatten();
    paths
        .filter_map(|(_, methods)| methods.as_object())
        .flat_map(|methods| methods.values())
        .filter_map(|operation| Some((operation.get("operationId")?.as_str()?, operation)))
        .collect()
});

/// What is wrong with `body` as the answer of `operation` with `status`; empty: nothing.
/// Operations that the document does not know pass.
pub(super) fn faults(operation: &str, status: u16, body: &Value) -> Vec<String> {
    let Some(found) = OPERATIONS.get(operation) else {
        return Vec::new();
    };
    let answer = &found["responses"][status.to_string()];
    if answer.is_null() {
        return vec![format!("status {status} is not documented")];
    }
    let schema = &answer["content"]["application/json"]["schema"];
    if schema.is_null() {
        return Vec::new();
    }
    match validator(schema) {
        Err(error) => vec![error],
        Ok(validator) => validator
            .iter_errors(body)
            .take(3)
            .map(|fault| {
                let fault_text: String = fault.to_string().chars().take(200).collect();
                format!("{}: {fault_text}", fault.instance_path())
            })
            .collect(),
    }
}

fn validator(schema: &Value) -> Result<Validator, String> {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [schema],
        "components": DOCUMENT["components"],
    });
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .map_err(|error| error.to_string())
}
