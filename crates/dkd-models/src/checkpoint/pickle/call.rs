//! What the known callables put together. Nothing is called.

use super::{Element, Id, Storage, TensorView, Value, Values};

/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Longest text that becomes bytes again: numbers of NumPy are written so.
const MAX_ENCODED: usize = 64;

/// What `callable(*args)` would be.
///
/// # Errors
/// A tensor that cannot be.
pub fn call(values: &mut Values, callable: Id, args: Id) -> Result<Id, String> {
    let (mut callable, mut args) = (callable, args);
    // A tensor with attributes: how it is made without them is among the arguments.
    if values.global(callable) == Some(("torch._tensor", "_rebuild_from_type_v2")) {
        let items = values.items(args);
        if let (Some(inner), Some(inner_args)) = (items.first(), items.get(2)) {
            (callable, args) = (*inner, *inner_args);
        }
    }
    let Some((module, name)) = values.global(callable) else {
        return Ok(make(values, callable));
    };
    let first = values.items(args).first().copied();
    let second = values.items(args).get(1).copied();
    let made = match (module, name) {
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
            let tensor = tensor(values, args, name == "_rebuild_tensor_v3")?;
            tensor.map(|t| values.add(Value::Tensor(Box::new(t))))
        }
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => first,
        ("torch", "Size") | ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple") => first,
        ("collections", "OrderedDict") => Some(ordered_dict(values, first)),
        ("collections", "defaultdict") => Some(values.add(Value::Dict(Vec::new()))),
        ("numpy", "dtype") => number_type(values, first),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => number(values, first, second),
        ("_codecs", "encode") => encoded(values, first, second),
        ("copy_reg" | "copyreg", "_reconstructor") => first.map(|class| make(values, class)),
        _ => None,
    };
    Ok(made.unwrap_or_else(|| make(values, callable)))
}

/// A new object of a class.
pub fn make(values: &mut Values, class: Id) -> Id {
    match (values.get(class), values.global(class)) {
        // What an unknown object returns is as unknown as itself.
        (Value::Object { class }, _) => {
            let class = *class;
            values.add(Value::Object { class })
        }
        (_, Some(("collections", "OrderedDict"))) => values.add(Value::Dict(Vec::new())),
        _ => values.add(Value::Object { class }),
    }
}

/// Tells a value its state. Only number types are interested; attributes of dictionaries and tensors are not kept.
pub fn build(values: &mut Values, id: Id, state: Id) {
    let order = values.items(state).get(1).and_then(|i| values.text(*i));
    let big = order == Some(">");
    if let Value::Number { swapped, .. } = values.get_mut(id) {
        *swapped = big;
    }
}

/// What lies outside of the pickle: a storage, or a class whose source is kept beside it.
///
/// # Errors
/// A storage of an unknown type, or without a name or a size.
pub fn persistent(values: &mut Values, id: Id) -> Result<Id, String> {
    let items = values.items(id);
    let item = |i: usize| items.get(i).copied();
    match item(0).and_then(|i| values.text(i)) {
        Some("storage") => {}
        Some("module") if items.len() > 1 => return Ok(items[1]),
        _ => return Err("something outside of the pickle is neither a storage nor a class".to_owned()),
    }
    let class = item(1).and_then(|i| values.global(i)).map_or("", |(_, name)| name);
    let element = Element::of_storage(class)
        .ok_or_else(|| format!("storages of the type `{}` are not known", class.escape_debug()))?;
    let key = item(2).filter(|i| values.text(*i).is_some()).ok_or("a storage has no name")?;
    let count = item(4).and_then(|i| values.count(i)).ok_or("a storage has no size")?;
    let view = match item(5).map(|i| (values.get(i), values.items(i))) {
        None | Some((Value::None, _)) => None,
        Some((_, part)) => {
            let number = |i: usize| part.get(i).and_then(|id| values.count(*id));
            Some(number(1).zip(number(2)).ok_or("a part of a storage has no place or no size")?)
        }
    };
    Ok(values.add(Value::Storage(Storage { element, key, count, view })))
}

