//! `dkd data`.

use crate::args::{DataArgs, DataCommand};
use crate::data::{ROOT, names, obtain};
use crate::download::download;
use crate::output;
use crate::signals::stoppable;
use anyhow::Result;
use dkd_datasets::fetch::FetchOptions;
use dkd_datasets::{CIFAR10, CIFAR100, Dataset, Source, find, spec, synthetic};
use std::path::Path;

/// Runs a data command.
pub fn data(args: &DataArgs) -> Result<()> {
    match &args.command {
        DataCommand::Fetch { dataset, .. } if dataset == synthetic::NAME => {
            output::line("synthetic is generated: there is nothing to fetch")
        }
        DataCommand::Fetch { dataset, url, sha256, to } => {
            let spec = spec(dataset)?;
            if find(dataset, &Source::Folder(to.clone()), to, None).is_ok() {
                return output::line(&format!("{dataset} is already complete in {}", to.display()));
            }
            let options =
                FetchOptions { base_url: url.clone(), sha256: sha256.clone(), ..FetchOptions::default() };
            let data = stoppable(|stop| download(spec, to, &options, stop))?;
            output::text(&describe(&data))
        }
        DataCommand::List => {
            let mut rows = vec![["name", "classes", "download", "here"].map(str::to_owned).to_vec()];
            for spec in [CIFAR10, CIFAR100] {
                let here = find(spec.name, &Source::Auto, Path::new(ROOT), None).is_ok_and(|d| d.is_some());
                rows.push(vec![
                    spec.name.to_owned(),
                    spec.num_classes.to_string(),
                    format!("{} MB", spec.archive_bytes / 1_000_000),
                    if here { "yes" } else { "no" }.to_owned(),
                ]);
            }
            rows.push(["synthetic", "10", "none", "yes"].map(str::to_owned).to_vec());
            for name in [dkd_datasets::folder::NAME, dkd_datasets::PARQUET] {
                rows.push([name, "any", "none", "--data DIR"].map(str::to_owned).to_vec());
            }
            output::text(&output::columns(&rows, 1))
        }
        DataCommand::Info { source } => {
            let (dataset, source) = names(source.data.as_deref(), source.dataset.as_deref(), "cifar10")?;
            output::text(&describe(&obtain(&dataset, &source, None)?))
        }
    }
}

fn describe(data: &Dataset) -> String {
    let pair = |v: [f32; 3]| v.map(|x| x.to_string()).join(", ");
    let n = data.normalization;
    format!(
        "{}: {} training and {} test images of {}x{}, {} classes ({})\nmean {} std {}\nsha256 {}\n",
        data.name,
        data.train.len(),
        data.test.len(),
        data.train.height,
        data.train.width,
        data.num_classes(),
        output::shorten(&data.class_names.join(", "), 60),
        pair(n.mean),
        pair(n.std),
        data.fingerprint(),
    )
}
