//! The kernels' text, through NVIDIA's compiler.

use super::Place;
use super::waits::{self, Waits};
use crate::run::{output, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where the list of the text's files is.
#[allow(dead_code, unexpected_cfgs)]
#[path = "../../../crates/dkd-kernels/src/gpu/source.rs"]
mod source;

/// NVRTC of CUDA 13.0.2.
const PACKAGE: &str = "nvidia-cuda-nvrtc==13.0.88";

/// T4 and RTX 20, A100, H100 with its relatives, RTX 50: RTX 30 and 40 run what is made for the second.
const ARCHITECTURES: &str = "sm_75,sm_80,sm_90,sm_120";

/// Registers of a thread above which a kernel is worth a look: two blocks of 256 threads have 128 each.
const MANY: u64 = 128;

/// Rounds of loads above which a kernel is worth a look.
const SLOW: usize = 12;

/// Compiles the text, unless it is the one that compiled last time; shows all kernels, or those that take
/// much.
pub fn check(place: &Place, all: bool) -> Result<()> {
    let text = source::kernels();
    let good = place.folder.join("kernels-that-compile.cu");
    if !all && fs::read_to_string(&good).is_ok_and(|old| old == text) {
        println!("kernels: as they were when they compiled");
        return Ok(());
    }
    let nvrtc = place.folder.join(PACKAGE.replace("==", "-"));
    if let Err(why) = place.install(&["--no-deps", PACKAGE], &nvrtc)? {
        println!("kernels: skipped: {why}");
        return Ok(());
    }
    let file = place.folder.join("kernels.cu");
    let cannot = || format!("cannot write {}", file.display());
    fs::write(&file, &text).with_context(cannot)?;
    let mut python = Command::new(&place.python);
    python.arg(root().join("xtask/python/compile_kernels.py")).arg(&nvrtc).arg(&file).arg(ARCHITECTURES);
    python.args(source::OPTIONS).arg("--ptxas-options=-v");
    let mut failed = false;
    let mut shown = Vec::new();
    for line in output(&mut python)?.lines() {
        let result: Value = serde_json::from_str(line).context("the check prints lines of JSON")?;
        let [device, log] = ["architecture", "log"].map(|key| result[key].as_str().unwrap_or_default());
        if result["compiled"] == true {
            let mut usages = usages(log);
            match waits::of(place, Path::new(result["code"].as_str().unwrap_or_default()))? {
                Ok(found) => {
                    usages.iter_mut().for_each(|usage| usage.waits = found.get(&usage.kernel).copied())
                }
                Err(why) => println!("{device}: how often kernels wait: skipped: {why}"),
            }
            let most = usages.iter().map(|usage| usage.registers).max().unwrap_or_default();
            let bytes = result["bytes"].as_u64().unwrap_or_default();
            println!("{device}: {} kernels, {bytes} bytes, at most {most} registers", usages.len());
            shown
                .extend(usages.iter().filter(|usage| all || usage.is_large()).map(|usage| usage.row(device)));
        } else {
            eprintln!("{device}:\n{log}");
            failed = true;
        }
    }
    if !shown.is_empty() {
        println!("| kernel | device | registers | shared memory | stack | spills | loads | rounds |");
        println!("|---|---|---:|---:|---:|---:|---:|---:|");
        shown.iter().for_each(|row| println!("{row}"));
    }
    if failed {
        bail!("the kernels do not compile");
    }
    fs::rename(&file, &good).with_context(cannot)
}

/// What a kernel takes of a device.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    kernel: String,
    registers: u64,
    shared: u64,
    stack: u64,
    /// Bytes stored and loaded for want of registers.
    spills: u64,
    /// Unknown without a disassembler.
    waits: Option<Waits>,
}

impl Usage {
    fn is_large(&self) -> bool {
        let slow = self.waits.is_some_and(|waits| waits.rounds > SLOW);
        self.registers > MANY || self.stack > 0 || self.spills > 0 || slow
    }

    fn row(&self, device: &str) -> String {
        let Self { kernel, registers, shared, stack, spills, waits } = self;
        let [loads, rounds] = waits.map_or_else(
            || ["?", "?"].map(str::to_owned),
            |waits| [waits.loads, waits.rounds].map(|n| n.to_string()),
        );
        format!("| {kernel} | {device} | {registers} | {shared} | {stack} | {spills} | {loads} | {rounds} |")
    }
}

/// From the words of ptxas: `Compiling entry function 'name'`, then numbers before what they are of.
fn usages(log: &str) -> Vec<Usage> {
    let mut all: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1) {
            let kernel = name.split('\'').next().unwrap_or_default().to_owned();
            all.push(Usage { kernel, ..Usage::default() });
        }
        let Some(usage) = all.last_mut() else { continue };
        let before = |what: &str| -> Option<u64> {
            line.split(what)
                .next()
                .filter(|start| start.len() < line.len())?
                .split(' ')
                .next_back()?
                .parse()
                .ok()
        };
        usage.registers = before(" registers").unwrap_or(usage.registers);
        usage.shared = before(" bytes smem").unwrap_or(usage.shared);
        usage.stack = before(" bytes stack frame").unwrap_or(usage.stack);
        usage.spills +=
            before(" bytes spill stores").unwrap_or(0) + before(" bytes spill loads").unwrap_or(0);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ptxas_are_understood() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'sums_f32' for 'sm_90'\n\
            ptxas info    : Function properties for sums_f32\n\
            ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
            ptxas info    : Used 255 registers, used 1 barriers, 4096 bytes smem, 384 bytes cmem[0]\n\
            ptxas info    : Compile time = 2.4 ms\n\
            ptxas info    : Compiling entry function 'copy' for 'sm_90'\n\
            ptxas info    : Used 10 registers, used 0 barriers\n";
        let first = Usage {
            kernel: "sums_f32".to_owned(),
            registers: 255,
            shared: 4096,
            stack: 16,
            spills: 20,
            waits: None,
        };
        let second = Usage { kernel: "copy".to_owned(), registers: 10, ..Usage::default() };
        assert_eq!(first.row("sm_90"), "| sums_f32 | sm_90 | 255 | 4096 | 16 | 20 | ? | ? |");
        let slow = Usage { waits: Some(Waits { loads: 30, rounds: SLOW + 1 }), ..Usage::default() };
        assert_eq!(slow.row("sm_80"), "|  | sm_80 | 0 | 0 | 0 | 0 | 30 | 13 |");
        assert!(first.is_large() && !second.is_large() && slow.is_large());
        assert_eq!(usages(log), [first, second]);
        assert_eq!(usages("nothing"), []);
    }

    #[test]
    fn the_text_names_its_files() {
        assert!(source::kernels().starts_with("#line 1 \"prelude.cuh\"\n"));
    }
}
