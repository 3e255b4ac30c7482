//! All results in few lines: what is left of a run may be the end of its output.

use crate::report::{Line, number};
use crate::suite::name_of;
use anyhow::{Context, Result};
use dkd_kernels::gpu::convolution::Algorithms;
use dkd_trainer::Arithmetic;
use serde::Deserialize;
use std::fmt::Write;
use std::path::Path;

/// Columns that the name of a case may take.
const CASE: usize = 36;
/// The same in tables of rates and times.
const NAME: usize = 30;
/// Of what is not as it should be, so many lines: where a device is lost all that follows fails, and says no more than the first.
const BAD: usize = 12;
/// Lines of each network that was taken apart.
const TIMES: usize = 12;
/// Columns of the tables of rates and times.
const PRECISIONS: [Arithmetic; 3] = [Arithmetic::F32, Arithmetic::Tf32, Arithmetic::Bf16];

/// One of PyTorch's rates.
#[derive(Clone, Debug, Deserialize)]
pub struct Torch {
    case: String,
    batch: usize,
    variant: String,
    images_per_s: Option<f64>,
}

impl Torch {
    /// Reads what `gpu_torch.py` has written.
    ///
    /// # Errors
    /// The file cannot be read, or is another.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        #[derive(Deserialize)]
        struct File {
            results: Vec<Torch>,
        }
        let text = dkd_files::read_text_limited(path, 16 << 20)?;
        let file: File =
            serde_json::from_str(&text).with_context(|| format!("{}: no rates", path.display()))?;
        Ok(file.results)
    }
}

/// Differences, rates, times.
pub fn tables(lines: &[Line], left_out: usize, torch: &[Torch]) -> String {
    let mut text = differences(lines);
    rates(lines, torch, &mut text);
    times(lines, &mut text);
    let bad = lines.iter().filter(|line| !line.ok).count();
    let _ = writeln!(text, "{} results, {bad} of them not as they should be", lines.len());
    if left_out > 0 {
        let _ = writeln!(text, "{left_out} cases were left out, as it was too late");
    }
    text
}

/// The worst of each group, and all that is not as it should be.
fn differences(lines: &[Line]) -> String {
    let in_columns = |line: &&Line| line.ok && (line.unit == "us" || precision(line).is_some());
    let mut shown: Vec<&Line> = Vec::new();
    for line in lines.iter().filter(|line| !in_columns(line)) {
        let same = |other: &&mut &Line| other.ok && (&other.part, &other.group) == (&line.part, &line.group);
        match shown.iter_mut().find(same).filter(|_| line.ok) {
            Some(other) if line.rank() > other.rank() => *other = line,
            Some(_) => {}
            None => shown.push(line),
        }
    }
    let mut text =
        format!("{:<7} {:<CASE$} {:>14} {:>8} {:>6} ok\n", "part", "case", "value", "at most", "of it");
    let mut bad = 0;
    for line in shown {
        bad += usize::from(!line.ok);
        if !line.ok && bad > BAD {
            continue;
        }
        let case: String = line.named().chars().take(CASE).collect();
        let without = if line.failed() { "error" } else { "no number" };
        let value = line.value.map_or_else(|| without.to_owned(), number);
        let value = format!("{value} {}", line.unit);
        let (value, part) = (value.trim_end(), &line.part);
        let bound = line.bound.map_or_else(String::new, number);
        let share = line.share().unwrap_or_default();
        let ok = if line.ok { "yes" } else { "NO" };
        let _ = writeln!(text, "{part:<7} {case:<CASE$} {value:>14} {bound:>8} {share:>6} {ok}");
    }
    if bad > BAD {
        let _ = writeln!(text, "{} more that are not as they should be", bad - BAD);
    }
    text
}

