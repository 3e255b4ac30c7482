//! Files of weights, and checkpoints.

use super::{records, seed, with_damages};
use crate::Seed;
use crate::checkpoint::tensors;
use candle_core::{DType, Device, Tensor};
use dkd_models::checkpoint::{Metadata, Normalization, to_bytes};
use dkd_trainer::checkpoint::{Header, Snapshot, encode};
use serde_json::{Value, json};

/// A safetensors file from its header and its data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// One with a single tensor.
fn single(dtype: &str, shape: &str, bytes: usize) -> Vec<u8> {
    let header = format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{bytes}]}}}}"#);
    file(&header, &vec![0x3c; bytes])
}

/// A tensor of every type.
fn every_type() -> Vec<(String, Tensor)> {
    let values =
        Tensor::new(&[[1.5_f32, -2.0, 0.0], [3.0, 4.0, 100.0]], &Device::Cpu).expect("a few numbers");
    let types = [
        DType::U8,
        DType::U32,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::BF16,
        DType::F16,
        DType::F32,
        DType::F64,
        DType::F8E4M3,
    ];
    let of =
        |dtype: DType| (format!("{dtype:?}.weight"), values.to_dtype(dtype).expect("numbers are numbers"));
    types.map(of).to_vec()
}

/// Files of weights: of every type, of others, and with headers that promise too much.
pub fn weights() -> Vec<Seed> {
    let normalization = Normalization { mean: vec![0.5, 0.1, 0.2], std: vec![0.25; 3] };
    let about = Metadata::new("resnet8", 10).with_normalization(&normalization).with("note", "\"a\"\nb");
    let written = |tensors: &[(String, Tensor)]| to_bytes(tensors, &about).expect("these can be stored");
    let huge = (1_u64 << 61) - 1;
    let entry = |i: u64| {
        let (start, end) = (huge * i, huge * (i + 1));
        format!(r#""t{i}":{{"dtype":"U8","shape":[{huge}],"data_offsets":[{start},{end}]}}"#)
    };
    let sums = format!("{{{}}}", (0..8).map(entry).collect::<Vec<_>>().join(","));
    let newer =
        String::from_utf8_lossy(&written(&[])).replace("\"dkd_format\":\"1\"", "\"dkd_format\":\"2\"");
    let others = vec![
        seed("ok-none", written(&[])),
        seed("ok-of-others", single("F32", "[2,1]", 8)),
        seed("ok-scalar", single("I64", "[]", 8)),
        seed("ok-no-elements", single("F32", "[0,3]", 0)),
        seed("ok-many-dimensions", single("U8", &format!("[{}1]", "1,".repeat(200)), 1)),
        seed("ok-narrow-becomes-wide", single("U16", "[2]", 4)),
        seed("ok-not-aligned", file(r#"{"t":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}} "#, &[1; 8])),
        seed(
            "ok-metadata-of-others",
            file(r#"{"__metadata__":{"format":"pt","num_classes":"x","normalization":"[["}}"#, &[]),
        ),
        seed("bad-empty", []),
        seed("bad-zip", &b"PK\x03\x04 something else entirely"[..]),
        seed("bad-newer-version", newer),
        seed("bad-longest-header", u64::MAX.to_le_bytes()),
        seed("bad-long-header", [&(90_u64 << 20).to_le_bytes()[..], b"{}"].concat()),
        seed("bad-no-json", file("{]", &[])),
        seed("bad-nested", file(&format!("{{\"t\":{}", "[".repeat(3000)), &[])),
        seed("bad-metadata", file(r#"{"__metadata__":{"a":1}}"#, &[])),
        seed("bad-sums-of-sizes", file(&sums, &[])),
        seed("bad-products-of-sizes", single("F32", "[0,9223372036854775807,4]", 0)),
        seed("bad-largest-size", single("U8", "[18446744073709551615]", 1)),
        seed(
            "bad-list-in-the-place-of-an-entry",
            file(r#"{"t":["U8",[0,9223372036854775807,4],[0,0]]}"#, &[]),
        ),
        seed("bad-size", single("F32", "[3]", 8)),
        seed("bad-hole", file(r#"{"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, &[0; 2])),
        seed("bad-backwards", file(r#"{"t":{"dtype":"U8","shape":[0],"data_offsets":[1,0]}}"#, &[0; 1])),
        seed("bad-type", single("BOOL", "[1]", 1)),
        seed("bad-packed-type", single("F4", "[2]", 1)),
        seed("bad-type-without-a-name", single("X", "[1]", 1)),
    ];
    with_damages(vec![seed("ok-every-type", written(&every_type()))], others)
}

/// The header of a run's checkpoint, with one row.
fn header() -> Value {
    json!({
        "place": { "teacher": false, "epoch": 2, "batch": 1, "done": 3 },
        "identity": { "config": "[train]\nepochs = 2\n", "data": "ab".repeat(32), "seed": 3 },
        "revision": "0123456+",
        "log_bytes": 1234,
        "rows": [{
            "id": "kd", "life": "alive", "updates": 3, "steps": 1, "loss_sum": f64::NAN.to_bits(), "seen": [20, 3, 11],
            "cross_entropy": 2.5_f64.to_bits(), "lr_factor": 0.5, "skipped_in_a_row": 1, "result": records::row(),
        }],
    })
}

/// Checkpoints: of a run, alone as a header, damaged, and files of weights that are none.
pub fn checkpoint() -> Vec<Seed> {
    let whole = header();
    let parsed: Header = serde_json::from_value(whole.clone()).expect("it is a header");
    let bytes = encode(&Snapshot { header: parsed, tensors: tensors() }).expect("these can be stored");
    let replaced = |from: &str, to: &str| {
        // No text but the header's, which is as long afterwards.
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("it is in the file");
        [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
    };
    let text = |value: &Value| serde_json::to_vec(value).expect("it is JSON");
    let with = |key: &str, value: Value| {
        let mut changed = whole.clone();
        changed[key] = value;
        text(&changed)
    };
    let weights = to_bytes(&tensors(), &Metadata::new("resnet8", 10)).expect("these can be stored");
    let largest = json!({ "teacher": true, "epoch": u64::MAX, "batch": u64::MAX, "done": u64::MAX });
    let others = vec![
        seed("ok-header", text(&whole)),
        seed("ok-header-without-rows", with("rows", json!([]))),
        seed("ok-header-of-the-largest-place", with("place", largest)),
        seed("bad-header-without-a-place", with("place", json!(null))),
        seed("bad-header-with-a-list", with("rows", json!([[]]))),
        seed("bad-newer-version", replaced("\"dkd_checkpoint\":\"1\"", "\"dkd_checkpoint\":\"2\"")),
        seed("bad-no-version", replaced("dkd_checkpoint", "dkd_checkpoinx")),
        seed("bad-no-header", replaced("\"dkd_header\"", "\"dkd_headex\"")),
        seed("bad-header-changed", replaced("0123456+", "0123456-")),
        seed("bad-tensor-called-otherwise", replaced("\"kd/weights/fc.bias\":{", "\"kd/weights/fc.biax\":{")),
        seed("bad-weights", weights),
        seed("bad-empty", []),
    ];
    with_damages(vec![seed("ok-run", bytes)], others)
}
