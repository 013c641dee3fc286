//! `xtask` as cargo's `RUSTC_WORKSPACE_WRAPPER`, for `cargo xtask sqlx` and `cargo xtask fuzz`.
//!
//! For `fuzz` it asks rustc for what libFuzzer needs in the workspace's own crates.
//!
//! For `sqlx`: cargo does not know that a query macro looked at a database, so it would take
//! crates for fresh and skip their queries. Under a wrapper, cargo keeps the
//! artefacts of workspace crates apart while it shares those of their
//! dependencies; and the wrapper notes an environment variable in each crate's
//! dep-info, as if the source had read it with `env!`. The variable is new in
//! every run, hence every crate is checked in every run, and nothing else is.

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Set for cargo by `cargo xtask sqlx`; its value differs in every run.
pub(crate) const RUN_VARIABLE: &str = "GUILDHALL_SQLX_RUN";

/// Set for cargo by `cargo xtask fuzz`.
pub(crate) const FUZZ_VARIABLE: &str = "GUILDHALL_FUZZ";
/// The wrapper's name for that; another number whenever [`FUZZ_FLAGS`] change.
pub(crate) const FUZZ_NAME: &str = "rustc-for-libfuzzer-3";
/// Counters of edges, and what comparisons compare.
const FUZZ_FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
];
/// The crates that get them, and whether they are optimised, so that parsers are tried more often;
/// the API is too large for that, and its few parsers leave the work to dependencies.
const FUZZED: [(&str, bool); 4] = [
    ("guildhall_shared", true),
    ("guildhall_gateway", true),
    ("guildhall_api", false),
    ("guildhall_fuzz", true),
];

/// `Some`: this process was started by cargo in place of rustc, and has done that work.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    if env::var_os(FUZZ_VARIABLE).is_some() {
        return fuzz();
    }
    let run = env::var(RUN_VARIABLE).ok()?;
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let status = match Command::new(&rustc).args(&arguments).status() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("cannot run {}: {error}", rustc.display());
            return Some(ExitCode::FAILURE);
        }
    };
    if !status.success() {
        return Some(ExitCode::FAILURE);
    }
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    if let Some(file) = dep_info(&arguments) {
        let noted = OpenOptions::new()
            .append(true)
            .open(&file)
            .and_then(|mut file| writeln!(file, "\n# env-dep:{RUN_VARIABLE}={run}"));
        if let Err(error) = noted {
            eprintln!("cannot extend {}: {error}", file.display());
            return Some(ExitCode::FAILURE);
        }
    }
    Some(ExitCode::SUCCESS)
}

/// rustc, with [`FUZZ_FLAGS`] where they are wanted.
fn fuzz() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let mut command = Command::new(arguments.next()?);
    let arguments: Vec<OsString> = arguments.collect();
    command.args(&arguments);
    let after_name = arguments.iter().skip_while(|it| *it != "--crate-name");
    let name = after_name.skip(1).find_map(|name| name.to_str());
    let fuzzed = FUZZED.iter().find(|(of, _)| Some(*of) == name);
    if let Some((_, optimised)) = fuzzed {
        command.args(FUZZ_FLAGS);
        if *optimised {
            command.arg("-Copt-level=1");
        }
    }
    match command.status() {
        Ok(status) if status.success() => Some(ExitCode::SUCCESS),
        Ok(_) => Some(ExitCode::FAILURE),
        Err(error) => {
            eprintln!("cannot run rustc: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// The dep-info file rustc writes for these arguments. `None`: it writes none (`rustc -vV`).
fn dep_info(arguments: &[String]) -> Option<PathBuf> {
    let after = |flag: &str| {
        let place = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(place + 1)
    };
    let emits = arguments
        .iter()
        .any(|argument| argument.starts_with("--emit=") && argument.contains("dep-info"));
    if !emits {
        return None;
    }
    let name = after("--crate-name")?;
    let folder = after("--out-dir")?;
    let extra = arguments
        .iter()
        .find_map(|argument| {
            argument
                .strip_prefix("-Cextra-filename=")
                .or(argument.strip_prefix("extra-filename="))
        })
        .unwrap_or_default();
    Some(PathBuf::from(folder).join(format!("{name}{extra}.d")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dep_info_file_is_found_as_cargo_names_it() {
        let line = "--crate-name store --edition=2024 store/src/lib.rs --emit=dep-info,metadata \
                    -C metadata=1 -C extra-filename=-abc --out-dir /t/deps";
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        assert_eq!(
            dep_info(&arguments),
            Some(PathBuf::from("/t/deps/store-abc.d"))
        );
        assert_eq!(dep_info(&["-vV".to_owned()]), None);
    }
}
