//! Dropout whose mask is recomputed, never stored: the same mask as on the CPU.

use super::error::{Result, check};
use super::launch::{MapKernel, Parameters, Threads, launch, map_kernel};
use super::machine::Machine;
use super::memory::{Element, View};
use super::packs::{countable, fits, holds, is_map};

#[repr(C)]
#[derive(Clone, Copy)]
struct DropoutParameters {
    x: u64,
    y: u64,
    draw: u64,
    layer: u64,
    images: u32,
    height: u32,
    width: u32,
    channels: u32,
    threshold: u32,
    scale: f32,
    accumulate: u32,
    unused: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for DropoutParameters {}

const PLAIN: MapKernel = map_kernel!("dropout");
const PACKED: MapKernel = MapKernel { f32: "dropout_packed_f32", bf16: "dropout_packed_bf16" };

/// One layer's dropout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Images, height, width and channels of the map.
    pub shape: [usize; 4],
    /// Part that is dropped, at least 0 and below 1.
    pub p: f32,
    /// Hash of the layer's name.
    pub layer: u64,
}

impl Dropout {
    /// y = x * mask / (1 - p), or added to `y`; the same call on gradients is the backward pass. `y` may be
    /// `x`.
    ///
    /// `draw` holds seed, epoch and step as u64. Row r of image i is masked by the stream of (seed, epoch,
    /// `layer ^ (step << 28 | i << 12 | r)`): channel c of column x is dropped if word `x * C + c` is below
    /// p * 2^32, where C is the number of channels, rounded up to a multiple of 16.
    ///
    /// # Errors
    /// Lengths or types differ; p is not in [0, 1); the map has 2^31 numbers or more.
    pub fn run(
        &self,
        machine: &dyn Machine,
        draw: &View,
        x: &View,
        y: &View,
        accumulate: bool,
    ) -> Result<()> {
        const NAME: &str = "dropout";
        let len = countable(NAME, &self.shape)?;
        is_map(NAME, x.element())?;
        holds(NAME, "the input", x, len, x.element())?;
        holds(NAME, "the output", y, len, x.element())?;
        holds(NAME, "seed, epoch and step", draw, 3, Element::U64)?;
        check(NAME, (0.0..1.0).contains(&self.p), || format!("a probability of {}", self.p))?;
        // In place is possible, shifted is not.
        let shifted = x.overlaps(y) && x.address() != y.address();
        check(NAME, !shifted && !draw.overlaps(y), || "the output overlaps what it is made from".to_owned())?;
        let [images, height, width, channels] = self.shape;
        let parameters = DropoutParameters {
            x: x.address(),
            y: y.address(),
            draw: draw.address(),
            layer: self.layer,
            images: images as u32,
            height: height as u32,
            width: width as u32,
            channels: channels as u32,
            threshold: (f64::from(self.p) * 4_294_967_296.0) as u32,
            scale: 1.0 / (1.0 - self.p),
            accumulate: u32::from(accumulate),
            unused: 0,
        };
        let kernel = if fits(4, channels, &[x, y]) { &PACKED } else { &PLAIN };
        let threads = Threads::each(images * height * width * channels.div_ceil(4));
        // SAFETY: the views have the lengths and types that the kernel takes for these sizes.
        unsafe { launch(machine, kernel.of(x.element()), &parameters, threads) }
    }
}

