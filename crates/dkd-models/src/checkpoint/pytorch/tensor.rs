//! From a view of a storage to a tensor.

use super::super::pickle::{TensorView, Value, Values};
use super::Storages;
use candle_core::{DType, Device, Tensor};

/// Copies the elements of a view, in order, to a tensor on the CPU. Its bytes are taken from `budget`.
///
/// # Errors
/// Elements outside of the storage; a type that cannot be read; a shape larger than the budget.
pub fn read(
    values: &Values,
    view: &TensorView,
    storages: &mut Storages<'_>,
    budget: &mut u64,
) -> Result<Tensor, String> {
    let element = view.element;
    let dtype = element.read_as.ok_or_else(|| format!("elements of type {} cannot be read", element.name))?;
    let elements = view.size.iter().try_fold(1_u64, |n, s| n.checked_mul(*s));
    let bytes = elements.and_then(|n| n.checked_mul(element.size as u64));
    let left = bytes.and_then(|bytes| budget.checked_sub(bytes));
    let (Some(bytes), Some(left)) = (bytes, left) else {
        return Err(format!("a shape of {:?} is more than a file of this size can mean", view.size));
    };
    *budget = left;
    let mut data = Vec::with_capacity(bytes as usize);
    if bytes > 0 {
        let Value::Storage(storage) = values.get(view.storage) else {
            return Err("its storage is none".to_owned());
        };
        let key = values.text(storage.key).ok_or("its storage has no name")?;
        let unit = storage.element.size as u64;
        let mut memory = storages.bytes(key)?;
        // A file that says less than it has is as wrong as one that says more.
        if storage.count.checked_mul(unit) != Some(memory.len() as u64) {
            let (count, found) = (storage.count, memory.len());
            return Err(format!(
                "storage `{}` should have {count} elements of {unit} bytes, but has {found} bytes",
                super::shown(key)
            ));
        }
        if let Some((first, count)) = storage.view {
            let range = first.checked_add(count).filter(|end| *end <= storage.count);
            let end = range.ok_or_else(|| format!("elements {first}+{count} are not within its storage"))?;
            memory = &memory[(first * unit) as usize..(end * unit) as usize];
        }
        gather(view, memory, &mut data)?;
    }
    // Elements that candle has no type for become wider ones.
    if element.name == "int8" {
        data = data.into_iter().flat_map(|b| i16::from(b as i8).to_le_bytes()).collect();
    }
    let shape: Vec<usize> = view.size.iter().map(|n| *n as usize).collect();
    tensor_of(&data, dtype, &shape).map_err(|e| e.to_string())
}

fn tensor_of(data: &[u8], dtype: DType, shape: &[usize]) -> candle_core::Result<Tensor> {
    Tensor::from_raw_buffer(data, dtype, shape, &Device::Cpu)
}

/// Appends the elements of a view that has some.
fn gather(view: &TensorView, memory: &[u8], to: &mut Vec<u8>) -> Result<(), String> {
    let outside = || "it reaches beyond its storage".to_owned();
    let unit = view.element.size;
    let dimensions = view.size.iter().zip(&view.stride);
    let last = dimensions.clone().try_fold(view.offset, |at, (n, stride)| {
        (n - 1).checked_mul(*stride).and_then(|distance| at.checked_add(distance))
    });
    let end = last.and_then(|n| n.checked_add(1)).and_then(|n| n.checked_mul(unit as u64));
    if end.is_none_or(|end| end > memory.len() as u64) {
        return Err(outside());
    }
    // From here on no number can exceed the memory's length, but for the strides of dimensions of size 1.
    let mut run = 1;
    let mut outer: Vec<(usize, usize)> = Vec::new();
    for (n, stride) in dimensions.rev().filter(|(n, _)| **n > 1).map(|(n, s)| (*n as usize, *s as usize)) {
        if outer.is_empty() && stride == run {
            run *= n;
        } else {
            outer.push((n, stride));
        }
    }
    let mut index = vec![0; outer.len()];
    let mut at = view.offset as usize;
    loop {
        to.extend_from_slice(&memory[at * unit..(at + run) * unit]);
        // The next position, the innermost dimension first.
        let mut dimension = 0;
        loop {
            let Some(&(n, stride)) = outer.get(dimension) else { return Ok(()) };
            index[dimension] += 1;
            at += stride;
            if index[dimension] < n {
                break;
            }
            at -= n * stride;
            index[dimension] = 0;
            dimension += 1;
        }
    }
}
