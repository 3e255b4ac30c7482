//! One file per command.

mod analyze;
mod bench;
mod classify;
mod completions;
mod data;
mod debug;
mod eval;
mod export;
mod inspect;
mod invocation;
mod report;
mod resume;
mod runs;
mod search;
mod settings;
mod table;
mod train;

pub use analyze::analyze;
pub use bench::bench;
pub use classify::classify;
pub use completions::completions;
pub use data::data;
pub use debug::debug;
pub use eval::eval;
pub use export::export;
pub use inspect::inspect;
pub use report::report;
pub use runs::runs;
pub use search::search;
pub use table::table;
pub use train::{distill, train};

use crate::args::Common;
use crate::output;
use anyhow::{Result, bail};
use dkd_datasets::Dataset;
use dkd_kernels::Cpu;
use dkd_trainer::teacher_cache::CacheLayout;
use dkd_trainer::{Compute, Recipe, device_memory};
use std::sync::Arc;

/// Git revision that this program was built from, `+` appended if files had changed; none outside of a repository.
const REVISION: Option<&str> = option_env!("DKD_REVISION");

/// Says how large the cache of the teacher's answers may become, if there will be one.
fn tell_cache(recipe: &Recipe, data: &Dataset) -> Result<()> {
    if let (Some(layout), Some(cache)) = (CacheLayout::of(recipe, data)?, &recipe.cache) {
        output::note(&format!(
            "the teacher's answers are kept in {}: at most {}",
            cache.folder.display(),
            layout.size()
        ));
    }
    Ok(())
}

/// Says how much of a device's memory a run will take.
fn tell_memory(recipe: &Recipe, data: &Dataset, compute: &Compute) -> Result<()> {
    let Some(gpu) = &compute.gpu else { return Ok(()) };
    let (needed, free) = device_memory::check(recipe, data, gpu, recipe.train.batch_size)?;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    output::note(&format!("{gpu}: {} MiB of memory are planned, {} MiB are free", mib(needed), mib(free)));
    Ok(())
}

/// The threads of a command that computes on the CPU only.
fn cpu(common: &Common) -> Result<Arc<Cpu>> {
    if common.device != "cpu" {
        bail!("device `{}`: this command computes on the CPU only; leave --device out", common.device);
    }
    Ok(Cpu::new(common.threads)?)
}
