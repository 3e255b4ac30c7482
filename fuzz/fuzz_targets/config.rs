//! Settings.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dkd_fuzz::config(bytes);
});
