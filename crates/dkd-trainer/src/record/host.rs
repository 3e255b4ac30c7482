//! On which machine, from which revision.

use dkd_kernels::Cpu;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a result should be seen with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Processor.
    pub cpu: String,
    /// Threads used.
    pub threads: usize,
    /// Instruction set used.
    pub isa: String,
    /// Version of this program.
    pub version: String,
    /// Git revision of the working folder, if it is one.
    pub revision: Option<String>,
    /// When, in UTC.
    pub time: String,
}

impl Host {
    /// This machine, now.
    pub fn here(cpu: &Cpu) -> Self {
        Self {
            cpu: processor(),
            threads: cpu.threads(),
            isa: cpu.isa().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: revision(Path::new(".")),
            time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, v)| v.trim().to_owned()));
    model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The commit that a checkout stands on, read from its files.
fn revision(folder: &Path) -> Option<String> {
    let git = folder.canonicalize().ok()?.ancestors().map(|a| a.join(".git")).find(|g| g.is_dir())?;
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return Some(head.trim().to_owned()) };
    if let Ok(id) = std::fs::read_to_string(git.join(name)) {
        return Some(id.trim().to_owned());
    }
    let packed = std::fs::read_to_string(git.join("packed-refs")).ok()?;
    packed.lines().find_map(|l| l.strip_suffix(name).map(|id| id.trim().to_owned()))
}
