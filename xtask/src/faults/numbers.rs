//! Numbers that are not finite: in a teacher's file, and from a learning rate that is far too large.

use super::files;
use super::lab::Lab;
use super::process::Ended;
use super::random::Random;
use super::table::Row;
use super::trial::Trial;
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Trials with teachers, and seeds for each policy.
const TEACHERS: usize = 20;
const SEEDS: usize = 3;

/// The exit code of a run that a loss has ended.
const DIVERGED: i32 = 5;

/// A row that is well and one whose first step is far too large.
const TABLE: &str = r#"name = "n"
data = { dataset = "synthetic", train_limit = 64, test_limit = 32 }
train = { epochs = 2, batch_size = 8 }
optimizer.lr = 0.02
student.model = "resnet8"
[[rows]]
id = "well"
[[rows]]
id = "wild"
optimizer.lr = 1e30
"#;

/// What a policy promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Stop,
    Mark,
    Continue,
    Skip,
    /// More bad batches in a row than may be left out.
    SkipTooMany,
    Rewind,
    /// A row that does not recover.
    RewindTooOften,
}

const POLICIES: [Policy; 7] = [
    Policy::Stop,
    Policy::Mark,
    Policy::Continue,
    Policy::Skip,
    Policy::SkipTooMany,
    Policy::Rewind,
    Policy::RewindTooOften,
];

impl Policy {
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Stop => &["train.nonfinite=stop"],
            Self::Mark => &["train.nonfinite=mark"],
            Self::Continue => &["train.nonfinite=continue"],
            Self::Skip => &["train.nonfinite=skip"],
            Self::SkipTooMany => &["train.nonfinite=skip", "train.epochs=14"],
            Self::Rewind => &["train.nonfinite=rewind", "train.rewind_factor=1e-6"],
            Self::RewindTooOften => &["train.nonfinite=rewind", "train.rewind_factor=1.0"],
        }
    }
}

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let teachers =
        lab.each("nan-teacher", lab.count(TEACHERS), |trial, random, _| teacher(lab, trial, random));
    let count = lab.count(SEEDS) * POLICIES.len();
    let policies = lab.each("nan-policy", count, |trial, _, i| {
        policy(trial, POLICIES[i % POLICIES.len()], i / POLICIES.len())
    });
    Ok(vec![
        Row::new(
            "NaN in a teacher",
            "a value of one of its tensors set to NaN or infinity",
            teachers.seen.len() + teachers.lost.len(),
            "each was refused, with file and tensor",
            teachers.lost,
        ),
        Row::new(
            "numbers that explode",
            "a row with a learning rate of 1e30 beside one that is well, under each policy of `train.nonfinite`",
            policies.seen.len() + policies.lost.len(),
            "`stop` named step, term, layer and samples, and `dkd debug` showed the step; the row that was well kept its bytes",
            policies.lost,
        ),
    ])
}

/// A teacher with a value that is none.
fn teacher(lab: &Lab, trial: &mut Trial, random: &mut Random) -> Result<()> {
    let mut bytes = files::read(&lab.reference.out.join("weights/teacher-0.safetensors"))?;
    let value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.below(3)];
    let name = poison(&mut bytes, value, random)?;
    files::replace(&trial.path("teacher.safetensors"), &bytes)?;
    trial.note(&format!("{value} put into {name} of teacher.safetensors"));
    let words = trial.dkd(&[
        "distill",
        "--model",
        "resnet8",
        "--teacher-model",
        "resnet8",
        "--teacher-weights",
        "teacher.safetensors",
        "--method",
        "kd",
        "--data",
        "synthetic",
        "--epochs",
        "1",
        "--set",
        "data.train_limit=64",
        "--out",
        "out",
        "--threads",
        "1",
    ]);
    trial.run(&words)?.expect(1, &["teacher.safetensors", &format!("`{name}`"), "infinite or no numbers"])
}

