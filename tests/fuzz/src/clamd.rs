//! What a clamd server says of an object.

use scan::EngineOutcome;
use scan::engine::clamd::read_reply;

/// One answer, without the NUL that ends it.
pub(crate) fn reply(bytes: &[u8]) {
    let outcome = read_reply(bytes);
    if outcome == Some(EngineOutcome::Clean) {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_prefix("1: ").unwrap_or(&text).trim();
        assert_eq!(text, "stream: OK", "called clean by another word");
    }
    if let Some(EngineOutcome::Found(name) | EngineOutcome::Limit(name)) = outcome {
        assert!(!name.contains(char::is_control), "a name with control characters: {name:?}");
    }
}
