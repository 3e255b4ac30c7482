//! Every pooling kernel against plain loops over random shapes, and its gradient against central differences.

use super::{
    Window, avg_pool_backward, avg_pool_forward, global_avg_backward, global_avg_forward, max_pool_backward,
    max_pool_forward,
};
use crate::rng::{Purpose, Stream};
use crate::{Isa, Map};
use proptest::prelude::{ProptestConfig, proptest};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Max,
    Mean { count_padding: bool },
}

/// A value for every element of the interior, channel padding included: kernels treat all lanes alike.
fn image(map: Map, salt: u32, f: impl Fn(f32) -> f32) -> Vec<f32> {
    let s = Stream::new(3, Purpose::Other, salt, 0);
    let mut x = vec![0.0; map.elements()];
    for y in 0..map.height {
        for i in 0..map.row_elements() {
            x[map.at(y as isize, 0) + i] = f(s.uniform((y * map.row_elements() + i) as u64));
        }
    }
    x
}

/// The value of one window in f64 and the position of its maximum.
fn window_value(x: &[f32], map: Map, kind: Kind, w: Window, oy: usize, ox: usize, c: usize) -> (f64, usize) {
    let (mut sum, mut count, mut best, mut at) = (0.0, 0, f64::NEG_INFINITY, None);
    for ky in 0..w.kernel.0 {
        for kx in 0..w.kernel.1 {
            let (iy, ix) = (oy * w.stride.0 + ky, ox * w.stride.1 + kx);
            let inside = (w.padding.0..w.padding.0 + map.height).contains(&iy)
                && (w.padding.1..w.padding.1 + map.width).contains(&ix);
            if inside {
                let v = map.at((iy - w.padding.0) as isize, (ix - w.padding.1) as isize) + c;
                let v = f64::from(x[v]);
                (sum, count) = (sum + v, count + 1);
                if v > best || v.is_nan() || at.is_none() {
                    (best, at) = (v, Some(ky * w.kernel.1 + kx));
                }
            }
        }
    }
    match kind {
        Kind::Max => (best, at.unwrap()),
        Kind::Mean { count_padding: true } => (sum / w.area() as f64, 0),
        Kind::Mean { .. } => (sum / f64::from(count), 0),
    }
}

struct Case {
    x_map: Map,
    y_map: Map,
    window: Window,
    kind: Kind,
}

impl Case {
    fn forward(&self, isa: Isa, x: &[f32]) -> (Vec<f32>, Vec<u8>) {
        let mut y = vec![0.0; self.y_map.elements()];
        let mut argmax = vec![255; self.y_map.height * self.y_map.row_elements()];
        match self.kind {
            Kind::Max => max_pool_forward(isa, x, self.x_map, &mut y, self.y_map, &mut argmax, self.window),
            Kind::Mean { count_padding } => {
                avg_pool_forward(isa, x, self.x_map, &mut y, self.y_map, self.window, count_padding);
            }
        }
        (y, argmax)
    }

    fn backward(&self, isa: Isa, dy: &[f32], argmax: &[u8]) -> Vec<f32> {
        // Border: zero, and must stay so; interior: rubbish that must be overwritten.
        let mut dx = image(self.x_map, 77, |_| f32::NAN);
        match self.kind {
            Kind::Max => {
                max_pool_backward(isa, dy, self.y_map, argmax, &mut dx, self.x_map, self.window);
            }
            Kind::Mean { count_padding } => {
                avg_pool_backward(isa, dy, self.y_map, &mut dx, self.x_map, self.window, count_padding);
            }
        }
        dx
    }

    fn check_forward(&self, isa: Isa, x: &[f32]) {
        let (y, argmax) = self.forward(isa, x);
        let (m, mut seen) = (self.y_map, vec![0.0; self.y_map.elements()]);
        for oy in 0..m.height {
            for ox in 0..m.width {
                for c in 0..m.stride {
                    let (want, at) = window_value(x, self.x_map, self.kind, self.window, oy, ox, c);
                    let i = m.at(oy as isize, ox as isize) + c;
                    let got = f64::from(y[i]);
                    assert!(
                        got == want || (got - want).abs() < 1e-6 || (got.is_nan() && want.is_nan()),
                        "{isa} {got} {want}"
                    );
                    if self.kind == Kind::Max {
                        assert_eq!(usize::from(argmax[(oy * m.width + ox) * m.stride + c]), at, "{isa}");
                    }
                    seen[i] = y[i];
                }
            }
        }
        assert!(seen.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa}: border untouched");
    }

