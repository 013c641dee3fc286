//! A gateway node: holds WebSocket sessions (edge) and serves the realms of its shards (owner).

mod admin;
pub mod bus;
pub mod codec;
pub mod compress;
pub mod config;
mod connection;
pub mod core;
#[cfg(test)]
mod decoder;
pub mod dispatch;
pub mod format;
mod handshake;
pub mod hub;
mod listener;
pub mod node;
pub mod server;
pub mod session;
pub mod telemetry;
pub mod wire;
