//! Op 4 of a core's sessions. What is asked for is the node's to check and store.

use guildhall_shared::envelope::Envelope;
use serde::Deserialize;

use super::Core;
use crate::{
    bus::{ToNode, VoiceRequest},
    codec::VoiceCommand,
    names::{SessionId, SessionSlot},
};

impl Core {
    /// A client wants to enter, change or leave voice in a guild it is in; else nothing happens.
    pub(super) fn voice(&mut self, slot: SessionSlot, command: VoiceCommand) {
        let core = self.core_id();
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if session.guild_phase(command.guild).is_none() {
            return;
        }
        if command.channel.is_some() && !session.voice.contains(&command.guild) {
            session.voice.push(command.guild);
            session.recorded_at = None;
        }
        let request = VoiceRequest {
            session: session.key(slot),
            session_id: session.id.to_string(),
            user: session.user,
            command,
            ended: false,
        };
        self.outbox.push_back(ToNode::Voice { core, request });
    }

    /// A VOICE_SERVER_UPDATE in a user's realm is for the one session it names.
    pub(super) fn voice_server(&mut self, event: &Envelope, only: Option<SessionSlot>) {
        #[derive(Deserialize)]
        struct OfSession {
            session_id: String,
        }
        let Ok(OfSession { session_id }) = serde_json::from_slice(&event.body) else {
            return;
        };
        let slot = SessionId::parse(&session_id).and_then(|id| self.by_id.get(&id).copied());
        let Some(slot) = slot.filter(|&slot| only.is_none_or(|only| only == slot)) else {
            return;
        };
        let own = self
            .sessions
            .get(slot as usize)
            .is_some_and(|session| event.realm == session.user.cast());
        if own {
            self.dispatch_body(slot, event.kind, &event.body);
        }
    }
}
