//! Where `dkd` computes: options that are passed on to it.

use std::path::PathBuf;
use std::process::Command;

#[derive(Debug, clap::Args)]
pub struct Device {
    /// Where to compute: cpu, cuda or cuda:N; anything but cpu builds `dkd` with CUDA (docs/cuda.md)
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// Products and maps on a CUDA device: f32, tf32 or bf16
    #[arg(long, value_name = "KIND")]
    precision: Option<String>,
    /// Python environment or folder with NVIDIA's libraries, if they are not the system's
    #[arg(long, value_name = "DIR")]
    cuda_libraries: Option<PathBuf>,
}

impl Device {
    /// What `dkd` is built with.
    pub fn features(&self) -> &'static [&'static str] {
        if self.device == "cpu" { &[] } else { &["cuda"] }
    }

    /// Passes the options on.
    pub fn pass(&self, command: &mut Command) {
        command.args(["--device", &self.device]);
        if let Some(kind) = &self.precision {
            command.args(["--precision", kind]);
        }
        if let Some(folder) = &self.cuda_libraries {
            // `dkd` may run in another folder.
            command
                .arg("--cuda-libraries")
                .arg(std::path::absolute(folder).unwrap_or_else(|_| folder.clone()));
        }
    }
}
