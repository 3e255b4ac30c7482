//! On which machine, from which revision.

use crate::Compute;
use serde::{Deserialize, Serialize};

/// What a result should be seen with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Processor.
    pub cpu: String,
    /// Threads used.
    pub threads: usize,
    /// Instruction set used.
    pub isa: String,
    /// The device of the networks, and how it multiplied, if it is not the processor in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Version of this program.
    pub version: String,
    /// Git revision that the program was built from, with `+` if files had changed since.
    pub revision: Option<String>,
    /// When, in UTC.
    pub time: String,
}

impl Host {
    /// This machine, now, and a program built from `revision`.
    pub fn here(compute: &Compute, revision: Option<&str>) -> Self {
        Self {
            cpu: processor(),
            threads: compute.cpu.threads(),
            isa: compute.cpu.isa().to_string(),
            device: compute.device(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: revision.map(str::to_owned),
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
