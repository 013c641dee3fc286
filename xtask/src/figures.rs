//! `cargo xtask figures`: what moves, kills and revocations cost sessions; see docs/figures.md.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::cargo::{self, Profile, cargo};
use crate::install;
use crate::servers::{Postgres, sweep};

/// What the program knows.
const NAMES: [&str; 7] = [
    "placement",
    "move",
    "owner-kill",
    "redis-emptied",
    "revocation",
    "drain",
    "edge-kill",
];

/// Arguments of the command.
#[derive(Debug, Args)]
pub(crate) struct Figures {
    /// One of them; all if not given, in about six minutes.
    #[arg(value_parser = NAMES)]
    name: Option<String>,
    /// Of the build that tests use: sooner there, and its times mean little.
    #[arg(long)]
    debug: bool,
    /// The result as JSON, at the end of the output.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Figures) -> Result<ExitCode> {
    sweep()?;
    let binaries = install::databases()?;
    let profile = match arguments.debug {
        true => Profile::Debug,
        false => Profile::Release,
    };
    build(profile)?;
    // Writes do not wait for the disk: what is measured begins once they are stored.
    let mut postgres = Postgres::temporary_with(&binaries, false, true)?;
    let mut command = Command::new(profile.folder().join("figures"));
    command
        .args(&arguments.name)
        .env("DATABASE_URL", postgres.url("guildhall"))
        .env("GUILDHALL_PG_BIN", &binaries.postgres)
        .env("GUILDHALL_REDIS_BIN", &binaries.redis)
        .env("GUILDHALL_BIN_DIR", profile.folder());
    if arguments.json {
        command.arg("--json");
    }
    let status = cargo::run(command);
    postgres.stop();
    Ok(if status?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn build(profile: Profile) -> Result<()> {
    let programs = [&cargo::SERVERS[..], &["figures"]].concat();
    if profile == Profile::Debug {
        return cargo::finish_build(cargo::build_like_tests(&programs));
    }
    let mut command = cargo();
    command.args(["build", "--release", "--package", "e2e"]);
    for server in cargo::SERVERS {
        command.args(["--package", server]);
    }
    for program in programs {
        command.args(["--bin", program]);
    }
    cargo::finish_build(command)
}
