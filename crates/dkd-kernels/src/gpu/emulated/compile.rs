//! From the kernels' text to functions of this computer.

use crate::gpu::error::{GpuError, Result};
use crate::gpu::source;
use crate::rng::hash_name;
use libloading::Library;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io, process};

type Kernel = unsafe extern "C" fn(*const u64);
type Run = unsafe extern "C" fn(Kernel, *const u64, *const u32, *const u32, i32, i32) -> i32;

/// The emulation is one block at a time, in variables of its library.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Debug)]
pub(super) struct Compiled {
    library: Library,
}

impl Compiled {
    /// Compiles the text, or takes what an earlier process has made of the same text with the same compiler.
    pub fn new() -> Result<Self> {
        let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let text = format!("{}\n{}", source::EMULATION, source::kernels());
        let key = hash_name(&format!("{compiler}\n{}\n{text}", ARGUMENTS.join(" ")));
        let folder = env::temp_dir().join("dkd-emulated");
        let file = folder.join(format!("kernels-{key:016x}.so"));
        if !file.exists() {
            compile(&compiler, &text, &folder, &file)?;
        }
        // SAFETY: the library is made from this crate's text and has no initialisers.
        let library = unsafe { Library::new(&file) };
        let library = library.map_err(|e| GpuError::Compile(format!("{}: {e}", file.display())))?;
        Ok(Self { library })
    }

    /// Runs a kernel; `turns` are whether its threads wait for each other, and whether they go backwards.
    ///
    /// # Safety
    /// What the kernel reads and writes is alive.
    pub unsafe fn run(
        &self,
        kernel: &'static str,
        (parameters, bytes): (&[u64], usize),
        grid: [u32; 3],
        block: [u32; 3],
        (barriers, backwards): (bool, bool),
    ) -> Result<()> {
        let wrong = |message: String| GpuError::Kernel { name: kernel, message };
        if block.iter().product::<u32>() > 1024 {
            return Err(wrong(format!("{block:?} are more than 1024 threads")));
        }
        // SAFETY: `KERNEL` and `PLAIN_KERNEL` in the text define these two names with these types.
        unsafe {
            let function = self.library.get::<Kernel>(kernel).map_err(|e| wrong(e.to_string()))?;
            let size =
                self.library.get::<*const u32>(format!("{kernel}_size")).map_err(|e| wrong(e.to_string()))?;
            if **size as usize != bytes {
                return Err(wrong(format!("its parameters are {} bytes, not {bytes}", **size)));
            }
            let run = self.library.get::<Run>("emulate").map_err(|e| wrong(e.to_string()))?;
            let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            let code = run(
                *function,
                parameters.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                i32::from(barriers),
                i32::from(backwards),
            );
            match code {
                0 => Ok(()),
                _ => Err(wrong("its threads wait for each other for ever".to_owned())),
            }
        }
    }
}

/// Fused multiply-adds only where the text asks for them: results are the same with every compiler.
const ARGUMENTS: &[&str] = &[
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-w",
    "-x",
    "c++",
];

fn compile(compiler: &str, text: &str, folder: &Path, file: &Path) -> Result<()> {
    let disk = |e: io::Error| GpuError::Compile(format!("{}: {e}", folder.display()));
    fs::create_dir_all(folder).map_err(disk)?;
    // Threads of one process may compile at once.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let own = format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let named = |end: &str| -> PathBuf { file.with_extension(format!("{own}.{end}")) };
    let (source, made) = (named("cpp"), named("so"));
    fs::write(&source, text).map_err(disk)?;
    let output = Command::new(compiler).args(ARGUMENTS).arg(&source).arg("-o").arg(&made).output();
    let output =
        output.map_err(|e| GpuError::NoDevice(format!("no C++ compiler `{compiler}` (CXX): {e}")))?;
    let _ = fs::remove_file(&source);
    if !output.status.success() {
        return Err(GpuError::Compile(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    // Whoever is last wins: all have made the same.
    fs::rename(&made, file).map_err(disk)
}
