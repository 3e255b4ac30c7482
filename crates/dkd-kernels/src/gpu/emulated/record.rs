//! Recorded work: calls, and branches of them that do not depend on each other.

use super::{Call, Inner, touched};
use crate::gpu::error::Result;
use crate::gpu::machine::Recorded;
use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

/// What was recorded, in its order.
#[derive(Debug, Default)]
pub(super) struct Parts {
    all: Vec<Part>,
    /// Whether calls belong to the last branch.
    branching: bool,
}

#[derive(Debug)]
enum Part {
    Call(Call),
    Branches(Vec<Vec<Call>>),
}

impl Parts {
    pub fn note(&mut self, call: Call) {
        match self.all.last_mut() {
            Some(Part::Branches(branches)) if self.branching => {
                if let Some(branch) = branches.last_mut() {
                    branch.push(call);
                }
            }
            _ => self.all.push(Part::Call(call)),
        }
    }

    /// Begins branch `i`, and with the first the branches.
    pub fn begin_branch(&mut self, i: usize) {
        if i == 0 {
            self.all.push(Part::Branches(Vec::new()));
            self.branching = true;
        }
        if let Some(Part::Branches(branches)) = self.all.last_mut() {
            branches.push(Vec::new());
        }
    }

    pub fn end_branches(&mut self) {
        self.branching = false;
    }
}

/// In which order branches are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    FromTheFirst,
    FromTheLast,
    /// A call of each in turn, from the last to the first.
    InTurns,
}

impl Order {
    /// All calls, each with its branch.
    fn of(self, branches: &[Vec<Call>]) -> Vec<(usize, &Call)> {
        let all = |i: usize| branches[i].iter().map(move |call| (i, call));
        match self {
            Self::FromTheFirst => (0..branches.len()).flat_map(all).collect(),
            Self::FromTheLast => (0..branches.len()).rev().flat_map(all).collect(),
            Self::InTurns => {
                let longest = branches.iter().map(Vec::len).max().unwrap_or(0);
                let turn =
                    |k: usize| (0..branches.len()).rev().filter_map(move |i| Some((i, branches[i].get(k)?)));
                (0..longest).flat_map(turn).collect()
            }
        }
    }
}

pub(super) struct Record {
    inner: Arc<Inner>,
    parts: Parts,
    /// Of the next replay.
    order: Cell<Order>,
    _memory: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Record {
    /// With memory that lives as long.
    pub fn new(inner: Arc<Inner>, parts: Parts, memory: Vec<Arc<dyn Any + Send + Sync>>) -> Self {
        let order = Cell::new(if inner.backwards { Order::FromTheLast } else { Order::FromTheFirst });
        Self { inner, parts, order, _memory: memory }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("parts", &self.parts.all.len()).finish_non_exhaustive()
    }
}

impl Recorded for Record {
    fn replay(&self) -> Result<()> {
        self.inner.not_recording("replay")?;
        let order = self.order.get();
        // Either order finds what the other does not: work that needs all of another's, and work that is disturbed in its midst.
        self.order.set(match order {
            Order::FromTheFirst => Order::FromTheFirst,
            Order::FromTheLast => Order::InTurns,
            Order::InTurns => Order::FromTheLast,
        });
        // SAFETY: the calls' memory was alive when they were noted, and is kept.
        let make = |call: &Call, touched: Option<&mut _>| unsafe { self.inner.make(call, touched) };
        let sanitized = self.inner.compiled.is_sanitized();
        self.parts.all.iter().try_for_each(|part| match part {
            Part::Call(call) => make(call, None),
            Part::Branches(branches) => {
                let mut touched = vec![Vec::new(); branches.len()];
                for (i, call) in order.of(branches) {
                    make(call, sanitized.then_some(&mut touched[i]))?;
                }
                touched::apart(&touched)
            }
        })
    }
}
