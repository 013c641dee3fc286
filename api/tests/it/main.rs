//! The API over HTTP, on a real Postgres (`DATABASE_URL`) and Redis (`REDIS_URL`).

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: by a panic"
)]

mod accounts;
mod applications;
mod audit_log;
mod bans;
mod channels;
mod conformance;
mod endpoint;
mod farewell;
mod guild_features;
mod guilds;
mod harness;
mod http;
mod instance;
mod invites;
mod log;
mod mail_server;
mod mails;
mod members;
mod messages;
mod mfa;
mod oauth2;
mod operator;
mod pins;
mod publishing;
mod rate_limits;
mod reactions;
mod relationships;
mod roles;
mod scheduled_events;
mod schema;
mod sessions;
mod settings;
mod templates;
mod users;
mod voice;
