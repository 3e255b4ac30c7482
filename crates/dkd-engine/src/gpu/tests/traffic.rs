//! What the launches of a step read and write in a device's memory, by the plan: the numbers in docs/cuda.md.

use super::shufflenets::{v1, v2};
use super::*;
use crate::gpu::gradients::Slots;
use crate::plan::{Addend, Backward, BackwardStep, DzSource, NormUnit, TensorId, Unit};
use dkd_kernels::channels::ChannelMap;
use dkd_kernels::gpu::Counting;

/// Numbers of f32 for one image, if nothing stays in a cache, and launches.
struct Traffic<'a> {
    plan: &'a Plan,
    slots: Slots,
    /// The pieces in which memory is read: a number, or a sector.
    sector: usize,
    numbers: usize,
    launches: usize,
}

impl Traffic<'_> {
    fn of(graph: &Graph, purpose: Purpose, gathers: Gathers, sector: usize) -> [usize; 2] {
        let layouts = layouts(graph).unwrap();
        let params = ParamTable::new(graph, &layouts);
        let plan = Plan::new(graph, &layouts, &params, &[], purpose, gathers).unwrap();
        let mut all = Traffic { plan: &plan, slots: Slots::new(&plan), sector, numbers: 0, launches: 0 };
        for unit in &plan.units {
            all.forward(unit);
        }
        for step in plan.backward.iter().flat_map(Backward::steps) {
            all.backward(step);
        }
        [all.numbers, all.launches]
    }

    fn rows(&self, t: TensorId) -> usize {
        self.plan.tensors[t].map.height * self.plan.tensors[t].map.width
    }

    fn len(&self, t: TensorId) -> usize {
        self.rows(t) * self.plan.tensors[t].map.channels
    }

    /// One launch that reads or writes all of these.
    fn launch(&mut self, maps: &[TensorId]) {
        self.numbers += maps.iter().map(|t| self.len(*t)).sum::<usize>();
        self.launches += 1;
    }

    /// What a map of channels reads of a row: whole pieces of each source.
    fn gathered(&self, map: &ChannelMap) -> usize {
        let mut pieces: Vec<_> = map.from().iter().flatten().map(|(s, c)| (*s, c / self.sector)).collect();
        pieces.sort_unstable();
        pieces.dedup();
        let of = |(s, piece): &(usize, usize)| self.sector.min(map.sources()[*s] - piece * self.sector);
        pieces.iter().map(of).sum()
    }

    fn is_on_the_way(&self, t: TensorId) -> bool {
        let gathers = |unit: &Unit| matches!(unit, Unit::Channels(c) if c.inputs.contains(&t));
        self.plan.tensors[t].recomputed_by.is_some() && self.plan.units.iter().any(gathers)
    }

    fn addend(&self, n: &NormUnit) -> Vec<TensorId> {
        match n.addend {
            Addend::None => Vec::new(),
            Addend::Value(t) | Addend::Normalized(t, _) => vec![t],
        }
    }

    fn forward(&mut self, unit: &Unit) {
        let y = unit.output();
        match unit {
            Unit::Norm(_) if self.is_on_the_way(y) => {}
            Unit::Channels(c) => {
                self.numbers += self.rows(y) * self.gathered(&c.forward);
                self.launch(&[y]);
            }
            _ => self.launch(&[unit.inputs(), vec![y]].concat()),
        }
        if self.plan.purpose == Purpose::Train {
            for _ in self.plan.bns.iter().filter(|bn| bn.z == y) {
                self.launch(&[y]);
            }
        }
    }

    fn backward(&mut self, step: &BackwardStep) {
        let plan = self.plan;
        let again = |accumulate: bool, t: TensorId| if accumulate { vec![t, t] } else { vec![t] };
        match *step {
            BackwardStep::Load { boundary, accumulate } => {
                let t = plan.boundaries[boundary];
                self.launch(&[vec![t], again(accumulate, t)].concat());
            }
            // It is there.
            BackwardStep::Copy { from, to, accumulate: false }
                if self.slots.of[from] == self.slots.of[to] => {}
            BackwardStep::Copy { from, to, accumulate } => {
                self.launch(&[vec![from], again(accumulate, to)].concat());
            }
            BackwardStep::Complete { unit, residual } => {
                let Unit::Norm(n) = &plan.units[unit] else { panic!("it is none") };
                let gathered = plan.backward.as_ref().and_then(|b| b.gathered[unit].as_ref());
                match gathered {
                    Some(g) => self.numbers += self.rows(n.y) * self.gathered(&g.map),
                    None => self.numbers += self.len(n.y),
                }
                let mut maps = vec![n.z];
                maps.extend(residual);
                if n.relu && n.addend != Addend::None {
                    maps.push(n.y);
                }
                if let Addend::Normalized(..) = n.addend {
                    maps.extend(self.addend(n));
                }
                if n.relu || residual.is_some() || gathered.is_some() {
                    maps.push(n.y);
                }
                self.launch(&maps);
            }
            BackwardStep::NormInput { z, accumulate, .. } => {
                self.launch(&[vec![z, z], again(accumulate, z)].concat());
            }
            BackwardStep::Conv { unit, source, input, .. } => {
                let Unit::Conv(c) = &plan.units[unit] else { panic!("it is none") };
                match source {
                    DzSource::Norm { .. } => self.launch(&[c.y, c.y, c.y]),
                    DzSource::Gradient if c.relu => self.launch(&[c.y, c.y, c.y]),
                    DzSource::Gradient => {}
                }
                self.launch(&[c.x, c.y]);
                if let Some(accumulate) = input {
                    self.launch(&[vec![c.y], again(accumulate, c.x)].concat());
                }
            }
            BackwardStep::Linear { unit, .. } => {
                let (x, y) = (plan.units[unit].inputs()[0], plan.units[unit].output());
                self.launch(&[x, y]);
                self.launch(&[y, x]);
            }
            BackwardStep::Channels { unit, input, accumulate } => {
                let Unit::Channels(c) = &plan.units[unit] else { panic!("it is none") };
                if c.relu {
                    self.launch(&[c.y, c.y, c.y]);
                }
                self.numbers += self.rows(c.y) * self.gathered(&c.backward[input]);
                self.launch(&again(accumulate, c.inputs[input]));
            }
            BackwardStep::Unit { unit, accumulate } => {
                let unit = &plan.units[unit];
                self.launch(&[vec![unit.output()], again(accumulate, unit.inputs()[0])].concat());
            }
        }
    }
}

