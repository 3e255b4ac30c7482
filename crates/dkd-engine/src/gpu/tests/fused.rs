//! Convolutions of an evaluation with what follows them in one.

use super::*;
use crate::plan::Unit;
use crate::{Conv2d, ValueId};
use dkd_kernels::gpu::Counting;

/// For ever.
const RUNS: u64 = u64::MAX;

/// Convolutions before normalisations of all kinds. Those whose names begin with `pair` are computed with theirs.
fn graph() -> Graph {
    let mut b = GraphBuilder::new(3, 8, 8);
    let mut x = b.input();
    let conv = |b: &mut GraphBuilder, x: ValueId, name: &str| b.conv2d(x, Conv2d::new(name, 6, 3).padding(1));

    // One after the other, each read by the next convolution only; a bias; without a ReLU.
    x = conv(&mut b, x, "pair.first");
    x = b.batch_norm(x, "b0");
    x = b.relu(x);
    x = b.conv2d(x, Conv2d::new("pair.bias", 6, 3).padding(1).bias());
    x = b.batch_norm(x, "b1");
    x = b.relu(x);
    x = conv(&mut b, x, "pair.linear");
    x = b.batch_norm(x, "b2");

    // A block with its own input as the addend, and one with a normalised shortcut, whichever comes first.
    for (i, late) in [false, true].into_iter().enumerate() {
        let mut y = conv(&mut b, x, &format!("pair.a{i}"));
        y = b.batch_norm(y, format!("a{i}.b0"));
        y = b.relu(y);
        y = conv(&mut b, y, &format!("pair.b{i}"));
        y = b.batch_norm(y, format!("a{i}.b1"));
        y = b.add(y, x);
        let y = b.relu(y);
        let long = |b: &mut GraphBuilder| {
            let z = conv(b, y, &format!("pair.c{i}"));
            b.batch_norm(z, format!("c{i}.b0"))
        };
        let short = |b: &mut GraphBuilder| {
            let z = b.conv2d(y, Conv2d::new(format!("pair.d{i}"), 6, 1));
            b.batch_norm(z, format!("c{i}.b1"))
        };
        let (p, q) = if late {
            let q = short(&mut b);
            (long(&mut b), q)
        } else {
            let p = long(&mut b);
            (p, short(&mut b))
        };
        x = b.add(p, q);
        x = b.relu(x);
    }

    // Read by others as well: a tap, a sum, two normalisations; groups; a ReLU before the normalisation.
    let y = conv(&mut b, x, "tapped");
    b.tap("map", y);
    x = b.batch_norm(y, "b3");
    let y = conv(&mut b, x, "added");
    let n = b.batch_norm(y, "b4");
    x = b.add(n, y);
    let y = conv(&mut b, x, "twice");
    let n = b.batch_norm(y, "b5");
    let m = b.batch_norm(y, "b6");
    x = b.add(n, m);
    x = b.conv2d(x, Conv2d::new("grouped", 6, 3).padding(1).groups(3));
    x = b.batch_norm(x, "b7");
    x = conv(&mut b, x, "rectified");
    x = b.relu(x);
    x = b.batch_norm(x, "b8");
    // What is normalised is a tap, and read by two.
    let y = conv(&mut b, x, "pair.kept");
    let y = b.batch_norm(y, "b9");
    b.tap("kept", y);
    let z = conv(&mut b, y, "pair.last");
    let z = b.batch_norm(z, "b10");
    x = b.add(z, y);
    x = b.global_avg_pool(x);
    x = b.linear(x, crate::Linear::new("fc", 5));
    b.build(x).unwrap()
}

fn seen_by(s: &mut GpuSession, graph: &Graph, x: &Tensor) -> Vec<Vec<f32>> {
    s.forward(x, Mode::Eval, KEY).unwrap();
    seen(graph, s.logits().unwrap(), |t| s.tap(t).unwrap()).0
}

/// A session with running statistics of its own.
fn trained(graph: &Graph, machine: &Arc<dyn TensorMachine>, arithmetic: Arithmetic) -> GpuSession {
    let mut s = session(graph, machine, arithmetic);
    s.forward(&images(5, graph, 3), Mode::Train, KEY).unwrap();
    s.prepare(Mode::Eval, 5).unwrap();
    s
}

