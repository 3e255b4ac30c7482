//! The parts, and how much of everything there is.

use crate::report::Report;
use crate::{answers, bench, compare, curves, goldens, profile};
use anyhow::{Result, bail};
use dkd_datasets::Dataset;
use dkd_kernels::Cpu;
use dkd_kernels::gpu::TensorMachine;
use dkd_trainer::{Arithmetic, Compute, Gpu};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// What can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Reference values of PyTorch.
    Goldens,
    /// Every network against the CPU.
    Compare,
    /// A distillation run against the CPU's, and against itself.
    Curves,
    /// Training speed.
    Bench,
    /// Where a step's time goes.
    Profile,
    /// What a teacher computes in every step.
    Answers,
}

impl Part {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 6] =
        [Self::Goldens, Self::Compare, Self::Curves, Self::Bench, Self::Profile, Self::Answers];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Goldens => "goldens",
            Self::Compare => "compare",
            Self::Curves => "curves",
            Self::Bench => "bench",
            Self::Profile => "profile",
            Self::Answers => "answers",
        }
    }
}

/// How much of everything there is.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Networks of the measurements.
    pub bench_models: Vec<String>,
    /// Teacher and student of the distillation that is measured.
    pub pair: Option<[String; 2]>,
    /// Students that are measured in one step, and their network. The first one's network is measured alone as well.
    pub cohorts: Vec<(usize, String)>,
    /// Batches that are measured.
    pub batches: Vec<usize>,
    /// Networks whose steps are taken apart.
    pub profile_models: Vec<String>,
    /// Networks that are asked as teachers are.
    pub answer_models: Vec<String>,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// Generated training images of the measurements.
    pub images: usize,
    /// Steps of the curves.
    pub steps: usize,
    /// Their batch.
    pub curve_batch: usize,
    /// Inputs that are tried for a gradient in f32: see [`dkd_models::golden::compare`].
    pub neighbours: u64,
    /// Side, channels and images of the convolution whose rate is measured.
    pub matrix: [usize; 3],
    /// Bytes of the copy.
    pub copy: usize,
    /// How often both are done.
    pub repeats: usize,
}

impl Sizes {
    /// For a GPU.
    pub fn full() -> Self {
        let models = [
            "resnet20",
            "resnet56",
            "resnet8x4",
            "resnet32x4",
            "wrn_40_2",
            "vgg13",
            "MobileNetV2",
            "ShuffleV1",
        ];
        Self {
            bench_models: models.map(str::to_owned).to_vec(),
            profile_models: ["resnet20", "resnet56"].map(str::to_owned).to_vec(),
            answer_models: vec!["resnet32x4".to_owned()],
            pair: Some(["resnet32x4", "resnet8x4"].map(str::to_owned)),
            // The second is the replication's table.
            cohorts: vec![(8, "resnet20".to_owned()), (12, "seed_student".to_owned())],
            batches: vec![64, 512],
            seconds: 2.0,
            images: 51_200,
            steps: 100,
            curve_batch: 64,
            neighbours: 10,
            matrix: [32, 1024, 64],
            copy: 256 << 20,
            repeats: 50,
        }
    }

    /// For the emulated machine, which is thousands of times slower.
    pub fn small() -> Self {
        Self {
            bench_models: vec!["resnet8".to_owned()],
            profile_models: vec!["resnet8".to_owned()],
            answer_models: vec!["resnet8".to_owned()],
            pair: Some(["resnet8", "resnet8"].map(str::to_owned)),
            cohorts: vec![(3, "resnet8".to_owned()), (2, "seed_student".to_owned())],
            batches: vec![8],
            seconds: 0.5,
            images: 16,
            steps: 3,
            curve_batch: 8,
            neighbours: 3,
            matrix: [8, 16, 2],
            copy: 1 << 20,
            repeats: 2,
        }
    }
}

/// Opens a device.
pub type Open = Box<dyn Fn() -> Result<Arc<dyn TensorMachine>>>;

/// A run.
pub struct Suite {
    /// The device.
    pub machine: Arc<dyn TensorMachine>,
    /// Opens it once more, as a machine on which no kernel begins ahead of its time.
    pub in_turn: Open,
    /// What it is compared with.
    pub cpu: Arc<Cpu>,
    /// Folder of the reference values.
    pub goldens: PathBuf,
    /// Images, if not generated ones.
    pub data: Option<Dataset>,
    /// Networks: all where none is named. The measurements have their own.
    pub models: Vec<String>,
    /// In what the device is set up otherwise than usually: names of rates and times end with it.
    pub setup: Vec<String>,
    /// How the device computes.
    pub precisions: Vec<Arithmetic>,
    /// How much.
    pub sizes: Sizes,
}

impl Suite {
    /// Runs a part.
    pub fn run(&self, part: Part, report: &mut Report) {
        let begin = Instant::now();
        let name = part.name();
        report.attempt(name, "all", |report| match part {
            Part::Goldens => goldens::run(self, report),
            Part::Compare => compare::run(self, report),
            Part::Curves => curves::run(self, report),
            Part::Bench => bench::run(self, report),
            Part::Profile => profile::run(self, report),
            Part::Answers => answers::run(self, report),
        });
        report.say(&format!("{name}: {:.1} s", begin.elapsed().as_secs_f64()));
    }

    /// Whether a network was asked for.
    pub(crate) fn wants(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|name| name == model)
    }

    /// A group of rates or times.
    pub(crate) fn group(&self, name: &str) -> String {
        std::iter::once(name).chain(self.setup.iter().map(String::as_str)).collect::<Vec<_>>().join(", ")
    }

    /// The device for training.
    pub(crate) fn gpu(&self, arithmetic: Arithmetic, recorded: bool) -> Gpu {
        Gpu { machine: Arc::clone(&self.machine), arithmetic, recorded }
    }

    /// What trains: the CPU, and a device beside it.
    pub(crate) fn compute(&self, gpu: Gpu) -> Compute {
        Compute { gpu: Some(gpu), ..Arc::clone(&self.cpu).into() }
    }
}

/// Reads a precision's name.
///
/// # Errors
/// There is none of this name.
pub fn precision(name: &str) -> Result<Arithmetic> {
    match [Arithmetic::F32, Arithmetic::Tf32, Arithmetic::Bf16].into_iter().find(|a| name_of(*a) == name) {
        Some(arithmetic) => Ok(arithmetic),
        None => bail!("there is no precision `{name}`; expected f32, tf32 or bf16"),
    }
}

/// A precision's name.
pub(crate) fn name_of(arithmetic: Arithmetic) -> &'static str {
    match arithmetic {
        Arithmetic::F32 => "f32",
        Arithmetic::Tf32 => "tf32",
        Arithmetic::Bf16 => "bf16",
    }
}