/// Bytes of the device's memory that training and evaluation with 64 images take.
fn memory(graph: &Graph, gathers: Gathers) -> u64 {
    let machine = Counting::default();
    let options = SessionOptions { max_batch: 64, train: true, taps: Vec::new(), precision: Precision::F32 };
    let (graph, counting) = (graph.clone(), Arc::new(machine.clone()));
    let mut s =
        GpuSession::with_gathers(graph, counting, options, Arithmetic::F32, &Device::Cpu, gathers).unwrap();
    s.prepare(Mode::Eval, 64).unwrap();
    machine.most()
}

/// A row of the table in docs/cuda.md, stored and folded: training in megabytes, those with whole sectors, launches, and memory;
/// evaluation in megabytes and launches.
fn row(name: &str, graph: &Graph) -> String {
    let megabytes = |numbers: usize| (numbers * 4 * 64 + 500_000) / 1_000_000;
    let [before, after] = [Gathers::Stored, Gathers::Folded].map(|gathers| {
        let of = |purpose, sector| Traffic::of(graph, purpose, gathers, sector);
        let [train, infer] = [Purpose::Train, Purpose::Infer].map(|purpose| of(purpose, 1));
        let sectors = megabytes(of(Purpose::Train, 8)[0]);
        let memory = ((memory(graph, gathers) + 500_000) / 1_000_000) as usize;
        [megabytes(train[0]), sectors, train[1], memory, megabytes(infer[0]), infer[1]]
    });
    let cells: Vec<_> = before.iter().zip(&after).map(|(a, b)| format!("{a} → {b}")).collect();
    format!("| {name} | {} |", cells.join(" | "))
}

#[test]
fn the_table_of_what_folding_saves_is_that_of_the_plans() {
    let image = (3, 32, 32);
    let v2 = |[a, b, c]: [usize; 3], units: [usize; 3], last| {
        v2(image, [(a, units[0]), (b, units[1]), (c, units[2])], last)
    };
    let networks = [
        ("ShuffleV1", v1(image, [(240, 4), (480, 8), (960, 4)])),
        ("ShuffleV2_0.2", v2([40, 80, 160], [3, 3, 3], 512)),
        ("ShuffleV2_0.3", v2([40, 80, 160], [3, 7, 3], 512)),
        ("ShuffleV2_0.5", v2([48, 96, 192], [3, 7, 3], 1024)),
        ("ShuffleV2", v2([116, 232, 464], [3, 7, 3], 1024)),
        ("ShuffleV2_1.5", v2([176, 352, 704], [3, 7, 3], 1024)),
        ("ShuffleV2_2.0", v2([224, 488, 976], [3, 7, 3], 2048)),
    ];
    let rows: Vec<_> = networks.iter().map(|(name, graph)| row(name, graph)).collect();
    let docs = include_str!("../../../../../docs/cuda.md");
    let lacks: Vec<_> = rows.iter().filter(|row| !docs.contains(*row)).collect();
    assert!(lacks.is_empty(), "docs/cuda.md lacks\n{lacks:#?}");
}
