//! Faults at random on a cluster of real processes; see `cargo xtask chaos` and docs/chaos.md.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use e2e::chaos::{self, Options};

#[derive(Debug, Parser)]
struct Arguments {
    /// How many.
    #[arg(long, default_value_t = 150)]
    faults: usize,
    /// The same seed gives the same schedule; by chance if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// About how many clients there are.
    #[arg(long, default_value_t = 220)]
    sessions: usize,
    /// Gateways that are wrong in this way, to see that it is found.
    #[arg(long)]
    broken: Option<String>,
    /// The result as JSON, at the end of the output.
    #[arg(long)]
    json: bool,
}

/// Exit code 1 if anything was found.
#[tokio::main(worker_threads = 2)]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let options = Options {
        faults: arguments.faults,
        seed: arguments.seed.unwrap_or_else(rand::random),
        sessions: arguments.sessions,
        broken: arguments.broken,
    };
    let verdict = chaos::run(&options).await?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else {
        println!("\n{verdict}");
    }
    Ok(ExitCode::from(u8::from(!verdict.is_clean())))
}
