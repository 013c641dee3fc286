//! Running cargo from within cargo.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::{env, path, thread};

use anyhow::{Context, Result, bail};

use crate::interrupt::{self, POLL_INTERVAL};
use crate::servers::{checkout, target_folder};

/// The three servers: cargo packages and binaries of one name each.
pub(crate) const SERVERS: [&str; 3] = ["guildhall-api", "guildhall-gateway", "shard-coordinator"];

/// Which of cargo's profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    /// Where cargo puts the binaries of this profile.
    pub(crate) fn folder(self) -> PathBuf {
        target_folder().join(match self {
            Self::Debug => "debug",
            Self::Release => "release",
        })
    }
}

/// cargo in the repository's root, without what `cargo run` set for *this* program:
/// build scripts that look at those variables would run again each time.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    // If it is relative, then to the folder we were started in.
    let target = env::var_os("CARGO_TARGET_DIR").and_then(|folder| path::absolute(folder).ok());
    if let Some(target) = target {
        command.env("CARGO_TARGET_DIR", target);
    }
    command.current_dir(checkout());
    command
}

/// A small test, see [`build_like_tests`].
const SMALL_TEST: &str = "servers";

/// Builds the optimised binaries of `packages`, showing cargo's own progress.
pub(crate) fn build_release(packages: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--bins", "--release"]);
    for package in packages {
        command.args(["--package", package]);
    }
    finish_build(command)
}

/// `cargo build` of single binaries with dependencies as the tests of the whole workspace have
/// them. Cargo settles the features of dependencies for all packages that a command selects, and
/// heeds tests only if it builds one: so it selects them all and builds a small one. Otherwise
/// most dependencies would be built once more.
pub(crate) fn build_like_tests(binaries: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["build", "--workspace", "--test", SMALL_TEST]);
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    command
}

/// Runs a `cargo build`.
pub(crate) fn finish_build(command: Command) -> Result<()> {
    if !run(command)?.success() {
        bail!("the build failed");
    }
    Ok(())
}

/// Runs to the end; a stop asked for ends the child too.
pub(crate) fn run(mut command: Command) -> Result<ExitStatus> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("lost {name}"))? {
            interrupt::check()?;
            return Ok(status);
        }
        if let Err(stop) = interrupt::check() {
            crate::process::ask_to_stop(&mut child);
            return Err(stop);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Runs to the end and hands over each line of its output, newline included, as it comes;
/// a stop asked for ends the child at once, even if it is silent.
pub(crate) fn run_reading(
    mut command: Command,
    mut on_line: impl FnMut(&[u8]) -> Result<()>,
) -> Result<ExitStatus> {
    const LINES_MAX: usize = 1024; // then the child waits for us
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut output = BufReader::new(child.stdout.take().context("a child without output")?);
    let (sender, lines) = mpsc::sync_channel(LINES_MAX);
    thread::spawn(move || {
        let mut line = Vec::new();
        while output
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            if sender.send(std::mem::take(&mut line)).is_err() {
                return; // nobody listens any more
            }
        }
    });
    loop {
        let step = match lines.recv_timeout(POLL_INTERVAL) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Err(stop) = step.and_then(|()| interrupt::check()) {
            crate::process::ask_to_stop(&mut child);
            return Err(stop);
        }
    }
    let status = child.wait().with_context(|| format!("lost {name}"))?;
    interrupt::check()?;
    Ok(status)
}
