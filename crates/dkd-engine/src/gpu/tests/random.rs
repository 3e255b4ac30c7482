//! Networks of random operations: places of values and gradients, and results.

use super::*;
use crate::gpu::gradients::{Slots, Uses};
use crate::gpu::{fuse, slots, values};
use crate::plan::{Addend, Backward, BackwardStep, TensorId, Unit, stored};
use crate::{Conv2d, Pool, ValueId};

/// Operations that keep a map's shape, each on some value that there is; values that nobody reads are added up at the end.
fn graph(seed: u64) -> Graph {
    let draw = Stream::new(seed, Draw::Other, 3, 0);
    let mut drawn = 0;
    let mut below = |n: usize| {
        drawn += 1;
        draw.below(drawn, n as u32) as usize
    };
    let mut b = GraphBuilder::new(3, 6, 5);
    let x = b.conv2d(b.input(), Conv2d::new("c", 6, 3).padding(1));
    let (mut all, mut unread, mut norms) = (vec![x], vec![x], Vec::new());
    for i in 0..8 + below(8) {
        // Mostly the last, as in a network.
        let pick = |n: usize, r: usize| if r < n { n - 1 - r / 2 } else { n - 1 };
        let x = all[pick(all.len(), below(8))];
        let other = all[pick(all.len(), below(4) + 1)];
        // A bias that a batch norm takes out again has a gradient of rounding only.
        let name = format!("{ROUNDING}{i}");
        let conv = |k: usize| Conv2d::new(format!("{ROUNDING}{i}"), 6, k).padding(k / 2);
        let y = match below(14) {
            0..=2 => b.conv2d(x, conv(3)),
            3 => b.conv2d(x, conv(1).bias()),
            4 => b.conv2d(x, conv(3).groups(3)),
            5..=8 if !norms.contains(&x) => {
                let y = b.batch_norm(x, name);
                norms.push(y);
                y
            }
            9 | 10 if other != x => b.add(x, other),
            11 => b.max_pool(x, Pool::new(3).stride(1).padding(1)),
            12 => b.avg_pool(x, Pool::new(3).stride(1).padding(1)),
            _ => b.relu(x),
        };
        if below(6) == 0 {
            b.tap(format!("t{i}"), y);
        }
        unread.retain(|value: &ValueId| *value != x && *value != other);
        all.push(y);
        unread.push(y);
    }
    let sum = unread.split_off(1).into_iter().fold(unread[0], |a, c| b.add(a, c));
    let x = b.global_avg_pool(sum);
    let x = b.linear(x, crate::Linear::new("fc", 5));
    b.build(x).unwrap()
}

fn plan(graph: &Graph, purpose: Purpose) -> Plan {
    let layouts = layouts(graph).unwrap();
    let params = ParamTable::new(graph, &layouts);
    let taps: Vec<_> = graph.taps().iter().collect();
    Plan::new(graph, &layouts, &params, &taps, purpose, Gathers::Folded).unwrap()
}

/// Who has written last into each place.
struct Places<'a> {
    of: &'a [Option<usize>],
    owners: Vec<Vec<TensorId>>,
}

impl<'a> Places<'a> {
    fn new(of: &'a [Option<usize>], count: usize) -> Self {
        Self { of, owners: vec![Vec::new(); count] }
    }

    fn write(&mut self, t: TensorId) {
        if let Some(place) = self.of[t] {
            self.owners[place] = vec![t];
        }
    }

    fn is_there(&self, t: TensorId) -> bool {
        self.of[t].is_none_or(|place| self.owners[place].contains(&t))
    }
}

