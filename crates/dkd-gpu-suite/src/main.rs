//! `dkd-gpu-suite`: everything that a GPU must be asked, and the carrying of data to it.

mod args;
mod output;

use anyhow::{Context, Result, anyhow};
use args::{Cli, RunArgs, Task};
use clap::Parser;
use dkd_datasets::spec;
use dkd_gpu_suite::{Line, Part, Report, Results, Suite, Torch, engines, machine, pack};
use dkd_kernels::Cpu;
use dkd_kernels::gpu::convolution::Algorithms;
use dkd_trainer::Arithmetic;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Warnings, and all that cuDNN does not compute. It goes to a file.
    let said = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).without_time();
    let wanted = Targets::new()
        .with_default(tracing::Level::WARN)
        .with_target("dkd_kernels::gpu::cuda::cudnn", tracing::Level::DEBUG);
    tracing_subscriber::registry().with(said.with_filter(wanted)).init();
    let done = match &cli.task {
        None => run(&cli.run),
        Some(Task::Pack { data, dataset, out, megabytes }) => packed(data, dataset, out, *megabytes),
        Some(Task::Merge { files, torch, out }) => merged(files, torch, out),
        Some(Task::Engines { properties, libraries, models, batch, precisions, list }) => {
            args::precisions(precisions).and_then(|precisions| {
                engines(properties, libraries.as_deref(), (models, *batch, &precisions), *list)
            })
        }
        Some(Task::Unpack { parts, out }) => pack::unpack(parts, out).map(|folder| {
            output::say(&folder.display().to_string());
            true
        }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            output::fail(&format!("error: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

/// How many queues of work the driver makes; branches of a recorded step may share one.
const CONNECTIONS: &str = "CUDA_DEVICE_MAX_CONNECTIONS";

/// In what this run is set up otherwise than usually.
fn setup(algorithms: Algorithms, in_turn: bool, connections: Option<&str>) -> Vec<String> {
    let algorithms = (algorithms != Algorithms::Ruled).then(|| algorithms.name().to_owned());
    let in_turn = in_turn.then(|| "in turn".to_owned());
    algorithms.into_iter().chain(in_turn).chain(connections.map(|n| format!("{n} connections"))).collect()
}

/// Engines on a device that is not here.
fn engines(
    properties: &Path,
    libraries: Option<&Path>,
    (models, batch, precisions): (&[String], usize, &[Arithmetic]),
    list: bool,
) -> Result<bool> {
    let text = std::fs::read_to_string(properties)
        .with_context(|| format!("cannot read {}", properties.display()))?;
    let (version, mut engine) = machine::elsewhere(&text, libraries)?;
    let models = if models.is_empty() { engines::models() } else { models.to_vec() };
    let networks = engines::Networks { models: &models, classes: 100, batch, precisions };
    let mut say = |line: &str| {
        if list {
            output::say(line);
        }
    };
    let rows = engines::all(&networks, &mut *engine, &mut say)?;
    output::say(&format!("cuDNN {version}, batches of {batch}"));
    engines::table(&rows).iter().for_each(|line| output::say(line));
    Ok(true)
}

fn packed(data: &Path, dataset: &str, out: &Path, megabytes: usize) -> Result<bool> {
    let parts = pack::pack(spec(dataset)?, data, out, megabytes * 1_000_000)?;
    for (path, bytes) in &parts {
        output::say(&format!("{}: {:.1} MB", path.display(), *bytes as f64 / 1e6));
    }
    let trips = if parts.len() == 1 { "one trip".to_owned() } else { format!("{} trips", parts.len()) };
    output::say(&format!("{trips}; unpacked in memory, all bytes are the same"));
    Ok(true)
}

/// Runs the suite; whether all is as it should be.
fn run(args: &RunArgs) -> Result<bool> {
    let begin = Instant::now();
    let (parts, goldens) = (args.parts()?, args.goldens());
    if parts.contains(&Part::Goldens) {
        // A folder that was not carried whole is told where there is no device as well.
        dkd_models::golden::read(&goldens).map_err(|e| anyhow!("{e}"))?;
    }
    let (device, libraries, algorithms) = (args.device.clone(), args.libraries.clone(), args.algorithms());
    let open = move |in_turn: bool| machine::open(&device, libraries.as_deref(), algorithms, in_turn);
    let machine = open(args.in_turn)?;
    output::say(&machine::described(&*machine)?);
    let data = match &args.data {
        Some(folder) => Some(dkd_datasets::read(spec(&args.dataset)?, folder)?),
        None => None,
    };
    let name = machine.name();
    let suite = Suite {
        machine,
        in_turn: Box::new(move || open(true)),
        cpu: Cpu::new(args.threads)?,
        goldens,
        data,
        models: args.models(),
        setup: setup(args.algorithms(), args.in_turn, std::env::var(CONNECTIONS).ok().as_deref()),
        precisions: args.precisions()?,
        sizes: args.sizes(),
    };
    let results = move |ok: bool, lines: &[Line], left_out: usize| Results {
        device: name.clone(),
        seconds: begin.elapsed().as_secs_f64(),
        ok,
        left_out,
        lines: lines.to_vec(),
    };
    let until = args.limit.map(|seconds| begin + Duration::from_secs(seconds));
    let mut report = Report::new(Box::new(output::say)).until(until);
    if let Some(path) = args.out.clone() {
        let results = results.clone();
        report = report.keeping(Box::new(move |lines, left_out| {
            // Whoever comes after a run that is cut off is to know that it was.
            if let Err(e) = results(false, lines, left_out).write(&path) {
                output::fail(&format!("error: {e:#}"));
            }
        }));
    }
    for part in parts {
        suite.run(part, &mut report);
    }
    let results = results(report.ok(), report.lines(), report.left_out());
    if let Some(path) = &args.out {
        results.write(path)?;
    }
    show(&results, &[]);
    Ok(results.ok)
}

fn merged(files: &[PathBuf], torch: &[PathBuf], out: &Path) -> Result<bool> {
    let all = files.iter().map(|file| Results::read(file)).collect::<Result<Vec<_>>>()?;
    let results = Results::merged(all);
    results.write(out)?;
    let torch: Vec<Vec<Torch>> = torch.iter().map(|file| Torch::read(file)).collect::<Result<_>>()?;
    show(&results, &torch.concat());
    Ok(results.ok)
}

fn show(results: &Results, torch: &[Torch]) {
    output::say(&format!("\n{}, {:.0} s", results.device, results.seconds));
    output::say(results.table(torch).trim_end());
}
