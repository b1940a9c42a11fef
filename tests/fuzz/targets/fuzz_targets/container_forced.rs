#![no_main]

use std::sync::Once;

static HOOK: Once = Once::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // A decoder may give up with a panic, which is caught where it is called; only one that reaches
    // the fuzzer is a find.
    HOOK.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    fuzz::entry("container_forced").expect("an entry")(bytes)
});
