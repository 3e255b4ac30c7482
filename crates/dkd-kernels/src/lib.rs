//! What everything numeric stands on: random numbers, the thread pool, the choice of instruction set and the kernels.
//!
//! Kernels work on slices; graphs, files and the names of models, methods or data sets have no place here. This is the
//! only crate of the workspace that contains `unsafe` code.
#![allow(unsafe_code)]

pub mod rng;
