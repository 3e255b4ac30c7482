//! Kernels that begin ahead of their time, tried once.

use crate::gpu::error::Result;
use crate::gpu::machine::Machine;
use crate::gpu::memory::Element;
use crate::gpu::pointwise::{Pointwise, pointwise};

/// So many blocks that a kernel which does not wait finds numbers that are not there yet.
const LEN: usize = 1 << 18;
const KERNELS: usize = 8;

/// Whether kernels in a row, each of which needs what all blocks of the one before have written, give the right results.
pub(super) fn try_out(machine: &dyn Machine) -> Result<bool> {
    let mut want: [Vec<f32>; 2] = [3, 5].map(|step| (0..LEN).map(|i| (i * step % 7) as f32).collect());
    let views = [machine.zeros(Element::F32, LEN)?, machine.zeros(Element::F32, LEN)?];
    for (view, values) in views.iter().zip(&want) {
        machine.write_floats(view, values)?;
    }
    let recorded = machine.record(&mut || {
        (0..KERNELS).try_for_each(|k| {
            let (from, to) = (views[k % 2].first(LEN - 1)?, views[(k + 1) % 2].part(1..LEN)?);
            pointwise(machine, Pointwise::Copy, &from, None, &to, true)
        })
    })?;
    recorded.replay()?;
    for k in 0..KERNELS {
        let from = want[k % 2].clone();
        want[(k + 1) % 2][1..].iter_mut().zip(&from).for_each(|(to, from)| *to += from);
    }
    for (view, want) in views.iter().zip(&want) {
        if machine.read_floats(view)? != *want {
            return Ok(false);
        }
    }
    Ok(true)
}
