//! What comes out: a row per figure, and what must not happen and did.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::chaos::checker::{Kind, Verdict};

/// Evidence kept per row; all is counted.
const EVIDENCE_MAX: usize = 12;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub figure: &'static str,
    pub what: String,
    /// For people.
    pub measured: String,
    /// For programs, by name with the unit last.
    pub numbers: BTreeMap<&'static str, f64>,
    pub aim: &'static str,
    pub is_met: bool,
    pub wrong: Wrong,
}

/// What must not happen: lost, repeated, reordered, leaked.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Wrong {
    pub count: u64,
    pub evidence: Vec<String>,
}

impl Wrong {
    pub(super) fn find(&mut self, text: impl Into<String>) {
        self.count += 1;
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(text.into());
        }
    }

    /// What the checker of chaos found. `op9`: whether it may have found a RESUME refused, which
    /// is a figure of its own where gateways go.
    pub(super) fn of(verdict: &Verdict, op9: Op9) -> Self {
        let counts = |kind: &Kind| op9 == Op9::MustNotBe || *kind != Kind::UnexplainedRefusal;
        let found = verdict.counts.iter().filter(|(kind, _)| counts(kind));
        let evidence = verdict.evidence.iter().filter(|one| counts(&one.kind));
        Self {
            count: found.map(|(_, count)| count).sum(),
            evidence: evidence
                .take(EVIDENCE_MAX)
                .map(|one| format!("{}: {}: {}", one.kind.words(), one.whose, one.text))
                .collect(),
        }
    }
}

/// Whether an op 9 in answer to RESUME is wrong or counted elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op9 {
    MustNotBe,
    Counted,
}

/// All rows of a run, and what they were measured on.
#[derive(Debug, Serialize)]
pub struct Report {
    pub build: &'static str,
    /// Name of the folder that the servers are from.
    pub servers: String,
    pub processors: usize,
    pub seconds: u64,
    pub rows: Vec<Row>,
    /// Figures that could not be measured.
    pub failed: Vec<String>,
}

impl Report {
    /// Whether everything was measured and nothing happened that must not. Aims do not count.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.rows.iter().all(|row| row.wrong.count == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            for text in &row.wrong.evidence {
                writeln!(f, "{}, {}: {text}", row.figure, row.what)?;
            }
        }
        for text in &self.failed {
            writeln!(f, "not measured: {text}")?;
        }
        writeln!(
            f,
            "build: {}; servers from {}; {} processors; {} s\n",
            self.build, self.servers, self.processors, self.seconds
        )?;
        writeln!(f, "| figure | what | measured | aim | | wrong |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let verdict = if row.is_met { "met" } else { "not met" };
            let Row {
                figure,
                what,
                measured,
                aim,
                wrong,
                ..
            } = row;
            let wrong = wrong.count;
            writeln!(
                f,
                "| {figure} | {what} | {measured} | {aim} | {verdict} | {wrong} |"
            )?;
        }
        Ok(())
    }
}

/// The value that so large a part is not above (nearest rank); 0 of nothing. Sorts.
pub(super) fn quantile(values: &mut [i64], part: f64) -> i64 {
    values.sort_unstable();
    let rank = (values.len() as f64 * part).ceil() as usize;
    let place = rank.clamp(1, values.len().max(1)) - 1;
    values.get(place).copied().unwrap_or(0)
}

/// Microseconds as milliseconds.
pub(super) fn ms(us: i64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let mut hundred: Vec<i64> = (1..=100).rev().collect();
        assert_eq!(quantile(&mut hundred, 0.99), 99);
        assert_eq!(quantile(&mut hundred, 1.0), 100);
        assert_eq!(quantile(&mut hundred, 0.0), 1);
        assert_eq!(quantile(&mut [7], 0.5), 7);
        assert_eq!(quantile(&mut [], 0.5), 0);
    }

    #[test]
    fn an_aim_that_is_missed_is_not_wrong() {
        let row = |wrong: u64, is_met| Row {
            figure: "move",
            what: "a move".to_owned(),
            measured: "+ 12.0 ms".to_owned(),
            numbers: BTreeMap::new(),
            aim: "<= 10 ms",
            is_met,
            wrong: Wrong {
                count: wrong,
                evidence: Vec::new(),
            },
        };
        let mut report = Report {
            build: "optimised",
            servers: "release".to_owned(),
            processors: 2,
            seconds: 1,
            rows: vec![row(0, false)],
            failed: Vec::new(),
        };
        assert!(report.is_clean());
        let text = report.to_string();
        assert!(text.contains("| move | a move | + 12.0 ms | <= 10 ms | not met | 0 |"));
        report.rows.push(row(1, true));
        assert!(!report.is_clean());
    }
}
