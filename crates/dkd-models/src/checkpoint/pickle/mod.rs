//! Pickles as data.
//!
//! A pickle is a program for a small stack machine, and Python's machine calls whatever the program names. This one calls
//! nothing: it knows how the few callables that `torch.save` needs put values together, and everything else becomes
//! [`Value::Object`], of which nothing but the class is kept.
//!
//! Values lie in one list ([`Values`]) and refer to each other by number. So a value used a million times exists once, cycles
//! are harmless, and no depth of nesting can overflow the stack, neither here nor when the list is dropped. Whoever walks
//! from value to value must limit the steps: sharing makes small pickles look large.

mod call;
mod element;
mod input;
mod machine;
mod value;

#[cfg(test)]
mod tests;

pub(super) use element::Element;
pub(super) use machine::read;
pub(super) use value::{Id, Pickle, Storage, TensorView, Value, Values};
