//! Who is online in a guild, as its owner leaves it in Redis: for the API's counts, and for
//! the next owner, who must tell of those that vanished with the last one.
//!
//! `version u8 | count u32 LE | writer u32 | (user u64 LE, platforms u8)*`. The count comes
//! first, so that a reader of counts fetches [`COUNT_BYTES`] and no more. The list may be shorter than the
//! count ([`LISTED_MAX`]).

use crate::{
    id::{Id, marker::User},
    model::Platforms,
};

const VERSION: u8 = 1;
/// What [`count`] needs.
pub const COUNT_BYTES: usize = 5;
/// What comes before the list. The writer's number is its last part.
pub const HEAD_BYTES: usize = 9;
const ENTRY_BYTES: usize = 9;
/// Users listed; in larger guilds only the count is complete.
pub const LISTED_MAX: usize = 50_000;
/// How long a guild's entry lives after its owner last wrote it.
pub const TTL_MS: u64 = 90_000;

/// Bytes that hold the first `users` entries.
pub const fn bytes_of(users: usize) -> usize {
    HEAD_BYTES + users * ENTRY_BYTES
}

/// The whole entry. `writer` is the owner's own number: it deletes no other's entry.
pub fn encode(
    writer: u32,
    count: usize,
    users: impl Iterator<Item = (Id<User>, Platforms)>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes_of(count.min(LISTED_MAX)));
    out.push(VERSION);
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&writer.to_le_bytes());
    for (user, platforms) in users.take(LISTED_MAX) {
        out.extend_from_slice(&user.get().to_le_bytes());
        out.push(platforms.bits());
    }
    out
}

/// Users online, from the first [`COUNT_BYTES`]; `None` if there is no entry of our version.
pub fn count(bytes: &[u8]) -> Option<u32> {
    let (&version, rest) = bytes.split_first()?;
    let count = rest.first_chunk::<4>()?;
    (version == VERSION).then(|| u32::from_le_bytes(*count))
}

/// The users of an entry, or of its beginning.
pub fn users(bytes: &[u8]) -> Vec<(Id<User>, Platforms)> {
    if count(bytes).is_none() || bytes.len() < HEAD_BYTES {
        return Vec::new();
    }
    let entries = bytes[HEAD_BYTES..].chunks_exact(ENTRY_BYTES);
    let users = entries.filter_map(|entry| {
        let (user, platforms) = entry.split_at(8);
        let user = Id::new(u64::from_le_bytes(user.try_into().ok()?))?;
        Some((user, Platforms::from_bits(platforms[0])))
    });
    users.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(users in prop::collection::vec((1..=i64::MAX as u64, 0u8..64), 0..20)) {
            let users: Vec<_> = users
                .into_iter()
                .map(|(id, bits)| (Id::new(id).unwrap(), Platforms::from_bits(bits)))
                .collect();
            let bytes = encode(7, users.len(), users.iter().copied());
            prop_assert_eq!(count(&bytes[..COUNT_BYTES]), Some(users.len() as u32));
            prop_assert_eq!(super::users(&bytes), users);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (count(&bytes), users(&bytes));
        }
    }
}
