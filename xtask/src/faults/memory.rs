//! Too little memory: a batch that does not fit is refused before anything is allocated.

use super::lab::Lab;
use super::process::{Words, is_there};
use super::table::Row;
use super::trial::Trial;
use anyhow::{Result, bail};

/// Trials.
const TRIALS: usize = 6;

/// Limits of the address space in KiB.
const LIMITS: [u64; 3] = [900_000, 1_400_000, 2_000_000];

/// A batch that fits into none of them.
const TOO_LARGE: u64 = 8192;

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let how = "`ulimit -v` and a batch that is too large; then the largest that fits, under the same limit";
    if !is_there("bash") {
        return Ok(vec![Row::skipped("out of memory", how, "there is no `bash`")]);
    }
    let tally = lab.in_turn("memory", lab.count(TRIALS), |trial, _, i| {
        let model = ["resnet20", "resnet8"][i / LIMITS.len() % 2];
        limited(trial, model, LIMITS[i % LIMITS.len()])
    });
    let seen: Vec<String> = tally.seen.iter().map(u64::to_string).collect();
    let seen = format!("batches that fitted and ran: {}", seen.join(", "));
    Ok(vec![Row::new("out of memory", how, tally.seen.len() + tally.lost.len(), &seen, tally.lost)])
}

/// The largest batch that a limit leaves room for.
fn limited(trial: &mut Trial, model: &str, kib: u64) -> Result<u64> {
    let refused = trial.run(&train(trial, model, kib, TOO_LARGE, "refused"))?;
    refused.expect(1, &["networks with batches of", "the largest train.batch_size that fits is"])?;
    let fits = refused.number_after("the largest train.batch_size that fits is ")?;
    if fits == 0 || fits >= TOO_LARGE {
        bail!("a batch of {fits} cannot be the largest that fits; it said: {}", refused.text);
    }
    trial.run(&train(trial, model, kib, fits, "fits"))?.expect(0, &[])?;
    Ok(fits)
}

/// One step with one batch under a limit.
fn train(trial: &Trial, model: &str, kib: u64, batch: u64, out: &str) -> Words {
    let script = format!("ulimit -v {kib}; exec \"$0\" \"$@\"");
    let (size, limit) = (format!("train.batch_size={batch}"), format!("data.train_limit={batch}"));
    let words = trial.dkd(&[
        "train",
        "--model",
        model,
        "--data",
        "synthetic",
        "--epochs",
        "1",
        "--set",
        &size,
        "--set",
        &limit,
        "--set",
        "data.test_limit=16",
        "--out",
        out,
        // Each thread sets addresses aside: with one for each core of a large machine, little would be left.
        "--threads",
        "2",
    ]);
    ["bash".to_owned(), "-c".to_owned(), script].into_iter().chain(words).collect()
}
