//! A gateway node: holds WebSocket sessions (edge) and serves the realms of its shards (owner).

mod admin;
pub mod ask;
#[doc(hidden)]
pub mod broken;
pub mod bus;
mod clock;
pub mod codec;
pub mod compress;
pub mod config;
mod connection;
pub mod core;
#[cfg(test)]
mod decoder;
pub mod delivery;
pub mod dispatch;
#[cfg(feature = "echo")]
pub mod echo;
pub mod few;
pub mod format;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod handshake;
pub mod hub;
pub mod identity;
mod listener;
pub mod metrics;
pub mod names;
pub mod node;
pub mod server;
pub mod session;
#[cfg(feature = "simulated")]
pub mod simulated;
mod socket;
pub mod status;
pub mod telemetry;
pub mod wire;
