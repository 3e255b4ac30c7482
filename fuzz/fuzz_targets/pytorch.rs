//! Weights that others saved.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dkd_fuzz::pytorch(bytes);
});
