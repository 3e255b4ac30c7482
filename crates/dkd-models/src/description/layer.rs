//! One layer as it is written.

use dkd_engine::Init;
use serde::{Deserialize, Serialize};

/// A layer with whatever keys it has; which of them belong to its operation is checked when the graph is recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The operation.
    pub op: String,
    /// Its name: the prefix of its parameters, and what `from` calls its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it reads; the layer before it without this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Names>,
    /// Names of its value for losses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<Names>,
    /// Output channels or features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<Width>,
    /// Window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Side>,
    /// Stride.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Side>,
    /// Padding on both sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<Side>,
    /// Groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// Whether there is a bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<bool>,
    /// How the weight starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Initial>,
    /// How the bias starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_init: Option<Initial>,
    /// Probability of zeroing an element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f32>,
    /// Whether an average counts padded zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count_include_pad: Option<bool>,
    /// First channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<usize>,
    /// Number of channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Channels of zeros before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<usize>,
    /// Channels of zeros after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<usize>,
}

/// One name or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Names {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Names {
    /// As a list.
    pub fn list(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        let mut names: Vec<String> = names.into_iter().collect();
        if names.len() == 1 { Self::One(names.remove(0)) } else { Self::Several(names) }
    }
}

/// Output channels or features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Width {
    /// So many.
    Number(usize),
    /// The word `classes`: as many as there are classes.
    Word(String),
}

/// A size in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Side {
    /// The same in both.
    Both(usize),
    /// Vertical and horizontal.
    Each([usize; 2]),
}

impl Side {
    /// Vertical and horizontal.
    pub fn pair(self) -> (usize, usize) {
        match self {
            Self::Both(n) => (n, n),
            Self::Each([v, h]) => (v, h),
        }
    }
}

impl From<(usize, usize)> for Side {
    fn from((v, h): (usize, usize)) -> Self {
        if v == h { Self::Both(v) } else { Self::Each([v, h]) }
    }
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initial {
    /// [`Init::FanInUniform`].
    FanInUniform,
    /// [`Init::KaimingFanOut`].
    KaimingFanOut,
    /// [`Init::Normal`].
    Normal(f32),
    /// [`Init::Constant`].
    Constant(f32),
}

impl From<Initial> for Init {
    fn from(initial: Initial) -> Self {
        match initial {
            Initial::FanInUniform => Self::FanInUniform,
            Initial::KaimingFanOut => Self::KaimingFanOut,
            Initial::Normal(std) => Self::Normal(std),
            Initial::Constant(value) => Self::Constant(value),
        }
    }
}

impl From<Init> for Initial {
    fn from(init: Init) -> Self {
        match init {
            Init::FanInUniform => Self::FanInUniform,
            Init::KaimingFanOut => Self::KaimingFanOut,
            Init::Normal(std) => Self::Normal(std),
            Init::Constant(value) => Self::Constant(value),
        }
    }
}
