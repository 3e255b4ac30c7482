//! Kernels that take neighbouring channels at once where they can, and what their launches have in common.

use super::error::{Result, check};
use super::memory::{Element, View};

/// A kernel's names for packs of several sizes: what `PACK_KERNEL` makes in the text.
pub(super) struct PackKernel {
    pub f32: &'static str,
    pub bf16: &'static str,
    pub pairs_bf16: &'static str,
    pub packed_f32: &'static str,
    pub packed_bf16: &'static str,
}

impl PackKernel {
    /// The name for maps of `element`, and how many numbers it takes at a time: the largest packs of which a
    /// pixel of `channels` consists, and on a multiple of which all `views` begin.
    pub fn choose(&self, element: Element, channels: usize, views: &[&View]) -> (&'static str, usize) {
        let (plain, packed): (_, &[_]) = match element {
            Element::Bf16 => (self.bf16, &[(self.packed_bf16, 8), (self.pairs_bf16, 2)]),
            _ => (self.f32, &[(self.packed_f32, 4)]),
        };
        let fitting = packed.iter().copied().find(|(_, pack)| fits(*pack, channels, views));
        fitting.unwrap_or((plain, 1))
    }
}

/// The names that `PACK_KERNEL` makes in the text; the kernels of one name may be of several kinds.
macro_rules! pack_kernel {
    ($name:literal) => {
        $crate::gpu::packs::pack_kernel!($name, "")
    };
    ($name:literal, $kind:literal) => {
        $crate::gpu::packs::PackKernel {
            f32: concat!($name, $kind, "_f32"),
            bf16: concat!($name, $kind, "_bf16"),
            pairs_bf16: concat!($name, $kind, "_pairs_bf16"),
            packed_f32: concat!($name, $kind, "_packed_f32"),
            packed_bf16: concat!($name, $kind, "_packed_bf16"),
        }
    };
}
pub(super) use pack_kernel;

/// Whether pixels of `channels` are whole packs of `pack` numbers, and all `views` begin on a multiple of
/// one.
pub(super) fn fits(pack: usize, channels: usize, views: &[&View]) -> bool {
    let aligned = |view: &&View| view.address().is_multiple_of((pack * view.element().bytes()) as u64);
    channels.is_multiple_of(pack) && views.iter().all(aligned)
}

/// Fails unless the numbers of a map can be counted in 31 bits, as kernels do; the sizes are its factors.
pub(super) fn countable(operation: &'static str, sizes: &[usize]) -> Result<usize> {
    let len = sizes.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    let len = len.filter(|len| *len < 1 << 31);
    check(operation, len.is_some(), || format!("{sizes:?} are 2^31 numbers or more"))?;
    Ok(len.unwrap_or(0))
}

/// Fails unless `view` holds `len` numbers of this type.
pub(super) fn holds(
    operation: &'static str,
    what: &str,
    view: &View,
    len: usize,
    element: Element,
) -> Result<()> {
    check(operation, view.len() == len && view.element() == element, || {
        format!("{what}: {} {:?}, expected {len} {element:?}", view.len(), view.element())
    })
}

/// Fails unless `element` is a type of maps.
pub(super) fn is_map(operation: &'static str, element: Element) -> Result<()> {
    check(operation, matches!(element, Element::F32 | Element::Bf16), || format!("maps of {element:?}"))
}

/// Fails if what is written lies in what is read.
pub(super) fn apart(operation: &'static str, read: &[&View], written: &View) -> Result<()> {
    let overlap = read.iter().any(|view| view.overlaps(written));
    check(operation, !overlap, || "the result overlaps what it is made from".to_owned())
}
