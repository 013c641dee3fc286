//! `cargo xtask conformance`: every operation of the protocol on a cluster of real processes.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::cargo::{self, Profile};
use crate::install;
use crate::servers::{Postgres, checkout, sweep};

/// Prints what failed and the score; with `write`, renews `docs/conformance.md`.
pub(crate) fn run(write: bool) -> Result<ExitCode> {
    sweep()?;
    let binaries = install::databases()?;
    let programs = [&cargo::SERVERS[..], &["conformance"]].concat();
    cargo::finish_build(cargo::build_like_tests(&programs))?;
    let mut postgres = Postgres::temporary_with(&binaries, false, true)?;
    let mut command = Command::new(Profile::Debug.folder().join("conformance"));
    command
        .env("DATABASE_URL", postgres.url("guildhall"))
        .env("GUILDHALL_PG_BIN", &binaries.postgres)
        .env("GUILDHALL_REDIS_BIN", &binaries.redis)
        .env("GUILDHALL_BIN_DIR", Profile::Debug.folder());
    if write {
        command.arg(checkout().join("docs/conformance.md"));
    }
    let status = cargo::run(command);
    postgres.stop();
    Ok(if status?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
