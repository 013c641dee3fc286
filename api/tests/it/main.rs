//! The API over HTTP, on a real Postgres (`DATABASE_URL`) and Redis (`REDIS_URL`).

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: by a panic"
)]

mod accounts;
mod applications;
mod attachments;
mod audit_log;
mod automod;
mod bans;
mod channels;
mod commands;
mod conformance;
mod dms;
mod emojis;
mod endpoint;
mod era;
mod farewell;
mod fuzz;
mod guild_features;
mod guilds;
mod harness;
mod http;
mod instance;
mod interactions;
mod invites;
mod log;
mod logs;
mod mail_server;
mod mails;
mod media;
mod members;
mod message_parts;
mod message_writer;
mod messages;
mod mfa;
mod nulls;
mod oauth2;
mod operator;
mod permission_matrix;
mod pins;
mod plans;
mod polls;
mod prune;
mod publishing;
mod rate_limits;
mod reactions;
mod read_states;
mod relationships;
mod renewed_keys;
mod roles;
mod s3;
mod scheduled_events;
mod schema;
mod search;
mod sessions;
mod settings;
mod soundboard;
mod stickers;
mod templates;
mod threads;
mod unread;
mod users;
mod voice;
mod webhooks;
