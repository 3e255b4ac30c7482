//! Text beside the tensors.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Text beside the tensors: `model`, `num_classes`, `normalization`, and whatever else a writer adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

/// How images are normalised before the network sees them: `(value / 255 - mean) / std` per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// One mean per channel.
    pub mean: Vec<f32>,
    /// One standard deviation per channel.
    pub std: Vec<f32>,
}

/// How weights came to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Table or run.
    pub run: String,
    /// Row of the table.
    pub row: String,
    /// Loss in one line.
    pub loss: String,
    /// Epochs.
    pub epochs: usize,
    /// Seed.
    pub seed: u64,
    /// Top-1 accuracy on the test images after the last epoch, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_top1: Option<f64>,
}

impl Metadata {
    /// Metadata of the weights of `model`, a name of the registry, for `num_classes` classes.
    pub fn new(model: &str, num_classes: usize) -> Self {
        Self::default().with("model", model).with("num_classes", &num_classes.to_string())
    }

    /// Sets any entry.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the normalisation that the weights were trained with.
    pub fn with_normalization(self, n: &Normalization) -> Self {
        let text = serde_json::to_string(n).expect("lists of numbers are JSON");
        self.with("normalization", &text)
    }

    /// Sets the classes' names, in the order of the logits.
    pub fn with_class_names(self, names: &[String]) -> Self {
        let text = serde_json::to_string(names).expect("lists of strings are JSON");
        self.with("class_names", &text)
    }

    /// Sets how the weights were trained.
    pub fn with_training(self, training: &Training) -> Self {
        let text = serde_json::to_string(training).expect("texts and numbers are JSON");
        self.with("training", &text)
    }

    /// Sets channels, height and width of the images.
    pub fn with_image(self, (channels, height, width): (usize, usize, usize)) -> Self {
        self.with("image", &format!("{channels}x{height}x{width}"))
    }

    /// An entry.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Name of the model.
    pub fn model(&self) -> Option<&str> {
        self.get("model")
    }

    /// Number of classes; `None` also if the entry is not a number.
    pub fn num_classes(&self) -> Option<usize> {
        self.get("num_classes")?.parse().ok()
    }

    /// The normalisation; `None` also if the entry is not one.
    pub fn normalization(&self) -> Option<Normalization> {
        serde_json::from_str(self.get("normalization")?).ok()
    }

    /// The classes' names; `None` also if the entry is not a list of strings.
    pub fn class_names(&self) -> Option<Vec<String>> {
        serde_json::from_str(self.get("class_names")?).ok()
    }

    /// How the weights were trained; `None` also if the entry is not such a summary.
    pub fn training(&self) -> Option<Training> {
        serde_json::from_str(self.get("training")?).ok()
    }

    /// Channels, height and width of the images; `None` also if the entry is not one.
    pub fn image(&self) -> Option<(usize, usize, usize)> {
        let sizes: Vec<usize> =
            self.get("image")?.split('x').map(str::parse).collect::<Result<_, _>>().ok()?;
        match sizes[..] {
            [c, h, w] => Some((c, h, w)),
            _ => None,
        }
    }

    /// All entries by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

impl FromIterator<(String, String)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}
