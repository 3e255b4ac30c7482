//! Files of weights.

use crate::assert_names;
use candle_core::Tensor;
use dkd_models::checkpoint::{Metadata, from_bytes, to_bytes};
use std::collections::HashMap;
use std::path::Path;

const FILE: &str = "fuzz.safetensors";

/// What is loaded can be saved, and loaded again as the same.
pub fn weights(bytes: &[u8]) -> bool {
    let (tensors, metadata) = match from_bytes(bytes, Path::new(FILE)) {
        Ok(loaded) => loaded,
        Err(e) => {
            assert_names(&e, FILE);
            return false;
        }
    };
    let listed: Vec<(String, Tensor)> = tensors.into_iter().collect();
    let saved = to_bytes(&listed, &metadata).expect("what was loaded can be saved");
    let (again, about) = from_bytes(&saved, Path::new(FILE)).expect("what was saved can be loaded");
    assert_same(&listed, &again);
    // Files of others have no version until they are saved here.
    let text = |m: &Metadata| {
        let all = m.iter().filter(|(key, _)| *key != "dkd_format");
        all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(text(&about), text(&metadata));
    assert_eq!(about.num_classes(), metadata.num_classes());
    // As text: a mean that is NaN is not equal to itself.
    assert_eq!(format!("{:?}", about.normalization()), format!("{:?}", metadata.normalization()));
    true
}

/// Makes sure that both have the same names, types, shapes and bytes.
pub(crate) fn assert_same(listed: &[(String, Tensor)], again: &HashMap<String, Tensor>) {
    assert_eq!(listed.len(), again.len());
    for (name, tensor) in listed {
        let other = again.get(name).unwrap_or_else(|| panic!("`{name}` is gone"));
        assert_eq!((tensor.dtype(), tensor.dims()), (other.dtype(), other.dims()), "`{name}`");
        assert_eq!(content(tensor), content(other), "`{name}`");
    }
}

fn content(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = Vec::new();
    tensor.write_bytes(&mut bytes).expect("memory takes everything");
    bytes
}
