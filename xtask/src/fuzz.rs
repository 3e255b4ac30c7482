//! `cargo xtask fuzz`: readers of bytes from outside, fed with bytes that nobody wrote.
//!
//! The targets lie in `fuzz/`, a workspace of its own, since they need nightly and libFuzzer; what they check is in
//! `crates/dkd-fuzz`. Inputs found on the way grow in `fuzz/target`; only findings are put into the corpus of the repository.

use crate::run::{root, run as start};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub const EXAMPLES: &str = "\
Examples:
  cargo xtask fuzz
      all targets, ten minutes each, two at a time
  cargo xtask fuzz --minutes 0.5 --target config,weights
      two of them, half a minute each";

/// Most memory of a target, and the largest piece that it may ask for, in megabytes.
const MEMORY: u64 = 1024;
const PIECE: u64 = 512;

/// Seconds for one input. A build with a sanitizer takes several times as long as one without, which has one second.
const INPUT: u64 = 5;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Minutes for each target
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    minutes: f64,
    /// Only these targets
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    target: Vec<String>,
    /// Targets at a time
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    jobs: u64,
}

/// How often a target is started, if inputs are too slow once and not by themselves.
const ATTEMPTS: u32 = 5;

/// What came of a target.
struct Outcome {
    target: String,
    numbers: Numbers,
    /// Files with the inputs that it did not stand.
    findings: Vec<PathBuf>,
    /// Whether it ended as it should, and what it said.
    ended: bool,
    log: PathBuf,
}

/// Builds the targets, runs them, and puts what they find into the corpus.
pub fn run(args: &Args) -> Result<()> {
    if !(args.minutes.is_finite() && args.minutes > 0.0) {
        bail!("--minutes is {}; it must be a number above 0", args.minutes);
    }
    let targets = chosen(&names(&root().join("fuzz/fuzz_targets"))?, &args.target)?;
    tools()?;
    println!("building {} targets", targets.len());
    start(&mut cargo_fuzz("build"))?;
    let seconds = (60.0 * args.minutes).ceil() as u64;
    let scratch = Scratch::new()?;
    let (waiting, done) = (Mutex::new(targets.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            while let Some(target) = next(&waiting) {
                let outcome = fuzz(&target, seconds, &scratch.0)?;
                println!("{target}: {}", if outcome.ended { "nothing found" } else { "ended early" });
                done.lock().unwrap_or_else(|e| e.into_inner()).push(outcome);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..args.jobs).map(|_| scope.spawn(worker)).collect();
        let ends = workers.into_iter().map(|w| w.join().unwrap_or_else(|_| bail!("a thread panicked")));
        ends.collect::<Result<Vec<()>>>()
    })?;
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by(|a, b| a.target.cmp(&b.target));
    print!("{}", table(&done));
    let harm = done.iter().filter(|o| !o.ended).map(tell).collect::<Result<Vec<()>>>()?.len();
    match harm {
        0 => Ok(()),
        n => bail!("{n} of {} targets did not stand their inputs", done.len()),
    }
}

fn next(waiting: &Mutex<std::vec::IntoIter<String>>) -> Option<String> {
    waiting.lock().unwrap_or_else(|e| e.into_inner()).next()
}

/// Names of the targets, from their sources.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Those of `all` that were asked for, or all.
fn chosen(all: &[String], asked: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = asked.iter().find(|name| !all.contains(name)) {
        bail!("there is no target `{unknown}`; the targets are {}", all.join(", "));
    }
    Ok(all.iter().filter(|name| asked.is_empty() || asked.contains(name)).cloned().collect())
}

/// Looks for what stable has not.
fn tools() -> Result<()> {
    let works = |arguments: &[&str]| {
        let mut command = nightly();
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works(&["--version"]) {
        bail!("fuzzing needs Rust's nightly: `rustup toolchain install nightly --profile minimal`");
    }
    if !works(&["fuzz", "--version"]) {
        bail!("fuzzing needs cargo-fuzz, and that a C++ compiler: `cargo install cargo-fuzz`");
    }
    Ok(())
}

/// Nightly's cargo, whichever cargo has started this program.
fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).current_dir(root());
    command
}

fn cargo_fuzz(task: &str) -> Command {
    let mut command = nightly();
    command.args(["fuzz", task, "--fuzz-dir"]).arg(root().join("fuzz"));
    command
}

