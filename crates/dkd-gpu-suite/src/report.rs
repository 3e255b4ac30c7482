//! What the parts have found: told line by line, and kept.

use crate::table::tables;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Group of what failed.
const ERROR: &str = "error";

/// One result.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    /// Part of the suite.
    pub part: String,
    /// Results of a part that the table shows as one: the worst of them, and those that are not as they should be.
    pub group: String,
    /// What was looked at.
    pub case: String,
    /// What came out: nothing if it failed, or if it was no number when it was written as JSON.
    pub value: Option<f64>,
    /// What it may be at most, if it is a difference; for a rate what follows from the device's own.
    pub bound: Option<f64>,
    /// `img/s`, `TFLOP/s`, `GB/s`, `us`, or nothing for a difference relative to the value itself.
    pub unit: String,
    /// How often a step does what was timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
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

    /// Microseconds of what a step does so often.
    pub fn time(part: &'static str, group: &str, case: &str, micros: f64, count: usize) -> Self {
        Self { count: Some(count), ..Self::rate(part, group, case, micros, None, "us") }
    }

    /// One without a value.
    fn named_as(part: &str, group: &str, case: &str, unit: &str) -> Self {
        let [part, group, case, unit] = [part, group, case, unit].map(str::to_owned);
        Self { part, group, case, value: None, bound: None, unit, count: None, ok: false, note: None }
    }

    /// Whether it could not be done.
    pub(crate) fn failed(&self) -> bool {
        self.group == ERROR
    }

    /// Group and case, unless the case says it all.
    pub(crate) fn named(&self) -> String {
        if self.failed() || self.case.starts_with(&self.group) {
            return self.case.clone();
        }
        format!("{}: {}", self.group, self.case)
    }

    /// How much of the bound it is.
    pub(crate) fn share(&self) -> Option<String> {
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
    pub(crate) fn rank(&self) -> f64 {
        match (self.value, self.bound) {
            (Some(value), Some(bound)) if self.unit.is_empty() && bound > 0.0 => value / bound,
            (Some(value), _) => value,
            _ => f64::INFINITY,
        }
    }
}

/// What gets all results there are, and how many cases were left out.
pub type Keep = Box<dyn FnMut(&[Line], usize)>;

/// All results of a run.
pub struct Report {
    lines: Vec<Line>,
    left_out: usize,
    until: Option<Instant>,
    say: Box<dyn FnMut(&str)>,
    keep: Keep,
}

impl Report {
    /// Tells `say` of everything as it comes, in lines.
    pub fn new(say: Box<dyn FnMut(&str)>) -> Self {
        Self { lines: Vec::new(), left_out: 0, until: None, say, keep: Box::new(|_, _| ()) }
    }

    /// The same, which gives all results to `keep` whenever there is one more.
    #[must_use]
    pub fn keeping(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// The same, which begins no case after this time.
    #[must_use]
    pub fn until(self, until: Option<Instant>) -> Self {
        Self { until, ..self }
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
        (self.keep)(&self.lines, self.left_out);
    }

    /// Does a piece of work, unless it is too late; an error or a panic becomes a result.
    pub fn attempt(
        &mut self,
        part: &'static str,
        case: &str,
        work: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            self.left_out += 1;
            (self.keep)(&self.lines, self.left_out);
            return;
        }
        let note = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(Ok(())) => return,
            Ok(Err(e)) => format!("{e:#}"),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                format!("it panicked: {}", text.unwrap_or("without a text"))
            }
        };
        self.add(Line { note: Some(note), ..Line::named_as(part, ERROR, case, "") });
    }

    /// All of them.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// How many cases were not begun because it was too late.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether everything is as it should be, and there is something, unless it was too late for all.
    pub fn ok(&self) -> bool {
        (self.left_out > 0 || !self.lines.is_empty()) && self.lines.iter().all(|line| line.ok)
    }

    /// All results in tables.
    pub fn table(&self) -> String {
        tables(&self.lines, self.left_out, &[])
    }
}

/// A number in few characters.
pub(crate) fn number(v: f64) -> String {
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
    fn all_is_told_and_kept_as_it_comes() {
        let (said, kept) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
        let (to, keep) = (Rc::clone(&said), Rc::clone(&kept));
        let mut report = Report::new(Box::new(move |line| to.borrow_mut().push(line.to_owned())))
            .keeping(Box::new(move |lines, left_out| keep.borrow_mut().push((lines.len(), left_out))));
        assert!(!report.ok(), "nothing was looked at");
        report.add(Line::difference("goldens", "f32 eval", "a", 1e-6, 1e-5));
        report.add(Line::rate("bench", "resnet20, 64", "resnet20, 64, f32", 1e4, Some(1e5), "img/s"));
        report.add(Line::time("profile", "resnet20, 64", "3x3, bf16", 12.0, 18));
        assert!(report.ok());
        report.attempt("compare", "x", |_| anyhow::bail!("no algorithm"));
        report.attempt("compare", "y", |_| panic!("at {}", 3));
        assert!(!report.ok());
        assert_eq!(*kept.borrow(), [1, 2, 3, 4, 5].map(|n| (n, 0)));
        let said = said.borrow();
        assert!(said.iter().any(|l| l.contains("no algorithm")) && said.iter().any(|l| l.contains("at 3")));
    }

    #[test]
    fn what_comes_too_late_is_counted() {
        let mut report = Report::new(Box::new(|_| ())).until(Some(Instant::now()));
        report.attempt("compare", "x", |_| panic!("it was begun"));
        assert!(report.ok() && report.lines().is_empty() && report.left_out() == 1);
    }
}
