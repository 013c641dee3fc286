//! How much of what an edge has missed goes into one answer: a link takes frames of a certain size,
//! and what waits for it is bounded. A core that is given a part asks for the rest from where
//! that ends.

use std::sync::Arc;

use guildhall_shared::envelope::{Alt, Envelope, Scope};

/// Bytes of events in one answer: the one that exceeds them is the last.
pub(super) const BYTES_MAX: usize = 1024 * 1024;
/// Bytes of events that are answered with at once; what is more waits for room on the link.
pub(super) const AT_ONCE_BYTES: usize = 16 * 1024;

/// The first of these events, up to and with the one that exceeds so many bytes.
pub(super) fn first_of(
    events: impl Iterator<Item = Arc<Envelope>>,
    bytes_max: usize,
) -> Vec<Arc<Envelope>> {
    let mut bytes = 0;
    let fits = |event: &Arc<Envelope>| {
        let fits = bytes < bytes_max;
        bytes += bytes_of(event);
        fits
    };
    events.take_while(fits).collect()
}

/// Bytes that these events take, about.
pub(super) fn bytes(events: &[Arc<Envelope>]) -> usize {
    events.iter().map(|event| bytes_of(event)).sum()
}

/// Bytes that an event takes, about.
pub(super) fn bytes_of(event: &Envelope) -> usize {
    let users = match &event.vis.scope {
        Scope::Users(users) => users.len(),
        Scope::Thread { members, .. } => members.len(),
        Scope::Realm | Scope::Channel(_) | Scope::Permissions { .. } => 0,
    };
    let bodies = |alt: &Alt| {
        let parts = alt.parts.iter().map(|part| part.body.len());
        alt.body.len() + parts.sum::<usize>()
    };
    event.body.len() + event.alt.as_ref().map_or(0, bodies) + users * size_of::<u64>()
}

#[cfg(test)]
mod tests {
    use guildhall_shared::{
        Id,
        envelope::{Durability, Visibility},
        gateway::{EventKind, Intents},
        shard::Position,
    };
    use proptest::prelude::*;

    use super::*;

    fn event(seq: u64, bytes: usize) -> Arc<Envelope> {
        Arc::new(Envelope {
            realm: Id::new(1).unwrap(),
            durability: Durability::Durable(Position { era: 1, seq }),
            kind: EventKind::MessageCreate,
            vis: Visibility::realm(Intents::empty()),
            at_ms: 0,
            trace: 0,
            body: vec![b'x'; bytes].into(),
            alt: None,
        })
    }

    proptest! {
        #[test]
        fn portions_are_all_events_in_order_and_each_is_bounded(
            sizes in prop::collection::vec(0usize..400, 0..60),
            bytes_max in 1usize..1000,
        ) {
            let all: Vec<_> = (1..).zip(&sizes).map(|(seq, &bytes)| event(seq, bytes)).collect();
            let mut got = Vec::new();
            while got.len() < all.len() {
                let portion = first_of(all[got.len()..].iter().cloned(), bytes_max);
                let (last, others) = portion.split_last().unwrap();
                prop_assert!(bytes(others) < bytes_max);
                let is_end = got.len() + portion.len() == all.len();
                prop_assert!(is_end || bytes(others) + bytes_of(last) >= bytes_max);
                got.extend(portion);
            }
            prop_assert_eq!(got, all);
        }
    }
}
