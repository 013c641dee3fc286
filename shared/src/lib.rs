//! What crosses a wire between Guildhall's processes and its clients.
//!
//! Pure: no I/O, no async, no clock of its own (`now` is passed in).

pub mod cluster_key;
pub mod cluster_map;
pub mod command_access;
pub mod envelope;
pub mod error_code;
pub mod gateway;
pub mod id;
pub mod keys;
pub mod listen;
pub mod model;
pub mod online;
mod openapi;
pub mod operator;
pub mod permissions;
pub mod secret;
pub mod shard;
pub mod snowflake;
pub mod timestamp;
pub mod token;
pub mod voice;

pub use id::Id;
pub use permissions::Permissions;
pub use timestamp::Timestamp;
