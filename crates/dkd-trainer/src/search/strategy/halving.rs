//! Successive halving (Jamieson, Talwalkar, *Non-stochastic best arm identification and hyperparameter optimization*, AISTATS
//! 2016).
//!
//! A rung trains its trials from the start with a schedule of its own length: a trial that went on from the rung below would have
//! been trained at the high rates of a longer schedule until then, and would be compared by accuracies before they matter.

use super::super::state::{Trial, best_first};
use super::{Plan, Proposal, Strategy};
use crate::Result;

/// Trials that are trained for equally many epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// How many, if none diverges.
    pub trials: usize,
    /// Epochs of each.
    pub epochs: usize,
}

/// All rungs, the last with `epochs` epochs.
pub(super) fn rungs(trials: usize, eta: usize, first_epochs: usize, epochs: usize) -> Vec<Rung> {
    let mut rung = Rung { trials, epochs: first_epochs };
    let mut all = vec![rung];
    while rung.trials > 1 && rung.epochs < epochs {
        let trials = (rung.trials / eta).max(1);
        // One that is alone has nobody to be compared with before the end.
        let longer = if trials == 1 { epochs } else { rung.epochs.saturating_mul(eta).min(epochs) };
        rung = Rung { trials, epochs: longer };
        all.push(rung);
    }
    all
}

impl Plan {
    /// Trials of the first rung that is not done.
    pub(super) fn next_of_halving(&self, done: &[Trial]) -> Result<Vec<Proposal>> {
        let Strategy::Halving { trials, .. } = self.strategy else { return Ok(Vec::new()) };
        let mut entrants: Vec<usize> = (1..=trials).collect();
        for (r, rung) in self.rungs()?.into_iter().enumerate() {
            if r > 0 {
                let below: Vec<&Trial> = done.iter().filter(|t| t.rung == r - 1).collect();
                entrants = survivors(&below, rung.trials, self);
            }
            let missing = entrants.iter().filter(|n| !done.iter().any(|t| t.rung == r && t.number == **n));
            let next: Vec<Proposal> = missing
                .take(self.together)
                .map(|n| Proposal {
                    number: *n,
                    rung: r,
                    epochs: rung.epochs,
                    values: self.space.draw(self.seed, *n),
                })
                .collect();
            if !next.is_empty() {
                return Ok(next);
            }
        }
        Ok(Vec::new())
    }
}

/// The best `count` trials of a rung, by number. One that diverged does not go on; of equal ones the first does.
fn survivors(rung: &[&Trial], count: usize, plan: &Plan) -> Vec<usize> {
    let mut sorted: Vec<&Trial> = rung.iter().copied().filter(|t| t.score(plan.metric).is_some()).collect();
    sorted.sort_by(|a, b| best_first(a, b, plan.metric));
    let mut numbers: Vec<usize> = sorted.iter().take(count).map(|t| t.number).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::super::tests::{all, best, loss, plan};
    use super::*;

    fn shape(trials: usize, eta: usize, first: usize, epochs: usize) -> Vec<(usize, usize)> {
        rungs(trials, eta, first, epochs).into_iter().map(|r| (r.trials, r.epochs)).collect()
    }

    #[test]
    fn fewer_and_fewer_trials_have_more_and_more_epochs() {
        assert_eq!(shape(9, 3, 1, 9), [(9, 1), (3, 3), (1, 9)]);
        assert_eq!(shape(27, 3, 1, 5), [(27, 1), (9, 3), (3, 5)]);
        assert_eq!(shape(20, 2, 2, 100), [(20, 2), (10, 4), (5, 8), (2, 16), (1, 100)]);
        assert_eq!(shape(4, 3, 5, 5), [(4, 5)]);
        assert_eq!(shape(2, 3, usize::MAX / 2, usize::MAX), [(2, usize::MAX / 2), (1, usize::MAX)]);
    }

    #[test]
    fn the_best_go_on() {
        let plan = plan(Strategy::Halving { trials: 9, eta: 3, first_epochs: 1 }, 0, 2);
        let trials = all(&plan);
        let count = |rung| trials.iter().filter(|t| t.rung == rung).count();
        assert_eq!([count(0), count(1), count(2), trials.len()], [9, 3, 1, 13]);
        let mut losses: Vec<f64> = trials[..9].iter().map(|t| loss(&t.values)).collect();
        losses.sort_by(f64::total_cmp);
        assert!(trials[9..12].iter().all(|t| loss(&t.values) <= losses[2]));
        assert_eq!((trials[12].loss, trials[12].epochs), (Some(best(&trials)), 9));
    }

    #[test]
    fn ties_go_to_the_first_and_diverged_trials_end() {
        let plan = plan(Strategy::Halving { trials: 6, eta: 2, first_epochs: 3 }, 0, 6);
        let rung = |losses: [Option<f64>; 6]| -> Vec<Trial> {
            let proposals = plan.next(&[]).unwrap();
            proposals.iter().zip(losses).map(|(p, loss)| Trial::new(p, None, loss)).collect()
        };
        let next = |losses| -> Vec<(usize, usize, usize)> {
            let proposals = plan.next(&rung(losses)).unwrap();
            proposals.iter().map(|p| (p.number, p.rung, p.epochs)).collect()
        };
        let equal = [Some(2.0), Some(1.0), Some(2.0), Some(2.0), Some(0.5), None];
        assert_eq!(next(equal), [(1, 1, 6), (2, 1, 6), (5, 1, 6)]);
        let few = [None, None, Some(9.0), None, None, None];
        assert_eq!(next(few), [(3, 1, 6)]);
        assert!(next([None; 6]).is_empty());
    }
}
