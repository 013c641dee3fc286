//! What many figures come to.

/// The value below which `share` (0 to 1) of the sorted values lie; 0 of none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let place = (last as f64 * share).round() as usize;
    sorted.get(place).copied().unwrap_or_default()
}

/// 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    match values.get(upper) {
        None => 0.0,
        Some(&middle) if values.len() % 2 == 1 => middle,
        Some(&middle) => f64::midpoint(values[upper - 1], middle),
    }
}

/// Rise per unit: the median of the slopes between all pairs of points (Theil and Sen's), which few
/// steps of an allocator do not move.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let pairs = points.iter().enumerate().flat_map(|(place, from)| {
        let later = &points[place + 1..];
        later
            .iter()
            .map(move |to| (to.1 - from.1) / (to.0 - from.0))
    });
    median(pairs.collect())
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

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_step_does_not_move_the_slope() {
        let points: Vec<(f64, f64)> = (0..=20)
            .map(f64::from)
            .map(|x| (x, 2.0 * x + if x > 16.0 { 50.0 } else { 0.0 }))
            .collect();
        assert!((slope(&points) - 2.0).abs() < 1e-9);
    }
}