#[test]
fn values_of_an_evaluation_are_there_when_they_are_read() {
    let mut pairs = 0;
    for seed in 0..600 {
        let graph = graph(seed);
        let plan = plan(&graph, Purpose::Infer);
        let (of, sizes) = slots::assign(&plan, &values::lives(&plan));
        let all = fuse::pairs(&plan);
        pairs += all.len();
        for fused in [false, true] {
            let mut places = Places::new(&of, sizes.len());
            places.write(plan.input);
            let read = |places: &Places<'_>, t: TensorId, at: usize| {
                let lost = stored(&plan.tensors, &plan.units, t).into_iter().find(|t| !places.is_there(*t));
                assert_eq!(lost, None, "graph {seed}, unit {at}, fused {fused}");
            };
            for (index, unit) in plan.units.iter().enumerate() {
                let again = plan.tensors[unit.output()].recomputed_by.is_some();
                let later = all.iter().find(|pair| fused && pair.conv == index && !pair.is_addend);
                let later = later
                    .is_some_and(|pair| plan.tensors[plan.units[pair.norm].output()].recomputed_by.is_none());
                if again || later {
                    continue;
                }
                let pair = all.iter().find(|pair| fused && pair.norm == index && !pair.is_addend);
                match (pair, unit) {
                    (Some(pair), Unit::Norm(n)) => {
                        plan.units[pair.conv].inputs().into_iter().for_each(|t| read(&places, t, index));
                        if let Addend::Value(t) | Addend::Normalized(t, _) = n.addend {
                            read(&places, t, index);
                        }
                    }
                    _ => unit.inputs().into_iter().for_each(|t| read(&places, t, index)),
                }
                places.write(unit.output());
            }
            plan.boundaries.iter().for_each(|t| read(&places, *t, plan.units.len()));
        }
    }
    assert!(pairs > 300, "{pairs}");
}

#[test]
fn gradients_are_there_when_they_are_read() {
    let mut shared = 0;
    for seed in 0..600 {
        let graph = graph(seed);
        let plan = plan(&graph, Purpose::Train);
        let slots = Slots::new(&plan);
        let mut places = Places::new(&slots.of, slots.elements.len());
        for (k, step) in plan.backward.iter().flat_map(Backward::steps).enumerate() {
            if let BackwardStep::Copy { from, to, accumulate: false } = *step
                && slots.of[from] == slots.of[to]
            {
                // Both are there until one of them is written.
                assert!(places.is_there(from), "graph {seed}, step {k}");
                places.owners[slots.of[to].unwrap()].push(to);
                shared += 1;
                continue;
            }
            let Uses { read, written } = Uses::of(&plan, step);
            let lost = read.iter().find(|t| !places.is_there(**t));
            assert_eq!(lost, None, "graph {seed}, step {k}: {step:?}");
            if is_added(step) {
                let lost = written.iter().find(|t| !read.contains(t) && !places.is_there(**t));
                assert_eq!(lost, None, "graph {seed}, step {k}: {step:?}");
            }
            written.iter().for_each(|t| places.write(*t));
        }
    }
    assert!(shared > 100, "{shared}");
}

/// Whether a step adds to what it writes.
fn is_added(step: &BackwardStep) -> bool {
    match *step {
        BackwardStep::Load { accumulate, .. }
        | BackwardStep::Copy { accumulate, .. }
        | BackwardStep::NormInput { accumulate, .. }
        | BackwardStep::Channels { accumulate, .. }
        | BackwardStep::Unit { accumulate, .. } => accumulate,
        BackwardStep::Conv { input, .. } | BackwardStep::Linear { input, .. } => input == Some(true),
        BackwardStep::Complete { .. } => false,
    }
}

#[test]
fn results_are_those_of_the_cpu() {
    // A sign that falls differently before a ReLU moves some gradients by a percent.
    let graphs = || (0..100).map(|seed| ("random", graph(seed))).collect();
    compare(graphs(), &machines(), Arithmetic::F32, Gathers::Folded, [1e-4, 0.03]);
    compare(graphs(), &bare_machine(), Arithmetic::F32, Gathers::Stored, [1e-4, 0.03]);
}

#[test]
fn answers_in_one_are_those_apart() {
    for machine in machines() {
        for seed in 0..100 {
            let graph = graph(seed);
            let x = images(5, &graph, 4);
            let mut s = session(&graph, &machine, Arithmetic::F32);
            s.forward(&x, Mode::Train, KEY).unwrap();
            let answers = |s: &mut GpuSession| {
                s.forward(&x, Mode::Eval, KEY).unwrap();
                seen(&graph, s.logits().unwrap(), |t| s.tap(t).unwrap()).0
            };
            let apart = answers(&mut s);
            s.fuse(5, u64::MAX).unwrap();
            for (k, (got, want)) in answers(&mut s).iter().zip(&apart).enumerate() {
                let far = distance(got, want);
                assert!(far <= 1e-4, "graph {seed}: output {k} is off by {far}");
            }
        }
    }
}
