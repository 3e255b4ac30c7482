//! The run that the trials disturb: a small table, and where it is.

use super::files;
use super::lab::Lab;
use super::process::{Running, Words};
use super::random::Random;
use super::trial::Trial;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Batches of an epoch.
pub const BATCHES: usize = 12;

/// Epochs of the students; the teacher has one.
pub const EPOCHS: usize = 2;

/// A teacher and three students. A checkpoint after every step, so that its writer has hardly a rest.
const TABLE: &str = r#"name = "t"
data = { dataset = "synthetic", augment = "crop-flip", train_limit = 96, test_limit = 96 }
train = { epochs = 2, batch_size = 8 }
schedule.kind = "cosine"
checkpoints = { every_steps = 1, keep_last = 2 }
student.model = "resnet8"
teacher = { model = "resnet8", epochs = 1 }
[[rows]]
id = "none"
[[rows]]
id = "kd"
loss = [{ method = "ce", weight = 0.5 }, { method = "kd", weight = 0.5 }]
[[rows]]
id = "dkd"
loss = [{ method = "ce" }, { method = "dkd", warmup_epochs = 2 }]
"#;

/// The last row of a step: once its line is there, the step is done.
const LAST_ROW: &str = "dkd";

/// Where a run is, as its log tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before the teacher's first step.
    StartUp,
    /// The teacher's own training.
    Teacher,
    /// The students' training.
    Students,
    /// After an epoch's last step.
    Evaluation,
    /// After the last evaluation: weights, results, report.
    Report,
}

impl Phase {
    /// In the order of a run.
    pub const ALL: [Self; 5] = [Self::StartUp, Self::Teacher, Self::Students, Self::Evaluation, Self::Report];

    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::StartUp => "start-up",
            Self::Teacher => "teacher",
            Self::Students => "students",
            Self::Evaluation => "evaluation",
            Self::Report => "report",
        }
    }
}

/// Writes the table's settings into a trial's folder.
pub fn prepare(trial: &Trial) -> Result<()> {
    let path = trial.path("t.toml");
    if path.exists() {
        return Ok(());
    }
    std::fs::write(&path, TABLE).with_context(|| format!("cannot write {}", path.display()))
}

/// The command that trains the table, in a trial's folder `out`.
pub fn table(trial: &Trial, more: &[&str]) -> Result<Words> {
    prepare(trial)?;
    Ok(trial.dkd(&[&["table", "t.toml", "--out", "out", "--threads", "1"], more].concat()))
}

/// The event log of a table's folder.
pub fn log(out: &Path) -> PathBuf {
    out.join("events-0.jsonl")
}

fn log_text(out: &Path) -> String {
    std::fs::read_to_string(log(out)).unwrap_or_default()
}

fn count(text: &str, event: &str, row: &str) -> usize {
    text.matches(&format!("{{\"event\":\"{event}\",\"row\":\"{row}\"")).count()
}

/// Steps of the students that are in the log.
pub fn steps(out: &Path) -> usize {
    count(&log_text(out), "step", LAST_ROW)
}

/// Where the run is.
pub fn phase(out: &Path) -> Phase {
    phase_of(&log_text(out))
}

fn phase_of(text: &str) -> Phase {
    let evaluated = count(text, "evaluation", LAST_ROW);
    if evaluated >= EPOCHS {
        Phase::Report
    } else if count(text, "step", LAST_ROW) >= (evaluated + 1) * BATCHES {
        Phase::Evaluation
    } else if text.contains("\"rows\":[\"none\"") {
        Phase::Students
    } else if text.contains("\"rows\":[\"teacher\"]") {
        Phase::Teacher
    } else {
        Phase::StartUp
    }
}

/// Starts the table and stops it with SIGTERM at some step of its students.
pub fn stopped(trial: &mut Trial, random: &mut Random, more: &[&str]) -> Result<()> {
    let step = 3 + random.below(BATCHES * EPOCHS - 8);
    let words = table(trial, more)?;
    let mut running = trial.start(&words)?;
    at_step(trial, &mut running, step)?;
    running.signal("TERM")?;
    let ended = running.end()?;
    trial.note(&format!("SIGTERM after step {step} of the students"));
    ended.expect(130, &["--resume"])
}

/// Waits until the students have made so many steps.
pub fn at_step(trial: &Trial, running: &mut Running, step: usize) -> Result<()> {
    let out = trial.path("out");
    if !running.until(|_| steps(&out) >= step)? {
        bail!("the run ended before step {step}");
    }
    Ok(())
}

/// Goes on to the end, which must be that of the run that nothing disturbed; what was said on the way is in `said`.
pub fn finish(trial: &mut Trial, lab: &Lab, more: &[&str], said: &[&str]) -> Result<()> {
    let words = table(trial, &[&["--resume"], more].concat())?;
    trial.run(&words)?.expect(0, said)?;
    as_undisturbed(trial, lab)
}

/// Whether a run's folder is that of the run that nothing disturbed.
pub fn as_undisturbed(trial: &Trial, lab: &Lab) -> Result<()> {
    files::same(&lab.reference.outcome, &files::outcome(&trial.path("out"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_the_phase() {
        let step =
            |row: &str, n: usize| format!("{{\"event\":\"step\",\"row\":\"{row}\",\"epoch\":1}}\n").repeat(n);
        let evaluation = "{\"event\":\"evaluation\",\"row\":\"dkd\",\"epoch\":1}\n";
        let mut text = "{\"event\":\"log\",\"format\":1}\n".to_owned();
        let mut seen = vec![phase_of(&text)];
        let parts = [
            "{\"event\":\"started\",\"rows\":[\"teacher\"],\"epochs\":1}\n".to_owned() + &step("teacher", 12),
            "{\"event\":\"started\",\"rows\":[\"none\",\"kd\",\"dkd\"]}\n".to_owned() + &step("dkd", 11),
            step("dkd", 1),
            evaluation.to_owned(),
            step("dkd", 12),
            evaluation.to_owned(),
        ];
        for part in parts {
            text.push_str(&part);
            seen.push(phase_of(&text));
        }
        use Phase::{Evaluation, Report, StartUp, Students, Teacher};
        assert_eq!(seen, [StartUp, Teacher, Students, Evaluation, Students, Evaluation, Report]);
    }
}
