//! What is tried next.
//!
//! A proposal is a function of the plan and of what earlier trials gave: nothing is kept between two questions, so a search that
//! was stopped goes on as if it had not been.

mod halving;
mod tpe;

pub use halving::Rung;

use super::space::{Point, Space};
use super::state::{Metric, Trial};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Most trials.
const MAX_TRIALS: usize = 100_000;

/// How points are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// All points of a grid.
    Grid,
    /// Points drawn independently of each other.
    Random {
        /// How many.
        trials: usize,
    },
    /// The tree-structured Parzen estimator: more points where the good ones were.
    Tpe {
        /// How many.
        trials: usize,
    },
    /// Successive halving: many points for a few epochs, the best of them for more.
    Halving {
        /// How many in the first rung.
        trials: usize,
        /// One of so many goes on, with so many times the epochs.
        eta: usize,
        /// Epochs of the first rung.
        first_epochs: usize,
    },
}

impl Strategy {
    /// Name in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Random { .. } => "random",
            Self::Tpe { .. } => "tpe",
            Self::Halving { .. } => "halving",
        }
    }

    /// The same with another number of trials.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a grid, whose points are what they are.
    pub fn with_trials(self, trials: usize) -> Result<Self> {
        match self {
            Self::Grid => Err(Error::Invalid(
                "a grid has as many trials as points; `points` and `values` of its keys decide".to_owned(),
            )),
            Self::Random { .. } => Ok(Self::Random { trials }),
            Self::Tpe { .. } => Ok(Self::Tpe { trials }),
            Self::Halving { eta, first_epochs, .. } => Ok(Self::Halving { trials, eta, first_epochs }),
        }
    }
}

/// Something to be tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Which trial, from 1.
    pub number: usize,
    /// Rung of successive halving; 0 elsewhere.
    pub rung: usize,
    /// Epochs.
    pub epochs: usize,
    /// A value for each key.
    pub values: Point,
}

impl Proposal {
    /// Name of its row.
    pub fn id(&self) -> String {
        format!("t{:04}", self.number)
    }
}

/// A search, but for what a trial is.
///
/// ```
/// use dkd_trainer::search::{Domain, Metric, Plan, Range, Scale, Space, Strategy, Trial, standing};
/// // Where is (x - 3)² least?
/// let x = Range { low: 0.0, high: 10.0, scale: Scale::Linear, integer: false, points: None };
/// let plan = Plan {
///     space: Space::new([("x".to_owned(), Domain::Range(x))].into())?,
///     strategy: Strategy::Tpe { trials: 40 },
///     seed: 0,
///     epochs: 1,
///     together: 1,
///     metric: Metric::Loss,
/// };
/// plan.check()?;
/// let mut done = Vec::new();
/// loop {
///     let proposals = plan.next(&done)?;
///     if proposals.is_empty() {
///         break;
///     }
///     for proposal in proposals {
///         let x = proposal.values["x"].as_float().unwrap_or_default();
///         done.push(Trial::new(&proposal, None, Some((x - 3.0).powi(2))));
///     }
/// }
/// let best = standing(&done, plan.metric)[0].values["x"].as_float().unwrap_or_default();
/// assert!((best - 3.0).abs() < 1.0, "{best}");
/// # Ok::<(), dkd_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where points are taken from.
    pub space: Space,
    /// How.
    pub strategy: Strategy,
    /// Of what is drawn.
    pub seed: u64,
    /// Epochs of a trial; with halving, of one in the last rung.
    pub epochs: usize,
    /// Trials proposed at a time.
    pub together: usize,
    /// What is best.
    pub metric: Metric,
}

impl Plan {
    /// Whether the numbers fit together.
    ///
    /// # Errors
    /// [`Error::Invalid`] names what is wrong.
    pub fn check(&self) -> Result<()> {
        let positive = |name: &str, n: usize, least: usize, most: usize| {
            let ok = (least..=most).contains(&n);
            let message = || format!("`{name}` is {n}; it must be from {least} to {most}");
            if ok { Ok(()) } else { Err(Error::Invalid(message())) }
        };
        positive("epochs", self.epochs, 1, u32::MAX as usize)?;
        positive("together", self.together, 1, 1000)?;
        match self.strategy {
            Strategy::Grid => self.space.grid().map(|_| ()),
            Strategy::Random { trials } | Strategy::Tpe { trials } => {
                positive("trials", trials, 1, MAX_TRIALS)
            }
            Strategy::Halving { trials, eta, first_epochs } => {
                positive("trials", trials, 2, MAX_TRIALS)?;
                positive("eta", eta, 2, 100)?;
                positive("first_epochs", first_epochs, 1, self.epochs)
            }
        }
    }

    /// The rungs of successive halving; one for the other strategies.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a grid has no end.
    pub fn rungs(&self) -> Result<Vec<Rung>> {
        Ok(match self.strategy {
            Strategy::Grid => vec![Rung { trials: self.space.grid()?.len(), epochs: self.epochs }],
            Strategy::Random { trials } | Strategy::Tpe { trials } => {
                vec![Rung { trials, epochs: self.epochs }]
            }
            Strategy::Halving { trials, eta, first_epochs } => {
                halving::rungs(trials, eta, first_epochs, self.epochs)
            }
        })
    }

