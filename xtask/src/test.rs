//! `cargo xtask test`: every test of the workspace, on servers of its own.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::SystemTime;
use std::{env, thread};

use anyhow::{Context, Result, anyhow, bail};

use crate::autobahn;
use crate::cargo::{self, Profile, cargo};
use crate::chaos;
use crate::counts::Counts;
use crate::fuzz;
use crate::install;
use crate::servers::{Postgres, Redis, checkout, scratch_folder, sweep};

/// Programs of others that tests run, and whose tests: libraries for bots, a server that speaks S3,
/// what drives a browser.
const NODE_FOLDERS: [(&str, &str); 4] = [
    ("e2e/discordjs", E2E),
    ("e2e/libraries/node", E2E),
    ("api/tests/s3rver", "guildhall-api"),
    ("shard-coordinator/tests/dashboard", COORDINATOR),
];
/// Tests at a time, for each processor: most wait for processes of theirs, or for time to pass.
const PER_PROCESSOR: usize = 2;
const E2E: &str = "e2e";
const COORDINATOR: &str = "shard-coordinator";
/// Says how many tests of a program run at a time.
const THREADS: &str = "RUST_TEST_THREADS";

/// Runs `cargo test` with `arguments`; the last lines printed are what failed, by name, and
/// `N passed, M failed[, K skipped]`.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    sweep()?;
    let binaries = install::databases()?;
    for (folder, package) in NODE_FOLDERS {
        if concerns(arguments, package) {
            install_from_npm(folder)?;
        }
    }
    if concerns(arguments, E2E) {
        install::decoders()?;
    }
    if concerns(arguments, COORDINATOR) {
        install::browser()?;
    }
    build(arguments)?;
    let mut postgres = Postgres::temporary_with(&binaries, false, true)?;
    let mut redis = Redis::temporary_with(&binaries, true)?;

    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]);
    if !names_packages(arguments) {
        command.arg("--workspace");
    }
    command
        .args(arguments)
        .env("DATABASE_URL", postgres.url("guildhall"))
        .env("REDIS_URL", redis.url())
        .env("GUILDHALL_PG_BIN", &binaries.postgres)
        .env("GUILDHALL_REDIS_BIN", &binaries.redis)
        .env("GUILDHALL_BIN_DIR", Profile::Debug.folder());
    if env::var_os(THREADS).is_none() {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        command.env(THREADS, (processors * PER_PROCESSOR).to_string());
    }
    let outcome = stream(command);
    redis.stop();
    postgres.stop();
    let (mut counts, success) = outcome?;
    if !success && counts.failed == 0 {
        // Code that does not compile, or a test process that died without its closing line.
        eprintln!("error: cargo test failed outside of a test, see above");
        counts.note("cargo test", false);
    }
    if arguments.is_empty() {
        beside_chaos(&mut counts)?;
    }
    println!("\n{counts}");
    Ok(counts.exit_code())
}

/// What is no `cargo test`. Chaos waits for nine minutes most of the time: the others are built and
/// run meanwhile.
fn beside_chaos(counts: &mut Counts) -> Result<()> {
    let folder = scratch_folder("chaos")?;
    let log = folder.join("chaos.log");
    let output = File::create(&log)?;
    println!("\n     Running faults at random on a cluster: what it says comes last");
    let chaos = thread::scope(|threads| -> Result<Result<Counts>> {
        let chaos = threads.spawn(|| chaos::smoke(&output));
        println!("\n     Running the Autobahn test suite over the gateway's WebSocket");
        counts.add_all(autobahn::cases()?);
        println!("\n     Running the fuzz targets under libFuzzer");
        counts.add_all(fuzz::smoke()?);
        println!("\n     Waiting for the faults at random");
        chaos
            .join()
            .map_err(|_| anyhow!("what waits for chaos panicked"))
    })?;
    let said = fs::read_to_string(&log).context("the output of chaos is gone")?;
    print!("{said}");
    let _ = fs::remove_dir_all(folder);
    counts.add_all(chaos?);
    Ok(())
}

/// Builds what the tests need in the very shape `cargo test` wants it, so nothing is built twice.
fn build(arguments: &[String]) -> Result<()> {
    if names_packages(arguments) {
        return cargo::finish_build(cargo::build_like_tests(&cargo::SERVERS));
    }
    let mut command = cargo();
    command.args(["build", "--workspace", "--bins", "--tests"]);
    cargo::finish_build(command)
}

fn names_packages(arguments: &[String]) -> bool {
    arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

/// May tests of this package run? Others' programs are not asked for.
fn concerns(arguments: &[String], package: &str) -> bool {
    !names_packages(arguments)
        || arguments
            .iter()
            .take_while(|argument| *argument != "--")
            .any(|argument| argument.ends_with(package))
}

/// `npm ci` of what tests run, unless it was done for this lock file.
fn install_from_npm(folder: &str) -> Result<()> {
    let folder = checkout().join(folder);
    let wanted = folder.join("package-lock.json");
    if !wanted.is_file() {
        return Ok(());
    }
    install::node()?;
    if modified(&folder.join("node_modules/.package-lock.json")) >= modified(&wanted) {
        return Ok(());
    }
    println!("  installing what the tests in {} need", folder.display());
    let mut command = Command::new("npm");
    command
        .args(["ci", "--no-audit", "--no-fund"])
        .current_dir(&folder)
        .stdin(Stdio::null());
    if !cargo::run(command)?.success() {
        bail!("npm ci failed in {}", folder.display());
    }
    Ok(())
}

/// `None`, which is less than any time: there is no such file.
fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file)
        .and_then(|metadata| metadata.modified())
        .ok()
}

/// Passes the output on and adds up the closing lines of all test binaries.
fn stream(command: Command) -> Result<(Counts, bool)> {
    let mut counts = Counts::default();
    let status = cargo::run_reading(command, |line| {
        counts.read(&String::from_utf8_lossy(line));
        let mut stdout = std::io::stdout();
        stdout
            .write_all(line)
            .and_then(|()| stdout.flush())
            .context("cannot print")
    })?;
    Ok((counts, status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_only_before_the_test_arguments() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(names_packages(&words("-p guildhall-shared ids")));
        assert!(!names_packages(&words("ids -- -p")));
    }

    #[test]
    fn a_test_of_one_package_needs_no_programs_of_the_others() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(concerns(&words("--test it"), E2E));
        assert!(concerns(&words("-p guildhall-shared -p e2e"), E2E));
        assert!(concerns(&words("--package=e2e"), E2E));
        assert!(!concerns(&words("-p guildhall-shared -- e2e"), E2E));
    }
}
