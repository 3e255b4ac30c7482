//! Networks against reference values computed with PyTorch: outputs, feature maps, batch statistics, gradients.
//!
//! The folder is `tests/fixtures/golden`, or the one that the environment variable `DKD_GOLDENS` names; its `models`
//! holds one `NAME.json` and one `NAME.safetensors` per network. Every network that the registry knows is run.
#![allow(clippy::unwrap_used)]

use dkd_engine::Session;
use dkd_models::golden::{Golden, compare, fill, l2, read};
use std::path::{Path, PathBuf};

/// How many inputs are tried that differ from the reference's by rounding only. In a network of 56 layers one in some
/// tens has every sign as f64 has it.
const NEIGHBOURS: u64 = 300;

/// References of known networks, and the names of the others.
fn goldens() -> (Vec<Golden>, Vec<String>) {
    let root = std::env::var_os("DKD_GOLDENS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden"), PathBuf::from);
    read(&root.join("models")).unwrap()
}

/// The filled weights are those that the reference was computed with.
#[test]
fn golden_fills() {
    for golden in goldens().0 {
        let graph = golden.graph().unwrap();
        assert_eq!(graph.num_parameters(), golden.parameters, "{}", golden.name);
        let names: Vec<_> = golden.state_dict.iter().map(|e| (&e.name, &e.shape)).collect();
        assert_eq!(graph.params().iter().map(|p| (&p.name, &p.shape)).collect::<Vec<_>>(), names);
        for entry in &golden.state_dict {
            let l2 = l2(&fill::tensor(&entry.name, &entry.shape, golden.gain).unwrap());
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
        let graph = golden.graph().unwrap();
        let options = golden.options(&graph);
        let mut session = Session::new(graph, dkd_kernels::Cpu::new(2).unwrap(), options).unwrap();
        let outcome = compare(golden, &mut session, &golden.tolerances(), NEIGHBOURS).unwrap();
        if let Some(i) = outcome.neighbour {
            println!("{}: the gradient is that of neighbouring input {i}", golden.name);
        }
        failures.extend(outcome.differences);
    }
    println!("golden models run: {}", known.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", "));
    println!("golden models not in the registry: {}", others.join(", "));
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}
