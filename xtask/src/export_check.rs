//! `cargo xtask export-check`: exported networks in onnxruntime and in PyTorch against the engine.

use crate::run::{example, output, root, run as start};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

pub const EXAMPLES: &str = "\
The Python needs four packages:

  python3 -m venv check
  check/bin/pip install numpy onnx onnxruntime torch
  cargo xtask export-check --python check/bin/python";

/// Largest difference of a logit, relative to the largest logit or 1.
const LIMIT: f64 = 1e-4;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Python that has numpy, onnx, onnxruntime and torch
    #[arg(long, value_name = "PYTHON")]
    python: PathBuf,
    /// Networks; all if none is named
    #[arg(long, value_delimiter = ',', value_name = "MODEL")]
    models: Vec<String>,
    /// Folder for the files, which must not exist: about 2 GB for all networks
    #[arg(long, default_value = "runs/export-check", value_name = "DIR")]
    out: PathBuf,
    /// Leave the files there
    #[arg(long)]
    keep: bool,
}

/// Exports, compares and prints a Markdown table.
pub fn run(args: &Args) -> Result<()> {
    if args.out.exists() {
        bail!("{} exists; choose another --out or remove it", args.out.display());
    }
    start(example("dkd-models", "export_samples").arg(&args.out).args(&args.models))?;
    let text =
        output(Command::new(&args.python).arg(root().join("xtask/python/export_check.py")).arg(&args.out))?;
    println!("| model | images | largest logit | PyTorch | ONNX | folded, pixels | batch norms | left |");
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let mut failures = Vec::new();
    for line in text.lines() {
        let result: Value = serde_json::from_str(line).context("the check prints lines of JSON")?;
        println!("{}", row(&result));
        if !holds(&result) {
            failures.push(result["model"].as_str().unwrap_or_default().to_owned());
        }
    }
    if !args.keep {
        std::fs::remove_dir_all(&args.out)
            .with_context(|| format!("cannot remove {}", args.out.display()))?;
    }
    if text.is_empty() {
        bail!("nothing was checked");
    }
    if !failures.is_empty() {
        bail!("logits differ by {LIMIT} and more: {}", failures.join(", "));
    }
    println!(
        "\nDifferences are the largest of all logits, relative to the largest logit or 1; the limit is {LIMIT}."
    );
    Ok(())
}

fn row(result: &Value) -> String {
    let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    format!(
        "| {} | {} | {:.1} | {:.1e} | {:.1e} | {:.1e} | {} | {} |",
        result["model"].as_str().unwrap_or_default(),
        number("images"),
        number("largest"),
        number("pytorch"),
        number("plain"),
        number("folded"),
        number("batch_norms"),
        number("batch_norms_left"),
    )
}

/// Whether all differences are there and small.
fn holds(result: &Value) -> bool {
    let small = |key: &str| result[key].as_f64().is_some_and(|d| d < LIMIT);
    // PyTorch has no modules for the network of all operations.
    let pytorch = small("pytorch") || result["model"] == "operations" && result["pytorch"].is_null();
    pytorch && small("plain") && small("folded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_differences_must_be_small() {
        let result = |all: [Value; 3]| {
            let [pytorch, plain, folded] = all;
            json!({"model": "m", "pytorch": pytorch, "plain": plain, "folded": folded})
        };
        assert!(holds(&result([json!(9e-5), json!(0.0), json!(0.0)])));
        assert!(!holds(&result([json!(0.0), json!(0.0), json!(1e-4)])));
        assert!(!holds(&result([json!(0.0), json!(2e-4), json!(0.0)])));
        assert!(!holds(&result([json!(1e-3), json!(0.0), json!(0.0)])));
        assert!(!holds(&result([json!(0.0), json!(0.0), Value::Null])), "JSON has no NaN");
        assert!(!holds(&result([Value::Null, json!(0.0), json!(0.0)])));
    }

    #[test]
    fn a_row_has_all_columns() {
        let result = json!({
            "model": "resnet8", "images": 64, "largest": 2.34, "pytorch": 1e-6, "plain": 1.5e-6, "folded": 2e-6, "batch_norms": 9,
            "batch_norms_left": 0
        });
        assert_eq!(row(&result), "| resnet8 | 64 | 2.3 | 1.0e-6 | 1.5e-6 | 2.0e-6 | 9 | 0 |");
    }
}
