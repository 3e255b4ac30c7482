//! Matrices `[rows, channels]`: a value added to every row, and sums over all of them.

use super::error::{Result, check};
use super::launch::{Parameters, Threads, launch, launch_blocks};
use super::machine::Machine;
use super::memory::{Element, View};
use super::packs::{PackKernel, countable, holds, is_map, pack_kernel};

/// How a matrix is summed: in chunks of rows, by blocks that each take some channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Rows of one.
    pub rows: usize,
    /// How many there are.
    pub count: usize,
}

impl Chunks {
    /// Rows of one, at least.
    const ROWS: usize = 128;

    /// So many that there are about 256 blocks, which keep a large device busy: in the end one block adds up all chunks of its channels.
    fn most(channels: usize) -> usize {
        (256 / groups(channels)).max(16)
    }

    /// A function of the sizes alone, as sums depend on it.
    pub fn new(rows: usize, channels: usize) -> Self {
        let size = rows.div_ceil(Self::most(channels)).max(Self::ROWS);
        Self { rows: size, count: rows.div_ceil(size) }
    }

    /// Threads for partial sums in packs of `pack` channels.
    pub fn threads(self, channels: usize, pack: usize) -> Threads {
        let packs = channels / pack;
        let columns = packs.next_power_of_two().min(GROUP / pack);
        let grid = [packs.div_ceil(columns) as u32, self.count as u32, 1];
        Threads { grid, block: [columns as u32, (256 / columns) as u32, 1] }
    }
}

/// Channels of a block, at most: a kernel's shared memory is for these.
const GROUP: usize = 32;

/// The blocks beside each other that [`Chunks::threads`] gives.
pub(super) fn groups(channels: usize) -> usize {
    channels.div_ceil(GROUP)
}

/// Numbers of f32 that sums over a matrix need on their way, of as many rows or fewer.
pub fn scratch_len(rows: usize, channels: usize) -> usize {
    Chunks::most(channels).min(rows.div_ceil(Chunks::ROWS)) * channels
}

/// The first of `scratch`, so many sums for each chunk and channel.
pub(super) fn partial(
    operation: &'static str,
    scratch: &View,
    (sums, chunks, channels): (usize, Chunks, usize),
) -> Result<View> {
    let partial = scratch.first(countable(operation, &[sums, chunks.count, channels])?)?;
    holds(operation, "scratch", &partial, partial.len(), Element::F32)?;
    Ok(partial)
}

