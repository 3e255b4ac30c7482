//! The pictures of an analysis.

use super::result::{Network, Pairs, RunPart};
use crate::chart::{Heat, Line, Plot, Reliability, Scatter, heatmaps, lines, reliability, scatters};
use crate::page::Figure;
use crate::report::{Accuracies, accuracies};
use anyhow::Result;
use dkd_trainer::ConfidenceBin;
use dkd_trainer::analysis::{TermCurve, TermPoint};

/// Most classes whose matrix is drawn: of more, a class would be less than a pixel.
const MATRIX_CLASSES: usize = 300;

/// Test accuracy over the epochs.
pub fn accuracy(run: &RunPart) -> Result<Figure> {
    let rows: Vec<Accuracies> = run
        .results
        .iter()
        .map(|r| Accuracies {
            label: r.label.clone(),
            own: r.epochs.iter().map(|e| e.test.top1).collect(),
            published: Vec::new(),
        })
        .collect();
    Ok(Figure::new("accuracy.svg".to_owned(), accuracies(&rows)?, "Test accuracy after every epoch."))
}

/// The terms of a row, and, if there are several, their shares.
pub fn terms(curve: &TermCurve) -> Result<Vec<Figure>> {
    // The row's name comes from a log, and must not lead out of the folder.
    let file = |what: &str| format!("{what}-{}.svg", curve.row.replace(['/', '\\'], "_"));
    let end = curve.points.last().map_or(1.0, |p| p.at).max(f64::MIN_POSITIVE);
    let line = |k: usize, of: fn(&TermPoint) -> &Vec<f64>| Line {
        label: curve.terms[k].clone(),
        points: curve.points.iter().map(|p| (p.at, of(p)[k])).collect(),
        dots: Vec::new(),
    };
    let all = |of: fn(&TermPoint) -> &Vec<f64>| -> Vec<Line> {
        (0..curve.terms.len()).map(|k| line(k, of)).collect()
    };
    let values = all(|p| &p.values);
    let plot = Plot {
        x: "epoch",
        y: "value, without its weight",
        x_range: (0.0, end),
        y_range: range(&values),
        lines: values,
        dots: None,
    };
    let mut figures =
        vec![Figure::new(file("terms"), lines(&plot)?, "The terms of its loss, without their weights.")];
    let known = curve.points.iter().flat_map(|p| &p.shares).any(|s| s.is_finite());
    if curve.terms.len() > 1 && known {
        let plot = Plot {
            y: "share of the weighted loss, %",
            y_range: (0.0, 100.0),
            lines: all(|p| &p.shares),
            ..plot
        };
        let caption = "Every term's share of the loss, with its weight; signs aside.";
        figures.push(Figure::new(file("shares"), lines(&plot)?, caption));
    }
    Ok(figures)
}

/// From 0, or the smallest value, to the largest that is not far above nearly all: a run that diverged has others.
fn range(lines: &[Line]) -> (f64, f64) {
    let mut all: Vec<f64> =
        lines.iter().flat_map(|l| &l.points).map(|p| p.1).filter(|v| v.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    let most = all.get(all.len() * 95 / 100).copied().unwrap_or(1.0);
    let low = all.get(all.len() * 5 / 100).map_or(0.0, |v| v.min(0.0));
    let high = all.last().map_or(1.0, |v| v.min(4.0 * most.max(0.0)));
    (1.05 * low, if high > low { 1.05 * high } else { low + 1.0 })
}

fn networks(pairs: &Pairs) -> impl Iterator<Item = &Network> {
    std::iter::once(&pairs.teacher).chain(pairs.students.iter().map(|s| &s.network))
}

/// How sure the networks are, against how right they are.
pub fn calibration(pairs: &Pairs) -> Result<Figure> {
    let one = |n: &Network| {
        let bin = |b: &ConfidenceBin| {
            let images = b.images.max(1) as f64;
            (b.confidence / images, b.right as f64 / images, b.images)
        };
        Reliability {
            title: format!("{}: calibration error {:.1} %", n.name, n.report.calibration_error),
            bins: n.report.bins.iter().map(bin).collect(),
        }
    };
    let all: Vec<Reliability> = networks(pairs).map(one).collect();
    let caption = "Share of right answers (bars, darker where there are more images) against the confidence of the answer (red \
                   marks), in 15 bins. A bar that ends below its mark: too sure.";
    Ok(Figure::new("reliability.svg".to_owned(), reliability(&all)?, caption))
}

/// Differences of the correlation matrices; nothing of too many classes.
pub fn correlation(pairs: &Pairs) -> Result<Option<Figure>> {
    if pairs.classes.len() > MATRIX_CLASSES {
        return Ok(None);
    }
    let differences = || pairs.students.iter().map(|s| (&s.network.name, &s.pair.correlation));
    let max = differences().map(|(_, d)| d.max).fold(0.0, f64::max);
    let heats: Vec<Heat<'_>> = differences()
        .map(|(name, d)| Heat {
            title: format!("{name}: mean {:.3}, max {:.3}", d.mean, d.max),
            matrix: &d.matrix,
        })
        .collect();
    let caption = "Absolute difference of the correlations between the logits of every two classes, student and teacher; classes \
                   in the order of their numbers. The darker, the less the student knows which classes go together.";
    let scale = if max > 0.0 { max } else { 1.0 };
    Ok(Some(Figure::new("correlation.svg".to_owned(), heatmaps(&heats, scale)?, caption)))
}

/// Where the networks' features put images.
pub fn planes(pairs: &Pairs) -> Result<Option<Figure>> {
    let Some(points) = &pairs.points else { return Ok(None) };
    let panels: Vec<Scatter<'_>> = networks(pairs)
        .filter_map(|n| Some(Scatter { title: n.name.clone(), points: n.tsne.as_deref()? }))
        .collect();
    let classes: Vec<usize> = points.labels.iter().map(|l| *l as usize).collect();
    let names = &pairs.classes[..points.classes.min(pairs.classes.len())];
    let only = if points.classes < pairs.classes.len() {
        format!(" of the first {} classes", points.classes)
    } else {
        String::new()
    };
    let caption = format!(
        "t-SNE of the classifier's input (pooled_feat) for {} images{only}, the same in every panel. Who is near whom means \
         something; axes and sizes do not.",
        points.images.len()
    );
    Ok(Some(Figure::new("tsne.svg".to_owned(), scatters(&panels, &classes, names)?, &caption)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[f64]) -> Line {
        let points = values.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect();
        Line { label: String::new(), points, dots: Vec::new() }
    }

    #[test]
    fn one_wild_value_does_not_hide_the_others() {
        let mut values = vec![1.0; 99];
        values.push(1e30);
        assert_eq!(range(&[line(&values)]), (0.0, 4.2));
        assert_eq!(range(&[line(&[f64::NAN])]), (0.0, 1.05));
        assert_eq!(range(&[line(&[0.0, 0.0])]), (0.0, 1.0));
        assert_eq!(range(&[line(&[1.0, 2.0])]), (0.0, 2.1));
    }
}
