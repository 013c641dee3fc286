//! The API tier: REST in front of Postgres.
//!
//! Every change is stored together with the number of its event; nothing here waits for
//! Redis or a gateway. Never talks to clients' sockets: that is the gateway.

mod access;
mod account;
pub mod app;
mod audit;
pub mod auth;
mod automod;
mod caller;
pub mod cli;
mod collect;
pub mod config;
mod deeds;
mod emoji;
pub mod era;
pub mod error;
pub mod events;
mod extract;
mod form;
#[doc(hidden)]
pub mod fuzz;
mod housekeeping;
pub mod http;
mod integration;
mod keys;
mod mail;
mod media;
mod message_writer;
pub mod migrate;
mod oauth;
mod online;
mod openapi;
mod outgoing;
mod passwords;
mod pictures;
mod rate_limit;
mod request;
mod routes;
mod rows;
mod sealed;
mod second_factor;
mod seen;
mod sessions;
mod signing;
mod snowflakes;
mod socket;
pub mod start;
pub mod sticker_packs;
pub mod telemetry;
mod text;
mod tickets;
mod token_cache;
mod upload;
