//! `cargo xtask simulate`: the cluster in virtual time; see `docs/simulation.md`.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::cargo::{self, Profile};

/// Builds the simulator optimised and runs it with these arguments.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    cargo::build_release(&["simulator"])?;
    let mut command = Command::new(Profile::Release.folder().join("simulator"));
    command.args(arguments);
    Ok(if cargo::run(command)?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
