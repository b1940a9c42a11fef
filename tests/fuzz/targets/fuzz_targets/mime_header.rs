#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entry("mime_header").expect("an entry")(bytes));
