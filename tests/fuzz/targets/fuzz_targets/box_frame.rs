#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::entry("box_frame").expect("an entry")(bytes));
