//! Gradients against differences of the forward pass, and what must not depend on threads or batch size.

mod half;

use super::*;
use crate::{Conv2d, GraphBuilder, Linear, Pool, ValueId};
use candle_core::{DType, Device};
use dkd_kernels::Isa;

/// Small networks that together have every operation and every fusion.
pub(crate) fn zoo() -> Vec<(&'static str, Graph)> {
    let head = |mut b: GraphBuilder, x: ValueId| {
        let x = b.global_avg_pool(x);
        let x = b.linear(x, Linear::new("fc", 5));
        b.build(x).unwrap()
    };
    let conv = |name: &str, n: usize, k: usize| Conv2d::new(name, n, k);
    let mut all = Vec::new();

    // Convolution, ReLU, overlapping pools, batch norm after pooling, flatten, dropout, ReLU on the logits.
    let mut b = GraphBuilder::new(3, 9, 8);
    let x = b.conv2d(b.input(), conv("c1", 7, 3).bias());
    let x = b.relu(x);
    let x = b.max_pool(x, Pool::new(2).stride(1));
    let x = b.batch_norm(x, "b1");
    let x = b.conv2d(x, conv("c2", 18, 2).padding(1).bias());
    let x = b.relu(x);
    let x = b.max_pool(x, Pool::new(3).stride(2).padding(1));
    let x = b.batch_norm(x, "b2");
    b.tap("map", x);
    let x = b.flatten(x);
    let x = b.dropout(x, "d", 0.3);
    let x = b.linear(x, Linear::new("l1", 20));
    let x = b.relu(x);
    b.tap("hidden", x);
    let x = b.linear(x, Linear::new("l2", 5));
    all.push(("seed-like", b.build(x).unwrap()));

    // Residual blocks with and without a convolution on the shortcut, taps before and after the ReLU.
    let mut b = GraphBuilder::new(3, 8, 8);
    let x = b.conv2d(b.input(), conv("c0", 16, 3).padding(1));
    let x = b.batch_norm(x, "b0");
    let mut x = b.relu(x);
    for (i, (n, stride)) in [(16, 1), (16, 1), (24, 2), (24, 1)].into_iter().enumerate() {
        let y = b.conv2d(x, conv(&format!("{i}.c1"), n, 3).stride(stride).padding(1));
        let y = b.batch_norm(y, format!("{i}.b1"));
        let y = b.relu(y);
        let y = b.conv2d(y, conv(&format!("{i}.c2"), n, 3).padding(1));
        let y = b.batch_norm(y, format!("{i}.b2"));
        let shortcut = if stride == 2 {
            let s = b.conv2d(x, conv(&format!("{i}.s"), n, 1).stride(stride));
            b.batch_norm(s, format!("{i}.sb"))
        } else {
            x
        };
        let sum = b.add(y, shortcut);
        b.tap(format!("pre{i}"), sum);
        x = b.relu(sum);
        b.tap(format!("post{i}"), x);
    }
    all.push(("residual", head(b, x)));

    // Pre-activation: the sum is read by a batch norm and by the next sum; averages; a value read twice.
    let mut b = GraphBuilder::new(4, 7, 7);
    let mut x = b.conv2d(b.input(), conv("c0", 12, 3).padding(1));
    for i in 0..2 {
        let y = b.batch_norm(x, format!("{i}.b1"));
        let y = b.relu(y);
        let y = b.conv2d(y, conv(&format!("{i}.c"), 12, 3).padding(1));
        x = b.add(x, y);
    }
    let a = b.avg_pool(x, Pool::new(3).stride(2).padding(1));
    let m = b.max_pool(x, Pool::new(3).stride(2).padding(1));
    let x = b.add(a, m);
    let x = b.relu(x);
    let y = b.conv2d(x, conv("c9", 12, 1).bias());
    let x = b.add(y, x);
    all.push(("pre-activation", head(b, x)));

    // Odd sizes: asymmetric kernel and stride, no batch norm, everything bordered.
    let mut b = GraphBuilder::new(2, 6, 11);
    let mut first = conv("c0", 5, 3).bias();
    (first.kernel, first.stride, first.padding) = ((5, 3), (2, 1), (2, 0));
    let x = b.conv2d(b.input(), first);
    let x = b.relu(x);
    let x = b.conv2d(x, conv("c1", 33, 3).padding(2).stride(3).bias());
    let x = b.flatten(x);
    let x = b.linear(x, Linear::new("fc", 3));
    all.push(("odd", b.build(x).unwrap()));

    // Grouped and depthwise convolutions.
    let mut b = GraphBuilder::new(4, 6, 6);
    let x = b.conv2d(b.input(), conv("g0", 8, 3).padding(1).groups(2));
    let x = b.batch_norm(x, "b0");
    let x = b.relu(x);
    let x = b.conv2d(x, conv("g1", 8, 3).padding(1).stride(2).groups(8).bias());
    let x = b.relu(x);
    let x = b.conv2d(x, conv("g2", 20, 1));
    let x = b.batch_norm(x, "b2");
    all.push(("grouped", head(b, x)));

    // Channels that are split, joined, shuffled and padded; a value that is joined with itself; both ends of ReLU6.
    let mut b = GraphBuilder::new(3, 6, 6);
    let x = b.conv2d(b.input(), conv("c0", 20, 3).padding(1));
    let x = b.batch_norm(x, "b0");
    let x = b.relu(x);
    let (left, right) = b.split_channels(x, 10);
    let y = b.conv2d(right, conv("c1", 10, 1).bias());
    let y = b.relu6(y);
    let x = b.concat(&[left, y]);
    b.tap("joined", x);
    // Only there for its tap.
    let aside = b.concat(&[y, left]);
    b.tap("aside", aside);
    let x = b.channel_shuffle(x, 2);
    let y = b.batch_norm(x, "b1");
    let p = b.avg_pool(x, Pool::new(3).stride(2).padding(1));
    let y = b.conv2d(y, conv("c2", 9, 3).stride(2).padding(1));
    let x = b.concat(&[y, p, y]);
    let x = b.relu(x);
    let s = b.avg_pool(x, Pool::new(1).stride(2));
    let s = b.pad_channels(s, 2, 4);
    let y = b.conv2d(x, conv("c3", 44, 3).stride(2).padding(1));
    let x = b.add(s, y);
    all.push(("channels", head(b, x)));

    // Normalised channels that are shuffled for a convolution by groups, and joined with others that are not normalised.
    let mut b = GraphBuilder::new(3, 6, 6);
    let x = b.conv2d(b.input(), conv("c0", 12, 3).padding(1));
    let x = b.batch_norm(x, "b0");
    let x = b.relu(x);
    let x = b.channel_shuffle(x, 3);
    let x = b.conv2d(x, conv("c1", 12, 3).padding(1).stride(2).groups(12).bias());
    let x = b.relu(x);
    let y = b.batch_norm(x, "b1");
    let z = b.conv2d(x, conv("c2", 20, 1).bias());
    let x = b.concat(&[y, z]);
    let x = b.channel_shuffle(x, 2);
    let x = b.conv2d(x, conv("c3", 8, 1));
    all.push(("shuffled", head(b, x)));
    all
}

