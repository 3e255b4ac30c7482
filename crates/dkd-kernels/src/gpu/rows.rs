//! One block for each row of logits.

use super::error::{Result, check};
use super::launch::Threads;
use super::memory::{Element, View};

/// One block for each of `n` rows, with a thread for each class up to 256: what is done for one takes longer than adding up over warps.
pub(super) fn each_row(n: usize, classes: usize) -> Threads {
    let threads = classes.next_multiple_of(32).min(256) as u32;
    Threads { grid: [n as u32, 1, 1], block: [threads, 1, 1] }
}

/// The block that sums what all rows have given.
pub(super) fn one_block() -> Threads {
    Threads { grid: [1, 1, 1], block: [256, 1, 1] }
}

/// Rows and classes of logits with these labels.
pub(super) fn shape(operation: &'static str, logits: &View, labels: &View) -> Result<(usize, usize)> {
    let (n, len) = (labels.len(), logits.len());
    let fits = n > 0 && len > 0 && len.is_multiple_of(n) && n < 1 << 31 && len / n < 1 << 31;
    check(operation, fits, || format!("{len} logits for {n} labels"))?;
    check_view(operation, "labels", labels, n, Element::U32)?;
    check_view(operation, "logits", logits, len, Element::F32)?;
    Ok((n, len / n))
}

/// Fails unless a view is as expected.
pub(super) fn check_view(
    operation: &'static str,
    what: &str,
    view: &View,
    len: usize,
    element: Element,
) -> Result<()> {
    check(operation, view.len() == len && view.element() == element, || {
        format!("{} {:?} as {what}, expected {len} {element:?}", view.len(), view.element())
    })
}

/// Fails if something that is written overlaps anything else.
pub(super) fn check_apart(operation: &'static str, written: &[&View], read: &[&View]) -> Result<()> {
    let apart = written
        .iter()
        .enumerate()
        .all(|(i, view)| !written[i + 1..].iter().chain(read).any(|other| view.overlaps(other)));
    check(operation, apart, || "what is written overlaps something else".to_owned())
}
