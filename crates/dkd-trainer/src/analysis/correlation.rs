//! How the logits of one class go with those of another, and how differently in two networks.

use super::Answers;
use crate::Result;
use candle_core::Tensor;
use serde::Serialize;

/// How two square matrices over the classes differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Mean absolute difference of the elements off the diagonal.
    pub mean: f64,
    /// Largest absolute difference.
    pub max: f64,
    /// Where it is: the two classes.
    pub at: (usize, usize),
    /// The second matrix less the first.
    pub matrix: Vec<Vec<f32>>,
}

/// Pearson's correlation over all images between the logits of every two classes, of logits `[n, C]`: `[C, C]`.
///
/// A class whose logit is the same for all images goes with no other: 0, and 1 with itself.
///
/// # Errors
/// candle's.
pub fn correlation(logits: &Tensor) -> Result<Vec<Vec<f64>>> {
    let (rows, classes) = logits.dims2()?;
    let values = logits.flatten_all()?.to_vec1::<f32>()?;
    let mut means = vec![0.0; classes];
    for row in values.chunks_exact(classes) {
        means.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / rows as f64);
    }
    let mut products = vec![vec![0.0; classes]; classes];
    let mut centred = vec![0.0; classes];
    for row in values.chunks_exact(classes) {
        centred.iter_mut().zip(row).zip(&means).for_each(|((c, v), m)| *c = f64::from(*v) - m);
        for (i, line) in products.iter_mut().enumerate() {
            let own = centred[i];
            line[..=i].iter_mut().zip(&centred).for_each(|(p, c)| *p += own * c);
        }
    }
    let deviations: Vec<f64> = (0..classes).map(|i| products[i][i].sqrt()).collect();
    let element = |i: usize, j: usize| {
        let scale = deviations[i] * deviations[j];
        match (i == j, scale > 0.0) {
            (true, _) => 1.0,
            (false, true) => products[i.max(j)][i.min(j)] / scale,
            (false, false) => 0.0,
        }
    };
    Ok((0..classes).map(|i| (0..classes).map(|j| element(i, j)).collect()).collect())
}

/// What is left of `second` without `first`; both `[C, C]`.
pub fn difference(first: &[Vec<f64>], second: &[Vec<f64>]) -> Difference {
    let classes = first.len();
    let mut found = Difference { mean: 0.0, max: 0.0, at: (0, 0), matrix: Vec::with_capacity(classes) };
    for (i, (a, b)) in first.iter().zip(second).enumerate() {
        let line: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
        for (j, d) in line.iter().enumerate().filter(|(j, _)| *j != i) {
            found.mean += d.abs();
            if d.abs() > found.max {
                (found.max, found.at) = (d.abs(), (i, j));
            }
        }
        found.matrix.push(line.into_iter().map(|d| d as f32).collect());
    }
    found.mean /= (classes * classes.saturating_sub(1)).max(1) as f64;
    found
}

/// Mean and maximum of `|S - T|` off the diagonal, where row y of T and S is the mean of the teacher's and the student's logits
/// over the images of class y. Classes without images are left out.
///
/// This, with the diagonal counted as 0, is what the code of *Decoupled knowledge distillation* draws as the difference of
/// correlation matrices.
///
/// # Errors
/// candle's.
pub fn class_logits_difference(teacher: &Answers, student: &Answers) -> Result<(f64, f64)> {
    let (_, classes) = teacher.size()?;
    let distance = (&student.logits - &teacher.logits)?.flatten_all()?.to_vec1::<f32>()?;
    let mut sums = vec![vec![0.0; classes]; classes];
    let mut images = vec![0_usize; classes];
    for (row, label) in distance.chunks_exact(classes).zip(&teacher.labels) {
        images[*label as usize] += 1;
        sums[*label as usize].iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
    }
    let (mut sum, mut max, mut count) = (0.0, 0.0_f64, 0_usize);
    for (y, line) in sums.iter().enumerate().filter(|(y, _)| images[*y] > 0) {
        for (_, total) in line.iter().enumerate().filter(|(j, _)| *j != y) {
            let value = (total / images[y] as f64).abs();
            (sum, max, count) = (sum + value, max.max(value), count + 1);
        }
    }
    Ok((sum / count.max(1) as f64, max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor<const C: usize, const N: usize>(rows: &[[f32; C]; N]) -> Tensor {
        Tensor::new(rows, &Device::Cpu).unwrap()
    }

    #[test]
    fn known_matrices() {
        // x, 2x + 1, -x, a constant, and (1, -2, 1), which is at a right angle to x.
        let found = correlation(&tensor(&[
            [-1.0, -1.0, 1.0, 5.0, 1.0],
            [0.0, 1.0, 0.0, 5.0, -2.0],
            [1.0, 3.0, -1.0, 5.0, 1.0],
        ]));
        let expected = [
            [1.0, 1.0, -1.0, 0.0, 0.0],
            [1.0, 1.0, -1.0, 0.0, 0.0],
            [-1.0, -1.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 1.0],
        ];
        for (line, expected) in found.unwrap().iter().zip(&expected) {
            assert!(line.iter().zip(expected).all(|(a, b): (&f64, &f64)| (a - b).abs() < 1e-12), "{line:?}");
        }
    }

    #[test]
    fn differences_leave_the_diagonal_out() {
        let first = [vec![1.0, 0.5, 0.0], vec![0.5, 1.0, 0.0], vec![0.0, 0.0, 1.0]];
        let second = [vec![1.0, 0.5, -0.75], vec![0.5, 1.0, 0.0], vec![-0.75, 0.0, 1.0]];
        let found = difference(&first, &second);
        assert_eq!((found.mean, found.max, found.at), (0.25, 0.75, (0, 2)));
        assert_eq!(found.matrix[2], [-0.75, 0.0, 0.0]);
    }

    #[test]
    fn mean_logits_are_taken_class_by_class() {
        let said = |logits: Tensor| Answers { logits, labels: vec![0, 0, 1], features: Vec::new() };
        let teacher = said(tensor(&[[9.0, 1.0, 0.0], [9.0, 3.0, 0.0], [1.0, 9.0, 1.0]]));
        let student = said(tensor(&[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [4.0, 9.0, 1.0]]));
        // Class 0: |1 - 2| and 0; class 1: |4 - 1| and 0; class 2 has no images.
        assert_eq!(class_logits_difference(&teacher, &student).unwrap(), (1.0, 3.0));
    }
}
