//! Checkpoints of runs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dkd_fuzz::checkpoint(bytes);
});
