//! Maximum and mean over windows, mean over the whole image, and their gradients.

use super::error::{Result, check};
use super::launch::{MapKernel, Parameters, Threads, launch, launch_blocks, map_kernel};
use super::machine::Machine;
use super::memory::{Element, View};
use super::packs::{PackKernel, apart, countable, holds, is_map, pack_kernel};
use crate::pool::Window;

const NAME: &str = "pool";

#[repr(C)]
#[derive(Clone, Copy)]
struct PoolParameters {
    from: u64,
    to: u64,
    positions: u64,
    bias: u64,
    images: u32,
    height: u32,
    width: u32,
    channels: u32,
    out_height: u32,
    out_width: u32,
    kernel_rows: u32,
    kernel_columns: u32,
    stride_rows: u32,
    stride_columns: u32,
    padding_rows: u32,
    padding_columns: u32,
    count_padding: u32,
    accumulate: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for PoolParameters {}

const MAX: PackKernel = pack_kernel!("max_pool");
const MAX_GRADIENT: PackKernel = pack_kernel!("max_pool_gradient");
const AVG: PackKernel = pack_kernel!("avg_pool");
const AVG_GRADIENT: PackKernel = pack_kernel!("avg_pool_gradient");
const GLOBAL_AVG: MapKernel = map_kernel!("global_avg");

/// Pooling of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Images.
    pub images: usize,
    /// Height, width and channels of the input.
    pub input: (usize, usize, usize),
    /// What is pooled into one output.
    pub window: Window,
}

/// What one call reads and writes: the map on the input's side, that on the output's, and whether the first
/// is made from the second.
struct Maps<'a> {
    input: &'a View,
    output: &'a View,
    backward: bool,
}

impl Pool {
    /// The mean over all positions of an image.
    pub fn global(images: usize, input: (usize, usize, usize)) -> Self {
        let window = Window { kernel: (input.0, input.1), stride: (1, 1), padding: (0, 0) };
        Self { images, input, window }
    }

    /// Height and width of the output.
    ///
    /// # Errors
    /// The window is larger than the padded image, empty, without a stride, or more than half padding.
    pub fn output(&self) -> Result<(usize, usize)> {
        let Window { kernel, stride, padding } = self.window;
        let sound = |k: usize, s: usize, p: usize| k > 0 && s > 0 && 2 * p <= k;
        let small = [self.input.0, self.input.1, kernel.0, kernel.1, stride.0, stride.1];
        let sound = sound(kernel.0, stride.0, padding.0)
            && sound(kernel.1, stride.1, padding.1)
            && small.iter().all(|size| *size < 1 << 30);
        let output =
            Some(()).filter(|()| sound).and_then(|()| self.window.output(self.input.0, self.input.1));
        check(NAME, output.is_some(), || format!("{:?} over {:?}", self.window, self.input))?;
        Ok(output.unwrap_or((0, 0)))
    }

    /// y = the maximum of every window of x, or of x + bias; padding never wins, NaN is larger than any number.
    ///
    /// `x` is `[images, height, width, channels]`, `y` the same with the output's size. `positions` are
    /// bytes, one for each output: where in its window the maximum is, `row * kernel columns + column`, the
    /// first if there are several (of several NaN the last, as in PyTorch). `bias` has a number of f32 for each channel.
    ///
    /// # Errors
    /// Lengths or types do not fit; the window does not fit, or has more than 255 positions; 2^31 numbers or
    /// more.
    pub fn max(
        &self,
        machine: &dyn Machine,
        x: &View,
        bias: Option<&View>,
        y: &View,
        positions: &View,
    ) -> Result<()> {
        let maps = Maps { input: x, output: y, backward: false };
        let mut parameters = self.max_parameters(&maps, positions, false)?;
        if let Some(bias) = bias {
            holds(NAME, "the bias", bias, self.input.2, Element::F32)?;
            apart(NAME, &[bias], y)?;
            apart(NAME, &[bias], positions)?;
            parameters.bias = bias.address();
        }
        self.launch(machine, &MAX, &maps, &[positions], &parameters)
    }

