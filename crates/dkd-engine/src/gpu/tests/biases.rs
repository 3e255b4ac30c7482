//! Biases of convolutions that nobody adds before the next one who reads.

use super::*;
use crate::plan::Unit;
use crate::{Conv2d, Pool, ValueId};

/// Convolutions with biases, each read by something else. Those whose names begin with `lacking` or [`ROUNDING`] need not add theirs.
fn graph() -> Graph {
    let mut b = GraphBuilder::new(3, 8, 8);
    let mut x = b.input();
    let conv =
        |b: &mut GraphBuilder, x: ValueId, name: &str| b.conv2d(x, Conv2d::new(name, 6, 3).padding(1).bias());
    let pool = |b: &mut GraphBuilder, x: ValueId| b.max_pool(x, Pool::new(2).stride(1));

    // A batch norm with its ReLU, a pooling, both.
    x = conv(&mut b, x, "rounding.norm");
    x = b.batch_norm(x, "b0");
    x = b.relu(x);
    x = conv(&mut b, x, "lacking.pool");
    x = pool(&mut b, x);
    let y = conv(&mut b, x, "lacking.both");
    let n = b.batch_norm(y, "b1");
    let n = pool(&mut b, n);
    let p = pool(&mut b, y);
    x = b.add(n, p);

    // Sums of what is normalised.
    let y = conv(&mut b, x, "rounding.sum");
    let y = b.batch_norm(y, "b2");
    let s = conv(&mut b, x, "rounding.shortcut");
    let s = b.batch_norm(s, "b3");
    x = b.add(y, s);
    x = b.relu(x);

    // A batch norm, and a sum with what was not normalised.
    let y = conv(&mut b, x, "added");
    let n = b.batch_norm(y, "b4");
    x = b.add(n, y);

    // A tap; a ReLU before the pooling; another convolution.
    let y = conv(&mut b, x, "tapped");
    b.tap("map", y);
    x = b.batch_norm(y, "b5");
    x = conv(&mut b, x, "rectified");
    x = b.relu(x);
    x = pool(&mut b, x);
    x = conv(&mut b, x, "convolved");
    x = conv(&mut b, x, "averaged");
    x = b.global_avg_pool(x);
    x = b.linear(x, crate::Linear::new("fc", 5));
    b.build(x).unwrap()
}

#[test]
fn they_are_missing_only_where_all_readers_know_it() {
    let graph = graph();
    for machine in machines().into_iter().take(1) {
        let mut s = session(&graph, &machine, Arithmetic::F32);
        s.prepare(Mode::Eval, 4).unwrap();
        for executor in [s.train.as_ref().unwrap(), s.infer.as_ref().unwrap()] {
            let convolutions = executor.plan.units.iter().filter_map(|unit| match unit {
                Unit::Conv(c) => Some((graph.params()[c.bias.unwrap()].name.clone(), c.y)),
                _ => None,
            });
            let convolutions: Vec<_> = convolutions.collect();
            assert_eq!(convolutions.len(), 10);
            for (name, y) in convolutions {
                assert_eq!(
                    executor.lacking[y].is_some(),
                    name.starts_with("lacking") || name.starts_with(ROUNDING),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn results_are_the_same_without_them() {
    let all = || vec![("biases", graph())];
    compare(all(), &machines(), Arithmetic::F32, Gathers::Folded, [2e-5, 2e-3]);
    compare(all(), &bare_machine(), Arithmetic::F32, Gathers::Folded, [2e-5, 2e-3]);
    compare(all(), &machines(), Arithmetic::Bf16, Gathers::Folded, [0.1, 0.5]);
}
