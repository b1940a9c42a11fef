//! What servers say of an object: clamd in a line, ICAP in the head of an answer.

use scan::EngineOutcome;
use scan::engine::clamd::read_reply;
use scan::engine::icap::read_answer_head;

/// One answer, without the NUL that ends it.
pub(crate) fn clamd_reply(bytes: &[u8]) {
    let outcome = read_reply(bytes);
    if outcome == Some(EngineOutcome::Clean) {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_prefix("1: ").unwrap_or(&text).trim();
        assert_eq!(text, "stream: OK", "called clean by another word");
    }
    is_shown_safely(outcome);
}

/// The head of an answer of ICAP, which alone never makes an object clean.
pub(crate) fn icap_head(bytes: &[u8]) {
    let outcome = read_answer_head(bytes);
    assert_ne!(outcome, Some(EngineOutcome::Clean), "clean by a header field");
    is_shown_safely(outcome);
}

fn is_shown_safely(outcome: Option<EngineOutcome>) {
    if let Some(EngineOutcome::Found(name) | EngineOutcome::Limit(name)) = outcome {
        assert!(!name.contains(char::is_control), "a name with control characters: {name:?}");
    }
}
