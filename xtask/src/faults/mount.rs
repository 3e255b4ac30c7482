//! Small disks in memory, for whoever may mount them.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A disk, until dropped.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// A disk of so many KiB in place of a folder.
    pub fn new(folder: &Path, kib: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Changes it: `size=…k`, `ro`, `rw`.
    pub fn change(&self, options: &str) -> Result<()> {
        mount(&["-o", &format!("remount,{options}")], &self.folder)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing better can be done about a disk that stays: the folder's removal will tell.
        let _ = Command::new("umount").arg(&self.folder).status();
    }
}

fn mount(args: &[&str], folder: &Path) -> Result<()> {
    let done = Command::new("mount").args(args).arg(folder).output().context("cannot start `mount`")?;
    if !done.status.success() {
        bail!("{}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// Why no disks can be mounted here; `None` if they can.
pub fn refused(folder: &Path) -> Option<String> {
    Disk::new(folder, 64).err().map(|e| format!("{e:#}"))
}