/// Sets a value in a safetensors file; the tensor's name.
fn poison(file: &mut [u8], value: f32, random: &mut Random) -> Result<String> {
    let length =
        file.first_chunk().map(|bytes| u64::from_le_bytes(*bytes) as usize).context("no safetensors")?;
    let header: Value = serde_json::from_slice(file.get(8..8 + length).context("no safetensors")?)?;
    let tensors = header.as_object().context("no safetensors")?;
    let floats: Vec<(&String, usize, usize)> = tensors
        .iter()
        .filter(|(_, about)| about["dtype"] == "F32")
        .filter_map(|(name, about)| {
            let at = |i: usize| Some(about["data_offsets"][i].as_u64()? as usize);
            Some((name, at(0)?, at(1)?)).filter(|(_, begin, end)| begin < end)
        })
        .collect();
    let (name, begin, end) = floats.get(random.below(floats.len())).context("no tensor of F32")?;
    let at = 8 + length + begin + 4 * random.below((end - begin) / 4);
    file.get_mut(at..at + 4).context("no safetensors")?.copy_from_slice(&value.to_le_bytes());
    Ok((*name).clone())
}

/// The table in a folder of the trial, with settings.
fn table(trial: &mut Trial, out: &str, seed: usize, settings: &[&str], more: &[&str]) -> Result<Ended> {
    files::replace(&trial.path("n.toml"), TABLE.as_bytes())?;
    let seed = seed.to_string();
    let mut args = vec!["table", "n.toml", "--out", out, "--seed", &seed, "--threads", "1"];
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let words = trial.dkd(&[&args, more].concat());
    trial.run(&words)
}

fn policy(trial: &mut Trial, policy: Policy, seed: usize) -> Result<()> {
    let ended = table(trial, "out", seed, policy.settings(), &[])?;
    match policy {
        Policy::Stop => return stopped(trial, &ended, seed),
        Policy::SkipTooMany => {
            return ended.expect(DIVERGED, &["`wild`", "were left out for the same reason"]);
        }
        Policy::RewindTooOften => return ended.expect(DIVERGED, &["`wild`", "taken back too many times"]),
        Policy::Mark | Policy::Continue | Policy::Skip | Policy::Rewind => {}
    }
    ended.expect(0, &["wild"])?;
    let result = trial.path(&format!("out/results/n/wild-{seed}.json"));
    let result: Value = serde_json::from_slice(&files::read(&result)?)?;
    let diverged = result["diverged"]["step"].is_u64();
    let epochs = result["epochs"].as_array().map_or(0, Vec::len);
    let kept = match policy {
        // It ends there.
        Policy::Mark => diverged && epochs < 2,
        Policy::Continue => diverged && epochs == 2,
        Policy::Skip => !diverged && epochs == 2 && result["skipped"].as_u64() > Some(0),
        _ => !diverged && epochs == 2 && result["rewinds"].as_array().is_some_and(|all| !all.is_empty()),
    };
    if !kept {
        bail!("{policy:?} does not keep its promise: {result}");
    }
    // Beside whatever that was, the other row is as if it had been alone.
    table(trial, "alone", seed, &[], &["--rows", "well"])?.expect(0, &[])?;
    let weights = |out: &str| files::read(&trial.path(&format!("{out}/weights/well-{seed}.safetensors")));
    if weights("out")? != weights("alone")? {
        bail!("{policy:?}: the weights of the row that was well differ");
    }
    Ok(())
}

/// The run says where it went wrong, and `dkd debug` shows the step without changing anything.
fn stopped(trial: &mut Trial, ended: &Ended, seed: usize) -> Result<()> {
    ended.expect(DIVERGED, &["row `wild`", "First seen in", "samples", "the update was not made"])?;
    let step = ended.number_after(", step ")?;
    let before = files::exact(&trial.path("out"))?;
    let words =
        trial.dkd(&["debug", "out", "--data", "synthetic", "--seed", &seed.to_string(), "--threads", "1"]);
    let shown = trial.run(&words)?;
    shown.expect(0, &["row wild", &format!("step {step}"), "not finite first", "conv1"])?;
    files::same(&before, &files::exact(&trial.path("out"))?).context("`dkd debug` changes the folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_poisoned() {
        let header = r#"{"__metadata__":{"a":"b"},"n":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[3],"data_offsets":[8,20]}}"#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend([0; 20]);
        for i in 0..10 {
            let mut bad = file.clone();
            let name = poison(&mut bad, f32::INFINITY, &mut Random::new(0, "poison", i)).unwrap();
            assert_eq!(name, "w");
            let values = bad[8 + header.len() + 8..].chunks_exact(4);
            let values: Vec<f32> = values.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            assert_eq!((values.len(), values.iter().filter(|v| v.is_infinite()).count()), (3, 1));
        }
        assert!(poison(&mut [0; 4], f32::NAN, &mut Random::new(0, "poison", 0)).is_err());
    }
}
