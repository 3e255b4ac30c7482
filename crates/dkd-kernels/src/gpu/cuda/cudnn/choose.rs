//! Which of its engines cuDNN uses.

use super::engines::{Candidate, INEXACT, UNORDERED, candidates};
use super::operation::Operation;
use super::place::{Place, Zeros};
use super::plan::Plan;
use super::target::Target;
use crate::gpu::choices::Choices;
use crate::gpu::convolution::{Algorithms, Convolution, Pass};
use crate::gpu::cuda::heap::Heap;
use crate::gpu::cuda::kernels;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many plans are measured at most.
const MEASURED: usize = 16;

/// A later proposal has to be faster than an earlier one by this factor: less is chance.
const FASTER: f64 = 0.95;

/// More workspace than this no plan gets, unless there is no other.
const WORKSPACE: usize = 1 << 30;

/// What is kept where nothing was found, and the objections that will be the same the next time.
const NONE: &str = "none";
const LASTING: [&str; 3] = ["NOT_SUPPORTED", UNORDERED, INEXACT];

/// How engines are chosen.
#[derive(Debug)]
pub(super) struct Chooser {
    pub algorithms: Algorithms,
    /// Of what is measured.
    choices: Option<Choices>,
    /// Whether it was told that they cannot be kept.
    told: AtomicBool,
}

/// What is to be computed: whether it is added to what is there is a choice of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub pass: Pass,
    pub convolution: Convolution,
    pub accumulate: bool,
}

impl Wanted {
    fn name(&self) -> String {
        let added = if self.accumulate { ", added" } else { "" };
        format!("{}{added}: {}", self.pass, self.convolution)
    }
}

impl Chooser {
    /// For a device of this name.
    pub fn new(device: &str, algorithms: Algorithms) -> Self {
        let library = format!("{device}, cuDNN {}", result::get_version());
        let folder = || kernels::folder().map(|kernels| kernels.with_file_name("convolutions"));
        let choices = (algorithms != Algorithms::Ruled).then(|| Choices::new(folder(), &library, algorithms));
        Self { algorithms, choices, told: AtomicBool::new(false) }
    }

    /// The plan for a convolution: the one that was kept, the first that works or the fastest; else what was the matter with each.
    pub fn choose(
        &self,
        heap: &Arc<Heap>,
        place: &mut Place,
        wanted: Wanted,
    ) -> Result<std::result::Result<Plan, String>> {
        let kept = self.choices.as_ref().and_then(|choices| choices.read(&wanted.name()));
        if kept.as_deref() == Some(NONE) {
            return Ok(Err("none was found when it was measured".to_owned()));
        }
        let operands = Zeros::new(heap, &wanted.convolution)?;
        let mut trial =
            Trial::new(Target::Here(place.handle), wanted, Some(Trying { heap, place, operands }))?;
        if let Some(plan) = kept.map_or(Ok(None), |name| trial.named(&name))? {
            return Ok(Ok(plan));
        }
        let found = match self.algorithms {
            Algorithms::Ruled => trial.first(wanted.convolution)?,
            Algorithms::Measured => trial.fastest(wanted.convolution, false)?,
            Algorithms::Fastest => trial.fastest(wanted.convolution, true)?,
        };
        let Some(plan) = found else {
            let objections = &trial.objections;
            let lasting = |why: &String| LASTING.iter().any(|known| why.contains(known));
            // Not if there was no memory to try it with, or the like.
            if !objections.is_empty() && objections.iter().all(lasting) {
                self.keep(wanted, NONE);
            }
            let nothing = "it proposes none".to_owned();
            return Ok(Err(if objections.is_empty() { nothing } else { objections.join("; ") }));
        };
        // Another program's, if it was there first.
        let kept = self.keep(wanted, &plan.name);
        let other = if kept == plan.name { None } else { trial.named(&kept)? };
        Ok(Ok(other.unwrap_or(plan)))
    }

    /// Keeps what was measured for later runs: what they will take.
    fn keep(&self, wanted: Wanted, name: &str) -> String {
        let kept = self.choices.as_ref().map(|choices| choices.keep(&wanted.name(), name));
        match kept.transpose() {
            Ok(kept) => kept.unwrap_or_else(|| name.to_owned()),
            Err(e) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "what is measured of cuDNN cannot be kept, so other runs may choose otherwise: {e}"
                    );
                }
                name.to_owned()
            }
        }
    }
}

