//! From the kernels' text to functions of this computer.

use super::sanitizer::{self, Sanitizer};
use super::touched::Touched;
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

pub(super) type Kernel = unsafe extern "C" fn(*const u64);
type Run = unsafe extern "C" fn(Kernel, *const u64, *const u32, *const u32, i32, i32) -> i32;

/// The emulation is one block at a time, in variables of its library. So that several threads can run kernels, the library is there several
/// times, in files of their own: each is for whoever has its turn.
static TURNS: [Mutex<()>; 4] = [const { Mutex::new(()) }; 4];

#[derive(Debug)]
pub(super) struct Compiled {
    libraries: Vec<Library>,
    /// Looks at every access of a kernel.
    sanitizer: Option<Sanitizer>,
}

/// One launch, with how blocks and threads take their turns.
pub(super) struct Launched<'a> {
    pub kernel: &'static str,
    pub parameters: &'a [u64],
    /// Of the parameters.
    pub bytes: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Whether threads wait for each other.
    pub barriers: bool,
    /// From the last to the first.
    pub backwards: bool,
}

impl Compiled {
    /// Compiles `text`, or takes what an earlier process has made of the same text with the same compiler.
    pub fn new(text: &str, sanitized: bool) -> Result<Self> {
        let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let before = if sanitized { "#define SANITIZED\n" } else { "" };
        let text = format!("{before}{}\n{text}", source::EMULATION);
        let mut parts = vec![Part { text: &text, arguments: &[] }];
        if sanitized {
            parts[0].arguments = sanitizer::ARGUMENTS;
            parts.push(Part { text: source::SANITIZER, arguments: &[] });
        }
        let all: Vec<_> =
            parts.iter().map(|part| format!("{}\n{}", part.arguments.join(" "), part.text)).collect();
        let key = hash_name(&format!("{compiler}\n{}\n{}", ARGUMENTS.join(" "), all.join("\n")));
        let folder = env::temp_dir().join("dkd-emulated");
        let file = |i: usize| folder.join(format!("kernels-{key:016x}-{i}.so"));
        if !file(0).exists() {
            compile(&compiler, &parts, &folder, &file(0))?;
        }
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let open = |i: usize| {
            if !file(i).exists() {
                replace(&file(i), |made| fs::copy(file(0), made).map(drop).map_err(|e| disk(made, &e)))?;
            }
            // SAFETY: the library is made from this crate's text, whose initialisers make empty containers.
            let library = unsafe { Library::new(file(i)) };
            library.map_err(|e| GpuError::Compile(format!("{}: {e}", file(i).display())))
        };
        let libraries = (0..threads.min(TURNS.len())).map(open).collect::<Result<_>>()?;
        Ok(Self { libraries, sanitizer: sanitized.then(|| Sanitizer::new(&file(0))) })
    }

    /// Whether every access of a kernel is looked at.
    pub fn is_sanitized(&self) -> bool {
        self.sanitizer.is_some()
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

    /// Runs a kernel; `memory` gives address and bytes of all there is, in their order. What it uses is added to `touched`, if it is looked
    /// at.
    ///
    /// # Safety
    /// What the kernel reads and writes is alive.
    pub unsafe fn run(
        &self,
        launched: &Launched<'_>,
        memory: impl FnOnce() -> Vec<[u64; 2]>,
        touched: Option<&mut Vec<Touched>>,
    ) -> Result<()> {
        let Launched { kernel, parameters, bytes, grid, block, .. } = *launched;
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
            let turns = (i32::from(launched.barriers), i32::from(launched.backwards));
            let code = if let Some(sanitizer) = &self.sanitizer {
                sanitizer.run(library, *function, launched, turns, &memory(), touched)?
            } else {
                let run = library.get::<Run>("emulate").map_err(|e| wrong(e.to_string()))?;
                run(*function, parameters.as_ptr(), grid.as_ptr(), block.as_ptr(), turns.0, turns.1)
            };
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
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-w",
    "-x",
    "c++",
    "-c",
];

/// Text that is compiled, with arguments of its own.
struct Part<'a> {
    text: &'a str,
    arguments: &'a [&'a str],
}

/// Makes the library `file` of all parts.
fn compile(compiler: &str, parts: &[Part<'_>], folder: &Path, file: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| disk(folder, &e))?;
    replace(file, |made| {
        let objects: Vec<_> = (0..parts.len()).map(|i| made.with_extension(format!("{i}.o"))).collect();
        let mut done = Ok(());
        for (part, object) in parts.iter().zip(&objects) {
            let source = object.with_extension("cpp");
            done = fs::write(&source, part.text).map_err(|e| disk(&source, &e)).and_then(|()| {
                let mut command = Command::new(compiler);
                succeeds(command.args(ARGUMENTS).args(part.arguments).arg(&source).arg("-o").arg(object))
            });
            let _ = fs::remove_file(&source);
            if done.is_err() {
                break;
            }
        }
        let mut link = Command::new(compiler);
        let done = done.and_then(|()| succeeds(link.arg("-shared").args(&objects).arg("-o").arg(made)));
        for object in &objects {
            let _ = fs::remove_file(object);
        }
        done
    })
}

fn succeeds(command: &mut Command) -> Result<()> {
    let compiler = command.get_program().to_string_lossy().into_owned();
    let output = command.output();
    let output =
        output.map_err(|e| GpuError::NoDevice(format!("no C++ compiler `{compiler}` (CXX): {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(GpuError::Compile(String::from_utf8_lossy(&output.stderr).into_owned()))
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
