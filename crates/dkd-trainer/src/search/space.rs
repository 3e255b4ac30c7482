//! What a search may try: a domain for each of its keys.

use crate::{Error, Result};
use dkd_kernels::rng::{Purpose, Stream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use toml::Value;

/// Most points of a grid.
const MAX_GRID: usize = 10_000;

/// A value for every key of a space.
pub type Point = BTreeMap<String, Value>;

/// How a range is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Equal differences are equally likely.
    #[default]
    Linear,
    /// Equal ratios are equally likely.
    Log,
}

/// Numbers from `low` to `high`, both included.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// How it is divided.
    pub scale: Scale,
    /// Whether only whole numbers count.
    pub integer: bool,
    /// How many values a grid takes.
    pub points: Option<usize>,
}

impl Range {
    /// Whether there is anything to choose from.
    ///
    /// # Errors
    /// [`Error::Invalid`] says what is wrong.
    pub fn check(&self) -> Result<()> {
        let Self { low, high, scale, integer, points } = self;
        let fail = |message: String| Err(Error::Invalid(message));
        if !(low.is_finite() && high.is_finite() && low < high) {
            return fail(format!("from {low} to {high}; `low` must be below `high`, both finite"));
        }
        if *integer && (low.fract() != 0.0 || high.fract() != 0.0 || low.abs().max(high.abs()) > 1e15) {
            return fail(format!("from {low} to {high}; with `integer` both must be whole numbers"));
        }
        let least = if *integer { 1.0 } else { f64::MIN_POSITIVE };
        if *scale == Scale::Log && *low < least {
            let least = if *integer { "at least 1" } else { "above 0" };
            return fail(format!("`low` is {low}; with a log scale it must be {least}"));
        }
        match points {
            Some(n) if !(2..=MAX_GRID).contains(n) => {
                fail(format!("`points` is {n}; it must be from 2 to {MAX_GRID}"))
            }
            _ => Ok(()),
        }
    }

    /// Where a number lies on the range's scale.
    pub fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log => value.ln(),
        }
    }

    /// Both ends on the range's scale. Those of whole numbers are half a number further out, so that rounding gives every
    /// number its share.
    pub fn ends(&self) -> (f64, f64) {
        let more = if self.integer { 0.5 } else { 0.0 };
        (self.place(self.low - more), self.place(self.high + more))
    }

    /// The number at a place of the scale, with four digits, so that a setting can be copied from a table.
    pub fn value(&self, place: f64) -> Value {
        let exact = match self.scale {
            Scale::Linear => place,
            Scale::Log => place.exp(),
        };
        if self.integer {
            return Value::Integer(exact.round().clamp(self.low, self.high) as i64);
        }
        let rounded = format!("{exact:.3e}").parse().unwrap_or(exact);
        Value::Float(rounded.clamp(self.low, self.high))
    }

    /// The values that a grid takes.
    fn grid(&self) -> Result<Vec<Value>> {
        let points = match (self.points, self.integer && self.scale == Scale::Linear) {
            (Some(points), _) => points,
            (None, true) if self.high - self.low < MAX_GRID as f64 => (self.high - self.low) as usize + 1,
            _ => {
                return Err(Error::Invalid(
                    "a grid needs `points`, so many from `low` to `high`, or `values`".to_owned(),
                ));
            }
        };
        let (low, high) = (self.place(self.low), self.place(self.high));
        let step = (high - low) / (points - 1) as f64;
        let mut values: Vec<Value> = (0..points).map(|i| self.value(low + i as f64 * step)).collect();
        // Neighbours may be the same whole number.
        values.dedup();
        Ok(values)
    }
}

/// What a key may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Domain {
    /// One of these, in no order.
    Values(Vec<Value>),
    /// A number.
    Range(Range),
}

