//! SIGTERM, SIGINT and SIGUSR1 in every phase.

use super::lab::Lab;
use super::process::Running;
use super::random::Random;
use super::setting::{self, BATCHES, EPOCHS, Phase};
use super::table::Row;
use super::trial::Trial;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// Trials at moments that are spread over the whole run.
const SPREAD: usize = 60;

/// Trials that are aimed at a phase.
const AIMED: usize = 30;

/// Trials of a second SIGINT.
const SECOND: usize = 3;

/// Attempts to hit a phase.
const ATTEMPTS: usize = 5;

/// Names and numbers.
const SIGNALS: [(&str, u32); 3] = [("TERM", 15), ("INT", 2), ("USR1", 10)];

/// The exit code of a run that was stopped.
const STOPPED: i32 = 130;

/// How long a program may take to leave after a second SIGINT.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What a trial saw.
struct Seen {
    phase: Phase,
    /// From the signal to the end.
    seconds: f64,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a checkpoint, code 130.
    Stopped,
    /// It was done anyway, code 0.
    Finished,
    /// By the signal itself, before the program had begun to listen.
    Early,
}

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let count = lab.count(SPREAD);
    let spread = lab.each("signal", count, |trial, random, i| {
        let signal = SIGNALS[random.below(SIGNALS.len())];
        let moment = lab.reference.whole_s * (i as f64 + random.unit()) / count as f64;
        let words = setting::table(trial, &[])?;
        let mut running = trial.start(&words)?;
        running.until(|r| r.age() >= Duration::from_secs_f64(moment))?;
        let seen = interrupt(trial, running, signal)?;
        setting::finish(trial, lab, &[], &[])?;
        Ok(seen)
    });
    let phases = Phase::ALL.len();
    // At least one for each phase.
    let aimed = lab.each("signal-phase", lab.count(AIMED).max(phases), |trial, random, i| {
        let seen = aim(trial, random, Phase::ALL[i % phases], SIGNALS[i / phases % SIGNALS.len()])?;
        setting::finish(trial, lab, &[], &[])?;
        Ok(seen)
    });
    let second = lab.in_turn("second-signal", lab.count(SECOND), |trial, _, _| twice(trial));
    let slowest = second.seen.iter().copied().fold(0.0, f64::max);
    let rows = vec![
        Row::new(
            "asked to stop",
            "SIGTERM, SIGINT or SIGUSR1 at moments spread over the run, then `--resume`",
            spread.seen.len() + spread.lost.len(),
            &summary(&spread.seen),
            spread.lost,
        ),
        Row::new(
            "asked to stop in each phase",
            "the same, aimed at start-up, teacher, students, evaluation and report by the event log",
            aimed.seen.len() + aimed.lost.len(),
            &summary(&aimed.seen),
            aimed.lost,
        ),
        Row::new(
            "impatience",
            "a second SIGINT within a step of several seconds",
            second.seen.len() + second.lost.len(),
            &format!("gone after {slowest:.2} s"),
            second.lost,
        ),
    ];
    Ok(rows)
}

fn summary(seen: &[Seen]) -> String {
    let of_phase = |phase: Phase| seen.iter().filter(|s| s.phase == phase).count();
    let phases = Phase::ALL.map(|phase| format!("{} {}", phase.name(), of_phase(phase)));
    let slowest = seen.iter().map(|s| s.seconds).fold(0.0, f64::max);
    let of_end = |end: End| seen.iter().filter(|s| s.end == end).count();
    let finished = of_end(End::Finished);
    let early = match of_end(End::Early) {
        0 => String::new(),
        n => format!(", {n} before it listened"),
    };
    format!("{}; {finished} had finished{early}; gone within {slowest:.2} s", phases.join(", "))
}

/// Sends a signal and looks at how the run ends.
fn interrupt(trial: &mut Trial, mut running: Running, (name, number): (&str, u32)) -> Result<Seen> {
    let over = running.is_over()?;
    let listened = over || running.listens(number);
    let phase = setting::phase(&trial.path("out"));
    trial.note(&format!("SIG{name} after {:.3} s, at: {}", running.age().as_secs_f64(), phase.name()));
    let sent = Instant::now();
    if !over {
        running.signal(name)?;
    }
    let ended = running.end()?;
    let end = match ended.code {
        Some(STOPPED) => End::Stopped,
        Some(0) => End::Finished,
        None if !listened => End::Early,
        other => bail!("ended with {other:?} after SIG{name}; it said: {}", ended.text),
    };
    ended.expect_not(&["panicked"])?;
    Ok(Seen { phase, seconds: sent.elapsed().as_secs_f64(), end })
}

/// Interrupts a run in a phase.
fn aim(trial: &mut Trial, random: &mut Random, phase: Phase, signal: (&str, u32)) -> Result<Seen> {
    let out = trial.path("out");
    // The log of a step is on its way to the disk when a checkpoint is due: here, at the end of each epoch.
    let every = format!("checkpoints.every_steps={BATCHES}");
    let more: &[&str] = if phase == Phase::Evaluation { &["--set", &every] } else { &[] };
    for _ in 0..ATTEMPTS {
        let step = 1 + random.below(BATCHES * EPOCHS - 4);
        let words = setting::table(trial, more)?;
        let mut running = trial.start(&words)?;
        let there = running.until(|r| match phase {
            Phase::StartUp => r.listens(signal.1),
            Phase::Students => setting::steps(&out) >= step,
            other => setting::phase(&out) >= other,
        })?;
        if there && (phase == Phase::Students || setting::phase(&out) == phase) {
            return interrupt(trial, running, signal);
        }
        drop(running);
        if out.exists() {
            std::fs::remove_dir_all(&out).with_context(|| format!("cannot remove {}", out.display()))?;
        }
    }
    bail!("{ATTEMPTS} attempts have not hit the phase {}", phase.name())
}

/// Two SIGINTs within one long step; the seconds that the second took.
fn twice(trial: &mut Trial) -> Result<f64> {
    let words = trial.dkd(&[
        "train",
        "--model",
        "resnet8x4",
        "--data",
        "synthetic",
        "--epochs",
        "1",
        "--set",
        "train.batch_size=512",
        "--set",
        "data.train_limit=1024",
        "--set",
        "data.test_limit=16",
        "--out",
        "out",
        "--threads",
        "1",
    ]);
    let log = trial.path("out/events.jsonl");
    let mut running = trial.start(&words)?;
    let begun = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"started\""));
    running.until(|r| begun() && r.listens(2))?;
    std::thread::sleep(Duration::from_millis(200));
    running.signal("INT")?;
    std::thread::sleep(Duration::from_millis(200));
    if running.is_over()? {
        bail!("the run left after the first SIGINT: its step was too short for this trial");
    }
    let sent = Instant::now();
    running.signal("INT")?;
    let ended = running.end()?;
    trial.note("SIGINT in the first step, and again 0.2 s later");
    ended.expect(STOPPED, &[])?;
    if sent.elapsed() > AT_ONCE {
        bail!("a second SIGINT took {:.1} s", sent.elapsed().as_secs_f64());
    }
    Ok(sent.elapsed().as_secs_f64())
}
