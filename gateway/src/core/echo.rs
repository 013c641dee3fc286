//! What a core does in echo mode: see [`crate::echo`].

use super::Core;
use crate::{dispatch::Frame, names::SessionKey, wire::Inbound};

impl Core {
    /// Sends a message back; gives back what is none, or all of it outside of echo mode.
    pub(super) fn echo(&mut self, key: SessionKey, inbound: Inbound) -> Option<Inbound> {
        let (frame, payload) = match inbound {
            Inbound::Text(payload) if self.config.echo => (Frame::Text, payload),
            Inbound::Binary(payload) if self.config.echo => (Frame::Binary, payload),
            other => return Some(other),
        };
        self.send(key.slot, |now, stream, out| {
            out.echo(now, stream, frame, &payload)
        });
        None
    }
}
