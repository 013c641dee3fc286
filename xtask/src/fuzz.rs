//! `cargo xtask fuzz`: the targets of the package `fuzz` under libFuzzer.
//!
//! The pinned stable compiler is enough: coverage is asked for by plain flags, which cargo
//! hands to rustc through a wrapper (this program), and so for the workspace's own crates
//! alone. Their dependencies are shared with every other build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Profile};
use crate::counts::Counts;
use crate::servers::{checkout, target_folder};
use crate::wrapper;

/// Runs of a target in `cargo xtask test`; a few seconds each.
const SMOKE_RUNS: u64 = 20_000;
/// A target that gets no further ends after this long, whatever its runs.
const SMOKE_SECONDS_MAX: u64 = 20;
/// So that the smoke run asks the same every time.
const SEED: u64 = 20_261_128;
/// One input at most.
const INPUT_BYTES_MAX: u64 = 4096;
const MEMORY_MB_MAX: u64 = 2048;
/// An input that takes this long is a bug.
const INPUT_SECONDS_MAX: u64 = 10;

/// How long to run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    Smoke,
    Seconds(u64),
}

/// Runs one target or all of them; inputs that lead somewhere new are kept below `target`.
pub(crate) fn run(only: Option<&str>, bound: Bound) -> Result<ExitCode> {
    let targets = targets()?;
    if let Some(only) = only
        && !targets.iter().any(|name| name == only)
    {
        bail!("no target {only}; there are {}", targets.join(", "));
    }
    let wanted: Vec<String> = targets
        .into_iter()
        .filter(|name| only.is_none_or(|only| only == name))
        .collect();
    let counts = run_all(&wanted, bound)?;
    println!("{counts}");
    Ok(counts.exit_code())
}

/// The bounded run of every target.
pub(crate) fn smoke() -> Result<Counts> {
    run_all(&targets()?, Bound::Smoke)
}

fn run_all(targets: &[String], bound: Bound) -> Result<Counts> {
    let program = build()?;
    let mut counts = Counts::default();
    for target in targets {
        counts.note(&format!("fuzz {target}"), run_one(&program, target, bound)?);
    }
    Ok(counts)
}

/// The targets: each has a folder of inputs.
fn targets() -> Result<Vec<String>> {
    let corpus = checkout().join("fuzz/corpus");
    let entries =
        fs::read_dir(&corpus).with_context(|| format!("cannot read {}", corpus.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn build() -> Result<PathBuf> {
    let wrapper = wrapper_program()?;
    let mut command = cargo::build_like_tests(&["guildhall-fuzz"]);
    command
        .args(["--features", "guildhall-fuzz/libfuzzer"])
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
        .env(wrapper::FUZZ_VARIABLE, "1")
        .env("CARGO_INCREMENTAL", "0")
        .stdin(Stdio::null());
    cargo::finish_build(command)?;
    Ok(Profile::Debug.folder().join("guildhall-fuzz"))
}

/// This program under another name: cargo keeps what a wrapper built apart by its path. A copy, as a
/// build replaces the file that this process was started from.
fn wrapper_program() -> Result<PathBuf> {
    let folder = target_folder().join("fuzz");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let program = folder.join(wrapper::FUZZ_NAME);
    // On Linux this is the file itself, even once its name is gone.
    let ourselves = match Path::new("/proc/self/exe") {
        file if file.exists() => file.to_owned(),
        _ => std::env::current_exe().context("cannot find our own program")?,
    };
    let fresh = program.with_extension("new");
    fs::copy(&ourselves, &fresh)
        .and_then(|_| fs::rename(&fresh, &program))
        .with_context(|| format!("cannot make {}", program.display()))?;
    Ok(program)
}

/// True: nothing was found.
fn run_one(program: &Path, target: &str, bound: Bound) -> Result<bool> {
    let found = target_folder().join("fuzz").join(target);
    let grown = found.join("corpus");
    fs::create_dir_all(&grown).with_context(|| format!("cannot make {}", grown.display()))?;
    let mut command = Command::new(program);
    command
        .env("FUZZ_TARGET", target)
        .arg(format!("-artifact_prefix={}/", found.display()))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .args(["-print_final_stats=0", "-verbosity=0"])
        .stdin(Stdio::null());
    let corpus = checkout().join("fuzz/corpus").join(target);
    match bound {
        Bound::Smoke => {
            // An empty folder first: what is found is not kept, so every run is the same.
            let scratch = found.join("smoke");
            let _ = fs::remove_dir_all(&scratch);
            fs::create_dir_all(&scratch)
                .with_context(|| format!("cannot make {}", scratch.display()))?;
            command
                .arg(format!("-runs={SMOKE_RUNS}"))
                .arg(format!("-max_total_time={SMOKE_SECONDS_MAX}"))
                .arg(format!("-seed={SEED}"))
                .arg(scratch);
        }
        Bound::Seconds(seconds) => {
            command.arg(format!("-max_total_time={seconds}")).arg(grown);
        }
    }
    command.arg(corpus);
    let clean = cargo::run(command)?.success();
    println!(
        "  fuzz {target}: {}",
        if clean {
            "nothing found".to_owned()
        } else {
            format!("FAILED, the input is in {}", found.display())
        }
    );
    Ok(clean)
}
