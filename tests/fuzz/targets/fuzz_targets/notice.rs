#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entry("notice").expect("an entry")(bytes));
