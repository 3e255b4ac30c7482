//! Tells the program from which revision it was built.

use std::process::Command;

fn main() {
    // Any change of a source file, and of what git has committed.
    for path in ["..", "../../Cargo.lock", "../../.git/HEAD", "../../.git/index"] {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Some(revision) = git(&["rev-parse", "HEAD"]) {
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|s| !s.is_empty());
        println!("cargo:rustc-env=DKD_REVISION={revision}{}", if changed { "+" } else { "" });
    }
}

/// What git prints; `None` outside of a repository, or without git.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
