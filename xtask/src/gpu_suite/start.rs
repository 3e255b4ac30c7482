//! Starts what is carried where there is nothing else.

use super::folder::{copy, copy_files, make};
use crate::run::output;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The least that the suite can be asked; with a GPU it takes a second.
const LITTLE: [&str; 6] = ["--parts", "goldens", "--models", "resnet8", "--precisions", "f32"];

/// Starts the suite in a root folder of its own, in which there are the program, the reference values and the C library.
///
/// Where a user may not have one, it is started with an empty environment at least.
pub fn alone(program: &Path, goldens: &Path) -> Result<()> {
    let root = tempfile::tempdir()?;
    let suite = root.path().join("dkd-gpu-suite");
    copy(program, &suite)?;
    copy_files(goldens, &root.path().join("fixtures/models"))?;
    let namespaces = ["--user", "--map-root-user"];
    let probe = Command::new("unshare").args(namespaces).arg("true").stderr(Stdio::null()).status();
    let (mut command, place) = if probe.is_ok_and(|status| status.success()) {
        for library in libraries(&output(Command::new("ldd").arg(program))?) {
            let to = root.path().join(library.trim_start_matches('/'));
            make(to.parent().context("a library lies in a folder")?)?;
            copy(Path::new(library), &to)?;
        }
        make(&root.path().join("tmp"))?;
        let mut command = Command::new("unshare");
        command.args(namespaces).arg("--root").arg(root.path()).arg("/dkd-gpu-suite");
        (command, "in an empty container")
    } else {
        (Command::new(&suite), "with an empty environment, since `unshare` is not allowed")
    };
    command.env_clear().current_dir(root.path()).args(LITTLE);
    answered(&mut command, place)
}

/// Starts the carried script, with nothing in the environment but what its own commands need.
pub fn script(folder: &Path) -> Result<()> {
    let out = tempfile::tempdir()?;
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("TORCH_VARIANTS", "");
    command.env("OUT", out.path()).current_dir(out.path());
    answered(command.arg(folder.join("run.sh")).args(LITTLE), "run.sh")
}

/// Runs a command that should find a device, or say that there is none and end with code 1.
fn answered(command: &mut Command, place: &str) -> Result<()> {
    let done = command.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("{place}: cannot start {}", command.get_program().display()))?;
    let said = said(&done);
    if !as_expected(&done) {
        bail!("{place}: expected a device, or `no CUDA device` and code 1; {}: {said}", done.status);
    }
    println!("{place}: {}, {}", done.status, said.trim_end());
    Ok(())
}

/// All that was printed: the script keeps one log.
fn said(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

fn as_expected(done: &Output) -> bool {
    let said = said(done);
    let none = done.status.code() == Some(1) && said.contains("no CUDA device");
    (none || done.status.success()) && !said.contains("panicked")
}

/// Files that a program needs before it starts, the loader among them.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.split_whitespace().filter(|word| word.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x86/libm.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f00)\n";
        assert_eq!(
            libraries(text).collect::<Vec<_>>(),
            ["/lib/x86/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn other_ends_are_refused() {
        let sh = |text: &str| answered(Command::new("sh").args(["-c", text]), "here");
        sh("exit 0").unwrap();
        sh("echo error: no CUDA device >&2; exit 1").unwrap();
        for text in
            ["exit 1", "echo no CUDA device >&2; exit 101", "echo panicked, no CUDA device >&2; exit 1"]
        {
            let message = sh(text).unwrap_err().to_string();
            assert!(message.starts_with("here: expected a device"), "{message}");
        }
    }
}
