//! Networks as small texts: TOML or JSON in the place of a function.
//!
//! A description is a list of layers. Each reads the one before it, unless `from` names others; `tap` names its value for losses. The
//! names of layers with weights are PyTorch's prefixes (`conv1` has `conv1.weight`).
//!
//! ```
//! use dkd_models::{Description, ModelOptions};
//! let text = r#"
//!     layers = [
//!         { op = "conv2d", name = "conv1", out = 8, kernel = 3, padding = 1 },
//!         { op = "batch_norm", name = "bn1" },
//!         { op = "relu", name = "stem", tap = "feats.0" },
//!         { op = "conv2d", name = "conv2", out = 8, kernel = 3, padding = 1, bias = true },
//!         { op = "add", from = ["stem", "conv2"] },
//!         { op = "global_avg_pool", tap = "pooled_feat" },
//!         { op = "linear", name = "fc", out = "classes" },
//!     ]
//! "#;
//! let graph = Description::from_toml(text, "tiny.toml")?.build(&ModelOptions::new(10))?;
//! assert_eq!(graph.num_parameters(), 8 * 27 + 16 + 8 * 72 + 8 + 10 * 8 + 10);
//! assert_eq!(Description::of(&graph).build(&ModelOptions::new(10))?, graph);
//! # Ok::<(), dkd_models::Error>(())
//! ```
//!
//! # Layers
//! | `op` | keys (`*` must be there) |
//! |---|---|
//! | `conv2d` | `name`*, `out`*, `kernel`*, `stride` (1), `padding` (0), `groups` (1), `bias` (false), `init`, `bias_init` |
//! | `linear` | `name`*, `out`*, `bias` (true), `init`, `bias_init` |
//! | `batch_norm` | `name`* |
//! | `relu`, `relu6`, `flatten`, `global_avg_pool` | |
//! | `add`, `concat` | `from`*: two values; one to 16 values |
//! | `max_pool2d`, `avg_pool2d` | `kernel`*, `stride` (the kernel), `padding` (0); averages: `count_include_pad` (true) |
//! | `dropout` | `name`*, `p`* |
//! | `slice_channels` | `start`*, `count`* |
//! | `channel_shuffle` | `groups`* |
//! | `pad_channels` | `before` (0), `after` (0) |
//!
//! `out` is a number or `"classes"`. `kernel`, `stride` and `padding` are one number or `[vertical, horizontal]`. `from` and `tap`
//! are one name or a list; the image is called `input`. `init` and `bias_init` are `"fan_in_uniform"` (PyTorch's default),
//! `"kaiming_fan_out"`, `{ normal = STD }` or `{ constant = VALUE }`. The last layer's value is the logits, unless `output` names
//! another. `input = [channels, height, width]`, if it is there, is the only image size that the network takes.

mod layer;
mod record;
mod write;

pub use layer::{Initial, Layer, Names, Side, Width};

use crate::{Error, ModelOptions, Result};
use dkd_engine::Graph;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Largest file that is read.
const MAX_FILE: u64 = 4 << 20;

/// A network as a list of layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Channels, height and width of the images, if it takes only these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<[usize; 3]>,
    /// Name of the layer whose value is the logits; the last one without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Where it comes from, for messages.
    #[serde(skip)]
    source: String,
}

impl Description {
    /// Whether a model's name is the path of a description: it ends in `.toml` or `.json`.
    pub fn is_path(name: &str) -> bool {
        matches!(Path::new(name).extension().and_then(|e| e.to_str()), Some("toml" | "json"))
    }

    /// Reads a `.toml` or `.json` file.
    ///
    /// # Errors
    /// A file that cannot be read, and as [`Description::from_toml`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = dkd_files::read_text_limited(path, MAX_FILE)?;
        let source = path.display().to_string();
        match path.extension().is_some_and(|e| e == "json") {
            true => Self::from_json(&text, &source),
            false => Self::from_toml(&text, &source),
        }
    }

    /// From TOML; `source` names it in messages.
    ///
    /// # Errors
    /// [`Error::Description`] with the line for text that is no description. What its layers say is checked by
    /// [`Description::build`].
    pub fn from_toml(text: &str, source: &str) -> Result<Self> {
        let read = toml::from_str(text).map_err(|e: toml::de::Error| e.to_string());
        Self::named(read, source)
    }

    /// From JSON; `source` names it in messages.
    ///
    /// # Errors
    /// As [`Description::from_toml`].
    pub fn from_json(text: &str, source: &str) -> Result<Self> {
        let read = serde_json::from_str(text).map_err(|e: serde_json::Error| e.to_string());
        Self::named(read, source)
    }

    /// The same under another name in messages.
    #[must_use]
    pub fn called(self, name: &str) -> Self {
        Self { source: name.to_owned(), ..self }
    }

    fn named(read: std::result::Result<Self, String>, source: &str) -> Result<Self> {
        match read {
            Ok(description) => Ok(Self { source: source.to_owned(), ..description }),
            Err(problem) => {
                Err(Error::Description { source_name: source.to_owned(), problem: problem.trim().to_owned() })
            }
        }
    }

    /// As JSON, one layer to a line.
    pub fn to_json(&self) -> String {
        let mut parts = Vec::new();
        if !self.description.is_empty() {
            parts.push(format!("\"description\": {}", json(&self.description)));
        }
        if let Some(input) = self.input {
            parts.push(format!("\"input\": {}", json(&input)));
        }
        if let Some(output) = &self.output {
            parts.push(format!("\"output\": {}", json(output)));
        }
        let layers: Vec<String> = self.layers.iter().map(|l| format!("  {}", json(l))).collect();
        parts.push(format!("\"layers\": [\n{}\n]", layers.join(",\n")));
        format!("{{\n{}\n}}\n", parts.join(",\n"))
    }

    /// Records the graph. The number of classes comes from the options, and so does the image's size unless the description has
    /// its own; dropout of the options replaces the layers'.
    ///
    /// # Errors
    /// [`Error::Description`] names the layer and what is wrong with it.
    pub fn build(&self, options: &ModelOptions) -> Result<Graph> {
        options.check()?;
        record::graph(self, options)
            .map_err(|problem| Error::Description { source_name: self.source.clone(), problem })
    }

    /// The description of a graph. A last linear layer has `"classes"` outputs.
    pub fn of(graph: &Graph) -> Self {
        write::description(graph)
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers are JSON")
}

#[cfg(test)]
mod tests;
