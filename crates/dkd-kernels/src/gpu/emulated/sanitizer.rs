//! Kernels that look at each of their own accesses: see `cuda/sanitize.cpp`.

use super::compile::{Kernel, Launched};
use super::touched::Touched;
use crate::gpu::error::{GpuError, Result};
use libloading::Library;
use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{ptr, slice};

type Run = unsafe extern "C" fn(
    Kernel,
    *const u64,
    usize,
    *const u32,
    *const u32,
    i32,
    i32,
    *const [u64; 2],
    usize,
    *mut *const c_char,
) -> i32;
type Ask = unsafe extern "C" fn(*mut *const [u64; 3]) -> usize;

/// What the kernels' text is compiled with, so that it calls what looks.
pub(super) const ARGUMENTS: &[&str] = &[
    "-g",
    "-fsanitize=thread",
    "-fsanitize=alignment,bounds,shift,integer-divide-by-zero,float-cast-overflow,signed-integer-overflow",
];

/// Runs such kernels.
#[derive(Debug)]
pub(super) struct Sanitizer {
    /// The library, for whoever wants to know which line an instruction is of.
    file: PathBuf,
}

impl Sanitizer {
    /// `file` is a library that was compiled with [`ARGUMENTS`], and is one of the libraries that are run.
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned() }
    }

    /// Runs a kernel as `emulate` does; `memory` is address and bytes of all there is, in their order. What it has used is added to `touched`.
    ///
    /// # Safety
    /// What the kernel may read and write is alive.
    ///
    /// # Errors
    /// What its threads did wrong.
    pub unsafe fn run(
        &self,
        library: &Library,
        function: Kernel,
        launched: &Launched<'_>,
        (barriers, backwards): (i32, i32),
        memory: &[[u64; 2]],
        touched: Option<&mut Vec<Touched>>,
    ) -> Result<i32> {
        let wrong = |message: String| GpuError::Kernel { name: launched.kernel, message };
        let mut said: *const c_char = ptr::null();
        // SAFETY: this is the type in the text; the kernel's memory is alive.
        let (code, said) = unsafe {
            let run = library.get::<Run>("emulate_sanitized").map_err(|e| wrong(e.to_string()))?;
            let code = run(
                function,
                launched.parameters.as_ptr(),
                launched.bytes,
                launched.grid.as_ptr(),
                launched.block.as_ptr(),
                barriers,
                backwards,
                memory.as_ptr(),
                memory.len(),
                &raw mut said,
            );
            (code, if said.is_null() { c"" } else { CStr::from_ptr(said) })
        };
        if let Some(touched) = touched {
            let mut all: *const [u64; 3] = ptr::null();
            // SAFETY: this is the type in the text; they are there until the next launch.
            let all = unsafe {
                let ask = library.get::<Ask>("emulate_touched").map_err(|e| wrong(e.to_string()))?;
                let count = ask(&raw mut all);
                if count == 0 { &[] } else { slice::from_raw_parts(all, count) }
            };
            let used = |[start, end, written]: &[u64; 3]| Touched {
                start: *start,
                end: *end,
                written: *written != 0,
                by: launched.kernel,
            };
            touched.extend(all.iter().map(used));
        }
        if said.is_empty() {
            return Ok(code);
        }
        Err(wrong(self.with_lines(&said.to_string_lossy())))
    }

    /// Puts lines of the text in the place of instructions (`+0x1234`), if there is a program that knows them.
    fn with_lines(&self, said: &str) -> String {
        let mut words = said.split("+0x");
        let mut text = words.next().unwrap_or_default().to_owned();
        for word in words {
            let digits = word.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(word.len());
            let (address, rest) = word.split_at(digits);
            text += &self.line(address).unwrap_or_else(|| format!("+0x{address}"));
            text += rest;
        }
        text
    }

    fn line(&self, address: &str) -> Option<String> {
        // A return address: the instruction before it is the one.
        let before = u64::from_str_radix(address, 16).ok()?.checked_sub(1)?;
        let output =
            Command::new("addr2line").arg("-se").arg(&self.file).arg(format!("{before:x}")).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let line = text.split_whitespace().next()?;
        (!line.starts_with('?')).then(|| line.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Emulated;
    use crate::gpu::launch::{Parameters, Threads, launch_blocks};
    use crate::gpu::pointwise::{Pointwise, pointwise};
    use crate::gpu::testing::upload;
    use crate::gpu::{Element, GpuError, Machine, View, source};

    const THREADS: u32 = 64;
    const PRELUDE: &str = include_str!("../../../cuda/prelude.cuh");
    /// What `kind` says is done right, or wrong in one way.
    const TEXT: &str = r"
struct Planted { u64 x; u64 ticket; u32 kind; u32 one; };
__device__ void planted_body(const Planted& p) {
    __shared__ float shared[64];
    float* x = (float*)p.x;
    u32 i = threadIdx.x, n = 64 * gridDim.x, own = blockIdx.x * 64 + i;
    float value = x[own];
    if (p.kind != 2) shared[i] = value;
    if (p.kind != 1) __syncthreads();
    value += shared[63 - i];
    if (p.kind == 3) x[i] = value;
    if (p.kind == 5) value += ((Pack<float, 4>*)(x + p.one))->v[i % 4];
    if (p.kind == 6) value += shared[i + p.one];
    if (p.kind == 7) value += (float)(u32)(value - 1000.0f * p.one);
    if (p.kind == 8) { value += x[(own + 1) % n]; }
    if (p.kind == 9) { value += ((u8*)x)[(4 * own + 3 + p.one) % (4 * n)]; }
    x[own] = value;
    if (p.kind < 10) return;
    // The last block adds up what all have written.
    __shared__ u32 last;
    if (p.kind != 11) __syncthreads();
    if (i == 0) last = atomicInc((u32*)p.ticket, gridDim.x - p.one) == gridDim.x - p.one;
    if (p.kind != 12) __syncthreads();
    for (u32 k = 0; i == 1 && last && k < n; k++) x[own] += x[k];
}
PLAIN_KERNEL(planted, Planted)
";

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Planted {
        x: u64,
        ticket: u64,
        kind: u32,
        one: u32,
    }

    // SAFETY: plain numbers without padding.
    unsafe impl Parameters for Planted {}

    #[test]
    fn what_a_kernel_does_wrong_is_told() {
        let text = format!("{PRELUDE}\n#line 1 \"planted.cu\"\n{TEXT}");
        for backwards in [false, true] {
            let machine = match Emulated::of(&text, backwards, true) {
                Err(GpuError::NoDevice(why)) => {
                    eprintln!("skipped: kernels cannot be emulated: {why}");
                    return;
                }
                made => made.unwrap(),
            };
            let run = |kind: u32, blocks: u32| {
                let values = vec![0.5_f32; (blocks * THREADS) as usize];
                let own = upload(&machine, &values, Element::F32);
                // The fourth uses memory that is not the machine's.
                let x = if kind == 4 { values.as_ptr() as u64 } else { own.address() };
                let ticket = upload(&machine, &[0.0], Element::F32);
                let planted = Planted { x, ticket: ticket.address(), kind, one: 1 };
                let threads = Threads { grid: [blocks, 1, 1], block: [THREADS, 1, 1] };
                // SAFETY: all kinds stay inside memory that is alive.
                let done = unsafe { launch_blocks(&machine, "planted", &planted, threads) };
                done.err().map(|e| e.to_string()).unwrap_or_default()
            };
            assert_eq!([run(0, 3), run(10, 3)], ["", ""]);
            let wrong = [
                (1, 1, "race in shared memory"),
                (2, 1, "reads shared memory at"),
                (3, 2, "race in memory"),
                (4, 1, "reads 4 bytes at"),
                (5, 1, "planted.cu:12: an address is no multiple"),
                (6, 1, "planted.cu:13: an index is outside of its array"),
                (7, 1, "planted.cu:14: a number does not fit"),
                (8, 1, "race in memory"),
                (8, 2, "race in memory"),
                (9, 1, "race in memory"),
                (11, 3, "race in memory"),
                (12, 3, "shared memory"),
            ];
            for (kind, blocks, what) in wrong {
                let told = run(kind, blocks);
                assert!(told.contains(what), "{kind}: {told:?}");
            }
        }
    }

    #[test]
    fn branches_that_meet_are_told() {
        let machine = match Emulated::of(&source::kernels(), false, true) {
            Err(GpuError::NoDevice(why)) => {
                eprintln!("skipped: kernels cannot be emulated: {why}");
                return;
            }
            made => made.unwrap(),
        };
        let x = upload(&machine, &[1.0; 5000], Element::F32);
        let relu = |from: &View, to: &View| pointwise(&machine, Pointwise::Relu, from, None, to, false);
        let part = |range| x.part(range).unwrap();
        let parts = [0..1000, 1000..2000, 2000..3000, 2999..3999].map(part);
        let replay = |second: [&View; 2], copy: bool| {
            machine.prepare_branches(2)?;
            let record = machine.record(&mut || {
                machine.branches(2, &mut |i| match i {
                    0 => relu(&parts[0], &parts[1]),
                    _ if copy => machine.copy(second[0], second[1]),
                    _ => relu(second[0], second[1]),
                })
            })?;
            record.replay()
        };
        let told = |done: Result<(), GpuError>| done.err().map(|e| e.to_string()).unwrap_or_default();
        for copy in [false, true] {
            // Both read the first.
            assert_eq!(told(replay([&parts[0], &parts[2]], copy)), "");
            let by = if copy { "copy" } else { "pointwise" };
            let reads = told(replay([&parts[1], &parts[2]], copy));
            assert!(reads.contains("4000 bytes that branch") && reads.contains(by), "{reads}");
            let writes = told(replay([&parts[2], &parts[0]], copy));
            assert!(writes.contains("4000 bytes that branch"), "{writes}");
            // One number.
            let edge = x.part(1999..2999).unwrap();
            assert!(told(replay([&parts[3], &edge], copy)).contains(" 4 bytes that branch"));
        }
    }
}
