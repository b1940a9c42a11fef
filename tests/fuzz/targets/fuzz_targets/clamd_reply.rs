#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entry("clamd_reply").expect("an entry")(bytes));
