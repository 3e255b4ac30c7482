//! Where two networks give the same answer.

use super::Answers;
use crate::Result;
use crate::assess::answer;
use serde::Serialize;

/// Shares of the images, in percent. An answer is the class with the largest logit, the first of equal ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Both give the same answer, right or wrong.
    pub same: f64,
    /// Both are right.
    pub both_right: f64,
    /// The teacher is right, the student is not.
    pub only_teacher_right: f64,
    /// The student is right, the teacher is not.
    pub only_student_right: f64,
    /// Both are wrong in the same way.
    pub same_mistake: f64,
}

impl Agreement {
    /// Of the answers of two networks to the same images.
    ///
    /// # Errors
    /// candle's.
    pub fn of(teacher: &Answers, student: &Answers) -> Result<Self> {
        let (images, classes) = teacher.size()?;
        let (t, s) = (teacher.logits.flatten_all()?, student.logits.flatten_all()?);
        let (t, s) = (t.to_vec1::<f32>()?, s.to_vec1::<f32>()?);
        let mut counts = Self::default();
        let rows = t.chunks_exact(classes).zip(s.chunks_exact(classes));
        for ((t, s), label) in rows.zip(&teacher.labels) {
            let (t, s, label) = (answer(t), answer(s), *label as usize);
            counts.same += f64::from(t == s);
            match (t == label, s == label) {
                (true, true) => counts.both_right += 1.0,
                (true, false) => counts.only_teacher_right += 1.0,
                (false, true) => counts.only_student_right += 1.0,
                (false, false) => counts.same_mistake += f64::from(t == s),
            }
        }
        let percent = |n: f64| 100.0 * n / images.max(1) as f64;
        Ok(Self {
            same: percent(counts.same),
            both_right: percent(counts.both_right),
            only_teacher_right: percent(counts.only_teacher_right),
            only_student_right: percent(counts.only_student_right),
            same_mistake: percent(counts.same_mistake),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn every_case_is_counted_once() {
        let said = |classes: [usize; 5]| {
            let logits: Vec<f32> = classes.iter().flat_map(|c| (0..3).map(|i| f32::from(i == *c))).collect();
            Answers {
                logits: Tensor::from_vec(logits, (5, 3), &Device::Cpu).unwrap(),
                labels: vec![0; 5],
                features: Vec::new(),
            }
        };
        // Both right, only the teacher, only the student, the same mistake, different mistakes.
        let found = Agreement::of(&said([0, 0, 1, 2, 1]), &said([0, 1, 0, 2, 2])).unwrap();
        let fifth = 20.0;
        let expected = Agreement {
            same: 40.0,
            both_right: fifth,
            only_teacher_right: fifth,
            only_student_right: fifth,
            same_mistake: fifth,
        };
        assert_eq!(found, expected);
    }
}
