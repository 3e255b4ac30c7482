//! How much memory a run will take, and how much there is.

use crate::cohort::{Architecture, Shapes, Told};
use crate::network::Compute;
use crate::teacher_cache::CacheLayout;
use crate::{Error, Recipe, Result};
use dkd_datasets::Dataset;
use dkd_engine::MemoryEstimate;
use dkd_losses::{Distiller, Objective};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Addresses that the system's allocator sets aside for a thread, whether they are used or not.
const ARENA: u64 = 64 << 20;

/// Threads beside the workers: the main one, those that make batches, write checkpoints and listen.
const OTHER_THREADS: u64 = 4;

/// Share of the estimate that is added for what no formula counts: buffers of losses, fragments, the program itself.
const SPARE: f64 = 0.1;

/// Batches that exist at a time: queued, being made, being used.
const BATCHES: usize = 6;

/// Bytes that this process may still take: what the machine has left, or less if its control group (a container's limit) or
/// its address space (`ulimit -v`) is limited; of the latter, what `threads` worker threads set aside is taken off. `None` where the system does not tell.
pub fn available(threads: usize) -> Option<u64> {
    available_by(Path::new("/"), threads)
}

/// [`available`] for a system whose files are under `root`, with `threads` worker threads.
fn available_by(root: &Path, threads: usize) -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(root.join(path.strip_prefix("/").unwrap_or(path))).ok();
    let file = |path: &str| read(Path::new(path));
    let machine = file("/proc/meminfo").and_then(|t| field(&t, "MemAvailable:")).map(|kib| kib * 1024);
    let address_space = file("/proc/self/limits").and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("Max address space"))?;
        let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
        let used = file("/proc/self/status").and_then(|t| field(&t, "VmSize:")).unwrap_or(0) * 1024;
        let set_aside = ARENA * (threads as u64 + OTHER_THREADS);
        Some(limit.saturating_sub(used).saturating_sub(set_aside))
    });
    let group =
        file("/proc/self/cgroup").and_then(|text| groups(&text).iter().filter_map(|g| left(g, &read)).min());
    [machine, address_space, group].into_iter().flatten().min()
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Folders of the control groups that limit memory, with the names of the files for limit and use: the process's own and all
/// above it, each of which limits it.
fn groups(text: &str) -> Vec<(PathBuf, [&'static str; 2])> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (base, files) = if controllers.is_empty() {
            ("/sys/fs/cgroup", ["memory.max", "memory.current"])
        } else if controllers.split(',').any(|c| c == "memory") {
            ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes"])
        } else {
            continue;
        };
        let own = Path::new(path);
        for folder in own.ancestors() {
            all.push((Path::new(base).join(folder.strip_prefix("/").unwrap_or(folder)), files));
        }
    }
    all
}

/// What a group has left. Pages of files that it could give back count as used in `usage`, so they are added again.
fn left((folder, files): &(PathBuf, [&str; 2]), read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
    let (limit, used) = (number(files[0])?, number(files[1])?);
    let reclaimable = read(&folder.join("memory.stat"))
        .and_then(|t| field(&t, "inactive_file ").or_else(|| field(&t, "total_inactive_file ")))
        .unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
}

/// Bytes that a run will take with batches of `batch` images, besides the data set, which is there already: networks,
/// momenta, batches, a checkpoint that is being written.
///
/// # Errors
/// A network cannot be built for these images.
pub fn estimate(recipe: &Recipe, data: &Dataset, compute: &Compute, batch: usize) -> Result<u64> {
    let told = Told { recipe, data, compute, seed: 0, teacher: &Shapes::of_teacher(recipe, data)? };
    let (mut total, mut taps) = (0_usize, BTreeSet::new());
    let mut sharing = BTreeSet::new();
    for row in &recipe.rows {
        let student = recipe.architecture(&row.model, data)?;
        let objective = told.objective(row, &student)?;
        let read = objective.taps();
        taps.extend(read.teacher);
        let memory = network(&student, compute, batch, true, read.student.clone())?;
        // Rows of one network and the same taps take turns in one piece of memory.
        let first = sharing.insert((row.model.clone(), read.student));
        total = total.saturating_add(if first { memory.total() } else { memory.own });
        // A momentum and a gradient for each further optimizer, and the momentum again in a checkpoint, twice.
        let further = 4 * (row.optimizers().len() - 1) * student.num_parameters();
        // The first view's gradients, while the second's are computed.
        let further = further + (row.views - 1) * student.num_parameters();
        total = total.saturating_add(of_loss(&objective)).saturating_add(further * size_of::<f32>());
    }
    let taps: Vec<String> = taps.into_iter().collect();
    let pupils = || recipe.rows.iter().filter(|r| r.needs_teacher());
    if let Some(teacher) = recipe.teacher.as_ref().filter(|_| pupils().next().is_some()) {
        let teacher_network = recipe.architecture(&teacher.model, data)?;
        let mut modes: Vec<_> = pupils().map(|r| r.teacher_mode).collect();
        modes.sort_unstable();
        modes.dedup();
        for mode in modes {
            let train = mode == crate::TeacherMode::Train;
            let memory = network(&teacher_network, compute, batch, train, taps.clone())?;
            total = total.saturating_add(memory.total());
        }
        if let Some(cache) = CacheLayout::with_taps(recipe, data, taps.clone())? {
            total = total.saturating_add(cache.memory(batch));
        }
        // Its own training comes before its students' networks exist.
        if teacher.weights.is_none() {
            total = total.max(network(&teacher_network, compute, batch, true, Vec::new())?.total());
        }
    }
    let image = data.train.height * data.train.width * 3 * size_of::<f32>();
    let batches = batch.saturating_mul(image).saturating_mul(BATCHES).saturating_mul(recipe.views());
    Ok((total.saturating_add(batches) as f64 * (1.0 + SPARE)) as u64)
}

