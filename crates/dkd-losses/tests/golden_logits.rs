//! The reference values: every case of `logits/index.json` under `DKD_GOLDENS`, by default the fixtures of this crate.
#![allow(clippy::unwrap_used)]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use dkd_losses::{
    DkdWeights, Reduction, Result, Temperature, cross_entropy, decoupled_reference, dist, dkd, kd,
    mlkd_batch, mlkd_class, nckd, nkd, standardized, tckd,
};
use serde_json::Value;
use support::{largest, numbers, value_and_gradient};

fn folder() -> PathBuf {
    let fixtures = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
    std::env::var_os("DKD_GOLDENS").map_or_else(fixtures, PathBuf::from)
}

/// A number, or one of the strings `nan`, `inf`, `-inf`.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

fn cases() -> Vec<(Value, HashMap<String, Tensor>)> {
    let index = std::fs::read_to_string(folder().join("logits/index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let load = |case: &Value| {
        let tensors =
            candle_core::safetensors::load(folder().join(case["file"].as_str().unwrap()), &Device::Cpu);
        (case.clone(), tensors.unwrap())
    };
    let cases: Vec<_> = index["cases"].as_array().unwrap().iter().map(load).collect();
    assert!(!cases.is_empty());
    cases
}

/// Losses are computed in f64 and rounded once to f32; the stored values are good to 8e-11 (relative).
fn check_value(what: &str, ours: f64, exact: f64, scale: f64) {
    let bound = 1e-7 * exact.abs() + 1e-14 * scale;
    assert!((ours - exact).abs() <= bound, "{what}: {ours} instead of {exact} (bound {bound:e})");
}

/// Gradients are rounded once, too; the stored ones are good to 3e-12 of the largest entry or T / B.
fn check_gradient(what: &str, ours: &[f64], exact: &Tensor, scale: f64) {
    let exact = numbers(exact);
    let bound = 1e-7 * largest(&exact) + 1e-11 * scale;
    for (i, (a, b)) in ours.iter().zip(&exact).enumerate() {
        assert!((a - b).abs() <= bound, "{what}: entry {i} is {a} instead of {b} (bound {bound:e})");
    }
    assert_eq!(ours.len(), exact.len());
}

type Loss = fn(&Tensor, &Tensor, &Tensor, Temperature, Reduction) -> Result<Tensor>;

#[test]
fn golden_logit_losses() {
    let plain_kd: Loss = |s, t, _, temperature, reduction| kd(s, t, temperature, reduction);
    let losses: [(&str, Loss); 3] = [("kd", plain_kd), ("tckd", tckd), ("nckd", nckd)];
    let (mut values, mut gradients) = (0, 0);
    for (case, tensors) in cases() {
        let id = case["id"].as_str().unwrap();
        let (student, teacher, target) = (&tensors["student"], &tensors["teacher"], &tensors["target"]);
        assert_eq!(student.dtype(), DType::F32);
        let rows = student.dim(0).unwrap() as f64;
        for (key, smoothing) in [("ce", 0.0), ("ce_smooth_0.1", 0.1), ("ce_smooth_0.3", 0.3)] {
            let what = format!("{id} {key}");
            let (value, gradient) = value_and_gradient(student, |s| cross_entropy(s, target, smoothing));
            check_value(&what, value, number(&case[key]["exact"]), 1.0);
            values += 1;
            // The largest cases store fewer gradients.
            if let Some(exact) = tensors.get(&format!("grad.{key}")) {
                check_gradient(&what, &gradient, exact, 1.0 / rows);
                gradients += 1;
            }
        }
        for row in case["T"].as_array().unwrap() {
            let t = number(&row["T"]);
            let temperature = Temperature::new(t).unwrap();
            for (key, loss) in losses {
                let what = format!("{id} {key} T={t}");
                let (value, gradient) = value_and_gradient(student, |s| {
                    loss(s, teacher, target, temperature, Reduction::BatchMean)
                });
                check_value(&what, value, number(&row[key]["exact"]), t * t);
                assert!(gradient.iter().all(|g| g.is_finite()), "{what}: gradient is not finite");
                if row["grads"].as_bool().unwrap() {
                    check_gradient(&what, &gradient, &tensors[&format!("grad.{key}.T{t}")], t / rows);
                    gradients += 1;
                }
                values += 1;
            }
            for entry in row["dkd"].as_array().unwrap() {
                let weights = DkdWeights { alpha: number(&entry["alpha"]), beta: number(&entry["beta"]) };
                let loss = dkd(student, teacher, target, weights, temperature, Reduction::BatchMean).unwrap();
                let scale = t * t * (weights.alpha + weights.beta);
                let what = format!("{id} {weights:?} T={t}");
                // Each part is rounded to f32 before the weighted sum is.
                let exact = number(&entry["exact"]);
                let ours = support::scalar(&loss);
                assert!(
                    (ours - exact).abs() <= 2e-7 * exact.abs() + 1e-14 * scale,
                    "{what}: {ours} instead of {exact}"
                );
                values += 1;
            }
        }
    }
    println!("held: {values} values, {gradients} gradients");
}

/// Values by name, and the total that the stored gradient is of.
type Parts = Vec<(&'static str, Tensor)>;

/// The loss of one entry of `other`.
fn other_loss(entry: &Value, s: &Tensor, t: &Tensor, y: &Tensor) -> Result<Parts> {
    let parameter = |name: &str| number(&entry["params"][name]);
    let temperature = |name: &str| Temperature::new(parameter(name));
    let total = |value: Tensor| vec![("total", value)];
    Ok(match entry["loss"].as_str().unwrap() {
        "dist" => {
            let r = dist(s, t, temperature("tau")?)?;
            let sum = ((&r.inter * parameter("beta"))? + (&r.intra * parameter("gamma"))?)?;
            vec![("inter", r.inter), ("intra", r.intra), ("total", sum)]
        }
        "zscore_kd" => {
            total(kd(&standardized(s)?, &standardized(t)?, temperature("tau")?, Reduction::BatchMean)?)
        }
        "nkd" => {
            let n = nkd(s, t, y, temperature("T")?)?;
            let nontarget = (n.nontarget * parameter("gamma"))?;
            let sum = (&n.target + &nontarget)?;
            vec![("target", n.target), ("nontarget", nontarget), ("total", sum)]
        }
        "mlkd_batch" => total(mlkd_batch(s, t, temperature("T")?)?),
        "mlkd_class" => total(mlkd_class(s, t, temperature("T")?)?),
        unknown => panic!("no loss for `{unknown}`"),
    })
}

/// The methods after DKD, in f64 as the stored values are.
#[test]
fn golden_other_losses() {
    let (mut counts, mut gradients) = (BTreeMap::<String, usize>::new(), 0);
    for (case, tensors) in cases() {
        let wide = |name: &str| tensors[name].to_dtype(DType::F64).unwrap();
        let (student, teacher, target) = (wide("student"), wide("teacher"), &tensors["target"]);
        for entry in case["other"].as_array().into_iter().flatten() {
            let what = format!("{} {} {}", case["id"], entry["loss"], entry["params"]);
            let parameter = |name: &str| entry["params"][name].as_f64();
            let scale = parameter("tau").or(parameter("T")).unwrap().powi(2);
            for (name, value) in other_loss(entry, &student, &teacher, target).unwrap() {
                let exact = number(&entry["values"][name]["f64"]);
                let (ours, bound) = (support::scalar(&value), 1e-10 * exact.abs() + 1e-14 * scale);
                assert!((ours - exact).abs() <= bound, "{what} {name}: {ours} instead of {exact}");
            }
            // The largest cases store fewer gradients.
            if let Some(exact) = entry["grad"].as_str() {
                let total =
                    |s: &Tensor| other_loss(entry, s, &teacher, target).map(|mut all| all.pop().unwrap().1);
                let (_, gradient) = value_and_gradient(&student, total);
                check_gradient(&what, &gradient, &tensors[exact], scale);
                gradients += 1;
            }
            *counts.entry(entry["loss"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    println!("held: {counts:?}, {gradients} gradients");
    assert_eq!(counts.len(), 5);
}

/// The reference implementation's own arithmetic: where it is finite, where it is not, and its finite values.
#[test]
fn golden_reference_arithmetic() {
    let mut counts = HashMap::<String, usize>::new();
    for (case, tensors) in cases() {
        let id = case["id"].as_str().unwrap();
        let (student, teacher, target) = (&tensors["student"], &tensors["teacher"], &tensors["target"]);
        for row in case["T"].as_array().unwrap() {
            let t = number(&row["T"]);
            let temperature = Temperature::new(t).unwrap();
            for entry in row["dkd"].as_array().unwrap() {
                let weights = DkdWeights { alpha: number(&entry["alpha"]), beta: number(&entry["beta"]) };
                let (ours, gradient) = value_and_gradient(student, |s| {
                    let parts = decoupled_reference(s, teacher, target, temperature)?;
                    Ok(((parts.tckd * weights.alpha)? + (parts.nckd * weights.beta)?)?)
                });
                let (status, stored) =
                    (entry["mdistiller_status"].as_str().unwrap(), number(&entry["mdistiller_f32"]));
                let gradient_status = entry["mdistiller_grad"].as_str().unwrap();
                let what = format!("{id} {weights:?} T={t}");
                let finite = gradient.iter().all(|g| g.is_finite());
                assert_eq!(
                    ours.is_finite(),
                    status != "not_finite",
                    "{what}: {ours}, the reference is {status}"
                );
                // With alpha = 0 PyTorch still multiplies the infinite gradient by 0; candle's rule for products does not.
                if weights.alpha != 0.0 {
                    assert_eq!(finite, gradient_status != "not_finite", "{what}: gradient");
                }
                let bound = 4e-6 * t * t * (weights.alpha + weights.beta) + 5e-6 * stored.abs();
                assert!(
                    !ours.is_finite() || (ours - stored).abs() <= bound,
                    "{what}: {ours} instead of {stored}"
                );
                *counts.entry(status.to_owned()).or_default() += 1;
            }
        }
    }
    println!("the reference's arithmetic: {counts:?}");
    assert!(counts.contains_key("not_finite") && counts.contains_key("ok"), "{counts:?}");
}