/// The rows of a matrix of so many channels.
pub(super) fn rows(operation: &'static str, map: &View, channels: usize) -> Result<usize> {
    is_map(operation, map.element())?;
    let whole = channels > 0 && !map.bytes().eq(&0) && map.len().is_multiple_of(channels);
    check(operation, whole, || format!("{} numbers are no rows of {channels}", map.len()))?;
    countable(operation, &[map.len()])?;
    Ok(map.len() / channels)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ColumnParameters {
    x: u64,
    partial: u64,
    tickets: u64,
    sums: u64,
    rows: u64,
    channels: u32,
    chunk_rows: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for ColumnParameters {}

const SUMS: PackKernel = pack_kernel!("column_sums");
const BIAS: PackKernel = pack_kernel!("add_bias");

/// What the blocks of [`column_sums`] count themselves with: calls that follow each other may share it.
#[derive(Clone, Debug)]
pub struct Tickets(View);

impl Tickets {
    /// For sums over maps of so many channels, or fewer.
    ///
    /// # Errors
    /// The machine's.
    pub fn new(machine: &dyn Machine, channels: usize) -> Result<Self> {
        Ok(Self(machine.zeros(Element::U32, groups(channels).max(1))?))
    }
}

/// sums\[c\] = the sum over all rows of x\[row, c\], in f32; there are as many channels as `sums` has numbers.
///
/// # Errors
/// `x` are no whole rows; `scratch` has fewer than [`scratch_len`] numbers of f32; `tickets` are for fewer channels.
pub fn column_sums(
    machine: &dyn Machine,
    x: &View,
    scratch: &View,
    tickets: &Tickets,
    sums: &View,
) -> Result<()> {
    const NAME: &str = "column_sums";
    let channels = sums.len();
    let rows = rows(NAME, x, channels)?;
    holds(NAME, "the sums", sums, channels, Element::F32)?;
    let chunks = Chunks::new(rows, channels);
    let partial = partial(NAME, scratch, (1, chunks, channels))?;
    let tickets = tickets.0.first(groups(channels))?;
    let parameters = ColumnParameters {
        x: x.address(),
        partial: partial.address(),
        tickets: tickets.address(),
        sums: sums.address(),
        rows: rows as u64,
        channels: channels as u32,
        chunk_rows: chunks.rows as u32,
    };
    let (kernel, pack) = SUMS.choose(x.element(), channels, &[x]);
    // SAFETY: lengths and types were checked.
    unsafe { launch_blocks(machine, kernel, &parameters, chunks.threads(channels, pack)) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct BiasParameters {
    y: u64,
    bias: u64,
    packs: u64,
    channels: u32,
    relu: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for BiasParameters {}

/// y\[row, c\] += bias\[c\], and negative values become 0 with `relu`; there are as many channels as `bias` has numbers.
///
/// # Errors
/// `y` are no whole rows; `bias` is not f32.
pub fn add_bias(machine: &dyn Machine, y: &View, bias: &View, relu: bool) -> Result<()> {
    const NAME: &str = "add_bias";
    let channels = bias.len();
    rows(NAME, y, channels)?;
    holds(NAME, "the bias", bias, channels, Element::F32)?;
    let (kernel, pack) = BIAS.choose(y.element(), channels, &[y]);
    let packs = y.len() / pack;
    let parameters = BiasParameters {
        y: y.address(),
        bias: bias.address(),
        packs: packs as u64,
        channels: channels as u32,
        relu: u32::from(relu),
    };
    // SAFETY: lengths and types were checked.
    unsafe { launch(machine, kernel, &parameters, Threads::each(packs)) }
}

#[cfg(all(test, feature = "emulated"))]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, download, machines, numbers, stored, upload};

    #[test]
    fn sums_and_biases_follow_plain_loops() {
        for machine in machines() {
            for (rows, c, element) in [
                (1, 1, Element::F32),
                (40, 7, Element::F32),
                (1000, 16, Element::F32),
                (5000, 8, Element::Bf16),
                (700, 24, Element::Bf16),
                (33, 132, Element::F32),
                (3, 1030, Element::Bf16),
            ] {
                let x: Vec<f32> = numbers(rows * c, 1).iter().map(|v| stored(v + 0.5, element)).collect();
                let view = upload(&machine, &x, element);
                let scratch = upload(&machine, &vec![7.0; scratch_len(rows, c)], Element::F32);
                let sums = upload(&machine, &vec![9.0; c], Element::F32);
                let tickets = Tickets::new(&machine, c).unwrap();
                for _ in 0..2 {
                    column_sums(&machine, &view, &scratch, &tickets, &sums).unwrap();
                }
                let sum = |k: usize| (0..rows).map(|r| f64::from(x[r * c + k])).sum::<f64>() as f32;
                assert_close(&download(&machine, &sums), &(0..c).map(sum).collect::<Vec<_>>(), 1e-4);
                let bias = numbers(c, 2);
                add_bias(&machine, &view, &upload(&machine, &bias, Element::F32), true).unwrap();
                let want: Vec<f32> =
                    x.iter().enumerate().map(|(i, v)| stored((v + bias[i % c]).max(0.0), element)).collect();
                assert_eq!(download(&machine, &view), want);
            }
        }
    }

    #[test]
    fn scratch_for_more_rows_is_enough_for_fewer() {
        for channels in [1, 16, 32, 33, 64, 100, 512, 2000] {
            let mut before = 0;
            for rows in (1..200).chain((32_000..33_500).step_by(7)).chain([1 << 20, 1 << 24]) {
                let len = scratch_len(rows, channels);
                assert!(before <= len && Chunks::new(rows, channels).count * channels <= len);
                before = len;
            }
        }
    }

    #[test]
    fn orders_give_the_same_bits() {
        let results: Vec<Vec<f32>> = machines()
            .iter()
            .map(|machine| {
                let x = upload(machine, &numbers(3000 * 20, 1), Element::F32);
                let scratch = upload(machine, &vec![0.0; scratch_len(3000, 20)], Element::F32);
                let sums = upload(machine, &[0.0; 20], Element::F32);
                column_sums(machine, &x, &scratch, &Tickets::new(machine, 20).unwrap(), &sums).unwrap();
                download(machine, &sums)
            })
            .collect();
        assert!(results.windows(2).all(|w| w[0] == w[1]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for machine in machines() {
            let [x, three, short] = [8, 3, 1].map(|n| upload(&machine, &vec![0.0; n], Element::F32));
            let two = three.first(2).unwrap();
            assert!(add_bias(&machine, &x, &three, false).is_err());
            let tickets = Tickets::new(&machine, 32).unwrap();
            assert!(column_sums(&machine, &x, &short, &tickets, &two).is_err());
            let [many, sums] = [66, 33].map(|n| upload(&machine, &vec![0.0; n], Element::F32));
            assert!(column_sums(&machine, &many, &many, &tickets, &sums).is_err(), "too few tickets");
            column_sums(
                &machine,
                &many,
                &upload(&machine, &[0.0; 33], Element::F32),
                &Tickets::new(&machine, 33).unwrap(),
                &sums,
            )
            .unwrap();
            let halves = upload(&machine, &[0.0; 2], Element::Bf16);
            assert!(add_bias(&machine, &x, &halves, false).is_err());
        }
    }
}
