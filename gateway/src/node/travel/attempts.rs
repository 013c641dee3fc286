//! Attempts to bring one session here: one after the other, and of those that wait only the last, as
//! its client gave up the others.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use guildhall_shared::token::TokenHash;
use rustc_hash::FxHashMap;
use tokio::sync::{Mutex, MutexGuard};

use crate::names::SessionId;

/// By session and token: who does not know its token is in nobody's way.
type Key = (SessionId, TokenHash);

/// See the module.
#[derive(Default)]
pub(super) struct Attempts {
    known: RefCell<FxHashMap<Key, Rc<Line>>>,
}

/// Attempts of one client.
#[derive(Default)]
struct Line {
    turn: Mutex<()>,
    /// The number of the last one.
    last: Cell<u64>,
}

/// One of them, until it is dropped.
pub(super) struct Attempt<'a> {
    all: &'a Attempts,
    key: Key,
    line: Rc<Line>,
    number: u64,
}

impl Attempts {
    /// A client resumes a session.
    pub(super) fn of(&self, session: SessionId, token: TokenHash) -> Attempt<'_> {
        let key = (session, token);
        let line = self.known.borrow_mut().entry(key).or_default().clone();
        let number = line.last.get() + 1;
        line.last.set(number);
        Attempt {
            all: self,
            key,
            line,
            number,
        }
    }
}

impl Attempt<'_> {
    /// Waits for the one before; `None`: its client has come again since.
    pub(super) async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = self.line.turn.lock().await;
        (self.line.last.get() == self.number).then_some(turn)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut known = self.all.known.borrow_mut();
        // Here and in the list: no other attempt has it.
        if Rc::strong_count(&self.line) == 2 {
            known.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Whether it is the turn of an attempt; `None`: it waits.
    fn is_its_turn(attempt: &Attempt<'_>) -> Option<bool> {
        let turn = attempt.turn().now_or_never();
        turn.map(|turn| turn.is_some())
    }

    #[test]
    fn of_attempts_that_wait_the_last_has_its_turn() {
        let attempts = Attempts::default();
        let session = SessionId::new(7, 0, [1; 10]);
        let of = |token| attempts.of(session, TokenHash([token; 32]));
        let first = of(1);
        let turn = first.turn().now_or_never().unwrap();
        assert!(turn.is_some());
        let second = of(1);
        assert_eq!(is_its_turn(&second), None);
        // Who has another token is in nobody's way.
        assert_eq!(is_its_turn(&of(2)), Some(true));
        let third = of(1);
        drop(turn);
        assert_eq!(is_its_turn(&second), Some(false));
        assert_eq!(is_its_turn(&third), Some(true));
        drop(first);
        drop(second);
        assert_eq!(attempts.known.borrow().len(), 1);
        drop(third);
        assert!(attempts.known.borrow().is_empty());
    }
}
