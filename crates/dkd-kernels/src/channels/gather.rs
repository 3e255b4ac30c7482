//! Output channels, each taken from some channel of some source.

use super::lanes::{ChannelLanes, PIECE};
use crate::simd::simd_kernel;
use crate::{Isa, LANES, Map, padded_channels};

/// Most sources of one [`ChannelMap`].
pub const MAX_SOURCES: usize = 16;

/// Lanes of one output vector that come from [`PIECE`] neighbouring channels of one source.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) source: usize,
    /// The first of the neighbouring channels.
    pub(super) first: usize,
    /// For each lane which of them, below [`PIECE`].
    pub(super) index: [i32; LANES],
    /// For each lane all bits if it is filled, else none; and the same as a mask.
    pub(super) keep: [i32; LANES],
    pub(super) mask: u16,
}

/// What becomes of the channels of a [`ChannelMap`]'s output on the way: `max(scale * value + shift, floor)`, for each its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelAffine {
    scale: Vec<f32>,
    shift: Vec<f32>,
    floor: Vec<f32>,
}

impl ChannelAffine {
    /// Nothing, for so many channels.
    pub fn identity(channels: usize) -> Self {
        let n = padded_channels(channels);
        Self { scale: vec![1.0; n], shift: vec![0.0; n], floor: vec![f32::NEG_INFINITY; n] }
    }

    /// Sets what becomes of a channel: with `relu`, nothing negative.
    ///
    /// # Panics
    /// There is no such channel.
    pub fn set(&mut self, channel: usize, scale: f32, shift: f32, relu: bool) {
        self.scale[channel] = scale;
        self.shift[channel] = shift;
        self.floor[channel] = if relu { 0.0 } else { f32::NEG_INFINITY };
    }
}

/// Which channel of which source becomes which output channel; channels without a source are 0.
///
/// Concatenation, slices, shuffles, padding and whatever is made of them are such maps. If no source channel is used twice,
/// the gradient of each source is one as well ([`ChannelMap::inverse`]).
///
/// ```
/// use dkd_kernels::channels::ChannelMap;
/// use dkd_kernels::{Isa, Map};
/// // One pixel of two channels and one of one, in reverse order, with a 0 between them.
/// let map = ChannelMap::new(&[2, 1], &[Some((1, 0)), None, Some((0, 1)), Some((0, 0))]);
/// let (a, b, out) = (Map::new(1, 1, 2, 0), Map::new(1, 1, 1, 0), Map::new(1, 1, 4, 0));
/// let (mut x, mut z, mut y) = (vec![0.0; 16], vec![0.0; 16], vec![0.0; 16]);
/// (x[0], x[1], z[0]) = (1.0, 2.0, 3.0);
/// map.run(Isa::detect()?, [(&x[..], a), (&z[..], b)], &mut y, out, false, false);
/// assert_eq!(y[..5], [3.0, 0.0, 2.0, 1.0, 0.0]);
/// # Ok::<(), dkd_kernels::IsaError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelMap {
    /// Channels of each source.
    sources: Vec<usize>,
    from: Vec<Option<(usize, usize)>>,
    pieces: Vec<Piece>,
    /// Where the pieces of each output vector begin, and the end.
    starts: Vec<usize>,
}

impl ChannelMap {
    /// Output channel c is channel `from[c].1` of source `from[c].0`; `sources` are the sources' channels.
    ///
    /// # Panics
    /// If a source or channel is not there, or there are more than [`MAX_SOURCES`] sources.
    pub fn new(sources: &[usize], from: &[Option<(usize, usize)>]) -> Self {
        assert!(sources.len() <= MAX_SOURCES, "{} sources; at most {MAX_SOURCES}", sources.len());
        assert!(from.iter().flatten().all(|(s, c)| *c < sources[*s]), "only channels that are there");
        let mut map =
            Self { sources: sources.to_vec(), from: from.to_vec(), pieces: Vec::new(), starts: vec![0] };
        for lanes in from.chunks(LANES) {
            map.vector(lanes);
            map.starts.push(map.pieces.len());
        }
        map
    }

