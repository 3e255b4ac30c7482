//! The bytes of a pickle, and values that are written out in them.

use super::Value;

/// Bytes that are read from front to back.
pub struct Input<'a> {
    bytes: &'a [u8],
    /// Bytes read so far.
    pub at: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let left = &self.bytes[self.at..];
        let taken = usize::try_from(count).ok().and_then(|n| left.get(..n));
        let taken = taken.ok_or_else(|| {
            format!("it is cut short: {count} more bytes should follow, but {} do", left.len())
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, String> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Text up to the end of its line, which is read too.
    pub fn line(&mut self) -> Result<&'a str, String> {
        let left = &self.bytes[self.at..];
        let end = left.iter().position(|b| *b == b'\n').ok_or("it is cut short in a line of text")?;
        self.at += end + 1;
        std::str::from_utf8(&left[..end]).map_err(|_| "a line is not UTF-8 text".to_owned())
    }
}

/// The value that follows the opcode, if the opcode stands for one that is written out.
pub fn literal(op: u8, input: &mut Input<'_>) -> Result<Option<Value>, String> {
    Ok(Some(match op {
        b'N' => Value::None,
        0x88 => Value::Bool(true),
        0x89 => Value::Bool(false),
        b'K' => Value::Int(input.u8()?.into()),
        b'M' => Value::Int(input.u16()?.into()),
        b'J' => Value::Int(i32::from_le_bytes(input.array()?).into()),
        b'I' | b'L' => digits(input.line()?)?,
        0x8a => {
            let length = input.u8()?;
            long(input.take(length.into())?)
        }
        0x8b => {
            let length = input.u32()?;
            long(input.take(length.into())?)
        }
        b'G' => Value::Float(f64::from_be_bytes(input.array()?)),
        0x8c => {
            let length = input.u8()?;
            text(input.take(length.into())?)?
        }
        b'X' => {
            let length = input.u32()?;
            text(input.take(length.into())?)?
        }
        0x8d => {
            let length = input.u64()?;
            text(input.take(length)?)?
        }
        b'U' => {
            let length = input.u8()?;
            text_of_python2(input.take(length.into())?)
        }
        b'T' => {
            let length = input.u32()?;
            text_of_python2(input.take(length.into())?)
        }
        b'C' => {
            let length = input.u8()?;
            Value::Bytes(input.take(length.into())?.to_vec())
        }
        b'B' => {
            let length = input.u32()?;
            Value::Bytes(input.take(length.into())?.to_vec())
        }
        0x8e | 0x96 => {
            let length = input.u64()?;
            Value::Bytes(input.take(length)?.to_vec())
        }
        b')' => Value::Tuple(Vec::new()),
        b']' | 0x8f => Value::List(Vec::new()),
        b'}' => Value::Dict(Vec::new()),
        _ => return Ok(None),
    }))
}

fn text(bytes: &[u8]) -> Result<Value, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Value::Text(text.to_owned())),
        Err(_) => Err("a text is not UTF-8".to_owned()),
    }
}

/// Python 2 had one type for both.
fn text_of_python2(bytes: &[u8]) -> Value {
    text(bytes).unwrap_or_else(|_| Value::Bytes(bytes.to_vec()))
}

/// A number in two's complement, lowest byte first.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > size_of::<i128>() {
        return Value::Bytes(bytes.to_vec());
    }
    let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
    let mut all = [sign; size_of::<i128>()];
    all[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i128::from_le_bytes(all))
}

/// A number in digits, as Python 2 writes large ones; `00` and `01` are truth values.
fn digits(line: &str) -> Result<Value, String> {
    match line {
        "00" => Ok(Value::Bool(false)),
        "01" => Ok(Value::Bool(true)),
        _ => match line.trim_end_matches('L').parse() {
            Ok(n) => Ok(Value::Int(n)),
            Err(_) => Err("a number in digits is none, or is too long".to_owned()),
        },
    }
}
