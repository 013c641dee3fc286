//! What it costs to look at all members of a guild: so much for each user in a period, and of counts
//! that several sessions wait for, one for all of them.
//!
//! Pure.

use std::time::{Duration, Instant};

use guildhall_shared::{
    Id,
    id::marker::{Guild, User},
    permissions::Overwrite,
};
use rustc_hash::FxHashMap;

/// Members looked at in a period on behalf of one user, however many sessions they have. Whoever has
/// had them is answered in the next one: their cores ask again.
const LOOKED_AT_MAX: usize = 2_000_000;
/// The periods of all users begin together.
const PERIOD: Duration = Duration::from_secs(10);

/// Members looked at for each user in this period.
#[derive(Debug, Default)]
pub(super) struct Searches {
    began: Option<Instant>,
    looked_at: FxHashMap<Id<User>, usize>,
}

/// How many members see the channels of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) members: u64,
    pub(super) online: u64,
}

/// Counts for those who waited for one of the same already when the counting began.
#[derive(Debug, Default)]
pub(super) struct Counts(Vec<Counted>);

#[derive(Debug)]
struct Counted {
    guild: Id<Guild>,
    /// What makes the class: its number may be another one's by now.
    overwrites: Vec<Overwrite>,
    count: Count,
    /// Questions that it is good for, whatever they are about.
    left: usize,
}

impl Searches {
    /// Whether members may be looked at for a user.
    pub(super) fn may(&mut self, now: Instant, user: Id<User>) -> bool {
        if self.began.is_none_or(|began| now >= began + PERIOD) {
            self.began = Some(now);
            self.looked_at.clear();
        }
        let looked_at = self.looked_at.get(&user);
        looked_at.is_none_or(|&looked_at| looked_at < LOOKED_AT_MAX)
    }

    /// So many were.
    pub(super) fn add(&mut self, user: Id<User>, members: usize) {
        *self.looked_at.entry(user).or_default() += members;
    }
}

impl Counts {
    /// A question's turn has come.
    pub(super) fn next(&mut self) {
        self.0.retain_mut(|counted| {
            let is_good = counted.left > 0;
            counted.left = counted.left.saturating_sub(1);
            is_good
        });
    }

    /// What was counted of channels with these overwrites since the question whose turn it is began
    /// to wait.
    pub(super) fn of(&self, guild: Id<Guild>, overwrites: &[Overwrite]) -> Option<Count> {
        let mut counts = self.0.iter();
        let counted =
            counts.find(|counted| counted.guild == guild && counted.overwrites == overwrites);
        counted.map(|counted| counted.count)
    }

    /// `waited`: questions that waited when the counting began.
    pub(super) fn put(
        &mut self,
        guild: Id<Guild>,
        overwrites: Vec<Overwrite>,
        count: Count,
        waited: usize,
    ) {
        self.0.push(Counted {
            guild,
            overwrites,
            count,
            left: waited,
        });
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::{Permissions, permissions::OverwriteKind};

    use super::*;

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    #[test]
    fn who_has_had_many_members_looked_at_waits_for_the_next_period() {
        let (mut searches, now) = (Searches::default(), Instant::now());
        let (greedy, other) = (id(1), id(2));
        for _ in 0..2 {
            assert!(searches.may(now, greedy));
            searches.add(greedy, LOOKED_AT_MAX / 2);
        }
        assert!(!searches.may(now, greedy));
        assert!(searches.may(now, other));
        searches.add(other, 1);
        assert!(!searches.may(now + PERIOD - Duration::from_millis(1), greedy));
        assert!(searches.may(now + PERIOD, greedy));
        assert!(searches.may(now + PERIOD, other));
    }

    #[test]
    fn a_count_is_for_those_alike_who_waited_when_it_began() {
        let overwrite = Overwrite {
            id: id(5),
            kind: OverwriteKind::Role,
            allow: Permissions::VIEW_CHANNEL,
            deny: Permissions::empty(),
        };
        let count = Count {
            members: 7,
            online: 3,
        };
        let (mut counts, guild) = (Counts::default(), id(1));
        counts.put(guild, vec![overwrite], count, 2);
        for _ in 0..2 {
            counts.next();
            assert_eq!(counts.of(guild, &[overwrite]), Some(count));
            assert_eq!(counts.of(guild, &[]), None);
            assert_eq!(counts.of(id(2), &[overwrite]), None);
        }
        counts.next();
        assert_eq!(counts.of(guild, &[overwrite]), None);
        counts.put(guild, Vec::new(), count, 0);
        counts.next();
        assert_eq!(counts.of(guild, &[]), None);
    }
}
