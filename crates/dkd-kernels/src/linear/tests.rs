//! All three products against plain loops.

use super::{Rows, linear, linear_input_grad, linear_weight_grad};
use crate::rng::{Purpose, Stream};
use crate::{Isa, LANES};
use proptest::prelude::{ProptestConfig, prop_assert, proptest};

fn random(n: usize, index: u64) -> Vec<f32> {
    let s = Stream::new(4, Purpose::Other, 0, index);
    (0..n as u64).map(|i| s.uniform(i) * 2.0 - 1.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn against_plain_loops(rows in 1_usize..40, input_blocks in 1_usize..5, outputs in 1_usize..40, gap in 0_usize..3) {
        let inputs = input_blocks * LANES;
        let blocks = outputs.div_ceil(LANES);
        let (xs, ys) = (inputs + gap, blocks * LANES + 16 * gap);
        let (x, w, dy0) = (random(rows * xs, 1), random(outputs * inputs, 2), random(rows * outputs, 3));
        let mut packed = vec![0.0; blocks * inputs * LANES];
        let mut transposed = vec![0.0; inputs * outputs];
        for o in 0..outputs {
            for i in 0..inputs {
                packed[(o / LANES * inputs + i) * LANES + o % LANES] = w[o * inputs + i];
                transposed[(i / LANES * outputs + o) * LANES + i % LANES] = w[o * inputs + i];
            }
        }
        let mut dy = vec![0.0; rows * ys];
        for r in 0..rows {
            dy[r * ys..r * ys + outputs].copy_from_slice(&dy0[r * outputs..(r + 1) * outputs]);
        }
        let mut bias = vec![0.0; blocks * LANES];
        bias[..outputs].copy_from_slice(&random(outputs, 4));
        let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-4;
        for isa in Isa::available() {
            let xr = Rows { data: &x, count: rows, stride: xs };
            let mut y = vec![0.0; rows * ys];
            linear(isa, xr, inputs, outputs, &packed, &bias, &mut y, ys);
            let dyr = Rows { data: &dy, count: rows, stride: ys };
            let mut dx = vec![0.0; rows * xs];
            linear_input_grad(isa, dyr, inputs, outputs, &transposed, &mut dx, xs, false);
            linear_input_grad(isa, dyr, inputs, outputs, &transposed, &mut dx, xs, true);
            let part = inputs / 2..inputs;
            let mut dw = vec![0.0; blocks * part.len() * LANES];
            linear_weight_grad(isa, xr, dyr, part.clone(), outputs, &mut dw, false);
            linear_weight_grad(isa, xr, dyr, part.clone(), outputs, &mut dw, true);
            for r in 0..rows {
                for o in 0..outputs {
                    let sum: f64 = (0..inputs).map(|i| f64::from(x[r * xs + i]) * f64::from(w[o * inputs + i])).sum();
                    prop_assert!(near(y[r * ys + o], sum + f64::from(bias[o])));
                }
                for i in 0..inputs {
                    let sum: f64 = (0..outputs).map(|o| f64::from(dy[r * ys + o]) * f64::from(w[o * inputs + i])).sum();
                    prop_assert!(near(dx[r * xs + i], 2.0 * sum));
                }
            }
            for o in 0..outputs {
                for (k, i) in part.clone().enumerate() {
                    let sum: f64 = (0..rows).map(|r| f64::from(x[r * xs + i]) * f64::from(dy[r * ys + o])).sum();
                    prop_assert!(near(dw[(o / LANES * part.len() + k) * LANES + o % LANES], 2.0 * sum));
                }
            }
        }
    }
}
