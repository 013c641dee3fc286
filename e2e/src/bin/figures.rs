//! What moves, kills and revocations cost sessions; see `cargo xtask figures` and docs/figures.md.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use e2e::figures::{self, Figure};

#[derive(Debug, Parser)]
struct Arguments {
    /// One of them; all if not given.
    #[arg(value_enum)]
    name: Option<Figure>,
    /// The result as JSON, at the end of the output.
    #[arg(long)]
    json: bool,
}

/// Exit code 1 if something happened that must not, or a figure could not be measured.
#[tokio::main(worker_threads = 2)]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let report = match arguments.name {
        Some(figure) => figures::run(&[figure]).await,
        None => figures::run(Figure::value_variants()).await,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("\n{report}");
    }
    Ok(ExitCode::from(u8::from(!report.is_clean())))
}
