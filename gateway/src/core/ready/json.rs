//! How bodies become JSON.

use serde::Serialize;

/// `{}`.
#[derive(Default, Serialize)]
pub(super) struct Empty {}

pub(super) fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("READY has string keys and no failing serializer")
}
