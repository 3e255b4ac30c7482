//! Being asked to stop.

use anyhow::{Context, Result};
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    // A file that grows past the limit (`ulimit -f`) is an error of the write, not the end of the program: what is listened to
    // no longer kills.
    #[cfg(unix)]
    flag::register(signal_hook::consts::signal::SIGXFSZ, Arc::new(AtomicBool::new(false))).context(failed)?;
    Ok(stop)
}

/// Listens to signals only as long as `work` goes on; later ones end the program, as if nobody had ever listened.
pub fn stoppable<T>(work: impl FnOnce(&AtomicBool) -> Result<T>) -> Result<T> {
    let over = Arc::new(AtomicBool::new(false));
    for signal in SIGNALS {
        flag::register_conditional_default(*signal, Arc::clone(&over)).context("cannot listen to signals")?;
    }
    let stop = stop_flag()?;
    let result = work(&stop);
    over.store(true, Ordering::SeqCst);
    result
}

#[cfg(unix)]
const SIGNALS: &[i32] = &[SIGINT, SIGTERM, signal_hook::consts::signal::SIGUSR1];
#[cfg(not(unix))]
const SIGNALS: &[i32] = &[SIGINT, SIGTERM];
