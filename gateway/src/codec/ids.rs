//! Ids as clients write them.

use guildhall_shared::{Id, gateway::CloseCode, id::marker::Guild};
use rustc_hash::FxHashSet;
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

/// The guilds of a list, each once and in its order: one that is named again is answered once.
/// `None`: not all of them are ids.
pub(super) fn guilds_of(list: &[OwnedValue]) -> Option<Vec<Id<Guild>>> {
    let guilds: Option<Vec<Id<Guild>>> = list.iter().map(id_of).collect();
    let (mut guilds, mut known) = (guilds?, FxHashSet::default());
    guilds.retain(|&guild| known.insert(guild));
    Some(guilds)
}
