//! What cuDNN would choose for the convolutions of networks on a device that is not here.

use crate::network::convolutions;
use crate::suite::{Sizes, name_of};
use anyhow::Result;
use dkd_kernels::gpu::convolution::{Convolution, Pass, Proposed};
use dkd_trainer::Arithmetic;
use std::collections::BTreeMap;

/// What a device would be asked for: see [`all`].
pub struct Asked<'a> {
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
}

/// Asks for the engine of a pass of a convolution, whose result is added to what is there if the last is true.
pub type Ask<'a> = dyn FnMut(Pass, &Convolution, bool) -> Result<Engine> + 'a;

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
    asked: &Asked<'_>,
    engine: &mut Ask<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<(String, Arithmetic, Row)>> {
    let mut rows = Vec::new();
    for model in asked.models {
        for arithmetic in asked.precisions {
            let mut counts: BTreeMap<String, (Pass, Convolution, usize)> = BTreeMap::new();
            for (pass, convolution) in convolutions((model, asked.classes), asked.batch, *arithmetic)? {
                let name = format!("{convolution}, {pass}");
                counts.entry(name).or_insert((pass, convolution, 0)).2 += 1;
            }
            let mut row = Row::default();
            for (name, (pass, convolution, count)) in &counts {
                row.all += count;
                let mut ways = vec![engine(*pass, convolution, false)?];
                if *pass == Pass::InputGradient {
                    ways.push(engine(*pass, convolution, true)?);
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
            rows.push((model.clone(), *arithmetic, row));
        }
    }
    Ok(rows)
}

/// A table for people, and for docs/cuda.md.
pub fn table(rows: &[(String, Arithmetic, Row)]) -> Vec<String> {
    let head = "| network | precision | convolutions | by kernels of ours | rearranged first | largest workspace, MB |";
    let mut lines = vec![head.to_owned(), "|---|---|---|---|---|---|".to_owned()];
    lines.extend(rows.iter().map(|(model, arithmetic, row)| {
        let Row { all, ours, rearranged, workspace } = row;
        let space = *workspace as f64 / 1e6;
        format!("| {model} | {} | {all} | {ours} | {rearranged} | {space:.1} |", name_of(*arithmetic))
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_convolution_is_asked_for_and_counted() {
        let models = ["resnet8".to_owned()];
        let asked = Asked { models: &models, classes: 10, batch: 4, precisions: &[Arithmetic::Tf32] };
        let mut said = Vec::new();
        let mut added = 0;
        let mut engine = |pass: Pass, convolution: &Convolution, accumulate: bool| -> Result<Engine> {
            added += usize::from(accumulate);
            if convolution.kernel == (1, 1) && convolution.stride == (2, 2) {
                return Ok(Err("never".to_owned()));
            }
            let (workspace, rearranges) = (100 * usize::from(accumulate), pass == Pass::WeightGradient);
            Ok(Ok(Proposed { name: "engine 1".to_owned(), workspace, rearranges }))
        };
        let rows = all(&asked, &mut engine, &mut |line| said.push(line.to_owned())).unwrap();
        // Nine convolutions and a linear layer, of which the first needs no gradient of its input; two of them are shortcuts.
        let row = Row { all: 29, ours: 6, rearranged: 8, workspace: 100 };
        assert_eq!(rows, [("resnet8".to_owned(), Arithmetic::Tf32, row)]);
        assert!(added > 0 && said.iter().any(|line| line.contains("none (never)")));
        assert_eq!(table(&rows)[2], "| resnet8 | tf32 | 29 | 6 | 8 | 0.0 |");
    }
}
