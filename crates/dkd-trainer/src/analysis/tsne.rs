//! Features of many dimensions as points in a plane, by t-SNE (van der Maaten, Hinton, 2008).

use crate::{Error, Result};
use bhtsne::{Neighbor, tSNE};
use dkd_kernels::rng::{Purpose, Stream, hash_name};

/// Most points.
pub const MAX_POINTS: usize = 4000;

/// Fewest points of which a plane can be made.
const MIN_POINTS: usize = 8;

/// Neighbours that a point looks at, roughly; fewer where there are few points.
const PERPLEXITY: f64 = 30.0;

/// How coarsely far points are seen together: the usual value of the Barnes-Hut approximation.
const THETA: f64 = 0.5;

/// Deviation of the points before the first step, as in the paper.
const START: f32 = 1e-4;

fn stream(what: &str) -> Stream {
    Stream::new(0, Purpose::Other, 0, hash_name(what))
}

/// Positions of at most `points` images of the first `classes` classes, ascending: always the same ones.
pub fn choose(labels: &[u32], classes: usize, points: usize) -> Vec<usize> {
    let order = stream("analysis.choose").permutation(labels.len());
    let shown = order.into_iter().map(|i| i as usize).filter(|i| (labels[*i] as usize) < classes);
    let mut chosen: Vec<usize> = shown.take(points).collect();
    chosen.sort_unstable();
    chosen
}

/// Places `points` rows of `features` in a plane so that near rows are near each other; only who is near whom means anything.
///
/// Neighbours are exact and the start is drawn from a fixed seed, so the same features give the same points as long as rayon has
/// one thread (`RAYON_NUM_THREADS=1`); with several, the library adds one sum in an order of its own.
///
/// # Errors
/// There are fewer than 8 rows or more than [`MAX_POINTS`]; a feature is not finite, or all rows are equal.
pub fn tsne(features: &[f32], points: usize) -> Result<Vec<[f32; 2]>> {
    if !(MIN_POINTS..=MAX_POINTS).contains(&points) {
        return Err(Error::Invalid(format!(
            "t-SNE of {points} images: expected from {MIN_POINTS} to {MAX_POINTS}"
        )));
    }
    let width = features.len() / points;
    if width == 0 || features.len() != width * points || features.iter().any(|v| !v.is_finite()) {
        return Err(Error::Invalid(format!(
            "{} features of {points} images are not finite rows",
            features.len()
        )));
    }
    let rows: Vec<&[f32]> = features.chunks_exact(width).collect();
    let perplexity = PERPLEXITY.min((points - 1) as f64 / 3.0);
    let near = neighbors(&rows, (3.0 * perplexity) as usize);
    if near.iter().flatten().all(|n| n.distance == 0.0) {
        return Err(Error::Invalid(
            "all images have the same features: there is nothing to place".to_owned(),
        ));
    }
    let draws = stream("analysis.tsne");
    let start: Vec<f64> = (0..2 * points as u64).map(|i| f64::from(START * draws.normal(i))).collect();
    let mut plane: tSNE<'_, f64, &[f32]> = tSNE::new(&rows);
    plane.perplexity(perplexity).initial_embedding(start).barnes_hut_with_neighbors(THETA, &near);
    Ok(plane.embedding().chunks_exact(2).map(|p| [p[0] as f32, p[1] as f32]).collect())
}

/// The `count` nearest other rows of each, the nearest first, the earlier of equally near ones. Distances are in units of the
/// mean distance to these, since the library looks for a scale near 1.
fn neighbors(rows: &[&[f32]], count: usize) -> Vec<Vec<Neighbor<f64>>> {
    let mut all: Vec<Vec<Neighbor<f64>>> = Vec::with_capacity(rows.len());
    for (i, own) in rows.iter().enumerate() {
        let distance = |other: &[f32]| {
            let squares = own.iter().zip(other).map(|(a, b)| f64::from(a - b) * f64::from(a - b));
            squares.sum::<f64>().sqrt()
        };
        let others = rows.iter().enumerate().filter(|(j, _)| *j != i);
        let mut near: Vec<Neighbor<f64>> =
            others.map(|(index, row)| Neighbor { index, distance: distance(row) }).collect();
        near.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.index.cmp(&b.index)));
        near.truncate(count);
        all.push(near);
    }
    let sum: f64 = all.iter().flatten().map(|n| n.distance).sum();
    let mean = sum / (count * rows.len()).max(1) as f64;
    if mean > 0.0 {
        all.iter_mut().flatten().for_each(|n| n.distance /= mean);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_images_are_chosen_and_none_of_other_classes() {
        let labels: Vec<u32> = (0..1000).map(|i| i % 50).collect();
        let chosen = choose(&labels, 20, 100);
        assert_eq!((chosen.len(), &chosen), (100, &choose(&labels, 20, 100)));
        assert!(chosen.is_sorted() && chosen.iter().all(|i| labels[*i] < 20));
        assert_eq!(choose(&labels, 20, 4000).len(), 400);
    }

    #[test]
    fn clusters_stay_apart_and_the_result_is_the_same_again() {
        // Two clusters of 20 points in 5 dimensions, 100 apart.
        let draws = Stream::new(3, Purpose::Other, 0, 0);
        let value = |i: u64| draws.normal(i) + if (i / 5).is_multiple_of(2) { 0.0 } else { 100.0 };
        let features: Vec<f32> = (0..200).map(value).collect();
        let found = tsne(&features, 40).unwrap();
        let away = |a: usize, b: usize| {
            let d = |k: usize| found[a][k] - found[b][k];
            d(0).hypot(d(1))
        };
        let nearest =
            |a: usize| (0..40).filter(|b| *b != a).min_by(|b, c| away(a, *b).total_cmp(&away(a, *c)));
        assert!((0..40).all(|a| nearest(a).unwrap() % 2 == a % 2), "{found:?}");
        let pool = std::env::var("RAYON_NUM_THREADS").is_ok_and(|n| n == "1");
        assert!(!pool || tsne(&features, 40).unwrap() == found);
    }

    #[test]
    fn what_cannot_be_placed_is_refused() {
        let refused = |features: &[f32], points| tsne(features, points).unwrap_err().to_string();
        assert!(refused(&[0.0; 7], 7).contains("from 8 to 4000"));
        assert!(refused(&[1.0; 20], 10).contains("the same features"));
        assert!(refused(&[f32::NAN; 20], 10).contains("not finite"));
        assert!(refused(&[], 10).contains("0 features"));
    }

    #[test]
    fn neighbors_are_the_nearest_and_ties_go_to_the_first() {
        let rows: [&[f32]; 4] = [&[0.0], &[1.0], &[-1.0], &[5.0]];
        let near = neighbors(&rows, 2);
        let indices = |i: usize| near[i].iter().map(|n| n.index).collect::<Vec<_>>();
        assert_eq!((indices(0), indices(3)), (vec![1, 2], vec![1, 0]));
    }
}