impl Domain {
    /// Whether there is anything to choose from.
    ///
    /// # Errors
    /// [`Error::Invalid`] says what is wrong.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Values(values) if values.is_empty() => {
                Err(Error::Invalid("`values` is empty; at least one is needed".to_owned()))
            }
            Self::Values(values) => {
                for (i, value) in values.iter().enumerate() {
                    if values[..i].contains(value) {
                        return Err(Error::Invalid(format!("`values` has {value} twice")));
                    }
                    if value.as_float().is_some_and(|v| !v.is_finite()) {
                        return Err(Error::Invalid(format!("`values` has {value}, which is not finite")));
                    }
                }
                Ok(())
            }
            Self::Range(range) => range.check(),
        }
    }

    /// The values that a grid takes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a range does not say how many.
    pub fn grid(&self) -> Result<Vec<Value>> {
        match self {
            Self::Values(values) => Ok(values.clone()),
            Self::Range(range) => range.grid(),
        }
    }

    /// All values, or the ends of a range: what must be possible if anything is.
    pub fn ends(&self) -> Vec<Value> {
        match self {
            Self::Values(values) => values.clone(),
            Self::Range(r) => [r.low, r.high].map(|v| r.value(r.place(v))).into(),
        }
    }

    /// The value at a place: the number of one of the values, or a place on a range's scale.
    pub fn value(&self, place: f64) -> Value {
        match self {
            Self::Values(values) => values[(place.max(0.0) as usize).min(values.len() - 1)].clone(),
            Self::Range(range) => range.value(place),
        }
    }

    /// The place of a value, if it is one of these.
    pub fn place(&self, value: &Value) -> Option<f64> {
        match self {
            Self::Values(values) => values.iter().position(|v| v == value).map(|i| i as f64),
            Self::Range(range) => number(value).map(|v| range.place(v)),
        }
    }

    /// The value at a share, from 0 to below 1, of the domain.
    pub fn draw(&self, share: f64) -> Value {
        let (low, high) = match self {
            Self::Values(values) => (0.0, values.len() as f64),
            Self::Range(range) => range.ends(),
        };
        self.value(low + share * (high - low))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(values) => {
                let all: Vec<String> = values.iter().map(Value::to_string).collect();
                f.write_str(&all.join(", "))
            }
            Self::Range(r) => {
                write!(f, "{} to {}", r.low, r.high)?;
                f.write_str(if r.scale == Scale::Log { ", log scale" } else { "" })?;
                f.write_str(if r.integer { ", whole numbers" } else { "" })?;
                r.points.map_or(Ok(()), |n| write!(f, ", {n} points"))
            }
        }
    }
}

/// A number of either kind.
pub fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|v| v as f64))
}

/// A domain for each key.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    keys: BTreeMap<String, Domain>,
}

impl Space {
    /// The space of these keys.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the key and says what is wrong.
    pub fn new(keys: BTreeMap<String, Domain>) -> Result<Self> {
        if keys.is_empty() {
            return Err(Error::Invalid("there are no keys to search over".to_owned()));
        }
        for (key, domain) in &keys {
            domain.check().map_err(|e| Error::Invalid(format!("`keys.\"{key}\"`: {e}")))?;
        }
        Ok(Self { keys })
    }

    /// Keys and domains, by name.
    pub fn keys(&self) -> &BTreeMap<String, Domain> {
        &self.keys
    }

    /// All points of the grid; the last key changes fastest.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a range does not say how many values it has, or if there are too many points.
    pub fn grid(&self) -> Result<Vec<Point>> {
        let mut points = vec![Point::new()];
        for (key, domain) in &self.keys {
            let values = domain.grid().map_err(|e| Error::Invalid(format!("`keys.\"{key}\"`: {e}")))?;
            if points.len() * values.len() > MAX_GRID {
                return Err(Error::Invalid(format!(
                    "the grid has more than {MAX_GRID} points; take fewer values, or another strategy"
                )));
            }
            let with = |point: &Point, value: &Value| {
                let mut point = point.clone();
                point.insert(key.clone(), value.clone());
                point
            };
            points = points.iter().flat_map(|p| values.iter().map(move |v| with(p, v))).collect();
        }
        Ok(points)
    }

