//! Damaged data files.

use super::cifar::{self, Damage, FILES};
use super::files;
use super::lab::Lab;
use super::process::Words;
use super::random::Random;
use super::table::Row;
use super::trial::Trial;
use anyhow::{Context, Result, bail};
use std::path::Path;

/// Damaged variants.
const VARIANTS: usize = 1000;

/// Variants with which a stopped run is asked to go on.
const REFUSED: usize = 10;

/// The exit code for missing or damaged data.
const DATA: i32 = 4;

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let mut base = lab.shared("data-base")?;
    let data = base.path("data");
    cifar::write(&data, &mut Random::new(0, "cifar", 0))?;
    let original = fingerprint(&mut base)?;
    let count = lab.count(VARIANTS);
    let tally = lab.each("data", count, |trial, random, i| {
        let damage = Damage::new(i, random);
        let file = place(trial, &data, damage, random)?;
        examine(trial, damage, file, &original)
    });
    let named = tally.seen.iter().filter(|named| **named).count();
    let variants = Row::new(
        "damaged data",
        "one of six CIFAR-10 files cut, longer, missing, with a label that is no class or another one, or a pixel's bit flipped",
        tally.seen.len() + tally.lost.len(),
        &format!("{named} refused by name, {} seen in the SHA-256", tally.seen.len() - named),
        tally.lost,
    );
    let words = train(&base, &[]);
    stop(&mut base, &words)?;
    let out = base.path("out");
    let tally = lab.each("data-resume", lab.count(REFUSED), |trial, random, i| {
        files::copy(&out, &trial.path("out"))?;
        // The last four kinds are those that cannot be seen in a file alone.
        let damage = Damage::new(16 + i % 4, random);
        place(trial, &data, damage, random)?;
        let words = train(trial, &["--resume"]);
        trial.run(&words)?.expect(1, &["was made with other images", "checkpoints"])
    });
    // And with what it was trained on, it goes on.
    let words = train(&base, &["--resume"]);
    base.run(&words)?.expect(0, &["going on with"])?;
    let refused = Row::new(
        "data changed between stop and resume",
        "a pixel's bit flipped or another class, then `--resume`",
        tally.seen.len() + tally.lost.len(),
        "all refused, and the run goes on with its own data",
        tally.lost,
    );
    Ok(vec![variants, refused])
}

/// Puts the data set into a trial's folder, with one file damaged; its name.
fn place(trial: &mut Trial, data: &Path, damage: Damage, random: &mut Random) -> Result<&'static str> {
    let file = FILES[random.below(FILES.len())];
    files::link(data, &trial.path("data"))?;
    damage.apply(&trial.path("data").join(file), &data.join(file))?;
    trial.note(&format!("data/{file}: {damage:?}"));
    Ok(file)
}

fn info(trial: &Trial) -> Words {
    trial.dkd(&["data", "info", "--data", "data", "--dataset", "cifar10"])
}

/// The SHA-256 of the data in a trial's folder.
fn fingerprint(trial: &mut Trial) -> Result<String> {
    let words = info(trial);
    let ended = trial.run(&words)?;
    ended.expect(0, &["cifar10"])?;
    let line = ended.out.lines().find_map(|line| line.strip_prefix("sha256 "));
    line.map(str::to_owned).context("`dkd data info` names no sha256")
}

/// Whether the damage was named; otherwise it must be seen in the fingerprint.
fn examine(trial: &mut Trial, damage: Damage, file: &str, original: &str) -> Result<bool> {
    let Some(expected) = damage.expected() else {
        if fingerprint(trial)? == original {
            bail!("the SHA-256 does not tell that {file} is damaged");
        }
        return Ok(false);
    };
    let mut said: Vec<&str> = expected.iter().map(String::as_str).collect();
    said.push(file);
    let words = info(trial);
    trial.run(&words)?.expect(DATA, &said)?;
    Ok(true)
}

fn train(trial: &Trial, more: &[&str]) -> Words {
    let fixed = [
        "train",
        "--model",
        "resnet8",
        "--data",
        "data",
        "--dataset",
        "cifar10",
        "--epochs",
        "2",
        "--set",
        "data.train_limit=96",
        "--set",
        "data.test_limit=32",
        "--set",
        "train.batch_size=8",
        "--set",
        "checkpoints.every_steps=1",
        "--out",
        "out",
        "--threads",
        "1",
    ];
    trial.dkd(&[&fixed, more].concat())
}

/// Starts a run and stops it once it has a checkpoint.
fn stop(trial: &mut Trial, words: &[String]) -> Result<()> {
    let out = trial.path("out");
    let mut running = trial.start(words)?;
    running.until(|_| files::checkpoints(&out).is_ok_and(|all| !all.is_empty()))?;
    running.signal("TERM")?;
    running.end()?.expect(130, &["--resume"])
}
