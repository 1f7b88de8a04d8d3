//! See `quern_faults::reader`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quern_fuzz::read("pattern", data));
