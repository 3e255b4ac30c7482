//! The tree-structured Parzen estimator (Bergstra, Bardenet, Bengio, Kégl, *Algorithms for hyper-parameter optimization*, NIPS
//! 2011), from the crate `tpe`: one estimator for each key.

use super::super::space::{Domain, Point};
use super::super::state::Trial;
use super::Plan;
use crate::{Error, Result};
use ::tpe::{TpeOptimizer, categorical_range, histogram_estimator, parzen_estimator, range};
use dkd_kernels::rng::{Purpose, Stream};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::fmt::Display;

/// Trials that are drawn as a random search draws them: before them nothing is known.
const START: usize = 8;

fn fail(e: impl Display) -> Error {
    Error::Invalid(format!("the TPE cannot propose a value: {e}"))
}

/// Point `number`, from the trials of earlier blocks.
pub(super) fn point(plan: &Plan, number: usize, done: &[Trial]) -> Result<Point> {
    let start = plan.block_start(number);
    let mut told: Vec<&Trial> = done.iter().filter(|t| t.number < start).collect();
    told.sort_by_key(|t| t.number);
    if told.len() < START {
        return Ok(plan.space.draw(plan.seed, number));
    }
    // Every proposal has random numbers of its own, other ones than a random search's.
    let stream = Stream::new(plan.seed, Purpose::Other, 1, number as u64);
    let mut point = Point::new();
    for (i, (key, domain)) in plan.space.keys().iter().enumerate() {
        let mut results = Vec::new();
        for trial in &told {
            let place = trial.values.get(key).and_then(|v| domain.place(v)).ok_or_else(|| {
                Error::Invalid(format!(
                    "trial {} has no value of `{key}` that this search knows",
                    trial.number
                ))
            })?;
            // It looks for the least; a trial that diverged is worse than all others.
            results.push((place, trial.score(plan.metric).map_or(f64::MAX, |s| -s)));
        }
        let word = |k: u64| u64::from(stream.word(2 * i as u64 + k));
        let rng = StdRng::seed_from_u64((word(0) << 32) | word(1));
        point.insert(key.clone(), domain.value(ask(domain, &results, rng)?));
    }
    Ok(point)
}

/// A place in `domain` after these places and values, the least of which is best.
fn ask(domain: &Domain, results: &[(f64, f64)], mut rng: StdRng) -> Result<f64> {
    match domain {
        Domain::Values(values) => {
            let among = categorical_range(values.len()).map_err(fail)?;
            let mut optimizer = TpeOptimizer::new(histogram_estimator(), among);
            for (place, value) in results {
                optimizer.tell(*place, *value).map_err(fail)?;
            }
            optimizer.ask(&mut rng).map_err(fail)
        }
        Domain::Range(numbers) => {
            let (low, high) = numbers.ends();
            let mut optimizer = TpeOptimizer::new(parzen_estimator(), range(low, high).map_err(fail)?);
            for (place, value) in results {
                // Its ranges end before their ends; rounding may have reached them.
                optimizer.tell(place.clamp(low, high.next_down()), *value).map_err(fail)?;
            }
            optimizer.ask(&mut rng).map_err(fail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Strategy;
    use super::super::tests::{all, best, plan};
    use super::*;
    use crate::search::{Metric, Scale, Space};
    use toml::Value;

    #[test]
    fn it_comes_closer_than_a_random_search() {
        // Single searches are luck: the means over several seeds.
        let mean = |strategy: Strategy| {
            (0..8).map(|seed| best(&all(&plan(strategy, seed, 1))).sqrt()).sum::<f64>() / 8.0
        };
        let (tpe, random) = (mean(Strategy::Tpe { trials: 80 }), mean(Strategy::Random { trials: 80 }));
        assert!(tpe < random, "{tpe} {random}");
    }

    #[test]
    fn a_proposal_is_a_function_of_seed_and_results() {
        let plan = plan(Strategy::Tpe { trials: 24 }, 5, 3);
        let trials = all(&plan);
        assert_eq!(trials, all(&plan));
        assert_ne!(trials, all(&Plan { seed: 6, ..plan.clone() }));
        let mut others = trials[..12].to_vec();
        let before = plan.next(&others).unwrap();
        assert_eq!(before[1].values, trials[13].values);
        others.iter_mut().for_each(|t| t.loss = t.loss.map(|l| -l));
        assert_ne!(plan.next(&others).unwrap(), before);
    }

    #[test]
    fn values_without_order_are_learned() {
        let keys = [("v".to_owned(), Domain::Values((0..4).map(Value::Integer).collect()))];
        let space = Space::new(keys.into()).unwrap();
        let strategy = Strategy::Tpe { trials: 60 };
        let plan = Plan { space, strategy, seed: 1, epochs: 1, together: 1, metric: Metric::Top1 };
        let mut done: Vec<Trial> = Vec::new();
        while let Some(p) = plan.next(&done).unwrap().pop() {
            let good = p.values["v"] == Value::Integer(2);
            // One of them diverges, always.
            let top1 = (p.values["v"] != Value::Integer(0)).then_some(if good { 50.0 } else { 40.0 });
            done.push(Trial::new(&p, top1, None));
        }
        let good = done[20..].iter().filter(|t| t.top1 == Some(50.0)).count();
        assert!(good > 15, "{good} of 40, where chance would give 10");
    }

    #[test]
    fn results_at_the_ends_are_taken() {
        let range =
            crate::search::Range { low: 0.01, high: 0.1, scale: Scale::Log, integer: false, points: None };
        let domain = Domain::Range(range);
        let results: Vec<(f64, f64)> = [0.01, 0.1, 0.1, 0.05]
            .iter()
            .filter_map(|v| domain.place(&Value::Float(*v)))
            .zip([1.0, 2.0, f64::MAX, 3.0])
            .collect();
        for seed in 0..20 {
            let place = ask(&domain, &results, StdRng::seed_from_u64(seed)).unwrap();
            let value = domain.value(place).as_float().unwrap();
            assert!((0.01..=0.1).contains(&value), "{value}");
        }
    }
}
