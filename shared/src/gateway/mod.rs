//! The gateway's own vocabulary. Spec: gateway.md.

mod capabilities;
mod close_code;
mod event;
mod intents;
mod opcode;
pub mod session_starts;

pub use capabilities::Capabilities;
pub use close_code::CloseCode;
pub use event::EventKind;
pub use intents::Intents;
pub use opcode::Opcode;

/// Time between a client's heartbeats, as HELLO states it.
pub const HEARTBEAT_INTERVAL_MS: u64 = 41_250;
/// The gateway version we speak (9 is answered alike).
pub const VERSION: u8 = 10;