    /// Point `number` of a random search: a function of both.
    pub fn draw(&self, seed: u64, number: usize) -> Point {
        let stream = Stream::new(seed, Purpose::Other, 0, number as u64);
        let draw = |(i, (key, domain)): (usize, (&String, &Domain))| {
            let word = |k: u64| u64::from(stream.word(2 * i as u64 + k));
            // 53 bits: as many as an f64 has.
            let share = (((word(0) << 32) | word(1)) >> 11) as f64 / (1_u64 << 53) as f64;
            (key.clone(), domain.draw(share))
        };
        self.keys.iter().enumerate().map(draw).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(low: f64, high: f64, scale: Scale) -> Range {
        Range { low, high, scale, integer: false, points: None }
    }

    fn space(domains: Vec<(&str, Domain)>) -> Result<Space> {
        Space::new(domains.into_iter().map(|(k, d)| (k.to_owned(), d)).collect())
    }

    fn integers(values: &[i64]) -> Vec<Value> {
        values.iter().map(|v| Value::Integer(*v)).collect()
    }

    #[test]
    fn a_grid_is_a_product() {
        let lr = Domain::Range(Range { points: Some(3), ..range(0.01, 1.0, Scale::Log) });
        let model = Domain::Values(vec!["a".into(), "b".into()]);
        let all = space(vec![("lr", lr), ("model", model)]).unwrap().grid().unwrap();
        let shown: Vec<String> = all.iter().map(|p| format!("{} {}", p["lr"], p["model"])).collect();
        let expected = ["0.01 \"a\"", "0.01 \"b\"", "0.1 \"a\"", "0.1 \"b\"", "1.0 \"a\"", "1.0 \"b\""];
        assert_eq!(shown, expected);
        let few = Range { integer: true, ..range(1.0, 3.0, Scale::Linear) };
        assert_eq!(few.grid().unwrap(), integers(&[1, 2, 3]));
        let close = Range { points: Some(6), scale: Scale::Log, ..few };
        assert_eq!(close.grid().unwrap(), integers(&[1, 2, 3]), "equal neighbours count once");
        let message = range(0.0, 1.0, Scale::Linear).grid().unwrap_err().to_string();
        assert!(message.contains("`points`"), "{message}");
        let many = Domain::Range(Range { points: Some(101), ..range(0.0, 1.0, Scale::Linear) });
        let message = space(vec![("a", many.clone()), ("b", many)]).unwrap().grid().unwrap_err();
        assert!(message.to_string().contains("10000"), "{message}");
    }

    #[test]
    fn draws_are_within_their_ranges_and_the_same_for_the_same_seed() {
        let whole = Range { integer: true, ..range(2.0, 4.0, Scale::Linear) };
        let keys = vec![
            ("lr", Domain::Range(range(0.001, 0.1, Scale::Log))),
            ("t", Domain::Range(whole)),
            ("v", Domain::Values(integers(&[1, 2]))),
        ];
        let space = space(keys).unwrap();
        let all: Vec<Point> = (1..=600).map(|n| space.draw(7, n)).collect();
        assert_eq!(all[5], space.draw(7, 6));
        assert_ne!(all[5], space.draw(8, 6));
        let lr: Vec<f64> = all.iter().map(|p| number(&p["lr"]).unwrap()).collect();
        assert!(lr.iter().all(|v| (0.001..=0.1).contains(v)));
        // Half of them below the geometric mean of the ends.
        let below = lr.iter().filter(|v| **v < 0.01).count();
        assert!((240..=360).contains(&below), "{below}");
        for (key, values) in [("t", 2..=4), ("v", 1..=2)] {
            for value in values.clone() {
                let count = all.iter().filter(|p| p[key] == Value::Integer(value)).count();
                let expected = 600 / values.clone().count();
                assert!(count.abs_diff(expected) < 80, "{key} = {value}: {count}");
            }
        }
    }

    #[test]
    fn values_have_four_digits() {
        let r = range(0.01, 0.1, Scale::Log);
        assert_eq!(r.value(0.023_456_7_f64.ln()), Value::Float(0.023_46));
        assert_eq!(r.value(5.0), Value::Float(0.1));
        assert_eq!(range(0.0, 2000.0, Scale::Linear).value(1234.56), Value::Float(1235.0));
        for value in [0.01, 0.0137, 0.1] {
            assert_eq!(r.value(r.place(value)), Value::Float(value));
        }
    }

    #[test]
    fn domains_without_a_choice_are_refused() {
        let whole = Range { integer: true, ..range(0.0, 4.0, Scale::Linear) };
        for (domain, expected) in [
            (Domain::Values(Vec::new()), "empty"),
            (Domain::Values(integers(&[1, 2, 1])), "1 twice"),
            (Domain::Values(vec![Value::Float(f64::NAN)]), "not finite"),
            (Domain::Range(range(1.0, 1.0, Scale::Linear)), "below `high`"),
            (Domain::Range(range(f64::NAN, 1.0, Scale::Linear)), "finite"),
            (Domain::Range(range(0.0, 1.0, Scale::Log)), "above 0"),
            (Domain::Range(Range { scale: Scale::Log, ..whole.clone() }), "at least 1"),
            (Domain::Range(Range { low: 0.5, ..whole.clone() }), "whole numbers"),
            (Domain::Range(Range { points: Some(1), ..whole }), "from 2"),
        ] {
            let message = space(vec![("a.b", domain)]).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("a.b"), "{message}");
        }
        assert!(space(Vec::new()).is_err());
    }
}
