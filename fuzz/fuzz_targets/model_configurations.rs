#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| asyncdiff_fuzz::targets::model_configurations(bytes));
