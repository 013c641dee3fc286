//! What the users of one realm show, merged over edges, and what of it was not told yet.
//!
//! Pure. Everything here comes with subscriptions, so a new owner has it again as soon as it
//! has the edges. Changes are told at the next flush: what came and went between two of them
//! is never told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::to_edge::EdgeId;
use crate::few::Few;
use guildhall_shared::{
    Id,
    id::marker::User,
    model::{Presence, SessionState},
};

/// Changed users looked at in one flush of a realm; the rest follows in the next ones. With
/// one flush per tick this also bounds what a guild sends a bot.
pub(crate) const FLUSH_USERS_MAX: usize = 500;
/// Users of a lost edge taken away in one flush.
const LOST_USERS_MAX: usize = 4000;
/// How long an edge that was lost may come back before its users are gone.
pub(crate) const LOST_GRACE: Duration = Duration::from_secs(2);
/// How long after its opening a realm takes those who come from another owner for known.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);

/// One realm's users. Who is offline is not kept.
#[derive(Debug, Default)]
pub(crate) struct Presences {
    /// In a user's own realm there is one.
    users: Few<Id<User>, Parts>,
    /// What was told of users that have changed since.
    changed: BTreeMap<Id<User>, Presence>,
    /// Their name or picture has changed: told although they show the same.
    renamed: BTreeSet<Id<User>>,
    lost: Vec<Lost>,
    /// In a person's own realm: their sessions by edge.
    sessions: Vec<(EdgeId, Vec<SessionState>)>,
    sessions_changed: bool,
    /// It is somebody's own realm, who is no bot.
    person: bool,
    /// Rises with every change of who is online and how.
    version: u64,
}

/// What one user shows on each edge; mostly there is one.
#[derive(Debug)]
enum Parts {
    One(EdgeId, Presence),
    Many(Vec<(EdgeId, Presence)>),
}

/// Users of an edge whose link broke.
#[derive(Debug)]
struct Lost {
    edge: EdgeId,
    at: Instant,
    users: Vec<Id<User>>,
}

/// A user to tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) user: Id<User>,
    pub(crate) before: Presence,
    pub(crate) now: Presence,
    pub(crate) renamed: bool,
}

impl Presences {
    /// What a user shows now.
    pub(crate) fn of(&self, user: Id<User>) -> Presence {
        self.users.get(&user).map(Parts::merged).unwrap_or_default()
    }

