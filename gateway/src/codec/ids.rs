//! Ids as clients write them.

use guildhall_shared::{Id, gateway::CloseCode};
use simd_json::{
    OwnedValue,
    prelude::{TypedScalarValue, ValueAsScalar, ValueObjectAccess},
};

/// An id as text or number; null and absence are none.
pub(super) fn id<T>(d: &OwnedValue, key: &str) -> Result<Option<Id<T>>, CloseCode> {
    let Some(value) = d.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    id_of(value).map(Some).ok_or(CloseCode::DecodeError)
}

/// An id as text or number.
pub(super) fn id_of<T>(value: &OwnedValue) -> Option<Id<T>> {
    match value.as_str() {
        Some(text) => text.parse().ok(),
        None => value.as_u64().and_then(Id::new),
    }
}
