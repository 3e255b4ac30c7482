//! From the kernels' text to code of one kind of device, by NVRTC.

use super::errors::Called;
use super::kernels::folder;
use crate::gpu::error::{GpuError, Result};
use crate::gpu::{cache, source};
use candle_core::cuda_backend::cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;

/// What the driver loads: machine code, or text that it translates for a device that is younger than NVRTC.
pub(super) struct Compiled {
    pub image: Vec<u8>,
    /// Where it is kept.
    file: Option<PathBuf>,
    /// Whether it was found there.
    pub found: bool,
    options: Vec<String>,
    binary: bool,
    /// The capability that the text sees: 90 is 9.0.
    pub of: i32,
}

impl Compiled {
    /// Compiles for a compute capability, unless that was done before.
    pub fn new((major, minor): (i32, i32)) -> Result<Self> {
        let device = 10 * major + minor;
        let known = architectures()?;
        let binary = known.contains(&device);
        let below = known.iter().copied().filter(|known| *known <= device).max();
        let of = below.ok_or_else(|| {
            let message = format!("NVRTC knows no device as old as this one: {device} of {known:?}");
            GpuError::Compile(message)
        })?;
        let architecture = if binary { format!("sm_{of}") } else { format!("compute_{of}") };
        let mut options: Vec<String> = source::OPTIONS.iter().map(|&o| o.to_owned()).collect();
        options.push(format!("--gpu-architecture={architecture}"));
        let text = source::kernels();
        let key = format!("{:?}\n{}\n{text}", version()?, options.join(" "));
        let name = format!("{architecture}-{:016x}.bin", cache::hash(key.as_bytes()));
        let file = folder().map(|folder| folder.join(name));
        if let Some(image) = file.as_deref().and_then(cache::read) {
            return Ok(Self { image, file, found: true, options, binary, of });
        }
        let mut compiled = Self { image: Vec::new(), file, found: false, options, binary, of };
        compiled.again()?;
        Ok(compiled)
    }

    /// Compiles, whatever was found.
    pub fn again(&mut self) -> Result<()> {
        self.image = compile(&source::kernels(), &self.options, self.binary)?;
        self.found = false;
        if let Some(file) = &self.file {
            // Without it the next start takes some seconds longer.
            let _ = cache::write(file, &self.image);
        }
        Ok(())
    }
}

/// NVRTC's version.
fn version() -> Result<(i32, i32)> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are there to be written.
    unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }.result().called("nvrtcVersion")?;
    Ok((major, minor))
}

/// Devices that NVRTC compiles for.
fn architectures() -> Result<Vec<i32>> {
    let mut number = 0;
    // SAFETY: the number is there to be written, then as many elements are.
    unsafe {
        sys::nvrtcGetNumSupportedArchs(&raw mut number).result().called("nvrtcGetNumSupportedArchs")?;
        let mut all = vec![0; usize::try_from(number).unwrap_or_default()];
        sys::nvrtcGetSupportedArchs(all.as_mut_ptr()).result().called("nvrtcGetSupportedArchs")?;
        Ok(all)
    }
}

/// A program of NVRTC's.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was created, and is destroyed here only.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn compile(text: &str, options: &[String], binary: bool) -> Result<Vec<u8>> {
    let text = CString::new(text).map_err(|e| GpuError::Compile(e.to_string()))?;
    let program = result::create_program(&text, Some(c"kernels.cu")).called("nvrtcCreateProgram")?;
    let program = Program(program);
    // SAFETY: the program is alive, as is its text.
    unsafe {
        if let Err(e) = result::compile_program(program.0, options) {
            let log = result::get_program_log(program.0).unwrap_or_default();
            let log: Vec<u8> = log.into_iter().map(c_char::cast_unsigned).collect();
            let log = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
            return Err(GpuError::Compile(format!("{e}: {}", log.trim_end())));
        }
        if !binary {
            // The driver takes it for text, up to a 0 that NVRTC has put there.
            let ptx = result::get_ptx(program.0).called("nvrtcGetPTX")?;
            return Ok(ptx.into_iter().map(c_char::cast_unsigned).collect());
        }
        let mut size = 0;
        sys::nvrtcGetCUBINSize(program.0, &raw mut size).result().called("nvrtcGetCUBINSize")?;
        let mut image = vec![0_u8; size];
        sys::nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast()).result().called("nvrtcGetCUBIN")?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::print_stderr)]

    use super::*;
    use libloading::os::unix::Library;

    #[test]
    fn the_text_compiles_where_nvrtc_is() {
        // SAFETY: NVRTC may be opened by any program.
        if unsafe { Library::new("libnvrtc.so.13") }.map(std::mem::forget).is_err() {
            eprintln!("skipped: there is no libnvrtc.so.13");
            return;
        }
        let options = |device: &str| -> Vec<String> {
            let device = format!("--gpu-architecture={device}");
            source::OPTIONS.iter().map(|&o| o.to_owned()).chain([device]).collect()
        };
        assert!(version().unwrap().0 >= 13 && architectures().unwrap().contains(&90));
        let binary = compile(&source::kernels(), &options("sm_90"), true).unwrap();
        assert_eq!(binary.get(..4), Some(b"\x7fELF".as_slice()));
        let text = compile(&source::kernels(), &options("compute_80"), false).unwrap();
        assert!(text.starts_with(b"//") && text.ends_with(&[0]));
        let error = compile("#line 7 \"odd.cu\"\nfloat 1;", &options("sm_90"), true).unwrap_err();
        assert!(error.to_string().contains("odd.cu(7)"), "{error}");
    }
}
