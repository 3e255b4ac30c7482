//! `dkd runs`: what has been trained, what can go on, what can go.

mod clean;
mod compare;
mod find;
mod folder;
mod list;
mod resume;
mod show;

pub(super) use find::check;
pub(super) use resume::{absolute, enter};

use crate::args::{Common, RunsArgs, RunsCommand};
use anyhow::Result;
use std::path::Path;

/// Runs a command about runs.
pub fn runs(args: &RunsArgs, common: &Common) -> Result<()> {
    match &args.command {
        RunsCommand::List { folders, json } => list::list(folders, *json),
        RunsCommand::Show { folder, json } => show::show(folder, *json),
        RunsCommand::Compare { folders } => compare::compare(folders),
        RunsCommand::Resume { folder, data } => resume::resume(folder, data.as_deref(), common),
        RunsCommand::Clean { folders, stopped, dry_run } => clean::clean(folders, *stopped, *dry_run),
    }
}

/// A size for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A word as a shell reads it.
pub(in crate::commands) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The command that goes on with a run.
fn resume_command(folder: &Path, knows_data: bool) -> String {
    let folder = quoted(&folder.display().to_string());
    format!("dkd runs resume {folder}{}", if knows_data { "" } else { " --data SOURCE" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(resume_command(Path::new("runs/a-0"), true), "dkd runs resume runs/a-0");
        assert_eq!(
            resume_command(Path::new("my runs/a"), false),
            "dkd runs resume 'my runs/a' --data SOURCE"
        );
        assert_eq!(
            [quoted("it's"), quoted(""), quoted("rows.kd.lr=0.1")],
            ["'it'\\''s'", "''", "rows.kd.lr=0.1"]
        );
        assert_eq!(
            [size(999), size(1_500), size(12_340_000), size(2_500_000_000)],
            ["999 B", "1.5 kB", "12.3 MB", "2.5 GB"]
        );
    }
}
