//! What has happened in a guild, as its writer knows it: what every client is held to. Nothing here
//! is computed as gateways do it.

use std::collections::BTreeMap;

use guildhall_shared::id::Id;
use guildhall_shared::id::marker::{Channel, User};

/// Something that is or is not, from each of these numbers on.
type Turns = Vec<(u64, bool)>;

/// See the module. Numbers are the guild's.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Of the newest event.
    pub(crate) seq: u64,
    /// Messages by channel, ascending.
    messages: BTreeMap<Id<Channel>, Vec<u64>>,
    /// Only moderators see it.
    hidden: BTreeMap<Id<Channel>, Turns>,
    moderators: BTreeMap<Id<User>, Turns>,
    members: BTreeMap<Id<User>, Turns>,
}

impl History {
    pub(crate) fn channel(&mut self, channel: Id<Channel>) {
        self.messages.insert(channel, Vec::new());
        self.hidden.insert(channel, vec![(0, false)]);
    }

    pub(crate) fn member(&mut self, user: Id<User>, moderator: bool) {
        self.members.insert(user, vec![(0, true)]);
        self.moderators.insert(user, vec![(0, moderator)]);
    }

    pub(crate) fn wrote(&mut self, seq: u64, channel: Id<Channel>) {
        self.seq = seq;
        self.messages.entry(channel).or_default().push(seq);
    }

    pub(crate) fn hid(&mut self, seq: u64, channel: Id<Channel>, hidden: bool) {
        self.seq = seq;
        self.hidden.entry(channel).or_default().push((seq, hidden));
    }

    pub(crate) fn gave_role(&mut self, seq: u64, user: Id<User>, moderator: bool) {
        self.seq = seq;
        let turns = self.moderators.entry(user).or_default();
        turns.push((seq, moderator));
    }

    /// Who comes has no role.
    pub(crate) fn moved(&mut self, seq: u64, user: Id<User>, joined: bool) {
        self.seq = seq;
        self.members.entry(user).or_default().push((seq, joined));
        if joined {
            self.gave_role(seq, user, false);
        }
    }

    pub(crate) fn is_hidden(&self, channel: Id<Channel>) -> bool {
        at(self.hidden.get(&channel), self.seq)
    }

    pub(crate) fn is_moderator(&self, user: Id<User>) -> bool {
        at(self.moderators.get(&user), self.seq)
    }

    pub(crate) fn is_member(&self, user: Id<User>) -> bool {
        at(self.members.get(&user), self.seq)
    }

    pub(crate) fn members(&self) -> Vec<Id<User>> {
        let members = self.members.keys().copied();
        members.filter(|&user| self.is_member(user)).collect()
    }

    /// Channels that a user sees now.
    pub(crate) fn seen_by(&self, user: Id<User>) -> Vec<Id<Channel>> {
        let channels = self.messages.keys().copied();
        channels
            .filter(|&channel| self.sees(user, channel, self.seq))
            .collect()
    }

    /// Whether a user saw a channel right after this event.
    fn sees(&self, user: Id<User>, channel: Id<Channel>, seq: u64) -> bool {
        at(self.members.get(&user), seq)
            && (!at(self.hidden.get(&channel), seq) || at(self.moderators.get(&user), seq))
    }

    /// Whether a user saw a channel right after this event or after a later one.
    pub(crate) fn saw_since(&self, user: Id<User>, channel: Id<Channel>, seq: u64) -> bool {
        let turns = [
            self.members.get(&user),
            self.moderators.get(&user),
            self.hidden.get(&channel),
        ];
        let turns = turns.into_iter().flatten().flatten().map(|&(at, _)| at);
        let mut later = turns.filter(|&at| at > seq);
        self.sees(user, channel, seq) || later.any(|at| self.sees(user, channel, at))
    }

    /// The first message of a channel after this number.
    pub(crate) fn next_message(&self, channel: Id<Channel>, after: u64) -> Option<u64> {
        let messages = self.messages.get(&channel)?;
        let next = messages.partition_point(|&seq| seq <= after);
        messages.get(next).copied()
    }

    pub(crate) fn last_message(&self, channel: Id<Channel>) -> u64 {
        let messages = self.messages.get(&channel);
        messages.and_then(|all| all.last()).copied().unwrap_or(0)
    }
}

fn at(turns: Option<&Turns>, seq: u64) -> bool {
    let turns = turns.into_iter().flatten();
    let before = turns.take_while(|&&(from, _)| from <= seq);
    before.last().is_some_and(|&(_, is)| is)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    #[test]
    fn who_saw_what_is_a_matter_of_roles_and_of_what_is_hidden() {
        let mut history = History::default();
        history.channel(id(1));
        history.member(id(10), false);
        history.member(id(11), true);
        history.wrote(1, id(1));
        history.hid(2, id(1), true);
        history.wrote(3, id(1));
        assert!(history.saw_since(id(10), id(1), 1));
        assert!(!history.saw_since(id(10), id(1), 3));
        assert!(history.saw_since(id(11), id(1), 3));
        history.gave_role(4, id(10), true);
        assert!(history.saw_since(id(10), id(1), 3));
        history.moved(5, id(10), false);
        assert_eq!(history.seen_by(id(10)), []);
        assert_eq!(history.seen_by(id(11)), [id(1)]);
        assert_eq!(history.next_message(id(1), 1), Some(3));
        assert_eq!(history.next_message(id(1), 3), None);
    }
}
