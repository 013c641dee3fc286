//! `guildhall-gateway-broken`: the gateway, wrong in the way that `GUILDHALL_BROKEN` names; see
//! src/broken.rs.

use clap::Parser;
use guildhall_gateway::{config::Config, server};
use tracing_subscriber::EnvFilter;

fn main() -> std::process::ExitCode {
    let config = Config::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match server::run(config) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the gateway stops");
            std::process::ExitCode::FAILURE
        }
    }
}
