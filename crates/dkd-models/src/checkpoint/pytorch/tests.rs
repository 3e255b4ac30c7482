//! Containers: damaged, hostile and odd ones.

use crate::checkpoint::{Container, Foreign, Metadata, Select, pth_bytes, weights_from_bytes};
use candle_core::{DType, Device, Tensor};
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn read(bytes: &[u8]) -> Result<Foreign, String> {
    weights_from_bytes(bytes, Path::new("teacher.pth"), &Select::default()).map_err(|e| e.to_string())
}

fn refused(bytes: &[u8], why: &str) {
    let message = read(bytes).unwrap_err();
    assert!(message.contains(why) && message.starts_with("teacher.pth: "), "{message}");
}

/// A short text as Python 2 writes it.
fn text(text: &str) -> Vec<u8> {
    [&b"U"[..], &[text.len() as u8], text.as_bytes()].concat()
}

/// A call for a tensor of floats.
fn tensor(key: &str, count: &[u8], view: &[u8], place: &[u8]) -> Vec<u8> {
    let begin = b"ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\n";
    [&begin[..], &text(key), b"U\x06cuda:0", count, view, b"tQ", place, b"tR"].concat()
}

/// A pickle of a dictionary with one entry.
fn one(name: &str, value: &[u8]) -> Vec<u8> {
    [&b"\x80\x02}"[..], &text(name), value, b"s."].concat()
}

/// Four floats under the name `k`.
fn four() -> Vec<u8> {
    one("w", &tensor("k", b"K\x04", b"N", b"K\0K\x02K\x02\x86K\x02K\x01\x86"))
}

/// The container of old, with storage `k` of the floats 0, 1, 2, …
fn legacy(object: &[u8], floats: u8) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    let system = one("little_endian", b"\x88");
    let keys = b"\x80\x02]U\x01ka.";
    let data: Vec<u8> = (0..floats).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let count = u64::from(floats).to_le_bytes();
    [&magic[..], &system, object, &keys[..], &count, &data].concat()
}

/// A zip file of stored members.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, content) in members {
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// One with this `data.pkl` and nothing else.
fn pickled(data: &[u8]) -> Vec<u8> {
    archive(&[("x/data.pkl", data)])
}

