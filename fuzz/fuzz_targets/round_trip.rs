//! See `quern_faults::round_trip`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quern_fuzz::read("round-trip", data));
