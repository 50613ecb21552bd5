#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| asyncdiff_fuzz::targets::single_files(bytes));
