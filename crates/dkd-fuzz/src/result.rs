//! Results of rows.

use crate::assert_names;
use dkd_trainer::record::RowResult;
use std::path::Path;

const FILE: &str = "kd-0.json";

/// What is read can be written and read again as the same.
pub fn result(bytes: &[u8]) -> bool {
    let mut result = match RowResult::from_bytes(bytes, Path::new(FILE)) {
        Ok(result) => result,
        Err(e) => {
            assert_names(&e, FILE);
            return false;
        }
    };
    comes_back(&result);
    // The summary can be made again, whatever the epochs are.
    result.finish();
    comes_back(&result);
    true
}

fn comes_back(result: &RowResult) {
    let text = serde_json::to_vec_pretty(result).expect("results are JSON");
    let again = RowResult::from_bytes(&text, Path::new(FILE));
    let again = again.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&text)));
    // As text: a loss that is NaN is not equal to itself.
    assert_eq!(serde_json::to_vec_pretty(&again).ok(), Some(text));
}
