//! `cargo xtask autobahn`: the Autobahn test suite against the gateway's own WebSocket.
//!
//! The suite itself needs Python 2, which systems no longer have. kosoku, a Python package, runs the
//! suite's own case files with a runner of its own; it is installed below `target`.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo::{self, Profile};
use crate::counts::Counts;
use crate::install;
use crate::process::{self, Launch};
use crate::servers::{scratch_folder, sweep};

/// For pip: the release whose verdicts were compared with the suite's own.
const KOSOKU: &str = "--only-binary :all:\nkosoku==0.1.0\n";
/// All but 9, which measures, and 12 and 13, an extension that is not negotiated here.
const CASES: [&str; 8] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];
/// Fewer mean that the suite did not run.
const CASES_MIN: u64 = 247;
/// Cases at a time; some of them only wait.
const AT_ONCE: &str = "8";

pub(crate) fn run() -> Result<ExitCode> {
    sweep()?;
    let counts = cases()?;
    println!("{counts}");
    Ok(counts.exit_code())
}

/// Runs the cases; prints what is not plainly in order.
///
/// Errors: something is missing or does not build.
pub(crate) fn cases() -> Result<Counts> {
    let kosoku = install::python("autobahn", KOSOKU)?.with_file_name("kosoku");
    let mut build = cargo::build_like_tests(&["guildhall-gateway-echo"]);
    build.args(["--features", "guildhall-gateway/echo"]);
    cargo::finish_build(build)?;

    let scratch = scratch_folder("autobahn")?;
    let program = Profile::Debug.folder().join("guildhall-gateway-echo");
    let mut echo = Launch::new("echo", program, scratch.join("echo.log")).start()?;
    let log = echo.log().to_owned();
    let address = || -> Option<SocketAddr> { fs::read_to_string(&log).ok()?.trim().parse().ok() };
    process::wait_ready(&mut echo, Duration::from_secs(30), || address().is_some())?;
    let address = address().context("the address of the echo mode is gone")?;

    let report = scratch.join("report");
    let mut command = Command::new(kosoku);
    command.arg(address.to_string());
    for cases in CASES {
        command.args(["--include", cases]);
    }
    command
        .args(["--parallelism", AT_ONCE, "--outdir"])
        .arg(&report)
        .stdin(Stdio::null());
    // Fails when a case does; the report says which.
    cargo::run(command)?;
    if let Some(status) = echo.ended() {
        bail!("the gateway ended ({status}):\n{}", echo.log_tail());
    }
    let counts = read(&report)?;
    if counts.failed == 0 {
        let _ = fs::remove_dir_all(&scratch);
    } else {
        println!("  the report: {}", report.join("index.html").display());
    }
    Ok(counts)
}

/// Counts the verdicts of a report.
fn read(report: &Path) -> Result<Counts> {
    let index = report.join("index.json");
    let index = fs::read(&index).with_context(|| format!("no report at {}", index.display()))?;
    let agents: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_slice(&index).context("the report cannot be read")?;
    let mut counts = Counts::default();
    for (case, verdict) in agents.into_values().flatten() {
        let of = |key: &str| verdict[key].as_str().unwrap_or("none").to_owned();
        let (behavior, close) = (of("behavior"), of("behaviorClose"));
        counts.note(&format!("Autobahn {case}"), passes(&behavior, &close));
        if (behavior.as_str(), close.as_str()) != ("OK", "OK") {
            println!("  Autobahn {case}: {behavior}, close {close}");
        }
    }
    if counts.passed + counts.failed < CASES_MIN {
        bail!("only {counts} of {CASES_MIN} Autobahn cases");
    }
    Ok(counts)
}

/// Whether a case's verdicts are those of a server that keeps to RFC 6455.
fn passes(behavior: &str, close: &str) -> bool {
    matches!(behavior, "OK" | "NON-STRICT" | "INFORMATIONAL")
        && matches!(close, "OK" | "INFORMATIONAL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_conforming_verdicts_pass() {
        assert!(passes("OK", "OK"));
        assert!(passes("NON-STRICT", "OK"));
        assert!(passes("INFORMATIONAL", "INFORMATIONAL"));
        assert!(!passes("FAILED", "OK"));
        assert!(!passes("OK", "UNCLEAN"));
        assert!(!passes("UNIMPLEMENTED", "OK"));
        assert!(!passes("OK", "WRONG CODE"));
    }
}