/// A line for each group: rates in all precisions with their shares of what the device's own would allow, and PyTorch's, of which the last two
/// columns are: tf32 against `eager`, which computes alike, and the best against the best.
fn rates(lines: &[Line], torch: &[Torch], text: &mut String) {
    let rates: Vec<&Line> =
        lines.iter().filter(|line| line.ok && line.unit != "us" && precision(line).is_some()).collect();
    let mut groups: Vec<String> = Vec::new();
    let of_torch = torch.iter().map(|t| format!("{}, {}", t.case, t.batch));
    for group in rates.iter().map(|line| line.group.clone()).chain(of_torch) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    if groups.is_empty() {
        return;
    }
    let mut variants: Vec<&str> = Vec::new();
    for t in torch {
        if !variants.contains(&t.variant.as_str()) {
            variants.push(&t.variant);
        }
    }
    let mut head = format!("\n{:<NAME$}", "images a second, of what fits");
    for arithmetic in PRECISIONS {
        let _ = write!(head, " {:>7}     ", name_of(arithmetic));
    }
    for variant in &variants {
        let _ = write!(head, " {variant:>7}");
    }
    if !variants.is_empty() {
        head.push_str(" tf32/e.  best");
    }
    let _ = writeln!(text, "{}", head.trim_end());
    for group in groups {
        let own = |arithmetic: Arithmetic| {
            let mut of_group = rates.iter().filter(|line| line.group == group);
            of_group.find(|line| precision(line) == Some(arithmetic))
        };
        let unit = rates.iter().find(|line| line.group == group && line.unit != "img/s");
        let name = unit.map_or_else(|| group.clone(), |line| format!("{group}, {}", line.unit));
        let mut row = format!("{:<NAME$}", name.chars().take(NAME).collect::<String>());
        for line in PRECISIONS.map(own) {
            let value = line.and_then(|line| line.value).map_or_else(String::new, number);
            let share = line.and_then(|line| line.share()).unwrap_or_default();
            let _ = write!(row, " {value:>7} {share:>4}");
        }
        let theirs = |variant: &str| {
            let mut all = torch.iter().filter(|t| t.variant == variant);
            all.find(|t| format!("{}, {}", t.case, t.batch) == group).and_then(|t| t.images_per_s)
        };
        for variant in &variants {
            let _ = write!(row, " {:>7}", theirs(variant).map_or_else(String::new, number));
        }
        let value = |arithmetic| own(arithmetic).and_then(|line| line.value);
        let most = |all: &mut dyn Iterator<Item = f64>| all.fold(0.0, f64::max);
        let best = most(&mut PRECISIONS.into_iter().filter_map(value));
        let best_of_theirs = most(&mut variants.iter().filter_map(|variant| theirs(variant)));
        let alike = (value(Arithmetic::Tf32).unwrap_or(0.0), theirs("eager").unwrap_or(0.0));
        for (own, other) in [alike, (best, best_of_theirs)] {
            let quotient =
                if own > 0.0 && other > 0.0 { format!("{:.2}x", own / other) } else { String::new() };
            let _ = write!(row, " {quotient:>7}");
        }
        let _ = writeln!(text, "{}", row.trim_end());
    }
}

