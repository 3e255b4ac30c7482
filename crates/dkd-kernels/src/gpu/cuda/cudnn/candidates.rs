//! What cuDNN proposes for a convolution.

use super::descriptors::{Descriptors, math};
use super::plan::{Algorithm, is_refusal};
use crate::gpu::convolution::{Arithmetic, Pass};
use crate::gpu::cuda::errors::Called;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::sys;
use std::ffi::c_int;
use std::mem::MaybeUninit;

/// More answers than any pass has algorithms, each with several kinds of arithmetic.
const ANSWERS: usize = 32;

/// Why some may not be used.
pub(super) const INEXACT: &str = "not in f32";
pub(super) const UNORDERED: &str = "no fixed order";

/// An algorithm that cuDNN proposes, and with what.
pub(super) struct Candidate {
    pub algorithm: Algorithm,
    pub status: sys::cudnnStatus_t,
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
                status: answer.status,
                deterministic: answer.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                math: answer.mathType,
            }
        });
        candidates.collect::<Vec<_>>()
    }};
}

impl Candidate {
    /// Why it may not be used, if it may not: it does not work, does not compute in f32 where that is wanted, or its sums have no fixed order
    /// and `any_order` will not do.
    pub fn objection(&self, arithmetic: Arithmetic, any_order: bool) -> Option<String> {
        let exact = arithmetic != Arithmetic::F32
            || matches!(
                self.math,
                sys::cudnnMathType_t::CUDNN_FMA_MATH | sys::cudnnMathType_t::CUDNN_DEFAULT_MATH
            );
        if self.status != sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
            return Some(format!("{:?}", self.status));
        }
        if !exact {
            return Some(INEXACT.to_owned());
        }
        (!self.deterministic && !any_order).then(|| UNORDERED.to_owned())
    }

    /// The arithmetic that goes with it: what cuDNN proposes, except that f32 is never less.
    pub fn math(&self, arithmetic: Arithmetic) -> sys::cudnnMathType_t {
        if arithmetic == Arithmetic::F32 { math(arithmetic) } else { self.math }
    }
}

/// What cuDNN proposes, best first: by its rules, or as it measures now.
///
/// # Safety
/// Handle and descriptors are alive.
pub(super) unsafe fn candidates(
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

#[cfg(test)]
mod tests {
    use super::*;
    use sys::cudnnMathType_t::{CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH};
    use sys::cudnnStatus_t::{CUDNN_STATUS_NOT_SUPPORTED, CUDNN_STATUS_SUCCESS};

    #[test]
    fn only_what_may_be_used_is_used() {
        let candidate = |status, deterministic, math| {
            let algorithm =
                Algorithm::Forward(sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM);
            Candidate { algorithm, status, deterministic, math }
        };
        let works = CUDNN_STATUS_SUCCESS;
        let good = candidate(works, true, CUDNN_DEFAULT_MATH);
        assert_eq!(good.objection(Arithmetic::F32, false), None);
        assert_eq!(good.math(Arithmetic::F32), CUDNN_FMA_MATH);
        assert_eq!(good.math(Arithmetic::Bf16), CUDNN_DEFAULT_MATH);
        let lossy = candidate(works, true, CUDNN_TENSOR_OP_MATH);
        assert_eq!(lossy.objection(Arithmetic::F32, true).unwrap(), "not in f32");
        assert_eq!(lossy.objection(Arithmetic::Tf32, false), None);
        let unordered = candidate(works, false, CUDNN_FMA_MATH);
        assert_eq!(unordered.objection(Arithmetic::F32, false).unwrap(), "no fixed order");
        assert_eq!(unordered.objection(Arithmetic::F32, true), None);
        let broken = candidate(CUDNN_STATUS_NOT_SUPPORTED, true, CUDNN_FMA_MATH);
        assert!(broken.objection(Arithmetic::F32, true).unwrap().contains("NOT_SUPPORTED"));
    }
}
