//! `dkd runs clean`.

use super::find::find;
use super::folder::{Run, State};
use super::size;
use crate::output;
use anyhow::{Result, bail};
use dkd_files::FolderLock;
use std::path::{Path, PathBuf};

/// Removes checkpoints of finished runs, with `stopped` those of stopped ones too, and half-written files.
pub fn clean(folders: &[PathBuf], stopped: bool, dry_run: bool) -> Result<()> {
    let found = find(folders)?;
    let (mut files, mut bytes, mut in_use) = (0, 0, 0);
    for folder in &found {
        let shown = folder.display();
        // From here to the end of this folder nobody else begins to use it.
        let lock = match FolderLock::owner(folder)? {
            None if dry_run => None,
            None => Some(FolderLock::acquire(folder, "dkd runs clean")?),
            Some(owner) => {
                output::note(&format!("`{shown}` is in use by {owner}: left alone"));
                in_use += 1;
                continue;
            }
        };
        let run = match &lock {
            Some(lock) => Run::read_locked(folder, lock),
            None => Run::read(folder),
        };
        let run = match run {
            Ok(run) => run,
            Err(e) => {
                output::note(&format!("`{shown}` is damaged: left alone ({e:#})"));
                continue;
            }
        };
        let superfluous = superfluous(&run, stopped);
        for (path, size_of) in &superfluous {
            if !dry_run {
                remove(path)?;
            }
            files += 1;
            bytes += size_of;
            let done = if dry_run { "would remove" } else { "removed" };
            output::line(&format!("{done} {} ({})", path.display(), size(*size_of)))?;
        }
        let was_needed = |p: &Path| run.checkpoints.iter().any(|c| c.path == p && !run.is_done(c.seed));
        if superfluous.iter().any(|(path, _)| was_needed(path)) {
            let not = if dry_run { "could then not" } else { "cannot" };
            output::line(&format!("{shown} {not} go on any more: resuming begins anew"))?;
        }
    }
    let freed = if dry_run { "would be freed" } else { "freed" };
    output::line(&format!("{files} files, {} {freed} in {} runs", size(bytes), found.len()))?;
    if in_use > 0 {
        bail!("{in_use} of {} runs are in use and were left alone", found.len());
    }
    Ok(())
}

/// What may go, with its size.
fn superfluous(run: &Run, stopped: bool) -> Vec<(PathBuf, u64)> {
    if let State::Damaged(reason) = &run.state {
        output::note(&format!("`{}` is damaged: its checkpoints stay ({reason})", run.folder.display()));
    }
    let may_go = |path: &Path| {
        let checkpoint = run.checkpoints.iter().find(|c| c.path == path);
        match (checkpoint, &run.state) {
            (None, _) => dkd_files::is_unfinished(path),
            (Some(_), State::Damaged(_) | State::Running(_)) => false,
            (Some(c), _) => run.is_done(c.seed) || stopped,
        }
    };
    run.files.iter().filter(|f| may_go(&f.path)).map(|f| (f.path.clone(), f.bytes)).collect()
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            bail!("cannot remove `{}`: {e}", path.display())
        }
        _ => Ok(()),
    }
}
