//! Which of its engines cuDNN uses.

use super::engines::{Candidate, candidates};
use super::operation::Operation;
use super::place::{Place, Zeros};
use super::plan::{By, Objection, Plan};
use super::target::Target;
use super::wanted::Wanted;
use crate::gpu::choices::Choices;
use crate::gpu::convolution::Algorithms;
use crate::gpu::cuda::heap::Heap;
use crate::gpu::cuda::kernels;
use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::cudnn::result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many plans are measured at most.
const MEASURED: usize = 16;

/// So many proposals are looked at where cuDNN compiles each first, for up to a second.
const COMPILED: usize = 4;

/// A later proposal has to be faster than an earlier one by this factor: less is chance.
const FASTER: f64 = 0.95;

/// Products of numbers that plain loops compute in about the time of a launch.
const SMALL: usize = 1 << 22;

/// More workspace than this no plan gets, unless there is no other.
const WORKSPACE: usize = 1 << 30;

/// What is kept where nothing was found.
const NONE: &str = "none";

/// How engines are chosen.
#[derive(Debug)]
pub(super) struct Chooser {
    pub algorithms: Algorithms,
    /// Of what is measured.
    choices: Option<Choices>,
    /// Whether it was told that they cannot be kept.
    told: AtomicBool,
}

impl Chooser {
    /// For a device of this name, with this version of the driver.
    pub fn new(device: &str, driver: i32, algorithms: Algorithms) -> Self {
        let library = format!("engines of cuDNN {} for {device}, driver {driver}", result::get_version());
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
        let name = wanted.to_string();
        let kept = self.choices.as_ref().and_then(|choices| choices.read(&name));
        if kept.as_deref() == Some(NONE) {
            return Ok(Err("none was found when it was measured".to_owned()));
        }
        let operands = match Zeros::new(heap, std::iter::once(&wanted))? {
            Some(operands) => operands,
            None if wanted.is_fused() => {
                let why = "no memory to try it";
                tracing::warn!("{name}: {why}, so it is computed apart; another time it may not be");
                return Ok(Err(why.to_owned()));
            }
            None => return Err(out_of_memory(heap, &wanted)),
        };
        let here = Target::Here(place.handle);
        let mut trial = Trial::new(&here, wanted, Some(Trying { heap, place, operands }))?;
        if let Some(kept) = &kept {
            if let Some(plan) = trial.named(kept)? {
                return Ok(Ok(plan));
            }
            tracing::warn!(
                "{name}: {kept}, which was kept, cannot be used any more ({}): it is measured anew",
                trial.said()
            );
        }
        let found = match self.algorithms {
            Algorithms::Ruled => trial.first(false)?,
            Algorithms::Measured => trial.fastest(false)?,
            Algorithms::Fastest => trial.fastest(true)?,
        };
        let objections = &trial.objections;
        let passing: Vec<_> =
            objections.iter().filter(|o| o.by == By::Circumstances).map(|o| o.text.as_str()).collect();
        if !passing.is_empty() {
            let taken = found.as_ref().map_or("none", |plan| &plan.name);
            tracing::warn!(
                "{name}: {taken} is taken; another time it may be another: {}",
                passing.join("; ")
            );
        }
        let Some(plan) = found else {
            if !objections.is_empty() && objections.iter().all(|o| o.by == By::Library) {
                self.keep(&name, NONE, kept.is_some());
            }
            return Ok(Err(trial.said()));
        };
        // Another program's, if it was there first.
        let kept = self.keep(&name, &plan.name, kept.is_some());
        let other = if kept == plan.name { None } else { trial.named(&kept)? };
        Ok(Ok(other.unwrap_or(plan)))
    }

    /// Keeps what was measured for later runs, in the place of what there is with `anew`: what they will take.
    fn keep(&self, shape: &str, name: &str, anew: bool) -> String {
        let kept = self.choices.as_ref().map(|choices| choices.keep(shape, name, anew));
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

/// No memory for operands.
fn out_of_memory(heap: &Heap, wanted: &Wanted) -> GpuError {
    let asked = wanted.bytes().iter().sum::<usize>() as u64;
    match heap.free_memory() {
        Ok((free, total)) => GpuError::OutOfMemory { asked, free, total },
        Err(e) => e,
    }
}

/// Where proposals are tried.
struct Trying<'a> {
    heap: &'a Arc<Heap>,
    place: &'a mut Place,
    operands: Zeros,
}

/// An operation whose proposals are tried.
pub(super) struct Trial<'a> {
    target: &'a Target,
    operation: Arc<Operation>,
    /// Nothing where nothing can be run: then proposals are believed.
    trying: Option<Trying<'a>>,
    /// What was the matter with each.
    objections: Vec<Objection>,
}