pub(crate) fn images(n: usize, graph: &Graph, seed: u64) -> Tensor {
    let shape = graph.input_shape();
    let (h, w) = shape.size();
    let stream = Stream::new(seed, Draw::Other, 0, 0);
    let values: Vec<f32> = (0..(n * shape.elements()) as u64).map(|i| stream.normal(i)).collect();
    Tensor::from_vec(values, (n, shape.channels(), h, w), &Device::Cpu).unwrap()
}

fn session(graph: &Graph, threads: usize, isa: Isa, max_batch: usize, taps: bool) -> Session {
    session_in(Precision::F32, graph, threads, isa, max_batch, taps)
}

fn session_in(
    precision: Precision,
    graph: &Graph,
    threads: usize,
    isa: Isa,
    max_batch: usize,
    taps: bool,
) -> Session {
    let taps = if taps { graph.taps().iter().map(|t| t.name.clone()).collect() } else { Vec::new() };
    let options = SessionOptions { max_batch, train: true, taps, precision };
    let mut s = Session::new(graph.clone(), Cpu::with_isa(threads, isa), options).unwrap();
    s.init(3);
    s
}

/// A loss that weighs every element of the logits and taps differently.
fn loss(s: &Session) -> Tensor {
    let names: Vec<String> = s.boundaries_of_test();
    let mut outputs = vec![s.logits().unwrap()];
    outputs.extend(names.iter().map(|n| s.tap(n).unwrap()));
    let terms = outputs.iter().enumerate().map(|(k, t)| {
        let stream = Stream::new(9, Draw::Other, 1, k as u64);
        let weights: Vec<f32> = (0..t.elem_count() as u64).map(|i| stream.normal(i)).collect();
        let weights = Tensor::from_vec(weights, t.dims(), &Device::Cpu).unwrap();
        (t * weights).unwrap().sum_all().unwrap()
    });
    terms.reduce(|a, b| (a + b).unwrap()).unwrap()
}