/// A loss's own parameters with gradient and momentum, its buffers, and all of it again in a checkpoint, as tensors and as a
/// file.
fn of_loss(objective: &Distiller) -> usize {
    let parameters: usize = objective.parameters().iter().map(|(_, v)| v.elem_count()).sum();
    let buffers: usize = objective.buffers().iter().map(|(_, t)| t.elem_count()).sum();
    (7 * parameters + 3 * buffers) * size_of::<f32>()
}

fn network(
    network: &Architecture,
    compute: &Compute,
    max_batch: usize,
    train: bool,
    taps: Vec<String>,
) -> Result<MemoryEstimate> {
    let mut memory = network.bytes(compute.cpu.threads(), &compute.options(max_batch, train, taps))?;
    // The optimizer's momentum, and both again in a checkpoint, as tensors and as a file.
    let weights = network.num_parameters() * size_of::<f32>();
    memory.own = memory.own.saturating_add(if train { 5 * weights } else { 0 });
    Ok(memory)
}

/// Refuses a run that cannot fit into `available` bytes, and says which batch size would.
///
/// # Errors
/// [`Error::Memory`].
pub fn check(recipe: &Recipe, data: &Dataset, compute: &Compute, batch: usize, available: u64) -> Result<()> {
    let needed = estimate(recipe, data, compute, batch)?;
    if needed <= available {
        return Ok(());
    }
    let fits = largest_batch(batch, |batch| Ok(estimate(recipe, data, compute, batch)? <= available))?;
    Err(Error::Memory { rows: recipe.rows.len(), batch, needed, available, fits })
}

/// The largest batch below `too_large` that fits; 0 if not even one image does.
///
/// # Errors
/// Those of `fits`.
pub(crate) fn largest_batch(mut too_large: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let mut largest = 0;
    while too_large - largest > 1 {
        let middle = largest + (too_large - largest) / 2;
        if fits(middle)? {
            largest = middle;
        } else {
            too_large = middle;
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use dkd_datasets::synthetic;
    use dkd_kernels::Cpu;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_limit_counts() {
        let meminfo = ("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable:    4000000 kB\n");
        assert_eq!(available_by(system(&[meminfo]).path(), 2), Some(4_000_000 * 1024));
        assert_eq!(available_by(system(&[]).path(), 2), None);
        let v2 = [
            meminfo,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "5\n"),
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
            ("sys/fs/cgroup/a/memory.current", "600000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 100000\n"),
        ];
        assert_eq!(available_by(system(&v2).path(), 2), Some(500_000));
        let v1 = [
            meminfo,
            ("proc/self/cgroup", "7:cpu,memory:/x\n3:pids:/x\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "3000\n"),
            ("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1000\n"),
        ];
        assert_eq!(available_by(system(&v1).path(), 2), Some(2000));
        let limited = [
            meminfo,
            (
                "proc/self/limits",
                "Max cpu time  unlimited\nMax address space   500000000     unlimited   bytes\n",
            ),
            ("proc/self/status", "Name: x\nVmSize:    1000 kB\n"),
        ];
        assert_eq!(available_by(system(&limited).path(), 2), Some(500_000_000 - 1_024_000 - 6 * ARENA));
        let unlimited =
            [meminfo, ("proc/self/limits", "Max address space   unlimited   unlimited   bytes\n")];
        assert_eq!(available_by(system(&unlimited).path(), 2), Some(4_000_000 * 1024));
    }

    #[test]
    fn the_largest_batch_that_fits_is_named() {
        let text = "student.model = 'resnet8'\nteacher.model = 'resnet20'\n\
             loss = [{ method = 'ce' }, { method = 'kd' }]";
        let recipe = Config::parse(text, "t").unwrap().check().unwrap();
        let data = synthetic::generate(&synthetic::Options { train: 10, test: 10, seed: 0 });
        let compute = Compute::from(Cpu::new(2).unwrap());
        let of = |batch| estimate(&recipe, &data, &compute, batch).unwrap();
        assert!(of(1) < of(64) && of(64) < of(1024));
        check(&recipe, &data, &compute, 64, of(64)).unwrap();
        let Error::Memory { fits, .. } = check(&recipe, &data, &compute, 1024, of(100)).unwrap_err() else {
            panic!("another error")
        };
        // Groups of eight images share a size, so several batch sizes take the same memory.
        assert!(of(fits) <= of(100) && of(fits + 1) > of(100) && fits >= 100, "{fits}");
        let message = check(&recipe, &data, &compute, 64, 1000).unwrap_err().to_string();
        assert!(message.contains("train.batch_size") && message.contains("not even"), "{message}");
        let half = Compute { precision: dkd_engine::Precision::Bf16, ..compute.clone() };
        assert!((estimate(&recipe, &data, &half, 1024).unwrap() as f64) < 0.7 * of(1024) as f64);
    }
}
