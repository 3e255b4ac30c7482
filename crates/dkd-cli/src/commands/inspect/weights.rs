//! What is in a file of weights.

use super::network::thousands;
use crate::args::InspectArgs;
use crate::output::{self, columns, shorten};
use crate::weights::fitting;
use anyhow::Result;
use dkd_models::checkpoint::{Container, Select, read_weights};
use serde_json::json;
use std::path::Path;

/// Columns of a terminal.
const WIDTH: usize = 80;

/// Widest value of an entry of the metadata.
const VALUE: usize = 60;

/// Shows the tensors and texts of a file, and which networks they fit.
pub fn show(path: &Path, args: &InspectArgs) -> Result<()> {
    let foreign = read_weights(path, &Select { key: args.key.clone() })?;
    let kind = match foreign.container {
        Container::Safetensors => "safetensors",
        Container::PytorchZip => "PyTorch, zip",
        Container::PytorchLegacy => "PyTorch before 1.6",
    };
    let fitting = fitting(&foreign, args.image);
    let elements: usize = foreign.tensors.values().map(|t| t.elem_count()).sum();
    let tensors = foreign.tensors.iter();
    if args.json {
        let tensors = tensors.map(|(name, t)| {
            json!({"name": name, "type": t.dtype().as_str(), "shape": t.dims(), "elements": t.elem_count()})
        });
        let networks = fitting.iter().map(|(model, classes)| json!({"model": model, "classes": classes}));
        return output::json(&json!({
            "file": path, "container": kind, "key": foreign.key, "elements": elements,
            "metadata": foreign.metadata.iter().collect::<std::collections::BTreeMap<_, _>>(),
            "fits": networks.collect::<Vec<_>>(), "tensors": tensors.collect::<Vec<_>>(),
        }));
    }
    let mut rows = vec![["tensor", "type", "shape", "elements"].map(str::to_owned).to_vec()];
    for (name, t) in tensors {
        let shape: Vec<String> = t.dims().iter().map(usize::to_string).collect();
        let row = [shorten(name, 44), t.dtype().as_str().to_owned(), shape.join("x")];
        rows.push([&row[..], &[thousands(t.elem_count())]].concat());
    }
    rows.push(vec!["total".into(), "".into(), "".into(), thousands(elements)]);
    let place = if foreign.key.is_empty() { String::new() } else { format!(", under `{}`", foreign.key) };
    let mut text = shorten(&format!("{}: {kind}{place}", path.display()), WIDTH) + "\n";
    for (key, value) in foreign.metadata.iter() {
        text.push_str(&format!("{}\n", shorten(&format!("  {key}: {}", shorten(value, VALUE)), WIDTH)));
    }
    let names = |(model, classes): &(&str, usize)| format!("{model} ({classes} classes)");
    text.push_str(&match &fitting[..] {
        [] => "no network of the list fits\n".to_owned(),
        some => format!("fits {}\n", some.iter().map(names).collect::<Vec<_>>().join(", ")),
    });
    output::text(&format!("{text}\n{}", columns(&rows, 3)))
}
