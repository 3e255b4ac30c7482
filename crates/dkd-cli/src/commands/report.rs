//! `dkd report`.

use crate::args::ReportArgs;
use crate::{output, report};
use anyhow::{Context, Result, bail};
use dkd_trainer::record::read_results;

/// Merges result files.
pub fn report(args: &ReportArgs) -> Result<()> {
    let mut results = Vec::new();
    for folder in &args.folders {
        results.extend(
            read_results(folder).with_context(|| format!("reading results in {}", folder.display()))?,
        );
    }
    if results.is_empty() {
        let folders: Vec<String> = args.folders.iter().map(|f| f.display().to_string()).collect();
        bail!("no result files in {}; `dkd table` writes them", folders.join(", "));
    }
    let results = report::merge(results)?;
    report::write(&results, &args.out)?;
    output::text(&report::terminal(&results))?;
    output::line(&format!("\nreport: {}", args.out.join("report.html").display()))
}
