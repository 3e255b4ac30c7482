//! Results of rows.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dkd_fuzz::result(bytes);
});
