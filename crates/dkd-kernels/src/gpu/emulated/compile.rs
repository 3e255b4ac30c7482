//! From the kernels' text to functions of this computer.

use crate::gpu::error::{GpuError, Result};
use crate::gpu::source;
use crate::rng::hash_name;
use libloading::Library;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::{env, fs, io, process, thread};

type Kernel = unsafe extern "C" fn(*const u64);
type Run = unsafe extern "C" fn(Kernel, *const u64, *const u32, *const u32, i32, i32) -> i32;

/// The emulation is one block at a time, in variables of its library. So that several threads can run kernels, the library is there several
/// times, in files of their own: each is for whoever has its turn.
static TURNS: [Mutex<()>; 4] = [const { Mutex::new(()) }; 4];

#[derive(Debug)]
pub(super) struct Compiled {
    libraries: Vec<Library>,
}

impl Compiled {
    /// Compiles the text, or takes what an earlier process has made of the same text with the same compiler.
    pub fn new() -> Result<Self> {
        let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let text = format!("{}\n{}", source::EMULATION, source::kernels());
        let key = hash_name(&format!("{compiler}\n{}\n{text}", ARGUMENTS.join(" ")));
        let folder = env::temp_dir().join("dkd-emulated");
        let file = |i: usize| folder.join(format!("kernels-{key:016x}-{i}.so"));
        if !file(0).exists() {
            compile(&compiler, &text, &folder, &file(0))?;
        }
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let open = |i: usize| {
            if !file(i).exists() {
                replace(&file(i), |made| fs::copy(file(0), made).map(drop).map_err(|e| disk(made, &e)))?;
            }
            // SAFETY: the library is made from this crate's text and has no initialisers.
            let library = unsafe { Library::new(file(i)) };
            library.map_err(|e| GpuError::Compile(format!("{}: {e}", file(i).display())))
        };
        Ok(Self { libraries: (0..threads.min(TURNS.len())).map(open).collect::<Result<_>>()? })
    }

    /// A library that no other thread runs.
    fn turn(&self) -> (MutexGuard<'static, ()>, &Library) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let free = TURNS.iter().zip(&self.libraries).find_map(|(turn, library)| match turn.try_lock() {
            Ok(guard) => Some((guard, library)),
            Err(TryLockError::Poisoned(e)) => Some((e.into_inner(), library)),
            Err(TryLockError::WouldBlock) => None,
        });
        free.unwrap_or_else(|| {
            let i = NEXT.fetch_add(1, Ordering::Relaxed) % self.libraries.len();
            (TURNS[i].lock().unwrap_or_else(PoisonError::into_inner), &self.libraries[i])
        })
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
        let (_turn, library) = self.turn();
        // SAFETY: `KERNEL` and `PLAIN_KERNEL` in the text define these two names with these types.
        unsafe {
            let function = library.get::<Kernel>(kernel).map_err(|e| wrong(e.to_string()))?;
            let size =
                library.get::<*const u32>(format!("{kernel}_size")).map_err(|e| wrong(e.to_string()))?;
            if **size as usize != bytes {
                return Err(wrong(format!("its parameters are {} bytes, not {bytes}", **size)));
            }
            let run = library.get::<Run>("emulate").map_err(|e| wrong(e.to_string()))?;
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
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-w",
    "-x",
    "c++",
];

fn compile(compiler: &str, text: &str, folder: &Path, file: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| disk(folder, &e))?;
    replace(file, |made| {
        let source = made.with_extension("cpp");
        fs::write(&source, text).map_err(|e| disk(&source, &e))?;
        let output = Command::new(compiler).args(ARGUMENTS).arg(&source).arg("-o").arg(made).output();
        let output =
            output.map_err(|e| GpuError::NoDevice(format!("no C++ compiler `{compiler}` (CXX): {e}")))?;
        let _ = fs::remove_file(&source);
        if !output.status.success() {
            return Err(GpuError::Compile(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(())
    })
}

/// Makes a file under another name first: threads and processes may make it at once. Whoever is last wins, as all make the same.
fn replace(file: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let own = format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let made = file.with_extension(format!("{own}.so"));
    let done = make(&made).and_then(|()| fs::rename(&made, file).map_err(|e| disk(file, &e)));
    if done.is_err() {
        let _ = fs::remove_file(&made);
    }
    done
}

fn disk(path: &Path, error: &io::Error) -> GpuError {
    GpuError::Compile(format!("{}: {error}", path.display()))
}
