//! The stack machine.

use super::call::{build, call, make, persistent};
use super::input::{Input, literal};
use super::{Id, Pickle, Value, Values};
use std::collections::HashMap;

/// Most steps of one pickle. A network with its optimizer takes some 20 for each tensor.
const MAX_STEPS: usize = 2_000_000;

/// Most calls: one makes a tensor, and each takes more memory than a step does.
const MAX_CALLS: usize = 100_000;

/// Reads the pickle at the beginning of `bytes`, and tells how many bytes it has.
///
/// # Errors
/// What is wrong with it, with the place: it is cut short, uses what no `torch.save` writes, or asks for too much.
pub fn read(bytes: &[u8]) -> Result<(Pickle, usize), String> {
    let mut machine = Machine {
        input: Input::new(bytes),
        values: Values::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    match machine.run() {
        Ok(root) => Ok((Pickle { values: machine.values, root }, machine.input.at)),
        Err(problem) => Err(format!("byte {} of the pickle: {problem}", machine.input.at)),
    }
}

struct Machine<'a> {
    input: Input<'a>,
    values: Values,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, String> {
        let mut calls = 0;
        for _ in 0..MAX_STEPS {
            let op = self.input.u8()?;
            if op == b'.' {
                return self.pop();
            }
            match literal(op, &mut self.input)? {
                Some(value) => self.push(value),
                None => self.step(op)?,
            }
            if op == b'R' {
                calls += 1;
                if calls > MAX_CALLS {
                    return Err(format!(
                        "it calls more than {MAX_CALLS} times, more than a state dict needs"
                    ));
                }
            }
        }
        Err(format!("it has more than {MAX_STEPS} steps, more than a state dict needs"))
    }

    fn step(&mut self, op: u8) -> Result<(), String> {
        match op {
            0x80 => match self.input.u8()? {
                0..=5 => {}
                version => return Err(format!("pickle protocol {version} is not known; the last is 5")),
            },
            // How the rest is cut into pieces does not matter.
            0x95 => {
                self.input.u64()?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
            }
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => self.stack.push(self.top()?),
            b'q' | b'r' | 0x94 => {
                let place = match op {
                    b'q' => self.input.u8()?.into(),
                    b'r' => self.input.u32()?,
                    _ => self.memo.len() as u32,
                };
                self.memo.insert(place, self.top()?);
            }
            b'h' | b'j' => {
                let place = if op == b'h' { self.input.u8()?.into() } else { self.input.u32()? };
                let id = self.memo.get(&place).ok_or_else(|| format!("nothing is kept as number {place}"))?;
                self.stack.push(*id);
            }
            b'c' => {
                let id = self.named()?;
                self.stack.push(id);
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                self.push(Value::Global { module, name });
            }
            b'Q' => {
                let id = self.pop()?;
                let id = persistent(&mut self.values, id)?;
                self.stack.push(id);
            }
            0x85..=0x87 => {
                let mut items = vec![self.pop()?];
                for _ in 0x85..op {
                    items.insert(0, self.pop()?);
                }
                self.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Value::List(items));
            }
            b'd' => {
                let items = self.pop_mark()?;
                let pairs = items.chunks_exact(2).map(|p| (p[0], p[1])).collect();
                self.push(Value::Dict(pairs));
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            b'R' => {
                let (args, callable) = (self.pop()?, self.pop()?);
                let id = call(&mut self.values, callable, args)?;
                self.stack.push(id);
            }
            // NEWOBJ_EX has a dictionary of arguments besides.
            0x81 | 0x92 => {
                if op == 0x92 {
                    self.pop()?;
                }
                let (_, class) = (self.pop()?, self.pop()?);
                let id = make(&mut self.values, class);
                self.stack.push(id);
            }
            b'o' => {
                let items = self.pop_mark()?;
                let class = *items.first().ok_or("an object has no class")?;
                let id = make(&mut self.values, class);
                self.stack.push(id);
            }
            b'i' => {
                let class = self.named()?;
                self.pop_mark()?;
                let id = make(&mut self.values, class);
                self.stack.push(id);
            }
            b'b' => {
                let (state, id) = (self.pop()?, self.top()?);
                build(&mut self.values, id, state);
            }
            other => return Err(format!("opcode {other:#04x} is none that torch.save writes")),
        }
        Ok(())
    }

    fn push(&mut self, value: Value) {
        let id = self.values.add(value);
        self.stack.push(id);
    }

    /// The uppermost value above the last mark.
    fn top(&self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| "a value is missing".to_owned())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    /// A name in two lines.
    fn named(&mut self) -> Result<Id, String> {
        let (module, name) = (self.input.line()?.to_owned(), self.input.line()?.to_owned());
        let (module, name) = (self.values.add(Value::Text(module)), self.values.add(Value::Text(name)));
        Ok(self.values.add(Value::Global { module, name }))
    }

    /// Sets entries of the dictionary on top; what an object is told is not kept.
    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let id = self.top()?;
        match self.values.get_mut(id) {
            Value::Dict(entries) => entries.extend(items.chunks_exact(2).map(|p| (p[0], p[1]))),
            Value::Object { .. } => {}
            _ => return Err(format!("{} has no entries to be set", self.values.kind(id))),
        }
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<(), String> {
        let id = self.top()?;
        match self.values.get_mut(id) {
            Value::List(list) => list.extend_from_slice(items),
            Value::Object { .. } => {}
            _ => return Err(format!("nothing can be appended to {}", self.values.kind(id))),
        }
        Ok(())
    }
}
