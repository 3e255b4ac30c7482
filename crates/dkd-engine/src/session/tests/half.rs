//! Maps that are kept in bf16.

use super::*;

/// Weights, statistics and gradients after three steps, and logits in evaluation.
fn trained(s: &mut Session, x: &Tensor) -> (Vec<u32>, Vec<f32>) {
    (0..3).for_each(|_| step(s, x));
    s.forward(x, Mode::Eval, KEY).unwrap();
    let logits = s.logits().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    (bits(s), logits)
}

#[test]
fn windows_do_not_change_a_bit() {
    for (name, graph) in zoo() {
        for taps in [false, true] {
            let x = images(13, &graph, 4);
            let run =
                |precision| trained(&mut session_in(precision, &graph, 2, Isa::available()[0], 16, taps), &x);
            assert!(run(Precision::F32InWindows) == run(Precision::F32), "{name}, taps: {taps}");
        }
    }
}

#[test]
fn threads_capacity_and_history_do_not_change_a_bit() {
    for (name, graph) in zoo() {
        let x = images(13, &graph, 4);
        let run = |threads: usize, before: usize| {
            let mut s = session_in(Precision::Bf16, &graph, threads, Isa::available()[0], 16, true);
            if before > 0 {
                step(&mut s, &images(before, &graph, 5));
                s.init(3);
            }
            trained(&mut s, &x)
        };
        let one = run(1, 0);
        assert!(
            [(2, 0), (3, 16), (5, 7)].into_iter().all(|(threads, before)| run(threads, before) == one),
            "{name}"
        );
    }
}

/// Distance of `a` from `b`, relative to `b`.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b))).max(f64::MIN_POSITIVE)
}

#[test]
fn results_are_those_of_f32_but_for_rounding() {
    for (name, graph) in zoo() {
        for isa in Isa::available() {
            let x = images(13, &graph, 4);
            let run = |precision| {
                let mut s = session_in(precision, &graph, 2, isa, 16, true);
                s.forward(&x, Mode::Train, KEY).unwrap();
                let store = loss(&s).backward().unwrap();
                let logits = s.logits().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                s.backward(&store).unwrap();
                (logits, s.gradients().to_vec(), s.weights.running.to_vec())
            };
            let (single, half) = (run(Precision::F32), run(Precision::Bf16));
            let distances =
                [distance(&half.0, &single.0), distance(&half.1, &single.1), distance(&half.2, &single.2)];
            // A value is off by 2^-9 of itself, at most.
            assert!(
                distances[0] < 0.01 && distances[1] < 0.15 && distances[2] < 0.01,
                "{name}, {isa}: {distances:?}"
            );
        }
    }
}

#[test]
fn memory_is_half() {
    let (_, graph) = zoo().swap_remove(1);
    let bytes = |precision| {
        let options = SessionOptions { max_batch: 1024, train: true, taps: Vec::new(), precision };
        Session::estimate_bytes(&graph, 2, &options).unwrap().shared
    };
    let ratio = bytes(Precision::Bf16) as f64 / bytes(Precision::F32) as f64;
    assert!(ratio < 0.6, "{ratio}");
}
