//! What services say of themselves (sd_notify(3)), as far as PID 1 listens.

use std::time::Duration;

/// Longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// `READY=1`.
    Ready,
    /// `WATCHDOG=1`.
    Watchdog,
    /// `STOPPING=1`.
    Stopping,
    /// `STATUS=`, with control characters escaped.
    Status(String),
    /// `EXTEND_TIMEOUT_USEC=`.
    ExtendTimeout(Duration),
}

/// Reads a message; what is not known is skipped.
#[must_use]
pub fn parse(message: &[u8]) -> Vec<Word> {
    let text = String::from_utf8_lossy(message);
    text.lines().filter_map(word).collect()
}

fn word(line: &str) -> Option<Word> {
    match line.split_once('=')? {
        ("READY", "1") => Some(Word::Ready),
        ("WATCHDOG", "1") => Some(Word::Watchdog),
        ("STOPPING", "1") => Some(Word::Stopping),
        ("STATUS", text) => Some(Word::Status(crate::ring::escaped(text))),
        ("EXTEND_TIMEOUT_USEC", micros) => {
            micros.parse().ok().map(|micros| Word::ExtendTimeout(Duration::from_micros(micros)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_found() {
        assert_eq!(
            parse(b"READY=1\nSTATUS=serving, \x1b[1m\nMAINPID=7\nEXTEND_TIMEOUT_USEC=5000000"),
            [
                Word::Ready,
                Word::Status("serving, \\u{1b}[1m".to_owned()),
                Word::ExtendTimeout(Duration::from_secs(5))
            ]
        );
        assert!(parse(b"READY=0\nWATCHDOG\nSTOPPING=").is_empty());
    }

    proptest! {
        #[test]
        fn no_message_panics(message in any::<Vec<u8>>()) {
            let _ = parse(&message);
        }
    }
}