/// Where proposals are tried.
struct Trying<'a> {
    heap: &'a Arc<Heap>,
    place: &'a mut Place,
    /// None if there is no memory for them: then proposals are believed.
    operands: Option<Zeros>,
}

/// An operation whose proposals are tried.
pub(super) struct Trial<'a> {
    target: Target,
    operation: Arc<Operation>,
    /// Nothing where nothing can be run: then proposals are believed.
    trying: Option<Trying<'a>>,
    /// What was the matter with each.
    pub objections: Vec<String>,
}

impl<'a> Trial<'a> {
    fn new(target: Target, wanted: Wanted, trying: Option<Trying<'a>>) -> Result<Self> {
        let Wanted { pass, convolution, accumulate } = wanted;
        let operation = Arc::new(Operation::new(&target, pass, &convolution, accumulate)?);
        Ok(Self { target, operation, trying, objections: Vec::new() })
    }

    /// For a device that is not here.
    pub fn on_paper(target: Target, wanted: Wanted) -> Result<Self> {
        Self::new(target, wanted, None)
    }

    /// All proposals that may be used.
    fn proposals(&mut self, convolution: Convolution, any_order: bool) -> Result<Vec<Candidate>> {
        let mut all = Vec::new();
        for candidate in candidates(&self.target, &self.operation)? {
            match candidate.objection(convolution.arithmetic, any_order) {
                Some(why) => self.objections.push(format!("{}: {why}", candidate.name)),
                None => all.push(candidate),
            }
        }
        Ok(all)
    }

    /// A candidate as a plan.
    fn planned(&mut self, candidate: Candidate) -> Result<Option<Plan>> {
        match Plan::new(&self.target, &self.operation, candidate)? {
            Ok(plan) => Ok(Some(plan)),
            Err(why) => {
                self.objections.push(why);
                Ok(None)
            }
        }
    }

    /// Whether a plan works.
    fn works(&mut self, plan: &Plan) -> Result<bool> {
        let Some(Trying { heap, place, operands }) = &mut self.trying else { return Ok(true) };
        let why = place.try_out(heap, plan, operands.as_ref())?;
        let works = why.is_none();
        self.objections.extend(why);
        Ok(works)
    }

    /// The proposal of this name, if it works.
    fn named(&mut self, name: &str) -> Result<Option<Plan>> {
        let found =
            candidates(&self.target, &self.operation)?.into_iter().find(|candidate| candidate.name == name);
        let Some(plan) = found.map_or(Ok(None), |candidate| self.planned(candidate))? else {
            return Ok(None);
        };
        Ok(self.works(&plan)?.then_some(plan))
    }

    /// The first proposal that works and takes operands as they lie; if there is none the first that works.
    pub fn first(&mut self, convolution: Convolution) -> Result<Option<Plan>> {
        let mut later = Vec::new();
        for candidate in self.proposals(convolution, false)? {
            match self.planned(candidate)? {
                Some(plan) if plan.rearranges(&convolution) => later.push(plan),
                Some(plan) if self.works(&plan)? => return Ok(Some(plan)),
                _ => {}
            }
        }
        later.sort_by_key(|plan| if plan.workspace <= WORKSPACE { 0 } else { plan.workspace });
        for plan in later {
            if self.works(&plan)? {
                return Ok(Some(plan));
            }
        }
        Ok(None)
    }

    /// The fastest of the first that work.
    fn fastest(&mut self, convolution: Convolution, any_order: bool) -> Result<Option<Plan>> {
        let mut best: Option<(Plan, f64)> = None;
        let mut measured = 0;
        for candidate in self.proposals(convolution, any_order)? {
            if measured == MEASURED {
                break;
            }
            let Some(plan) = self.planned(candidate)?.filter(|plan| plan.workspace <= WORKSPACE) else {
                continue;
            };
            if !self.works(&plan)? {
                continue;
            }
            let Some(Trying { heap, place, operands: Some(operands) }) = &mut self.trying else {
                return Ok(Some(plan));
            };
            let seconds = place.measure(heap, &plan, operands)?;
            measured += 1;
            if best.as_ref().is_none_or(|(_, least)| seconds < FASTER * least) {
                best = Some((plan, seconds));
            }
        }
        match best {
            Some((plan, _)) => Ok(Some(plan)),
            None => self.first(convolution),
        }
    }
}
