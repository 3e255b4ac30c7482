//! Optimizer, schedules and whole distillation steps against reference values computed with PyTorch.
//!
//! The folder is `tests/fixtures/golden`, or the one that the environment variable `DKD_GOLDENS` names.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use candle_core::{DType, Device, Tensor};
use dkd_engine::{DropoutKey, Mode, Precision, SessionOptions};
use dkd_kernels::{Cpu, Isa};
use dkd_losses::{DkdWeights, Reduction, Temperature, cross_entropy, decoupled, dkd, kd};
use dkd_models::ModelOptions;
use dkd_models::golden::fill;
use dkd_trainer::{EngineNetwork, Network, Schedule, ScheduleShape, Sgd, SgdRecipe};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    let fixtures = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
    std::env::var_os("DKD_GOLDENS").map_or_else(fixtures, PathBuf::from)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder().join(name), &Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(what: &str, got: &[f64], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= bound * scale, "{what}: element {i} is {g}, expected {w}");
    }
}

fn sgd_recipe(params: &Value) -> SgdRecipe {
    let number = |key: &str| params[key].as_f64().unwrap_or(0.0);
    SgdRecipe {
        lr: number("lr"),
        momentum: number("momentum"),
        dampening: number("dampening"),
        weight_decay: number("weight_decay"),
        nesterov: params["nesterov"].as_bool().unwrap_or(false),
    }
}

#[test]
fn golden_sgd() {
    let (cases, reference) = (json("optim/sgd.json"), tensors("optim/sgd.safetensors"));
    let f32s = |name: &str| reference[name].to_vec1::<f32>().unwrap();
    let (curvature, centre) = (f32s("curvature"), f32s("centre"));
    for case in cases["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let recipe = sgd_recipe(&case["params"]);
        for isa in Isa::available() {
            let (mut weights, mut sgd) = (f32s("w0"), Sgd::new(recipe, Cpu::with_isa(2, isa)));
            let mut path = Vec::new();
            for step in 0..5 {
                let gradients: Vec<f32> =
                    weights.iter().zip(&centre).zip(&curvature).map(|((w, c), k)| k * (w - c)).collect();
                let lr = if id.ends_with("_lr_drop") && step >= 2 { 0.1 * recipe.lr } else { recipe.lr };
                sgd.step(lr, 1.0, &mut weights, &gradients);
                path.extend(weights.iter().map(|w| f64::from(*w)));
            }
            assert_close(id, &path, &numbers(&reference[&format!("{id}.w.f64")]), 1e-6);
            if let Some(buffer) = reference.get(&format!("{id}.momentum_buffer.f64")) {
                let ours: Vec<f64> = sgd.momentum().iter().map(|m| f64::from(*m)).collect();
                assert_close(id, &ours, &numbers(buffer), 1e-5);
            }
        }
    }
}

