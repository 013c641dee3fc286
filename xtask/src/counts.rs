//! How many tests passed, and which did not.

use std::fmt;
use std::process::ExitCode;

/// Sum over test binaries and suites. Displayed: what failed, a line each, then
/// `N passed, M failed[, K skipped]`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// What is known by name of those that failed.
    failures: Vec<String>,
}

impl Counts {
    /// One more, of this name.
    pub(crate) fn note(&mut self, name: &str, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(name.to_owned());
        }
    }

    pub(crate) fn add_all(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
    }

    /// Takes what a line of `cargo test` says: the verdict on a test that failed, or the end of a
    /// binary, `test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(name) = line.trim_end().strip_suffix(" ... FAILED")
            && let Some(name) = name.strip_prefix("test ")
        {
            self.failures.push(name.to_owned());
        }
        let Some((_, counts)) = line.split_once("test result: ") else {
            return;
        };
        let Some((_, counts)) = counts.split_once(". ") else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, what)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.failures {
            writeln!(f, "test {name} ... FAILED")?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_add_up_and_failures_are_named() {
        let mut counts = Counts::default();
        counts.read("test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.26s\n");
        counts.read("test wire::a_message ... FAILED\n");
        counts.read("test the_result ... ok\n");
        counts.read("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s\n");
        let mut others = Counts::default();
        others.note("Autobahn 1.1", true);
        others.note("Autobahn 1.2", false);
        counts.add_all(others);
        assert_eq!(
            counts.to_string(),
            "test wire::a_message ... FAILED\n\
             test Autobahn 1.2 ... FAILED\n\
             7 passed, 2 failed, 1 skipped"
        );
    }
}
