//! Archives of data sets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dkd_fuzz::archive(bytes);
});
