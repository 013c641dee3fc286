//! Bytes from clients to commands, and the payloads that are not dispatches.

mod command;
pub mod etf;
mod ids;
mod json;
mod presence;
mod questions;
mod watch;

pub use command::{
    ActivityCommand, Command, Identify, MembersCommand, PresenceCommand, Resume, VoiceCommand,
    WatchCommand,
};
pub use json::{invalid_session, parse};

use guildhall_shared::gateway::CloseCode;

use crate::format::Encoding;

/// HELLO with the customary interval. All four keys are there, `t`, `s`, `op` before `d`:
/// some libraries index `s` of every payload, one finds the keys by their first occurrence.
pub const HELLO: &str =
    r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,"_trace":[]}}"#;
pub const HEARTBEAT_ACK: &str = r#"{"t":null,"s":null,"op":11,"d":null}"#;
pub const RECONNECT: &str = r#"{"t":null,"s":null,"op":7,"d":null}"#;

/// Reads one command; `message` is overwritten.
///
/// Errors: 4002 for what is not an object with an opcode, 4001 for an unknown opcode. What is wrong
/// with a command is said in its place, as where the client stands may come first.
pub fn read(encoding: Encoding, message: &mut [u8]) -> Result<Command, CloseCode> {
    match encoding {
        Encoding::Json => json::parse(message),
        Encoding::Etf => etf::parse(message),
    }
}