    /// The pieces of one output vector: from the lowest channel that is still missing on, as many as one piece reaches.
    fn vector(&mut self, lanes: &[Option<(usize, usize)>]) {
        let mut missing: Vec<(usize, usize, usize)> =
            lanes.iter().enumerate().filter_map(|(lane, from)| from.map(|(s, c)| (s, c, lane))).collect();
        missing.sort_unstable();
        while let Some(&(source, lowest, _)) = missing.first() {
            let first = lowest.min(padded_channels(self.sources[source]) - PIECE);
            let mut piece = Piece { source, first, index: [0; LANES], keep: [0; LANES], mask: 0 };
            missing.retain(|&(s, c, lane)| {
                let reached = s == source && (first..first + PIECE).contains(&c);
                if reached {
                    piece.index[lane] = (c - first) as i32;
                    piece.keep[lane] = -1;
                    piece.mask |= 1 << lane;
                }
                !reached
            });
            self.pieces.push(piece);
        }
    }

    /// Channels of each source.
    pub fn sources(&self) -> &[usize] {
        &self.sources
    }

    /// For each output channel its source and the channel there, or nothing for zeros.
    pub fn from(&self) -> &[Option<(usize, usize)>] {
        &self.from
    }

    /// Output channels.
    pub fn channels(&self) -> usize {
        self.from.len()
    }

    /// The map from the gradient of the output to that of a source; channels that are not used have gradient 0.
    ///
    /// # Panics
    /// If a channel of the source is used twice: the gradient would be a sum.
    pub fn inverse(&self, source: usize) -> Self {
        let mut back = vec![None; self.sources[source]];
        for (output, from) in self.from.iter().enumerate() {
            if let Some((_, channel)) = from.filter(|(s, _)| *s == source) {
                assert!(back[channel].replace((0, output)).is_none(), "channel {channel} is used twice");
            }
        }
        Self::new(&[self.from.len()], &back)
    }

    /// Fills the interior of `y`, padding channels included; with `accumulate` adds to it. With `relu` negative values
    /// become 0. Sources are images of the output's size; borders may differ.
    ///
    /// # Panics
    /// If lengths, sizes, channels or the number of sources do not fit.
    pub fn run<'a>(
        &self,
        isa: Isa,
        sources: impl IntoIterator<Item = (&'a [f32], Map)>,
        y: &mut [f32],
        y_map: Map,
        relu: bool,
        accumulate: bool,
    ) {
        let all = self.sources_of(sources, y_map);
        self.launch(isa, all, Source::NONE, None, (y, y_map), relu, accumulate);
    }

    /// Fills the interior of `y` with channels that are changed on the way: normalised, for example. With `relu` negative values
    /// become 0 after that.
    ///
    /// # Panics
    /// As [`ChannelMap::run`]; `affine` was made for another number of channels.
    pub fn run_affine<'a>(
        &self,
        isa: Isa,
        sources: impl IntoIterator<Item = (&'a [f32], Map)>,
        affine: &ChannelAffine,
        y: &mut [f32],
        y_map: Map,
        relu: bool,
    ) {
        assert_eq!(affine.scale.len(), y_map.stride, "an affine map of the output's channels");
        let all = self.sources_of(sources, y_map);
        self.launch(isa, all, Source::NONE, Some(affine), (y, y_map), relu, false);
    }

    fn sources_of<'a>(
        &self,
        sources: impl IntoIterator<Item = (&'a [f32], Map)>,
        y_map: Map,
    ) -> [Source; MAX_SOURCES] {
        let mut all = [Source::NONE; MAX_SOURCES];
        let mut count = 0;
        for (source, image) in sources.into_iter().enumerate() {
            all[source] = self.source(source, image, y_map);
            count += 1;
        }
        assert_eq!(count, self.sources.len(), "as many sources as the map has");
        all
    }

    /// The gradient that goes through the output of [`ChannelMap::run`] with `relu`, whose inverse this map is: `dy` counts
    /// where that `output` is positive.
    ///
    /// # Panics
    /// As [`ChannelMap::run`].
    pub fn run_where_positive(
        &self,
        isa: Isa,
        dy: (&[f32], Map),
        output: (&[f32], Map),
        dx: &mut [f32],
        dx_map: Map,
        accumulate: bool,
    ) {
        assert_eq!(self.sources.len(), 1, "an inverse has one source");
        let mut all = [Source::NONE; MAX_SOURCES];
        all[0] = self.source(0, dy, dx_map);
        let condition = self.source(0, output, dx_map);
        self.launch(isa, all, condition, None, (dx, dx_map), false, accumulate);
    }

