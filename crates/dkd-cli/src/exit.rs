//! Exit codes.

use std::process::ExitCode;

/// Anything else went wrong.
const FAILED: u8 = 1;
/// The configuration cannot be used. (2 is clap's for wrong usage.)
const CONFIG: u8 = 3;
/// Data are missing or damaged.
const DATA: u8 = 4;
/// A loss was not finite.
const DIVERGED: u8 = 5;
/// Stopped by a signal, with a checkpoint or a partial download where there are any.
pub const INTERRUPTED: u8 = 130;

/// Prints an error and gives its code. A reader that closed the pipe is no error.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let broken = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken) {
        return ExitCode::SUCCESS;
    }
    crate::output::error(&message(error));
    ExitCode::from(code(error))
}

/// The error and its causes, each once: many messages already end in their cause's.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn code(error: &anyhow::Error) -> u8 {
    use dkd_trainer::Error;
    let own = error.chain().find_map(|e| e.downcast_ref::<Error>());
    let data = error.chain().find_map(|e| e.downcast_ref::<dkd_datasets::Error>());
    if matches!(data, Some(dkd_datasets::Error::Stopped { .. })) {
        return INTERRUPTED;
    }
    match own {
        Some(Error::Config { .. }) => CONFIG,
        Some(Error::NonFinite { .. }) => DIVERGED,
        Some(Error::Interrupted { .. }) => INTERRUPTED,
        Some(Error::Data(_)) => DATA,
        _ if data.is_some() => DATA,
        _ => FAILED,
    }
}
