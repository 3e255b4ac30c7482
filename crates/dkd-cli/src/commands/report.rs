//! `dkd report`.

use crate::args::ReportArgs;
use crate::{output, report};
use anyhow::Result;

/// Makes a report from the records in folders.
pub fn report(args: &ReportArgs) -> Result<()> {
    let results = report::collect(&args.folders)?;
    report::write(&results, &args.out)?;
    output::text(&report::terminal(&results))?;
    output::line(&format!("\nreport: {}", args.out.join("report.html").display()))
}
