//! Replies and events against the official OpenAPI document, and against what libraries read.

use serde_json::{Value, json};

/// Panics unless `body` is what `operation_id` answers with `status`.
#[track_caller]
pub(crate) fn conforms(operation_id: &str, status: u16, body: &Value) {
    assert!(
        guildhall_spec::has_body(operation_id, status),
        "{operation_id} has no body with {status}"
    );
    let faults = guildhall_spec::faults(operation_id, status, body);
    assert!(faults.is_empty(), "{operation_id}: {faults:#?}\n{body:#}");
    libraries_read(operation_id, body);
}

/// Panics unless client libraries find what they read in the body of an event or an answer, or in
/// an `error` or a `rate limit`.
#[track_caller]
pub(crate) fn libraries_read(name: &str, body: &Value) {
    let faults = guildhall_spec::libraries::faults(name, body);
    assert!(faults.is_empty(), "{faults:#?}\n{body:#}");
}

#[test]
fn a_wrong_body_does_not_conform() {
    conforms("get_gateway", 200, &json!({ "url": "ws://127.0.0.1:1" }));
    let wrong = std::panic::catch_unwind(|| conforms("get_gateway", 200, &json!({ "url": 5 })));
    assert!(wrong.is_err());
}