    /// dx = the sum of `dy` of the windows that have their maximum there, or added to `dx`; `positions` as
    /// [`Pool::max`] wrote them.
    ///
    /// # Errors
    /// As [`Pool::max`].
    pub fn max_gradient(
        &self,
        machine: &dyn Machine,
        dy: &View,
        positions: &View,
        dx: &View,
        accumulate: bool,
    ) -> Result<()> {
        let maps = Maps { input: dx, output: dy, backward: true };
        let parameters = self.max_parameters(&maps, positions, accumulate)?;
        self.launch(machine, &MAX_GRADIENT, &maps, &[positions], &parameters)
    }

    fn max_parameters(&self, maps: &Maps<'_>, positions: &View, accumulate: bool) -> Result<PoolParameters> {
        check(NAME, self.window.area() <= 255, || format!("{:?} has more than 255 positions", self.window))?;
        holds(NAME, "positions", positions, maps.output.len(), Element::U8)?;
        let written = if maps.backward { maps.input } else { maps.output };
        apart(NAME, &[positions], written)?;
        check(NAME, maps.backward || !positions.overlaps(maps.input), || {
            "positions in the input".to_owned()
        })?;
        Ok(PoolParameters { positions: positions.address(), ..self.parameters(maps, accumulate)? })
    }

    /// y = the mean of every window. With `count_padding` (PyTorch's `count_include_pad`) it is the sum
    /// divided by the window's area, else by the number of its positions inside the image.
    ///
    /// # Errors
    /// Lengths or types do not fit; the window does not fit; 2^31 numbers or more.
    pub fn avg(&self, machine: &dyn Machine, count_padding: bool, x: &View, y: &View) -> Result<()> {
        let maps = Maps { input: x, output: y, backward: false };
        let parameters = self.parameters(&maps, false)?;
        let parameters = PoolParameters { count_padding: u32::from(count_padding), ..parameters };
        self.launch(machine, &AVG, &maps, &[], &parameters)
    }

    /// dx = the sum over the windows that cover a position of `dy` / what [`Pool::avg`] divides by, or added
    /// to `dx`.
    ///
    /// # Errors
    /// As [`Pool::avg`].
    pub fn avg_gradient(
        &self,
        machine: &dyn Machine,
        count_padding: bool,
        dy: &View,
        dx: &View,
        accumulate: bool,
    ) -> Result<()> {
        let maps = Maps { input: dx, output: dy, backward: true };
        let parameters = self.parameters(&maps, accumulate)?;
        let parameters = PoolParameters { count_padding: u32::from(count_padding), ..parameters };
        self.launch(machine, &AVG_GRADIENT, &maps, &[], &parameters)
    }

    /// Checks both maps.
    fn parameters(&self, maps: &Maps<'_>, accumulate: bool) -> Result<PoolParameters> {
        let ((height, width, channels), (out_height, out_width)) = (self.input, self.output()?);
        let element = maps.input.element();
        is_map(NAME, element)?;
        let input = countable(NAME, &[self.images, height, width, channels])?;
        let output = countable(NAME, &[self.images, out_height, out_width, channels])?;
        holds(NAME, "the input", maps.input, input, element)?;
        holds(NAME, "the output", maps.output, output, element)?;
        apart(NAME, &[maps.input], maps.output)?;
        let (from, to) = if maps.backward { (maps.output, maps.input) } else { (maps.input, maps.output) };
        let Window { kernel, stride, padding } = self.window;
        Ok(PoolParameters {
            from: from.address(),
            to: to.address(),
            positions: 0,
            bias: 0,
            images: self.images as u32,
            height: height as u32,
            width: width as u32,
            channels: channels as u32,
            out_height: out_height as u32,
            out_width: out_width as u32,
            kernel_rows: kernel.0 as u32,
            kernel_columns: kernel.1 as u32,
            stride_rows: stride.0 as u32,
            stride_columns: stride.1 as u32,
            padding_rows: padding.0 as u32,
            padding_columns: padding.1 as u32,
            count_padding: 0,
            accumulate: u32::from(accumulate),
        })
    }

