//! Element types of storages.

use candle_core::DType;

/// One type of elements.
#[derive(Debug, PartialEq)]
pub struct Element {
    /// Name of the class of its storages.
    pub storage: &'static str,
    /// Name of the type in `torch`.
    pub name: &'static str,
    /// Bytes of one element.
    pub size: usize,
    /// What a tensor of it is read as; `None` if it can only be skipped.
    pub read_as: Option<DType>,
}

const fn element(storage: &'static str, name: &'static str, size: usize, read_as: Option<DType>) -> Element {
    Element { storage, name, size, read_as }
}

/// candle has neither 8-bit integers with a sign nor truth values: the next type that holds them is taken.
static ELEMENTS: [Element; 18] = [
    element("FloatStorage", "float32", 4, Some(DType::F32)),
    element("DoubleStorage", "float64", 8, Some(DType::F64)),
    element("HalfStorage", "float16", 2, Some(DType::F16)),
    element("BFloat16Storage", "bfloat16", 2, Some(DType::BF16)),
    element("LongStorage", "int64", 8, Some(DType::I64)),
    element("IntStorage", "int32", 4, Some(DType::I32)),
    element("ShortStorage", "int16", 2, Some(DType::I16)),
    element("CharStorage", "int8", 1, Some(DType::I16)),
    element("ByteStorage", "uint8", 1, Some(DType::U8)),
    element("BoolStorage", "bool", 1, Some(DType::U8)),
    element("", "uint32", 4, Some(DType::U32)),
    // Bytes of a type that the tensor names.
    element("UntypedStorage", "untyped", 1, None),
    element("ComplexFloatStorage", "complex64", 8, None),
    element("ComplexDoubleStorage", "complex128", 16, None),
    element("QInt8Storage", "qint8", 1, None),
    element("QUInt8Storage", "quint8", 1, None),
    element("QInt32Storage", "qint32", 4, None),
    element("", "uint16", 2, None),
];

impl Element {
    /// The type of a storage class.
    pub fn of_storage(class: &str) -> Option<&'static Self> {
        ELEMENTS.iter().find(|e| !e.storage.is_empty() && e.storage == class)
    }

    /// The type called `torch.name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        ELEMENTS.iter().find(|e| e.name == name)
    }
}
