//! The official OpenAPI document, and whether a body is what it says; the encodings of a gateway, as
//! clients read them; the fields that client libraries cannot do without. For tests.
//!
//! Knows nothing of Guildhall: what is asked and what to make of a fault is the caller's.

pub mod encodings;
pub mod libraries;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jsonschema::Validator;
use serde_json::{Value, json};

/// Faults told of one body.
const FAULTS_MAX: usize = 3;
/// Characters told of one fault, which may quote the whole body.
const FAULT_LENGTH_MAX: usize = 300;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../openapi.json")).expect("the document is JSON")
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

type Compiled = Result<Arc<Validator>, String>;

/// Validators made so far: each holds the whole document's components, so that making one is
/// dear.
static VALIDATORS: Mutex<Option<HashMap<(String, u16), Compiled>>> = Mutex::new(None);

/// Whether the document knows the operation.
pub fn knows(operation: &str) -> bool {
    OPERATIONS.contains_key(operation)
}

/// Whether the document describes a body for this answer.
pub fn has_body(operation: &str, status: u16) -> bool {
    schema(operation, status).is_some_and(Value::is_object)
}

/// What is wrong with `body` as the answer of `operation` with `status`; empty: nothing.
/// Operations that the document does not know, and answers without a body, pass.
pub fn faults(operation: &str, status: u16, body: &Value) -> Vec<String> {
    let Some(found) = OPERATIONS.get(operation) else {
        return Vec::new();
    };
    if found["responses"][status.to_string()].is_null() {
        return vec![format!("status {status} is not documented")];
    }
    if !has_body(operation, status) {
        return Vec::new();
    }
    match validator(operation, status) {
        Err(error) => vec![error],
        Ok(validator) => validator
            .iter_errors(body)
            .take(FAULTS_MAX)
            .map(|fault| {
                let told: String = fault.to_string().chars().take(FAULT_LENGTH_MAX).collect();
                format!("{}: {told}", fault.instance_path())
            })
            .collect(),
    }
}

fn schema(operation: &str, status: u16) -> Option<&'static Value> {
    let answer = &OPERATIONS.get(operation)?["responses"][status.to_string()];
    Some(&answer["content"]["application/json"]["schema"])
}

fn validator(operation: &str, status: u16) -> Compiled {
    let mut made = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let made = made.get_or_insert_default();
    let compile = || compile(schema(operation, status)).map(Arc::new);
    made.entry((operation.to_owned(), status))
        .or_insert_with(compile)
        .clone()
}

fn compile(schema: Option<&Value>) -> Result<Validator, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_body_has_faults_and_a_right_one_none() {
        let told = |body| faults("get_gateway", 200, &body);
        assert_eq!(
            told(json!({ "url": "ws://127.0.0.1:1" })),
            Vec::<String>::new()
        );
        assert_eq!(told(json!({ "url": 5 })).len(), 1);
        assert_eq!(faults("get_gateway", 299, &json!({})).len(), 1);
        assert!(knows("get_gateway") && !knows("nothing"));
        assert!(has_body("get_gateway", 200) && !has_body("delete_message", 204));
    }
}