    pub(crate) fn is_online(&self, user: Id<User>) -> bool {
        self.users.contains_key(&user)
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Users that are not offline.
    pub(crate) fn count(&self) -> usize {
        self.users.len()
    }

    /// Their ids, ascending.
    pub(crate) fn users(&self) -> impl Iterator<Item = Id<User>> {
        self.users.keys().copied()
    }

    /// Them, by their ids.
    pub(crate) fn online(&self) -> impl Iterator<Item = (Id<User>, Presence)> {
        self.users
            .iter()
            .map(|(&user, parts)| (user, parts.merged()))
    }

    /// An edge says what a user shows on it. `quiet`: others know already.
    pub(crate) fn set(&mut self, edge: EdgeId, user: Id<User>, presence: Presence, quiet: bool) {
        let before = self.of(user);
        match self.users.get_mut(&user) {
            None if presence.is_offline() => return,
            None => {
                self.users.insert(user, Parts::One(edge, presence));
            }
            Some(parts) => {
                if !parts.set(edge, presence) {
                    self.users.remove(&user);
                }
            }
        }
        if before == self.of(user) {
            return;
        }
        self.version += 1;
        if !quiet {
            self.changed.entry(user).or_insert(before);
        }
    }

    /// Users that are no longer on an edge.
    pub(crate) fn remove(&mut self, edge: EdgeId, users: &[Id<User>]) {
        for &user in users {
            self.set(edge, user, Presence::default(), false);
        }
        self.set_sessions(edge, Vec::new());
    }

    /// Users of an edge whom another owner serves now: what they show is told there from now on,
    /// and so is what was not told yet.
    pub(crate) fn hand_over(&mut self, edge: EdgeId, users: &[Id<User>]) {
        for &user in users {
            self.set(edge, user, Presence::default(), true);
            if !self.is_online(user) {
                self.changed.remove(&user);
                self.renamed.remove(&user);
            }
        }
        self.sessions.retain(|(known, _)| *known != edge);
        self.sessions_changed &= self.has_sessions();
    }

    /// In a person's own realm: their sessions on an edge.
    pub(crate) fn set_sessions(&mut self, edge: EdgeId, sessions: Vec<SessionState>) {
        let place = self.sessions.iter().position(|(known, _)| *known == edge);
        match place {
            None if sessions.is_empty() => return,
            None => self.sessions.push((edge, sessions)),
            Some(place) if sessions.is_empty() => {
                self.sessions.remove(place);
            }
            Some(place) if self.sessions[place].1 == sessions => return,
            Some(place) => self.sessions[place].1 = sessions,
        }
        self.person = true;
        self.sessions_changed = true;
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = &SessionState> {
        self.sessions.iter().flat_map(|(_, sessions)| sessions)
    }

    pub(crate) fn has_sessions(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Whether the sessions have changed since the last call.
    pub(crate) fn take_sessions_changed(&mut self) -> bool {
        std::mem::take(&mut self.sessions_changed)
    }

    pub(crate) fn is_person(&self) -> bool {
        self.person
    }

    /// An edge's link broke. Unless it comes back its users are gone after [`LOST_GRACE`].
    pub(crate) fn lose(&mut self, now: Instant, edge: EdgeId, users: Vec<Id<User>>) {
        let at = now + LOST_GRACE;
        self.lost.push(Lost { edge, at, users });
    }

    /// The owner before told that these were online; whoever is not here is gone with it.
    pub(crate) fn recall(&mut self, told: impl IntoIterator<Item = (Id<User>, Presence)>) {
        for (user, before) in told {
            if !self.users.contains_key(&user) {
                self.changed.entry(user).or_insert(before);
            }
        }
    }

    pub(crate) fn rename(&mut self, user: Id<User>) {
        self.renamed.insert(user);
    }

    /// Whether there is something to flush, now or later.
    pub(crate) fn is_due(&self) -> bool {
        let due = self.changed.is_empty() && self.renamed.is_empty() && self.lost.is_empty();
        !due || self.sessions_changed
    }

    /// Users to tell of, at most [`FLUSH_USERS_MAX`].
    pub(crate) fn flush(&mut self, now: Instant) -> Vec<Told> {
        self.take_lost(now);
        let mut told = Vec::new();
        for _ in 0..FLUSH_USERS_MAX {
            let next = match (self.changed.pop_first(), self.renamed.first()) {
                (Some(changed), _) => Some(changed),
                (None, Some(&user)) => Some((user, self.of(user))),
                (None, None) => None,
            };
            let Some((user, before)) = next else { break };
            let renamed = self.renamed.remove(&user);
            let shown = self.of(user);
            if renamed || shown != before {
                told.push(Told {
                    user,
                    before,
                    now: shown,
                    renamed,
                });
            }
        }
        // Emptied maps keep a node, and there is a realm for every user.
        if self.changed.is_empty() {
            self.changed = BTreeMap::new();
        }
        if self.renamed.is_empty() {
            self.renamed = BTreeSet::new();
        }
        told
    }

    fn take_lost(&mut self, now: Instant) {
        let mut room = LOST_USERS_MAX;
        while room > 0
            && let Some(place) = self.lost.iter().position(|lost| lost.at <= now)
        {
            let lost = &mut self.lost[place];
            let edge = lost.edge;
            let rest = lost.users.len().saturating_sub(room);
            let users = lost.users.split_off(rest);
            room -= users.len().min(room);
            let is_done = lost.users.is_empty();
            if is_done {
                self.lost.swap_remove(place);
            }
            self.remove(edge, &users);
            if !is_done {
                break;
            }
        }
    }
}

impl Parts {
    fn merged(&self) -> Presence {
        match self {
            Self::One(_, presence) => presence.clone(),
            Self::Many(parts) => {
                let mut merged = Presence::default();
                for (_, presence) in parts {
                    merged.merge(presence);
                }
                merged
            }
        }
    }

    /// False if nothing is left.
    fn set(&mut self, edge: EdgeId, presence: Presence) -> bool {
        match self {
            Self::One(known, part) if *known == edge => *part = presence,
            Self::One(..) if presence.is_offline() => {}
            Self::One(known, part) => {
                let first = (*known, std::mem::take(part));
                *self = Self::Many(vec![first, (edge, presence)]);
            }
            Self::Many(parts) => {
                parts.retain(|(known, _)| *known != edge);
                if !presence.is_offline() {
                    // By edge, so that activities keep their order however parts come in.
                    let place = parts.partition_point(|(known, _)| *known < edge);
                    parts.insert(place, (edge, presence));
                }
                if let [(edge, presence)] = &mut parts[..] {
                    *self = Self::One(*edge, std::mem::take(presence));
                }
            }
        }
        match self {
            Self::One(_, presence) => !presence.is_offline(),
            Self::Many(parts) => !parts.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::model::{Platform, Status};
    use proptest::prelude::*;

    use super::*;

    fn id(id: u64) -> Id<User> {
        Id::new(id).unwrap()
    }

    fn shows(status: Status) -> Presence {
        Presence::of_session(Platform::Web, status, None)
    }

    fn statuses(told: &[Told]) -> Vec<(u64, &'static str)> {
        let statuses = told
            .iter()
            .map(|told| (told.user.get(), told.now.status().name()));
        statuses.collect()
    }

    #[test]
    fn what_came_and_went_is_not_told() {
        let now = Instant::now();
        let mut presences = Presences::default();
        presences.set(1, id(5), shows(Status::Online), false);
        presences.set(1, id(6), shows(Status::Online), false);
        presences.remove(1, &[id(5)]);
        assert_eq!(statuses(&presences.flush(now)), [(6, "online")]);
        presences.set(2, id(6), shows(Status::Idle), false);
        assert_eq!(
            presences.flush(now),
            [],
            "the stronger status is shown already"
        );
        presences.set(1, id(6), shows(Status::Invisible), false);
        assert_eq!(statuses(&presences.flush(now)), [(6, "idle")]);
        assert!(!presences.is_due());
    }

    #[test]
    fn a_lost_edge_may_come_back_in_time() {
        let now = Instant::now();
        let mut presences = Presences::default();
        for user in [5, 6] {
            presences.set(1, id(user), shows(Status::Online), false);
        }
        presences.flush(now);
        presences.lose(now, 1, vec![id(5), id(6)]);
        assert!(presences.flush(now).is_empty() && presences.is_due());
        presences.set(2, id(5), shows(Status::Online), false);
        let told = presences.flush(now + LOST_GRACE);
        assert_eq!(statuses(&told), [(6, "offline")]);
        assert!(!presences.is_due());
        assert_eq!(presences.count(), 1);
    }

    #[test]
    fn whoever_another_owner_serves_is_not_told_of() {
        let now = Instant::now();
        let session = SessionState {
            id: [7; 16],
            status: Status::Online,
            platform: Platform::Web,
            activities: None,
        };
        let mut presences = Presences::default();
        presences.set(1, id(5), shows(Status::Online), false);
        presences.set_sessions(1, vec![session.clone()]);
        presences.flush(now);
        presences.take_sessions_changed();
        // What was not told yet goes with them.
        presences.set(1, id(5), shows(Status::Dnd), false);
        presences.set_sessions(1, vec![session.clone(), session.clone()]);
        presences.rename(id(5));
        presences.hand_over(1, &[id(5)]);
        assert!(!presences.is_due() && !presences.is_online(id(5)) && !presences.has_sessions());
        assert_eq!(presences.flush(now), []);
        // They come back, and leave.
        presences.set(1, id(5), shows(Status::Idle), false);
        presences.set_sessions(1, vec![session]);
        assert_eq!(statuses(&presences.flush(now)), [(5, "idle")]);
        assert!(presences.take_sessions_changed());
        presences.remove(1, &[id(5)]);
        assert_eq!(statuses(&presences.flush(now)), [(5, "offline")]);
        assert!(presences.take_sessions_changed());
    }

    #[test]
    fn an_edge_that_stays_is_told_of() {
        let now = Instant::now();
        let mut presences = Presences::default();
        for edge in [1, 2] {
            presences.set(edge, id(5), shows(Status::Idle), false);
        }
        presences.flush(now);
        presences.set(2, id(5), shows(Status::Online), false);
        presences.hand_over(1, &[id(5)]);
        assert_eq!(statuses(&presences.flush(now)), [(5, "online")]);
        presences.remove(2, &[id(5)]);
        assert_eq!(statuses(&presences.flush(now)), [(5, "offline")]);
    }

    #[test]
    fn those_who_vanished_with_the_owner_before_are_told_of() {
        let now = Instant::now();
        let mut presences = Presences::default();
        presences.set(1, id(5), shows(Status::Online), true);
        assert!(presences.flush(now).is_empty(), "others know");
        presences.recall([(id(5), shows(Status::Online)), (id(6), shows(Status::Dnd))]);
        assert_eq!(statuses(&presences.flush(now)), [(6, "offline")]);
    }

    #[test]
    fn a_storm_is_told_in_parts() {
        let now = Instant::now();
        let mut presences = Presences::default();
        let users: Vec<_> = (1..=20_000).map(id).collect();
        for &user in &users {
            presences.set(1, user, shows(Status::Online), false);
        }
        let (mut told, mut longest) = (0, 0);
        while presences.is_due() {
            let part = presences.flush(now).len();
            (told, longest) = (told + part, longest.max(part));
        }
        assert_eq!((told, longest), (20_000, FLUSH_USERS_MAX));
        presences.lose(now, 1, users);
        let (mut told, mut flushes) = (0, 0);
        while presences.is_due() {
            told += presences.flush(now + LOST_GRACE).len();
            flushes += 1;
            assert!(flushes < 100);
        }
        assert_eq!((told, presences.count()), (20_000, 0));
    }

    proptest! {
        /// Whoever heard everything that was told knows what each user shows.
        #[test]
        fn what_is_told_adds_up(
            steps in prop::collection::vec((0u64..3, 1u64..6, 0usize..5, any::<bool>()), 0..60),
        ) {
            let now = Instant::now();
            let statuses = [Status::Online, Status::Idle, Status::Dnd, Status::Invisible];
            let mut presences = Presences::default();
            let mut parts: BTreeMap<(EdgeId, u64), Presence> = BTreeMap::new();
            let mut heard: BTreeMap<u64, Presence> = BTreeMap::new();
            for (edge, user, what, flush) in steps {
                match statuses.get(what) {
                    Some(&status) => {
                        presences.set(edge, id(user), shows(status), false);
                        parts.insert((edge, user), shows(status));
                    }
                    None => {
                        presences.remove(edge, &[id(user)]);
                        parts.remove(&(edge, user));
                    }
                }
                if !flush {
                    continue;
                }
                for told in presences.flush(now) {
                    prop_assert_eq!(heard.get(&told.user.get()).cloned().unwrap_or_default(), told.before);
                    heard.insert(told.user.get(), told.now);
                }
                for user in 1..6 {
                    let mut expected = Presence::default();
                    for ((_, of), part) in &parts {
                        if *of == user {
                            expected.merge(part);
                        }
                    }
                    prop_assert_eq!(&presences.of(id(user)), &expected);
                    prop_assert_eq!(heard.get(&user).cloned().unwrap_or_default(), expected);
                }
                let online = heard.values().filter(|presence| !presence.is_offline()).count();
                prop_assert_eq!(presences.count(), online);
            }
        }
    }
}
