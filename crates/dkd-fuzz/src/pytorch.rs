//! Weights that others saved.

use crate::assert_names;
use crate::weights::assert_same;
use candle_core::Tensor;
use dkd_models::checkpoint::{Container, Metadata, Select, pth_bytes, weights_from_bytes};
use std::collections::HashMap;
use std::path::Path;

const FILE: &str = "fuzz.pth";

/// What is read from a file of PyTorch can be written for PyTorch, and read again as the same. Files of safetensors, which are
/// taken too, are another target's.
pub fn pytorch(bytes: &[u8]) -> bool {
    let path = Path::new(FILE);
    let foreign = match weights_from_bytes(bytes, path, &Select::default()) {
        Ok(foreign) => foreign,
        Err(e) => {
            assert_names(&e, FILE);
            // The whole file, without a search for the weights in it.
            let whole = Select { key: Some(".".to_owned()) };
            if let Err(e) = weights_from_bytes(bytes, path, &whole) {
                assert_names(&e, FILE);
            }
            return false;
        }
    };
    // The name under which the weights are written.
    if foreign.container == Container::Safetensors || foreign.metadata.get("state_dict").is_some() {
        return true;
    }
    let listed: Vec<(String, Tensor)> = foreign.tensors.into_iter().collect();
    let written = pth_bytes(&listed, &foreign.metadata).expect("what was read can be written");
    let again = weights_from_bytes(&written, path, &Select::default()).expect("what was written can be read");
    assert_eq!(again.container, Container::PytorchZip);
    assert_eq!(again.metadata, foreign.metadata);
    assert_eq!(again.key, if foreign.metadata == Metadata::default() { "" } else { "state_dict" });
    assert_same(&listed, &again.tensors.into_iter().collect::<HashMap<_, _>>());
    true
}