    /// A thread for each pack of what is written.
    fn launch(
        &self,
        machine: &dyn Machine,
        kernel: &PackKernel,
        maps: &Maps<'_>,
        positions: &[&View],
        parameters: &PoolParameters,
    ) -> Result<()> {
        let mut views = vec![maps.input, maps.output];
        views.extend(positions);
        let (kernel, pack) = kernel.choose(maps.input.element(), self.input.2, &views);
        let written = if maps.backward { maps.input } else { maps.output };
        // SAFETY: `parameters` has checked both maps, and the caller the positions.
        unsafe { launch(machine, kernel, parameters, Threads::each(written.len() / pack)) }
    }
}

/// y = the mean over all positions: `x` is `[images, height, width, channels]`, `y` is `[images, channels]`.
///
/// # Errors
/// Lengths or types do not fit; the image is empty; 2^31 numbers or more.
pub fn global_avg(
    machine: &dyn Machine,
    images: usize,
    input: (usize, usize, usize),
    x: &View,
    y: &View,
) -> Result<()> {
    let parameters =
        Pool::global(images, input).parameters(&Maps { input: x, output: y, backward: false }, false)?;
    // A block for 32 channels of an image, in 8 parts.
    let threads = Threads { grid: [(images * input.2.div_ceil(32)) as u32, 1, 1], block: [32, 8, 1] };
    // SAFETY: `parameters` has checked both maps.
    unsafe { launch_blocks(machine, GLOBAL_AVG.of(x.element()), &parameters, threads) }
}

/// dx = `dy` / (height * width) at every position, or added to `dx`.
///
/// # Errors
/// As [`global_avg`].
pub fn global_avg_gradient(
    machine: &dyn Machine,
    images: usize,
    input: (usize, usize, usize),
    dy: &View,
    dx: &View,
    accumulate: bool,
) -> Result<()> {
    Pool::global(images, input).avg_gradient(machine, true, dy, dx, accumulate)
}

