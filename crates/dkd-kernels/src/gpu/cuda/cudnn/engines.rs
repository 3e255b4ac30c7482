//! What cuDNN proposes for an operation: engines with their settings, best first by its own rules.

use super::descriptor::{Asked, Descriptor, HeuristicsMode, Note};
use super::operation::Operation;
use super::target::Target;
use crate::gpu::convolution::Arithmetic;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;
use sys::cudnnBackendHeurMode_t as Mode;
use sys::cudnnBackendNumericalNote_t as Known;

/// More notes than there are.
const NOTES: usize = 64;

/// Why some may not be used.
pub(super) const INEXACT: &str = "not in the wanted precision";
pub(super) const UNORDERED: &str = "no fixed order";

/// An engine of cuDNN's with its settings.
#[derive(Debug)]
pub(super) struct Candidate {
    /// What a plan is made of.
    pub config: Descriptor,
    /// Its number: what it loads on first use serves all its settings.
    pub engine: i64,
    /// The engine, and the place among all proposals: the same in every run with this library on such a device.
    pub name: String,
    notes: Vec<u32>,
}

/// All proposals for an operation: those that are meant to be fast, then those that are meant to work.
pub(super) fn candidates(target: &Target, operation: &Operation) -> Result<Vec<Candidate>> {
    let mut all = Vec::new();
    for mode in [Mode::CUDNN_HEUR_MODE_A, Mode::CUDNN_HEUR_MODE_FALLBACK] {
        match proposed(target, operation, mode, all.len())? {
            Ok(more) => all.extend(more),
            // The other mode may have some.
            Err(e) => tracing::debug!("cuDNN's rules, {mode:?}: {}", e.text()),
        }
    }
    Ok(all)
}

fn proposed(
    target: &Target,
    operation: &Operation,
    mode: Mode,
    before: usize,
) -> Result<Asked<Vec<Candidate>>> {
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
    match rules.get_descriptors(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, &configs) {
        Ok(given) => configs.truncate(given),
        Err(e) => return Ok(Err(e)),
    }
    let mut all = Vec::with_capacity(configs.len());
    for (place, config) in configs.into_iter().enumerate() {
        let engine = Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        match known(&config, &engine) {
            Ok((number, notes)) => {
                let name = format!("engine {number}, proposal {}", before + place + 1);
                all.push(Candidate { config, engine: number, name, notes });
            }
            Err(e) => return Ok(Err(e)),
        }
    }
    Ok(Ok(all))
}

/// The engine's number, and what cuDNN notes of it.
fn known(config: &Descriptor, engine: &Descriptor) -> Asked<(i64, Vec<u32>)> {
    config.get_descriptors(Name::CUDNN_ATTR_ENGINECFG_ENGINE, std::slice::from_ref(engine))?;
    let number = engine.get(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 0_i64, 1)?;
    let notes = engine.get(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Note::new(0), NOTES)?;
    Ok((number.first().copied().unwrap_or(-1), notes.into_iter().map(|note| note.0).collect()))
}

impl Candidate {
    /// Why it may not be used, if it may not: it rounds more than is wanted, or its sums have no fixed order and `any_order` will not do.
    pub fn objection(&self, arithmetic: Arithmetic, any_order: bool) -> Option<&'static str> {
        let has = |note: Known| self.notes.contains(&(note as u32));
        // In f32 a tensor core takes 19 bits of each number.
        let coarse = has(Known::CUDNN_NUMERICAL_NOTE_TENSOR_CORE) && arithmetic == Arithmetic::F32
            || has(Known::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)
            || has(Known::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION);
        if coarse {
            return Some(INEXACT);
        }
        (has(Known::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) && !any_order).then_some(UNORDERED)
    }
}
