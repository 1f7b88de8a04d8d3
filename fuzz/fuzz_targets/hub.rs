//! See `quern_faults::hub`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quern_fuzz::read("hub", data));
