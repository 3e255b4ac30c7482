//! The reference values of losses on feature maps: every case of `features/index.json` under `DKD_GOLDENS`, by default the fixtures
//! of this crate.
#![allow(clippy::unwrap_used)]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, Var};
use dkd_losses::{
    Batch, FitNet, Form, Objective, Result, View, attention, hcl, nst, pkt, relational, similarity, vid,
};
use serde_json::Value;
use support::{Networks, largest, numbers, scalar};

fn folder() -> PathBuf {
    let fixtures = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
    std::env::var_os("DKD_GOLDENS").map_or_else(fixtures, PathBuf::from)
}

fn cases() -> Vec<(Value, HashMap<String, Tensor>)> {
    let index = std::fs::read_to_string(folder().join("features/index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let load = |case: &Value| {
        let path = folder().join(case["file"].as_str().unwrap());
        (case.clone(), candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    };
    let cases: Vec<_> = index["cases"].as_array().unwrap().iter().map(load).collect();
    assert!(!cases.is_empty());
    cases
}

/// Values by name.
type Named = Vec<(&'static str, Tensor)>;

/// The loss of a case as named values, `total` last; none for one that needs a trained adapter.
fn loss(case: &Value, of: &dyn Fn(&str) -> Tensor) -> Option<Result<Named>> {
    let (student, teacher) = (of("student"), of("teacher"));
    let total = |value: Result<Tensor>| Some(value.map(|v| vec![("total", v)]));
    match case["loss"].as_str().unwrap() {
        "at" => total(attention(&student, &teacher, case["params"]["p"].as_u64().unwrap() as u32)),
        "mse" => total((|| Ok((student - teacher)?.sqr()?.mean_all()?))()),
        "nst_poly" => total(nst(&student, &teacher)),
        "sp" => total(similarity(&student, &teacher)),
        "pkt" => total(pkt(&student, &teacher)),
        "reviewkd_hcl" => total(hcl(&student, &teacher)),
        "vid_gaussian" => total(vid(&student, &teacher, &of("log_scale"))),
        "rkd" => {
            let squared = case["params"]["squared"].as_bool().unwrap();
            let all = || -> Result<_> {
                let parts = relational(&student, &teacher, squared)?;
                let sum = ((&parts.distance * 25.0)? + (&parts.angle * 50.0)?)?;
                Ok(vec![("distance", parts.distance), ("angle", parts.angle), ("total", sum)])
            };
            Some(all())
        }
        _ => None,
    }
}

#[test]
fn golden_feature_losses() {
    let (mut held, mut others) = (BTreeMap::<String, usize>::new(), Vec::new());
    for (case, tensors) in cases() {
        let id = case["id"].as_str().unwrap();
        for (dtype, value_bound, gradient_bound) in [(DType::F64, 1e-10, 1e-9), (DType::F32, 2e-5, 1e-4)] {
            let vars: BTreeMap<&String, Var> = tensors
                .iter()
                .filter(|(name, _)| !name.starts_with("grad."))
                .map(|(name, t)| (name, Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap()))
                .collect();
            let of = |name: &str| vars[&name.to_owned()].as_tensor().clone();
            let Some(values) = loss(&case, &of) else {
                others.push(id.to_owned());
                continue;
            };
            let values = values.unwrap();
            for (name, value) in &values {
                assert_eq!(value.dtype(), dtype);
                let (ours, exact) = (scalar(value), case["values"][name]["f64"].as_f64().unwrap());
                assert!(
                    (ours - exact).abs() <= value_bound * exact.abs(),
                    "{id} {name} {dtype:?}: {ours}, {exact}"
                );
            }
            let store = values.last().unwrap().1.backward().unwrap();
            for name in case["grads"].as_array().unwrap() {
                let name = name.as_str().unwrap().to_owned();
                let exact = numbers(&tensors[&format!("grad.{name}")]);
                let ours = numbers(store.get(&vars[&name]).unwrap());
                check(&format!("{id} {name} {dtype:?}"), &ours, &exact, gradient_bound);
            }
            assert!(store.get(&vars[&"teacher".to_owned()]).is_none() || id.starts_with("mse"), "{id}");
        }
        *held.entry(case["loss"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    println!("held: {held:?}; see golden_adapters: {others:?}");
    assert!(held.len() >= 8, "{held:?}");
}

fn check(what: &str, ours: &[f64], exact: &[f64], bound: f64) {
    assert_eq!(ours.len(), exact.len(), "{what}");
    let bound = bound * largest(exact);
    for (i, (a, b)) in ours.iter().zip(exact).enumerate() {
        assert!((a - b).abs() <= bound, "{what}: entry {i} is {a} instead of {b} (bound {bound:e})");
    }
}

/// An objective, the tap that it reads, and its parameters' names in the files from its own.
type Adapter = (Box<dyn Objective>, &'static str, fn(&str) -> String);

/// Losses with layers of their own, in f32 as these are.
#[test]
fn golden_adapters() {
    let mut held = Vec::new();
    for (case, tensors) in cases() {
        let id = case["id"].as_str().unwrap();
        let (mut objective, tap, names): Adapter = match case["loss"].as_str().unwrap() {
            "fitnet_convreg" => (Box::new(FitNet::new(2)), "feats.2", str::to_owned),
            "vid_regressor" => (Box::new(dkd_losses::Vid::new(Form::Paper)), "feats.1", |n| {
                n.strip_prefix("0.").unwrap().to_owned()
            }),
            _ => continue,
        };
        let dims = |name: &str| tensors[name].dims()[1..].to_vec();
        let networks = Networks::new(&[(tap, &dims("student"))], &[(tap, &dims("teacher"))]);
        networks.prepare(objective.as_mut()).unwrap();
        for (name, var) in objective.parameters() {
            var.set(&tensors[&names(&name)].to_dtype(DType::F32).unwrap()).unwrap();
        }
        let student = Var::from_tensor(&tensors["student"]).unwrap();
        let rows = student.dim(0).unwrap();
        let mut view = View::new(
            Tensor::zeros((rows, 10), DType::F32, &Device::Cpu).unwrap(),
            Some(Tensor::zeros((rows, 10), DType::F32, &Device::Cpu).unwrap()),
        );
        view.student.taps.insert(tap.to_owned(), student.as_tensor().clone());
        view.teacher.as_mut().unwrap().taps.insert(tap.to_owned(), tensors["teacher"].clone());
        let (views, labels) = ([view], Tensor::zeros(rows, DType::U32, &Device::Cpu).unwrap());
        let term = objective.terms(&Batch::new(&views, &labels)).unwrap().remove(0);
        let (ours, exact) = (scalar(&term.value), case["values"]["total"]["f64"].as_f64().unwrap());
        assert!((ours - exact).abs() <= 1e-5 * exact.abs(), "{id}: {ours} instead of {exact}");
        let store = term.value.backward().unwrap();
        let mut gradients = vec![("student".to_owned(), student.clone())];
        gradients.extend(objective.parameters().into_iter().map(|(n, v)| (names(&n), v)));
        assert_eq!(gradients.len(), case["grads"].as_array().unwrap().len(), "{id}");
        let all: Vec<f64> =
            gradients.iter().flat_map(|(n, _)| numbers(&tensors[&format!("grad.{n}")])).collect();
        for (name, var) in &gradients {
            let exact = numbers(&tensors[&format!("grad.{name}")]);
            let ours = numbers(store.get(var).unwrap());
            // A bias in front of a batch norm has no gradient but rounding: the bound is that of all parameters together.
            let bound = 2e-4 * largest(&exact).max(1e-2 * largest(&all));
            check(&format!("{id} {name}"), &ours, &exact, bound / largest(&exact));
        }
        held.push(id.to_owned());
    }
    println!("held: {held:?}");
    assert_eq!(held.len(), 4, "{held:?}");
}