    /// What comes next after these trials, at most [`Plan::together`]; nothing once the search is over.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a grid has no end, or if trials are not of this search.
    pub fn next(&self, done: &[Trial]) -> Result<Vec<Proposal>> {
        let propose =
            |number: usize, values: Point| Proposal { number, rung: 0, epochs: self.epochs, values };
        let (seed, space) = (self.seed, &self.space);
        match self.strategy {
            Strategy::Grid => {
                let points = space.grid()?;
                let numbers = self.block(points.len(), done);
                Ok(numbers.into_iter().map(|n| propose(n, points[n - 1].clone())).collect())
            }
            Strategy::Random { trials } => {
                let numbers = self.block(trials, done).into_iter();
                Ok(numbers.map(|n| propose(n, space.draw(seed, n))).collect())
            }
            Strategy::Tpe { trials } => {
                let point = |n: usize| tpe::point(self, n, done).map(|values| propose(n, values));
                self.block(trials, done).into_iter().map(point).collect()
            }
            Strategy::Halving { .. } => self.next_of_halving(done),
        }
    }

    /// The first trial of those that are proposed together with trial `number`.
    fn block_start(&self, number: usize) -> usize {
        (number - 1) / self.together * self.together + 1
    }

    /// Trials of the first block that is not done, without those that are.
    fn block(&self, total: usize, done: &[Trial]) -> Vec<usize> {
        let done: BTreeSet<usize> = done.iter().map(|t| t.number).collect();
        let Some(first) = (1..=total).find(|n| !done.contains(n)) else { return Vec::new() };
        let start = self.block_start(first);
        (start..start + self.together).filter(|n| *n <= total && !done.contains(n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::space::{Domain, Range, Scale, number};
    use super::*;

    /// A plan over x and y from -1 to 1.
    pub(super) fn plan(strategy: Strategy, seed: u64, together: usize) -> Plan {
        let range = Range { low: -1.0, high: 1.0, scale: Scale::Linear, integer: false, points: Some(3) };
        let keys = ["x", "y"].map(|k| (k.to_owned(), Domain::Range(range.clone())));
        let space = Space::new(keys.into()).unwrap();
        Plan { space, strategy, seed, epochs: 9, together, metric: Metric::Loss }
    }

    /// Distance from (0.3, -0.5), squared.
    pub(super) fn loss(point: &Point) -> f64 {
        let of = |key: &str| number(&point[key]).unwrap();
        (of("x") - 0.3).powi(2) + (of("y") + 0.5).powi(2)
    }

    /// The whole search.
    pub(super) fn all(plan: &Plan) -> Vec<Trial> {
        plan.check().unwrap();
        let mut done: Vec<Trial> = Vec::new();
        loop {
            let proposals = plan.next(&done).unwrap();
            if proposals.is_empty() {
                return done;
            }
            assert!(proposals.len() <= plan.together);
            done.extend(proposals.iter().map(|p| Trial::new(p, None, Some(loss(&p.values)))));
        }
    }

    pub(super) fn best(trials: &[Trial]) -> f64 {
        trials.iter().filter_map(|t| t.loss).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn every_point_of_a_grid_is_tried_once() {
        let trials = all(&plan(Strategy::Grid, 0, 4));
        assert_eq!(trials.iter().map(|t| t.number).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
        let shown = |t: &Trial| format!("{} {}", t.values["x"], t.values["y"]);
        let distinct: BTreeSet<String> = trials.iter().map(shown).collect();
        assert_eq!(distinct.len(), 9);
    }

    #[test]
    fn what_is_missing_is_proposed_again() {
        for strategy in [Strategy::Random { trials: 10 }, Strategy::Tpe { trials: 30 }] {
            let plan = plan(strategy, 3, 4);
            let whole = all(&plan);
            // As a part of a block, in another order, and after a search that was meant to be shorter.
            let mut some: Vec<Trial> = whole[..7].to_vec();
            some.remove(5);
            some.reverse();
            let next = plan.next(&some).unwrap();
            assert_eq!(next.iter().map(|p| p.number).collect::<Vec<_>>(), [6, 8]);
            for proposal in next {
                assert_eq!(proposal.values, whole[proposal.number - 1].values);
            }
            let mut shorter = plan.clone();
            shorter.strategy = strategy.with_trials(9).unwrap();
            assert_eq!(all(&shorter), whole[..9]);
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_named() {
        let halving = |trials, eta, first_epochs| Strategy::Halving { trials, eta, first_epochs };
        for (strategy, expected) in [
            (Strategy::Random { trials: 0 }, "`trials` is 0"),
            (halving(1, 3, 1), "`trials` is 1"),
            (halving(9, 1, 1), "`eta` is 1"),
            (halving(9, 3, 10), "`first_epochs` is 10; it must be from 1 to 9"),
        ] {
            let message = plan(strategy, 0, 1).check().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(Strategy::Grid.with_trials(3).is_err());
    }
}
