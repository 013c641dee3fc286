//! What the end-to-end tests stand on: a cluster of real processes, a proxy that breaks
//! connections, a REST client and a gateway client that record what they are told.
//!
//! The clients here are written against the protocol, not against the servers' own types, and
//! check every frame they receive ([`wire`]). Nothing here is part of a running Guildhall.
//!
//! `cargo xtask test` builds the servers and runs these tests with all others; by hand, build the
//! three servers, then `cargo test -p e2e`. `E2E_LOG` is the servers' `RUST_LOG`; a failing test
//! shows the ends of their logs and keeps the folder.

pub mod chaos;
pub mod client;
pub mod cluster;
pub mod conformance;
pub mod figures;
pub mod ledger;
pub mod proxy;
pub mod rest;
pub mod session;
pub mod wait;
pub mod wire;
pub mod world;
