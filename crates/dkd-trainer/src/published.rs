//! Numbers and logs from elsewhere that rows are compared with.

use crate::{Recipe, RowRecipe};
use serde::{Deserialize, Serialize};

/// A number from elsewhere, in percent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// The value.
    pub value: f64,
    /// Where it stands.
    pub source: String,
    /// Remark.
    pub note: String,
    /// Test accuracy per epoch, if a log exists.
    pub curve: Vec<f64>,
}

/// What is known of the log of one run elsewhere, with the settings of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedLog {
    /// Where it stands.
    pub source: String,
    /// Epochs of that run.
    pub epochs: usize,
    /// Its first epochs, all at its initial learning rate.
    pub steady_epochs: usize,
    /// Test accuracies, in the order of their epochs.
    pub points: Vec<LogPoint>,
}

/// A test accuracy in a log.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct LogPoint {
    /// Epoch, from 1.
    pub epoch: usize,
    /// After it, in percent.
    pub top1: f64,
}

impl RowRecipe {
    /// The first epochs in which this row of `recipe` is trained as the run was of which there is a log or a curve: all of them
    /// if both runs have as many and leave the initial rate at the same one, otherwise those before either run
    /// leaves it. None on a part of the images.
    ///
    /// A curve says nothing about its learning rate, which is taken to be the row's.
    pub fn comparable_epochs(&self, recipe: &Recipe) -> usize {
        let data = &recipe.data;
        if data.validation > 0 || data.train_limit.is_some() || data.test_limit.is_some() {
            return 0;
        }
        let epochs = recipe.train.epochs;
        let steady = self.schedule.steady_epochs(epochs);
        match (&self.log, &self.published) {
            (Some(log), _) if (log.epochs, log.steady_epochs) == (epochs, steady) => epochs,
            (Some(log), _) => steady.min(log.steady_epochs),
            (None, Some(p)) if p.curve.len() == epochs => epochs,
            (None, Some(p)) => steady.min(p.curve.len()),
            (None, None) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn comparable(text: &str) -> usize {
        let text = format!("student.model = 'resnet8'\n{text}");
        let recipe = Config::parse(&text, "t").unwrap().check().unwrap();
        recipe.rows[0].comparable_epochs(&recipe)
    }

    #[test]
    fn runs_are_compared_as_long_as_their_learning_rates_are_the_same() {
        let run = |epochs: usize, milestones: &str, rest: &str| {
            comparable(&format!(
                "train.epochs = {epochs}\nschedule = {{ kind = 'milestones', milestones = {milestones} }}\n{rest}\n[[rows]]\nid = 'a'\n\
                 log = {{ epochs = 240, steady_epochs = 150, points = [{{ epoch = 1, top1 = 17.2 }}] }}"
            ))
        };
        assert_eq!(run(240, "[150, 180, 210]", ""), 240);
        assert_eq!(run(24, "[15, 18, 21]", ""), 15, "its rate falls earlier");
        assert_eq!(run(24, "[150, 180, 210]", ""), 24, "its rate does not fall");
        assert_eq!(run(240, "[100]", ""), 100);
        assert_eq!(run(480, "[300]", ""), 150, "the log's rate falls earlier");
        for part in ["validation = 10", "train_limit = 10", "test_limit = 10"] {
            assert_eq!(run(240, "[150]", &format!("data = {{ {part} }}")), 0, "{part}");
        }
    }

    #[test]
    fn a_curve_is_of_a_run_with_the_schedule_of_the_row() {
        let run = |epochs: usize, schedule: &str| {
            let row = "[[rows]]\nid = 'a'\npublished = { value = 3.0, curve = [1.0, 2.0, 3.0] }";
            comparable(&format!("train.epochs = {epochs}\nschedule = {{ {schedule} }}\n{row}"))
        };
        let (constant, cosine) = ("kind = 'constant'", "kind = 'cosine'");
        assert_eq!([2, 3, 5].map(|epochs| run(epochs, constant)), [2, 3, 3]);
        assert_eq!([2, 3, 5].map(|epochs| run(epochs, cosine)), [0, 3, 0]);
        assert_eq!(run(2, "warmup_epochs = 1"), 0, "not the initial rate");
        assert_eq!(comparable("[[rows]]\nid = 'a'\npublished = { value = 3.0 }"), 0);
        assert_eq!(comparable(""), 0);
    }
}
