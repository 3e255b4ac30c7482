//! Truncated and bit-flipped checkpoints.

use super::files;
use super::lab::Lab;
use super::random::Random;
use super::setting;
use super::table::Row;
use super::trial::Trial;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Damaged variants.
const VARIANTS: usize = 1000;

/// Variants with which a run also goes on.
const RESUMED: usize = 20;

/// Bytes of a disk's sector that has lost its content.
const SECTOR: usize = 4096;

/// What became of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Reported as damaged.
    Found,
    /// Also not used by a run that went on.
    Passed,
    /// Not noticed, and a run that went on with it ended as if it were whole.
    Harmless,
}

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let mut base = lab.shared("checkpoints-base")?;
    let out = base.path("out");
    setting::stopped(&mut base, &mut lab.random("checkpoints-base", 0), &[])?;
    let all = files::checkpoints(&out)?;
    let [newest, _, ..] = &all[..] else { bail!("a stopped run has {} checkpoints, expected 2", all.len()) };
    let whole = files::read(newest)?;
    let name = files::name_in(&out, newest);
    let count = lab.count(VARIANTS);
    let each = (count / lab.count(RESUMED)).max(1);
    let tally = lab.each("checkpoint", count, |trial, random, i| {
        let (what, bytes) = damage(&whole, i, random);
        trial.note(&format!("{name}: {what}"));
        examine(lab, trial, &Copy { out: &out, name: &name, bytes: &bytes }, i.is_multiple_of(each))
    });
    let of = |verdict: Verdict| tally.seen.iter().filter(|v| **v == verdict).count();
    let seen = format!(
        "{} reported as damaged; with {} of them a run went on from the older one; {} not noticed, with the same end",
        of(Verdict::Found) + of(Verdict::Passed),
        of(Verdict::Passed),
        of(Verdict::Harmless)
    );
    let how = format!(
        "the newest of a stopped run ({} bytes) cut, with a bit flipped or a sector empty",
        whole.len()
    );
    Ok(vec![Row::new("damaged checkpoint", &how, tally.seen.len() + tally.lost.len(), &seen, tally.lost)])
}

/// A stopped run's folder with one file damaged.
struct Copy<'a> {
    out: &'a Path,
    name: &'a str,
    bytes: &'a [u8],
}

impl Copy<'_> {
    /// For looking at.
    fn link(&self, to: &Path) -> Result<()> {
        files::link(self.out, to)?;
        files::replace(&to.join(self.name), self.bytes)
    }

    /// For going on with.
    fn make(&self, to: &Path) -> Result<()> {
        files::copy(self.out, to)?;
        files::replace(&to.join(self.name), self.bytes)
    }
}

/// A variant that differs from the whole file, and what was done to it.
fn damage(whole: &[u8], i: usize, random: &mut Random) -> (String, Vec<u8>) {
    loop {
        let mut bytes = whole.to_vec();
        let what = match i % 20 {
            // A tenth of the cuts is in the first bytes.
            0 => cut(&mut bytes, random.below(64)),
            1..8 => cut(&mut bytes, random.below(whole.len())),
            8 => {
                let at = random.below(whole.len() / SECTOR) * SECTOR;
                bytes[at..at + SECTOR].fill(0);
                format!("{SECTOR} zeros at byte {at}")
            }
            9..14 => flip(&mut bytes, random.below(header(whole)), random.below(8)),
            _ => flip(&mut bytes, random.below(whole.len()), random.below(8)),
        };
        if bytes != whole {
            return (what, bytes);
        }
    }
}

fn cut(bytes: &mut Vec<u8>, len: usize) -> String {
    bytes.truncate(len);
    format!("cut to {len} bytes")
}

fn flip(bytes: &mut [u8], at: usize, bit: usize) -> String {
    bytes[at] ^= 1 << bit;
    format!("bit {bit} of byte {at} flipped")
}

/// Bytes of the length and the names, shapes and sums that a safetensors file begins with.
fn header(file: &[u8]) -> usize {
    let length = file.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes) as usize);
    (8 + length).min(file.len())
}

fn examine(lab: &Lab, trial: &mut Trial, copy: &Copy<'_>, resume: bool) -> Result<Verdict> {
    copy.link(&trial.path("out"))?;
    let words = trial.dkd(&["runs", "show", "out"]);
    let shown = trial.run(&words)?;
    shown.expect(0, &[copy.name])?;
    let line = shown.out.lines().find(|line| line.trim_start().starts_with(copy.name));
    let line = line.with_context(|| format!("`dkd runs show` has no line for {}", copy.name))?;
    let found = line.split_whitespace().any(|word| word == "damaged");
    if found && !resume {
        return Ok(Verdict::Found);
    }
    std::fs::remove_dir_all(trial.path("out"))?;
    copy.make(&trial.path("out"))?;
    if found {
        let file = PathBuf::from(copy.name);
        let file = file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        setting::finish(trial, lab, &[], &["cannot be used", &file, "going on with"])?;
        Ok(Verdict::Passed)
    } else {
        setting::finish(trial, lab, &[], &["going on with", copy.name])
            .context("damaged, and not noticed")?;
        Ok(Verdict::Harmless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_damaged() {
        let mut whole = 20_000_u64.to_le_bytes().to_vec();
        whole.extend((0..60_000_u32).map(|i| (i % 251) as u8));
        assert_eq!(header(&whole), 20_008);
        assert_eq!(header(&whole[..4]), 4);
        let (mut cuts, mut flips) = (0, 0);
        for i in 0..200 {
            let (what, bytes) = damage(&whole, i, &mut Random::new(1, "variants", i));
            assert!(bytes != whole, "{what}");
            cuts += usize::from(bytes.len() < whole.len());
            flips += usize::from(bytes.len() == whole.len());
        }
        assert_eq!((cuts, flips), (80, 120));
    }
}