/// A tensor from `(storage, offset, size, stride, requires_grad, hooks, dtype)`; the last is there in version 3 only.
fn tensor(values: &Values, args: Id, typed: bool) -> Result<Option<TensorView>, String> {
    let items = values.items(args);
    let Some(&storage) = items.first() else { return Ok(None) };
    let Value::Storage(memory) = values.get(storage) else { return Ok(None) };
    let element = if typed {
        let name = items.get(6).and_then(|id| values.global(*id)).map_or("", |(_, name)| name);
        Element::named(name)
            .ok_or_else(|| format!("tensors of the type `{}` are not known", name.escape_debug()))?
    } else {
        memory.element
    };
    let numbers = |i: usize, what: &str| -> Result<Vec<u64>, String> {
        let list = items.get(i).map_or(&[][..], |id| values.items(*id));
        if list.len() > MAX_RANK {
            return Err(format!("a tensor has {} dimensions, more than {MAX_RANK}", list.len()));
        }
        let all: Option<Vec<u64>> = list.iter().map(|id| values.count(*id)).collect();
        all.ok_or_else(|| format!("a tensor's {what} is no list of numbers from 0 on"))
    };
    let (size, stride) = (numbers(2, "shape")?, numbers(3, "stride")?);
    if size.len() != stride.len() {
        return Err(format!("a tensor has {} dimensions, but {} strides", size.len(), stride.len()));
    }
    let offset = items.get(1).and_then(|id| values.count(*id));
    let offset = offset.ok_or("a tensor's place in its storage is no number from 0 on")?;
    Ok(Some(TensorView { storage, element, offset, size, stride }))
}

/// Python 2 gives the entries as a list of pairs. The list is emptied: copies of it could be many.
fn ordered_dict(values: &mut Values, pairs: Option<Id>) -> Id {
    let list = match pairs.map(|id| values.get_mut(id)) {
        Some(Value::List(list)) => std::mem::take(list),
        _ => Vec::new(),
    };
    let pair = |id: Id| match values.items(id) {
        [key, value] => Some((*key, *value)),
        _ => None,
    };
    let entries = list.into_iter().filter_map(pair).collect();
    values.add(Value::Dict(entries))
}

/// `numpy.dtype('f8')`.
fn number_type(values: &mut Values, name: Option<Id>) -> Option<Id> {
    let (kind, size) = match values.text(name?)?.as_bytes() {
        [kind @ (b'f' | b'i' | b'u' | b'b'), size @ (b'1' | b'2' | b'4' | b'8')] => (*kind, size - b'0'),
        _ => return None,
    };
    Some(values.add(Value::Number { kind, size, swapped: false }))
}

/// A number of NumPy, from its type and its bytes.
fn number(values: &mut Values, number_type: Option<Id>, payload: Option<Id>) -> Option<Id> {
    let Value::Number { kind, size, swapped } = values.get(number_type?) else { return None };
    let bytes = match values.get(payload?) {
        Value::Bytes(bytes) => &bytes[..],
        Value::Text(text) => text.as_bytes(),
        _ => return None,
    };
    if bytes.len() != usize::from(*size) {
        return None;
    }
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    if *swapped {
        all[..bytes.len()].reverse();
    }
    let bits = u64::from_le_bytes(all);
    let unused = 64 - 8 * u32::from(*size);
    let value = match (kind, size) {
        (b'f', 8) => Value::Float(f64::from_bits(bits)),
        (b'f', 4) => Value::Float(f32::from_bits(bits as u32).into()),
        (b'i', _) => Value::Int((((bits << unused) as i64) >> unused).into()),
        (b'u', _) => Value::Int(bits.into()),
        (b'b', 1) => Value::Bool(bits != 0),
        _ => return None,
    };
    Some(values.add(value))
}

/// `_codecs.encode(text, 'latin1')`: bytes in a protocol that has none.
fn encoded(values: &mut Values, text: Option<Id>, encoding: Option<Id>) -> Option<Id> {
    let text = values.text(text?)?;
    if !matches!(values.text(encoding?)?, "latin1" | "latin-1") || text.len() > MAX_ENCODED {
        return None;
    }
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    Some(values.add(Value::Bytes(bytes?)))
}
