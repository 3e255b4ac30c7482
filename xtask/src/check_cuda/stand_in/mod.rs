//! Stand-ins for NVIDIA's libraries: the CUDA build runs on them, on this computer's processor and slowly.
//!
//! They are strict where NVIDIA's are lenient. Work in a stream is done as late as is allowed, new memory is full of NaN, addresses are
//! looked up, calls that must not be recorded make a recording void, branches of a recorded graph run in an order that nobody expects, and
//! no two of them may share a workspace. What a GPU does with time, with its caches and with more than one thread at once is not seen.

use super::Place;
use super::full::DKD;
use crate::run::{cargo, output, root, run as start, told_by};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: [&str; 5] = ["driver.cpp", "compile.cpp", "nvrtc.cpp", "cudnn.cpp", "others.cpp"];

/// What candle's kernels include of CUDA, as far as `candle.h` does not have it.
const HEADERS: [(&str, &str); 6] = [
    ("candle.h", include_str!("candle.h")),
    ("cuda_fp16.h", ""),
    ("cuda_bf16.h", ""),
    ("cuda_fp8.h", ""),
    ("cuda.h", ""),
    ("cuda/std/limits", "namespace cuda { namespace std = ::std; }\n"),
];

/// Names under which the one library is found.
const NAMES: [&str; 6] = [
    "libcuda.so.1",
    "libnvrtc.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
];

/// What plans leave to NVIDIA's libraries for themselves (`LIBRARIES` in dkd-trainer).
const FOR_LIBRARIES: u64 = 512 << 20;

/// Programs of the CUDA build.
pub struct Programs {
    pub dkd: PathBuf,
    pub example: PathBuf,
    pub suite: PathBuf,
}

/// Runs the programs on stand-ins.
pub fn run(place: &Place, programs: &Programs) -> Result<()> {
    let folder = place.folder.join("stand-in");
    compile(&folder)?;
    headers(&folder.join("headers"))?;
    let candle = sources_of_candles_kernels(place)?;
    let with = |program: &Path| {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", &folder).env("STAND_IN_FOLDER", &folder);
        command.env("STAND_IN_EMULATION", root().join("crates/dkd-kernels/cuda/emulate.h"));
        command.env("STAND_IN_CANDLE", &candle);
        // Code for stand-ins must not be kept beside that for a GPU.
        command.env("XDG_CACHE_HOME", folder.join("cache"));
        command
    };
    start(with(&programs.example).arg(&folder))?;
    for arguments in [
        &["--parts", "goldens,compare", "--models", "resnet8,ShuffleV1"][..],
        &["--parts", "curves", "--steps", "2", "--precisions", "f32,bf16"],
        &["--parts", "profile", "--models", "resnet20", "--batches", "1", "--precisions", "tf32,bf16"],
        &["--parts", "answers", "--models", "resnet8,wrn_16_1", "--batches", "2"],
    ] {
        let mut suite = with(&programs.suite);
        start(suite.arg("--libraries").arg(&folder).args(arguments))?;
    }
    // A cohort with a teacher in both modes, one with losses of the CPU's between two recorded parts (the suite's curves have candle's), one that
    // goes step by step; evaluation, checkpoints; a measurement.
    let runs = folder.join("runs");
    fs::create_dir_all(&runs).with_context(|| format!("cannot make {}", runs.display()))?;
    let table = runs.join("table.toml");
    fs::write(&table, TABLE).with_context(|| format!("cannot write {}", table.display()))?;
    let trained = |rows: &str| {
        let mut dkd = with(&programs.dkd);
        dkd.arg("table").arg(&table).args(["--rows", rows, "--data", "synthetic", "--device", "cuda"]);
        dkd.arg("--cuda-libraries").arg(&folder).arg("--out").arg(runs.join(rows.replace(',', "-")));
        dkd
    };
    for rows in ["none,dkd,seed", "none,rld,sdd", "none,skip"] {
        start(&mut trained(rows))?;
    }
    let bench = || {
        let mut dkd = with(&programs.dkd);
        dkd.args("bench --model resnet8 --batch 8 --seconds 0.1 --device cuda --json".split(' '));
        dkd.arg("--cuda-libraries").arg(&folder);
        dkd
    };
    // Kernels of a recorded step begin ahead of their time, more than are tried at the beginning. Where the driver refuses that, whatever they
    // follow or after convolutions alone, they do not, and all goes on. Gradients of weights are aside.
    let all = Told::of(&mut bench())?;
    let own = Told::of(bench().env("STAND_IN_REFUSES_AHEAD", "of convolutions"))?.ahead;
    if own < 20 || all.ahead < own + 5 || all.streams != 2 {
        bail!(
            "a step has {} streams, {} kernels may begin ahead of their time, {own} of them of kernels of ours",
            all.streams,
            all.ahead
        );
    }
    // Or only when the whole step is known.
    Told::of(bench().env("STAND_IN_REFUSES_AHEAD", "of convolutions, late"))?;
    let none = Told::of(bench().env("STAND_IN_REFUSES_AHEAD", "of all"))?;
    if (none.ahead, none.streams) != (0, 2) {
        bail!("kernels may begin ahead of their time where that is refused");
    }
    // With a teacher a third stream, unless its answers are waited for by a loss of candle's. The memory is what was planned.
    for (row, streams) in [("dkd", 3), ("maps", 2)] {
        let told = Told::of(&mut trained(row))?;
        if told.streams != streams {
            bail!("a step with a teacher has {} streams, not {streams}", told.streams);
        }
        let planned = told.planned.context("the plan of memory is not told")?;
        if told.bytes + FOR_LIBRARIES > planned {
            bail!(
                "{planned} bytes of memory were planned, {FOR_LIBRARIES} for libraries; the others were {}",
                told.bytes
            );
        }
    }
    // Measured convolutions are measured once: the second run finds what the first has kept.
    let measured = folder.join("measured");
    for (algorithms, again) in [("rules", false), ("measured", false), ("measured", true), ("fastest", false)]
    {
        let mut dkd = bench();
        dkd.args(["--cuda-algorithms", algorithms]).env("XDG_CACHE_HOME", &measured);
        if again {
            dkd.env("STAND_IN_MEASURED", "1");
        }
        print!("{}", output(&mut dkd)?);
    }
    Ok(())
}