#[test]
fn golden_schedules() {
    let reference = json("optim/schedules.json");
    let base = reference["base_lr"].as_f64().unwrap();
    let mut others = Vec::new();
    for case in reference["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let values: Vec<f64> =
            case["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let cosine = |last: f64| ScheduleShape::Cosine { last };
        // All have one step per epoch; the last value of a cosine is after the run's end.
        let (schedule, epochs) = match id {
            "milestones_mdistiller" | "multistep_torch" => {
                let epochs =
                    case["milestones"].as_array().unwrap().iter().map(|m| m.as_u64().unwrap() as usize);
                let shape = ScheduleShape::Milestones { epochs: epochs.collect(), gamma: 0.1 };
                (Schedule { shape, warmup_epochs: 0 }, values.len())
            }
            "cosine" | "cosine_eta_min" => {
                let last = case["eta_min"].as_f64().unwrap() / base;
                (Schedule { shape: cosine(last), warmup_epochs: 0 }, case["t_max"].as_u64().unwrap() as usize)
            }
            "linear_warmup_then_cosine" => (Schedule { shape: cosine(0.0), warmup_epochs: 5 }, 50),
            "dkd_loss_weight" => {
                for (i, v) in values.iter().enumerate() {
                    let factor = dkd_losses::Warmup { epochs: 20 }.factor(i + 1);
                    assert!((factor - v).abs() < 1e-12, "{id} in epoch {}: {factor}", i + 1);
                }
                continue;
            }
            other => {
                others.push(other.to_owned());
                continue;
            }
        };
        for (i, v) in values.iter().take(epochs).enumerate() {
            let lr = base * schedule.factor(i + 1, 0, 1, epochs);
            assert!((lr - v).abs() < 1e-12, "{id} in epoch {}: {lr} instead of {v}", i + 1);
        }
    }
    println!("golden schedules that are not offered: {}", others.join(", "));
}

/// A network with the deterministic fill; names carry `prefix`.
fn network(model: &str, prefix: &str, train: bool) -> EngineNetwork {
    let graph = dkd_models::build(model, &ModelOptions::new(100)).unwrap();
    let weights = graph.params().iter().map(|p| {
        let values = fill::tensor(&format!("{prefix}{}", p.name), &p.shape, 3.0).unwrap();
        (p.name.clone(), Tensor::from_vec(values, &p.shape[..], &Device::Cpu).unwrap())
    });
    let weights = weights.collect();
    let options = SessionOptions { max_batch: 8, train, taps: Vec::new(), precision: Precision::F32 };
    let mut network = EngineNetwork::new(graph, &Cpu::new(2).unwrap(), options, 0).unwrap();
    network.load_state_dict(&weights).unwrap();
    network
}

/// The total loss of a method of `steps/distill.json`, given the cross-entropy; none for a method that it lacks.
fn total_loss(
    method: &str,
    ce: &Tensor,
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
) -> Option<Tensor> {
    let (at, mean) = (Temperature::new(4.0).unwrap(), Reduction::BatchMean);
    let weights = DkdWeights { alpha: 1.0, beta: 8.0 };
    let loss = match method {
        "ce" => Ok(ce.clone()),
        "kd" => (ce * 0.1).unwrap() + (kd(student, teacher, at, mean).unwrap() * 0.9).unwrap(),
        "dkd" => ce + dkd(student, teacher, labels, weights, at, mean).unwrap(),
        _ => return None,
    };
    Some(loss.unwrap())
}

#[test]
fn golden_steps() {
    let (info, reference) = (json("steps/distill.json"), tensors("steps/distill.safetensors"));
    let images = fill::images(info["input_name"].as_str().unwrap(), 8 * 3 * 32 * 32);
    let images = Tensor::from_vec(images, (8, 3, 32, 32), &Device::Cpu).unwrap();
    let labels = Tensor::from_vec((0..8_u32).map(|i| 7 * i % 100).collect(), 8, &Device::Cpu).unwrap();
    let key = DropoutKey::default();
    let mut teacher = network(info["teacher"].as_str().unwrap(), "teacher.", false);
    teacher.forward(&images, Mode::Eval, key).unwrap();
    let answers = teacher.logits().unwrap().detach();
    assert_close("teacher", &numbers(&answers), &numbers(&reference["teacher_logits.f64"]), 1e-5);
    let recipe = sgd_recipe(&info["sgd"]);
    let (mut run, mut others) = (Vec::new(), Vec::new());
    let cases = info["cases"].as_array().unwrap();
    'cases: for case in cases.iter().filter(|c| c["dtype"] == "f64") {
        let method = case["method"].as_str().unwrap();
        let mut student = network(info["student"].as_str().unwrap(), "student.", true);
        let mut sgd = Sgd::new(recipe, Cpu::new(2).unwrap());
        for (i, want) in case["steps"].as_array().unwrap().iter().enumerate() {
            student.forward(&images, Mode::Train, key).unwrap();
            let s = student.logits().unwrap();
            let ce = cross_entropy(&s, &labels, 0.0).unwrap();
            let Some(loss) = total_loss(method, &ce, &s, &answers, &labels) else {
                others.push(method);
                continue 'cases;
            };
            let check = |key: &str, got: &Tensor| {
                let (got, want) = (f64::from(got.to_scalar::<f32>().unwrap()), want[key].as_f64().unwrap());
                assert!(
                    (got - want).abs() <= 2e-5 * want.abs().max(1.0),
                    "{method} step {i} {key}: {got}, {want}"
                );
            };
            check("total", &loss);
            check("ce", &ce);
            if method == "dkd" {
                let at = Temperature::new(4.0).unwrap();
                let parts = decoupled(&s, &answers, &labels, at, Reduction::BatchMean).unwrap();
                check("tckd", &parts.tckd);
                check("nckd", &parts.nckd);
            }
            student.backward(&loss.backward().unwrap()).unwrap();
            student.update(&mut |w, g| sgd.step(recipe.lr, 1.0, w, g)).unwrap();
            let dict = student.state_dict().unwrap();
            let trained = dict.iter().filter(|(name, _)| !name.contains("running_"));
            let square: f64 = trained.map(|(_, t)| numbers(t).iter().map(|v| v * v).sum::<f64>()).sum();
            let l2 = want["param_l2"].as_f64().unwrap();
            assert!(
                (square.sqrt() - l2).abs() < 1e-5 * l2,
                "{method} step {i}: norm {}, {l2}",
                square.sqrt()
            );
        }
        let dict: HashMap<String, Tensor> = student.state_dict().unwrap().into_iter().collect();
        let after = |name: &str| numbers(&reference[&format!("{method}.{name}_after.f64")]);
        assert_close(method, &numbers(&dict["fc.weight"]), &after("fc.weight"), 1e-4);
        student.forward(&images, Mode::Eval, key).unwrap();
        assert_close(method, &numbers(&student.logits().unwrap()), &after("eval_logits"), 1e-3);
        run.push(method);
    }
    println!("golden steps run: {}", run.join(", "));
    println!("golden steps that are not offered: {}", others.join(", "));
    assert!(!run.is_empty(), "no case of {} is offered", folder().join("steps/distill.json").display());
}
