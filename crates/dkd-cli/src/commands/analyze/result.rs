//! What an analysis finds: `analysis.json`. docs/analyze.md describes it.

use dkd_trainer::analysis::{NetworkReport, PairReport, TermCurve};
use dkd_trainer::record::RowResult;
use serde::Serialize;

/// Version of the format.
pub const FORMAT_VERSION: u32 = 1;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Analysis {
    /// Version of the format.
    pub format_version: u32,
    /// What the records of a run say.
    pub run: Option<RunPart>,
    /// What its networks, or those of files, say about images.
    pub pairs: Option<Pairs>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// One seed of a run or table.
#[derive(Debug, Serialize)]
pub struct RunPart {
    /// Folder.
    pub folder: String,
    /// Seed.
    pub seed: u64,
    /// Results, in the order of the table, as `dkd report` has them.
    pub results: Vec<RowResult>,
    /// Losses over time.
    pub terms: Vec<TermCurve>,
}

/// A teacher and its students on the same images.
#[derive(Debug, Serialize)]
pub struct Pairs {
    /// Data set.
    pub dataset: String,
    /// `train`, `validation` or `test`.
    pub split: &'static str,
    /// Images.
    pub images: usize,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Softmax temperature of the divergences and gradients.
    pub temperature: f64,
    /// The images of the t-SNE pictures.
    pub points: Option<Points>,
    /// The teacher.
    pub teacher: Network,
    /// Its students.
    pub students: Vec<Student>,
}

/// Images that are points of a plane.
#[derive(Debug, Serialize)]
pub struct Points {
    /// Positions in the split.
    pub images: Vec<usize>,
    /// Their classes.
    pub labels: Vec<u32>,
    /// Only images of the first so many classes were taken.
    pub classes: usize,
}

/// A network.
#[derive(Debug, Serialize)]
pub struct Network {
    /// What it is called here.
    pub name: String,
    /// File of its weights.
    pub file: String,
    /// Its model.
    pub model: String,
    /// What it says about the images.
    #[serde(flatten)]
    pub report: NetworkReport,
    /// Where its features put the points; `null` without such a picture.
    pub tsne: Option<Vec<[f32; 2]>>,
}

/// A student.
#[derive(Debug, Serialize)]
pub struct Student {
    /// By itself.
    #[serde(flatten)]
    pub network: Network,
    /// Beside its teacher.
    #[serde(flatten)]
    pub pair: PairReport,
}