impl<'a> Trial<'a> {
    fn new(target: &'a Target, wanted: Wanted, trying: Option<Trying<'a>>) -> Result<Self> {
        let operation = Arc::new(Operation::new(target, wanted)?);
        Ok(Self { target, operation, trying, objections: Vec::new() })
    }

    /// For a device that is not here.
    pub fn on_paper(target: &'a Target, wanted: Wanted) -> Result<Self> {
        Self::new(target, wanted, None)
    }

    /// What was the matter with each, in one line.
    pub fn said(&self) -> String {
        let all: Vec<_> = self.objections.iter().map(|objection| objection.text.as_str()).collect();
        if all.is_empty() { "it proposes none".to_owned() } else { all.join("; ") }
    }

    /// All proposals that may be used.
    fn proposals(&mut self, any_order: bool) -> Result<Vec<Candidate>> {
        let (candidates, objections) = candidates(self.target, &self.operation)?;
        self.objections = objections;
        let mut all = Vec::new();
        for candidate in candidates {
            match candidate.objection(self.operation.wanted.convolution.arithmetic, any_order) {
                Some(why) => {
                    let text = format!("{}: {why}", candidate.name);
                    self.objections.push(Objection { text, by: By::Library });
                }
                None => all.push(candidate),
            }
        }
        if self.operation.wanted.is_fused() {
            // What has no tensor cores where others have them is slower than both apart.
            let slow;
            (slow, all) = all.into_iter().partition(|candidate| candidate.is_generic(true));
            self.objections.extend(slow.into_iter().map(|candidate| Objection {
                text: format!("{}: slower than apart", candidate.name),
                by: By::Rules,
            }));
        }
        Ok(all)
    }

    /// A candidate as a plan.
    fn planned(&mut self, candidate: Candidate) -> Result<Option<Plan>> {
        match Plan::new(self.target, &self.operation, candidate)? {
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
        match place.try_out(heap, plan, operands)? {
            Ok(()) => Ok(true),
            Err(why) => {
                self.objections.push(why);
                Ok(false)
            }
        }
    }

    /// The proposal of this name, if it works.
    fn named(&mut self, name: &str) -> Result<Option<Plan>> {
        let (all, objections) = candidates(self.target, &self.operation)?;
        self.objections = objections;
        let found = all.into_iter().find(|candidate| candidate.name == name);
        let Some(plan) = found.map_or(Ok(None), |candidate| self.planned(candidate))? else {
            return Ok(None);
        };
        Ok(self.works(&plan)?.then_some(plan))
    }

    /// The first proposal that works and takes operands as they lie, but no plain loops unless there is little to compute; then one that
    /// rearranges them; then plain loops.
    pub fn first(&mut self, any_order: bool) -> Result<Option<Plan>> {
        let small = self.operation.wanted.convolution.products() <= SMALL;
        let proposals = self.proposals(any_order)?;
        let tensor_cores = proposals.iter().any(Candidate::has_tensor_cores);
        let (mut rearranging, mut generic) = (Vec::new(), Vec::new());
        for candidate in proposals {
            let last = candidate.is_generic(tensor_cores) && !small;
            match self.planned(candidate)? {
                Some(plan) if last => generic.push(plan),
                Some(plan) if plan.rearranges() => rearranging.push(plan),
                Some(plan) if self.works(&plan)? => return Ok(Some(plan)),
                _ => {}
            }
        }
        rearranging.sort_by_key(|plan| if plan.workspace <= WORKSPACE { 0 } else { plan.workspace });
        for plan in rearranging.into_iter().chain(generic) {
            if self.works(&plan)? {
                return Ok(Some(plan));
            }
        }
        Ok(None)
    }

    /// The fastest of the first that work.
    fn fastest(&mut self, any_order: bool) -> Result<Option<Plan>> {
        let fused = self.operation.wanted.is_fused();
        let mut best: Option<(Plan, f64)> = None;
        let mut measured = 0;
        for candidate in
            self.proposals(any_order)?.into_iter().take(if fused { COMPILED } else { usize::MAX })
        {
            if measured == MEASURED {
                break;
            }
            let Some(plan) = self.planned(candidate)?.filter(|plan| plan.workspace <= WORKSPACE) else {
                continue;
            };
            if !self.works(&plan)? {
                continue;
            }
            let Some(Trying { heap, place, operands }) = &mut self.trying else { return Ok(Some(plan)) };
            let seconds = place.measure(heap, &plan, operands)?;
            measured += 1;
            if best.as_ref().is_none_or(|(_, least)| seconds < FASTER * least) {
                best = Some((plan, seconds));
            }
        }
        match best {
            Some((plan, _)) => Ok(Some(plan)),
            // All want very much workspace, or none works.
            None => self.first(any_order),
        }
    }
}
