//! How cores, their sessions and their connections are named.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which core of this process, 0-based.
pub type CoreId = u16;
/// A session's place in its core. Reused: goes with a generation.
pub type SessionSlot = u32;
/// One of the sessions that a person may have at once.
pub type Seat = u64;

/// A session of one core; stale keys point at nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    pub slot: SessionSlot,
    pub generation: u32,
}

/// A session of this node, as owners know where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    pub core: CoreId,
    pub session: SessionKey,
}

/// A session's name: opaque to clients, but it says which start of which node and which
/// core of it made it, so that a RESUME finds its core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId([u8; 16]);

impl SessionId {
    pub fn new(boot: u32, core: CoreId, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&boot.to_be_bytes());
        bytes[4..6].copy_from_slice(&core.to_be_bytes());
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }

    /// From 32 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    pub fn boot(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }

    pub fn core(self) -> CoreId {
        CoreId::from_be_bytes([self.0[4], self.0[5]])
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_names_its_core() {
        let id = SessionId::new(0xDEAD_BEEF, 3, [9; 10]);
        let again = SessionId::parse(&id.to_string()).unwrap();
        assert_eq!(again, id);
        assert_eq!((again.boot(), again.core()), (0xDEAD_BEEF, 3));
        assert_eq!(id.to_string().len(), 32);
        assert!(SessionId::parse("short").is_none());
    }
}
