//! What the parts have found: told line by line, then as a short table and as JSON.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Columns of the table that a case may take.
const CASE: usize = 36;

/// One result.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    /// Part of the suite.
    pub part: String,
    /// Results of a part that the table shows as one: the worst of them, and those that are not as they should be.
    pub group: String,
    /// What was looked at.
    pub case: String,
    /// What came out.
    pub value: Option<f64>,
    /// What it may be at most, if it is a difference; for a rate what follows from the device's own.
    pub bound: Option<f64>,
    /// `img/s`, `TFLOP/s`, `GB/s`, `us`, or nothing for a difference relative to the value itself.
    pub unit: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// More, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Line {
    /// A difference, which may be `bound` at most; NaN never is.
    pub fn difference(part: &'static str, group: &str, case: &str, value: f64, bound: f64) -> Self {
        let ok = value <= bound;
        Self { value: Some(value), bound: Some(bound), ok, ..Self::named_as(part, group, case, "") }
    }

    /// A rate, and the one that the device's own would allow.
    pub fn rate(
        part: &'static str,
        group: &str,
        case: &str,
        value: f64,
        bound: Option<f64>,
        unit: &'static str,
    ) -> Self {
        let ok = value.is_finite() && value > 0.0;
        Self { value: Some(value), bound, ok, ..Self::named_as(part, group, case, unit) }
    }

    /// One without a value.
    fn named_as(part: &str, group: &str, case: &str, unit: &str) -> Self {
        let [part, group, case, unit] = [part, group, case, unit].map(str::to_owned);
        Self { part, group, case, value: None, bound: None, unit, ok: false, note: None }
    }

    /// Group and case, unless the case says it all.
    fn named(&self) -> String {
        if self.value.is_none() || self.case.starts_with(&self.group) {
            return self.case.clone();
        }
        format!("{}: {}", self.group, self.case)
    }

    /// How much of the bound it is.
    fn share(&self) -> Option<String> {
        let (value, bound) = (self.value?, self.bound.filter(|bound| *bound > 0.0 && *bound < f64::MAX)?);
        let percent = 100.0 * value / bound;
        match percent {
            p if p.is_nan() => None,
            p if p < 9.95 => Some(format!("{p:.1}%")),
            p if p < 9999.5 => Some(format!("{p:.0}%")),
            _ => Some(">9999%".to_owned()),
        }
    }

    /// The larger, the more this line tells of its group.
    fn rank(&self) -> f64 {
        match (self.value, self.bound) {
            (Some(value), Some(bound)) if self.unit.is_empty() && bound > 0.0 => value / bound,
            (Some(value), _) => value,
            _ => f64::INFINITY,
        }
    }
}

/// What gets all results there are.
pub type Keep = Box<dyn FnMut(&[Line])>;

/// All results of a run.
pub struct Report {
    lines: Vec<Line>,
    say: Box<dyn FnMut(&str)>,
    keep: Keep,
}

impl Report {
    /// Tells `say` of everything as it comes, in lines.
    pub fn new(say: Box<dyn FnMut(&str)>) -> Self {
        Self { lines: Vec::new(), say, keep: Box::new(|_| ()) }
    }

