//! Which of its algorithms cuDNN uses.

use super::descriptors::{Descriptors, math};
use crate::gpu::convolution::{Arithmetic, Convolution, Pass};
use crate::gpu::cuda::errors::Called;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::result::{self, CudnnError};
use candle_core::cuda_backend::cudarc::cudnn::sys;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

/// More workspace than this no algorithm gets, unless there is no other.
const WORKSPACE: usize = 1 << 30;

/// More answers than any pass has algorithms, each with several kinds of arithmetic.
const ANSWERS: usize = 32;

/// An algorithm for one pass of one convolution.
#[derive(Debug)]
pub(super) struct Plan {
    descriptors: Descriptors,
    algorithm: Algorithm,
    math: sys::cudnnMathType_t,
    /// Bytes that it needs besides the operands.
    pub workspace: usize,
}

// SAFETY: descriptors are plain memory that is not written any more.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
    Weights(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// An algorithm that cuDNN proposes, and with what.
struct Candidate {
    algorithm: Algorithm,
    works: bool,
    deterministic: bool,
    math: sys::cudnnMathType_t,
}

/// Asks a function of cuDNN's for algorithms, best first.
macro_rules! ask {
    ($ask:expr, $name:literal, $kind:expr, $perf:ty, ($($argument:expr),*)) => {{
        let mut answers = [const { MaybeUninit::<$perf>::zeroed() }; ANSWERS];
        let mut given: c_int = 0;
        match $ask($($argument,)* ANSWERS as c_int, &raw mut given, answers.as_mut_ptr().cast()).result() {
            Err(e) if is_refusal(e.0) => {
                tracing::debug!("{}: {e}", $name);
                return Ok(Vec::new());
            }
            asked => asked.called($name)?,
        }
        let given = usize::try_from(given).unwrap_or_default().min(ANSWERS);
        let candidates = answers[..given].iter().map(|answer| {
            // As many were written; all zeros would be an answer as well.
            let answer = answer.assume_init_ref();
            Candidate {
                algorithm: $kind(answer.algo),
                works: answer.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS,
                deterministic: answer.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                math: answer.mathType,
            }
        });
        candidates.collect::<Vec<_>>()
    }};
}

impl Plan {
    /// What may be tried, best first: in the order of cuDNN's rules, or measured if it is to be the fastest. Measurements differ from run to
    /// run, and with them the order and the last digits; rules do not. What needs much workspace comes last.
    pub fn all(
        handle: sys::cudnnHandle_t,
        pass: Pass,
        convolution: &Convolution,
        fastest: bool,
    ) -> Result<Vec<Self>> {
        let descriptors = Descriptors::new(convolution)?;
        // SAFETY: handle and descriptors are alive.
        let candidates = unsafe { candidates(handle, pass, &descriptors, fastest) }?;
        let mut plans = Vec::new();
        for candidate in candidates.iter().filter(|c| fits(c, convolution.arithmetic, fastest)) {
            let descriptors = Descriptors::new(convolution)?;
            let math = math_of(candidate, convolution.arithmetic);
            descriptors.set_math(math)?;
            // SAFETY: as above.
            let workspace = match unsafe { workspace(handle, &descriptors, candidate.algorithm) } {
                Err(e) if is_refusal(e.0) => {
                    tracing::debug!("the workspace of {:?}: {e}", candidate.algorithm);
                    continue;
                }
                workspace => workspace.called("cuDNN's workspace size")?,
            };
            plans.push(Self { algorithm: candidate.algorithm, math, workspace, descriptors });
        }
        plans.sort_by_key(|plan| if plan.workspace <= WORKSPACE { 0 } else { plan.workspace });
        Ok(plans)
    }

    /// What it is, apart from the sizes: what cuDNN loads for one serves others of its kind.
    pub fn kind(&self) -> String {
        format!("{:?}, {:?}", self.algorithm, self.math)
    }

    /// Computes it.
    ///
    /// # Safety
    /// The operands are as large as the convolution says, the workspace as this plan says; all are memory of
    /// the handle's device.
    pub unsafe fn run(
        &self,
        handle: sys::cudnnHandle_t,
        operands: [u64; 3],
        workspace: u64,
        accumulate: bool,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.call(handle, operands, workspace, accumulate) }.called(self.algorithm.call())
    }

    /// Computes it, unless cuDNN refuses, whatever it has proposed: whether it does.
    ///
    /// # Safety
    /// As for [`Plan::run`].
    pub unsafe fn attempt(
        &self,
        handle: sys::cudnnHandle_t,
        operands: [u64; 3],
        workspace: u64,
        accumulate: bool,
    ) -> Result<bool> {
        // SAFETY: the caller's.
        match unsafe { self.call(handle, operands, workspace, accumulate) } {
            Err(e) if is_refusal(e.0) => {
                tracing::debug!("{}, {}: {e}", self.algorithm.call(), self.kind());
                Ok(false)
            }
            done => done.called(self.algorithm.call()).map(|()| true),
        }
    }

    unsafe fn call(
        &self,
        handle: sys::cudnnHandle_t,
        [x, w, y]: [u64; 3],
        workspace: u64,
        accumulate: bool,
    ) -> std::result::Result<(), CudnnError> {
        let (one, before) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
        let (alpha, beta) = ((&raw const one).cast::<c_void>(), (&raw const before).cast::<c_void>());
        let [x, w, y, space] = [x, w, y, workspace].map(|address| address as *mut c_void);
        let (d, size) = (&self.descriptors, self.workspace);
        let how = d.convolution;
        // SAFETY: handle and descriptors are alive; the caller's.
        unsafe {
            match self.algorithm {
                Algorithm::Forward(algorithm) => result::convolution_forward(
                    handle, alpha, d.x, x, d.w, w, how, algorithm, space, size, beta, d.y, y,
                ),
                Algorithm::Input(algorithm) => result::convolution_backward_data(
                    handle, alpha, d.w, w, d.y, y, how, algorithm, space, size, beta, d.x, x,
                ),
                Algorithm::Weights(algorithm) => result::convolution_backward_filter(
                    handle, alpha, d.x, x, d.y, y, how, algorithm, space, size, beta, d.w, w,
                ),
            }
        }
    }
}

