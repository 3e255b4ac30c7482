//! Sessions that take turns in the same memory compute what each would alone.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use dkd_engine::{
    Conv2d, DropoutKey, Graph, GraphBuilder, Linear, Mode, Precision, Session, SessionOptions, SharedMemory,
};
use dkd_kernels::Cpu;

fn network(channels: usize) -> Graph {
    let mut b = GraphBuilder::new(3, 9, 9);
    let first = b.conv2d(b.input(), Conv2d::new("conv", channels, 3).padding(1));
    let x = b.batch_norm(first, "bn");
    let x = b.relu(x);
    let y = b.conv2d(x, Conv2d::new("conv2", channels, 3).padding(1));
    let y = b.batch_norm(y, "bn2");
    let x = b.add(x, y);
    let x = b.global_avg_pool(x);
    let x = b.linear(x, Linear::new("fc", 10));
    b.build(x).unwrap()
}

fn session(graph: Graph, seed: u64, memory: &SharedMemory) -> Session {
    let options = SessionOptions { max_batch: 6, train: true, taps: vec![], precision: Precision::F32 };
    let mut session = Session::sharing(graph, Cpu::new(2).unwrap(), options, memory).unwrap();
    session.init(seed);
    session
}

fn forward(session: &mut Session, images: &Tensor, mode: Mode) -> Vec<u32> {
    session.forward(images, mode, DropoutKey::default()).unwrap();
    let logits = session.logits().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

/// A training step, and the logits of the weights after it.
fn step(session: &mut Session, images: &Tensor) -> Vec<u32> {
    let mut seen = forward(session, images, Mode::Train);
    let store = session.logits().unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    session.backward(&store).unwrap();
    session.update(|weights, gradients| weights.iter_mut().zip(gradients).for_each(|(w, g)| *w -= 0.01 * g));
    seen.extend(forward(session, images, Mode::Eval));
    seen
}

#[test]
fn taking_turns_changes_no_bit() {
    let images = Tensor::rand(-1.0_f32, 1.0, (6, 3, 9, 9), &Device::Cpu).unwrap();
    let memory = SharedMemory::default();
    let turns = || [(16, 1), (16, 2), (24, 3), (16, 4)];
    let mut together: Vec<_> = turns().map(|(c, seed)| session(network(c), seed, &memory)).into();
    let mut alone: Vec<_> =
        turns().map(|(c, seed)| session(network(c), seed, &SharedMemory::default())).into();
    for _ in 0..3 {
        let each: Vec<_> = together.iter_mut().map(|s| step(s, &images)).collect();
        let expected: Vec<_> = alone.iter_mut().map(|s| step(s, &images)).collect();
        assert_eq!(each, expected);
    }
    // A smaller batch leaves values of the larger one behind it.
    let fewer = images.narrow(0, 0, 3).unwrap();
    for (a, b) in together.iter_mut().zip(&mut alone) {
        assert_eq!(step(a, &fewer), step(b, &fewer));
    }
}

#[test]
fn a_backward_pass_after_another_forward_pass_is_refused() {
    let images = Tensor::ones((2, 3, 9, 9), candle_core::DType::F32, &Device::Cpu).unwrap();
    let memory = SharedMemory::default();
    let (mut a, mut b) = (session(network(16), 1, &memory), session(network(16), 2, &memory));
    forward(&mut a, &images, Mode::Train);
    let store = a.logits().unwrap().sum_all().unwrap().backward().unwrap();
    // Evaluation has memory of its own.
    forward(&mut b, &images, Mode::Eval);
    a.backward(&store).unwrap();
    forward(&mut b, &images, Mode::Train);
    let message = a.backward(&store).unwrap_err().to_string();
    assert!(message.contains("another session"), "{message}");
    // Another network does not take part.
    let mut c = session(network(24), 3, &memory);
    let store = b.logits().unwrap().sum_all().unwrap().backward().unwrap();
    forward(&mut c, &images, Mode::Train);
    b.backward(&store).unwrap();
}
