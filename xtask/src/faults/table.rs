//! The table of all trials.

use super::trial::Lost;
use anyhow::{Context, Result};
use std::path::Path;

/// Between these lines of the document stands the table.
const MARKERS: [&str; 2] = ["<!-- faults: begin -->", "<!-- faults: end -->"];

/// One kind of fault.
#[derive(Debug)]
pub struct Row {
    fault: String,
    how: String,
    trials: usize,
    /// What else was seen, or why nothing was tried.
    seen: String,
    /// Trials that did not end as promised.
    pub lost: Vec<Lost>,
}

impl Row {
    /// A fault that was tried.
    pub fn new(fault: &str, how: &str, trials: usize, seen: &str, lost: Vec<Lost>) -> Self {
        Self { fault: fault.to_owned(), how: how.to_owned(), trials, seen: seen.to_owned(), lost }
    }

    /// A fault that could not be tried here.
    pub fn skipped(fault: &str, how: &str, why: &str) -> Self {
        Self::new(fault, how, 0, &format!("skipped: {why}"), Vec::new())
    }

    fn lost_text(&self) -> String {
        match (self.trials, self.lost.len()) {
            (0, 0) => "–".to_owned(),
            (_, 0) => "nothing".to_owned(),
            (_, n) => format!("**{n}**"),
        }
    }
}

/// All rows in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = "| fault | how | trials | seen | lost |\n|---|---|---:|---|---|\n".to_owned();
    for row in rows {
        let cells =
            [&row.fault, &row.how, &row.trials.to_string(), &row.seen, &row.lost_text()].map(|c| cell(c));
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

/// A bar in a cell would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Puts text in the place of the document's table.
pub fn write(document: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write the table into {}", document.display());
    let old = std::fs::read_to_string(document).with_context(failed)?;
    let new = between(&old, text).with_context(failed)?;
    dkd_files::atomic_write_bytes(document, new.as_bytes()).with_context(failed)
}

fn between(document: &str, text: &str) -> Result<String> {
    let [begin, end] = MARKERS;
    let (before, rest) = document.split_once(begin).with_context(|| format!("it has no line `{begin}`"))?;
    let (_, after) =
        rest.split_once(end).with_context(|| format!("it has no line `{end}` after `{begin}`"))?;
    Ok(format!("{before}{begin}\n{}\n{end}{after}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::root;

    #[test]
    fn the_table_goes_between_the_markers() {
        let rows = [
            Row::new("a|b", "how", 3, "seen", Vec::new()),
            Row::skipped("c", "how", "no reason"),
            Row::new(
                "d",
                "how",
                2,
                "",
                vec![Lost { what: String::new(), folder: "x".into(), commands: Vec::new() }],
            ),
        ];
        let text = markdown(&rows);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let expected = [
            "| a\\|b | how | 3 | seen | nothing |",
            "| c | how | 0 | skipped: no reason | – |",
            "| d | how | 2 |  | **1** |",
        ];
        assert_eq!(lines, expected);
        let [begin, end] = MARKERS;
        let document = format!("before\n{begin}\nold\n{end}\nafter\n");
        assert_eq!(between(&document, &text).unwrap(), format!("before\n{begin}\n{text}{end}\nafter\n"));
        assert!(between("before\n", &text).unwrap_err().to_string().contains(begin));
    }

    #[test]
    fn the_document_has_a_place_for_it() {
        let document = std::fs::read_to_string(root().join("docs/reliability.md")).unwrap();
        let with = between(&document, "table").unwrap();
        assert!(with.contains("table") && between(&with, "table").unwrap() == with);
    }
}
