//! One element after another: copies, sums, rectifiers, and their gradients.

use super::error::{Result, check};
use super::launch::{MapKernel, Parameters, Threads, address, launch, map_kernel};
use super::machine::Machine;
use super::memory::{Element, View};

/// What is computed of one element, or of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointwise {
    /// a
    Copy,
    /// a + b
    Add,
    /// max(a, 0)
    Relu,
    /// min(max(a, 0), 6)
    Relu6,
    /// The gradient a where the rectified value b is positive.
    ReluGradient,
    /// The gradient a where the rectified value b is inside 0 to 6.
    Relu6Gradient,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PointwiseParameters {
    a: u64,
    b: u64,
    y: u64,
    packs: u64,
    op: u32,
    accumulate: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for PointwiseParameters {}

const PLAIN: MapKernel = map_kernel!("pointwise");
const PACKED: MapKernel = map_kernel!("pointwise_packed");

/// Computes `op` of every element of `a` (and `b`) into `y`, or adds it there; `y` may be `a` or `b`.
///
/// # Errors
/// They differ in length or type; the second operand is absent, or superfluous.
pub fn pointwise(
    machine: &dyn Machine,
    op: Pointwise,
    a: &View,
    b: Option<&View>,
    y: &View,
    accumulate: bool,
) -> Result<()> {
    const NAME: &str = "pointwise";
    for other in b.into_iter().chain([y]) {
        let same = other.len() == a.len() && other.element() == a.element();
        check(NAME, same, || {
            format!("{} {:?} and {} {:?}", a.len(), a.element(), other.len(), other.element())
        })?;
    }
    check(NAME, matches!(a.element(), Element::F32 | Element::Bf16), || {
        format!("maps of {:?}", a.element())
    })?;
    let one = matches!(op, Pointwise::Copy | Pointwise::Relu | Pointwise::Relu6);
    check(NAME, one == b.is_none(), || format!("{op:?} with {} operands", 1 + b.iter().count()))?;
    // 16 bytes at a time, where everything lies on multiples of that.
    let pack = 16 / a.element().bytes();
    let aligned = [a.address(), address(b), y.address()].iter().all(|a| a.is_multiple_of(16));
    let packed = aligned && a.len().is_multiple_of(pack);
    let packs = if packed { a.len() / pack } else { a.len() };
    let parameters = PointwiseParameters {
        a: a.address(),
        b: address(b),
        y: y.address(),
        packs: packs as u64,
        op: op as u32,
        accumulate: u32::from(accumulate),
    };
    let kernel = if packed { &PACKED } else { &PLAIN };
    // SAFETY: all views have `a.len()` elements of one type.
    unsafe { launch(machine, kernel.of(a.element()), &parameters, Threads::each(packs)) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ConvertParameters {
    x: u64,
    y: u64,
    n: u64,
    accumulate: u32,
    unused: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for ConvertParameters {}

/// Writes `x` to `y`, or adds it there, rounded to the type of `y`.
///
/// # Errors
/// They differ in length; one holds other than f32 or bf16.
pub fn convert(machine: &dyn Machine, x: &View, y: &View, accumulate: bool) -> Result<()> {
    const NAME: &str = "convert";
    check(NAME, x.len() == y.len(), || format!("{} to {} numbers", x.len(), y.len()))?;
    let kernel = match (x.element(), y.element()) {
        (Element::F32, Element::F32) => "convert_f32_to_f32",
        (Element::F32, Element::Bf16) => "convert_f32_to_bf16",
        (Element::Bf16, Element::F32) => "convert_bf16_to_f32",
        (Element::Bf16, Element::Bf16) => "convert_bf16_to_bf16",
        (from, to) => return check(NAME, false, || format!("from {from:?} to {to:?}")),
    };
    let parameters = ConvertParameters {
        x: x.address(),
        y: y.address(),
        n: x.len() as u64,
        accumulate: u32::from(accumulate),
        unused: 0,
    };
    // SAFETY: both have as many elements, of the types that the kernel's name says.
    unsafe { launch(machine, kernel, &parameters, Threads::each(x.len())) }
}

#[cfg(all(test, feature = "emulated"))]
mod tests {
    use super::*;
    use crate::gpu::testing::{download, machines, numbers, stored, upload};

    #[test]
    fn every_operation_follows_its_formula() {
        type Formula = fn(f32, f32) -> f32;
        let all: [(Pointwise, Formula); 6] = [
            (Pointwise::Copy, |a, _| a),
            (Pointwise::Add, |a, b| a + b),
            (Pointwise::Relu, |a, _| a.max(0.0)),
            (Pointwise::Relu6, |a, _| a.clamp(0.0, 6.0)),
            (Pointwise::ReluGradient, |a, b| if b > 0.0 { a } else { 0.0 }),
            (Pointwise::Relu6Gradient, |a, b| if b > 0.0 && b < 6.0 { a } else { 0.0 }),
        ];
        for machine in machines() {
            for ((op, formula), element) in all.iter().flat_map(|o| [(o, Element::F32), (o, Element::Bf16)]) {
                for n in [1, 7, 512, 520] {
                    let store = |v: &f32| stored(*v, element);
                    let a: Vec<f32> = numbers(n, 1).iter().map(|v| 4.0 * v).collect();
                    let (a, b) = (
                        a.iter().map(store).collect::<Vec<_>>(),
                        numbers(n, 2).iter().map(store).collect::<Vec<_>>(),
                    );
                    let old: Vec<f32> = numbers(n, 3).iter().map(store).collect();
                    let [x, z, y] = [&a, &b, &old].map(|v| upload(&machine, v, element));
                    let two =
                        matches!(op, Pointwise::Add | Pointwise::ReluGradient | Pointwise::Relu6Gradient);
                    pointwise(&machine, *op, &x, two.then_some(&z), &y, true).unwrap();
                    let want: Vec<f32> = (0..n).map(|i| store(&(formula(a[i], b[i]) + old[i]))).collect();
                    assert_eq!(download(&machine, &y), want, "{op:?} {element:?} {n}");
                    pointwise(&machine, *op, &x, two.then_some(&z), &x, false).unwrap();
                    let want: Vec<f32> = (0..n).map(|i| store(&formula(a[i], b[i]))).collect();
                    assert_eq!(download(&machine, &x), want, "in place, {op:?} {element:?} {n}");
                }
            }
        }
    }

    #[test]
    fn conversions_round_to_even() {
        for machine in machines() {
            let values = [1.0, -0.1, 3.0e38, f32::NAN, f32::INFINITY, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
            let x = upload(&machine, &values, Element::F32);
            let y = upload(&machine, &[0.5; 7], Element::Bf16);
            convert(&machine, &x, &y, false).unwrap();
            let got = download(&machine, &y);
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&values.map(|v| stored(v, Element::Bf16))));
            convert(&machine, &y, &x, true).unwrap();
            assert_eq!(download(&machine, &x)[..2], [2.0, -0.1 + stored(-0.1, Element::Bf16)]);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for machine in machines() {
            let [x, y] = [4, 5].map(|n| upload(&machine, &vec![0.0; n], Element::F32));
            assert!(pointwise(&machine, Pointwise::Copy, &x, None, &y, false).is_err());
            assert!(pointwise(&machine, Pointwise::Add, &x, None, &x, false).is_err());
            assert!(convert(&machine, &x, &y, false).is_err());
        }
    }
}
