//! The device's results against those of the CPU, on emulated machines.

mod biases;
mod fused;
mod random;
mod shufflenets;
mod traffic;

use super::*;
use crate::session::tests::{images, zoo};
use crate::{GraphBuilder, Precision, Session};
use dkd_kernels::Cpu;
use dkd_kernels::gpu::{Emulated, GpuError, record};
use dkd_kernels::rng::{Purpose as Draw, Stream};

const KEY: DropoutKey = DropoutKey { seed: 1, epoch: 2, step: 3 };

/// What names of parameters begin with whose gradients are 0 but for rounding: biases before a batch norm.
const ROUNDING: &str = "rounding.";

/// Both orders of blocks and threads, or nothing, said in one line, where there is no C++ compiler.
fn machines() -> Vec<Arc<dyn TensorMachine>> {
    match (Emulated::new(), Emulated::backwards()) {
        (Ok(a), Ok(b)) => vec![Arc::new(a), Arc::new(b)],
        (Err(GpuError::NoDevice(why)), _) => {
            eprintln!("skipped: kernels cannot be emulated: {why}");
            Vec::new()
        }
        (Err(e), _) | (_, Err(e)) => panic!("{e}"),
    }
}

/// One without a library, if there is any.
fn bare_machine() -> Vec<Arc<dyn TensorMachine>> {
    if machines().is_empty() {
        return Vec::new();
    }
    vec![Arc::new(Emulated::backwards().unwrap().without_library())]
}

/// The CPU's, and ShuffleNets of few channels.
fn graphs() -> Vec<(&'static str, Graph)> {
    let mut all = zoo();
    let mut b = GraphBuilder::new(3, 23, 30);
    let x = b.conv2d(b.input(), crate::Conv2d::new("c", 4, 3).padding(1));
    let x = b.flatten(x);
    let x = b.linear(x, crate::Linear::new("wide", 5));
    all.push(("a layer with many inputs", b.build(x).unwrap()));
    all.push(("v1", shufflenets::v1((3, 8, 8), [(36, 3)])));
    all.push(("v2", shufflenets::v2((3, 8, 8), [(12, 3)], 24)));
    all
}

fn options(graph: &Graph, max_batch: usize) -> SessionOptions {
    let taps = graph.taps().iter().map(|t| t.name.clone()).collect();
    SessionOptions { max_batch, train: true, taps, precision: Precision::F32 }
}

fn session(graph: &Graph, machine: &Arc<dyn TensorMachine>, arithmetic: Arithmetic) -> GpuSession {
    session_with(graph, machine, arithmetic, Gathers::Folded)
}

fn session_with(
    graph: &Graph,
    machine: &Arc<dyn TensorMachine>,
    arithmetic: Arithmetic,
    gathers: Gathers,
) -> GpuSession {
    let (graph, machine, options) = (graph.clone(), Arc::clone(machine), options(graph, 8));
    let mut s = GpuSession::with_gathers(graph, machine, options, arithmetic, &Device::Cpu, gathers).unwrap();
    s.init(3).unwrap();
    s
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

/// Logits and taps, and a loss that weighs all their elements differently.
fn seen(graph: &Graph, logits: Tensor, tap: impl Fn(&str) -> Tensor) -> (Vec<Vec<f32>>, Tensor) {
    let mut all = vec![logits];
    all.extend(graph.taps().iter().map(|t| tap(&t.name)));
    let weighed = all.iter().enumerate().map(|(k, t)| {
        let stream = Stream::new(9, Draw::Other, 1, k as u64);
        let weights: Vec<f32> = (0..t.elem_count() as u64).map(|i| stream.normal(i)).collect();
        let weights = Tensor::from_vec(weights, t.dims(), &Device::Cpu).unwrap();
        (t * weights).unwrap().sum_all().unwrap()
    });
    let loss = weighed.reduce(|a, b| (a + b).unwrap()).unwrap();
    (all.iter().map(flat).collect(), loss)
}

/// The largest difference, as a share of the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-3, |m: f32, v| m.max(v.abs()));
    a.iter().zip(b).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs())) / scale
}

