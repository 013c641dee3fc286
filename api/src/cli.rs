//! The command line of `guildhall-api`.

use std::ffi::OsString;

use clap::Parser;

use crate::{
    config::{Config, LogFormat, MigrateConfig, OperatorTokenConfig, RaiseEraConfig},
    sticker_packs,
};

/// Guildhall's REST API.
#[derive(Debug, Parser)]
#[command(name = "guildhall-api", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// How log lines look; RUST_LOG chooses which.
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true
    )]
    pub log_format: LogFormat,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Serve requests until SIGTERM (the default).
    Serve(Box<Config>),
    /// Bring the database's schema up to date. Safe to run at any time, from anywhere.
    Migrate(MigrateConfig),
    /// After a restore from a back-up: raise the era of every realm, so that no client goes on
    /// with a past that is gone. With all processes stopped.
    RaiseEra(RaiseEraConfig),
    /// Print a token for the operator endpoints.
    OperatorToken(OperatorTokenConfig),
    /// The packs of standard stickers that everybody on this server may use.
    StickerPacks(Box<sticker_packs::Config>),
}

/// `guildhall-api [--settings]` means `guildhall-api serve [--settings]`.
pub fn with_default_command(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let first = args.get(1).and_then(|arg| arg.to_str());
    let is_named = match first {
        Some("-h" | "--help" | "-V" | "--version") => true,
        Some(arg) => !arg.starts_with('-'),
        None => false,
    };
    if !is_named && !args.is_empty() {
        args.insert(1, "serve".into());
    }
    args
}