/// What a network's step is made of, the most expensive first; of a row that is done several times in a step, once.
fn times(lines: &[Line], text: &mut String) {
    // Beside its rates, where the time goes with measured convolutions can be read in the log.
    let measured = |group: &str| Algorithms::ALL.iter().any(|a| group.ends_with(a.name()));
    let wanted = |line: &&Line| line.ok && line.unit == "us" && !measured(&line.group);
    let times: Vec<&Line> = lines.iter().filter(wanted).collect();
    let mut groups: Vec<&str> = Vec::new();
    for line in &times {
        if !groups.contains(&line.group.as_str()) {
            groups.push(&line.group);
        }
    }
    for group in &groups {
        let mut rows: Vec<(String, Vec<&Line>)> = Vec::new();
        for line in times.iter().filter(|line| line.group == *group) {
            let name = line.case.rsplit_once(", ").map_or(line.case.as_str(), |(name, _)| name);
            match rows.iter_mut().find(|(other, _)| other == name) {
                Some((_, of_row)) => of_row.push(line),
                None => rows.push((name.to_owned(), vec![line])),
            }
        }
        let cost = |row: &(String, Vec<&Line>)| row.1.iter().map(|line| spent(line)).sum::<f64>();
        rows.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
        let step = |arithmetic| {
            let mut all = rows.iter().filter(|row| row.0 == STEP).flat_map(|row| &row.1);
            all.find(|line| precision(line) == Some(arithmetic)).and_then(|line| line.value)
        };
        let mut head = format!("\n{:<NAME$}", format!("{group}: us, of a step"));
        for arithmetic in PRECISIONS {
            let _ = write!(head, " {:>7}     ", name_of(arithmetic));
        }
        let _ = writeln!(text, "{}", head.trim_end());
        for (name, of_row) in rows.iter().take(TIMES) {
            let count = of_row[0].count.unwrap_or(1);
            let name = if count > 1 { format!("{name} x{count}") } else { name.clone() };
            let mut row = format!("{name:<NAME$}");
            for arithmetic in PRECISIONS {
                let line = of_row.iter().find(|line| precision(line) == Some(arithmetic));
                let value = line.and_then(|line| line.value).map_or_else(String::new, number);
                let share = line.zip(step(arithmetic)).map(|(line, step)| 100.0 * spent(line) / step);
                // A kernel of ours, as the library has none.
                let mark = if line.is_some_and(|line| is_ours(line)) { "*" } else { "" };
                let share = share.map_or_else(String::new, |share| format!("{share:.0}%{mark}"));
                let _ = write!(row, " {value:>7} {share:>5}");
            }
            let _ = writeln!(text, "{}", row.trim_end());
        }
    }
    if times.iter().any(|line| is_ours(line)) {
        let _ = writeln!(text, "* {OURS}");
    }
}

/// Note of a convolution that the library does not compute.
pub const OURS: &str = "a kernel of ours";

fn is_ours(line: &Line) -> bool {
    line.note.as_deref() == Some(OURS)
}

/// Name of the whole step among its times.
pub const STEP: &str = "whole step";

/// Microseconds in a step.
fn spent(line: &Line) -> f64 {
    line.value.unwrap_or(0.0) * line.count.unwrap_or(1) as f64
}