    /// Sum of y * dy in f64.
    fn loss(&self, x: &[f32], dy: &[f32]) -> f64 {
        let m = self.y_map;
        let mut sum = 0.0;
        for oy in 0..m.height {
            for ox in 0..m.width {
                for c in 0..m.stride {
                    let y = window_value(x, self.x_map, self.kind, self.window, oy, ox, c).0;
                    sum += y * f64::from(dy[m.at(oy as isize, ox as isize) + c]);
                }
            }
        }
        sum
    }

    fn check_gradient(&self, isa: Isa, x: &[f32], dy: &[f32]) {
        let dx = self.backward(isa, dy, &self.forward(isa, x).1);
        let m = self.x_map;
        let interior: f64 = dx.iter().map(|v| f64::from(*v)).sum();
        let (mut moved, mut written) = (x.to_vec(), 0.0);
        for y in 0..m.height {
            for i in 0..m.row_elements() {
                let i = m.at(y as isize, 0) + i;
                written += f64::from(dx[i]);
                // Steps are exact in f32 and smaller than the gaps between the values of `distinct`.
                let step = 1.0 / 1024.0;
                moved[i] = x[i] + step;
                let up = self.loss(&moved, dy);
                moved[i] = x[i] - step;
                let want = (up - self.loss(&moved, dy)) / f64::from(2.0 * step);
                moved[i] = x[i];
                assert!((f64::from(dx[i]) - want).abs() < 1e-4, "{isa} {} {want}", dx[i]);
            }
        }
        assert!((interior - written).abs() < 1e-9, "{isa}: border untouched");
    }
}

/// Values that differ by at least 1/64, in a scattered order: a small step never changes which one is the largest.
fn distinct(map: Map) -> Vec<f32> {
    let n = (map.height * map.row_elements()) as u64;
    let mut x = vec![0.0; map.elements()];
    for y in 0..map.height {
        for i in 0..map.row_elements() {
            let k = (y * map.row_elements() + i) as u64;
            x[map.at(y as isize, 0) + i] = ((k * 7919 + 13) % n.max(1)) as f32 / 64.0 - 2.0;
        }
    }
    x
}