#[track_caller]
fn assert_dicts(what: &str, got: Vec<(String, Tensor)>, want: Vec<(String, Tensor)>, tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for ((name, got), (other, want)) in got.iter().zip(&want) {
        assert_eq!((name, got.dims()), (other, want.dims()));
        let far = distance(&flat(got), &flat(want));
        assert!(far <= tolerance, "{what}: `{name}` is off by {far}");
    }
}

/// Forward, backward, running statistics and evaluation of one batch, against the CPU's.
fn compare(
    graphs: Vec<(&'static str, Graph)>,
    machines: &[Arc<dyn TensorMachine>],
    arithmetic: Arithmetic,
    gathers: Gathers,
    [forward, backward]: [f32; 2],
) {
    for (name, graph) in graphs {
        let x = images(5, &graph, 4);
        let mut cpu = Session::new(graph.clone(), Cpu::new(2).unwrap(), options(&graph, 8)).unwrap();
        cpu.init(3);
        cpu.forward(&x, Mode::Train, KEY).unwrap();
        let (want, loss) = seen(&graph, cpu.logits().unwrap(), |t| cpu.tap(t).unwrap());
        cpu.backward(&loss.backward().unwrap()).unwrap();
        let gradients = cpu.gradient_dict().unwrap();
        let state = cpu.state_dict().unwrap();
        cpu.forward(&x, Mode::Eval, KEY).unwrap();
        let (evaluated, _) = seen(&graph, cpu.logits().unwrap(), |t| cpu.tap(t).unwrap());
        for machine in machines {
            let what = format!("{name}, {arithmetic:?}, {gathers:?}");
            let mut s = session_with(&graph, machine, arithmetic, gathers);
            s.forward(&x, Mode::Train, KEY).unwrap();
            let (got, loss) = seen(&graph, s.logits().unwrap(), |t| s.tap(t).unwrap());
            for (k, (got, want)) in got.iter().zip(&want).enumerate() {
                let far = distance(got, want);
                assert!(far <= forward, "{what}: output {k} is off by {far}");
            }
            s.backward(&loss.backward().unwrap()).unwrap();
            let of_interest = |all: Vec<(String, Tensor)>| {
                let only = |name: &str| name.starts_with(ROUNDING) && name.ends_with("bias");
                all.into_iter().filter(|(name, _)| !only(name)).collect()
            };
            let got = of_interest(s.gradient_dict().unwrap());
            assert_dicts(&what, got, of_interest(gradients.clone()), backward);
            assert_dicts(&what, s.state_dict().unwrap(), state.clone(), forward);
            s.forward(&x, Mode::Eval, KEY).unwrap();
            let (got, _) = seen(&graph, s.logits().unwrap(), |t| s.tap(t).unwrap());
            for (k, (got, want)) in got.iter().zip(&evaluated).enumerate() {
                let far = distance(got, want);
                assert!(far <= forward, "{what}: output {k} of the evaluation is off by {far}");
            }
        }
    }
}

#[test]
fn results_are_those_of_the_cpu() {
    compare(graphs(), &machines(), Arithmetic::F32, Gathers::Folded, [2e-5, 2e-3]);
}

#[test]
fn results_are_those_of_the_cpu_without_folding() {
    compare(graphs(), &machines(), Arithmetic::F32, Gathers::Stored, [2e-5, 2e-3]);
}

#[test]
fn bf16_is_near() {
    // In ShuffleNets some gradients are 0 but for rounding: a factor before a channel that the next batch norm takes out again.
    compare(zoo(), &machines(), Arithmetic::Bf16, Gathers::Folded, [0.1, 0.5]);
}

#[test]
fn without_a_library_kernels_do_all_convolutions() {
    let one = bare_machine();
    compare(graphs(), &one, Arithmetic::F32, Gathers::Folded, [2e-5, 2e-3]);
    compare(zoo(), &one, Arithmetic::Bf16, Gathers::Folded, [0.1, 0.5]);
}

#[test]
fn the_order_of_threads_changes_no_bit() {
    for (name, graph) in graphs() {
        for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
            let results: Vec<Vec<Vec<f32>>> = machines()
                .iter()
                .map(|machine| {
                    let mut s = session(&graph, machine, arithmetic);
                    s.forward(&images(7, &graph, 4), Mode::Train, KEY).unwrap();
                    let (mut all, loss) = seen(&graph, s.logits().unwrap(), |t| s.tap(t).unwrap());
                    s.backward(&loss.backward().unwrap()).unwrap();
                    all.push(machine.read_floats(s.gradients()).unwrap());
                    all
                })
                .collect();
            assert!(results.windows(2).all(|w| w[0] == w[1]), "{name}, {arithmetic:?}");
        }
    }
}