/// What the stand-in tells of a program.
struct Told {
    /// Kernels that were recorded and may begin ahead of their time.
    ahead: u64,
    /// The most streams of a step.
    streams: u64,
    /// The most memory that there was on the device.
    bytes: u64,
    /// The memory that was planned, if the program has said so.
    planned: Option<u64>,
}

impl Told {
    fn of(program: &mut Command) -> Result<Self> {
        let done = program.env("STAND_IN_TELLS", "1").output().context("cannot start the program")?;
        let [said, noted] =
            [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        print!("{said}{noted}");
        if !done.status.success() {
            bail!("the program ended with {}", done.status);
        }
        let told = said.lines().find_map(|line| line.strip_prefix("stand-in: "));
        let told = told.context("the stand-in does not tell")?;
        let [ahead, streams, bytes] =
            serde_json::from_str(told).with_context(|| format!("the stand-in tells `{told}`"))?;
        let before =
            noted.split_once(" MiB of memory are planned").and_then(|(text, _)| text.rsplit(' ').next());
        let planned = before.and_then(|mib| mib.parse::<u64>().ok()).map(|mib| mib << 20);
        Ok(Self { ahead, streams, bytes, planned })
    }
}

/// Two epochs of a few images.
const TABLE: &str = r#"
name = "stand-in"
[data]
dataset = "synthetic"
train_limit = 40
test_limit = 16
[train]
epochs = 2
batch_size = 16
[optimizer]
lr = 0.02
[student]
model = "resnet8"
[teacher]
model = "resnet8"
epochs = 1
[[rows]]
id = "none"
[[rows]]
id = "dkd"
optimizer.clip_norm = 1.0
loss = [{ method = "ce" }, { method = "dkd" }]
[[rows]]
id = "seed"
teacher_mode = "train"
loss = [{ method = "seed_kd" }]
[[rows]]
id = "rld"
loss = [{ method = "ce" }, { method = "rld" }, { method = "fitnet", weight = 1.0 }]
[[rows]]
id = "sdd"
teacher_mode = "train"
loss = [{ method = "ce" }, { method = "sdd" }]
[[rows]]
id = "maps"
loss = [{ method = "ce" }, { method = "at" }, { method = "nst" }, { method = "rkd" }]
[[rows]]
id = "skip"
nonfinite = "skip"
loss = [{ method = "ce" }, { method = "kd" }]
"#;

/// The text of candle's kernels, in the version that is built.
fn sources_of_candles_kernels(place: &Place) -> Result<PathBuf> {
    let mut metadata = cargo("metadata");
    metadata.args(["--filter-platform", &place.host, "--features", DKD.feature]);
    let told = told_by(&mut metadata)?;
    let packages = told["packages"].as_array().into_iter().flatten();
    let found = packages
        .filter(|package| package["name"] == "candle-kernels")
        .find_map(|package| package["manifest_path"].as_str());
    let manifest = Path::new(found.context("`cargo metadata` does not name candle-kernels")?);
    Ok(manifest.with_file_name("src"))
}

fn headers(folder: &Path) -> Result<()> {
    for (name, text) in HEADERS {
        let file = folder.join(name);
        let parent = file.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Makes the library, with all of its names.
fn compile(folder: &Path) -> Result<()> {
    // With libraries of kernels that were made before, and what other runs have left.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let library = folder.join("libstand-in.so");
    let sources = root().join("xtask/src/check_cuda/stand_in");
    let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    compiler.args(["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Werror"]);
    compiler.args(SOURCES.map(|name| sources.join(name))).arg("-o").arg(&library).arg("-ldl");
    start(&mut compiler)?;
    // Not copies: each would have streams and memory of its own.
    for name in NAMES {
        let file = folder.join(name);
        fs::hard_link(&library, &file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
