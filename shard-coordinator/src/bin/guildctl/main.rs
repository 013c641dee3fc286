//! `guildctl`: looks at a cluster and steers it, through the coordinators' API for operators.
//!
//! Owns nothing and decides nothing: what it prints is what a coordinator answered, and what
//! it changes a coordinator has accepted and written to the history.

mod args;
mod change;
mod client;
mod error;
mod follow;
mod plan;
mod print;
mod read;
mod sse;
mod token;
mod top;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::print::Output;
use crate::token::Credentials;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guildctl: {error}");
            if let Some(advice) = error.advice() {
                eprintln!("  {advice}");
            }
            error.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let output = Output::new(cli.json);
    match &cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "guildctl", &mut script);
            return print::write(&script);
        }
        Command::Token(wanted) => return token::print(wanted, output),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Process)?;
    runtime.block_on(async {
        let client = Client::new(cli.url, Credentials::from_environment()?)?;
        match cli.command {
            Command::Completions { .. } | Command::Token(_) => Ok(()), // done above
            Command::Read(what) => read::run(&client, what, output).await,
            Command::Change(what) => change::run(&client, what, output).await,
            Command::Plan(flags) => plan::make(&client, flags, output).await,
            Command::Apply(what) => plan::apply(&client, what, output).await,
            Command::Top(flags) => top::run(&client, flags, output).await,
        }
    })
}
