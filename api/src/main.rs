//! `guildhall-api`: serves REST, migrates the database, signs operator tokens, imports sticker packs.

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::Parser;
use guildhall_api::{
    app::{self, App, StartError},
    auth::{self, Audience},
    config::{Config, LogFormat, MigrateConfig, OperatorTokenConfig},
    http, migrate, sticker_packs, telemetry,
};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Guildhall's REST API.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How log lines look; RUST_LOG chooses which.
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true
    )]
    log_format: LogFormat,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve requests until SIGTERM (the default).
    Serve(Box<Config>),
    /// Bring the database's schema up to date. Safe to run at any time, from anywhere.
    Migrate(MigrateConfig),
    /// Print a token for the operator endpoints.
    OperatorToken(OperatorTokenConfig),
    /// The packs of standard stickers that everybody on this server may use.
    StickerPacks(Box<sticker_packs::Config>),
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(with_default_command(std::env::args_os()));
    telemetry::init(cli.log_format);
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// `guildhall-api [--settings]` means `guildhall-api serve [--settings]`.
fn with_default_command(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
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

#[tokio::main]
async fn run(command: Command) -> Result<(), StartError> {
    match command {
        Command::Serve(config) => serve(*config).await,
        Command::Migrate(config) => migrate::run(&config).await,
        Command::OperatorToken(config) => {
            let lifetime = Duration::from_secs(60 * u64::from(config.minutes));
            let key = &config.cluster_key;
            let token = auth::sign_token(key, Audience::Operator, &config.name, lifetime)?;
            println!("{token}");
            Ok(())
        }
        Command::StickerPacks(config) => {
            println!("{}", sticker_packs::run(*config).await?);
            Ok(())
        }
    }
}

async fn serve(config: Config) -> Result<(), StartError> {
    let signal = http::stop_signal().map_err(StartError::Listen)?;
    let db = app::pool(&config)?;
    migrate::check(&db, config.cluster_shards).await?;
    let listener = http::listen(config.listen).map_err(StartError::Listen)?;
    let app = App::start(config, db).await?;
    tracing::info!(address = %app.config.listen, "serving");

    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        signal.await;
        tracing::info!("stopping: running requests are finished first");
        asked.cancel();
    });
    http::serve(listener, app.clone(), stop).await;
    app.shut_down().await;
    tracing::info!("stopped");
    Ok(())
}