/// The same loss in f64, for differences.
fn loss_f64(s: &Session) -> f64 {
    let names: Vec<String> = s.boundaries_of_test();
    let mut outputs = vec![s.logits().unwrap()];
    outputs.extend(names.iter().map(|n| s.tap(n).unwrap()));
    let terms = outputs.iter().enumerate().map(|(k, t)| {
        let stream = Stream::new(9, Draw::Other, 1, k as u64);
        let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values
            .iter()
            .enumerate()
            .map(|(i, v)| f64::from(*v) * f64::from(stream.normal(i as u64)))
            .sum::<f64>()
    });
    terms.sum()
}

impl Session {
    fn boundaries_of_test(&self) -> Vec<String> {
        self.boundaries.names()
    }
}

const KEY: DropoutKey = DropoutKey { seed: 1, epoch: 2, step: 3 };

#[test]
fn gradients_match_differences() {
    for (name, graph) in zoo() {
        for (isa, taps) in Isa::available().into_iter().zip([true, false, true]) {
            let x = images(6, &graph, 4);
            let mut s = session(&graph, 2, isa, 6, taps);
            s.forward(&x, Mode::Train, KEY).unwrap();
            let store = loss(&s).backward().unwrap();
            s.backward(&store).unwrap();
            let gradients = s.gradients().to_vec();
            let start = s.weights.values.to_vec();
            for span in s.spans() {
                let g = &gradients[span.range.clone()];
                let norm = g.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                assert!(norm > 0.0, "{name}: `{}` has a gradient", span.name);
                // Along the gradient the loss changes by its norm; ReLU and max pooling make steps noisy, so several
                // step sizes may try.
                let slope = |h: f64| {
                    let mut at = |sign: f64| {
                        s.update(|w, _| {
                            w.copy_from_slice(&start);
                            for (w, g) in w[span.range.clone()].iter_mut().zip(g) {
                                *w += (sign * h * f64::from(*g) / norm) as f32;
                            }
                        });
                        s.forward(&x, Mode::Train, KEY).unwrap();
                        loss_f64(&s)
                    };
                    (at(1.0) - at(-1.0)) / (2.0 * h)
                };
                let errors: Vec<f64> =
                    [1e-2, 3e-3, 1e-3, 3e-4].map(slope).map(|d| (d - norm).abs() / norm).into();
                let best = errors.iter().copied().fold(f64::MAX, f64::min);
                assert!(
                    best < 3e-2,
                    "{name} {isa} `{}`: |g| = {norm}, relative errors {errors:?}",
                    span.name
                );
            }
        }
    }
}

fn step(s: &mut Session, x: &Tensor) {
    s.forward(x, Mode::Train, KEY).unwrap();
    let store = loss(s).backward().unwrap();
    s.backward(&store).unwrap();
    s.update(|w, g| w.iter_mut().zip(g).for_each(|(w, g)| *w -= 0.01 * g));
}

fn bits(s: &Session) -> Vec<u32> {
    let values = s.weights.values.iter().chain(s.weights.running.iter()).chain(s.gradients());
    values.map(|v| v.to_bits()).collect()
}

#[test]
fn threads_do_not_change_a_bit() {
    for (name, graph) in zoo() {
        let x = images(13, &graph, 4);
        let run = |threads: usize| {
            let mut s = session(&graph, threads, Isa::available()[0], 16, true);
            (0..3).for_each(|_| step(&mut s, &x));
            s.forward(&x, Mode::Eval, KEY).unwrap();
            let logits = s.logits().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let logits: Vec<u32> = logits.iter().map(|v| v.to_bits()).collect();
            (bits(&s), logits)
        };
        let one = run(1);
        assert!([2, 3, 5].into_iter().all(|threads| run(threads) == one), "{name}");
    }
}

#[test]
fn capacity_and_history_do_not_matter() {
    for (name, graph) in zoo() {
        let x = images(5, &graph, 4);
        let mut exact = session(&graph, 2, Isa::available()[0], 5, false);
        let mut roomy = session(&graph, 2, Isa::available()[0], 40, false);
        // Dirty the buffers with another batch, then start again from the same weights.
        step(&mut roomy, &images(40, &graph, 8));
        roomy.init(3);
        step(&mut exact, &x);
        step(&mut roomy, &x);
        assert!(bits(&exact) == bits(&roomy), "{name}");
        for s in [&mut exact, &mut roomy] {
            s.forward(&x, Mode::Eval, KEY).unwrap();
        }
        let logits = |s: &Session| s.logits().unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(logits(&exact), logits(&roomy), "{name}");
        // In evaluation an image does not see its neighbours.
        let all = logits(&exact);
        for (i, want) in all.iter().enumerate() {
            exact.forward(&x.narrow(0, i, 1).unwrap(), Mode::Eval, KEY).unwrap();
            assert_eq!(logits(&exact)[0], *want, "{name}");
        }
    }
}