impl Algorithm {
    /// The function that runs it.
    fn call(self) -> &'static str {
        match self {
            Self::Forward(_) => "cudnnConvolutionForward",
            Self::Input(_) => "cudnnConvolutionBackwardData",
            Self::Weights(_) => "cudnnConvolutionBackwardFilter",
        }
    }
}

/// Whether it is about what was asked, so that something else may be asked: cuDNN's rules propose what it refuses then, with more than one kind of
/// answer. Not that there is no cuDNN to ask, or that its installation lacks a part.
fn is_refusal(status: sys::cudnnStatus_t) -> bool {
    use sys::cudnnStatus_t as Status;
    !matches!(
        status,
        Status::CUDNN_STATUS_NOT_INITIALIZED
            | Status::CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH
            | Status::CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED
            | Status::CUDNN_STATUS_NOT_SUPPORTED_SUBLIBRARY_UNAVAILABLE
    )
}

/// Whether a candidate may be used at all.
fn fits(candidate: &Candidate, arithmetic: Arithmetic, fastest: bool) -> bool {
    let exact = arithmetic != Arithmetic::F32
        || matches!(
            candidate.math,
            sys::cudnnMathType_t::CUDNN_FMA_MATH | sys::cudnnMathType_t::CUDNN_DEFAULT_MATH
        );
    candidate.works && exact && (candidate.deterministic || fastest)
}

/// The arithmetic that goes with a candidate: what cuDNN proposes, except that f32 is never less.
fn math_of(candidate: &Candidate, arithmetic: Arithmetic) -> sys::cudnnMathType_t {
    if arithmetic == Arithmetic::F32 { math(arithmetic) } else { candidate.math }
}

