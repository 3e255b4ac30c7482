//! What would be trained, and how long it would take.

use super::table::Table;
use crate::run::output;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Images of CIFAR-100.
const TRAIN: f64 = 50_000.0;
const TEST: f64 = 10_000.0;

/// Images per second of a network.
#[derive(Clone, Copy, Debug)]
struct Rate {
    train: f64,
    infer: f64,
}

/// Hours of a teacher's own training and of a pair's rows, for one seed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Hours {
    teacher: f64,
    rows: f64,
}

/// For rows with so many views of an image.
fn hours(teacher: Rate, student: Rate, views: &[u32], epochs: u64) -> Hours {
    let epoch = |rate: Rate, views: u32| TRAIN * f64::from(views) / rate.train + TEST / rate.infer;
    // The rows of a pair share the teacher's passes, one for each view.
    let passes = views.iter().copied().max().unwrap_or(0);
    let students: f64 = views.iter().map(|views| epoch(student, *views)).sum();
    let together = TRAIN * f64::from(passes) / teacher.infer + students;
    let hours = |seconds: f64| seconds * epochs as f64 / 3600.0;
    Hours { teacher: hours(epoch(teacher, 1)), rows: hours(together) }
}

/// Prints a table of hours; speeds are measured for a second each.
pub fn print(dkd: &Path, tables: &[Table], epochs: u64, seeds: u64, threads: usize) -> Result<()> {
    let mut rates = BTreeMap::new();
    for model in tables.iter().flat_map(|t| [&t.teacher, &t.student]) {
        if !rates.contains_key(model) {
            let of = |mode: &str| rate(dkd, model, mode, threads);
            rates.insert(model.clone(), Rate { train: of("train")?, infer: of("infer")? });
        }
    }
    println!("| pair | rows | teacher, hours | rows, hours |");
    println!("|---|---:|---:|---:|");
    let mut total = 0.0;
    for (i, table) in tables.iter().enumerate() {
        let mut h = hours(rates[&table.teacher], rates[&table.student], &table.views(), epochs);
        if tables[..i].iter().any(|earlier| earlier.teacher == table.teacher) {
            h.teacher = 0.0;
        }
        println!("| {} | {} | {:.1} | {:.1} |", table.pair, table.rows.len(), h.teacher, h.rows);
        total += (h.teacher + h.rows) * seeds as f64;
    }
    println!(
        "\n{epochs} epochs, {seeds} seed{}: {total:.1} hours on this machine, losses and data aside. A teacher is trained once for \
         each seed. Measured from a few steps of every network.",
        if seeds == 1 { "" } else { "s" }
    );
    Ok(())
}

fn rate(dkd: &Path, model: &str, mode: &str, threads: usize) -> Result<f64> {
    let mut command = Command::new(dkd);
    command.args(["bench", "--json", "--model", model, "--mode", mode, "--classes", "100", "--seconds", "1"]);
    command.args(["--threads", &threads.to_string()]);
    let text = output(&mut command)?;
    let last = text.lines().last().context("a measurement prints one line of JSON")?;
    let result: Value = serde_json::from_str(last)?;
    result["images_per_s"].as_f64().context("a measurement has images_per_s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_teacher_is_shared() {
        let teacher = Rate { train: 100.0, infer: 500.0 };
        let student = Rate { train: 1000.0, infer: 5000.0 };
        let one = hours(teacher, student, &[1], 36);
        assert!((one.teacher - 0.01 * (500.0 + 20.0)).abs() < 1e-12);
        assert!((one.rows - 0.01 * (100.0 + 52.0)).abs() < 1e-12);
        assert!((hours(teacher, student, &[1; 3], 36).rows - 0.01 * (100.0 + 156.0)).abs() < 1e-12);
        assert!((hours(teacher, student, &[1, 2], 36).rows - 0.01 * (200.0 + 154.0)).abs() < 1e-12);
    }
}
