//! How often a thread of a kernel waits for memory: what NVIDIA's disassembler says of the machine code.
//!
//! An instruction that takes a while sets one of six scoreboards of its warp, and whoever needs its result names the boards that must be
//! clear before it begins. So the code says which loads are under way together, and which begin only when others have come: as many rounds, each
//! as long as memory takes to answer.

use super::Place;
use crate::run::output;
use anyhow::Result;
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// The first that PyPI has; it knows the devices that NVRTC compiles for.
const PACKAGE: &str = "nvidia-cuda-nvdisasm==13.2.51";

/// Of one kernel's code, from its beginning to its end, each loop once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waits {
    /// Reads of global memory, and atomic operations on it.
    pub loads: usize,
    /// How many of these follow each other, because the code waits in between.
    pub rounds: usize,
}

/// Of all kernels in a file of machine code; why not, if there is no disassembler.
pub fn of(place: &Place, code: &Path) -> Result<std::result::Result<HashMap<String, Waits>, String>> {
    let folder = place.folder.join(PACKAGE.replace("==", "-"));
    if let Err(why) = place.install(&["--no-deps", PACKAGE], &folder)? {
        return Ok(Err(why));
    }
    let text = match output(Command::new(folder.join("nvidia/cu13/bin/nvdisasm")).arg("-hex").arg(code)) {
        Ok(text) => text,
        Err(why) => return Ok(Err(why.to_string())),
    };
    let found = kernels(&text);
    let understood = found.values().any(|waits| waits.rounds > 0);
    Ok(if understood { Ok(found) } else { Err("what nvdisasm says is not understood".to_owned()) })
}

fn kernels(text: &str) -> HashMap<String, Waits> {
    let sections = text.split(".section\t.text.").skip(1).filter_map(|section| section.split_once(','));
    sections.map(|(name, code)| (name.to_owned(), waits(code))).collect()
}

/// An instruction's word of scheduling, above its operation: the board that it sets, or 7, and those that it waits for.
fn boards(word: u64) -> (usize, usize) {
    ((word >> 46 & 7) as usize, (word >> 52 & 63) as usize)
}

fn waits(code: &str) -> Waits {
    // For each board the last round of the loads that will clear it.
    let mut pending = [0; 8];
    let mut found = Waits::default();
    let mut done = 0;
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let Some((operation, word)) = instruction(line, &mut lines) else { continue };
        let (sets, needs) = boards(word);
        for board in (0..6).filter(|board| needs >> board & 1 == 1) {
            done = done.max(std::mem::take(&mut pending[board]));
        }
        if matches!(operation.split('.').next(), Some("LDG" | "LD" | "ATOMG" | "ATOM")) {
            found.loads += 1;
            found.rounds = found.rounds.max(done + 1);
            pending[sets] = pending[sets].max(done + 1);
        }
    }
    found
}

/// The operation of a line of code, without its condition, and the upper half of its code, which is the next line.
fn instruction<'a>(line: &'a str, next: &mut std::str::Lines<'a>) -> Option<(&'a str, u64)> {
    let (_, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let (text, _) = rest.split_once(';')?;
    let mut words = text.split_whitespace();
    let first = words.next()?;
    let operation = if first.starts_with('@') { words.next()? } else { first };
    let word = next.next()?.trim().strip_prefix("/* 0x")?.strip_suffix(" */")?;
    u64::from_str_radix(word, 16).ok().map(|word| (operation, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instruction as nvdisasm prints it, that sets board `sets` (7: none) and waits for those of `needs`.
    fn line(text: &str, sets: u64, needs: u64) -> String {
        let word = sets << 46 | needs << 52 | 0x1f;
        format!("        /*0010*/    {text} ;    /* 0x00000a00ff017b82 */\n    /* 0x{word:016x} */\n")
    }

    #[test]
    fn loads_follow_each_other_where_the_code_waits() {
        let together = [
            line("@!P1 LDG.E.128 R4, desc[UR6][R2.64]", 0, 0),
            line("LDG.E R8, desc[UR6][R2.64+0x10]", 1, 0),
            line("FADD R4, R4, R8", 7, 3),
        ];
        assert_eq!(waits(&together.concat()), Waits { loads: 2, rounds: 1 });
        let after = [
            line("LDG.E R4, desc[UR6][R2.64]", 0, 0),
            line("LDS R5, [R6]", 1, 0),
            line("FADD R5, R5, R5", 7, 2),
            line("LDG.E R8, desc[UR6][R2.64]", 1, 0),
            line("FADD R4, R4, R4", 7, 1),
            line("ATOM.E.INC.STRONG.GPU PT, R8, desc[UR6][R2.64], R5", 0, 0),
            line("FADD R8, R8, R8", 7, 3),
            line("LDG.E.U16 R8, desc[UR6][R2.64]", 0, 0),
        ];
        assert_eq!(waits(&after.concat()), Waits { loads: 4, rounds: 3 });
        assert_eq!(waits("nothing\n  .L_x_3:\n"), Waits::default());
    }

    #[test]
    fn kernels_are_told_apart() {
        let load = line("LDG.E R4, desc[UR6][R2.64]", 0, 0);
        let text = format!(
            "\t.section\t.nv.info,\"\"\n\t.section\t.text.sums_f32,\"ax\",@progbits\n{load}{load}\t.section\t.text.copy,\"ax\"\n{load}"
        );
        let found = kernels(&text);
        assert_eq!(found["sums_f32"], Waits { loads: 2, rounds: 1 });
        assert_eq!((found.len(), found["copy"].loads), (2, 1));
    }
}
