//! A reader of TensorBoard's event files that shares nothing with their writer.

use std::collections::BTreeMap;
use std::path::Path;

/// Bit by bit, from the polynomial's definition.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut register = u32::MAX;
    for byte in bytes {
        for bit in 0..8 {
            let carry = (register ^ (u32::from(*byte) >> bit)) & 1;
            register = (register >> 1) ^ if carry == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    register ^ u32::MAX
}

fn checked(bytes: &[u8], sum: &[u8]) {
    let masked = u32::from_le_bytes(sum.try_into().unwrap());
    assert_eq!(masked.wrapping_sub(0xa282_ead8).rotate_left(15), crc32c(bytes), "a checksum");
}

enum Value<'a> {
    Number(u64),
    Eight([u8; 8]),
    Bytes(&'a [u8]),
    Four([u8; 4]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes.split_off_first().unwrap();
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The fields of a message, by their numbers.
fn message(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)),
            1 => Value::Eight(bytes.split_off(..8).unwrap().try_into().unwrap()),
            2 => {
                let length = varint(&mut bytes) as usize;
                Value::Bytes(bytes.split_off(..length).unwrap())
            }
            5 => Value::Four(bytes.split_off(..4).unwrap().try_into().unwrap()),
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

/// Every point of a file: tag to (step, value) in the file's order. All of it is checked.
pub fn read(path: &Path) -> BTreeMap<String, Vec<(u64, f32)>> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut curves: BTreeMap<String, Vec<(u64, f32)>> = BTreeMap::new();
    let mut first = true;
    while !rest.is_empty() {
        let length = rest.split_off(..8).unwrap();
        checked(length, rest.split_off(..4).unwrap());
        let data = rest.split_off(..u64::from_le_bytes(length.try_into().unwrap()) as usize).unwrap();
        checked(data, rest.split_off(..4).unwrap());
        let (mut step, mut summaries, mut version) = (0, Vec::new(), None);
        for field in message(data) {
            match field {
                (1, Value::Eight(time)) => {
                    assert!(f64::from_le_bytes(time) > 1.6e9, "seconds since 1970");
                }
                (2, Value::Number(number)) => step = number,
                (3, Value::Bytes(text)) => version = Some(text),
                (5, Value::Bytes(summary)) => summaries.push(summary),
                (number, _) => panic!("field {number}"),
            }
        }
        assert_eq!(version, first.then_some(&b"brain.Event:2"[..]));
        first = false;
        for (number, value) in summaries.into_iter().flat_map(message) {
            let (1, Value::Bytes(value)) = (number, value) else { panic!("field {number} of a summary") };
            let [(1, Value::Bytes(tag)), (2, Value::Four(value))] = message(value)[..] else {
                panic!("a value")
            };
            let tag = String::from_utf8(tag.to_vec()).unwrap();
            curves.entry(tag).or_default().push((step, f32::from_le_bytes(value)));
        }
    }
    assert!(!first, "a file has at least its version");
    curves
}
