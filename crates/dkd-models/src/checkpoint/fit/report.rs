//! What fits and what does not, as a table for people.

use super::super::import::shown;
use std::fmt::{Display, Formatter, Result};
use std::path::PathBuf;

/// Most lines of the table.
const MAX_LINES: usize = 20;

/// Widest line, in characters, and the width of its first column.
const WIDTH: usize = 80;
const COLUMN: usize = 12;

/// Most names among which the most similar one is looked for, and how similar it must be.
const MAX_NAMES: usize = 500;
const SIMILAR: f64 = 0.5;

/// How the tensors of a file fit the parameters of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Where in the file the tensors were; empty if nowhere special.
    pub key: String,
    /// What was removed from the names, with its dot.
    pub prefix: String,
    /// Number of the network's parameters.
    pub parameters: usize,
    /// How many of them have their tensor.
    pub fitting: usize,
    /// What does not fit.
    pub findings: Vec<Finding>,
    /// The classifier's name in the file and in the network, if they differ.
    pub renamed: Option<(String, String)>,
    /// Element types other than f32, and how many tensors were converted from them.
    pub converted: Vec<(String, usize)>,
    /// Number of tensors that belong to another network of the same file.
    pub aside: usize,
}

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A parameter has no tensor.
    Missing {
        /// The parameter.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor has no parameter.
    Unexpected {
        /// The tensor's name in the file.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor has another shape than its parameter, or no real numbers.
    Differs {
        /// The parameter.
        name: String,
        /// The tensor's name in the file.
        in_file: String,
        /// The parameter's shape.
        expected: Vec<usize>,
        /// The tensor's shape.
        found: Vec<usize>,
        /// The tensor's element type, if it is one of integers.
        integers: Option<String>,
    },
}

impl Finding {
    /// The name by which it is known, and the shape that is missing or left over.
    fn subject(&self) -> (&str, &[usize]) {
        match self {
            Self::Missing { name, shape } | Self::Unexpected { name, shape } => (name, shape),
            Self::Differs { name, expected, .. } => (name, expected),
        }
    }

    /// Whether a tensor of the file is left over.
    fn is_unexpected(&self) -> bool {
        matches!(self, Self::Unexpected { .. })
    }
}

impl Report {
    /// Whether every parameter has its tensor, and every tensor its parameter.
    pub fn is_perfect(&self) -> bool {
        self.findings.is_empty()
    }

    /// What fits and what was changed for it, in one line.
    pub fn summary(&self) -> String {
        let mut parts = vec![format!("{} of {} tensors", self.fitting, self.parameters)];
        if !self.key.is_empty() {
            parts.push(format!("from `{}`", shown(&self.key)));
        }
        if !self.prefix.is_empty() {
            parts.push(format!("without the prefix `{}`", shown(&self.prefix)));
        }
        if let Some((other, own)) = &self.renamed {
            parts.push(format!("with `{other}` taken as `{own}`"));
        }
        for (element, count) in &self.converted {
            parts.push(format!("{count} of them {element}"));
        }
        if self.aside > 0 {
            parts.push(format!("{} of another network left aside", self.aside));
        }
        parts.join(", ")
    }

    /// The name most similar to that of `finding` among those on the other side, if one is similar at all. A tensor of the same
    /// shape is more likely to be meant.
    fn nearest(&self, finding: &Finding) -> Option<&str> {
        let (name, shape) = finding.subject();
        let name = shortened(name.strip_prefix(&self.prefix).unwrap_or(name));
        let others = self.findings.iter().filter(|f| f.is_unexpected() != finding.is_unexpected());
        let score = |other: &Finding| {
            let (other, other_shape) = other.subject();
            let plain = shortened(other.strip_prefix(&self.prefix).unwrap_or(other));
            let bonus = if shape == other_shape { 0.25 } else { 0.0 };
            strsim::normalized_damerau_levenshtein(&name, &plain) + bonus
        };
        let scored = others.take(MAX_NAMES).map(|other| (score(other), other));
        let best = scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score >= SIMILAR);
        best.map(|(_, other)| other.subject().0)
    }

    /// The lines of the table about one finding.
    fn lines(&self, finding: &Finding) -> Vec<String> {
        let line = |first: &str, rest: String| line(first, &rest);
        let mut lines = match finding {
            Finding::Missing { name, shape } => vec![line("missing", described(name, shape))],
            Finding::Unexpected { name, shape } => vec![line("unexpected", described(name, shape))],
            Finding::Differs { name, in_file, expected, found, integers } => {
                let kind = integers.as_ref().map(|i| format!("{i} ")).unwrap_or_default();
                let (expected, found) = (brief(expected), brief(found));
                let as_is = in_file.strip_prefix(&self.prefix) == Some(name);
                let from = if as_is { String::new() } else { format!(" from {}", middle(in_file, 40)) };
                vec![
                    line("differs", format!("{}{from}", middle(name, 40))),
                    line("", format!("expected {expected}, found {kind}{found}")),
                ]
            }
        };
        if let Some(nearest) = self.nearest(finding) {
            lines.push(line("", format!("nearest: {nearest}")));
        }
        lines
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "{}: the weights do not fit the network", self.path.display())?;
        write!(f, "{}", middle(&self.summary(), WIDTH))?;
        let mut written = 0;
        for (i, finding) in self.findings.iter().enumerate() {
            let lines = self.lines(finding);
            // One line is kept for the rest.
            let last = i + 1 == self.findings.len();
            if written + lines.len() + usize::from(!last) > MAX_LINES {
                return write!(f, "\n  … and {} more", self.findings.len() - i);
            }
            written += lines.len();
            for line in lines {
                write!(f, "\n{line}")?;
            }
        }
        Ok(())
    }
}

/// A line of the table, cut to its width.
fn line(first: &str, rest: &str) -> String {
    format!("  {first:<COLUMN$}{}", middle(rest, WIDTH - COLUMN - 2))
}

fn described(name: &str, shape: &[usize]) -> String {
    let shape = brief(shape);
    let room = WIDTH - COLUMN - 3 - shape.chars().count();
    format!("{} {shape}", middle(name, room))
}

/// A shape, however many dimensions it has.
fn brief(shape: &[usize]) -> String {
    middle(&format!("{shape:?}"), 32)
}

/// Text without control characters; if it is too long, its middle is left out.
fn middle(text: &str, room: usize) -> String {
    let safe: Vec<char> = text
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if safe.len() <= room {
        return safe.into_iter().collect();
    }
    let first = room.saturating_sub(1) / 2;
    let last = room.saturating_sub(1) - first;
    let (first, last) = (&safe[..first], &safe[safe.len() - last..]);
    first.iter().chain(['…'].iter()).chain(last).collect()
}

/// The end of a long name: comparing takes the product of the lengths.
fn shortened(name: &str) -> String {
    let skip = name.chars().count().saturating_sub(80);
    name.chars().skip(skip).collect()
}
