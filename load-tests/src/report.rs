//! Lines of a report.

use std::{fmt::Display, io::Write};

/// A heading.
pub fn section(title: &str) {
    println!("\n{title}");
}

/// One figure.
pub fn line(what: &str, value: impl Display) {
    println!("  {what:<46} {value}");
}

/// One figure that has an aim.
pub fn aim(what: &str, value: f64, unit: &str, aim: &Aim) {
    let (met, sign, limit) = aim.judge(value);
    let verdict = if met { "met" } else { "MISSED" };
    line(
        what,
        format!("{value:.2}{unit}   aim {sign} {limit}{unit}: {verdict}"),
    );
}

/// A line of the table that `cargo xtask bench` prints at its end. It is appended to the file that
/// the environment names in `BENCH_TABLE`; without one the report itself is all there is.
pub fn row(what: &str, value: f64, unit: &str, aim: &Aim) {
    let Some(path) = std::env::var_os("BENCH_TABLE") else {
        return;
    };
    let (met, sign, limit) = aim.judge(value);
    let verdict = if met { "met" } else { "MISSED" };
    let line = format!("{what}\t{value:.2}{unit}\t{sign} {limit}{unit}\t{verdict}\n");
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("the table was not written: {error}");
    }
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

impl Aim {
    /// Whether a value meets it, and how it is written.
    fn judge(self, value: f64) -> (bool, &'static str, f64) {
        match self {
            Self::AtMost(limit) => (value <= limit, "<=", limit),
            Self::AtLeast(limit) => (value >= limit, ">=", limit),
        }
    }
}
