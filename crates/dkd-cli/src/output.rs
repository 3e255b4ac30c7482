//! The only place that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::{Write, stderr, stdout};

/// Prints text to standard output.
pub fn text(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Prints one line to standard output.
pub fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Prints a value as JSON on one line.
pub fn json(value: &serde_json::Value) -> anyhow::Result<()> {
    line(&value.to_string())
}

/// Prints a line about what is going on to standard error; nobody listening is no reason to stop.
pub fn note(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// Prints an error to standard error.
pub fn error(message: &str) {
    note(&format!("error: {message}"));
}

/// A text table: columns as wide as their content, numbers (all columns but the first `left`) to the right.
pub fn columns(rows: &[Vec<String>], left: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(c, cell)| {
            let w = widths[c];
            if c < left { format!("{cell:<w$}") } else { format!("{cell:>w$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `text` in at most `max` characters.
pub fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}
