//! `dkd runs`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Where runs are if nothing else is said.
pub const RUNS: &str = "runs";

/// `dkd runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// What to do with runs
    #[command(subcommand)]
    pub command: RunsCommand,
}

/// `dkd runs …`.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List runs and tables: how far they are, and whether they can go on
    #[command(after_help = "Examples:\n  dkd runs list\n  dkd runs list /scratch/runs --json")]
    List {
        /// Folders to search
        #[arg(default_value = RUNS, value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show a run: settings, accuracies, checkpoints, and what to do next
    #[command(
        after_help = "Examples:\n  dkd runs show runs/resnet20-0\n  dkd runs show runs/resnet20-0 --json"
    )]
    Show {
        /// Run folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Print one JSON object, with every epoch's results
        #[arg(long)]
        json: bool,
    },
    /// Compare runs: the settings that differ, and the accuracies side by side
    #[command(after_help = "Example:\n  dkd runs compare runs/kd runs/dkd")]
    Compare {
        /// Run folders
        #[arg(required = true, num_args = 2.., value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// Go on with a run that was stopped
    #[command(
        after_help = "Everything that the run needs is in its folder; `--resume` after the command that started it does the same.\n\n\
                      Example:\n  dkd runs resume runs/resnet20-0"
    )]
    Resume {
        /// Run folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Images, if they are elsewhere now or the folder does not say where they were: as for `dkd train`
        #[arg(long, value_name = "SOURCE")]
        data: Option<String>,
    },
    /// Remove what nobody needs any more: checkpoints of finished runs, and files that a crash left half-written
    #[command(
        after_help = "Weights, results and logs are never removed, and runs in use are left alone.\n\n\
                      Examples:\n  dkd runs clean runs --dry-run\n  dkd runs clean runs/old --stopped"
    )]
    Clean {
        /// Folders to search for runs
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Also the checkpoints of stopped runs, which then cannot go on
        #[arg(long)]
        stopped: bool,
        /// Only list what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}
