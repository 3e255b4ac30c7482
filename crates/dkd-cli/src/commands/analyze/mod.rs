//! `dkd analyze`: what a distillation did.

mod page;
mod pairs;
mod pictures;
mod result;
mod run;
mod tables;

use super::cpu;
use crate::args::{AnalyzeArgs, Common, SplitName};
use crate::compute::precision;
use crate::data::{names, obtain};
use crate::output;
use crate::page::Table;
use crate::report;
use crate::weights::foreign;
use anyhow::{Context, Result, bail};
use dkd_datasets::has_any_size;
use dkd_losses::Temperature;
use pairs::{Images, Job, Source};
use result::{Analysis, FORMAT_VERSION};
use std::path::Path;
use std::sync::Arc;

/// Analyses a run, or files of weights.
pub fn analyze(args: &AnalyzeArgs, common: &Common) -> Result<()> {
    let job = Job {
        cpu: cpu(common)?,
        precision: precision(common)?,
        temperature: Temperature::new(args.temperature).context("--temperature")?,
        // Nobody would see the points.
        points: if args.out.is_some() || args.json { args.points } else { 0 },
        mean: args.mean,
        std: args.std,
    };
    // A run's relative paths begin where it was started, the options' here.
    let out =
        args.out.as_deref().map(std::path::absolute).transpose().context("--out has no absolute path")?;
    let analysis = match (&args.run, &args.teacher) {
        (Some(folder), _) => run::analyze(folder, args, &job)?,
        (None, Some(teacher)) => of_files(teacher, args, &job)?,
        (None, None) => bail!("name the folder of a run, or weights with --teacher FILE --student FILE"),
    };
    for note in &analysis.notes {
        output::note(note);
    }
    if let Some(folder) = &out {
        write(&analysis, folder)?;
    }
    if args.json {
        return output::line(&serde_json::to_string(&analysis).context("an analysis is JSON")?);
    }
    output::text(&text(&analysis))?;
    match &args.out {
        Some(folder) => output::line(&format!("\nanalysis: {}", folder.join("analysis.html").display())),
        None => output::line("\npictures and all numbers: --out DIR"),
    }
}

/// A teacher and its students from files.
fn of_files(teacher: &Path, args: &AnalyzeArgs, job: &Job) -> Result<Analysis> {
    if args.split == SplitName::Validation {
        bail!(
            "files of weights do not say which images were held out of their training: --split train or test, or \
             `dkd analyze RUN --split validation`"
        );
    }
    let models = &args.student_model;
    if models.len() > 1 && models.len() != args.student.len() {
        bail!(
            "--student-model names {} networks for {} students: expected one for all, or one for each",
            models.len(),
            args.student.len()
        );
    }
    let paths: Vec<&Path> = args.student.iter().map(|p| p.as_path()).collect();
    let students = report::names(&paths).into_iter().zip(&paths).enumerate().map(|(i, (name, path))| {
        Source::new(&name, path, models.get(i).or(models.first()).map(String::as_str))
    });
    let students: Vec<Source> = students.collect();
    let teacher = Source::new("teacher", teacher, args.teacher_model.as_deref());
    let (dataset, source) = names(args.source.data.as_deref(), args.source.dataset.as_deref(), "cifar10")?;
    // A folder's images are brought to the size that the teacher was trained on, if its file says so.
    let size = if has_any_size(&dataset) { foreign(&teacher.weights)?.metadata.image() } else { None };
    let data = obtain(&dataset, &source, size.map(|(_, height, width)| (height, width)))?;
    let split = if args.split == SplitName::Train { data.train } else { data.test };
    let images = Images {
        dataset,
        split_name: args.split.name(),
        split: Arc::new(match args.images {
            Some(n) => split.first(n),
            None => split,
        }),
        class_names: data.class_names,
        normalization: data.normalization,
    };
    let mut notes = Vec::new();
    let teacher = pairs::examine(&teacher, &images, job, &mut notes)?;
    let examine = |source: &Source| pairs::examine(source, &images, job, &mut notes);
    let students = students.iter().map(examine).collect::<Result<Vec<_>>>()?;
    let pairs = pairs::compared(teacher, students, &images, job)?;
    Ok(Analysis { format_version: FORMAT_VERSION, run: None, pairs: Some(pairs), notes })
}

/// What a terminal of 80 columns shows.
fn text(analysis: &Analysis) -> String {
    let mut parts = Vec::new();
    if let Some(run) = &analysis.run {
        parts.push(report::terminal(&run.results));
        parts.push(tables::terms(run).text());
    }
    if let Some(pairs) = &analysis.pairs {
        parts.extend(tables::pairs(pairs).iter().map(Table::text));
    }
    parts.join("\n")
}

/// Writes the page, which needs no other file, the numbers and the pictures.
fn write(analysis: &Analysis, folder: &Path) -> Result<()> {
    let mut json = serde_json::to_vec(analysis).context("an analysis is JSON")?;
    json.push(b'\n');
    dkd_files::atomic_write_bytes(&folder.join("analysis.json"), &json)?;
    page::write(analysis, folder)
}
