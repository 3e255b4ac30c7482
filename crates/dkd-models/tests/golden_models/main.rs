//! Networks against reference values computed with PyTorch: outputs, feature maps, batch statistics, gradients.
//!
//! The folder is `tests/fixtures/golden`, or the one that the environment variable `DKD_GOLDENS` names; its `models`
//! holds one `NAME.json` and one `NAME.safetensors` per network. Every network that the registry knows is run.
#![allow(clippy::unwrap_used)]

mod fill;
mod network;
mod reference;

use dkd_models::{ModelOptions, build, find};
use reference::Golden;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    let root = std::env::var_os("DKD_GOLDENS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden"), PathBuf::from);
    root.join("models")
}

/// Reference files of known networks, and the names of the others.
fn goldens() -> (Vec<Golden>, Vec<String>) {
    let folder = folder();
    let list = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> = list
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
        .collect();
    names.sort();
    let (known, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|n| find(n).is_ok());
    assert!(!known.is_empty(), "{}: no reference of a known network", folder.display());
    (known.iter().map(|name| Golden::read(&folder, name)).collect(), others)
}

fn graph(golden: &Golden) -> dkd_engine::Graph {
    build(&golden.name, &ModelOptions::new(golden.num_classes).dropout(0.0)).unwrap()
}

/// The filled weights are those that the reference was computed with.
#[test]
fn golden_fills() {
    for golden in goldens().0 {
        let graph = graph(&golden);
        assert_eq!(graph.num_parameters(), golden.parameters, "{}", golden.name);
        let names: Vec<_> = golden.state_dict.iter().map(|e| (&e.name, &e.shape)).collect();
        assert_eq!(graph.params().iter().map(|p| (&p.name, &p.shape)).collect::<Vec<_>>(), names);
        for entry in &golden.state_dict {
            let l2 = reference::l2(&fill::tensor(&entry.name, &entry.shape, golden.gain));
            assert!((l2 - entry.l2).abs() <= 1e-6 * entry.l2, "{} {}", golden.name, entry.name);
        }
    }
}

#[test]
#[allow(clippy::print_stdout)] // The list of what was not run belongs to the test's output.
fn golden_networks() {
    let (known, others) = goldens();
    let mut failures = Vec::new();
    for golden in &known {
        let outcome = network::compare(golden, graph(golden));
        if let Some(i) = outcome.neighbour {
            println!("{}: the gradient is that of neighbouring input {i}", golden.name);
        }
        failures.extend(outcome.differences);
    }
    println!("golden models run: {}", known.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", "));
    println!("golden models not in the registry: {}", others.join(", "));
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}
