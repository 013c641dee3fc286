//! Lines of a report.

use std::fmt::Display;

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
    let (met, sign, limit) = match *aim {
        Aim::AtMost(limit) => (value <= limit, "<=", limit),
        Aim::AtLeast(limit) => (value >= limit, ">=", limit),
    };
    let verdict = if met { "met" } else { "MISSED" };
    line(
        what,
        format!("{value:.2}{unit}   aim {sign} {limit}{unit}: {verdict}"),
    );
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

/// The value below which `share` (0 to 1) of the sorted values lie; 0 of none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let place = (last as f64 * share).round() as usize;
    sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_list() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.0), 0.0);
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&values, 1.0), 100.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
