//! A function's arguments, checked and named in its errors.

use candle_core::{DType, Result, Tensor, bail};
use std::fmt::{Display, Formatter};

/// Most elements of a tensor or of a buffer, so that sizes can be multiplied and a slip of a digit does not fill the memory.
const MAX_ELEMENTS: u128 = 1 << 32;

/// One call of a function, as its errors show it.
pub(super) struct Call<'a> {
    function: &'static str,
    /// The images first.
    x: &'a Tensor,
    others: Vec<(&'static str, &'a Tensor)>,
    settings: String,
}

impl<'a> Call<'a> {
    /// A call with the images `x`, further tensors and other arguments as text.
    pub fn new(
        function: &'static str,
        x: &'a Tensor,
        others: impl IntoIterator<Item = (&'static str, Option<&'a Tensor>)>,
        settings: String,
    ) -> Self {
        let others = others.into_iter().filter_map(|(name, t)| Some((name, t?))).collect();
        Self { function, x, others, settings }
    }

    /// The error of this call, which needs `what` instead.
    pub fn expected<T>(&self, what: impl Display) -> Result<T> {
        bail!("{self}: expected {what}")
    }

    /// The shape of the images, once all tensors have a type and a place that suit.
    pub fn images(&self) -> Result<[usize; 4]> {
        let mut all = std::iter::once(self.x).chain(self.others.iter().map(|(_, t)| *t));
        let dtype = self.x.dtype();
        if !matches!(dtype, DType::F32 | DType::F64) || all.clone().any(|t| t.dtype() != dtype) {
            return self.expected("tensors that are all f32 or all f64");
        }
        if !all.clone().all(|t| t.device().is_cpu()) {
            return self.expected("tensors in the CPU's memory");
        }
        if all.any(|t| t.elem_count() == 0) {
            return self.expected("tensors without an empty dimension");
        }
        match *self.x.dims() {
            [batch, channels, rows, columns] => Ok([batch, channels, rows, columns]),
            _ => self.expected("x of shape [batch, channels, rows, columns]"),
        }
    }

    /// Checks that there are `length` elements in a tensor of one dimension, if there is one.
    pub fn vector(&self, name: &str, t: Option<&Tensor>, length: usize) -> Result<()> {
        match t {
            Some(t) if t.dims() != [length] => self.expected(format_args!("{name} of shape [{length}]")),
            _ => Ok(()),
        }
    }

    /// Checks that something of these dimensions can be computed with.
    pub fn fits(&self, what: &str, dims: &[usize]) -> Result<()> {
        let count = dims.iter().try_fold(1, |n: u128, d| n.checked_mul(*d as u128));
        if count.is_some_and(|n| n <= MAX_ELEMENTS) {
            return Ok(());
        }
        self.expected(format_args!("at most {MAX_ELEMENTS} elements in {what}, not {dims:?}"))
    }
}

impl Display for Call<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}(x {:?} {}", self.function, self.x.dims(), self.x.dtype().as_str())?;
        for (name, t) in &self.others {
            write!(f, ", {name} {:?} {}", t.dims(), t.dtype().as_str())?;
        }
        write!(f, ", {})", self.settings)
    }
}
