//! What sessions keep for RESUME that is theirs alone: READY, GUILD_CREATE, answers to what they ask.
//!
//! A body that many sessions get is kept once, however many they are. Of these each has its own, they
//! are large, and a client that never says what it has (op 1) can ask for more than a session keeps.
//! So a core keeps no more than its share. Above it the users who hold most lose their oldest
//! dispatches, down to what all may have alike; a RESUME from before gets op 9. What was not written
//! yet is not let go of: a client that takes nothing of it is closed as a slow reader.

use guildhall_shared::{Id, id::marker::User};

use super::Core;
use crate::{dispatch::Tally, names::SessionSlot};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Of dispatches that one session alone gets.
    pub(super) tally: Tally,
    /// Bytes that were left when room was made last, in this second: what was not written then may
    /// be soon, so all sessions are looked at again only when there is a good deal more.
    left: usize,
}

/// A session that has something for itself.
struct Holder {
    user: Id<User>,
    bytes: usize,
    slot: SessionSlot,
}

impl Core {
    /// Makes room if more is kept than may be. Called when sessions were written to.
    pub(super) fn keep_budget(&mut self) {
        let bytes_max = self.config.own_bytes_max;
        let bytes = self.budget.tally.bytes();
        if bytes > bytes_max && bytes > self.budget.left + bytes_max / 8 {
            self.make_room(bytes_max);
            self.budget.left = self.budget.tally.bytes();
        }
    }

    /// What could not be let go of a moment ago is looked at again.
    pub(super) fn tick_budget(&mut self) {
        self.budget.left = 0;
    }

    /// Leaves an eighth free, so that this is rare.
    fn make_room(&mut self, bytes_max: usize) {
        let over = self.over(bytes_max - bytes_max / 8);
        for &(slot, bytes) in &over {
            self.let_go_of_own(slot, bytes);
        }
        for (slot, bytes) in over {
            if self.budget.tally.bytes() <= bytes_max {
                return;
            }
            let session = self.sessions.get(slot as usize);
            if let Some(connection) = session.and_then(|session| session.connection)
                && self.is_stalled(connection)
            {
                self.fall_behind(connection);
                self.let_go_of_own(slot, bytes);
            }
        }
    }

    /// Sessions that hold more than they may where all have so much room, with what they may hold;
    /// those of the users who hold most come first.
    fn over(&self, room: usize) -> Vec<(SessionSlot, usize)> {
        let sessions = self.sessions.iter();
        let holders = sessions.filter_map(|(slot, session)| {
            let bytes = session.replay.own_bytes();
            (bytes > 0).then_some(Holder {
                user: session.user,
                bytes,
                slot: slot as SessionSlot,
            })
        });
        let mut holders: Vec<Holder> = holders.collect();
        holders.sort_unstable_by_key(|of| (of.user, of.bytes));
        let of_users = holders.chunk_by(|one, other| one.user == other.user);
        let of_users = of_users.map(|sessions| {
            let bytes: usize = sessions.iter().map(|of| of.bytes).sum();
            (bytes, sessions)
        });
        let mut of_users: Vec<(usize, &[Holder])> = of_users.collect();
        of_users.sort_unstable_by_key(|&(bytes, _)| bytes);
        let of_each = share(of_users.iter().map(|&(bytes, _)| bytes), room);
        let mut over = Vec::new();
        for &(bytes, sessions) in of_users.iter().rev() {
            if bytes <= of_each {
                break;
            }
            let of_session = share(sessions.iter().map(|of| of.bytes), of_each);
            let sessions = sessions.iter().rev().filter(|of| of.bytes > of_session);
            over.extend(sessions.map(|of| (of.slot, of_session)));
        }
        over
    }

    fn let_go_of_own(&mut self, slot: SessionSlot, own_bytes_max: usize) {
        let session = self.sessions.get(slot as usize);
        let connection = session.and_then(|session| session.connection);
        let sent_s = connection.map_or(u64::MAX, |connection| self.sent_s(connection));
        if let Some(session) = self.sessions.get_mut(slot as usize) {
            session.replay.let_go_of_own(own_bytes_max, sent_s);
        }
    }
}

/// The most that each may hold so that all of them hold no more than `room`: who holds less than the
/// others keeps all of it. `held` ascends.
fn share(held: impl ExactSizeIterator<Item = usize>, room: usize) -> usize {
    let (count, mut left) = (held.len(), room);
    for (place, bytes) in held.enumerate() {
        let share = left / (count - place);
        if bytes > share {
            return share;
        }
        left -= bytes;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_share_uses_the_room_and_no_more(
            mut held in prop::collection::vec(0usize..1000, 0..20),
            room in 0usize..10_000,
        ) {
            held.sort_unstable();
            let share = share(held.iter().copied(), room);
            let kept: usize = held.iter().map(|&bytes| bytes.min(share)).sum();
            let all: usize = held.iter().sum();
            prop_assert!(kept <= room);
            prop_assert!(kept == all || kept + held.len() > room, "{kept} of {room}, {share} each");
        }
    }
}