#[test]
fn a_recorded_step_is_the_same_step() {
    // Gradients of weights are computed aside: early, late, and in turns with others.
    let all = machines().into_iter().zip([Arithmetic::F32, Arithmetic::Bf16]);
    let bare = bare_machine().into_iter().map(|machine| (machine, Arithmetic::F32));
    for (machine, arithmetic) in all.chain(bare) {
        for (name, graph) in graphs() {
            let mut plain = session(&graph, &machine, arithmetic);
            let mut recorded = session(&graph, &machine, arithmetic);
            let gradient: Vec<f32> = (0..5 * graph.num_classes()).map(|i| (i as f32).sin()).collect();
            let mut step = None;
            for (seed, key) in [(4, KEY), (5, DropoutKey { step: 4, ..KEY })] {
                let x = images(5, &graph, seed);
                plain.forward(&x, Mode::Train, key).unwrap();
                machine.write_floats(&plain.logits_gradient(5).unwrap(), &gradient).unwrap();
                plain.run_backward().unwrap();
                recorded.prepare(Mode::Train, 5).unwrap();
                let step = step.get_or_insert_with(|| {
                    let work = &mut || -> dkd_kernels::gpu::Result<()> {
                        recorded.run(Mode::Train, 5).and_then(|()| recorded.run_backward()).map_err(|e| {
                            match e {
                                Error::Gpu(e) => e,
                                other => panic!("{other}"),
                            }
                        })
                    };
                    machine.record(work).unwrap()
                });
                let nhwc = x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
                let input = recorded.input(Mode::Train, 5).unwrap();
                let floats = machine.zeros(Element::F32, input.len()).unwrap();
                machine.write_floats(&floats, &flat(&nhwc)).unwrap();
                pointwise::convert(&*machine, &floats, &input, false).unwrap();
                machine.write_floats(&recorded.logits_gradient(5).unwrap(), &gradient).unwrap();
                recorded.set_key(key).unwrap();
                step.replay().unwrap();
                let read = |s: &GpuSession, view: &View| s.machine().read_floats(view).unwrap();
                assert_eq!(read(&plain, plain.gradients()), read(&recorded, recorded.gradients()), "{name}");
                assert_eq!(read(&plain, plain.running()), read(&recorded, recorded.running()), "{name}");
            }
        }
    }
}

#[test]
fn a_loss_between_two_recorded_parts_has_the_same_gradients() {
    for (name, graph) in zoo() {
        for machine in machines() {
            let mut plain = session(&graph, &machine, Arithmetic::F32);
            let mut parted = session(&graph, &machine, Arithmetic::F32);
            parted.prepare(Mode::Train, 5).unwrap();
            let first = record(&*machine, &mut || parted.run(Mode::Train, 5)).unwrap();
            let rest = record(&*machine, &mut || parted.run_backward_with_taps()).unwrap();
            for (seed, key) in [(4, KEY), (5, DropoutKey { step: 4, ..KEY })] {
                let x = images(5, &graph, seed);
                plain.forward(&x, Mode::Train, key).unwrap();
                let (want, loss) = seen(&graph, plain.logits().unwrap(), |tap| plain.tap(tap).unwrap());
                plain.backward(&loss.backward().unwrap()).unwrap();
                let nhwc = x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
                machine.write_floats(&parted.input(Mode::Train, 5).unwrap(), &flat(&nhwc)).unwrap();
                parted.set_key(key).unwrap();
                first.replay().unwrap();
                parted.publish(Mode::Train, 5, &Device::Cpu).unwrap();
                let (got, loss) = seen(&graph, parted.logits().unwrap(), |tap| parted.tap(tap).unwrap());
                parted.take_gradients(&loss.backward().unwrap()).unwrap();
                rest.replay().unwrap();
                assert_eq!(got, want, "{name}");
                assert_eq!(parted.read_gradients().unwrap(), plain.read_gradients().unwrap(), "{name}");
            }
        }
    }
}

