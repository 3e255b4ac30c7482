//! An engine that is ready for what is wanted.

use super::descriptor::{Descriptor, Refusal, asked};
use super::engines::Candidate;
use super::operation::Operation;
use super::target::Target;
use super::wanted::OPERANDS;
use crate::gpu::convolution::Pass;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::sys;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;

/// What is executed.
#[derive(Debug)]
pub(super) struct Plan {
    plan: Descriptor,
    /// No other plan of this process has it.
    pub id: usize,
    /// Engine and settings.
    pub name: String,
    /// Bytes that it needs besides the operands.
    pub workspace: usize,
    /// What it was made of.
    operation: Arc<Operation>,
    _config: Descriptor,
}

impl Plan {
    /// Makes a candidate ready, or says why cuDNN refuses.
    pub fn new(
        target: &Target,
        operation: &Arc<Operation>,
        candidate: Candidate,
    ) -> Result<std::result::Result<Self, Objection>> {
        let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        let Candidate { config, name, .. } = candidate;
        let ready = |plan: Descriptor| {
            let (here, elsewhere) =
                (Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP);
            target.tell(&plan, Some(here), Some(elsewhere))?;
            plan.set_descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[&config])?;
            let plan = plan.finalize()?;
            let bytes = plan.get(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 0_i64, 1)?;
            Ok::<_, Refusal>((plan, bytes))
        };
        Ok(match ready(plan) {
            Err(e) if is_refusal(e.status) => Err(Objection::of(&name, &e)),
            ready => {
                let (plan, bytes) = ready.map_err(|e| e.error("cuDNN's execution plan"))?;
                let workspace = bytes.first().map_or(0, |bytes| usize::try_from(*bytes).unwrap_or_default());
                let operation = Arc::clone(operation);
                static NEXT: AtomicUsize = AtomicUsize::new(0);
                let id = NEXT.fetch_add(1, Ordering::Relaxed);
                Ok(Self { plan, id, name, workspace, operation, _config: config })
            }
        })
    }

    /// Whether it takes so much workspace that it seems to bring an operand into another order first, which takes launches and traffic of
    /// its own: as much as the larger of the two that it reads.
    pub fn rearranges(&self) -> bool {
        let wanted = &self.operation.wanted;
        let [x, w, y, ..] = wanted.bytes();
        let read = match wanted.pass {
            Pass::Forward => [x, w],
            Pass::InputGradient => [w, y],
            Pass::WeightGradient => [x, y],
        };
        self.workspace >= read[0].max(read[1])
    }

    /// Computes it, unless cuDNN refuses, whatever it has proposed: then why.
    ///
    /// # Safety
    /// The operands, in the order of [`OPERANDS`], are at least as many and as large as is wanted, the workspace as this plan says; all are
    /// memory of the handle's device, on multiples of [`super::operation::ALIGNMENT`].
    pub unsafe fn run(
        &self,
        handle: sys::cudnnHandle_t,
        operands: &[u64],
        workspace: u64,
    ) -> Result<std::result::Result<(), Refusal>> {
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        let count = self.operation.wanted.operands();
        let addresses: Vec<_> = operands.iter().take(count).map(|address| *address as *mut c_void).collect();
        let run = |pack: Descriptor| {
            pack.set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &OPERANDS[..count])?;
            pack.set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &addresses)?;
            pack.set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace as *mut c_void])?;
            let pack = pack.finalize()?;
            // SAFETY: handle, plan and pack are alive; the caller's.
            asked(unsafe { sys::cudnnBackendExecute(handle, self.plan.raw(), pack.raw()) })
        };
        Ok(run(pack))
    }
}

/// Why something may not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Objection {
    pub text: String,
    pub by: By,
}

/// What an objection rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// What cuDNN says of its engines: it will say the same the next time on such a device.
    Library,
    /// This program's rules.
    Rules,
    /// What may be otherwise the next time.
    Circumstances,
}

impl Objection {
    /// cuDNN's own.
    pub fn of(name: &str, refusal: &Refusal) -> Self {
        let by = if is_lasting(refusal.status) { By::Library } else { By::Circumstances };
        Self { text: format!("{name}: {}", refusal.text()), by }
    }
}

/// Whether a status tells of what cuDNN cannot do, and not of this computer's memory, driver or installation.
fn is_lasting(status: sys::cudnnStatus_t) -> bool {
    use sys::cudnnStatus_t as Status;
    matches!(
        status,
        Status::CUDNN_STATUS_NOT_SUPPORTED
            | Status::CUDNN_STATUS_NOT_SUPPORTED_GRAPH_PATTERN
            | Status::CUDNN_STATUS_NOT_SUPPORTED_SHAPE
            | Status::CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE
            | Status::CUDNN_STATUS_NOT_SUPPORTED_LAYOUT
            | Status::CUDNN_STATUS_NOT_SUPPORTED_ARCH_MISMATCH
            | Status::CUDNN_STATUS_NOT_SUPPORTED_PADDING
            | Status::CUDNN_STATUS_NOT_SUPPORTED_BAD_LAUNCH_PARAM
    )
}

/// Whether it is about what was asked, so that something else may be asked. Not that there is no cuDNN to ask, or that its installation
/// lacks a part.
pub(super) fn is_refusal(status: sys::cudnnStatus_t) -> bool {
    use sys::cudnnStatus_t as Status;
    !matches!(
        status,
        Status::CUDNN_STATUS_NOT_INITIALIZED
            | Status::CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH
            | Status::CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED
            | Status::CUDNN_STATUS_NOT_SUPPORTED_SUBLIBRARY_UNAVAILABLE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_no_failure() {
        use sys::cudnnStatus_t as Status;
        let refused = [
            Status::CUDNN_STATUS_NOT_SUPPORTED,
            Status::CUDNN_STATUS_NOT_SUPPORTED_LAYOUT,
            Status::CUDNN_STATUS_BAD_PARAM,
            Status::CUDNN_STATUS_EXECUTION_FAILED,
        ];
        assert!(refused.into_iter().all(is_refusal));
        let broken =
            [Status::CUDNN_STATUS_NOT_INITIALIZED, Status::CUDNN_STATUS_NOT_SUPPORTED_SUBLIBRARY_UNAVAILABLE];
        assert!(!broken.into_iter().any(is_refusal));
    }

    #[test]
    fn what_another_driver_or_more_memory_would_cure_does_not_last() {
        use sys::cudnnStatus_t as Status;
        assert!(
            is_lasting(Status::CUDNN_STATUS_NOT_SUPPORTED)
                && is_lasting(Status::CUDNN_STATUS_NOT_SUPPORTED_SHAPE)
        );
        let curable = [
            Status::CUDNN_STATUS_NOT_SUPPORTED_INCOMPATIBLE_CUDA_DRIVER,
            Status::CUDNN_STATUS_NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING,
            Status::CUDNN_STATUS_ALLOC_FAILED,
            Status::CUDNN_STATUS_EXECUTION_FAILED,
        ];
        assert!(!curable.into_iter().any(is_lasting));
    }
}