#[test]
fn channels_last_images_need_no_conversion() {
    let (_, graph) = zoo().swap_remove(1);
    let x = images(4, &graph, 4);
    let mut s = session(&graph, 1, Isa::available()[0], 4, false);
    s.forward(&x, Mode::Eval, KEY).unwrap();
    let want = s.logits().unwrap().to_vec2::<f32>().unwrap();
    let last = x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap();
    s.forward(&last, Mode::Eval, KEY).unwrap();
    assert_eq!(s.logits().unwrap().to_vec2::<f32>().unwrap(), want);
}

#[test]
fn several_backward_passes_per_forward() {
    let (_, graph) = zoo().swap_remove(1);
    let x = images(4, &graph, 4);
    let mut s = session(&graph, 2, Isa::available()[0], 4, true);
    s.forward(&x, Mode::Train, KEY).unwrap();
    let logits = s.logits().unwrap().sqr().unwrap().sum_all().unwrap();
    let tap = s.tap("pre1").unwrap().sqr().unwrap().sum_all().unwrap();
    let mut gradient = |loss: &Tensor| {
        s.backward(&loss.backward().unwrap()).unwrap();
        s.gradients().to_vec()
    };
    let (a, b, both) = (gradient(&logits), gradient(&tap), gradient(&(&logits + &tap).unwrap()));
    assert_eq!(gradient(&logits), a);
    for ((a, b), both) in a.iter().zip(&b).zip(&both) {
        assert!((a + b - both).abs() <= 1e-3 * (1.0 + both.abs()), "{a} + {b} = {both}");
    }
}

#[test]
fn looking_at_every_value_changes_none() {
    for (name, graph) in zoo() {
        let x = images(5, &graph, 4);
        let open = graph.with_all_taps();
        assert!(open.taps().len() >= graph.nodes().len(), "{name}");
        let run = |graph: &Graph| {
            let mut s = session(graph, 2, Isa::available()[0], 5, true);
            s.forward(&x, Mode::Train, KEY).unwrap();
            let logits = s.logits().unwrap();
            s.backward(&logits.sqr().unwrap().sum_all().unwrap().backward().unwrap()).unwrap();
            (logits.flatten_all().unwrap().to_vec1::<f32>().unwrap(), s)
        };
        let ((want, closed), (got, opened)) = (run(&graph), run(&open));
        let near = |a: &[f32], b: &[f32]| {
            let scale = b.iter().fold(1.0, |m: f32, v| m.max(v.abs()));
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-3 * scale)
        };
        assert!(near(&got, &want) && near(opened.gradients(), closed.gradients()), "{name}");
        for tap in open.taps() {
            let value = opened.tap(&tap.name).unwrap();
            assert_eq!(value.dims()[1..], tap.shape.dims(), "{name}: {}", tap.name);
            let twin = graph.taps().iter().find(|t| t.value == tap.value);
            if let Some(twin) = twin {
                let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(near(&flat(value), &flat(closed.tap(&twin.name).unwrap())), "{name}: {}", tap.name);
            }
        }
    }
}