    /// The same, which gives all results to `keep` whenever there is one more.
    #[must_use]
    pub fn keeping(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// Of results that are there.
    pub(crate) fn of(lines: Vec<Line>) -> Self {
        Self { lines, ..Self::new(Box::new(|_| ())) }
    }

    /// Says something that is no result.
    pub fn say(&mut self, text: &str) {
        (self.say)(text);
    }

    /// Takes a result.
    pub fn add(&mut self, line: Line) {
        let mut text = format!("{:<7} {}", line.part, line.named());
        if let Some(value) = line.value {
            let _ = write!(text, "  {} {}", number(value), line.unit);
        }
        if let Some(bound) = line.bound {
            let _ = write!(
                text,
                " (at most {}{})",
                number(bound),
                line.share().map_or_else(String::new, |s| format!(", {s}"))
            );
        }
        let mut text = text.trim_end().to_owned();
        if !line.ok {
            text.push_str("  NOT OK");
        }
        if let Some(note) = &line.note {
            let _ = write!(text, "; {note}");
        }
        (self.say)(&text);
        self.lines.push(line);
        (self.keep)(&self.lines);
    }

    /// Does a piece of work; an error or a panic becomes a result.
    pub fn attempt(
        &mut self,
        part: &'static str,
        case: &str,
        work: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) {
        let note = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(Ok(())) => return,
            Ok(Err(e)) => format!("{e:#}"),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                format!("it panicked: {}", text.unwrap_or("without a text"))
            }
        };
        self.add(Line { note: Some(note), ..Line::named_as(part, "error", case, "") });
    }

    /// All of them.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Whether everything is as it should be, and there is something.
    pub fn ok(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(|line| line.ok)
    }

    /// Those that the table shows.
    fn shown(&self) -> Vec<&Line> {
        let same = |a: &Line, b: &Line| (&a.part, &a.group) == (&b.part, &b.group);
        let best = |line: &Line| {
            let others = self.lines.iter().filter(|other| same(line, other));
            others.map(Line::rank).fold(f64::NEG_INFINITY, f64::max)
        };
        let mut shown: Vec<&Line> = Vec::new();
        for line in &self.lines {
            let there = shown.iter().any(|other| other.ok && same(other, line));
            // Of differences the worst of a group; rates are all worth knowing.
            if !line.ok || !line.unit.is_empty() || (line.rank() == best(line) && !there) {
                shown.push(line);
            }
        }
        shown
    }

    /// The table, 80 columns wide.
    pub fn table(&self) -> String {
        let mut text =
            format!("{:<7} {:<CASE$} {:>14} {:>8} {:>6} ok\n", "part", "case", "value", "at most", "of it");
        for line in self.shown() {
            let case: String = line.named().chars().take(CASE).collect();
            let value = line.value.map_or_else(|| "error".to_owned(), number);
            let value = format!("{value} {}", line.unit);
            let (value, part) = (value.trim_end(), &line.part);
            let bound = line.bound.map_or_else(String::new, number);
            let share = line.share().unwrap_or_default();
            let ok = if line.ok { "yes" } else { "NO" };
            let _ = writeln!(text, "{part:<7} {case:<CASE$} {value:>14} {bound:>8} {share:>6} {ok}");
        }
        let bad = self.lines.iter().filter(|line| !line.ok).count();
        let _ = writeln!(text, "{} results, {bad} of them not as they should be", self.lines.len());
        text
    }
}

/// A number in few characters.
fn number(v: f64) -> String {
    match v {
        f64::MAX => "finite".to_owned(),
        v if v != 0.0 && v.abs() < 0.01 => format!("{v:.1e}"),
        v if v.abs() < 10.0 => format!("{v:.3}"),
        v if v.abs() < 1000.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[test]
    fn the_table_has_the_worst_of_each_group_and_all_that_is_wrong() {
        let said = Rc::new(RefCell::new(Vec::new()));
        let to = Rc::clone(&said);
        let mut report = Report::new(Box::new(move |line| to.borrow_mut().push(line.to_owned())));
        assert!(!report.ok(), "nothing was looked at");
        for (case, value) in [("a", 1e-6), ("b", 3e-6), ("c", 2e-6)] {
            report.add(Line::difference("goldens", "f32 eval", case, value, 1e-5));
        }
        report.add(Line::rate("bench", "resnet20, 64", "resnet20, 64, f32", 1e4, Some(1e5), "img/s"));
        report.add(Line::rate("bench", "resnet20, 64", "resnet20, 64, bf16", 2e4, Some(2e5), "img/s"));
        assert!(report.ok());
        let table = report.table();
        assert_eq!(table.lines().count(), 5, "{table}");
        assert!(table.contains(" 30%") && table.contains(" 10%"), "{table}");
        assert!(table.contains("f32 eval: b"), "{table}");
        assert!(table.contains("resnet20, 64, f32") && table.contains("resnet20, 64, bf16"), "{table}");
        report.add(Line::difference("goldens", "f32 eval", "d", f64::NAN, 1e-5));
        report.attempt("compare", "x", |_| anyhow::bail!("no algorithm"));
        report.attempt("compare", "y", |_| panic!("at {}", 3));
        let table = report.table();
        assert!(!report.ok() && table.matches(" NO").count() == 3, "{table}");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        let said = said.borrow();
        assert!(said.iter().any(|l| l.contains("no algorithm")) && said.iter().any(|l| l.contains("at 3")));
    }
}