/// The precision with which a rate or a time ends.
fn precision(line: &Line) -> Option<Arithmetic> {
    let (_, last) = line.case.rsplit_once(", ").filter(|_| !line.unit.is_empty())?;
    PRECISIONS.into_iter().find(|arithmetic| name_of(*arithmetic) == last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(group: &str, precision: &str, value: f64) -> Line {
        Line::rate("bench", group, &format!("{group}, {precision}"), value, Some(1e5), "img/s")
    }

    #[test]
    fn the_worst_of_each_group_and_all_that_is_wrong() {
        let mut lines: Vec<_> = [("a", 1e-6), ("b", 3e-6), ("c", 2e-6)]
            .map(|(case, value)| Line::difference("goldens", "f32 eval", case, value, 1e-5))
            .into();
        let text = tables(&lines, 0, &[]);
        assert!(text.contains("f32 eval: b") && text.contains(" 30%") && text.lines().count() == 3, "{text}");
        lines.push(Line::difference("goldens", "f32 eval", "d", f64::NAN, 1e-5));
        lines.push(Line { value: None, ..lines[3].clone() });
        let text = tables(&lines, 2, &[]);
        assert!(text.matches(" NO").count() == 2 && text.contains("f32 eval: b"), "{text}");
        assert!(text.contains("no number") && text.contains("2 cases were left out"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn rates_of_all_precisions_stand_in_a_line_beside_torchs() {
        let lines = [rate("resnet20, 64", "tf32", 1e4), rate("resnet20, 64", "bf16", 2e4)];
        let torch: Vec<Torch> = serde_json::from_str(
            r#"[{"case": "resnet20", "batch": 64, "variant": "graph", "images_per_s": 16000.0},
                {"case": "resnet20", "batch": 64, "variant": "eager", "images_per_s": 5000.0},
                {"case": "vgg13", "batch": 64, "variant": "eager", "error": "why"}]"#,
        )
        .unwrap();
        let text = tables(&lines, 0, &torch);
        let row: Vec<_> =
            text.lines().find(|line| line.starts_with("resnet20, 64")).unwrap().split_whitespace().collect();
        assert_eq!(
            row,
            ["resnet20,", "64", "10000", "10%", "20000", "20%", "16000", "5000", "2.00x", "1.25x"]
        );
        assert!(text.contains("\nvgg13, 64\n"), "{text}");
    }

    #[test]
    fn the_most_expensive_comes_first() {
        let time = |case: &str, value, count| {
            Line::time("profile", "net, 64", &format!("{case}, bf16"), value, count)
        };
        let mut lines: Vec<_> = (1..30).map(|i| time(&format!("c{i}"), f64::from(i), 2)).collect();
        lines.push(time(STEP, 1000.0, 1));
        lines[5].note = Some(OURS.to_owned());
        lines[5].count = Some(100);
        let text = tables(&lines, 0, &[]);
        let rows: Vec<_> =
            text.lines().skip_while(|line| !line.starts_with("net, 64")).skip(1).take(TIMES).collect();
        assert!(rows[0].starts_with(STEP) && rows[0].contains("100%"), "{text}");
        assert!(rows[1].split_whitespace().eq(["c6", "x100", "6.000", "60%*"]), "{text}");
        assert!(rows[2].starts_with("c29 x2") && text.lines().count() == 1 + 2 + TIMES + 1 + 1, "{text}");
    }

    /// As much as there can be: twelve thousand characters may be all that is left of a run's output.
    #[test]
    fn all_tables_are_short() {
        let mut lines = Vec::new();
        let mut torch = Vec::new();
        for precision in ["f32", "tf32", "bf16"] {
            for (part, what) in [
                ("goldens", "gradients"),
                ("compare", "logits"),
                ("compare", "gradients"),
                ("compare", "statistics"),
                ("curves", "kd"),
                ("curves", "kd terms"),
                ("curves", "candle's"),
                ("curves", "candle's terms"),
                ("curves", "kd bytes"),
                ("curves", "candle's bytes"),
                ("goldens", "eval"),
                ("goldens", "train"),
            ] {
                lines.push(Line::difference(
                    part,
                    &format!("{precision} {what}"),
                    "torchvision_mobilenet_v2",
                    1.0,
                    10.0,
                ));
                lines.extend((0..10).map(|i| {
                    Line::difference(
                        part,
                        "x",
                        &format!("{precision}, {i}, a long name of a network"),
                        2.0,
                        1.0,
                    )
                }));
            }
            let alone = (0..10).flat_map(|i| [64, 512].map(|n| format!("network-{i}-resnet32x4, {n}")));
            let others = (0..9).map(|i| format!("8 x network-{i}, 512, 4 at once"));
            for group in alone.chain(others) {
                lines.push(rate(&group, precision, 123_456.0));
                torch.extend(["graph", "eager"].map(|variant| Torch {
                    case: group.rsplit_once(", ").unwrap().0.to_owned(),
                    batch: group.rsplit_once(", ").unwrap().1.parse().unwrap_or(0),
                    variant: variant.to_owned(),
                    images_per_s: Some(99_999.0),
                }));
            }
            for group in ["resnet20, 64", "resnet56, 64", "resnet20, 64, fastest", "resnet56, 64, fastest"] {
                lines.extend((0..26).map(|i| {
                    Line::time(
                        "profile",
                        group,
                        &format!("3x3 64>64 32x32/2 weights {i}, {precision}"),
                        1234.0,
                        18,
                    )
                }));
            }
        }
        let text = tables(&lines, 3, &torch);
        assert!(text.len() < 10_000, "{}: {text}", text.len());
        assert!(text.contains("more that are not as they should be"));
    }
}