#[test]
fn every_step_can_be_measured() {
    for (name, graph) in zoo() {
        let mut s = session(&graph, 2, Isa::available()[0], 6, false);
        let x = images(6, &graph, 4);
        step(&mut s, &x);
        let before = s.gradients().to_vec();
        assert!(s.measured().is_empty());
        s.measure(true);
        step(&mut s, &x);
        let times = s.measured();
        s.measure(false);
        assert!(s.measured().is_empty());
        assert!(times.iter().all(|t| t.seconds > 0.0), "{name}");
        let flops = |pass| times.iter().filter(|t| t.pass == pass).map(|t| t.flops).sum::<f64>();
        assert_eq!(flops(Pass::Forward), 2.0 * 6.0 * graph.macs() as f64, "{name}");
        let least = flops(Pass::Forward)..=2.0 * flops(Pass::Forward);
        assert!(least.contains(&flops(Pass::Backward)), "{name}");
        let bytes: f64 = times.iter().map(|t| t.bytes).sum();
        assert_eq!(bytes, 6.0 * s.traffic(Mode::Train).unwrap(), "{name}");
        let layers = graph.nodes().iter().filter_map(|n| match &n.op {
            crate::Op::Conv2d(c) => Some(&c.name),
            crate::Op::Linear(l) => Some(&l.name),
            _ => None,
        });
        for layer in layers {
            let both = [Pass::Forward, Pass::Backward];
            assert!(
                both.iter().all(|p| times.iter().any(|t| t.pass == *p && t.layer == *layer)),
                "{name} {layer}"
            );
        }
        let mut plain = session(&graph, 2, Isa::available()[0], 6, false);
        step(&mut plain, &x);
        assert_eq!(plain.gradients(), before, "{name}");
        step(&mut plain, &x);
        assert_eq!(plain.gradients(), s.gradients(), "{name}: measuring changes nothing");
        let options =
            SessionOptions { max_batch: 6, train: false, taps: Vec::new(), precision: Precision::F32 };
        let mut eval = Session::new(graph.clone(), Cpu::new(1).unwrap(), options).unwrap();
        let traffic = eval.traffic(Mode::Eval).unwrap();
        assert!(eval.traffic(Mode::Train).is_err());
        eval.forward(&x, Mode::Eval, KEY).unwrap();
        assert_eq!(eval.traffic(Mode::Eval).unwrap(), traffic);
        eval.measure(true);
        eval.forward(&x, Mode::Eval, KEY).unwrap();
        assert!(eval.measured().iter().all(|t| t.pass == Pass::Forward) && !eval.measured().is_empty());
    }
}

#[test]
fn running_statistics_can_be_put_back() {
    let (_, graph) = zoo().swap_remove(1);
    let mut s = session(&graph, 1, Isa::available()[0], 4, false);
    let before = s.running().to_vec();
    s.forward(&images(4, &graph, 4), Mode::Train, KEY).unwrap();
    assert_ne!(s.running(), before);
    s.set_running(&before).unwrap();
    assert_eq!(s.running(), before);
    assert!(s.set_running(&before[1..]).unwrap_err().to_string().contains("expected"));
}

#[test]
fn state_dictionaries_round_trip() {
    for (name, graph) in zoo() {
        let mut a = session(&graph, 1, Isa::available()[0], 4, false);
        step(&mut a, &images(4, &graph, 4));
        let mut dict: HashMap<String, Tensor> = a.state_dict().unwrap().into_iter().collect();
        let mut b = session(&graph, 1, Isa::available()[0], 4, false);
        dict.insert("x.num_batches_tracked".to_owned(), Tensor::new(7_i64, &Device::Cpu).unwrap());
        b.load_state_dict(&dict).unwrap();
        assert!(
            a.weights.values[..] == b.weights.values[..] && a.weights.running[..] == b.weights.running[..],
            "{name}"
        );
        let (missing, spec) = (dict.clone(), &graph.params()[0]);
        dict.insert(spec.name.clone(), Tensor::zeros((1, 2), DType::F32, &Device::Cpu).unwrap());
        let message = b.load_state_dict(&dict).unwrap_err().to_string();
        assert!(message.contains(&spec.name) && message.contains("[1, 2]"), "{message}");
        let mut extra = missing;
        extra.insert("strange".to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        assert!(b.load_state_dict(&extra).unwrap_err().to_string().contains("`strange`"));
        extra.remove("strange");
        extra.remove(&spec.name);
        assert!(b.load_state_dict(&extra).unwrap_err().to_string().contains("missing"));
        assert!(a.weights.values[..] == b.weights.values[..]);
    }
}

#[test]
fn calls_out_of_order_are_errors() {
    let (_, graph) = zoo().swap_remove(0);
    let mut s = session(&graph, 1, Isa::available()[0], 4, false);
    assert!(s.logits().is_err());
    let x = images(4, &graph, 4);
    s.forward(&x, Mode::Eval, KEY).unwrap();
    let store = s.logits().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(s.backward(&store).unwrap_err().to_string().contains("training mode"));
    s.forward(&x, Mode::Train, KEY).unwrap();
    let other = candle_core::Var::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let store = other.as_tensor().sum_all().unwrap().backward().unwrap();
    assert!(s.backward(&store).unwrap_err().to_string().contains("no gradient"));
    assert!(s.tap("nowhere").unwrap_err().to_string().contains("nowhere"));
    let message = s.forward(&images(5, &graph, 1), Mode::Eval, KEY).unwrap_err().to_string();
    assert!(message.contains("[5, 3, 9, 8]") && message.contains("1 to 4"), "{message}");
}
