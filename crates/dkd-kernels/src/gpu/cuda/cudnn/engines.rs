//! What cuDNN proposes for an operation: engines with their settings, best first by its own rules.

use super::descriptor::{Asked, Behavior, Descriptor, HeuristicsMode, Note};
use super::operation::Operation;
use super::plan::{Objection, is_refusal};
use super::target::Target;
use crate::gpu::convolution::Arithmetic;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendBehaviorNote_t as Behaves;
use sys::cudnnBackendDescriptorType_t as Kind;
use sys::cudnnBackendHeurMode_t as Mode;
use sys::cudnnBackendNumericalNote_t as Known;

/// More notes than there are.
const NOTES: usize = 64;

/// So many proposals are the first.
const EARLY: usize = 4;

/// Why some may not be used.
const INEXACT: &str = "not in the wanted precision";
const UNORDERED: &str = "no fixed order";
const BY_ANOTHER: &str = "by cuBLASLt";

/// An engine of cuDNN's with its settings.
#[derive(Debug)]
pub(super) struct Candidate {
    /// What a plan is made of.
    pub config: Descriptor,
    /// The engine, and the place among all proposals: the same in every run with this library on such a device.
    pub name: String,
    /// Whether it is one of the first that are meant to be fast.
    early: bool,
    notes: Vec<u32>,
    /// Notes about how it works.
    behavior: Vec<u32>,
}

/// All proposals for an operation: those that are meant to be fast, then those that are meant to work; and what was the matter with rules that
/// gave none.
///
/// # Errors
/// cuDNN is not there, or lacks a part.
pub(super) fn candidates(target: &Target, operation: &Operation) -> Result<(Vec<Candidate>, Vec<Objection>)> {
    let (mut all, mut objections) = (Vec::new(), Vec::new());
    let modes = [(Mode::CUDNN_HEUR_MODE_A, "proposal"), (Mode::CUDNN_HEUR_MODE_FALLBACK, "last resort")];
    for (mode, name) in modes {
        match proposed(target, operation, mode)? {
            Ok(configs) => {
                for (place, config) in configs.into_iter().enumerate() {
                    let engine = Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
                    match known(&config, &engine) {
                        Ok((number, notes, behavior)) => {
                            let early = mode == Mode::CUDNN_HEUR_MODE_A && place < EARLY;
                            let name = format!("engine {number}, {name} {}", place + 1);
                            all.push(Candidate { config, name, early, notes, behavior });
                        }
                        Err(e) => objections.push(Objection::of(&format!("{name} {}", place + 1), &e)),
                    }
                }
            }
            Err(e) if is_refusal(e.status) => objections.push(Objection::of(name, &e)),
            Err(e) => return Err(e.error("cuDNN's rules")),
        }
    }
    Ok((all, objections))
}

fn proposed(target: &Target, operation: &Operation, mode: Mode) -> Result<Asked<Vec<Descriptor>>> {
    let rules = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
    let ready = |rules: Descriptor| -> Asked<(Descriptor, usize)> {
        rules.set_descriptors(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[&operation.graph])?;
        rules.set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, &[HeuristicsMode::new(mode as u32)])?;
        target.tell(&rules, None, Some(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP))?;
        let rules = rules.finalize()?;
        let count = rules.count(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS)?;
        Ok((rules, count))
    };
    let (rules, count) = match ready(rules) {
        Ok(ready) => ready,
        Err(e) => return Ok(Err(e)),
    };
    let configs = (0..count).map(|_| Descriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
    let mut configs = configs.collect::<Result<Vec<_>>>()?;
    Ok(rules.get_descriptors(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, &configs).map(|given| {
        configs.truncate(given);
        configs
    }))
}

/// The engine's number, and what cuDNN notes of its numbers and of how it works.
fn known(config: &Descriptor, engine: &Descriptor) -> Asked<(i64, Vec<u32>, Vec<u32>)> {
    config.get_descriptors(Name::CUDNN_ATTR_ENGINECFG_ENGINE, std::slice::from_ref(engine))?;
    let number = engine.get(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 0_i64, 1)?;
    let notes = engine.get(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Note::new(0), NOTES)?;
    let behavior = engine.get(Name::CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, Behavior::new(0), NOTES)?;
    let numbers = (notes.into_iter().map(|note| note.0), behavior.into_iter().map(|note| note.0));
    Ok((number.first().copied().unwrap_or(-1), numbers.0.collect(), numbers.1.collect()))
}

impl Candidate {
    /// Whether it is made for everything, and for nothing in particular: cuDNN notes of plain loops that they keep every NaN. So is one
    /// without tensor cores where `others` have them, unless cuDNN's rules have it among their first.
    pub fn is_generic(&self, others: bool) -> bool {
        let plain = self.has(Known::CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP);
        plain || others && !self.has_tensor_cores() && !self.early
    }

    /// Whether it computes with tensor cores.
    pub fn has_tensor_cores(&self) -> bool {
        self.has(Known::CUDNN_NUMERICAL_NOTE_TENSOR_CORE)
    }

    fn has(&self, note: Known) -> bool {
        self.notes.contains(&(note as u32))
    }

    /// Why it may not be used, if it may not: it rounds more than is wanted, its sums have no fixed order and `any_order` will not do, or it
    /// calls another library, which is not known to be made for recording.
    pub fn objection(&self, arithmetic: Arithmetic, any_order: bool) -> Option<&'static str> {
        // In f32 a tensor core takes 19 bits of each number.
        let coarse = self.has_tensor_cores() && arithmetic == Arithmetic::F32
            || self.has(Known::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)
            || self.has(Known::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION);
        if coarse {
            return Some(INEXACT);
        }
        if self.behavior.contains(&(Behaves::CUDNN_BEHAVIOR_NOTE_CUBLASLT_DEPENDENCY as u32)) {
            return Some(BY_ANOTHER);
        }
        (self.has(Known::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) && !any_order).then_some(UNORDERED)
    }
}
