//! Checkpoints of runs.

use crate::assert_names;
use crate::weights::assert_same;
use candle_core::{Device, Tensor};
use dkd_trainer::checkpoint::{Header, Identity, Place, Snapshot, decode_bytes, encode};
use std::path::Path;

const FILE: &str = "0-s-0000000001.safetensors";

/// What is decoded is encoded to something that is decoded as the same.
///
/// Bytes made by chance never get behind the checksums. So a header alone, as JSON, is put into a checkpoint that fits it, and
/// so are the tensors of a file that is no checkpoint.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let path = Path::new(FILE);
    let whole = decode_bytes(bytes, path);
    if let Err(e) = &whole {
        assert_names(e, FILE);
    }
    let header =
        serde_json::from_slice::<Header>(bytes).map(|header| Snapshot { header, tensors: tensors() });
    let foreign = dkd_models::checkpoint::from_bytes(bytes, path)
        .map(|(tensors, _)| Snapshot { header: empty(), tensors: tensors.into_iter().collect() });
    for snapshot in [whole.as_ref().ok(), header.as_ref().ok(), foreign.as_ref().ok()].into_iter().flatten() {
        comes_back(snapshot);
    }
    whole.is_ok() || header.is_ok()
}

fn comes_back(snapshot: &Snapshot) {
    let bytes = encode(snapshot).expect("what was decoded can be encoded");
    let again = decode_bytes(&bytes, Path::new(FILE)).expect("what was encoded can be decoded");
    // As text: a loss that is NaN is not equal to itself.
    assert_eq!(json(&again.header), json(&snapshot.header));
    assert_eq!(again.header.score().map(f64::to_bits), snapshot.header.score().map(f64::to_bits));
    assert_same(&snapshot.tensors, &again.tensors.into_iter().collect());
    let last = bytes.len() - 1;
    assert!(decode_bytes(&bytes[..last], Path::new(FILE)).is_err());
}

fn json(header: &Header) -> String {
    serde_json::to_string(header).expect("a header is JSON")
}

/// Some tensors, called as those of a run.
pub(crate) fn tensors() -> Vec<(String, Tensor)> {
    let of = |values: &[f32]| Tensor::new(values, &Device::Cpu).expect("a few numbers");
    [
        ("kd/weights/fc.bias", of(&[0.5, f32::NAN, -0.0])),
        ("kd/momentum/fc.bias", of(&[1.0, 2.0, f32::INFINITY])),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .to_vec()
}

/// The header of a run without rows.
fn empty() -> Header {
    Header {
        place: Place { teacher: false, epoch: 1, batch: 0, done: 0 },
        identity: Identity { config: String::new(), data: String::new(), seed: 0 },
        revision: None,
        log_bytes: None,
        rows: Vec::new(),
    }
}
