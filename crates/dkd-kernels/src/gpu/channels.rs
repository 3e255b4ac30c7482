//! Output channels, each taken from some channel of some source: concatenation, slices, shuffles, and their
//! gradients.

use super::error::{Result, check};
use super::launch::{Parameters, Threads, launch};
use super::machine::Machine;
use super::memory::{Element, View};
use super::packs::{apart, countable, fits, holds, is_map};
use crate::channels::{ChannelMap, MAX_SOURCES};

const NAME: &str = "channels";
/// In the table, for a channel of zeros.
const NONE: u32 = u32::MAX;

#[repr(C)]
#[derive(Clone, Copy)]
struct ChannelsParameters {
    sources: [u64; MAX_SOURCES],
    table: u64,
    y: u64,
    counts: [u32; MAX_SOURCES],
    pixels: u32,
    channels: u32,
    relu: u32,
    accumulate: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for ChannelsParameters {}

/// A [`ChannelMap`] in a machine's memory.
#[derive(Clone, Debug)]
pub struct Table {
    /// For each output channel `source << 24 | channel`, or [`NONE`].
    view: View,
    /// Channels of each source.
    sources: Vec<usize>,
    /// Output channels that are neighbours in their sources as well, in packs of so many: 1, 4 or 8.
    pack: usize,
}

impl Table {
    /// Writes `map` to `machine`; it can be used there only.
    ///
    /// # Errors
    /// A source has 2^24 channels or more, or the output has none; there is no memory; a step is being
    /// recorded.
    pub fn new(machine: &dyn Machine, map: &ChannelMap) -> Result<Self> {
        let n = map.channels();
        check(NAME, n > 0, || "no output channels".to_owned())?;
        let small = map.sources().iter().all(|channels| *channels < 1 << 24);
        check(NAME, small, || format!("{:?} channels of the sources", map.sources()))?;
        let entry = |from: &Option<(usize, usize)>| from.map_or(NONE, |(s, c)| (s as u32) << 24 | c as u32);
        let bytes: Vec<u8> = map.from().iter().flat_map(|from| entry(from).to_le_bytes()).collect();
        let view = machine.zeros(Element::U32, n)?;
        machine.write(&view, &bytes)?;
        let pack = [8, 4].into_iter().find(|pack| in_packs(map, *pack)).unwrap_or(1);
        Ok(Self { view, sources: map.sources().to_vec(), pack })
    }

    /// Output channels.
    pub fn channels(&self) -> usize {
        self.view.len()
    }

    /// y\[p, j\] = `sources[s][p, c]` for the source s and channel c that the map gives for j, or 0; with
    /// `relu` negative values become 0; with `accumulate` it is added to what is there.
    ///
    /// Maps are `[pixels, channels]`. The gradient of a source is the same with the map's
    /// [`ChannelMap::inverse`].
    ///
    /// # Errors
    /// Another number of sources; lengths or types do not fit; `y` overlaps a source; 2^31 numbers or more.
    pub fn run(
        &self,
        machine: &dyn Machine,
        sources: &[&View],
        y: &View,
        relu: bool,
        accumulate: bool,
    ) -> Result<()> {
        let element = y.element();
        is_map(NAME, element)?;
        check(NAME, sources.len() == self.sources.len(), || {
            format!("{} sources of {}", sources.len(), self.sources.len())
        })?;
        let pixels = y.len() / self.channels();
        holds(NAME, "the output", y, pixels * self.channels(), element)?;
        countable(NAME, &[pixels, self.channels()])?;
        let (mut addresses, mut counts) = ([0; MAX_SOURCES], [0; MAX_SOURCES]);
        for (i, (view, channels)) in sources.iter().zip(&self.sources).enumerate() {
            holds(NAME, "a source", view, pixels * channels, element)?;
            addresses[i] = view.address();
            counts[i] = *channels as u32;
        }
        apart(NAME, sources, y)?;
        let possible = |pack: &usize| {
            let aligned = fits(*pack, self.channels(), sources) && fits(*pack, self.channels(), &[y]);
            self.pack.is_multiple_of(*pack) && pack * element.bytes() <= 16 && aligned
        };
        let pack = [8, 4].into_iter().find(possible).unwrap_or(1);
        let kernel = match (element, pack) {
            (Element::Bf16, 8) => "channels_eights_bf16",
            (Element::Bf16, 4) => "channels_fours_bf16",
            (Element::Bf16, _) => "channels_bf16",
            (_, 4) => "channels_fours_f32",
            _ => "channels_f32",
        };
        let parameters = ChannelsParameters {
            sources: addresses,
            table: self.view.address(),
            y: y.address(),
            counts,
            pixels: pixels as u32,
            channels: self.channels() as u32,
            relu: u32::from(relu),
            accumulate: u32::from(accumulate),
        };
        // SAFETY: `y` and all sources have as many pixels; the table names channels that they have.
        unsafe { launch(machine, kernel, &parameters, Threads::each(y.len() / pack)) }
    }
}

/// Whether the map takes packs of `pack` channels as they are.
fn in_packs(map: &ChannelMap, pack: usize) -> bool {
    let whole = |from: &[Option<(usize, usize)>]| match from[0] {
        None => from.iter().all(Option::is_none),
        Some((source, first)) => {
            first.is_multiple_of(pack)
                && from.iter().enumerate().all(|(i, from)| *from == Some((source, first + i)))
        }
    };
    let sources = map.sources().iter().chain([&map.channels()]).all(|n| n.is_multiple_of(pack));
    sources && map.from().chunks(pack).all(whole)
}

#[cfg(all(test, feature = "emulated"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::gpu::testing::{download, machines, numbers, stored, upload};

