//! Figures over the iterations of one row.

use serde::Serialize;

/// Times of single iterations in microseconds and what they come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PerIteration {
    pub(crate) min_us: f64,
    pub(crate) max_us: f64,
    pub(crate) avg_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p95_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) stdev_us: f64,
    pub(crate) cv_pct: f64,
    pub(crate) times_us: Vec<f64>,
}

impl PerIteration {
    /// The figures of `times_us`, or `None` of no times.
    pub(crate) fn of(times_us: Vec<f64>) -> Option<PerIteration> {
        let mut sorted = times_us.clone();
        sorted.sort_by(f64::total_cmp);
        let (min_us, max_us) = (*sorted.first()?, *sorted.last()?);
        let n = sorted.len() as f64;
        let avg_us = sorted.iter().sum::<f64>() / n;
        let variance = match sorted.len() {
            1 => 0.0,
            _ => sorted.iter().map(|time| (time - avg_us).powi(2)).sum::<f64>() / (n - 1.0),
        };
        let stdev_us = variance.sqrt();
        Some(PerIteration {
            min_us,
            max_us,
            avg_us,
            p50_us: percentile(&sorted, 50.0),
            p95_us: percentile(&sorted, 95.0),
            p99_us: percentile(&sorted, 99.0),
            stdev_us,
            cv_pct: if avg_us > 0.0 { 100.0 * stdev_us / avg_us } else { 0.0 },
            times_us,
        })
    }
}

/// Linear between the two nearest of the sorted values.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let place = percent / 100.0 * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_known_times() {
        let figures = PerIteration::of((1..=101).rev().map(f64::from).collect()).unwrap();
        assert_eq!((figures.min_us, figures.max_us, figures.avg_us), (1.0, 101.0, 51.0));
        assert_eq!((figures.p50_us, figures.p95_us, figures.p99_us), (51.0, 96.0, 100.0));
        assert!((figures.stdev_us - 29.300_170_65).abs() < 1e-6);
        assert_eq!(figures.times_us[0], 101.0, "the order of the iterations is kept");
    }

    #[test]
    fn one_time_and_none() {
        let figures = PerIteration::of(vec![3.0]).unwrap();
        assert_eq!((figures.p99_us, figures.stdev_us, figures.cv_pct), (3.0, 0.0, 0.0));
        assert_eq!(PerIteration::of(Vec::new()), None);
    }
}
