//! `dkd`: trains, distils, compares and inspects from the command line.

mod args;
mod chart;
mod commands;
mod compute;
mod data;
mod download;
mod exit;
mod output;
mod page;
mod progress;
mod report;
mod signals;
mod weights;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any other thread exists and before candle is used.
    // t-SNE's library adds in an order that depends on its threads.
    let pools = if matches!(cli.command, Some(Command::Analyze(_))) { 1 } else { cli.common.threads.max(1) };
    dkd_kernels::limit_library_pools(pools);
    let level = cli.common.log;
    tracing_subscriber::fmt()
        .with_max_level(level)
        // Spans say how long they took when they end.
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_writer(std::io::stderr)
        .with_ansi(
            std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none(),
        )
        .init();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let common = &cli.common;
    match &cli.command {
        None => output::text(args::OVERVIEW),
        Some(Command::Train(args)) => commands::train(args, common),
        Some(Command::Distill(args)) => commands::distill(args, common),
        Some(Command::Table(args)) => commands::table(args, common),
        Some(Command::Search(args)) => commands::search(args, common),
        Some(Command::Eval(args)) => commands::eval(args, common),
        Some(Command::Classify(args)) => commands::classify(args, common),
        Some(Command::Export(args)) => commands::export(args),
        Some(Command::Data(args)) => commands::data(args),
        Some(Command::Inspect(args)) => commands::inspect(args),
        Some(Command::Bench(args)) => commands::bench(args, common),
        Some(Command::Report(args)) => commands::report(args),
        Some(Command::Runs(args)) => commands::runs(args, common),
        Some(Command::Debug(args)) => commands::debug(args, common),
        Some(Command::Analyze(args)) => commands::analyze(args, common),
        Some(Command::Completions { shell }) => commands::completions(*shell),
    }
}
