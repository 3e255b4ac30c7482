//! How a convolution in groups is divided among blocks.

use super::NAME;
use crate::gpu::convolution::Convolution;
use crate::gpu::error::{Result, check};
use crate::gpu::packs::countable;

/// Channels of a group from which on tiles pay.
const TILES_FROM: usize = 12;
/// Results of a tile: so many pixels, so many channels of a group.
pub(super) const TILE_PIXELS: usize = 64;
pub(super) const TILE_CHANNELS: usize = 32;
pub(super) const TILE_THREADS: u32 = 128;
/// What a tile of a weight gradient sums up at once.
const TILE_DEPTH: usize = 16;
/// Threads of a block that sums up depthwise weight gradients.
const DEPTHWISE_THREADS: usize = 256;
/// Blocks that fill a device.
const BLOCKS: usize = 1024;
/// More parts would take longer to add up than they save.
const MOST_CHUNKS: usize = 256;

/// Which kernels compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Every group has one input and one output.
    Depthwise,
    /// Groups of many channels.
    Tiles,
    /// A thread for each number.
    Each,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub way: Way,
    /// Parts of the batch that are summed up one by one for the weights' gradient. They depend on the sizes
    /// only, so that results do not depend on the device.
    pub chunks: usize,
    /// Numbers in all parts' sums.
    pub scratch: usize,
}

impl Plan {
    /// Checks the sizes.
    pub fn new(c: &Convolution) -> Result<Self> {
        let ((h, w, channels), (oh, ow, outputs)) = (c.input, c.output);
        let whole = c.groups > 0 && channels.is_multiple_of(c.groups) && outputs.is_multiple_of(c.groups);
        check(NAME, whole, || format!("{channels} and {outputs} channels in {} groups", c.groups))?;
        let fits = |n: usize, out: usize, k: usize, s: usize, p: usize| {
            let small = [n, out, k, s, p].iter().all(|size| *size < 1 << 28);
            small && [n, out, k, s].iter().all(|size| *size > 0) && (out - 1) * s + k <= n + 2 * p
        };
        let fits = fits(h, oh, c.kernel.0, c.stride.0, c.padding.0)
            && fits(w, ow, c.kernel.1, c.stride.1, c.padding.1);
        check(NAME, fits, || format!("its sizes do not fit: {c:?}"))?;
        let (inputs, group) = (channels / c.groups, outputs / c.groups);
        let area = countable(NAME, &[c.kernel.0, c.kernel.1])?;
        countable(NAME, &[c.images, h, w, channels])?;
        let lines = c.images * oh;
        countable(NAME, &[lines, ow, outputs])?;
        let weights = countable(NAME, &[outputs, area, inputs])?;
        let way = match (inputs, group) {
            (1, 1) => Way::Depthwise,
            _ if inputs.min(group) >= TILES_FROM => Way::Tiles,
            _ => Way::Each,
        };
        // Blocks of one chunk, and how many chunks have something to do.
        let (blocks, most) = match way {
            Way::Depthwise => {
                let packs = channels.div_ceil(4);
                let (lanes, parts) = depthwise_block(packs);
                let positions = if c.kernel == (3, 3) { 1 } else { area };
                (packs.div_ceil(lanes) * positions, lines.div_ceil(parts))
            }
            Way::Tiles => {
                let tiles = inputs.div_ceil(TILE_CHANNELS) * group.div_ceil(TILE_CHANNELS);
                (c.groups * tiles * area, (lines * ow).div_ceil(TILE_DEPTH))
            }
            Way::Each => (weights.div_ceil(256), lines),
        };
        let chunks = BLOCKS.div_ceil(blocks.max(1)).min(most).clamp(1, MOST_CHUNKS);
        Ok(Self { way, chunks, scratch: countable(NAME, &[chunks, weights])? })
    }
}

/// Packs of channels side by side in a block of depthwise weight gradients, and parts of a chunk.
pub(super) fn depthwise_block(packs: usize) -> (usize, usize) {
    let lanes = packs.next_power_of_two().clamp(1, 32);
    (lanes, DEPTHWISE_THREADS / lanes)
}