/// A folder for what targets write, in memory where that is possible: they wait for the disk otherwise. Removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let memory = PathBuf::from("/dev/shm");
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = place.join(format!("dkd-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a killed target has left stays if it cannot be removed; nothing depends on it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs one target. The limit of an input's time is one of the clock: what exceeded it once, and does not by itself, met a machine that
/// had other things to do, and the target goes on with the time that is left.
fn fuzz(target: &str, seconds: u64, scratch: &Path) -> Result<Outcome> {
    let made = root().join("fuzz/target/found").join(target);
    std::fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
    let log = made.with_extension("log");
    let corpus = root().join("fuzz/corpus").join(target);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let left = end.saturating_duration_since(Instant::now()).as_secs().max(1);
        // New inputs go into the first folder.
        let mut command = run_target(target, &[&made, &corpus], &log, scratch)?;
        command.args([format!("-max_total_time={left}"), "-print_final_stats=1".to_owned()]);
        let status = command.status().context("cannot start `rustup`")?;
        let text = std::fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        let findings = findings(&text);
        if let [input] = &findings[..]
            && is_timeout(input)
            && attempt < ATTEMPTS
        {
            let again = made.with_extension("again.log");
            if run_target(target, &[input], &again, scratch)?.status().is_ok_and(|s| s.success()) {
                println!("{target}: {} took more than {INPUT} s, but not again", input.display());
                continue;
            }
        }
        let numbers = Numbers::read(&text);
        return Ok(Outcome { target: target.to_owned(), numbers, findings, ended: status.success(), log });
    }
}

/// A target with these inputs and the usual limits, which says what it does in `log`.
fn run_target(target: &str, inputs: &[&Path], log: &Path, scratch: &Path) -> Result<Command> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = cargo_fuzz("run");
    command.arg(target).args(inputs).arg("--").arg(format!("-timeout={INPUT}"));
    command.args([format!("-rss_limit_mb={MEMORY}"), format!("-malloc_limit_mb={PIECE}")]);
    command.env("TMPDIR", scratch).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    Ok(command)
}

/// Whether an input was too slow, and nothing else.
fn is_timeout(input: &Path) -> bool {
    input.file_name().is_some_and(|n| n.to_string_lossy().starts_with("timeout-"))
}

/// What libFuzzer counts, as far as it came to tell.
#[derive(Debug, Default, PartialEq, Eq)]
struct Numbers {
    executions: Option<u64>,
    per_second: Option<u64>,
    /// Edges of the control flow that some input takes.
    coverage: Option<u64>,
    new_inputs: Option<u64>,
    slowest_s: Option<u64>,
    peak_mb: Option<u64>,
}

impl Numbers {
    fn read(log: &str) -> Self {
        let stat = |name: &str| {
            let line = log.lines().rev().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
            line.and_then(|rest| rest.strip_prefix(':')?.trim().parse().ok())
        };
        let coverage = log.rsplit_once(" cov: ").and_then(|(_, rest)| rest.split_whitespace().next());
        Self {
            executions: stat("number_of_executed_units"),
            per_second: stat("average_exec_per_sec"),
            coverage: coverage.and_then(|n| n.parse().ok()),
            new_inputs: stat("new_units_added"),
            slowest_s: stat("slowest_unit_time_sec"),
            peak_mb: stat("peak_rss_mb"),
        }
    }
}

/// Files that libFuzzer says to have written. One input may be slow and not too slow: that is no finding.
fn findings(log: &str) -> Vec<PathBuf> {
    let written =
        log.lines().filter_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
    let slow = |path: &Path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("slow-unit-"));
    written.map(|path| root().join(path.trim())).filter(|path| !slow(path)).collect()
}