#[cfg(all(test, feature = "emulated"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, download, machines, numbers, stored, upload};

    const BOTH: [Element; 2] = [Element::F32, Element::Bf16];

    fn window(kernel: (usize, usize), stride: (usize, usize), padding: (usize, usize)) -> Window {
        Window { kernel, stride, padding }
    }

    fn cases() -> Vec<Pool> {
        vec![
            Pool { images: 2, input: (4, 6, 8), window: window((2, 2), (2, 2), (0, 0)) },
            Pool { images: 2, input: (5, 7, 3), window: window((3, 3), (2, 2), (1, 1)) },
            Pool { images: 1, input: (5, 4, 16), window: window((3, 3), (1, 1), (1, 1)) },
            Pool { images: 3, input: (5, 3, 5), window: window((2, 1), (1, 2), (1, 0)) },
            Pool { images: 1, input: (6, 9, 4), window: window((2, 3), (3, 4), (0, 1)) },
            Pool { images: 2, input: (1, 1, 1), window: window((2, 2), (1, 1), (1, 1)) },
            Pool { images: 1, input: (3, 3, 24), window: window((3, 3), (3, 3), (0, 0)) },
        ]
    }

    /// Where output (row, column) lies in the image: (position in the window, row, column).
    fn inside(pool: &Pool, row: usize, column: usize) -> Vec<(usize, usize, usize)> {
        let Window { kernel, stride, padding } = pool.window;
        let mut all = Vec::new();
        for (k, l) in (0..kernel.0).flat_map(|k| (0..kernel.1).map(move |l| (k, l))) {
            let y = (row * stride.0 + k).checked_sub(padding.0).filter(|y| *y < pool.input.0);
            let x = (column * stride.1 + l).checked_sub(padding.1).filter(|x| *x < pool.input.1);
            if let (Some(y), Some(x)) = (y, x) {
                all.push((k * kernel.1 + l, y, x));
            }
        }
        all
    }

    /// Calls with every output: its place, and (position, place in the input) of its window.
    fn for_each(pool: &Pool, mut with: impl FnMut(usize, &[(usize, usize)])) {
        let ((h, w, channels), (oh, ow)) = (pool.input, pool.output().unwrap());
        for i in 0..pool.images * oh * ow * channels {
            let (c, column, row, image) =
                (i % channels, i / channels % ow, i / channels / ow % oh, i / channels / ow / oh);
            let all: Vec<_> = inside(pool, row, column)
                .into_iter()
                .map(|(k, y, x)| (k, ((image * h + y) * w + x) * channels + c))
                .collect();
            with(i, &all);
        }
    }

    fn lengths(pool: &Pool) -> (usize, usize) {
        let (oh, ow) = pool.output().unwrap();
        (pool.images * pool.input.0 * pool.input.1 * pool.input.2, pool.images * oh * ow * pool.input.2)
    }

    fn rounded(n: usize, seed: u64, element: Element) -> Vec<f32> {
        numbers(n, seed).iter().map(|v| stored(*v, element)).collect()
    }

    fn bytes(machine: &dyn Machine, n: usize) -> View {
        machine.alloc(n).unwrap().view(Element::U8, 0, n).unwrap()
    }

    /// Within f32's rounding, or bf16's.
    fn tolerance(element: Element) -> f32 {
        if element == Element::Bf16 { 0.005 } else { 1e-6 }
    }

    #[test]
    fn maxima_and_their_gradients() {
        for machine in machines() {
            let biased = BOTH.map(|element| [(element, false), (element, true)]);
            for (pool, (element, biased)) in
                cases().iter().flat_map(|pool| biased.concat().into_iter().map(move |case| (pool, case)))
            {
                let (nx, ny) = lengths(pool);
                // Halves, so that a window has its maximum more than once.
                let mut x: Vec<f32> = numbers(nx, 1).iter().map(|v| (2.0 * v).round() / 2.0).collect();
                x[nx / 2] = f32::NAN;
                x[0] = f32::NEG_INFINITY;
                let (dy, old) = (rounded(ny, 2, element), rounded(nx, 3, element));
                let [from, g, dx] = [&x, &dy, &old].map(|v| upload(&machine, v, element));
                let (y, positions) = (upload(&machine, &vec![0.0; ny], element), bytes(&machine, ny));
                let bias = biased.then(|| numbers(pool.input.2, 4));
                let bias_view = bias.as_ref().map(|bias| upload(&machine, bias, Element::F32));
                for (i, v) in x.iter_mut().enumerate() {
                    *v = bias.as_ref().map_or(*v, |bias| *v + bias[i % pool.input.2]);
                }
                pool.max(&machine, &from, bias_view.as_ref(), &y, &positions).unwrap();
                pool.max_gradient(&machine, &g, &positions, &dx, true).unwrap();
                let mut got_at = vec![0; ny];
                machine.read(&positions, &mut got_at).unwrap();
                let (mut want, mut want_at) = (vec![0.0; ny], vec![0; ny]);
                let mut gradient: Vec<f64> = old.iter().map(|v| f64::from(*v)).collect();
                for_each(pool, |i, all| {
                    let mut best = all[0];
                    for &(k, at) in all {
                        if x[at] > x[best.1] || x[at].is_nan() {
                            best = (k, at);
                        }
                    }
                    (want[i], want_at[i]) = (stored(x[best.1], element), best.0 as u8);
                    gradient[best.1] += f64::from(dy[i]);
                });
                let bits = |v: &[f32]| -> Vec<u32> {
                    v.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect()
                };
                assert_eq!(bits(&download(&machine, &y)), bits(&want), "{pool:?} {element:?}");
                assert_eq!(got_at, want_at, "{pool:?} {element:?}");
                let gradient: Vec<f32> = gradient.iter().map(|v| *v as f32).collect();
                assert_close(&download(&machine, &dx), &gradient, tolerance(element));
                pool.max_gradient(&machine, &g, &positions, &dx, false).unwrap();
                let gradient: Vec<f32> = gradient.iter().zip(&old).map(|(g, o)| g - o).collect();
                assert_close(&download(&machine, &dx), &gradient, 2.0 * tolerance(element));
            }
        }
    }

    #[test]
    fn means_and_their_gradients() {
        let all = cases().into_iter().chain([Pool::global(2, (5, 3, 35)), Pool::global(3, (7, 7, 40))]);
        let all: Vec<_> = all.flat_map(|p| [(p, true), (p, false)]).collect();
        let mut results = Vec::new();
        for machine in machines() {
            let mut bits = Vec::new();
            for ((pool, count), element) in all.iter().flat_map(|case| BOTH.map(|element| (case, element))) {
                let (nx, ny) = lengths(pool);
                let (x, dy, old) =
                    (rounded(nx, 1, element), rounded(ny, 2, element), rounded(nx, 3, element));
                let [from, g, dx] = [&x, &dy, &old].map(|v| upload(&machine, v, element));
                let y = upload(&machine, &vec![0.0; ny], element);
                pool.avg(&machine, *count, &from, &y).unwrap();
                pool.avg_gradient(&machine, *count, &g, &dx, true).unwrap();
                let mut want = vec![0.0; ny];
                let mut gradient: Vec<f64> = old.iter().map(|v| f64::from(*v)).collect();
                for_each(pool, |i, all| {
                    let n = if *count { pool.window.area() } else { all.len() } as f64;
                    want[i] = (all.iter().map(|(_, at)| f64::from(x[*at])).sum::<f64>() / n) as f32;
                    all.iter().for_each(|(_, at)| gradient[*at] += f64::from(dy[i]) / n);
                });
                let gradient: Vec<f32> = gradient.iter().map(|v| *v as f32).collect();
                let (got, got_gradient) = (download(&machine, &y), download(&machine, &dx));
                assert_close(&got, &want, tolerance(element));
                assert_close(&got_gradient, &gradient, tolerance(element));
                bits.extend(got.iter().chain(&got_gradient).map(|v| v.to_bits()));
                if *pool == Pool::global(pool.images, pool.input) {
                    global_avg(&machine, pool.images, pool.input, &from, &y).unwrap();
                    assert_close(&download(&machine, &y), &want, tolerance(element));
                    bits.extend(download(&machine, &y).iter().map(|v| v.to_bits()));
                    machine.write(&dx, &vec![0; dx.bytes()]).unwrap();
                    global_avg_gradient(&machine, pool.images, pool.input, &g, &dx, false).unwrap();
                    let gradient: Vec<f32> = gradient.iter().zip(&old).map(|(g, o)| g - o).collect();
                    assert_close(&download(&machine, &dx), &gradient, 2.0 * tolerance(element));
                }
            }
            results.push(bits);
        }
        assert!(results.windows(2).all(|two| two[0] == two[1]), "both orders give the same bits");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for machine in machines() {
            let pool = Pool { images: 1, input: (4, 4, 1), window: window((2, 2), (2, 2), (0, 0)) };
            let [x, y] = [16, 4].map(|n| upload(&machine, &vec![0.0; n], Element::F32));
            let positions = bytes(&machine, 4);
            pool.max(&machine, &x, None, &y, &positions).unwrap();
            assert!(pool.max(&machine, &y, None, &x, &positions).is_err());
            assert!(pool.max(&machine, &x, None, &y, &y).is_err());
            assert!(pool.max(&machine, &x, Some(&y), &y, &positions).is_err(), "four numbers for a channel");
            assert!(
                pool.max(&machine, &x, Some(&y.first(1).unwrap()), &y, &positions).is_err(),
                "overwritten"
            );
            pool.max(&machine, &x, Some(&x.first(1).unwrap()), &y, &positions).unwrap();
            assert!(pool.avg(&machine, true, &x, &x).is_err());
            assert!(pool.avg_gradient(&machine, true, &x, &y, false).is_err());
            assert!(pool.avg(&machine, true, &x, &x.part(0..4).unwrap()).is_err());
            assert!(global_avg(&machine, 1, (4, 4, 1), &x, &y).is_err());
            assert!(global_avg(&machine, 1, (0, 4, 1), &x, &y).is_err());
            for wrong in [
                window((5, 5), (1, 1), (0, 0)),
                window((2, 2), (0, 1), (0, 0)),
                window((2, 2), (1, 1), (2, 2)),
                window((0, 0), (1, 1), (0, 0)),
            ] {
                assert!(Pool { window: wrong, ..pool }.output().is_err(), "{wrong:?}");
            }
            let wide = Pool { images: 1, input: (16, 16, 1), window: window((16, 16), (1, 1), (0, 0)) };
            let (x, y) = (upload(&machine, &[0.0; 256], Element::F32), y.part(0..1).unwrap());
            assert!(wide.max(&machine, &x, None, &y, &bytes(&machine, 1)).is_err());
            wide.avg(&machine, true, &x, &y).unwrap();
        }
    }
}
