//! Bots read from the database a moment ago, by token: the shards of a large bot identify one
//! after the other with one token, and after a fault all of them do.
//!
//! What is remembered is a list of guilds at a position of the bot's realm, whose later events
//! follow READY: a guild joined or left is such an event. Whether the token still stands is read
//! each time. People are not remembered: their READY holds what no event of their realm tells of.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use guildhall_shared::{Id, id::marker::Guild, shard::Position, token::TokenHash};

/// How long a bot is remembered. Much shorter than events are kept (30 minutes).
pub(crate) const AGE_MAX: Duration = Duration::from_secs(30);
/// Bytes remembered, about; when full, the oldest go.
const BYTES_MAX: usize = 32 << 20;
/// What a bot without guilds takes, about.
const BYTES_EACH: usize = 256;

/// A bot's guilds at a position of its realm.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) position: Position,
    /// Of all its shards, ascending.
    pub(crate) guilds: Vec<Id<Guild>>,
}

#[derive(Default)]
pub(crate) struct Identities {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<TokenHash, Known>,
    /// In the order of their age; an entry that was replaced meanwhile has another time.
    order: VecDeque<(Instant, TokenHash)>,
    bytes: usize,
}

struct Known {
    since: Instant,
    standing: Rc<Standing>,
}

impl Identities {
    /// The guilds of a token's bot, if they were read at most [`AGE_MAX`] ago.
    pub(crate) fn get(&self, token: TokenHash, now: Instant) -> Option<Rc<Standing>> {
        let state = self.state.borrow();
        let known = state.known.get(&token)?;
        (now.duration_since(known.since) <= AGE_MAX).then(|| known.standing.clone())
    }

    /// Remembers the guilds of a token's bot.
    pub(crate) fn put(&self, token: TokenHash, standing: Rc<Standing>, now: Instant) {
        let mut state = self.state.borrow_mut();
        state.bytes += bytes_of(&standing);
        state.order.push_back((now, token));
        let since = now;
        if let Some(before) = state.known.insert(token, Known { since, standing }) {
            state.bytes -= bytes_of(&before.standing);
        }
        state.forget_old(now);
    }

    /// Gives the memory of what is too old back.
    pub(crate) fn sweep(&self, now: Instant) {
        self.state.borrow_mut().forget_old(now);
    }
}

impl State {
    fn forget_old(&mut self, now: Instant) {
        while let Some(&(since, token)) = self.order.front() {
            if now.duration_since(since) <= AGE_MAX && self.bytes <= BYTES_MAX {
                break;
            }
            self.order.pop_front();
            if self
                .known
                .get(&token)
                .is_some_and(|known| known.since == since)
                && let Some(known) = self.known.remove(&token)
            {
                self.bytes -= bytes_of(&known.standing);
            }
        }
        if self.order.is_empty() {
            *self = Self::default();
        }
    }
}

fn bytes_of(standing: &Standing) -> usize {
    BYTES_EACH + standing.guilds.len() * size_of::<Id<Guild>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(guilds: u64) -> Rc<Standing> {
        Rc::new(Standing {
            position: Position { era: 1, seq: 1 },
            guilds: (1..=guilds).filter_map(Id::new).collect(),
        })
    }

    fn token(n: u8) -> TokenHash {
        TokenHash([n; 32])
    }

    #[test]
    fn bots_are_remembered_for_a_moment() {
        let (identities, t0) = (Identities::default(), Instant::now());
        identities.put(token(1), standing(3), t0);
        assert!(identities.get(token(1), t0 + AGE_MAX).is_some());
        assert!(identities.get(token(2), t0).is_none());
        let late = t0 + AGE_MAX + Duration::from_millis(1);
        assert!(identities.get(token(1), late).is_none());
        identities.sweep(late);
        let state = identities.state.borrow();
        assert_eq!((state.known.len(), state.bytes), (0, 0));
    }

    #[test]
    fn what_was_read_again_is_as_old_as_that() {
        let (identities, t0) = (Identities::default(), Instant::now());
        identities.put(token(1), standing(3), t0);
        identities.put(token(1), standing(4), t0 + AGE_MAX);
        identities.sweep(t0 + AGE_MAX + Duration::from_secs(1));
        let known = identities.get(token(1), t0 + AGE_MAX * 2).unwrap();
        assert_eq!(known.guilds.len(), 4);
        assert_eq!(identities.state.borrow().bytes, bytes_of(&known));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let (identities, t0) = (Identities::default(), Instant::now());
        let guilds = BYTES_MAX as u64 / 8 / 3;
        for n in 0..4 {
            identities.put(token(n), standing(guilds), t0);
        }
        assert!(identities.get(token(0), t0).is_none());
        assert!(identities.get(token(3), t0).is_some());
        assert!(identities.state.borrow().bytes <= BYTES_MAX);
    }
}
