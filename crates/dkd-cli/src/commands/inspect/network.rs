//! Networks by name.

use crate::args::InspectArgs;
use crate::output::{self, columns, shorten};
use anyhow::Result;
use dkd_engine::{Graph, ParamKind};
use dkd_models::{Description, ModelOptions};
use serde_json::json;

/// Lists all networks.
pub fn all(args: &InspectArgs) -> Result<()> {
    let mut rows = vec![["model", "parameters", "MACs", ""].map(str::to_owned).to_vec()];
    let mut list = Vec::new();
    for model in dkd_models::models() {
        // Some architectures do not take some sizes.
        let Ok(graph) = model.build(&options(args)) else { continue };
        list.push(json!({
            "model": model.name, "parameters": graph.num_parameters(), "macs": graph.macs(),
            "description": model.description,
        }));
        let (params, macs) = (thousands(graph.num_parameters()), thousands(graph.macs()));
        rows.push(vec![model.name.to_owned(), params, macs, shorten(model.description, 25)]);
    }
    if args.json {
        return output::json(&json!(list));
    }
    output::text(&columns(&rows, 1))
}

fn options(args: &InspectArgs) -> ModelOptions {
    ModelOptions { image: args.image, ..ModelOptions::new(args.classes) }
}

/// Parameters of the layer that node `index` is.
fn parameters(graph: &Graph, index: usize) -> usize {
    let Some(prefix) = graph.nodes()[index].op.name() else { return 0 };
    let own = graph.params().iter().filter(|p| {
        p.kind == ParamKind::Trainable
            && p.name.strip_prefix(prefix).is_some_and(|rest| !rest[1..].contains('.'))
    });
    own.map(|p| p.elements()).sum()
}

/// Shows one, layer by layer or as a description.
pub fn one(name: &str, args: &InspectArgs) -> Result<()> {
    let graph = dkd_models::build(name, &options(args))?;
    if args.description {
        return output::text(&Description::of(&graph).to_json());
    }
    let taps = |index: usize| {
        let here = graph.taps().iter().filter(|t| t.value.index() == index).map(|t| t.name.as_str());
        here.collect::<Vec<_>>().join(" ")
    };
    let mut rows =
        vec![["layer", "operation", "tap", "output", "parameters", "MACs"].map(str::to_owned).to_vec()];
    let mut layers = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        let (params, macs) = (parameters(&graph, index), graph.node_macs(index));
        let layer = node.op.name().unwrap_or("");
        layers.push(json!({
            "layer": layer, "operation": node.op.kind(), "tap": taps(index), "output": node.shape.dims(),
            "parameters": params, "macs": macs,
        }));
        rows.push(vec![
            layer.to_owned(),
            node.op.kind().to_owned(),
            shorten(&taps(index), 15),
            node.shape.to_string(),
            blank_zero(params),
            blank_zero(macs),
        ]);
    }
    let (params, macs) = (graph.num_parameters(), graph.macs());
    if args.json {
        return output::json(&json!({
            "model": name, "classes": args.classes, "parameters": params, "macs": macs, "layers": layers,
        }));
    }
    rows.push(vec!["total".into(), "".into(), "".into(), "".into(), thousands(params), thousands(macs)]);
    output::text(&columns(&rows, 3))
}

fn blank_zero(n: usize) -> String {
    if n == 0 { String::new() } else { thousands(n) }
}

/// 1234567 as 1,234,567.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(c);
    }
    text
}