fn table(outcomes: &[Outcome]) -> String {
    let mut text =
        "| target | executions | per second | coverage | new inputs | slowest | peak memory | findings |\n\
                    |---|---:|---:|---:|---:|---:|---:|---:|\n"
            .to_owned();
    for outcome in outcomes {
        let n = &outcome.numbers;
        let show =
            |value: Option<u64>, unit: &str| value.map_or_else(|| "–".to_owned(), |v| format!("{v}{unit}"));
        let cells = [
            outcome.target.clone(),
            show(n.executions, ""),
            show(n.per_second, ""),
            show(n.coverage, ""),
            show(n.new_inputs, ""),
            show(n.slowest_s, " s"),
            show(n.peak_mb, " MB"),
            outcome.findings.len().to_string(),
        ];
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

/// Puts a target's findings into the corpus and says what to do.
fn tell(outcome: &Outcome) -> Result<()> {
    let target = &outcome.target;
    println!("\n`{target}` ended early; all that it said is in {}", outcome.log.display());
    let log =
        std::fs::read(&outcome.log).with_context(|| format!("cannot read {}", outcome.log.display()))?;
    for line in reasons(&String::from_utf8_lossy(&log)) {
        println!("  {line}");
    }
    for finding in &outcome.findings {
        let name = corpus_name(&finding.file_name().unwrap_or_default().to_string_lossy());
        let kept = Path::new("fuzz/corpus").join(target).join(&name);
        let copied = std::fs::copy(finding, root().join(&kept));
        copied.with_context(|| format!("cannot copy {} to {}", finding.display(), kept.display()))?;
        println!("  the input is in the corpus now: {}", kept.display());
        println!("  again: rustup run nightly cargo fuzz run {target} {}", kept.display());
        println!("  smaller: rustup run nightly cargo fuzz tmin {target} {}", kept.display());
        println!(
            "  once it is understood, give it a name that says what it shows: bad-NAME if it must be refused, ok-NAME if it \
             must be accepted"
        );
    }
    Ok(())
}

/// The lines of a log that say why it ends: the panic with its message, and libFuzzer's or the sanitizer's verdict.
fn reasons(log: &str) -> Vec<&str> {
    let lines: Vec<&str> = log.lines().collect();
    let panics = lines.iter().position(|line| line.contains("panicked at"));
    let panic = panics.map_or(&[][..], |at| &lines[at..lines.len().min(at + 2)]);
    let verdicts = lines.iter().filter(|line| line.starts_with("==") && line.contains("ERROR: "));
    panic.iter().chain(verdicts).copied().collect()
}

/// `crash-0123456789…` becomes `found-crash-01234567`.
fn corpus_name(artifact: &str) -> String {
    let (kind, hash) = artifact.rsplit_once('-').unwrap_or(("input", artifact));
    format!("found-{kind}-{}", hash.get(..8).unwrap_or(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: &str = "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 40Mb\n\
        #4096\tpulse  cov: 345 ft: 678 corp: 9/99b lim: 4096 exec/s: 2048 rss: 80Mb\n\
        #9000\tDONE   cov: 350 ft: 680 corp: 10/120b lim: 4096 exec/s: 3000 rss: 90Mb\n\
        Done 9000 runs in 3 second(s)\n\
        stat::number_of_executed_units: 9000\n\
        stat::average_exec_per_sec:     3000\n\
        stat::new_units_added:          7\n\
        stat::slowest_unit_time_sec:    0\n\
        stat::peak_rss_mb:              91\n";

    const CRASH: &str = "#9\tNEW    cov: 20 ft: 21 corp: 2/3b\n\
        thread '<unnamed>' (7) panicked at crates/a.rs:1:2:\n\
        no word about fuzz.toml\n\
        note: run with `RUST_BACKTRACE=1`\n\
        ==7== ERROR: libFuzzer: deadly signal\n\
        artifact_prefix='/x/'; Test unit written to /x/slow-unit-00\n\
        artifact_prefix='/x/'; Test unit written to /x/crash-0123456789abcdef\n";

    #[test]
    fn logs_are_understood() {
        let all = Numbers {
            executions: Some(9000),
            per_second: Some(3000),
            coverage: Some(350),
            new_inputs: Some(7),
            slowest_s: Some(0),
            peak_mb: Some(91),
        };
        assert_eq!(Numbers::read(DONE), all);
        assert_eq!(Numbers::read(CRASH), Numbers { coverage: Some(20), ..Numbers::default() });
        assert_eq!(Numbers::read("error: could not compile"), Numbers::default());
        assert_eq!(findings(DONE), Vec::<PathBuf>::new());
        assert_eq!(findings(CRASH), [PathBuf::from("/x/crash-0123456789abcdef")]);
        let said = ["thread '<unnamed>' (7) panicked at crates/a.rs:1:2:", "no word about fuzz.toml"];
        assert_eq!(reasons(CRASH), [said[0], said[1], "==7== ERROR: libFuzzer: deadly signal"]);
    }

    #[test]
    fn findings_have_names_and_tables_have_lines() {
        assert_eq!(corpus_name("crash-0123456789abcdef"), "found-crash-01234567");
        assert_eq!(corpus_name("x"), "found-input-x");
        assert!(is_timeout(Path::new("/x/timeout-01")) && !is_timeout(Path::new("/timeout-1/crash-01")));
        let outcome = |numbers, findings| Outcome {
            target: "config".to_owned(),
            numbers,
            findings,
            ended: true,
            log: PathBuf::new(),
        };
        let text = table(&[
            outcome(Numbers::read(DONE), Vec::new()),
            outcome(Numbers::default(), vec![PathBuf::from("/x/crash-0")]),
        ]);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "| config | 9000 | 3000 | 350 | 7 | 0 s | 91 MB | 0 |");
        assert_eq!(lines[1], "| config | – | – | – | – | – | – | 1 |");
    }

    #[test]
    fn targets_are_chosen_by_name() {
        let all = names(&root().join("fuzz/fuzz_targets")).unwrap();
        assert!(all.iter().any(|name| name == "config"));
        assert_eq!(chosen(&all, &[]).unwrap(), all);
        assert_eq!(chosen(&all, &["config".to_owned()]).unwrap(), ["config"]);
        let message = chosen(&all, &["confg".to_owned()]).unwrap_err().to_string();
        assert!(message.contains("confg") && message.contains("config"), "{message}");
    }
}
