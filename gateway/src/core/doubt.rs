//! Copies of sessions that may go on elsewhere: Redis, which would say so, has lost something.
//!
//! A client that answers on its connection has not gone elsewhere; a WebSocket ping asks it. Until
//! it has answered, and for good if it has no connection, its session is not resumed here, not
//! handed on, and not in the delivery log.

use std::collections::VecDeque;

use super::{Core, clock};
use crate::names::{SessionKey, SessionSlot};

/// Clients asked at one tick.
const ASKED_MAX: usize = 5000;

/// What is asked, and whom.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Number of the last loss that this core was told of.
    loss: u64,
    /// What a client has to say to be asked no more.
    word: u64,
    /// Connections of clients to ask.
    waiting: VecDeque<SessionKey>,
}

impl Doubt {
    pub(super) fn loss(&self) -> u64 {
        self.loss
    }
}

impl Core {
    /// Redis lost some of what it was told. `doubt`: nobody can tell which sessions go on elsewhere.
    pub(super) fn redis_forgot(&mut self, doubt: bool, loss: u64) {
        // What was recorded without the doubt is told apart from what follows.
        self.log_deliveries();
        self.doubt.loss = loss;
        self.tell_states_again();
        if !doubt {
            return;
        }
        let mut connections = Vec::new();
        for (_, session) in &mut self.sessions {
            session.doubted = true;
            connections.extend(session.connection);
        }
        let keys = connections.into_iter();
        let keys = keys.filter_map(|slot| self.connection_key(slot)).collect();
        self.doubt.word = clock::random();
        self.doubt.waiting = keys;
        self.tick_doubt();
    }

    /// Asks those who wait for it.
    pub(super) fn tick_doubt(&mut self) {
        let word = self.doubt.word.to_be_bytes();
        for _ in 0..ASKED_MAX {
            let Some(key) = self.doubt.waiting.pop_front() else {
                self.doubt.waiting = VecDeque::new();
                return;
            };
            if self.connection(key).is_some() {
                self.send(key.slot, |now, stream, out| out.ping(now, stream, &word));
            }
        }
    }

    /// A client answered a ping.
    pub(super) fn answers_doubt(&mut self, key: SessionKey, payload: &[u8]) {
        if payload != self.doubt.word.to_be_bytes() {
            return;
        }
        let session = self.connection(key).and_then(|of| of.session);
        if let Some(slot) = session
            && self.is_doubted(slot)
        {
            self.sessions[slot as usize].doubted = false;
            self.record(slot);
        }
    }

    fn is_doubted(&self, slot: SessionSlot) -> bool {
        let session = self.sessions.get(slot as usize);
        session.is_some_and(|session| session.doubted)
    }
}
