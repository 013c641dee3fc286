//! `cargo xtask bench instructions`: what the pure parts cost in instructions, which a busy
//! machine does not change, against the counts in `benches/instructions.tsv`.
//!
//! Only instructions of our own program count: the allocator and `memcpy` are the C library's,
//! which has others on the next machine. What our crates choose by the CPU is the same wherever
//! there is AVX2; elsewhere nothing is compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Profile};
use crate::interrupt;
use crate::process::in_path;
use crate::servers::checkout;

/// More or fewer than the committed count by this share is a change to look at.
const TOLERANCE: f64 = 0.04;
/// A workload is counted with both numbers of times; the difference leaves its preparation out.
const TIMES: [u32; 2] = [10, 60];

/// Counts and compares; with `--write` renews the committed counts.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let write = match arguments {
        [] => false,
        [only] if only == "--write" => true,
        _ => bail!("`bench instructions` takes `--write` or nothing"),
    };
    if in_path("valgrind").is_none() {
        println!("skipped: valgrind is not installed (`apt-get install valgrind`)");
        return Ok(ExitCode::SUCCESS);
    }
    if !has_avx2() {
        println!("skipped: the committed counts are of CPUs with AVX2");
        return Ok(ExitCode::SUCCESS);
    }
    cargo::build_release(&["benches"])?;
    let program = Profile::Release.folder().join("instructions");
    let mut counted = BTreeMap::new();
    for name in names(&program)? {
        let [few, many] = [
            count(&program, &name, TIMES[0])?,
            count(&program, &name, TIMES[1])?,
        ];
        let each = many.saturating_sub(few) / u64::from(TIMES[1] - TIMES[0]);
        counted.insert(name, each);
    }
    let file = checkout().join("benches/instructions.tsv");
    let committed = read(&fs::read_to_string(&file).unwrap_or_default());
    let (lines, changed) = compare(&committed, &counted);
    println!("{lines}");
    if write {
        fs::write(&file, print(&counted))
            .with_context(|| format!("cannot write {}", file.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if committed.is_empty() && !write {
        println!("nothing to compare with: `--write` keeps these counts");
    }
    if changed {
        eprintln!(
            "error: counts changed by more than {:.0} %; if it is meant, renew them with \
             `cargo xtask bench instructions --write` and say why",
            TOLERANCE * 100.0
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn names(program: &Path) -> Result<Vec<String>> {
    let output = Command::new(program)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let names = String::from_utf8_lossy(&output.stdout);
    Ok(names.lines().map(str::to_owned).collect())
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Instructions of the program, without those of libraries it is linked to when it starts.
fn count(program: &Path, name: &str, times: u32) -> Result<u64> {
    interrupt::check()?;
    let report = std::env::temp_dir().join(format!("instructions-{}.out", std::process::id()));
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--compress-strings=no",
            "--compress-pos=no",
        ])
        .arg(format!("--callgrind-out-file={}", report.display()))
        .arg(program)
        .args([name, &times.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot run valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{name} failed under valgrind:\n{text}");
    }
    let counted = fs::read_to_string(&report);
    let _ = fs::remove_file(&report);
    let counted = counted.with_context(|| format!("no report of {name}:\n{text}"))?;
    let object = program.file_name().unwrap_or_default().to_string_lossy();
    match own(&counted, &object) {
        0 => bail!("valgrind counted nothing of {name}:\n{text}"),
        count => Ok(count),
    }
}

/// Instructions that a report of callgrind counts in one object file, by the file's name.
///
/// `ob=` says whose the following lines are; the line after `calls=` is about the function that
/// is called, which has lines of its own.
fn own(report: &str, object: &str) -> u64 {
    let (mut is_own, mut is_of_callee, mut sum) = (false, false, 0);
    for line in report.lines() {
        if let Some(path) = line.strip_prefix("ob=") {
            is_own = Path::new(path)
                .file_name()
                .is_some_and(|name| name == object);
        } else if line.starts_with("calls=") {
            is_of_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let is_skipped = std::mem::take(&mut is_of_callee) || !is_own;
            let cost = line.rsplit(' ').next().and_then(|cost| cost.parse().ok());
            sum += cost.filter(|_| !is_skipped).unwrap_or(0_u64);
        }
    }
    sum
}

fn read(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
        .collect()
}

fn print(counted: &BTreeMap<String, u64>) -> String {
    counted
        .iter()
        .map(|(name, count)| format!("{name}\t{count}\n"))
        .collect()
}

/// A line per workload, and whether one of them is off; none is where there are no counts at all.
fn compare(committed: &BTreeMap<String, u64>, counted: &BTreeMap<String, u64>) -> (String, bool) {
    let mut changed = false;
    let mut lines = vec![format!("{:20} {:>12} {:>12}", "", "committed", "counted")];
    for (name, &count) in counted {
        let known = committed.get(name).copied();
        let (shown, verdict) = match known {
            None => ("-".to_owned(), "new".to_owned()),
            Some(known) => {
                let share = count as f64 / known.max(1) as f64 - 1.0;
                let mut verdict = format!("{:+.1} %", share * 100.0);
                if share.abs() > TOLERANCE {
                    verdict.push_str("  CHANGED");
                }
                (known.to_string(), verdict)
            }
        };
        changed |= known.is_none() && !committed.is_empty() || verdict.ends_with("CHANGED");
        lines.push(format!("{name:20} {shown:>12} {count:>12}  {verdict}"));
    }
    for name in committed.keys().filter(|name| !counted.contains_key(*name)) {
        changed = true;
        lines.push(format!("{name:20} is gone"));
    }
    (lines.join("\n"), changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_beyond_the_tolerance_is_found() {
        let counts = |count| BTreeMap::from([("layout".to_owned(), count)]);
        assert!(!compare(&counts(1000), &counts(1030)).1);
        assert!(compare(&counts(1000), &counts(1050)).1);
        assert!(compare(&counts(1000), &counts(900)).1);
        assert!(compare(&counts(1), &BTreeMap::new()).1);
        let another = BTreeMap::from([("another".to_owned(), 1), ("layout".to_owned(), 1)]);
        assert!(compare(&counts(1), &another).1);
        assert!(!compare(&BTreeMap::new(), &counts(1)).1);
        assert_eq!(read(&print(&counts(7))), counts(7));
    }

    #[test]
    fn instructions_of_other_files_are_left_out() {
        let report = "version: 1\nsummary: 999\n\nob=/t/release/instructions\nfl=a.rs\nfn=a\n\
                      7 10\ncob=/lib/libc.so.6\ncfn=malloc\ncalls=2 0\n7 500\n9 5\n\
                      ob=/lib/libc.so.6\nfn=malloc\n0 484\n\
                      ob=/t/release/instructions\nfn=b\n3 1\n\ntotals: 999\n";
        assert_eq!(own(report, "instructions"), 16);
        assert_eq!(own("nothing", "instructions"), 0);
    }
}
