//! After the second step the engine and the optimizer's kernel allocate nothing, and nothing leaks.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)] // A counting allocator is an unsafe trait.

use candle_core::{DType, Device, Tensor};
use dkd_engine::{
    Conv2d, DropoutKey, Graph, GraphBuilder, Linear, Mode, Pool, Precision, Session, SessionOptions,
};
use dkd_kernels::flat::{Sgd, sgd};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations during `f`.
fn calls(f: impl FnOnce()) -> usize {
    let before = CALLS.load(Ordering::Relaxed);
    f();
    CALLS.load(Ordering::Relaxed) - before
}

fn network() -> Graph {
    let mut b = GraphBuilder::new(3, 12, 12);
    let x = b.conv2d(b.input(), Conv2d::new("c0", 32, 3).padding(1));
    let x = b.batch_norm(x, "b0");
    let x = b.relu(x);
    let y = b.conv2d(x, Conv2d::new("c1", 32, 3).padding(1));
    let y = b.batch_norm(y, "b1");
    let x = b.add(x, y);
    let x = b.relu(x);
    b.tap("feats", x);
    let x = b.max_pool(x, Pool::new(2));
    let x = b.flatten(x);
    let x = b.dropout(x, "d", 0.2);
    let x = b.linear(x, Linear::new("fc", 10));
    b.build(x).unwrap()
}

// One test only: the counters are global.
#[test]
fn steps_do_not_allocate_and_do_not_leak() {
    [Precision::F32, Precision::Bf16].into_iter().for_each(check);
}

fn check(precision: Precision) {
    let cpu = dkd_kernels::Cpu::new(2).unwrap();
    let options = SessionOptions { max_batch: 16, train: true, taps: vec!["feats".to_owned()], precision };
    let estimate = Session::estimate_bytes(&network(), cpu.threads(), &options).unwrap().total();
    let start = LIVE.load(Ordering::Relaxed);
    let mut net = Session::new(network(), Arc::clone(&cpu), options).unwrap();
    net.init(1);
    // More than one thread's share of an update.
    assert!(net.gradients().len() > 1 << 14);
    let mut momentum = vec![0.0; net.gradients().len()];
    let (lr, momentum_factor, weight_decay) = (1e-3, 0.9, 5e-4);
    let (dampening, scale, nesterov, first) = (0.0, 1.0, true, true);
    let settings = Sgd { lr, momentum: momentum_factor, dampening, weight_decay, scale, nesterov, first };
    let images = Tensor::randn(0_f32, 1.0, (16, 3, 12, 12), &Device::Cpu).unwrap();
    let weights = Tensor::randn(0_f32, 1.0, (16, 10), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    let mut loss_calls = Vec::with_capacity(200);
    let mut live = Vec::with_capacity(200);
    for step in 0..200_u64 {
        let key = DropoutKey { seed: 1, epoch: 1, step };
        let forward = calls(|| net.forward(&images, Mode::Train, key).unwrap());
        let mut store = None;
        loss_calls.push(calls(|| {
            let on_logits = (net.logits().unwrap() * &weights).unwrap().sum_all().unwrap();
            let on_tap = net.tap("feats").unwrap().sqr().unwrap().mean_all().unwrap();
            store = Some((on_logits + on_tap).unwrap().backward().unwrap());
        }));
        // The gradient of a tap arrives in candle's order; making it contiguous is a copy of candle's.
        let store = store.unwrap();
        let backward = calls(|| net.backward(&store).unwrap());
        let settings = Sgd { first: step == 0, ..settings };
        let update = calls(|| net.update(|w, g| sgd(&cpu, &settings, w, g, &mut momentum)));
        drop(store);
        if step >= 2 {
            assert_eq!((forward, backward, update), (0, 0, 0), "step {step}");
        }
        live.push(LIVE.load(Ordering::Relaxed));
    }
    assert!(loss_calls[2..].iter().all(|n| *n == loss_calls[2]), "{loss_calls:?}");
    assert_eq!(live[199], live[2], "live bytes after 200 steps and after 2");
    // What the network holds, without the optimizer's momentum and the test's own tensors.
    net.forward(&images, Mode::Eval, DropoutKey::default()).unwrap();
    let others = (momentum.len() + images.elem_count() + weights.elem_count()) * 4 + 2 * 200 * 8;
    let held = (LIVE.load(Ordering::Relaxed) - start) as f64 - others as f64;
    let error = estimate as f64 / held - 1.0;
    assert!(error.abs() < 0.05, "estimated {estimate} bytes, {held} are held");
}
