//! Output channels, each taken from some channel of some source: concatenation, slices, shuffles, and their
//! gradients; of maps that may be normalised on the way.

use super::error::{Result, check};
use super::launch::{Parameters, Threads, launch};
use super::machine::Machine;
use super::memory::{Element, View};
use super::norm;
use super::packs::{apart, countable, fits, holds, is_map};
use crate::channels::{ChannelMap, MAX_SOURCES};

const NAME: &str = "channels";
/// In the table, for a channel of zeros.
const NONE: u32 = u32::MAX;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SourceParameters {
    x: u64,
    scale: u64,
    shift: u64,
    channels: u32,
    relu: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ChannelsParameters {
    sources: [SourceParameters; MAX_SOURCES],
    table: u64,
    y: u64,
    pixels: u32,
    channels: u32,
    relu: u32,
    accumulate: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for ChannelsParameters {}

/// A map that channels are taken from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// As it is.
    Value(&'a View),
    /// As [`norm::apply`] would make it, without an addend.
    Normalized {
        /// What is normalised.
        z: &'a View,
        /// Its normalisation.
        state: &'a norm::Channels,
        /// Whether negative values become 0.
        relu: bool,
    },
}

impl<'a> Source<'a> {
    fn view(self) -> &'a View {
        match self {
            Self::Value(view) | Self::Normalized { z: view, .. } => view,
        }
    }
}

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

    /// For each output channel `source << 24 | channel`, or all bits for none.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Channels of each source.
    pub(super) fn sources(&self) -> &[usize] {
        &self.sources
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
        sources: &[Source<'_>],
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
        let mut parameters = [SourceParameters::default(); MAX_SOURCES];
        for ((source, channels), to) in sources.iter().zip(&self.sources).zip(&mut parameters) {
            holds(NAME, "a source", source.view(), pixels * channels, element)?;
            to.x = source.view().address();
            to.channels = *channels as u32;
            if let Source::Normalized { state, relu, .. } = source {
                check(NAME, state.count() == *channels, || {
                    format!("{channels} channels normalised as {}", state.count())
                })?;
                (to.scale, to.shift) = (state.scale().address(), state.shift().address());
                to.relu = u32::from(*relu);
            }
        }
        let views: Vec<&View> = sources.iter().map(|source| source.view()).collect();
        apart(NAME, &views, y)?;
        let possible = |pack: &usize| {
            let aligned = fits(*pack, self.channels(), &views) && fits(*pack, self.channels(), &[y]);
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
            sources: parameters,
            table: self.view.address(),
            y: y.address(),
            pixels: pixels as u32,
            channels: self.channels() as u32,
            relu: u32::from(relu),
            accumulate: u32::from(accumulate),
        };
        // SAFETY: `y` and all sources have as many pixels; the table names channels that they and their normalisations have.
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

    fn as_they_are<'a>(views: &[&'a View]) -> Vec<Source<'a>> {
        views.iter().map(|view| Source::Value(view)).collect()
    }

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
                    table.run(&machine, &as_they_are(&views), &y, relu, true).unwrap();
                    let want: Vec<f32> = (0..old.len()).map(|i| stored(value(i) + old[i], element)).collect();
                    assert_eq!(download(&machine, &y), want, "case {case} {element:?}");
                    table.run(&machine, &as_they_are(&views), &y, relu, false).unwrap();
                    let want: Vec<f32> = (0..old.len()).map(value).collect();
                    assert_eq!(download(&machine, &y), want, "case {case} {element:?}");
                    for (source, n) in map.sources().iter().enumerate() {
                        let inverse = map.inverse(source);
                        let back = Table::new(&machine, &inverse).unwrap();
                        let before = values(*n, 7);
                        let dx = upload(&machine, &before, element);
                        back.run(&machine, &[Source::Value(&y)], &dx, false, true).unwrap();
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
    fn what_is_normalised_on_the_way_is_what_a_normalisation_stores() {
        const PIXELS: usize = 6;
        for machine in machines() {
            for (map, element) in
                maps().iter().flat_map(|(map, _)| [(map, Element::F32), (map, Element::Bf16)])
            {
                let up = |n: usize, seed: usize, element| upload(&machine, &numbers(n, seed as u64), element);
                let all: Vec<_> =
                    map.sources().iter().enumerate().map(|(i, n)| up(PIXELS * n, i, element)).collect();
                let states: Vec<_> = map
                    .sources()
                    .iter()
                    .map(|n| {
                        let state = norm::Channels::new(&machine, *n).unwrap();
                        let [gamma, beta, mean] = [1, 2, 3].map(|seed| up(*n, seed + n, Element::F32));
                        let var = upload(&machine, &vec![0.7; *n], Element::F32);
                        let affine = norm::Affine {
                            gamma: &gamma,
                            beta: &beta,
                            lacking: None,
                            running: [&mean, &var],
                            eps: 0.1,
                            momentum: 0.1,
                        };
                        norm::running(&machine, &affine, &state).unwrap();
                        state
                    })
                    .collect();
                // Of three neighbours one is normalised, and one rectified as well.
                let table = Table::new(&machine, map).unwrap();
                let sources: Vec<_> = all
                    .iter()
                    .zip(&states)
                    .enumerate()
                    .map(|(i, (z, state))| match i % 3 {
                        2 => Source::Value(z),
                        kind => Source::Normalized { z, state, relu: kind == 0 },
                    })
                    .collect();
                let got = up(PIXELS * map.channels(), 50, element);
                table.run(&machine, &sources, &got, false, false).unwrap();
                for source in &sources {
                    if let Source::Normalized { z, state, relu } = *source {
                        norm::apply(&machine, z, state, norm::Addend::None, relu, z).unwrap();
                    }
                }
                let want = up(PIXELS * map.channels(), 51, element);
                table
                    .run(&machine, &as_they_are(&all.iter().collect::<Vec<_>>()), &want, false, false)
                    .unwrap();
                assert_eq!(
                    download(&machine, &got),
                    download(&machine, &want),
                    "{:?} {element:?}",
                    map.from()
                );
            }
        }
    }

    #[test]
    fn views_off_the_packs_are_taken_one_by_one() {
        for machine in machines() {
            let table = Table::new(&machine, &slices(&[8], &[(0, 0, 8)])).unwrap();
            let x = upload(&machine, &numbers(17, 1), Element::F32).part(1..17).unwrap();
            let y = upload(&machine, &[0.0; 16], Element::F32);
            table.run(&machine, &[Source::Value(&x)], &y, false, false).unwrap();
            assert_eq!(download(&machine, &y), numbers(17, 1)[1..]);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for machine in machines() {
            let table = Table::new(&machine, &slices(&[2, 1], &[(0, 0, 2), (1, 0, 1)])).unwrap();
            let [two, one, three] = [4, 2, 6].map(|n| upload(&machine, &vec![0.0; n], Element::F32));
            let run = |sources: &[&View], y| table.run(&machine, &as_they_are(sources), y, false, false);
            run(&[&two, &one], &three).unwrap();
            assert!(run(&[&one, &two], &three).is_err());
            assert!(run(&[&two], &three).is_err());
            assert!(run(&[&two, &one], &two).is_err());
            let short = upload(&machine, &[0.0; 2], Element::Bf16);
            assert!(run(&[&two, &short], &three).is_err());
            let inside = [three.part(0..4).unwrap(), three.part(4..6).unwrap()];
            assert!(run(&[&inside[0], &inside[1]], &three).is_err());
            let state = norm::Channels::new(&machine, 2).unwrap();
            let [first, second] = [&two, &one].map(|z| Source::Normalized { z, state: &state, relu: true });
            table.run(&machine, &[first, Source::Value(&one)], &three, false, false).unwrap();
            assert!(table.run(&machine, &[first, second], &three, false, false).is_err());
            assert!(Table::new(&machine, &ChannelMap::new(&[1], &[])).is_err());
        }
    }
}
