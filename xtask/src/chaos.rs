//! `cargo xtask chaos`: faults at random on a private cluster of real processes; see docs/chaos.md.

use std::fs::File;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;
use clap::Args;

use crate::cargo::{self, Profile};
use crate::counts::Counts;
use crate::install;
use crate::servers::sweep;

/// What the gateway can leave out, by its feature `broken`.
const BROKEN: [&str; 5] = [
    "repeats",
    "gap-fetch",
    "postgres-check",
    "class-order",
    "generation",
];
/// Of the run that is part of `cargo xtask test`: always the same one.
const SMOKE: [&str; 6] = ["--faults", "150", "--seed", "20", "--sessions", "120"];
/// Enough for every broken build to show, with the seed of [`proof_of`].
const PROOF: [&str; 4] = ["--faults", "30", "--sessions", "120"];

/// Arguments of the command.
#[derive(Debug, Args)]
pub(crate) struct Chaos {
    /// How many; 150 take ten minutes.
    #[arg(long, default_value_t = 150)]
    faults: usize,
    /// The same seed gives the same schedule; by chance if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// About how many clients there are.
    #[arg(long, default_value_t = 220)]
    sessions: usize,
    /// With gateways that leave something out: must fail.
    #[arg(long, value_parser = BROKEN, conflicts_with = "prove")]
    broken: Option<String>,
    /// With gateways that leave something out, one after the other, and with right ones: says
    /// whether the checker can tell.
    #[arg(long, conflicts_with = "json")]
    prove: bool,
    /// The result as JSON, at the end of the output.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Chaos) -> Result<ExitCode> {
    sweep()?;
    install::databases()?; // what is missing is said before a long build
    if arguments.prove {
        return prove();
    }
    let mut words = vec![
        "--faults".to_owned(),
        arguments.faults.to_string(),
        "--sessions".to_owned(),
        arguments.sessions.to_string(),
    ];
    if let Some(seed) = arguments.seed {
        words.extend(["--seed".to_owned(), seed.to_string()]);
    }
    if arguments.json {
        words.push("--json".to_owned());
    }
    build(arguments.broken.is_some())?;
    Ok(if one(&words, arguments.broken.as_deref())? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The run of `cargo xtask test`, whose output goes to a file: others run beside it. Everything is
/// built.
pub(crate) fn smoke(output: &File) -> Result<Counts> {
    let mut command = program(&SMOKE.map(str::to_owned), None)?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    let mut counts = Counts::default();
    counts.note("chaos", cargo::run(command)?.success());
    Ok(counts)
}

fn prove() -> Result<ExitCode> {
    build(true)?;
    let mut lines = Vec::new();
    let mut told_apart = true;
    for broken in BROKEN.map(Some).into_iter().chain([None]) {
        println!("\n     {}", broken.unwrap_or("nothing broken"));
        let is_clean = one(&proof_of(broken), broken)?;
        let is_right = is_clean == broken.is_none();
        told_apart &= is_right;
        lines.push(format!(
            "| {} | {} | {} |",
            broken.unwrap_or("nothing"),
            if is_clean { "clean" } else { "found" },
            if is_right { "right" } else { "WRONG" },
        ));
    }
    println!("\n| broken | checker | |\n|---|---|---|");
    for line in lines {
        println!("{line}");
    }
    Ok(if told_apart {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn proof_of(broken: Option<&str>) -> Vec<String> {
    let seed = match broken {
        // Gateways hang for long, and others break while their clients are there.
        Some("generation") => "2352",
        _ => "1",
    };
    let words = PROOF.into_iter().chain(["--seed", seed]);
    words.map(str::to_owned).collect()
}

fn build(broken: bool) -> Result<()> {
    let programs = [&cargo::SERVERS[..], &["chaos"]].concat();
    cargo::finish_build(cargo::build_like_tests(&programs))?;
    if broken {
        // Last: the other programs keep what they were built with.
        let mut command = cargo::build_like_tests(&["guildhall-gateway-broken"]);
        command.args(["--features", "guildhall-gateway/broken"]);
        cargo::finish_build(command)?;
    }
    Ok(())
}

/// One run; true if nothing was found.
fn one(words: &[String], broken: Option<&str>) -> Result<bool> {
    Ok(cargo::run(program(words, broken)?)?.success())
}

fn program(words: &[String], broken: Option<&str>) -> Result<Command> {
    let binaries = install::databases()?;
    let mut command = Command::new(Profile::Debug.folder().join("chaos"));
    command
        .args(words)
        .env("GUILDHALL_PG_BIN", &binaries.postgres)
        .env("GUILDHALL_REDIS_BIN", &binaries.redis)
        .env("GUILDHALL_BIN_DIR", Profile::Debug.folder());
    if let Some(broken) = broken {
        command.args(["--broken", broken]);
    }
    Ok(command)
}
