//! The deterministic fill: weights and images that any language can compute from names.

/// Hash of a name (FNV-1a, 64 bits).
fn fnv1a64(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// One step of SplitMix64.
fn splitmix64(s: u64) -> u64 {
    let z = s.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Element `i` of the uniform sequence of `name`, in [0, 1).
fn u(name: &str, i: u64) -> f64 {
    (splitmix64(fnv1a64(name).wrapping_add(i)) >> 11) as f64 / 2_f64.powi(53)
}

/// `count` values `offset + scale * r`, with r uniform in [-1, 1).
fn scaled(name: &str, count: usize, offset: f64, scale: f64) -> Vec<f32> {
    (0..count as u64).map(|i| (offset + scale * (2.0 * u(name, i) - 1.0)) as f32).collect()
}

/// A tensor of the state dictionary. Weights of convolutions and linear layers have two dimensions or more, those of
/// batch norms one.
///
/// # Errors
/// The name ends in none of those that networks have.
pub fn tensor(name: &str, shape: &[usize], gain: f64) -> super::Result<Vec<f32>> {
    let n = shape.iter().product();
    let (offset, scale) = match name.rsplit('.').next().unwrap_or_default() {
        "weight" if shape.len() > 1 => (0.0, (gain / (n / shape[0]) as f64).sqrt()),
        "weight" => (1.0, 0.1),
        "running_var" => (1.0, 0.25),
        "bias" | "running_mean" => (0.0, 0.1),
        other => return Err(format!("tensor `{name}`: there is no rule for `{other}`").into()),
    };
    Ok(scaled(name, n, offset, scale))
}

/// Images of unit variance.
pub fn images(name: &str, count: usize) -> Vec<f32> {
    scaled(name, count, 0.0, 3_f64.sqrt())
}

/// The check values that come with the reference.
#[test]
fn golden_fill_check() {
    assert_eq!(fnv1a64("input"), 0x1ebb_ae8f_5810_b65b);
    assert_eq!(fnv1a64("conv1.weight"), 0x69a2_9a2c_ee47_d254);
    assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
    assert_eq!(splitmix64(fnv1a64("input") + 3), 0xda4c_5ec8_b35d_6537);
    let want = [0.0978183426575382, 0.14747860371491817, 0.5740844483096654, 0.8527278175346189];
    assert_eq!([0, 1, 2, 3].map(|i| u("input", i)), want);
    let want = [-1.393198128778801, -1.2211699382417684, 0.2566360570461015, 1.2218850024256884];
    assert_eq!(images("input", 4), want.map(|v: f64| v as f32));
}
