//! Requests of a core on their way to the node, which may take nothing for a while.
//!
//! Of those that say how something is to be from now on only the newest waits: however long it takes
//! and whatever clients go on to send, there is one for each user, session and guild.

use std::collections::VecDeque;

use guildhall_shared::{
    Id,
    id::marker::{Guild, User},
};
use rustc_hash::FxHashMap;

use crate::{bus::ToNode, names::SessionKey};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// In their order; `None`: a newer one has come for it.
    waiting: VecDeque<Option<ToNode>>,
    /// How many of them are `None`.
    gaps: usize,
    /// Number of the first.
    first: u64,
    /// Numbers of those of which only the newest waits.
    newest: FxHashMap<Topic, u64>,
}

/// What a request is the last word on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Presence(Id<User>),
    Watch(SessionKey, Id<Guild>),
    Voice(SessionKey, Id<Guild>),
}

impl Topic {
    fn of(request: &ToNode) -> Option<Self> {
        match request {
            ToNode::Presence { user, .. } => Some(Self::Presence(*user)),
            ToNode::Watch(change) => Some(Self::Watch(change.from.session, change.guild)),
            ToNode::Voice { request, .. } => {
                Some(Self::Voice(request.session, request.command.guild))
            }
            _ => None,
        }
    }
}

impl Outbox {
    pub(super) fn push_back(&mut self, request: ToNode) {
        if let Some(topic) = Topic::of(&request) {
            self.take(topic);
            let number = self.first + self.waiting.len() as u64;
            self.newest.insert(topic, number);
        }
        self.waiting.push_back(Some(request));
    }

    /// Takes out what waits on a topic.
    pub(super) fn take(&mut self, topic: Topic) -> Option<ToNode> {
        let place = self.newest.remove(&topic)? - self.first;
        let request = self.waiting.get_mut(place as usize)?.take()?;
        self.gaps += 1;
        if 2 * self.gaps > self.waiting.len() {
            self.close_gaps();
        }
        Some(request)
    }

    fn close_gaps(&mut self) {
        self.waiting.retain(Option::is_some);
        self.gaps = 0;
        self.newest.clear();
        for (number, request) in (self.first..).zip(&self.waiting) {
            if let Some(topic) = request.as_ref().and_then(Topic::of) {
                self.newest.insert(topic, number);
            }
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<ToNode> {
        loop {
            let first = self.waiting.pop_front()?;
            self.first += 1;
            let Some(request) = first else {
                self.gaps -= 1;
                continue;
            };
            if let Some(topic) = Topic::of(&request) {
                self.newest.remove(&topic);
            }
            return Some(request);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() - self.gaps
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ask::WatchChange, names::Address};

    fn watch(session: u32, guild: u64) -> ToNode {
        let session = SessionKey {
            slot: session,
            generation: 1,
        };
        ToNode::Watch(Box::new(WatchChange {
            guild: Id::new(guild).unwrap(),
            from: Address { core: 0, session },
            user: Id::new(1).unwrap(),
            watch: None,
        }))
    }

    fn stored(number: u64) -> ToNode {
        ToNode::Delivered {
            core: 0,
            number,
            chunk: Default::default(),
            loss: 0,
        }
    }

    /// Of a watch its session and guild, else its number.
    fn name(request: &ToNode) -> (u64, u64) {
        match request {
            ToNode::Watch(change) => (change.from.session.slot.into(), change.guild.get()),
            ToNode::Delivered { number, .. } => (0, *number),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_newest_of_each_topic_waits_and_all_the_rest_in_its_order() {
        let mut outbox = Outbox::default();
        let mut expected: Vec<(u64, u64)> = Vec::new();
        for round in 0..100 {
            for request in [
                watch(1, 5),
                stored(2 * round),
                watch(2, 5),
                stored(2 * round + 1),
                watch(1 + (round % 3) as u32, 6),
            ] {
                let name = name(&request);
                expected.retain(|known| *known != name);
                expected.push(name);
                outbox.push_back(request);
                assert_eq!(outbox.len(), expected.len());
                assert!(outbox.waiting.len() <= 2 * outbox.len());
            }
            if round % 4 == 0 {
                let first = outbox.pop_front().unwrap();
                assert_eq!(name(&first), expected.remove(0));
            }
        }
        let rest = std::iter::from_fn(|| outbox.pop_front());
        let rest: Vec<_> = rest.map(|request| name(&request)).collect();
        assert_eq!(rest, expected);
        assert!(outbox.is_empty() && outbox.newest.is_empty());
    }
}
