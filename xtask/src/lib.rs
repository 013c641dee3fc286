//! Commands of the repository, and the private servers its tests run on.
//!
//! [`servers`] starts Postgres and Redis that belong to the caller alone; the
//! end-to-end tests use it too. Everything else serves `cargo xtask`.
//!
//! Nothing here is part of a running Guildhall: the servers know neither this
//! crate nor the folders it makes.

pub mod cli;
pub mod install;
pub mod interrupt;
pub mod ports;
pub mod process;
pub mod servers;

mod autobahn;
mod bench;
mod cargo;
mod chaos;
mod cluster;
mod conformance;
mod counts;
mod figures;
mod fuzz;
mod http;
mod instructions;
mod layout;
mod seed;
mod simulate;
mod sqlx;
mod test;
mod up;
mod wrapper;
