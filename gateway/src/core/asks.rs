//! Commands of identified sessions, what they ask of owners, and what a session alone is told.

use bytes::Bytes;
use guildhall_shared::{Id, gateway::EventKind, id::marker::Guild};

use super::Core;
use crate::{
    bus::{Address, Ask, Question, SessionKey, SessionSlot, ToNode},
    codec::Command,
};

impl Core {
    /// A client whose session is live sent a command.
    pub(super) fn command(&mut self, connection: SessionKey, command: Command) {
        let slot = self
            .connection(connection)
            .and_then(|connection| connection.session);
        let Some(slot) = slot else { return };
        match command {
            Command::Presence(presence) => self.set_presence(slot, &presence),
            Command::Watch(watches) => self.watch(slot, watches),
            Command::Voice(voice) => self.voice(slot, *voice),
            Command::Sounds(guilds) => {
                for guild in guilds {
                    self.ask(slot, guild, Question::Sounds);
                }
            }
            // The connection's life has seen to these.
            Command::Heartbeat
            | Command::Identify(_)
            | Command::Resume(_)
            | Command::Malformed(_)
            | Command::Other => {}
        }
    }

    /// Asks the owner of a guild that the session is in; of others nothing is told.
    pub(super) fn ask(&mut self, slot: SessionSlot, guild: Id<Guild>, question: Question) {
        let core = self.core_id();
        let Some(session) = self.sessions.get(slot as usize) else {
            return;
        };
        if session.guild_phase(guild).is_none() {
            return;
        }
        self.outbox.push_back(ToNode::Ask(Box::new(Ask {
            guild,
            from: Address {
                core,
                session: session.key(slot),
            },
            user: session.user,
            intents: session.intents.bits(),
            question,
        })));
    }

    /// Dispatches that the node or an owner made for one session.
    pub(super) fn told(&mut self, key: SessionKey, dispatches: Vec<(EventKind, Bytes)>) {
        let known = self
            .sessions
            .get(key.slot as usize)
            .is_some_and(|session| session.key(key.slot) == key);
        if known {
            for (kind, body) in dispatches {
                self.dispatch_body(key.slot, kind, &body);
            }
        }
    }
}