fn floats(foreign: &Foreign, name: &str) -> Vec<f32> {
    foreign.tensors[name].flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn files_of_the_first_versions() {
    let foreign = read(&legacy(&four(), 4)).unwrap();
    assert_eq!((foreign.container, foreign.tensors["w"].dims()), (Container::PytorchLegacy, &[2, 2][..]));
    assert_eq!(floats(&foreign, "w"), [0.0, 1.0, 2.0, 3.0]);
    // A part of a storage: three elements from the second on.
    let part = tensor("k", b"K\x04", b"(U\x01vK\x01K\x03t", b"K\x01K\x02\x85K\x01\x85");
    assert_eq!(floats(&read(&legacy(&one("w", &part), 4)).unwrap(), "w"), [2.0, 3.0]);
    let part = tensor("k", b"K\x04", b"(U\x01vK\x02K\x03t", b"K\0K\x02\x85K\x01\x85");
    refused(&legacy(&one("w", &part), 4), "elements 2+3 are not within its storage");
    let transposed = tensor("k", b"K\x04", b"N", b"K\0K\x02K\x02\x86K\x01K\x02\x86");
    assert_eq!(floats(&read(&legacy(&one("w", &transposed), 4)).unwrap(), "w"), [0.0, 2.0, 1.0, 3.0]);
}

#[test]
fn legacy_files_that_contradict_themselves() {
    refused(&legacy(&four(), 5), "storage `k` should have 4 elements of 4 bytes, but has 20 bytes");
    refused(&[&legacy(&four(), 4)[..], b"x"].concat(), "1 bytes follow the last storage");
    refused(&legacy(&one("w", b"K\x01"), 4), "nothing uses storage `k`");
    let whole = legacy(&four(), 4);
    let mut huge = whole.clone();
    let at = whole.len() - 24;
    huge[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&huge, "cut short: storage `k`");
    // The list of storages has a name that no tensor has.
    let other = tensor("other", b"K\x04", b"N", b"K\0K\x04\x85K\x01\x85");
    refused(&legacy(&one("w", &other), 4), "nothing uses storage `k`");
}

#[test]
fn other_pickles() {
    refused(b"\x80\x02K\x01.", "a pickle of a number that `torch.save` did not write");
    let mut whole = legacy(&four(), 4);
    let at = whole.windows(2).position(|w| w == b"M\xe9").unwrap() + 1;
    whole[at] = 0;
    refused(&whole, "its version is not 1001");
    let mut whole = legacy(&four(), 4);
    let at = whole.iter().position(|b| *b == 0x88).unwrap();
    whole[at] = 0x89;
    refused(&whole, "highest byte first");
}

#[test]
fn tensors_stay_within_their_storage() {
    let with = |place: &[u8]| legacy(&one("w", &tensor("k", b"K\x04", b"N", place)), 4);
    let most = b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0";
    refused(&with(b"K\x01K\x04\x85K\x01\x85"), "tensor `w`: it reaches beyond its storage");
    refused(&with(b"K\0K\x03\x85K\x02\x85"), "beyond its storage");
    refused(&with(&[&most[..], b"K\x02\x85K\x01\x85"].concat()), "beyond its storage");
    refused(&with(&[&b"K\0K\x03\x85"[..], &most[..], b"\x85"].concat()), "beyond its storage");
    refused(
        &with(&[&b"K\0"[..], &most[..], b"\x85K\0\x85"].concat()),
        "more than a file of this size can mean",
    );
    refused(&with(&[&b"K\0"[..], &most[..], &most[..], b"\x86K\0K\0\x86"].concat()), "more than a file");
    // 2^26 copies of one number.
    refused(&with(b"K\0J\0\0\0\x04\x85K\0\x85"), "more than a file of this size can mean");
    let copies = read(&with(b"K\x02K\x03\x85K\0\x85")).unwrap();
    assert_eq!(floats(&copies, "w"), [2.0; 3]);
    // The stride of a dimension of size 1 means nothing.
    let one_row = read(&with(&[&b"K\0K\x01K\x04\x86"[..], &most[..], b"K\x01\x86"].concat())).unwrap();
    assert_eq!(floats(&one_row, "w"), [0.0, 1.0, 2.0, 3.0]);
    let empty = read(&with(b"K\x09K\0K\x03\x86K\x03K\x01\x86")).unwrap();
    assert_eq!(empty.tensors["w"].dims(), [0, 3]);
}

#[test]
fn archives_that_are_no_weights() {
    let data = four();
    let four_floats: Vec<u8> = [0.5_f32; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
    let good = [("x/data.pkl", &data[..]), ("x/data/k", &four_floats[..])];
    assert_eq!(floats(&read(&archive(&good)).unwrap(), "w"), [0.5; 4]);
    let with = |name: &str, content: &[u8]| archive(&[good[0], good[1], (name, content)]);
    assert!(read(&with("x/byteorder", b"little")).is_ok());
    refused(&with("x/byteorder", b"big"), "lowest byte first");
    refused(&with("x/constants.pkl", b""), "a TorchScript archive");
    refused(&with("x/code/a.py", b""), "a TorchScript archive");
    refused(&with("y/data.pkl", b""), "several data.pkl");
    refused(&archive(&good[..1]), "tensor `w`: the file has no storage `k`");
    refused(&archive(&[good[0], ("x/data/k", &four_floats[..15])]), "but has 15 bytes");
    refused(&archive(&[("a.npy", &b""[..]), ("b\n", &b""[..])]), "it has no data.pkl, but a.npy, b\\n");
    refused(&archive(&[]), "it has no data.pkl, but nothing");
    refused(&pickled(b"\x80\x02K"), "its data.pkl, byte 3 of the pickle: it is cut short");
    refused(&archive(&[("x/data.pkl", b"\x80\x02].")]), "it holds a list, not a state dict");
    refused(&pickled(&one("epoch", b"K\x01")), "there are no weights in it, but `epoch`");
    refused(b"PK\x03\x04 and nothing more", "cut short or damaged");
}

/// Packs a member in place of storing it, keeping the file's sizes as `claimed`.
fn packed(claimed: u32, content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    let small = encoder.finish().unwrap();
    let mut file = pickled(&small);
    let mut crc = flate2::Crc::new();
    crc.update(content);
    // Method, checksum and size, in the member's own header and in the list at the end.
    let list = file.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    for at in [8, list + 10] {
        file[at..at + 2].copy_from_slice(&8_u16.to_le_bytes());
        file[at + 6..at + 10].copy_from_slice(&crc.sum().to_le_bytes());
        file[at + 14..at + 18].copy_from_slice(&claimed.to_le_bytes());
    }
    file
}

#[test]
fn members_unpack_to_what_they_claim() {
    let data = one("epoch", b"K\x01");
    refused(&packed(data.len() as u32, &data), "no weights in it, but `epoch`");
    refused(&packed(data.len() as u32 - 1, &data), "member `x/data.pkl` of the zip file is damaged");
    refused(&packed(data.len() as u32 + 1, &data), "is damaged");
    // 100 MB of nothing in 100 kB; then the same, not admitted.
    let bomb = vec![0; 100_000_000];
    refused(&packed(100_000_000, &bomb), "would unpack to far more than the file");
    refused(&packed(10, &bomb), "is damaged");
}

#[test]
fn nested_dictionaries_are_limited() {
    // d = {'w': d}
    let cycle = b"\x80\x02}q\0U\x01wh\0sh\0.";
    refused(&pickled(cycle), "there are no weights");
    // Weights beside themselves.
    let cycle = [&b"\x80\x02}q\0U\x01dh\0s"[..], &four()[3..]].concat();
    refused(&pickled(&cycle), "nested more than 16 deep");
    // Each dictionary has the one before twice.
    let laughs = [&four()[..four().len() - 1], &b"q\0}U\x01ah\0sU\x01bh\0s".repeat(15), b"."].concat();
    let whole = Select { key: Some(".".to_owned()) };
    let bytes = pickled(&laughs);
    let message = weights_from_bytes(&bytes, Path::new("t"), &whole).unwrap_err().to_string();
    assert!(message.contains("has no storage `k`"), "{message}");
    // A long name from two that are not.
    let inner = [&text("of-these-weights"), &four()[6..]].concat();
    let outer =
        [&b"\x80\x02}X\xf4\x01\0\0"[..], &[b'n'; 500], b"}", &inner[..inner.len() - 1], b"s."].concat();
    let message = weights_from_bytes(&pickled(&outer), Path::new("t"), &whole).unwrap_err().to_string();
    assert!(message.contains("has more than 512 bytes"), "{message}");
}

#[test]
fn other_kinds_of_files_are_named() {
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    refused(&tar, "a tar archive (unpack it");
    let mut old = vec![0; 1024];
    old[..8].copy_from_slice(b"sys_info");
    let sum = b"sys_info".iter().map(|b| u32::from(*b)).sum::<u32>() + 256;
    old[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    refused(&old, "before version 0.2");
    refused(b"", "an empty file");
    refused(b"\n<!DOCTYPE html><html>", "an HTML page (did the download fail?)");
    refused(b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS");
    refused(b"\x1f\x8b\x08", "a compressed file");
    refused(b"\x89HDF\r\n", "an HDF5 file");
    refused(b"\x93NUMPY\x01", "an array of NumPy");
    refused(b"{\"a\": 1}", "a JSON text");
    refused(&[7; 600], "a file of an unknown kind, but expected a safetensors file or one of torch.save");
    let weights = [("w".to_owned(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap())];
    let bytes = crate::checkpoint::to_bytes(&weights, &Metadata::new("resnet8", 10)).unwrap();
    let foreign = read(&bytes).unwrap();
    assert_eq!((foreign.container, foreign.metadata.model()), (Container::Safetensors, Some("resnet8")));
    refused(&bytes[..bytes.len() - 1], "cut short");
}

#[test]
fn what_pytorch_cannot_hold_is_not_written() {
    let tensor = |dtype| Tensor::ones(2, dtype, &Device::Cpu).unwrap();
    let message = |tensors: &[(&str, DType)], metadata: &Metadata| {
        let tensors: Vec<_> = tensors.iter().map(|(n, d)| ((*n).to_owned(), tensor(*d))).collect();
        pth_bytes(&tensors, metadata).unwrap_err().to_string()
    };
    let none = Metadata::default();
    assert!(message(&[("w", DType::U32)], &none).contains("`w`: PyTorch has no storage"));
    assert!(message(&[("w", DType::F32), ("w", DType::F32)], &none).contains("two entries"));
    assert!(message(&[], &none.clone().with("state_dict", "x")).contains("cannot be called so"));
}

#[test]
fn tensors_are_aligned_and_bytes_are_always_the_same() {
    let weights: Vec<_> = (1..4)
        .map(|i| (format!("w{i}"), Tensor::full(0.5_f32 + i as f32, 3 * i, &Device::Cpu).unwrap()))
        .collect();
    let bytes = pth_bytes(&weights, &Metadata::default()).unwrap();
    assert_eq!(bytes, pth_bytes(&weights, &Metadata::default()).unwrap());
    let mut zip = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
    let names: Vec<String> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
    let want = ["data.pkl", "byteorder", "data/0", "data/1", "data/2", "version"];
    assert_eq!(names, want.map(|name| format!("archive/{name}")));
    for i in 0..zip.len() {
        assert_eq!(zip.by_index_raw(i).unwrap().data_start().unwrap() % 64, 0);
    }
    assert_eq!(floats(&read(&bytes).unwrap(), "w2"), [2.5; 6]);
}
