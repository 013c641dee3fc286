//! Load generators: what they share. A scenario is a subcommand, in
//! `src/scenarios`.
//!
//! Everything here is bounded in count and time. Never part of a server.

pub mod child;
pub mod clients;
pub mod context;
pub mod crowd;
pub mod floor;
pub mod lag;
pub mod naive;
pub mod process;
pub mod readers;
pub mod report;
pub mod rest;
pub mod stage;
pub mod statistics;
pub mod swarm;
pub mod world;
