#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pluto_fuzz::keystore(data));