/// # Safety
/// Handle and descriptors are alive.
unsafe fn candidates(
    handle: sys::cudnnHandle_t,
    pass: Pass,
    d: &Descriptors,
    measure: bool,
) -> Result<Vec<Candidate>> {
    use sys::{
        cudnnConvolutionBwdDataAlgoPerf_t as InputAnswer,
        cudnnConvolutionBwdFilterAlgoPerf_t as WeightsAnswer, cudnnConvolutionFwdAlgoPerf_t as ForwardAnswer,
    };
    let how = d.convolution;
    // SAFETY: the caller's; there is room for as many answers as are asked for.
    let found = unsafe {
        match (pass, measure) {
            (Pass::Forward, false) => ask!(
                sys::cudnnGetConvolutionForwardAlgorithm_v7,
                "cudnnGetConvolutionForwardAlgorithm_v7",
                Algorithm::Forward,
                ForwardAnswer,
                (handle, d.x, d.w, how, d.y)
            ),
            (Pass::Forward, true) => ask!(
                sys::cudnnFindConvolutionForwardAlgorithm,
                "cudnnFindConvolutionForwardAlgorithm",
                Algorithm::Forward,
                ForwardAnswer,
                (handle, d.x, d.w, how, d.y)
            ),
            (Pass::InputGradient, false) => ask!(
                sys::cudnnGetConvolutionBackwardDataAlgorithm_v7,
                "cudnnGetConvolutionBackwardDataAlgorithm_v7",
                Algorithm::Input,
                InputAnswer,
                (handle, d.w, d.y, how, d.x)
            ),
            (Pass::InputGradient, true) => ask!(
                sys::cudnnFindConvolutionBackwardDataAlgorithm,
                "cudnnFindConvolutionBackwardDataAlgorithm",
                Algorithm::Input,
                InputAnswer,
                (handle, d.w, d.y, how, d.x)
            ),
            (Pass::WeightGradient, false) => ask!(
                sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7,
                "cudnnGetConvolutionBackwardFilterAlgorithm_v7",
                Algorithm::Weights,
                WeightsAnswer,
                (handle, d.x, d.y, how, d.w)
            ),
            (Pass::WeightGradient, true) => ask!(
                sys::cudnnFindConvolutionBackwardFilterAlgorithm,
                "cudnnFindConvolutionBackwardFilterAlgorithm",
                Algorithm::Weights,
                WeightsAnswer,
                (handle, d.x, d.y, how, d.w)
            ),
        }
    };
    Ok(found)
}

/// Bytes of workspace.
///
/// # Safety
/// Handle and descriptors are alive.
unsafe fn workspace(
    handle: sys::cudnnHandle_t,
    d: &Descriptors,
    algorithm: Algorithm,
) -> std::result::Result<usize, CudnnError> {
    let how = d.convolution;
    // SAFETY: the caller's.
    unsafe {
        match algorithm {
            Algorithm::Forward(a) => {
                result::get_convolution_forward_workspace_size(handle, d.x, d.w, how, d.y, a)
            }
            Algorithm::Input(a) => {
                result::get_convolution_backward_data_workspace_size(handle, d.w, d.y, how, d.x, a)
            }
            Algorithm::Weights(a) => {
                result::get_convolution_backward_filter_workspace_size(handle, d.x, d.y, how, d.w, a)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::cudnnMathType_t::{CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH};

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
    fn only_what_may_be_used_is_used() {
        let candidate = |works, deterministic, math| {
            let algorithm =
                Algorithm::Forward(sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM);
            Candidate { algorithm, works, deterministic, math }
        };
        let good = candidate(true, true, CUDNN_DEFAULT_MATH);
        assert!(fits(&good, Arithmetic::F32, false));
        assert_eq!(math_of(&good, Arithmetic::F32), CUDNN_FMA_MATH);
        assert_eq!(math_of(&good, Arithmetic::Bf16), CUDNN_DEFAULT_MATH);
        let lossy = candidate(true, true, CUDNN_TENSOR_OP_MATH);
        assert!(!fits(&lossy, Arithmetic::F32, true) && fits(&lossy, Arithmetic::Tf32, false));
        let unordered = candidate(true, false, CUDNN_FMA_MATH);
        assert!(!fits(&unordered, Arithmetic::F32, false) && fits(&unordered, Arithmetic::F32, true));
        assert!(!fits(&candidate(false, true, CUDNN_FMA_MATH), Arithmetic::F32, true));
    }
}