fn cases(h: usize, w: usize, c: usize, window: Window) -> Vec<Case> {
    let Some((oh, ow)) = window.output(h, w) else { return Vec::new() };
    [Kind::Max, Kind::Mean { count_padding: true }, Kind::Mean { count_padding: false }]
        .into_iter()
        .map(|kind| Case { x_map: Map::new(h, w, c, 1), y_map: Map::new(oh, ow, c, 2), window, kind })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn forward_equals_plain_loops(
        size in (1_usize..9, 1_usize..9), c in 1_usize..50, kernel in (1_usize..5, 1_usize..5),
        stride in (1_usize..4, 1_usize..4), padding in (0_usize..3, 0_usize..3), levels in 2_u32..400,
    ) {
        let padding = (padding.0.min(kernel.0 / 2), padding.1.min(kernel.1 / 2));
        for case in cases(size.0, size.1, c, Window { kernel, stride, padding }) {
            // Few levels make ties; the lowest is -inf and the highest NaN where a maximum is taken.
            let special = case.kind == Kind::Max;
            let x = image(case.x_map, levels, |v| match (v * levels as f32) as u32 {
                0 if special => f32::NEG_INFINITY,
                k if special && k > 60 => f32::NAN,
                k => k as f32 / 64.0 - 1.0,
            });
            Isa::available().into_iter().for_each(|isa| case.check_forward(isa, &x));
        }
    }

    #[test]
    fn gradient_equals_central_differences(
        size in (1_usize..6, 1_usize..6), kernel in (1_usize..4, 1_usize..4),
        stride in (1_usize..3, 1_usize..3), padding in (0_usize..2, 0_usize..2),
    ) {
        let padding = (padding.0.min(kernel.0 / 2), padding.1.min(kernel.1 / 2));
        for case in cases(size.0, size.1, 3, Window { kernel, stride, padding }) {
            let (x, dy) = (distinct(case.x_map), image(case.y_map, 5, |v| v - 0.5));
            case.check_gradient(Isa::available()[0], &x, &dy);
        }
    }

    /// The gradient of every instruction set equals the portable one, also for many channels.
    #[test]
    fn instruction_sets_agree(
        size in (2_usize..9, 2_usize..9), c in 1_usize..70, kernel in (1_usize..4, 1_usize..4),
        stride in (1_usize..4, 1_usize..4),
    ) {
        for case in cases(size.0, size.1, c, Window { kernel, stride, padding: (0, 0) }) {
            let (x, dy) = (image(case.x_map, 6, |v| (v * 5.0).floor()), image(case.y_map, 5, |v| v - 0.5));
            let portable = Isa::named("portable").unwrap();
            let want = case.backward(portable, &dy, &case.forward(portable, &x).1);
            for isa in Isa::available() {
                let got = case.backward(isa, &dy, &case.forward(isa, &x).1);
                assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6), "{isa}");
            }
        }
    }
}

#[test]
fn two_by_two_with_stride_one_and_two() {
    for stride in [1, 2] {
        let window = Window { kernel: (2, 2), stride: (stride, stride), padding: (0, 0) };
        for case in cases(5, 6, 20, window) {
            let (x, dy) = (distinct(case.x_map), image(case.y_map, 5, |v| v - 0.5));
            for isa in Isa::available() {
                case.check_forward(isa, &x);
                case.check_gradient(isa, &x, &dy);
            }
        }
    }
}

#[test]
fn nan_gradient_stays_in_its_window() {
    let window = Window { kernel: (2, 2), stride: (1, 1), padding: (0, 0) };
    let (x_map, y_map) = (Map::new(3, 3, 16, 0), Map::new(2, 2, 16, 0));
    let case = Case { x_map, y_map, window, kind: Kind::Max };
    let mut dy = vec![1.0; y_map.elements()];
    dy[y_map.at(0, 0)] = f32::NAN;
    let mut x = vec![0.0; x_map.elements()];
    x[x_map.at(0, 0)] = 2.0;
    for isa in Isa::available() {
        let dx = case.backward(isa, &dy, &case.forward(isa, &x).1);
        assert_eq!(dx.iter().filter(|v| v.is_nan()).count(), 1, "{isa}");
        assert!(dx[x_map.at(0, 0)].is_nan());
    }
}

#[test]
fn global_mean_and_gradient() {
    for map in [Map::new(1, 1, 5, 0), Map::new(4, 7, 33, 1), Map::new(8, 8, 64, 0)] {
        let x = image(map, 8, |v| v - 0.3);
        let pixels = map.height * map.width;
        for isa in Isa::available() {
            let mut y = vec![0.0; map.stride];
            global_avg_forward(isa, &x, map, &mut y);
            let mut dx = vec![0.0; map.elements()];
            global_avg_backward(isa, &y, &mut dx, map);
            for c in 0..map.stride {
                let mut sum = 0.0;
                for py in 0..map.height as isize {
                    for px in 0..map.width as isize {
                        sum += f64::from(x[map.at(py, px) + c]);
                        let want = y[c] / pixels as f32;
                        assert!((dx[map.at(py, px) + c] - want).abs() < 1e-7, "{isa}");
                    }
                }
                assert!((f64::from(y[c]) - sum / pixels as f64).abs() < 1e-6, "{isa}");
            }
            let total: f32 = y.iter().sum();
            assert!((dx.iter().sum::<f32>() - total).abs() < 1e-4 * total.abs().max(1.0), "border untouched");
        }
    }
}
