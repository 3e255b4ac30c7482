//! Weights that others saved.

use super::{seed, with_damages};
use crate::Seed;
use candle_core::{DType, Device, Tensor};
use dkd_models::checkpoint::{Metadata, pth_bytes};

/// A short text as Python 2 pickles it.
fn text(text: &str) -> Vec<u8> {
    [&b"U"[..], &[text.len() as u8], text.as_bytes()].concat()
}

/// A pickle of a dictionary with one entry.
fn one(name: &str, value: &[u8]) -> Vec<u8> {
    [&b"\x80\x02}"[..], &text(name), value, b"s."].concat()
}

/// A call for a tensor: a view of four numbers called `k`.
fn tensor(class: &str, view: &[u8], place: &[u8]) -> Vec<u8> {
    let begin = b"ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\n";
    [&begin[..], class.as_bytes(), b"\nU\x01kU\x03cpuK\x04", view, b"tQ", place, b"tR"].concat()
}

/// The container before PyTorch 1.6, with 16 bytes of memory called `k`.
fn legacy(object: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    let numbers = [4_u64.to_le_bytes(), [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0], [0; 8]].concat();
    let system = one("little_endian", b"\x88");
    [&magic[..], &system, object, b"\x80\x02]U\x01ka.", &numbers].concat()
}

/// A file of old with a single tensor.
fn single(class: &str, view: &[u8], place: &[u8]) -> Vec<u8> {
    legacy(&one("w", &tensor(class, view, place)))
}

/// Zip files as this program writes them, files of old as PyTorch wrote them, and pickles that want too much.
pub fn pytorch() -> Vec<Seed> {
    let values =
        Tensor::new(&[[1.5_f32, -2.0, 0.0], [3.0, 4.0, 100.0]], &Device::Cpu).expect("a few numbers");
    let types =
        [DType::U8, DType::I16, DType::I32, DType::I64, DType::BF16, DType::F16, DType::F32, DType::F64];
    let of =
        |dtype: DType| (format!("{dtype:?}.weight"), values.to_dtype(dtype).expect("numbers are numbers"));
    let every_type = types.map(of).to_vec();
    let written = |about: &Metadata| pth_bytes(&every_type, about).expect("these can be written");
    let square = b"K\0K\x02K\x02\x86K\x01K\x02\x86";
    let begin = vec![
        seed("ok-written", written(&Metadata::default())),
        seed("ok-with-text", written(&Metadata::new("resnet8", 10).with("note", "\"a\"\nb"))),
        seed("ok-legacy", single("FloatStorage", b"N", square)),
    ];
    let dictionary = one("w", &tensor("FloatStorage", b"N", square));
    let with = |rest: &[u8]| legacy(&[&dictionary[..dictionary.len() - 1], rest, b"."].concat());
    let again = &dictionary[2..dictionary.len() - 1];
    let two = with(&[&b"q\0}U\x05modelh\0sU\x03ema"[..], again, b"s"].concat());
    let huge = b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0";
    let others = vec![
        seed(
            "ok-part-of-a-storage",
            single("FloatStorage", b"(U\x01vK\x01K\x03t", b"K\x01K\x02\x85K\x01\x85"),
        ),
        seed("ok-copies", single("FloatStorage", b"N", b"K\x03J\0\x40\0\0\x85K\0\x85")),
        seed("ok-no-elements", single("FloatStorage", b"N", b"K\x09K\0K\x02\x86K\x01K\x01\x86")),
        seed("ok-numbers-beside", with(b"U\x05epochK\x05sU\x04bestG\x3f\xf8\0\0\0\0\0\0s")),
        seed("ok-object-beside", with(b"U\x04argscargparse\nNamespace\n)\x81}bs")),
        seed("ok-cycle-in-a-list", with(b"U\x01l]q\0h\0as")),
        seed("ok-wrapped", with(b"q\0}U\x05modelh\0sU\x05optimh\0s")),
        seed("bad-two", two),
        seed("bad-cycle", with(b"q\0U\x01dh\0s")),
        seed("bad-doubled", with(&b"q\0}U\x01ah\0sU\x01bh\0s".repeat(30))),
        seed("bad-integers", single("IntStorage", b"N", square)),
        seed("bad-size", single("DoubleStorage", b"N", square)),
        seed("bad-storage", single("OtherStorage", b"N", square)),
        seed("bad-part", single("FloatStorage", b"(U\x01vK\x02K\x03t", b"K\0K\x02\x85K\x01\x85")),
        seed("bad-place", single("FloatStorage", b"N", &[&huge[..], b"K\x02\x85K\x01\x85"].concat())),
        seed("bad-shape", single("FloatStorage", b"N", &[&b"K\0"[..], huge, b"\x85K\0\x85"].concat())),
        seed("bad-stride", single("FloatStorage", b"N", &[&b"K\0K\x02\x85"[..], huge, b"\x85"].concat())),
        seed("bad-negative", single("FloatStorage", b"N", b"K\0J\xff\xff\xff\xff\x85K\x01\x85")),
        seed("bad-many-copies", single("FloatStorage", b"N", b"K\0J\0\0\0\x04\x85K\0\x85")),
        seed("bad-module", legacy(b"\x80\x02cnet\nNet\n)\x81}b.")),
        seed("bad-module-within", legacy(&one("model", b"cnet\nNet\n)\x81}b"))),
        seed("bad-call", legacy(b"\x80\x02cposix\nsystem\nU\x02ls\x85R.")),
        seed("bad-deep", legacy(&[&b"\x80\x02"[..], &[b']'; 10_000], &[b'a'; 9_999], b"."].concat())),
        seed("bad-long-text", legacy(b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.")),
        seed("bad-other-pickle", &b"\x80\x02K\x01."[..]),
        seed("bad-empty", []),
        seed("bad-empty-zip", [&b"PK\x05\x06"[..], &[0; 18]].concat()),
        seed("bad-page", &b"<!DOCTYPE html>\n<html>not found</html>"[..]),
        seed("bad-pointer", &b"version https://git-lfs.github.com/spec/v1\n"[..]),
    ];
    with_damages(begin, others)
}
