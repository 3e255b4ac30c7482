//! Tasks of this repository: `cargo xtask TASK`.
//!
//! Tasks only find things and start `dkd`; rows, settings and published numbers live in `configs/`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod check_cuda;
mod check_synthetic;
mod checkpoint_cost;
mod cifar100;
mod device;
mod export_check;
#[cfg(unix)]
mod faults;
mod fuzz;
mod gpu_suite;
#[cfg(test)]
mod house_rules;
mod reproduce;
mod run;
mod teaching_cost;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Train the CIFAR-10 tables and write their report
    #[command(name = "reproduce-cifar10", after_help = reproduce::EXAMPLES)]
    ReproduceCifar10(reproduce::Args),
    /// Train the CIFAR-100 tables of the paper, pair by pair, and write their report
    #[command(name = "reproduce-cifar100", after_help = cifar100::EXAMPLES)]
    ReproduceCifar100(cifar100::Args),
    /// Check what the generated data set promises: three seeds of teacher, student and KD student
    CheckSynthetic(check_synthetic::Args),
    /// Measure training speed against PyTorch, in turns
    Bench(bench::Args),
    /// Disturb small runs in many ways and compare their ends, byte by byte
    #[cfg(unix)]
    #[command(after_help = faults::EXAMPLES)]
    Faults(faults::Args),
    /// Feed the readers of files from outside with damaged ones; needs nightly and cargo-fuzz
    #[command(after_help = fuzz::EXAMPLES)]
    Fuzz(fuzz::Args),
    /// Measure what checkpoints cost a training run
    #[command(name = "checkpoint-cost")]
    CheckpointCost(checkpoint_cost::Args),
    /// Measure what distillation costs: students that share a teacher, a cached teacher, the losses
    #[command(name = "teaching-cost")]
    TeachingCost(teaching_cost::Args),
    /// Compare exported networks in onnxruntime and PyTorch with the engine
    #[command(after_help = export_check::EXAMPLES)]
    ExportCheck(export_check::Args),
    /// Check the CUDA build without a GPU: Rust code, and the kernels with NVIDIA's compiler
    #[command(after_help = check_cuda::EXAMPLES)]
    CheckCuda(check_cuda::Args),
    /// Prepare what checks and measures a GPU, to be carried there; or try it here in small
    #[command(name = "gpu-suite", after_help = gpu_suite::EXAMPLES)]
    GpuSuite(gpu_suite::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::ReproduceCifar10(args) => reproduce::run(&args),
        Task::ReproduceCifar100(args) => cifar100::run(&args),
        Task::CheckSynthetic(args) => check_synthetic::run(&args),
        Task::Bench(args) => bench::run(&args),
        #[cfg(unix)]
        Task::Faults(args) => faults::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::CheckpointCost(args) => checkpoint_cost::run(&args),
        Task::TeachingCost(args) => teaching_cost::run(&args),
        Task::ExportCheck(args) => export_check::run(&args),
        Task::CheckCuda(args) => check_cuda::run(&args),
        Task::GpuSuite(args) => gpu_suite::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // A failed child's own code says more than ours.
            let code = error.downcast_ref::<run::Failed>().map_or(1, |f| f.code);
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
    }
}
