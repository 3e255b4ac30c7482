//! Recorded work: calls, branches of them that do not depend on each other, and calls aside.

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
    /// What the next call belongs to.
    now: Now,
    /// How often calls were begun aside.
    asides: usize,
}

#[derive(Debug, Default)]
enum Now {
    #[default]
    Main,
    /// The last branch of the last part.
    Branch,
    /// The main calls of the last part, which has calls aside.
    Beside,
    /// The last part's last calls aside.
    Aside,
}

#[derive(Debug)]
enum Part {
    Call(Call),
    Branches(Vec<Vec<Call>>),
    /// Main calls from the first calls aside up to where all have rejoined.
    Beside {
        main: Vec<Call>,
        asides: Vec<Aside>,
    },
}

/// Calls aside.
#[derive(Debug)]
struct Aside {
    number: usize,
    /// So many of the main calls are before them.
    at: usize,
    /// As many are before they rejoin, if they do before the others.
    until: Option<usize>,
    calls: Vec<Call>,
}

impl Parts {
    pub fn note(&mut self, call: Call) {
        match (&self.now, self.all.last_mut()) {
            (Now::Branch, Some(Part::Branches(branches))) if !branches.is_empty() => {
                branches.last_mut().expect("there is one").push(call);
            }
            (Now::Beside, Some(Part::Beside { main, .. })) => main.push(call),
            (Now::Aside, Some(Part::Beside { asides, .. })) if !asides.is_empty() => {
                asides.last_mut().expect("there is one").calls.push(call);
            }
            _ => self.all.push(Part::Call(call)),
        }
    }

    /// Begins branch `i`, and with the first the branches.
    pub fn begin_branch(&mut self, i: usize) {
        if i == 0 {
            self.all.push(Part::Branches(Vec::new()));
            self.now = Now::Branch;
        }
        if let Some(Part::Branches(branches)) = self.all.last_mut() {
            branches.push(Vec::new());
        }
    }

    pub fn end_branches(&mut self) {
        self.now = Now::Main;
    }

    /// Begins calls aside, and gives their number; not within others.
    pub fn begin_aside(&mut self) -> Option<usize> {
        match self.now {
            Now::Main => self.all.push(Part::Beside { main: Vec::new(), asides: Vec::new() }),
            Now::Beside => {}
            Now::Branch | Now::Aside => return None,
        }
        self.asides += 1;
        if let Some(Part::Beside { main, asides }) = self.all.last_mut() {
            asides.push(Aside { number: self.asides, at: main.len(), until: None, calls: Vec::new() });
        }
        self.now = Now::Aside;
        Some(self.asides)
    }

    pub fn end_aside(&mut self) {
        self.now = Now::Beside;
    }

    pub fn rejoin(&mut self, number: usize) {
        if let (Now::Beside, Some(Part::Beside { main, asides })) = (&self.now, self.all.last_mut()) {
            for aside in asides.iter_mut().filter(|a| a.number <= number && a.until.is_none()) {
                aside.until = Some(main.len());
            }
            if asides.iter().all(|a| a.until.is_some()) {
                self.now = Now::Main;
            }
        }
    }
}

/// In which order it is done what has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    FromTheFirst,
    FromTheLast,
    /// A call of each in turn, from the last to the first.
    InTurns,
}

impl Order {
    /// All calls, each with its branch.
    fn of_branches(self, branches: &[Vec<Call>]) -> Vec<(usize, &Call)> {
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

    /// All calls, each with whether it is called aside: as early as is allowed, as late, or a main call and one aside in turns.
    fn of_asides<'a>(self, main: &'a [Call], asides: &'a [Aside]) -> Vec<(bool, &'a Call)> {
        let mut waiting = asides.iter().flat_map(|a| a.calls.iter().map(move |call| (a, call))).peekable();
        let mut all = Vec::new();
        for k in 0..=main.len() {
            let must = |aside: &Aside| k == main.len() || aside.until.is_some_and(|until| until <= k);
            let mut turns = usize::from(self == Self::InTurns);
            while let Some((aside, call)) = waiting.peek() {
                let may = aside.at <= k && (self == Self::FromTheFirst || turns > 0);
                if !must(aside) && !may {
                    break;
                }
                turns = turns.saturating_sub(1);
                all.push((true, *call));
                waiting.next();
            }
            all.extend(main.get(k).map(|call| (false, call)));
        }
        all
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

    fn branches(&self, order: Order, branches: &[Vec<Call>]) -> Result<()> {
        let mut touched = vec![Vec::new(); branches.len()];
        for (i, call) in order.of_branches(branches) {
            self.make(call, Some(&mut touched[i]))?;
        }
        touched::apart(&touched)
    }

    fn asides(&self, order: Order, main: &[Call], asides: &[Aside]) -> Result<()> {
        let mut used = [Vec::new(), Vec::new()];
        for (aside, call) in order.of_asides(main, asides) {
            let mut touched = Vec::new();
            self.make(call, Some(&mut touched))?;
            used[usize::from(aside)].push(touched);
        }
        let [of_main, of_asides] = used;
        let mut of_asides = of_asides.into_iter();
        for aside in asides {
            let used = of_asides.by_ref().take(aside.calls.len()).flatten().collect();
            touched::apart(&[of_main[aside.at..aside.until.unwrap_or(main.len())].concat(), used])?;
        }
        Ok(())
    }

    /// Makes a call; what it uses is added to `touched`, if accesses are looked at.
    fn make(&self, call: &Call, touched: Option<&mut Vec<touched::Touched>>) -> Result<()> {
        let touched = touched.filter(|_| self.inner.compiled.is_sanitized());
        // SAFETY: the calls' memory was alive when they were noted, and is kept.
        unsafe { self.inner.make(call, touched) }
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
        self.parts.all.iter().try_for_each(|part| match part {
            Part::Call(call) => self.make(call, None),
            Part::Branches(branches) => self.branches(order, branches),
            Part::Beside { main, asides } => self.asides(order, main, asides),
        })
    }
}
