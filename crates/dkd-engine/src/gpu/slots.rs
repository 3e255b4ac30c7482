//! Pieces of memory, each for tensors that are never needed at the same time.

use super::executor::elements;
use crate::plan::Plan;

/// Gives every tensor with a life, from one step to another, a place; one whose life is over is used again for one that fits and fills at
/// least half. Places by tensor, and numbers of one image in each.
pub(super) fn assign(plan: &Plan, lives: &[Option<(usize, usize)>]) -> (Vec<Option<usize>>, Vec<usize>) {
    let mut order: Vec<_> = (0..lives.len()).filter_map(|t| Some((lives[t]?, t))).collect();
    order.sort_unstable();
    let (mut sizes, mut ends, mut places) =
        (Vec::<usize>::new(), Vec::<usize>::new(), vec![None; lives.len()]);
    for ((from, to), t) in order {
        let n = elements(plan, t);
        let fits = |slot: &usize| ends[*slot] < from && sizes[*slot] >= n && sizes[*slot] <= 2 * n;
        let slot = (0..sizes.len()).filter(fits).min_by_key(|slot| sizes[*slot]).unwrap_or_else(|| {
            sizes.push(n);
            ends.push(0);
            sizes.len() - 1
        });
        ends[slot] = to;
        places[t] = Some(slot);
    }
    (places, sizes)
}
