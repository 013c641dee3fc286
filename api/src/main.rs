//! `guildhall-api`: serves REST; `cli.rs` says what else.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use guildhall_api::{
    app::App,
    auth::{self, Audience},
    cli::{Cli, Command, with_default_command},
    config::Config,
    era,
    http::{self, Listeners},
    migrate,
    start::{self, StartError},
    sticker_packs, telemetry,
};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

#[tokio::main]
async fn run(command: Command) -> Result<(), StartError> {
    match command {
        Command::Serve(config) => serve(*config).await,
        Command::Migrate(config) => migrate::run(&config).await,
        Command::RaiseEra(config) => {
            println!("era of {} realms raised", era::raise(&config).await?);
            Ok(())
        }
        Command::OperatorToken(config) => {
            let lifetime = Duration::from_secs(60 * u64::from(config.minutes));
            let key = config.key()?;
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
    let db = start::pool(&config)?;
    migrate::check(&db, config.cluster_shards).await?;
    let listeners = Listeners::open(&config)?;
    let app = App::start(config, db).await?;
    tracing::info!(address = %app.config.listen, "serving");
    if let Some(address) = app.config.internal_listen {
        tracing::info!(%address, "serving operators");
    }

    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        signal.await;
        tracing::info!("stopping: running requests are finished first");
        asked.cancel();
    });
    http::serve(listeners, app.clone(), stop).await;
    app.shut_down().await;
    tracing::info!("stopped");
    Ok(())
}
