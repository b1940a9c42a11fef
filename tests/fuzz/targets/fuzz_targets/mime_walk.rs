#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entry("mime_walk").expect("an entry")(bytes));
