//! The number of threads, ours and candle's, changes no bit, even where a loss computes on a feature map that is large
//! enough for candle to share its element-wise operations among threads (65,536 elements).
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use candle_core::{Device, Tensor};
use dkd_engine::{DropoutKey, Mode, Precision, SessionOptions};
use dkd_kernels::Cpu;
use dkd_kernels::rng::{Purpose, Stream};
use dkd_models::ModelOptions;
use dkd_trainer::{EngineNetwork, Network, Sgd, SgdRecipe};
use std::process::Command;

const THREADS: &str = "DKD_TEST_THREADS";
const BATCH: usize = 8;

/// Trains three steps on a loss of the largest feature map; the final weights as a checksum.
fn train(threads: usize) -> String {
    let cpu = Cpu::new(threads).unwrap();
    let options = SessionOptions {
        max_batch: BATCH,
        train: true,
        taps: vec!["feats.1".into(), "feats.3".into()],
        precision: Precision::F32,
    };
    let graph = dkd_models::build("resnet8", &ModelOptions::new(10)).unwrap();
    let mut network = EngineNetwork::new(graph, &cpu, options, 0).unwrap();
    let recipe = SgdRecipe { lr: 0.1, momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 1e-4 };
    let mut sgd = Sgd::new(recipe, cpu);
    for step in 0..3 {
        let stream = Stream::new(1, Purpose::Other, 0, step);
        let pixels: Vec<f32> =
            (0..BATCH as u64 * 3 * 32 * 32).map(|i| stream.uniform(i) * 2.0 - 1.0).collect();
        let images = Tensor::from_vec(pixels, (BATCH, 3, 32, 32), &Device::Cpu).unwrap();
        network.forward(&images, Mode::Train, DropoutKey { step, ..DropoutKey::default() }).unwrap();
        let map = network.tap("feats.1").unwrap();
        assert!(map.elem_count() > 65_536);
        let loss = ((&map * &map).unwrap().exp().unwrap().log().unwrap() - map.abs().unwrap())
            .unwrap()
            .mean_all()
            .unwrap();
        let loss = (loss + network.logits().unwrap().sqr().unwrap().mean_all().unwrap()).unwrap();
        // Regions of the last map through the classifier itself, as SDD has them.
        let leaves = network.leaves(&["fc.weight".to_owned()]).unwrap();
        let pixels = network.tap("feats.3").unwrap().permute((0, 2, 3, 1)).unwrap().flatten(0, 2).unwrap();
        let local = pixels.contiguous().unwrap().matmul(&leaves["fc.weight"].t().unwrap()).unwrap();
        let loss = (loss + local.sqr().unwrap().mean_all().unwrap()).unwrap();
        assert!(loss.to_scalar::<f32>().unwrap().is_finite());
        network.backward(&loss.backward().unwrap()).unwrap();
        network.update(&mut |weights, gradients| sgd.step(0.1, 1.0, weights, gradients)).unwrap();
    }
    let mut bytes = Vec::new();
    network.update(&mut |weights, _| bytes.extend(weights.iter().flat_map(|w| w.to_le_bytes()))).unwrap();
    dkd_files::sha256_bytes(&bytes)
}

/// Runs only in the processes that [`threads_do_not_change_a_loss_on_a_feature_map`] starts.
#[test]
fn child() {
    if let Ok(threads) = std::env::var(THREADS) {
        println!("\nsha256 {}", train(threads.parse().unwrap()));
    }
}

#[test]
fn threads_do_not_change_a_loss_on_a_feature_map() {
    // candle reads its number of threads once in a process.
    let run = |threads: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).env(THREADS, threads);
        let output =
            command.env("CANDLE_NUM_THREADS", threads).env("RAYON_NUM_THREADS", threads).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find_map(|l| l.strip_prefix("sha256 ")).expect("a checksum").to_owned()
    };
    let one = run("1");
    assert_eq!(one.len(), 64);
    for threads in ["2", "3"] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}
