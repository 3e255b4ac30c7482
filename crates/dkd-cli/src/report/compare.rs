//! Means over seeds, and whether a difference is more than chance.

use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::statistics::Statistics;

/// Confidence with which a difference is called one.
pub const CONFIDENCE: f64 = 0.95;

/// Mean and, of at least two values, sample standard deviation.
pub fn mean_std(values: &[f64]) -> Option<(f64, Option<f64>)> {
    if values.is_empty() {
        return None;
    }
    Some((values.mean(), (values.len() > 1).then(|| values.std_dev())))
}

/// `57.12` or `57.12 ± 0.30`.
pub fn pretty(values: &[f64]) -> String {
    match mean_std(values) {
        None => "–".to_owned(),
        Some((mean, None)) => format!("{mean:.2}"),
        Some((mean, Some(std))) => format!("{mean:.2} ± {std:.2}"),
    }
}

/// How far a row is from the row it is compared with.
#[derive(Clone, Debug)]
pub struct Change {
    /// The other row's id.
    pub from: String,
    /// Differences in points, one for each seed that both rows have.
    pub points: Vec<f64>,
}

impl Change {
    /// `+1.20` or `+1.20 ± 0.30`.
    pub fn text(&self) -> String {
        let sign = if mean_std(&self.points).is_some_and(|(mean, _)| mean >= 0.0) { "+" } else { "" };
        format!("{sign}{}", pretty(&self.points))
    }

    /// What a paired t-test over the seeds says at 95 %; nothing of a single seed.
    pub fn verdict(&self) -> Option<&'static str> {
        let n = self.points.len();
        let (mean, std) = mean_std(&self.points)?;
        let t = StudentsT::new(0.0, 1.0, n.checked_sub(1)? as f64).ok()?;
        let margin = t.inverse_cdf(0.5 + CONFIDENCE / 2.0) * std? / (n as f64).sqrt();
        Some(match mean {
            m if m > margin => "better",
            m if m < -margin => "worse",
            _ => "no clear change",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(points: &[f64]) -> Option<&'static str> {
        Change { from: "a".to_owned(), points: points.to_vec() }.verdict()
    }

    #[test]
    fn verdicts_need_seeds() {
        assert_eq!(verdict(&[]), None);
        assert_eq!(verdict(&[5.0]), None);
        // The two-sided 95 % point of Student's t with 2 degrees of freedom is 4.303: mean 2, standard deviation 1 give
        // a margin of 2.48; a standard deviation of 0.5 one of 1.24.
        assert_eq!(verdict(&[1.0, 2.0, 3.0]), Some("no clear change"));
        assert_eq!(verdict(&[1.5, 2.0, 2.5]), Some("better"));
        assert_eq!(verdict(&[-1.5, -2.0, -2.5]), Some("worse"));
        assert_eq!(verdict(&[0.0, 0.0]), Some("no clear change"));
    }

    #[test]
    fn means_and_deviations() {
        assert_eq!(pretty(&[]), "–");
        assert_eq!(pretty(&[57.125]), "57.12");
        assert_eq!(pretty(&[56.0, 58.0]), "57.00 ± 1.41");
    }
}
