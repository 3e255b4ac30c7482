//! Values and the list they lie in.

use super::Element;

/// Place of a value in [`Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u32);

/// A value of Python.
#[derive(Debug)]
pub enum Value {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes, and numbers too long for [`Value::Int`].
    Bytes(Vec<u8>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    /// A dictionary of any class, in the order of writing.
    Dict(Vec<(Id, Id)>),
    /// Something that is found by its name: both are texts.
    Global {
        /// Module.
        module: Id,
        /// Name in the module.
        name: Id,
    },
    /// Memory of tensors.
    Storage(Storage),
    /// A tensor.
    Tensor(Box<TensorView>),
    /// A number type of NumPy.
    Number {
        /// `f`, `i`, `u` or `b`.
        kind: u8,
        /// Bytes.
        size: u8,
        /// Whether the highest byte comes first.
        swapped: bool,
    },
    /// Anything else: an object of the class that is found there.
    Object {
        /// Its class, or what would have made it.
        class: Id,
    },
}

/// Memory that tensors are views of.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    /// Type of its elements.
    pub element: &'static Element,
    /// Name of the memory in the file: a text.
    pub key: Id,
    /// Number of elements of the memory.
    pub count: u64,
    /// First element and number of elements, if it is only a part.
    pub view: Option<(u64, u64)>,
}

/// A view of a storage; all numbers count elements.
#[derive(Clone, Debug)]
pub struct TensorView {
    /// The memory.
    pub storage: Id,
    /// Type of the elements.
    pub element: &'static Element,
    /// Place of the first element.
    pub offset: u64,
    /// Shape.
    pub size: Vec<u64>,
    /// Distances of neighbours, for every dimension.
    pub stride: Vec<u64>,
}

/// Everything a pickle made.
#[derive(Debug, Default)]
pub struct Values(Vec<Value>);

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle {
    /// All values.
    pub values: Values,
    /// What was pickled.
    pub root: Id,
}

impl Values {
    /// Adds a value.
    pub fn add(&mut self, value: Value) -> Id {
        let id = Id(self.0.len() as u32); // the machine ends long before 2^32 values
        self.0.push(value);
        id
    }

    /// A value.
    pub fn get(&self, id: Id) -> &Value {
        &self.0[id.0 as usize]
    }

    /// A value, to be changed.
    pub fn get_mut(&mut self, id: Id) -> &mut Value {
        &mut self.0[id.0 as usize]
    }

    /// All values.
    pub fn iter(&self) -> impl Iterator<Item = &Value> {
        self.0.iter()
    }

    /// The text there, if it is one.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number there, if it is a whole one that is not negative.
    pub fn count(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The entries of the dictionary there, if it is one.
    pub fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entries of a tuple or a list; nothing for other values.
    pub fn items(&self, id: Id) -> &[Id] {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => items,
            _ => &[],
        }
    }

    /// Module and name, if a name is there.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.get(id) {
            Value::Global { module, name } => Some((self.text(*module)?, self.text(*name)?)),
            _ => None,
        }
    }

    /// `module.Class` of an object, if it is known.
    pub fn class(&self, id: Id) -> Option<String> {
        let (module, name) = match self.get(id) {
            Value::Object { class } => self.global(*class)?,
            _ => self.global(id)?,
        };
        Some(format!("{module}.{name}"))
    }

    /// What kind of value is there, in words.
    pub fn kind(&self, id: Id) -> &'static str {
        match self.get(id) {
            Value::None => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::Bytes(_) => "bytes",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dictionary",
            Value::Global { .. } => "the name of a class",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a single tensor",
            Value::Number { .. } => "a number type",
            Value::Object { .. } => "an object",
        }
    }
}
