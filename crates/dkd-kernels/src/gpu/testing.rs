//! What the tests of all kernels use.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use super::{Element, Emulated, GpuError, Machine, View};

/// Both orders of blocks and threads, or nothing, said in one line, where there is no C++ compiler.
pub(crate) fn machines() -> Vec<Emulated> {
    match (Emulated::new(), Emulated::backwards()) {
        (Ok(forwards), Ok(backwards)) => vec![forwards, backwards],
        (Err(GpuError::NoDevice(why)), _) => {
            eprintln!("skipped: kernels cannot be emulated: {why}");
            Vec::new()
        }
        (Err(e), _) | (_, Err(e)) => panic!("{e}"),
    }
}

/// Numbers in a machine's memory, rounded if they are to be bf16.
pub(crate) fn upload(machine: &dyn Machine, values: &[f32], element: Element) -> View {
    let view = machine.alloc(values.len() * element.bytes()).unwrap().view(element, 0, values.len()).unwrap();
    let bytes: Vec<u8> = match element {
        Element::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Element::Bf16 => values.iter().flat_map(|v| to_bf16(*v).to_le_bytes()).collect(),
        other => panic!("{other:?}"),
    };
    machine.write(&view, &bytes).unwrap();
    view
}

/// The numbers of a view as f32.
pub(crate) fn download(machine: &dyn Machine, view: &View) -> Vec<f32> {
    let mut bytes = vec![0; view.bytes()];
    machine.read(view, &mut bytes).unwrap();
    match view.element() {
        Element::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Element::Bf16 => bytes.as_chunks::<2>().0.iter().map(|b| from_bf16(u16::from_le_bytes(*b))).collect(),
        Element::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        other => panic!("{other:?}"),
    }
}

/// The nearest bf16, ties to even.
pub(crate) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() { 0x7fff } else { ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16 }
}

pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// `value` after a trip through memory of this type.
pub(crate) fn stored(value: f32, element: Element) -> f32 {
    if element == Element::Bf16 { from_bf16(to_bf16(value)) } else { value }
}

/// Different numbers around 0, the same for the same `seed`.
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let stream = crate::rng::Stream::new(seed, crate::rng::Purpose::Other, 0, 0);
    (0..n as u64).map(|i| stream.normal(i)).collect()
}

/// Fails unless all are equal to within `tolerance`, absolute below 1 and relative above.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let far = (g - w).abs() > tolerance * w.abs().max(1.0) || g.is_nan() != w.is_nan();
        assert!(!far, "element {i}: {g} instead of {w}");
    }
}