    fn source(&self, source: usize, (values, map): (&[f32], Map), y: Map) -> Source {
        assert!(map.is_vector() && map.channels == self.sources[source], "channels of source {source}");
        assert!(map.height == y.height && map.width == y.width, "images of one size");
        assert_eq!(values.len(), map.elements());
        // SAFETY: the interior's first pixel lies inside the checked slice.
        Source { start: unsafe { values.as_ptr().add(map.at(0, 0)) }, row: map.row(), pixel: map.stride }
    }

    #[allow(clippy::too_many_arguments)]
    fn launch(
        &self,
        isa: Isa,
        sources: [Source; MAX_SOURCES],
        condition: Source,
        affine: Option<&ChannelAffine>,
        (y, y_map): (&mut [f32], Map),
        relu: bool,
        accumulate: bool,
    ) {
        assert!(y_map.is_vector() && y_map.channels == self.from.len() && y.len() == y_map.elements());
        let args = Args {
            sources,
            condition,
            // SAFETY: the interior's first pixel lies inside the checked slice.
            y: unsafe { y.as_mut_ptr().add(y_map.at(0, 0)) },
            y_map,
            map: self,
            affine,
            relu,
            accumulate,
        };
        // SAFETY: sources, the condition where there is one, and the output were checked, and so were the map's channels.
        unsafe { run_body(isa, &args) }
    }
}

/// Where an image's interior begins.
#[derive(Clone, Copy)]
struct Source {
    start: *const f32,
    row: usize,
    pixel: usize,
}

impl Source {
    const NONE: Self = Self { start: std::ptr::null(), row: 0, pixel: 0 };
}

#[derive(Clone, Copy)]
struct Args<'a> {
    sources: [Source; MAX_SOURCES],
    /// An image like the only source, or [`Source::NONE`].
    condition: Source,
    y: *mut f32,
    y_map: Map,
    map: &'a ChannelMap,
    /// As long as a pixel of the output.
    affine: Option<&'a ChannelAffine>,
    relu: bool,
    accumulate: bool,
}

/// # Safety
/// Sources that pieces name, the condition unless it is null, and `y` cover images of `y_map`'s size, and every piece
/// lies inside a pixel of its source.
#[inline(always)]
unsafe fn body<S: ChannelLanes>(a: &Args<'_>) {
    for row in 0..a.y_map.height {
        for x in 0..a.y_map.width {
            // SAFETY: a pixel of the output.
            let to = unsafe { a.y.add(row * a.y_map.row() + x * a.y_map.stride) };
            for (vector, ends) in a.map.starts.windows(2).enumerate() {
                // SAFETY: `first` and PIECE more channels lie inside the source's pixel; the output's pixel has this vector.
                unsafe {
                    let mut lanes = S::splat(0.0);
                    for piece in a.map.pieces.get_unchecked(ends[0]..ends[1]) {
                        let source = a.sources.get_unchecked(piece.source);
                        let from = source.start.add(row * source.row + x * source.pixel + piece.first);
                        lanes = if a.condition.start.is_null() {
                            S::fill(lanes, from, piece)
                        } else {
                            let at = row * a.condition.row + x * a.condition.pixel + piece.first;
                            S::fill_where_positive(lanes, from, a.condition.start.add(at), piece)
                        };
                    }
                    if let Some(affine) = a.affine {
                        let at = vector * LANES;
                        let (scale, shift) = (affine.scale.as_ptr().add(at), affine.shift.as_ptr().add(at));
                        lanes = S::fma(S::load(scale), lanes, S::load(shift));
                        lanes = S::at_least(lanes, S::load(affine.floor.as_ptr().add(at)));
                    }
                    if a.relu {
                        lanes = S::relu(lanes);
                    }
                    let to = to.add(vector * LANES);
                    S::store(to, if a.accumulate { S::add(S::load(to), lanes) } else { lanes });
                }
            }
        }
    }
}

simd_kernel!(fn run_body = body(a: &Args<'_>));
