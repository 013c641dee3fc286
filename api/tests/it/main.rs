//! The API over HTTP, on a real Postgres (`DATABASE_URL`) and Redis (`REDIS_URL`).

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: by a panic"
)]

mod accounts;
mod applications;
mod audit_log;
mod channels;
mod conformance;
mod endpoint;
mod guilds;
mod harness;
mod http;
mod invites;
mod log;
mod members;
mod messages;
mod oauth2;
mod operator;
mod pins;
mod publishing;
mod rate_limits;
mod reactions;
mod roles;
mod schema;
mod users;