#[cfg(all(test, feature = "emulated"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::gpu::testing::{download, machines, numbers, stored, upload};
    use crate::rng::{Purpose, Stream};
    use crate::{Isa, padded_channels};

    const DRAW: [u64; 3] = [(9 << 32) + 5, 3, 77];

    fn draw(machine: &dyn Machine, values: [u64; 3]) -> View {
        let view = machine.alloc(24).unwrap().view(Element::U64, 0, 3).unwrap();
        machine.write(&view, &values.map(u64::to_le_bytes).concat()).unwrap();
        view
    }

    /// What the CPU makes of one map, with its padded pixels.
    fn expected(dropout: &Dropout, x: &[f32], [seed, epoch, step]: [u64; 3]) -> Vec<f32> {
        let [images, height, width, channels] = dropout.shape;
        let padded = padded_channels(channels);
        let mut all = Vec::new();
        for (row, values) in x.chunks(width * channels).enumerate() {
            let (image, row) = ((row / height) as u64, (row % height) as u64);
            let place = (step << 28) | (image << 12) | row;
            let stream = Stream::new(seed, Purpose::Dropout, epoch as u32, dropout.layer ^ place);
            let mut wide = vec![0.0; width * padded];
            for (i, value) in values.iter().enumerate() {
                wide[i / channels * padded + i % channels] = *value;
            }
            let mut y = vec![0.0; wide.len()];
            crate::dropout::dropout(Isa::detect().unwrap(), &stream, dropout.p, &wide, &mut y, false);
            all.extend(y.chunks(padded).flat_map(|pixel| &pixel[..channels]));
        }
        assert_eq!(all.len(), images * height * width * channels);
        all
    }

    #[test]
    fn masks_are_the_cpus() {
        let layer = crate::rng::hash_name("classifier.dropout");
        for machine in machines() {
            let draws = draw(&machine, DRAW);
            for (shape, p) in [
                ([3, 1, 1, 1], 0.5),
                ([2, 3, 5, 7], 0.25),
                ([2, 2, 3, 16], 0.5),
                ([1, 2, 2, 36], 0.1),
                ([2, 1, 1, 2047], 0.9),
                ([1, 1, 4, 4], 0.0),
            ] {
                for element in [Element::F32, Element::Bf16] {
                    let dropout = Dropout { shape, p, layer };
                    let n = shape.iter().product();
                    let [x, old] = [1, 2]
                        .map(|seed| numbers(n, seed).iter().map(|v| stored(*v, element)).collect::<Vec<_>>());
                    let want = expected(&dropout, &x, DRAW);
                    let [a, b] = [&x, &old].map(|v| upload(&machine, v, element));
                    dropout.run(&machine, &draws, &a, &b, true).unwrap();
                    let sum: Vec<f32> = want.iter().zip(&old).map(|(w, o)| stored(w + o, element)).collect();
                    assert_eq!(download(&machine, &b), sum, "{shape:?} {element:?}");
                    dropout.run(&machine, &draws, &a, &a, false).unwrap();
                    let want: Vec<f32> = want.iter().map(|w| stored(*w, element)).collect();
                    assert_eq!(download(&machine, &a), want, "{shape:?} {element:?}");
                }
            }
        }
    }

    #[test]
    fn a_recorded_step_draws_anew() {
        for machine in machines() {
            let dropout = Dropout { shape: [2, 1, 1, 100], p: 0.5, layer: 4 };
            let x = numbers(200, 1);
            let [a, y] = [&x, &x].map(|v| upload(&machine, v, Element::F32));
            let draws = draw(&machine, DRAW);
            let record = machine.record(&mut || dropout.run(&machine, &draws, &a, &y, false)).unwrap();
            for step in 0..3 {
                let next = [DRAW[0], DRAW[1], step];
                machine.write(&draws, &next.map(u64::to_le_bytes).concat()).unwrap();
                record.replay().unwrap();
                assert_eq!(download(&machine, &y), expected(&dropout, &x, next));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for machine in machines() {
            let draws = draw(&machine, DRAW);
            let [x, y] = [4, 5].map(|n| upload(&machine, &vec![0.0; n], Element::F32));
            let dropout = Dropout { shape: [1, 1, 1, 4], p: 0.5, layer: 0 };
            assert!(dropout.run(&machine, &draws, &x, &y, false).is_err());
            assert!(dropout.run(&machine, &x, &x, &x, false).is_err());
            let shifted = [y.part(0..4).unwrap(), y.part(1..5).unwrap()];
            assert!(dropout.run(&machine, &draws, &shifted[0], &shifted[1], false).is_err());
            assert!(Dropout { p: 1.0, ..dropout }.run(&machine, &draws, &x, &x, false).is_err());
            let large = Dropout { shape: [1 << 20, 1 << 10, 4, 1], ..dropout };
            assert!(large.run(&machine, &draws, &x, &x, false).is_err());
        }
    }
}
