//! The numbers as tables, at most 80 columns wide: for the terminal and for the page.

use super::result::{Network, Pairs, RunPart, Student};
use crate::output::shorten;
use crate::page::Table;
use dkd_trainer::analysis::Pull;

/// Longest names.
const NAME: usize = 14;
const TERM: usize = 16;

/// A number of unknown size in few characters.
fn number(value: f64) -> String {
    match value.abs() {
        v if v.is_nan() => "–".to_owned(),
        0.0 => "0".to_owned(),
        0.001..1e4 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

fn fixed(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.digits$}");
    // What rounds to 0 has no sign.
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|b| matches!(b, b'0' | b'.')) => rest.to_owned(),
        _ => text,
    }
}

/// How far every row came, and its accuracies; for the page, since a terminal shows what `dkd report` does.
pub fn accuracy(run: &RunPart) -> Table {
    let head = ["row", "loss", "epochs", "last, %", "best on test, %"];
    let mut table = Table::new("test accuracy".to_owned(), 2, &head);
    let percent = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), |v| fixed(v, 2));
    table.rows.extend(run.results.iter().map(|r| {
        vec![
            r.label.clone(),
            r.setting.clone(),
            format!("{} of {}", r.epochs.len(), r.planned_epochs),
            percent(r.last),
            percent(r.best_on_test),
        ]
    }));
    table
}

/// Every term's weight, its mean in the first and the last epoch, and its shares there.
pub fn terms(run: &RunPart) -> Table {
    let head = ["row", "term", "weight", "first", "last", "share, %", "last"];
    let caption = "loss terms: means of the first and last epoch, shares of the weighted loss";
    let mut table = Table::new(caption.to_owned(), 2, &head);
    for curve in &run.terms {
        let ends = (curve.points.first(), curve.last_epoch());
        let (Some(first), Some(last)) =
            (ends.0.and_then(|p| curve.epoch(p.epoch)), ends.1.and_then(|e| curve.epoch(e)))
        else {
            continue;
        };
        for (k, term) in curve.terms.iter().enumerate() {
            table.rows.push(vec![
                if k == 0 { shorten(&curve.row, NAME) } else { String::new() },
                shorten(term, TERM),
                number(curve.weights[k]),
                number(first.0[k]),
                number(last.0[k]),
                fixed(first.1[k], 1),
                fixed(last.1[k], 1),
            ]);
        }
    }
    table
}

/// All tables about a teacher and its students.
pub fn pairs(pairs: &Pairs) -> [Table; 4] {
    [networks(pairs), agreement(pairs), distance(pairs), gradients(pairs)]
}

fn networks(pairs: &Pairs) -> Table {
    let caption = format!(
        "{}, {} {} images (T = 1; entropy in nats; ECE with 15 bins)",
        pairs.dataset, pairs.images, pairs.split
    );
    let head = ["network", "top-1, %", "loss", "p(label)", "p(answer)", "entropy", "ECE, %"];
    let mut table = Table::new(caption, 1, &head);
    let all = std::iter::once(&pairs.teacher).chain(pairs.students.iter().map(|s| &s.network));
    table.rows.extend(all.map(|n: &Network| {
        vec![
            shorten(&n.name, NAME),
            fixed(n.report.metrics.top1, 2),
            number(n.report.metrics.loss),
            fixed(n.report.label_confidence, 3),
            fixed(n.report.confidence, 3),
            fixed(n.report.entropy, 3),
            fixed(n.report.calibration_error, 2),
        ]
    }));
    table
}

/// A table with a line for each student.
fn by_student(
    pairs: &Pairs,
    caption: String,
    head: &[&str],
    cells: impl Fn(&Student) -> Vec<String>,
) -> Table {
    let mut table = Table::new(caption, 1, &[&["student"], head].concat());
    table
        .rows
        .extend(pairs.students.iter().map(|s| [vec![shorten(&s.network.name, NAME)], cells(s)].concat()));
    table
}

fn agreement(pairs: &Pairs) -> Table {
    let caption = "answers beside the teacher's, % of the images".to_owned();
    let head = ["same answer", "both right", "teacher only", "student only", "same error"];
    by_student(pairs, caption, &head, |s| {
        let a = &s.pair.agreement;
        [a.same, a.both_right, a.only_teacher_right, a.only_student_right, a.same_mistake]
            .map(|v| fixed(v, 2))
            .to_vec()
    })
}

fn distance(pairs: &Pairs) -> Table {
    let caption =
        format!("distance from the teacher, T = {}; correlations between logits", pairs.temperature);
    let head = ["KD", "TCKD", "NCKD", "corr. mean", "max", "logits mean", "max"];
    by_student(pairs, caption, &head, |s| {
        let (d, p) = (&s.pair.divergence, &s.pair);
        let all = [d.kd, d.tckd, d.nckd, p.correlation.mean, p.correlation.max];
        all.into_iter().chain([p.class_logits_mean, p.class_logits_max]).map(number).collect()
    })
}

fn gradients(pairs: &Pairs) -> Table {
    let caption = format!(
        "gradient on the logits, T = {}: mean norm and share of each term; cosines",
        pairs.temperature
    );
    let head = ["CE", "TCKD", "NCKD", "CE,TCKD", "CE,NCKD", "T,NCKD"];
    by_student(pairs, caption, &head, |s| {
        let g = &s.pair.gradients;
        let pull = |p: Pull| format!("{} {:.0} %", number(p.norm), p.share);
        let cosine = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), |v| fixed(v, 2));
        let pulls = [g.ce, g.tckd, g.nckd].map(pull);
        let cosines = [g.cosines.ce_tckd, g.cosines.ce_nckd, g.cosines.tckd_nckd].map(cosine);
        [pulls.to_vec(), cosines.to_vec()].concat()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_stay_short() {
        let all = [0.0, 0.25, -12.5, 9999.9996, 1e-9, -3e30, f64::NAN, f64::INFINITY].map(number);
        assert_eq!(all[..3], ["0", "0.250", "-12.500"]);
        assert_eq!(all[6], "–");
        assert_eq!([-0.001, -0.26, f64::NAN].map(|v| fixed(v, 1)), ["0.0", "-0.3", "–"]);
        assert!(all.iter().all(|n| n.chars().count() <= 9), "{all:?}");
    }
}