    /// Slices of neighbours, `(source, first, channels)`; the source 9 is none.
    fn slices(sources: &[usize], parts: &[(usize, usize, usize)]) -> ChannelMap {
        let one = |&(s, first, n): &(usize, usize, usize)| {
            (first..first + n).map(move |c| (s < 9).then_some((s, c))).collect::<Vec<_>>()
        };
        ChannelMap::new(sources, &parts.iter().flat_map(one).collect::<Vec<_>>())
    }

    fn shuffle(channels: usize, groups: usize) -> ChannelMap {
        let from: Vec<_> =
            (0..channels).map(|c| Some((0, c % groups * (channels / groups) + c / groups))).collect();
        ChannelMap::new(&[channels], &from)
    }

    fn maps() -> Vec<(ChannelMap, usize)> {
        vec![
            (slices(&[8, 16], &[(1, 8, 8), (0, 0, 8), (9, 0, 8), (1, 0, 8)]), 8),
            (slices(&[12, 4], &[(0, 0, 12), (1, 0, 4)]), 4),
            (slices(&[12, 8], &[(9, 0, 4), (1, 0, 8), (0, 4, 4)]), 4),
            (slices(&[3, 1, 5], &[(2, 1, 4), (9, 0, 2), (0, 0, 3)]), 1),
            (slices(&[8], &[(0, 4, 4), (0, 2, 2), (0, 0, 2)]), 1),
            (slices(&[8], &[(0, 2, 4)]), 1),
            (shuffle(24, 3), 1),
            (slices(&[1; MAX_SOURCES], &[(15, 0, 1), (0, 0, 1)]), 1),
        ]
    }

    #[test]
    fn channels_come_from_their_sources_and_gradients_return() {
        const PIXELS: usize = 7;
        for machine in machines() {
            for (case, (map, pack)) in maps().iter().enumerate() {
                for (element, relu) in
                    [Element::F32, Element::Bf16].into_iter().flat_map(|e| [(e, false), (e, true)])
                {
                    let table = Table::new(&machine, map).unwrap();
                    assert_eq!(table.pack, *pack, "case {case}");
                    let values = |n: usize, seed: usize| -> Vec<f32> {
                        numbers(PIXELS * n, seed as u64).iter().map(|v| stored(*v, element)).collect()
                    };
                    let all: Vec<_> = map.sources().iter().enumerate().map(|(i, n)| values(*n, i)).collect();
                    let old = values(map.channels(), 99);
                    let views: Vec<_> = all.iter().map(|v| upload(&machine, v, element)).collect();
                    let views: Vec<_> = views.iter().collect();
                    let y = upload(&machine, &old, element);
                    let value = |i: usize| {
                        let (pixel, channel) = (i / map.channels(), i % map.channels());
                        let from = map.from()[channel];
                        let value = from.map_or(0.0, |(s, c)| all[s][pixel * map.sources()[s] + c]);
                        if relu { value.max(0.0) } else { value }
                    };
                    table.run(&machine, &views, &y, relu, true).unwrap();
                    let want: Vec<f32> = (0..old.len()).map(|i| stored(value(i) + old[i], element)).collect();
                    assert_eq!(download(&machine, &y), want, "case {case} {element:?}");
                    table.run(&machine, &views, &y, relu, false).unwrap();
                    let want: Vec<f32> = (0..old.len()).map(value).collect();
                    assert_eq!(download(&machine, &y), want, "case {case} {element:?}");
                    for (source, n) in map.sources().iter().enumerate() {
                        let inverse = map.inverse(source);
                        let back = Table::new(&machine, &inverse).unwrap();
                        let before = values(*n, 7);
                        let dx = upload(&machine, &before, element);
                        back.run(&machine, &[&y], &dx, false, true).unwrap();
                        let value = |i: usize| {
                            let (pixel, channel) = (i / n, i % n);
                            let to = map.from().iter().position(|f| *f == Some((source, channel)));
                            let add = to.map_or(0.0, |j| want[pixel * map.channels() + j]);
                            stored(before[i] + add, element)
                        };
                        let want: Vec<f32> = (0..before.len()).map(value).collect();
                        assert_eq!(download(&machine, &dx), want, "case {case} source {source}");
                    }
                }
            }
        }
    }

    #[test]
    fn views_off_the_packs_are_taken_one_by_one() {
        for machine in machines() {
            let table = Table::new(&machine, &slices(&[8], &[(0, 0, 8)])).unwrap();
            let x = upload(&machine, &numbers(17, 1), Element::F32).part(1..17).unwrap();
            let y = upload(&machine, &[0.0; 16], Element::F32);
            table.run(&machine, &[&x], &y, false, false).unwrap();
            assert_eq!(download(&machine, &y), numbers(17, 1)[1..]);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for machine in machines() {
            let table = Table::new(&machine, &slices(&[2, 1], &[(0, 0, 2), (1, 0, 1)])).unwrap();
            let [two, one, three] = [4, 2, 6].map(|n| upload(&machine, &vec![0.0; n], Element::F32));
            table.run(&machine, &[&two, &one], &three, false, false).unwrap();
            assert!(table.run(&machine, &[&one, &two], &three, false, false).is_err());
            assert!(table.run(&machine, &[&two], &three, false, false).is_err());
            assert!(table.run(&machine, &[&two, &one], &two, false, false).is_err());
            let short = upload(&machine, &[0.0; 2], Element::Bf16);
            assert!(table.run(&machine, &[&two, &short], &three, false, false).is_err());
            let inside = [three.part(0..4).unwrap(), three.part(4..6).unwrap()];
            assert!(table.run(&machine, &[&inside[0], &inside[1]], &three, false, false).is_err());
            assert!(Table::new(&machine, &ChannelMap::new(&[1], &[])).is_err());
        }
    }
}
