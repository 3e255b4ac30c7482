//! Being asked to stop.

use anyhow::{Context, Result};
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A flag that SIGINT (Ctrl-C), SIGTERM and, where there is one, SIGUSR1 (what Slurm sends before the time is up) set. A second
/// SIGINT ends the program at once.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let failed = "cannot listen to signals";
    // The order matters: the first looks at the flag before the second sets it.
    flag::register_conditional_shutdown(SIGINT, crate::exit::INTERRUPTED.into(), Arc::clone(&stop))
        .context(failed)?;
    for signal in SIGNALS {
        flag::register(*signal, Arc::clone(&stop)).context(failed)?;
    }
    Ok(stop)
}

#[cfg(unix)]
const SIGNALS: &[i32] = &[SIGINT, SIGTERM, signal_hook::consts::signal::SIGUSR1];
#[cfg(not(unix))]
const SIGNALS: &[i32] = &[SIGINT, SIGTERM];