#[test]
fn state_dictionaries_are_those_of_the_cpu() {
    for (name, graph) in zoo() {
        let mut cpu = Session::new(graph.clone(), Cpu::new(1).unwrap(), options(&graph, 2)).unwrap();
        cpu.init(8);
        let dict = cpu.state_dict().unwrap();
        for machine in machines().into_iter().take(1) {
            let mut s = session(&graph, &machine, Arithmetic::F32);
            s.init(8).unwrap();
            assert_dicts(name, s.state_dict().unwrap(), dict.clone(), 0.0);
            s.init(9).unwrap();
            s.load_state_dict(&dict.iter().cloned().collect()).unwrap();
            assert_dicts(name, s.state_dict().unwrap(), dict.clone(), 0.0);
            let values = machine.read_floats(s.values()).unwrap();
            let trained = |name: &str| s.spans().iter().any(|span| span.name == name);
            for (name, tensor) in dict.iter().filter(|(name, _)| trained(name)) {
                assert_eq!(flat(&s.parameter(name).unwrap()), flat(tensor), "{name}");
            }
            assert!(s.parameter("of nobody").is_err());
            let packed = s.pack(&s.unpack(&values).unwrap().into_iter().collect()).unwrap();
            assert_eq!(packed, values);
            let mut fewer: HashMap<String, Tensor> = dict.iter().cloned().collect();
            fewer.remove(&graph.params()[0].name);
            assert!(s.load_state_dict(&fewer).unwrap_err().to_string().contains("missing"));
        }
    }
}

#[test]
fn a_frozen_network_makes_nothing_of_its_statistics_until_something_changes() {
    for machine in machines() {
        let (_, graph) = zoo().into_iter().find(|(name, _)| *name == "residual").expect("it is there");
        let mut s = session(&graph, &machine, Arithmetic::F32);
        let x = images(5, &graph, 4);
        let logits = |s: &mut GpuSession| {
            s.forward(&x, Mode::Eval, KEY).unwrap();
            flat(&s.logits().unwrap())
        };
        let before = logits(&mut s);
        s.freeze(5).unwrap();
        assert_eq!(logits(&mut s), before);
        // Behind its back.
        let other: Vec<f32> = s.read_running().unwrap().iter().map(|v| v * 1.1 + 0.01).collect();
        machine.write_floats(s.running(), &other).unwrap();
        assert_eq!(logits(&mut s), before);
        s.write_running(&other).unwrap();
        let after = logits(&mut s);
        assert_ne!(after, before);
        s.freeze(5).unwrap();
        s.run(Mode::Train, 5).unwrap();
        let trained = logits(&mut s);
        assert_ne!(trained, after);
        s.freeze(5).unwrap();
        let values: Vec<f32> = s.read_values().unwrap().iter().map(|v| v * 1.5).collect();
        s.write_values(&values).unwrap();
        assert_ne!(logits(&mut s), trained);
    }
}

#[test]
fn calls_out_of_order_are_errors() {
    let mut b = GraphBuilder::new(3, 4, 4);
    let x = b.conv2d(b.input(), crate::Conv2d::new("c", 4, 3).padding(1));
    let x = b.global_avg_pool(x);
    let graph = b.build(x).unwrap();
    for machine in machines().into_iter().take(1) {
        let mut s = session(&graph, &machine, Arithmetic::F32);
        assert!(s.logits().is_err());
        let x = images(4, &graph, 4);
        s.forward(&x, Mode::Eval, KEY).unwrap();
        let store = s.logits().unwrap().sum_all().unwrap().backward().unwrap();
        assert!(s.backward(&store).unwrap_err().to_string().contains("training mode"));
        let message = s.forward(&images(9, &graph, 1), Mode::Eval, KEY).unwrap_err().to_string();
        assert!(message.contains("[9, 3, 4, 4]") && message.contains("1 to 8"), "{message}");
        let only = SessionOptions { train: false, ..options(&graph, 2) };
        let mut s = GpuSession::new(graph.clone(), machine, only, Arithmetic::F32, &Device::Cpu).unwrap();
        assert!(s.forward(&images(1, &graph, 1), Mode::Train, KEY).is_err());
    }
}
