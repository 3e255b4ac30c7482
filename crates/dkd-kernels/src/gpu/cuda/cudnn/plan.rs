//! An algorithm of cuDNN's for one pass of one convolution.

use super::candidates::candidates;
use super::descriptors::Descriptors;
use crate::gpu::convolution::{Algorithms, Convolution, Pass};
use crate::gpu::cuda::errors::Called;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::result::{self, CudnnError};
use candle_core::cuda_backend::cudarc::cudnn::sys;
use std::ffi::c_void;

/// More workspace than this no algorithm gets, unless there is no other.
const WORKSPACE: usize = 1 << 30;

/// An algorithm with all that it is told.
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
pub(super) enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
    Weights(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// What may be tried, best first, and why not the others.
pub(super) struct Plans {
    pub all: Vec<Plan>,
    pub objections: Vec<String>,
}

impl Plan {
    /// What may be tried: in the order of cuDNN's rules, or as it measures now. What needs much workspace comes last.
    pub fn all(
        handle: sys::cudnnHandle_t,
        pass: Pass,
        convolution: &Convolution,
        algorithms: Algorithms,
    ) -> Result<Plans> {
        let descriptors = Descriptors::new(convolution)?;
        let (measured, any_order) = (algorithms != Algorithms::Ruled, algorithms == Algorithms::Fastest);
        // SAFETY: handle and descriptors are alive.
        let candidates = unsafe { candidates(handle, pass, &descriptors, measured) }?;
        let mut plans = Plans { all: Vec::new(), objections: Vec::new() };
        for candidate in candidates {
            let (algorithm, math) = (candidate.algorithm, candidate.math(convolution.arithmetic));
            match candidate.objection(convolution.arithmetic, any_order) {
                Some(why) => plans.objections.push(format!("{}: {why}", name(algorithm, math))),
                None => match Self::new(handle, convolution, algorithm, math)? {
                    Ok(plan) => plans.all.push(plan),
                    Err(why) => plans.objections.push(why),
                },
            }
        }
        plans.all.sort_by_key(|plan| if plan.workspace <= WORKSPACE { 0 } else { plan.workspace });
        Ok(plans)
    }

    /// The one of this [kind](Plan::kind), if there is one for such a convolution.
    pub fn named(
        handle: sys::cudnnHandle_t,
        pass: Pass,
        convolution: &Convolution,
        kind: &str,
    ) -> Result<Option<Self>> {
        let all = Algorithm::all(pass);
        let mut all = all.iter().flat_map(|algorithm| MATHS.map(|math| (*algorithm, math)));
        let Some((algorithm, math)) = all.find(|(algorithm, math)| name(*algorithm, *math) == kind) else {
            return Ok(None);
        };
        Ok(Self::new(handle, convolution, algorithm, math)?.ok())
    }

    /// One of them, or why cuDNN refuses it.
    fn new(
        handle: sys::cudnnHandle_t,
        convolution: &Convolution,
        algorithm: Algorithm,
        math: sys::cudnnMathType_t,
    ) -> Result<std::result::Result<Self, String>> {
        let descriptors = Descriptors::new(convolution)?;
        descriptors.set_math(math)?;
        // SAFETY: handle and descriptors are alive.
        match unsafe { workspace(handle, &descriptors, algorithm) } {
            Err(e) if is_refusal(e.0) => {
                Ok(Err(format!("{}: its workspace: {:?}", name(algorithm, math), e.0)))
            }
            workspace => {
                let workspace = workspace.called("cuDNN's workspace size")?;
                Ok(Ok(Self { descriptors, algorithm, math, workspace }))
            }
        }
    }

    /// What it is, apart from the sizes: what cuDNN loads for one serves others of its kind.
    pub fn kind(&self) -> String {
        name(self.algorithm, self.math)
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

    /// Computes it, unless cuDNN refuses, whatever it has proposed: then why.
    ///
    /// # Safety
    /// As for [`Plan::run`].
    pub unsafe fn attempt(
        &self,
        handle: sys::cudnnHandle_t,
        operands: [u64; 3],
        workspace: u64,
        accumulate: bool,
    ) -> Result<Option<String>> {
        // SAFETY: the caller's.
        match unsafe { self.call(handle, operands, workspace, accumulate) } {
            Err(e) if is_refusal(e.0) => Ok(Some(format!("{:?}", e.0))),
            done => done.called(self.algorithm.call()).map(|()| None),
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

const MATHS: [sys::cudnnMathType_t; 4] = [
    sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
    sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
    sys::cudnnMathType_t::CUDNN_FMA_MATH,
];

/// In few words: `IMPLICIT_GEMM, TENSOR_OP`.
fn name(algorithm: Algorithm, math: sys::cudnnMathType_t) -> String {
    let long = match algorithm {
        Algorithm::Forward(a) => format!("{a:?}"),
        Algorithm::Input(a) => format!("{a:?}"),
        Algorithm::Weights(a) => format!("{a:?}"),
    };
    let short = long.split_once("_ALGO_").map_or(long.as_str(), |(_, short)| short);
    let math = format!("{math:?}").replace("CUDNN_", "").replace("_MATH", "");
    format!("{short}, {math}")
}

impl Algorithm {
    /// Those of a pass.
    fn all(pass: Pass) -> Vec<Self> {
        use sys::{
            cudnnConvolutionBwdDataAlgo_t as I, cudnnConvolutionBwdFilterAlgo_t as W,
            cudnnConvolutionFwdAlgo_t as F,
        };
        match pass {
            Pass::Forward => [
                F::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
                F::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                F::CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
                F::CUDNN_CONVOLUTION_FWD_ALGO_DIRECT,
                F::CUDNN_CONVOLUTION_FWD_ALGO_FFT,
                F::CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING,
                F::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
                F::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
            ]
            .map(Self::Forward)
            .to_vec(),
            Pass::InputGradient => [
                I::CUDNN_CONVOLUTION_BWD_DATA_ALGO_0,
                I::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
                I::CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT,
                I::CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING,
                I::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
                I::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED,
            ]
            .map(Self::Input)
            .to_vec(),
            Pass::WeightGradient => [
                W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0,
                W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
                W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT,
                W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3,
                W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD,
                W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
                W::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT_TILING,
            ]
            .map(Self::Weights)
            .to_vec(),
        }
    }

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
    use std::collections::HashSet;

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
    fn names_are_short_and_no_two_are_the_same() {
        for pass in [Pass::Forward, Pass::InputGradient, Pass::WeightGradient] {
            let all = Algorithm::all(pass);
            let names: HashSet<String> =
                all.iter().flat_map(|algorithm| MATHS.map(|math| name(*algorithm, math))).collect();
            assert_eq!(names.len(), all.len() * MATHS.len());
            assert!(names.iter().all(|name| name.len() < 60 && !name.contains("CUDNN")), "{names:?}");
        }
        let first = Algorithm::all(Pass::Forward)[0];
        assert_eq!(name(first, sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH), "IMPLICIT_GEMM, TENSOR_OP");
    }
}
