//! What the end-to-end tests stand on: a cluster of real processes, a proxy that breaks
//! connections, a REST client and a gateway client that record what they are told.
//!
//! The clients here are written against the protocol, not against the servers' own types, and
//! check every frame they receive ([`wire`]). Nothing here is part of a running Guildhall.

pub mod client;
pub mod cluster;
pub mod ledger;
pub mod proxy;
pub mod rest;
pub mod session;
pub mod wait;
pub mod wire;
pub mod world;