#[test]
fn pairs_are_those_that_nobody_else_reads() {
    let graph = graph();
    for machine in machines().into_iter().take(1) {
        let s = trained(&graph, &machine, Arithmetic::F32);
        let infer = s.infer.as_ref().unwrap();
        for (index, unit) in infer.plan.units.iter().enumerate() {
            if let Unit::Conv(c) = unit {
                let name = &graph.params()[c.weight].name;
                let is_pair = infer.pairs.iter().any(|pair| pair.conv == index);
                assert_eq!(is_pair, name.starts_with("pair"), "{name}");
            }
        }
        assert_eq!(infer.pairs.len(), 13);
        assert!(s.train.as_ref().unwrap().pairs.is_empty());
    }
}

#[test]
fn results_are_the_same_in_one() {
    let mut all = zoo();
    all.push(("all kinds", graph()));
    let both = machines().into_iter().chain(bare_machine());
    for (machine, bare) in both.zip([false, false, true]) {
        for (name, graph) in &all {
            for (arithmetic, tolerance) in [(Arithmetic::F32, 2e-5), (Arithmetic::Bf16, 0.1)] {
                let what = format!("{name}, {arithmetic:?}");
                let mut s = trained(graph, &machine, arithmetic);
                let (x, y) = (images(5, graph, 4), images(4, graph, 5));
                let (of_five, of_four) = (seen_by(&mut s, graph, &x), seen_by(&mut s, graph, &y));
                let pairs = s.infer.as_ref().unwrap().pairs.len();
                assert_eq!(s.fuse(5, 3).unwrap(), 0, "{what}: so few are not worth it");
                assert_eq!(s.fuse(5, RUNS).unwrap(), if bare { 0 } else { pairs }, "{what}");
                let near = |got: &[Vec<f32>], want: &[Vec<f32>]| {
                    for (k, (got, want)) in got.iter().zip(want).enumerate() {
                        let far = distance(got, want);
                        assert!(far <= tolerance, "{what}: output {k} is off by {far}");
                    }
                };
                near(&seen_by(&mut s, graph, &x), &of_five);
                // Another number of images is as before.
                assert_eq!(seen_by(&mut s, graph, &y), of_four, "{what}");
                s.freeze(5).unwrap();
                near(&seen_by(&mut s, graph, &x), &of_five);
                // Recorded, where nothing else may be used.
                let record = record(&*machine, &mut || s.run(Mode::Eval, 5)).unwrap();
                let logits = s.logits_view(Mode::Eval, 5).unwrap();
                machine.clear(&logits).unwrap();
                record.replay().unwrap();
                near(&[machine.read_floats(&logits).unwrap()], &of_five[..1]);
            }
        }
    }
}

#[test]
fn other_weights_are_normalised_with_their_own_statistics() {
    let graph = graph();
    for machine in machines().into_iter().take(1) {
        let mut s = trained(&graph, &machine, Arithmetic::F32);
        let x = images(5, &graph, 4);
        s.freeze(5).unwrap();
        s.fuse(5, RUNS).unwrap();
        let before = seen_by(&mut s, &graph, &x);
        let values: Vec<f32> = s.read_values().unwrap().iter().map(|v| v * 1.1).collect();
        s.write_values(&values).unwrap();
        let after = seen_by(&mut s, &graph, &x);
        assert_ne!(before, after);
        let mut apart = trained(&graph, &machine, Arithmetic::F32);
        apart.write_running(&s.read_running().unwrap()).unwrap();
        apart.write_values(&values).unwrap();
        let want = seen_by(&mut apart, &graph, &x);
        assert!(distance(&after[0], &want[0]) <= 2e-5);
    }
}

#[test]
fn every_pair_is_a_launch_less() {
    let graph = graph();
    let counting = Counting::default();
    let machine: Arc<dyn TensorMachine> = Arc::new(counting.clone());
    let mut s = session(&graph, &machine, Arithmetic::Bf16);
    s.freeze(4).unwrap();
    let calls = |s: &mut GpuSession| {
        let before = counting.calls().in_row;
        s.run(Mode::Eval, 4).unwrap();
        counting.calls().in_row - before
    };
    let apart = calls(&mut s);
    let pairs = s.fuse(4, RUNS).unwrap() as u64;
    // Where both summands are normalised, one launch has done that.
    assert_eq!((apart - calls(&mut s), pairs), (11, 13));
    assert_eq!(s.fusible(4).unwrap().len(), 13);
}
