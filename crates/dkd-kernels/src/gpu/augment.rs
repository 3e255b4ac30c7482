//! Training batches from images that lie on the machine.

use super::error::{Result, check};
use super::launch::{Parameters, Threads, launch_blocks};
use super::machine::Machine;
use super::memory::{Element, View};
use super::rows;

/// What is done to every image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Augment {
    /// Nothing.
    None,
    /// Pad by 4 black pixels, crop at random back to the size, flip left to right with probability 1/2.
    CropFlip,
}

/// What changes from batch to batch, as it lies in a machine's memory: these four numbers as u64, then one that is 0. A batch that is made
/// leaves there what the next one in the order needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Seed of the augmentation.
    pub seed: u64,
    /// Epoch.
    pub epoch: u32,
    /// View of the batch, from 0.
    pub view: u32,
    /// Where the batch starts in the order.
    pub start: u64,
}

impl State {
    /// Numbers of [`Element::U64`] in the view that holds them.
    pub const LEN: usize = 5;

    /// Writes them to `view`, [`State::LEN`] u64.
    ///
    /// # Errors
    /// Another view; a step is being recorded.
    pub fn write(&self, machine: &dyn Machine, view: &View) -> Result<()> {
        check_view("state", view, Self::LEN, Element::U64)?;
        let numbers = [self.seed, self.epoch.into(), self.view.into(), self.start, 0];
        machine.write(view, numbers.map(u64::to_le_bytes).as_flattened())
    }
}

/// A data set on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// Bytes `[samples, height, width, 3]`.
    pub bytes: &'a View,
    /// Height and width.
    pub size: (usize, usize),
    /// Classes, u32 `[samples]`.
    pub labels: &'a View,
    /// Numbers that the random draws of each image depend on, u32 `[samples]`.
    pub origins: &'a View,
}

/// What a batch is made by and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Numbers of samples in the order of the epoch, u32 `[any]`.
    pub order: &'a View,
    /// [`State`], which is moved on by as many images as are made.
    pub state: &'a View,
    /// Normalised value of each byte, f32 `[3, 256]`.
    pub table: &'a View,
    /// What is done.
    pub augment: Augment,
    /// `[n, height, width, channels]` in f32 or bf16, or u8: the bytes themselves, whatever the table is.
    pub images: &'a View,
    /// Channels, at least 3; those after the third are 0.
    pub channels: usize,
    /// u32 `[n]`.
    pub labels: &'a View,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AugmentParameters {
    images: u64,
    labels: u64,
    origins: u64,
    order: u64,
    state: u64,
    table: u64,
    to: u64,
    labels_to: u64,
    samples: u64,
    ordered: u64,
    n: u32,
    height: u32,
    width: u32,
    channels: u32,
    crop_flip: u32,
    unused: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for AugmentParameters {}

fn check_view(what: &str, view: &View, len: usize, element: Element) -> Result<()> {
    rows::check_view("augment", what, view, len, element)
}

/// Makes a batch of as many images as `batch.labels` has places: image b is sample `order[start + b]`.
///
/// Row offset and column offset of the crop (below 9, where 4 is the middle) and the flip are words 0, 1 and
/// 2 of the stream (seed, [`Purpose::Augment`](crate::rng::Purpose::Augment), epoch, origin + view * 2^32).
/// Pixels outside are black before normalisation. A place beyond the order, or of a sample that does not
/// exist, gets zeros and the label `u32::MAX`. Afterwards the state starts behind these images.
///
/// # Errors
/// A view of another length or type; fewer than 3 channels; no pixels, or 2^31 or more.
pub fn augment(machine: &dyn Machine, data: &Images<'_>, batch: &Batch<'_>) -> Result<()> {
    const NAME: &str = "augment";
    let (height, width) = data.size;
    let (samples, n) = (data.labels.len(), batch.labels.len());
    // A thread is a pixel, and a block has 256 of them.
    let pixels = height.checked_mul(width).filter(|p| *p > 0 && *p < 1 << 31);
    let stored = pixels.and_then(|p| p.checked_mul(3)?.checked_mul(samples));
    let places = pixels.and_then(|p| p.checked_mul(n)).filter(|p| *p < 1 << 31);
    let (Some(stored), Some(places)) = (stored, places) else {
        return check(NAME, false, || format!("{n} images of {height}x{width}"));
    };
    check(NAME, (3..1 << 16).contains(&batch.channels), || format!("{} channels", batch.channels))?;
    let made = places * batch.channels;
    check_view("images of the data set", data.bytes, stored, Element::U8)?;
    check_view("labels of the data set", data.labels, samples, Element::U32)?;
    check_view("origins", data.origins, samples, Element::U32)?;
    check_view("order", batch.order, batch.order.len(), Element::U32)?;
    check_view("state", batch.state, State::LEN, Element::U64)?;
    check_view("table", batch.table, 3 * 256, Element::F32)?;
    check_view("labels", batch.labels, n, Element::U32)?;
    let kernel = match batch.images.element() {
        Element::F32 => "augment_f32",
        Element::Bf16 => "augment_bf16",
        Element::U8 => "augment_u8",
        other => return check(NAME, false, || format!("images in {other:?}")),
    };
    check_view("images", batch.images, made, batch.images.element())?;
    let parameters = AugmentParameters {
        images: data.bytes.address(),
        labels: data.labels.address(),
        origins: data.origins.address(),
        order: batch.order.address(),
        state: batch.state.address(),
        table: batch.table.address(),
        to: batch.images.address(),
        labels_to: batch.labels.address(),
        samples: samples as u64,
        ordered: batch.order.len() as u64,
        n: n as u32,
        height: height as u32,
        width: width as u32,
        channels: batch.channels as u32,
        crop_flip: u32::from(batch.augment == Augment::CropFlip),
        unused: 0,
    };
    // SAFETY: all views have the lengths and types that the kernel takes, and it compares what it reads of
    // order with them.
    unsafe { launch_blocks(machine, kernel, &parameters, Threads::each(places)) }
}

