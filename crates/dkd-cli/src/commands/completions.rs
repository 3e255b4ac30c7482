//! `dkd completions`.

use crate::args::Cli;
use crate::output;
use clap::CommandFactory;

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dkd", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
