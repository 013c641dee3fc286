//! Replies against the official OpenAPI document.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::{Value, json};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../openapi/openapi.json")).expect("the document is JSON")
});

/// Operations by their id.
static OPERATIONS: LazyLock<HashMap<&'static str, &'static Value>> = LazyLock::new(|| {
    let paths = DOCUMENT["paths"].as_object().expect("an object");
    paths
        .values()
        .filter_map(Value::as_object)
        .flat_map(|methods| methods.values())
        .filter_map(|operation| Some((operation.get("operationId")?.as_str()?, operation)))
        .collect()
});

/// Panics unless `body` is what `operation_id` answers with `status`.
#[track_caller]
pub(crate) fn conforms(operation_id: &str, status: u16, body: &Value) {
    let operation = OPERATIONS
        .get(operation_id)
        .unwrap_or_else(|| panic!("no operation {operation_id}"));
    let schema =
        &operation["responses"][status.to_string()]["content"]["application/json"]["schema"];
    assert!(
        schema.is_object(),
        "{operation_id} has no body with {status}"
    );
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [schema],
        "components": DOCUMENT["components"],
    });
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("the document holds valid schemas");
    let faults: Vec<String> = validator
        .iter_errors(body)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{operation_id}: {faults:#?}\n{body:#}");
}

#[test]
fn a_wrong_body_does_not_conform() {
    conforms("get_gateway", 200, &json!({ "url": "ws://127.0.0.1:1" }));
    let wrong = std::panic::catch_unwind(|| conforms("get_gateway", 200, &json!({ "url": 5 })));
    assert!(wrong.is_err());
}
