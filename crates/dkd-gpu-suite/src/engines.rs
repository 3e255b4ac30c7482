//! What cuDNN would choose for the convolutions of networks on a device that is not here.

use crate::network::{convolutions, fusible};
use crate::suite::{Sizes, name_of};
use anyhow::Result;
use dkd_kernels::gpu::convolution::{Convolution, Epilogue, Pass, Proposed};
use dkd_trainer::Arithmetic;
use std::collections::BTreeMap;

/// What an engine is for.
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    /// A pass of a convolution.
    Pass {
        /// Which.
        pass: Pass,
        /// Its sizes.
        convolution: Convolution,
        /// Whether its result is added to what is there.
        accumulate: bool,
    },
    /// A forward pass with what follows it.
    Fused {
        /// Its sizes.
        convolution: Convolution,
        /// What follows.
        epilogue: Epilogue,
    },
}

/// What is run on a device: see [`all`].
pub struct Networks<'a> {
    /// Networks.
    pub models: &'a [String],
    /// Classes of their last layer.
    pub classes: usize,
    /// Images in a batch.
    pub batch: usize,
    /// How they compute.
    pub precisions: &'a [Arithmetic],
}

/// An engine, or why there is none.
pub type Engine = std::result::Result<Proposed, String>;

/// All convolutions of a network's training step in one precision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Convolutions, each pass counted.
    pub all: usize,
    /// Those that cuDNN does not compute.
    pub ours: usize,
    /// Those that bring an operand into another order first.
    pub rearranged: usize,
    /// The largest workspace, in bytes.
    pub workspace: usize,
    /// Convolutions of an evaluation whose output is normalised, and read by nobody else.
    pub pairs: usize,
    /// Those of them that can be computed with all that follows.
    pub in_one: usize,
}

/// Asks for an engine.
pub type Ask<'a> = dyn FnMut(&Asked) -> Result<Engine> + 'a;

/// Networks whose training is measured, and the replication's.
pub fn models() -> Vec<String> {
    let mut all = Sizes::full().bench_models;
    all.extend(["seed_teacher", "seed_student"].map(str::to_owned));
    all
}

/// Asks `engine` for every convolution of every network; `say` gets a line for each kind.
///
/// # Errors
/// A network cannot be built; `engine`'s.
pub fn all(
    networks: &Networks<'_>,
    engine: &mut Ask<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<(String, Arithmetic, Row)>> {
    let mut rows = Vec::new();
    for model in networks.models {
        for arithmetic in networks.precisions {
            let mut counts: BTreeMap<String, (Pass, Convolution, usize)> = BTreeMap::new();
            for (pass, convolution) in convolutions((model, networks.classes), networks.batch, *arithmetic)? {
                let name = format!("{convolution}, {pass}");
                counts.entry(name).or_insert((pass, convolution, 0)).2 += 1;
            }
            let mut row = Row::default();
            for (name, (pass, convolution, count)) in &counts {
                row.all += count;
                let mut ask =
                    |accumulate| engine(&Asked::Pass { pass: *pass, convolution: *convolution, accumulate });
                let mut ways = vec![ask(false)?];
                if *pass == Pass::InputGradient {
                    ways.push(ask(true)?);
                }
                let ways: std::result::Result<Vec<_>, String> = ways.into_iter().collect();
                match ways {
                    Ok(ways) => {
                        row.rearranged += if ways.iter().any(|way| way.rearranges) { *count } else { 0 };
                        row.workspace = ways.iter().map(|way| way.workspace).fold(row.workspace, usize::max);
                        let Proposed { name: engine, workspace: space, rearranges } = &ways[0];
                        let order = if *rearranges { ", rearranges" } else { "" };
                        say(&format!("{model}: {count} x {name}: {engine}, {space} bytes{order}"));
                    }
                    Err(why) => {
                        row.ours += count;
                        say(&format!("{model}: {count} x {name}: none ({why})"));
                    }
                }
            }
            let mut counts: BTreeMap<String, (Asked, usize)> = BTreeMap::new();
            for (convolution, epilogue) in fusible((model, networks.classes), networks.batch, *arithmetic)? {
                let name = format!("{convolution}, {epilogue}");
                counts.entry(name).or_insert((Asked::Fused { convolution, epilogue }, 0)).1 += 1;
            }
            for (name, (asked, count)) in &counts {
                let found = engine(asked)?;
                row.pairs += count;
                row.in_one += if found.is_ok() { *count } else { 0 };
                let said = found.map_or_else(|why| format!("apart ({why})"), |engine| engine.name);
                say(&format!("{model}: {count} x {name}: {said}"));
            }
            rows.push((model.clone(), *arithmetic, row));
        }
    }
    Ok(rows)
}

/// A table for people, and for docs/cuda.md.
pub fn table(rows: &[(String, Arithmetic, Row)]) -> Vec<String> {
    let head = "| network | precision | convolutions | by kernels of ours | rearranged first | largest workspace, MB | in one |";
    let mut lines = vec![head.to_owned(), "|---|---|---|---|---|---|---|".to_owned()];
    lines.extend(rows.iter().map(|(model, arithmetic, row)| {
        let Row { all, ours, rearranged, workspace, pairs, in_one } = row;
        let space = *workspace as f64 / 1e6;
        let kind = name_of(*arithmetic);
        format!("| {model} | {kind} | {all} | {ours} | {rearranged} | {space:.1} | {in_one} of {pairs} |")
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_convolution_is_asked_for_and_counted() {
        let models = ["resnet8".to_owned()];
        let networks = Networks { models: &models, classes: 10, batch: 4, precisions: &[Arithmetic::Tf32] };
        let mut said = Vec::new();
        let mut added = 0;
        let mut engine = |asked: &Asked| -> Result<Engine> {
            let (pass, convolution, accumulate) = match asked {
                Asked::Pass { pass, convolution, accumulate } => (*pass, convolution, *accumulate),
                Asked::Fused { convolution, epilogue } => {
                    assert!(convolution.kernel == (3, 3) || !epilogue.relu);
                    (Pass::Forward, convolution, false)
                }
            };
            added += usize::from(accumulate);
            if convolution.kernel == (1, 1) && convolution.stride == (2, 2) {
                return Ok(Err("never".to_owned()));
            }
            let (workspace, rearranges) = (100 * usize::from(accumulate), pass == Pass::WeightGradient);
            Ok(Ok(Proposed { name: "engine 1".to_owned(), workspace, rearranges }))
        };
        let rows = all(&networks, &mut engine, &mut |line| said.push(line.to_owned())).unwrap();
        // Nine convolutions and a linear layer, of which the first needs no gradient of its input; two of them are shortcuts.
        let row = Row { all: 29, ours: 6, rearranged: 8, workspace: 100, pairs: 9, in_one: 7 };
        assert_eq!(rows, [("resnet8".to_owned(), Arithmetic::Tf32, row)]);
        assert!(added > 0 && said.iter().any(|line| line.contains("none (never)")));
        assert_eq!(table(&rows)[2], "| resnet8 | tf32 | 29 | 6 | 8 | 0.0 | 7 of 9 |");
    }
}
