//! A made-up CIFAR-10 and what can happen to its files.

use super::random::Random;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// The files of the official layout.
pub const FILES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];

/// Images in a file.
const RECORDS: usize = 10_000;

/// A label and three planes of pixels.
const RECORD: usize = 1 + 3 * 32 * 32;

/// Bytes of a file.
pub const BYTES: usize = RECORDS * RECORD;

/// Classes.
const CLASSES: usize = 10;

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// So many bytes are left.
    Truncated(usize),
    /// So many bytes are too many.
    Lengthened(usize),
    /// A label that is no class.
    NoClass { record: usize, label: u8 },
    /// The file is gone.
    Missing,
    /// A bit of a pixel.
    Pixel { at: usize, bit: u8 },
    /// Another class.
    OtherClass { record: usize, label: u8 },
}

impl Damage {
    /// The damage of a trial, by its number: each kind has its share.
    pub fn new(i: usize, random: &mut Random) -> Self {
        let record = random.below(RECORDS);
        match i % 20 {
            0 => Self::Missing,
            1..7 => Self::Truncated(random.below(BYTES)),
            7..11 => Self::Lengthened(1 + random.below(3 * RECORD)),
            11..16 => Self::NoClass { record, label: (CLASSES + random.below(256 - CLASSES)) as u8 },
            16..19 => {
                let at = record * RECORD + 1 + random.below(RECORD - 1);
                Self::Pixel { at, bit: random.below(8) as u8 }
            }
            _ => Self::OtherClass { record, label: random.below(CLASSES) as u8 },
        }
    }

    /// What the program must say; nothing if only the data's fingerprint can tell.
    pub fn expected(self) -> Option<Vec<String>> {
        let size = |found: usize| vec![format!("has {found} bytes"), format!("expected {BYTES}")];
        match self {
            Self::Truncated(bytes) => Some(size(bytes)),
            Self::Lengthened(bytes) => Some(size(BYTES + bytes)),
            Self::NoClass { record, label } => {
                Some(vec![format!("record {record}"), format!("label {label} is not a class (0 to 9)")])
            }
            Self::Missing => Some(vec!["is missing".to_owned()]),
            Self::Pixel { .. } | Self::OtherClass { .. } => None,
        }
    }

    /// Damages a file that is a copy of `original`.
    pub fn apply(self, file: &Path, original: &Path) -> Result<()> {
        let failed = || format!("cannot damage {}", file.display());
        std::fs::remove_file(file).with_context(failed)?;
        if self == Self::Missing {
            return Ok(());
        }
        std::fs::copy(original, file).with_context(failed)?;
        let mut open = File::options().read(true).write(true).open(file).with_context(failed)?;
        let mut put = |at: usize, change: &dyn Fn(u8) -> u8| -> std::io::Result<()> {
            let mut byte = [0];
            open.seek(SeekFrom::Start(at as u64))?;
            std::io::Read::read_exact(&mut open, &mut byte)?;
            open.seek(SeekFrom::Start(at as u64))?;
            open.write_all(&[change(byte[0])])
        };
        let done = match self {
            Self::Truncated(bytes) => open.set_len(bytes as u64),
            Self::Lengthened(bytes) => open.set_len((BYTES + bytes) as u64),
            Self::NoClass { record, label } => put(record * RECORD, &|_| label),
            Self::Pixel { at, bit } => put(at, &|byte| byte ^ (1 << bit)),
            // Never the class that it is.
            Self::OtherClass { record, label } => {
                let other = |byte: u8| if byte == label { (label + 1) % CLASSES as u8 } else { label };
                put(record * RECORD, &other)
            }
            Self::Missing => Ok(()),
        };
        done.with_context(failed)
    }
}

/// Writes all files with random pixels.
pub fn write(folder: &Path, random: &mut Random) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for name in FILES {
        let mut bytes = Vec::with_capacity(BYTES + 8);
        while bytes.len() < BYTES {
            bytes.extend_from_slice(&random.word().to_le_bytes());
        }
        bytes.truncate(BYTES);
        bytes.chunks_mut(RECORD).for_each(|record| record[0] %= CLASSES as u8);
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_changes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (original, copy) = (folder.path().join("original"), folder.path().join("copy"));
        let whole: Vec<u8> = (0..BYTES).map(|i| if i.is_multiple_of(RECORD) { 3 } else { 100 }).collect();
        std::fs::write(&original, &whole).unwrap();
        for i in 0..20 {
            std::fs::write(&copy, b"").unwrap();
            let damage = Damage::new(i, &mut Random::new(3, "damage", i));
            damage.apply(&copy, &original).unwrap();
            let found = std::fs::read(&copy).ok();
            assert!(found.as_ref() != Some(&whole), "{damage:?}");
            assert_eq!(found.is_none(), damage == Damage::Missing);
            let in_place =
                matches!(damage, Damage::NoClass { .. } | Damage::Pixel { .. } | Damage::OtherClass { .. });
            assert_eq!(in_place, found.is_some_and(|f| f.len() == BYTES), "{damage:?}");
        }
        let same = Damage::OtherClass { record: 7, label: 3 };
        same.apply(
            &{
                std::fs::write(&copy, b"").unwrap();
                copy.clone()
            },
            &original,
        )
        .unwrap();
        assert_eq!(std::fs::read(&copy).unwrap()[7 * RECORD], 4);
    }
}