#[cfg(all(test, feature = "emulated"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::gpu::testing::{download, machines, numbers, stored, upload};
    use crate::rng::{Purpose, Stream};

    fn words(machine: &dyn Machine, values: &[u32]) -> View {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = machine.alloc(bytes.len()).unwrap().view(Element::U32, 0, values.len()).unwrap();
        machine.write(&view, &bytes).unwrap();
        view
    }

    fn zeros(machine: &dyn Machine, n: usize, element: Element) -> View {
        machine.alloc(n * element.bytes()).unwrap().view(element, 0, n).unwrap()
    }

    fn read_bytes(machine: &dyn Machine, view: &View) -> Vec<u8> {
        let mut bytes = vec![0; view.bytes()];
        machine.read(view, &mut bytes).unwrap();
        bytes
    }

    const SAMPLES: usize = 7;
    /// No multiple of anything, and narrower than the padding.
    const SIZE: (usize, usize) = (9, 3);

    fn byte(sample: usize, y: usize, x: usize, c: usize) -> u8 {
        (((sample * 31 + y * 7 + x) * 3 + c) * 37 % 255) as u8 + 1
    }

    /// `dkd_datasets`' rule: pad to (h + 8) x (w + 8), crop at (dy, dx), then flip the crop.
    fn picture(sample: usize, origin: u32, state: &State, augment: Augment) -> Vec<u8> {
        let index = u64::from(origin) | (u64::from(state.view) << 32);
        let stream = Stream::new(state.seed, Purpose::Augment, state.epoch, index);
        let (dy, dx, flip) = match augment {
            Augment::None => (4, 4, false),
            Augment::CropFlip => {
                (stream.below(0, 9) as usize, stream.below(1, 9) as usize, stream.word(2) & 1 == 1)
            }
        };
        let (h, w) = SIZE;
        let mut all = Vec::new();
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            let (y, x) = (y + dy, if flip { w - 1 - x } else { x } + dx);
            let inside = (4..h + 4).contains(&y) && (4..w + 4).contains(&x);
            all.extend((0..3).map(|c| if inside { byte(sample, y - 4, x - 4, c) } else { 0 }));
        }
        all
    }

    struct Data {
        bytes: View,
        labels: View,
        origins: View,
        order: View,
        table: View,
        state: View,
    }

    impl Data {
        fn new(machine: &dyn Machine) -> Self {
            let (h, w) = SIZE;
            let places = (0..SAMPLES).flat_map(|s| (0..h).flat_map(move |y| (0..w).map(move |x| (s, y, x))));
            let bytes: Vec<u8> = places.flat_map(|(s, y, x)| (0..3).map(move |c| byte(s, y, x, c))).collect();
            let view = zeros(machine, bytes.len(), Element::U8);
            machine.write(&view, &bytes).unwrap();
            Self {
                bytes: view,
                labels: words(machine, &std::array::from_fn::<u32, SAMPLES, _>(|i| 10 + i as u32)),
                origins: words(machine, &ORIGINS),
                order: words(machine, &ORDER),
                table: upload(machine, &numbers(768, 4), Element::F32),
                state: zeros(machine, State::LEN, Element::U64),
            }
        }

        fn images(&self) -> Images<'_> {
            Images { bytes: &self.bytes, size: SIZE, labels: &self.labels, origins: &self.origins }
        }

        fn batch<'a>(&'a self, augment: Augment, images: &'a View, labels: &'a View) -> Batch<'a> {
            let channels = images.len() / (labels.len() * SIZE.0 * SIZE.1);
            let Self { order, state, table, .. } = self;
            Batch { order, state, table, augment, images, channels, labels }
        }
    }

    const ORIGINS: [u32; SAMPLES] = [0, 5, 70_000, u32::MAX, 12, 13, 14];
    const ORDER: [u32; 9] = [6, 0, 3, 2, 5, 1, 4, 1_000_000, 0];

    #[test]
    fn bytes_and_values_follow_the_rule_of_the_data_sets() {
        let table = numbers(768, 4);
        for machine in machines() {
            let data = Data::new(&machine);
            for state in [
                State { seed: 5, epoch: 3, view: 0, start: 1 },
                State { seed: u64::MAX - 1, epoch: 240, view: 1, start: 3 },
            ] {
                let made = |images: &Images<'_>, batch: &Batch<'_>| {
                    state.write(&machine, &data.state).unwrap();
                    augment(&machine, images, batch).unwrap();
                    let next = State { start: state.start + batch.labels.len() as u64, ..state };
                    let moved = zeros(&machine, State::LEN, Element::U64);
                    next.write(&machine, &moved).unwrap();
                    assert_eq!(read_bytes(&machine, &data.state), read_bytes(&machine, &moved));
                };
                for augment_by in [Augment::None, Augment::CropFlip] {
                    let chosen = &ORDER[state.start as usize..state.start as usize + 4];
                    let want: Vec<u8> = chosen
                        .iter()
                        .flat_map(|s| picture(*s as usize, ORIGINS[*s as usize], &state, augment_by))
                        .collect();
                    let pixels = 4 * SIZE.0 * SIZE.1;
                    let labels = zeros(&machine, 4, Element::U32);
                    for channels in [3, 4, 8] {
                        let raw = zeros(&machine, pixels * channels, Element::U8);
                        made(&data.images(), &data.batch(augment_by, &raw, &labels));
                        let padded = read_bytes(&machine, &raw);
                        let kept: Vec<u8> =
                            padded.chunks(channels).flat_map(|p| p[..3].iter().copied()).collect();
                        assert_eq!(kept, want, "{state:?} {augment_by:?} {channels}");
                        for element in [Element::F32, Element::Bf16] {
                            let start = vec![1.0; pixels * channels];
                            let to = upload(&machine, &start, element);
                            made(&data.images(), &data.batch(augment_by, &to, &labels));
                            let value = |(i, _): (usize, &f32)| {
                                let (pixel, c) = (i / channels, i % channels);
                                let Some(byte) = want.get(pixel * 3 + c).filter(|_| c < 3) else {
                                    return 0.0;
                                };
                                stored(table[c * 256 + usize::from(*byte)], element)
                            };
                            let expected: Vec<f32> = start.iter().enumerate().map(value).collect();
                            assert_eq!(download(&machine, &to), expected);
                        }
                    }
                    let got = read_bytes(&machine, &labels);
                    let want: Vec<u8> = chosen.iter().flat_map(|s| (10 + s).to_le_bytes()).collect();
                    assert_eq!(got, want);
                }
            }
        }
    }

    #[test]
    fn many_blocks_move_the_state_once() {
        const N: usize = 30;
        for machine in machines() {
            let data = Data::new(&machine);
            let (raw, labels) = (zeros(&machine, N * 27 * 3, Element::U8), zeros(&machine, N, Element::U32));
            let moved = zeros(&machine, State::LEN, Element::U64);
            State::default().write(&machine, &data.state).unwrap();
            for times in 1..3 {
                augment(&machine, &data.images(), &data.batch(Augment::None, &raw, &labels)).unwrap();
                State { start: (times * N) as u64, ..State::default() }.write(&machine, &moved).unwrap();
                assert_eq!(read_bytes(&machine, &data.state), read_bytes(&machine, &moved));
            }
        }
    }

    #[test]
    fn samples_that_do_not_exist_are_marked() {
        for machine in machines() {
            let data = Data::new(&machine);
            let (raw, labels) =
                (upload(&machine, &[1.0; 3 * 27 * 3], Element::F32), zeros(&machine, 3, Element::U32));
            for (start, want) in [(6, [14, u32::MAX, 10]), (8, [10, u32::MAX, u32::MAX])] {
                State { start, ..State::default() }.write(&machine, &data.state).unwrap();
                augment(&machine, &data.images(), &data.batch(Augment::CropFlip, &raw, &labels)).unwrap();
                assert_eq!(read_bytes(&machine, &labels), want.map(u32::to_le_bytes).as_flattened());
                assert!(download(&machine, &raw)[27 * 3..2 * 27 * 3].iter().all(|v| *v == 0.0));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for machine in machines() {
            let data = Data::new(&machine);
            let (raw, labels) = (zeros(&machine, 2 * 27 * 3, Element::U8), zeros(&machine, 2, Element::U32));
            let good = data.batch(Augment::None, &raw, &labels);
            augment(&machine, &data.images(), &good).unwrap();
            let refused = |images: &Images<'_>, batch: &Batch<'_>| {
                assert!(augment(&machine, images, batch).is_err(), "{images:?} {batch:?}");
            };
            let (doubles, three) = (zeros(&machine, 162, Element::F64), zeros(&machine, 3, Element::U32));
            for bad in [
                Batch { channels: 2, ..good },
                Batch { channels: 4, ..good },
                Batch { images: &doubles, ..good },
                Batch { labels: &three, ..good },
                Batch { state: &labels, ..good },
                Batch { table: &data.order, ..good },
                Batch { order: &data.table, ..good },
            ] {
                refused(&data.images(), &bad);
            }
            refused(&Images { size: (9, 4), ..data.images() }, &good);
            refused(&Images { size: (usize::MAX, 2), ..data.images() }, &good);
            refused(&Images { origins: &three, ..data.images() }, &good);
            assert!(State::default().write(&machine, &labels).is_err());
        }
    }
}
