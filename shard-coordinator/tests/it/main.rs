//! Coordinators on real Postgres and Redis. Each test has its own database and its own
//! Redis database number; channels are shared, so no test listens on one.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step fails its test, also in the harness"
)]

mod cluster;
mod dashboard;
mod guildctl;
mod harness;
mod motion;
mod operators;
