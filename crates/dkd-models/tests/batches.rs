//! What a network in evaluation mode says to an image does not depend on the images beside it: a cache of answers relies on it.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use dkd_engine::{DropoutKey, Mode, Precision, Session, SessionOptions};
use dkd_kernels::rng::{Purpose, Stream};
use dkd_kernels::{Cpu, Isa};
use dkd_models::{ModelOptions, build, names};
use std::sync::Arc;

const KEY: DropoutKey = DropoutKey { seed: 0, epoch: 1, step: 0 };

/// Square images from a fixed stream.
fn images(n: usize, side: usize) -> Tensor {
    let stream = Stream::new(3, Purpose::Augment, 0, 0);
    let values = (0..n * 3 * side * side).map(|i| stream.uniform(i as u64) - 0.5).collect();
    Tensor::from_vec(values, (n, 3, side, side), &Device::Cpu).unwrap()
}

/// Bits of the logits of the images with these numbers.
fn logits(session: &mut Session, all: &Tensor, numbers: &[u32]) -> Vec<Vec<u32>> {
    let chosen = Tensor::from_slice(numbers, numbers.len(), &Device::Cpu).unwrap();
    session.forward(&all.index_select(&chosen, 0).unwrap(), Mode::Eval, KEY).unwrap();
    let rows: Vec<Vec<f32>> = session.logits().unwrap().to_vec2().unwrap();
    rows.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
}

#[test]
fn an_answer_does_not_depend_on_the_batch() {
    let n = 24;
    let (small, large) = (images(n, 32), images(n, 64));
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        for name in names() {
            let (all, side) = if name.starts_with("tinyimagenet") { (&large, 64) } else { (&small, 32) };
            let graph = build(name, &ModelOptions::new(10).image(3, side, side)).unwrap();
            // The portable kernels are slow.
            if isa.name() == "portable" && graph.macs() > 50_000_000 {
                continue;
            }
            let options =
                SessionOptions { max_batch: n, train: false, taps: Vec::new(), precision: Precision::F32 };
            let mut session = Session::new(graph, Arc::clone(&cpu), options).unwrap();
            session.init(1);
            let whole = logits(&mut session, all, &(0..n as u32).collect::<Vec<_>>());
            assert!(whole[0] != whole[1]);
            for numbers in [vec![7], vec![20, 3, 11], vec![23, 0, 5, 5, 9, 17, 2], (4..20).rev().collect()] {
                let part = logits(&mut session, all, &numbers);
                for (row, i) in part.iter().zip(&numbers) {
                    assert_eq!(row, &whole[*i as usize], "{name} on {}: image {i}", isa.name());
                }
            }
        }
    }
}
