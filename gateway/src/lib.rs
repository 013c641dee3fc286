//! A gateway node: holds WebSocket sessions (edge) and serves the realms of its shards (owner).

pub mod bus;
pub mod codec;
pub mod dispatch;
pub mod session;
pub mod hub;
pub mod wire;
