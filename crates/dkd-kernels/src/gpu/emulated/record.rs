//! Recorded work: calls, branches of them that do not depend on each other, and calls aside.

use super::touched::{self, Touched};
use super::{Call, Inner};
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
    beside: Option<Beside>,
}

/// Calls that nothing waits for up to the end.
#[derive(Debug)]
struct Beside {
    /// So many parts are before them.
    at: usize,
    calls: Vec<Call>,
    /// Whether more come.
    open: bool,
}

#[derive(Debug, Default)]
enum Now {
    #[default]
    Main,
    /// The last branch of the last part.
    Branch,
    /// The main calls of the last part, which has calls aside.
    WithAsides,
    /// The last part's last calls aside.
    Aside,
}

#[derive(Debug)]
enum Part {
    Call(Call),
    Branches(Vec<Vec<Call>>),
    /// Main calls from the first calls aside up to where all have rejoined.
    WithAsides {
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
        if let Some(beside) = self.beside.as_mut().filter(|beside| beside.open) {
            beside.calls.push(call);
            return;
        }
        match (&self.now, self.all.last_mut()) {
            (Now::Branch, Some(Part::Branches(branches))) if !branches.is_empty() => {
                branches.last_mut().expect("there is one").push(call);
            }
            (Now::WithAsides, Some(Part::WithAsides { main, .. })) => main.push(call),
            (Now::Aside, Some(Part::WithAsides { asides, .. })) if !asides.is_empty() => {
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

    /// Begins calls beside all that comes later, the first time; whether it does.
    pub fn begin_beside(&mut self) -> bool {
        let begins = self.beside.is_none() && matches!(self.now, Now::Main);
        if begins {
            self.beside = Some(Beside { at: self.all.len(), calls: Vec::new(), open: true });
        }
        begins
    }

    /// Whether what comes now is beside.
    pub fn is_beside(&self) -> bool {
        self.beside.as_ref().is_some_and(|beside| beside.open)
    }

    pub fn end_beside(&mut self) {
        self.beside.iter_mut().for_each(|beside| beside.open = false);
    }

    /// Begins calls aside, and gives their number; not within others.
    pub fn begin_aside(&mut self) -> Option<usize> {
        if self.is_beside() {
            return None;
        }
        match self.now {
            Now::Main => self.all.push(Part::WithAsides { main: Vec::new(), asides: Vec::new() }),
            Now::WithAsides => {}
            Now::Branch | Now::Aside => return None,
        }
        self.asides += 1;
        if let Some(Part::WithAsides { main, asides }) = self.all.last_mut() {
            asides.push(Aside { number: self.asides, at: main.len(), until: None, calls: Vec::new() });
        }
        self.now = Now::Aside;
        Some(self.asides)
    }

    pub fn end_aside(&mut self) {
        self.now = Now::WithAsides;
    }

    pub fn rejoin(&mut self, number: usize) {
        if let (Now::WithAsides, Some(Part::WithAsides { main, asides })) = (&self.now, self.all.last_mut()) {
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

    /// What was used is added to `all`.
    fn branches(&self, order: Order, branches: &[Vec<Call>], all: &mut Vec<Touched>) -> Result<()> {
        let mut touched = vec![Vec::new(); branches.len()];
        for (i, call) in order.of_branches(branches) {
            self.make(call, Some(&mut touched[i]))?;
        }
        touched::apart(&touched)?;
        all.extend(touched.into_iter().flatten());
        Ok(())
    }

    /// What was used is added to `all`.
    fn asides(&self, order: Order, main: &[Call], asides: &[Aside], all: &mut Vec<Touched>) -> Result<()> {
        let mut used = [Vec::new(), Vec::new()];
        for (aside, call) in order.of_asides(main, asides) {
            let mut touched = Vec::new();
            self.make(call, Some(&mut touched))?;
            used[usize::from(aside)].push(touched);
        }
        let [of_main, of_asides] = used;
        let mut of_asides = of_asides.into_iter();
        for aside in asides {
            let used: Vec<_> = of_asides.by_ref().take(aside.calls.len()).flatten().collect();
            let meanwhile = of_main[aside.at..aside.until.unwrap_or(main.len())].concat();
            touched::apart(&[meanwhile, used.clone()])?;
            all.extend(used);
        }
        all.extend(of_main.into_iter().flatten());
        Ok(())
    }

    fn part(&self, order: Order, part: &Part, all: &mut Vec<Touched>) -> Result<()> {
        match part {
            Part::Call(call) => self.make(call, Some(all)),
            Part::Branches(branches) => self.branches(order, branches, all),
            Part::WithAsides { main, asides } => self.asides(order, main, asides, all),
        }
    }

    /// Makes a call; what it uses is added to `touched`, if accesses are looked at.
    fn make(&self, call: &Call, touched: Option<&mut Vec<Touched>>) -> Result<()> {
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
        let Parts { all, beside, .. } = &self.parts;
        let (before, after) = all.split_at(beside.as_ref().map_or(all.len(), |beside| beside.at));
        before.iter().try_for_each(|part| self.part(order, part, &mut Vec::new()))?;
        // Those beside come at once, at last, or one after each part.
        let mut used = [Vec::new(), Vec::new()];
        let mut calls = beside.iter().flat_map(|beside| &beside.calls);
        let some = |order| match order {
            Order::FromTheFirst => usize::MAX,
            Order::InTurns => 1,
            Order::FromTheLast => 0,
        };
        let [of_after, of_beside] = &mut used;
        let mut beside =
            |n: usize| calls.by_ref().take(n).try_for_each(|call| self.make(call, Some(of_beside)));
        beside(some(order))?;
        for part in after {
            self.part(order, part, of_after)?;
            beside(some(order))?;
        }
        beside(usize::MAX)?;
        touched::apart(&used)
    }
}
