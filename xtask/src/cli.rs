//! The command line of `cargo xtask`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::bench::Scenario;
use crate::interrupt::{self, Interrupted};
use crate::{
    autobahn, bench, chaos, conformance, figures, fuzz, simulate, sqlx, test, up, wrapper,
};

/// Commands of the Guildhall repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cluster here: Postgres, Redis, one API, one coordinator, two gateways, a demo guild.
    ///
    /// `DATABASE_URL` and `REDIS_URL` are used if set; otherwise private servers are
    /// started, with their data in `.guildhall/`. Ctrl-C stops everything, a second one at once.
    /// Settings of the processes, such as `RATE_LIMITS=off`, are taken from the environment.
    Up {
        /// Throw away the private database, the demo guild and uploaded files first.
        #[arg(long)]
        fresh: bool,
        /// Build and run optimised binaries.
        #[arg(long)]
        release: bool,
    },
    /// Run all tests on private servers of their own; ends with `N passed, M failed`.
    Test {
        /// For `cargo test`, such as `-p guildhall-shared` or a test's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the Autobahn test suite over the gateway's WebSocket code; `test` does it too.
    Autobahn,
    /// Run the fuzz targets under libFuzzer; `test` does it for a few seconds each.
    Fuzz {
        /// One of the folders of `fuzz/corpus`; all of them if not given.
        target: Option<String>,
        /// For each target; without it a fixed number of runs.
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Ask every operation of the protocol of a private cluster: does it answer, act, refuse?
    ///
    /// Prints what failed and the score.
    Conformance {
        /// Renew `docs/conformance.md`.
        #[arg(long)]
        write: bool,
    },
    /// Run a cluster of 1,000 gateways in virtual time; needs no server.
    Simulate {
        /// For the simulator; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Break a private cluster at random and check what its clients were told.
    ///
    /// Prints every fault and what was found; fails if anything was.
    Chaos(chaos::Chaos),
    /// Measure what moves, kills and revocations cost sessions, on an optimised private cluster.
    ///
    /// Prints a table of figures and their aims; fails if anything was lost, repeated or told to
    /// somebody who may not see it, never for a time.
    Figures(figures::Figures),
    /// Renew `.sqlx`, the description of every query, from the migrations.
    Sqlx {
        /// Change nothing; fail if `.sqlx` is not what the code and the migrations give.
        #[arg(long)]
        check: bool,
    },
    /// Measure on an optimised private cluster: one scenario, or all that need one and a table at
    /// the end.
    Bench {
        scenario: Option<Scenario>,
        /// For the load generator; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Runs the command named by the arguments. Failures are printed; exit code 130 is Ctrl-C.
pub fn main() -> ExitCode {
    if let Some(code) = wrapper::run_if_asked() {
        return code;
    }
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    interrupt::listen()?;
    match command {
        Command::Up { fresh, release } => up::run(fresh, release),
        Command::Test { arguments } => test::run(&arguments),
        Command::Autobahn => autobahn::run(),
        Command::Fuzz { target, seconds } => fuzz::run(
            target.as_deref(),
            seconds.map_or(fuzz::Bound::Smoke, fuzz::Bound::Seconds),
        ),
        Command::Conformance { write } => conformance::run(write),
        Command::Simulate { arguments } => simulate::run(&arguments),
        Command::Chaos(arguments) => chaos::run(&arguments),
        Command::Figures(arguments) => figures::run(&arguments),
        Command::Sqlx { check } => sqlx::run(check),
        Command::Bench {
            scenario,
            arguments,
        } => bench::run(scenario, &arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
