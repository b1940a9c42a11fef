//! What every program of this workspace does the same way about its logs.
//!
//! Purpose: set up `tracing`, render an error with all its causes on one line, and make bytes that
//! a peer chose harmless before they reach a log ([`escape`], [`harmless`]). Must not depend on any
//! other crate of the workspace. Entry: [`init`].
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::{self, Display, Write as _};

use serde::Deserialize;

/// Most bytes of a peer's string that one log field shows.
pub const PEER_STRING_BYTES_MAX: usize = 256;

/// How log lines look; the `log` key of every settings file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people. The default.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Starts logging to standard error.
///
/// The level comes from the variable `AVR_LOG` (as in `info`, `proxy=debug`); `info` without it.
/// A second call does nothing, so tests may call it freely.
pub fn init(format: Format) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("AVR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second initialisation fails; the first one stays in force, which is what the caller wants.
    let _ = match format {
        Format::Text => builder.with_ansi(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
}

/// An error and all its causes on one line: `open proxy: connect: refused`.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(line, ": {inner}");
        cause = inner.source();
    }
    line
}

/// Bytes from a peer, shown without control characters and cut at [`PEER_STRING_BYTES_MAX`].
#[must_use]
pub fn escape(bytes: &[u8]) -> Escaped<'_> {
    Escaped(bytes)
}

/// Text of a peer for people to read: UTF-8 with at most `bytes_max` bytes. What would steer a
/// terminal or turn the reading direction round becomes U+FFFD, as does what is no UTF-8; a text
/// that was cut ends in `…`.
#[must_use]
pub fn harmless(bytes: &[u8], bytes_max: usize) -> String {
    // What is cut off anyway is not looked at: a character has at most four bytes.
    let looked_at = bytes.get(..bytes_max.saturating_add(4)).unwrap_or(bytes);
    let mut text: String = String::from_utf8_lossy(looked_at)
        .chars()
        .map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.len() > bytes_max {
        const CUT: char = '…';
        let mut end = bytes_max.saturating_sub(CUT.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push(CUT);
    }
    text
}

/// Control characters, line separators, and the marks that turn the reading direction (Unicode
/// Standard Annex 9).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Renders as printable ASCII; see [`escape`].
#[derive(Clone, Copy)]
pub struct Escaped<'a>(&'a [u8]);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take(PEER_STRING_BYTES_MAX) {
            write!(f, "{}", std::ascii::escape_default(byte))?;
        }
        if self.0.len() > PEER_STRING_BYTES_MAX {
            write!(f, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_cannot_colour_or_break_log_lines() {
        assert_eq!(escape(b"a\x1b[31m\r\nb\0").to_string(), "a\\x1b[31m\\r\\nb\\x00");
    }

    #[test]
    fn long_peer_strings_are_cut() {
        let shown = escape(&[b'x'; 1000]).to_string();
        assert!(shown.starts_with(&"x".repeat(PEER_STRING_BYTES_MAX)));
        assert!(shown.ends_with("(1000 bytes)"));
    }

    #[test]
    fn texts_of_peers_stay_readable_and_steer_nothing() {
        assert_eq!(harmless("見積書\t2026".as_bytes(), 100), "見積書\u{fffd}2026");
        assert_eq!(harmless(b"a\x1b[31m\xffb", 100), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(harmless("fdp.\u{202e}exe\u{85}".as_bytes(), 100), "fdp.\u{fffd}exe\u{fffd}");
        assert_eq!(harmless("ありがとう".as_bytes(), 15), "ありがとう");
        assert_eq!(harmless("ありがとう".as_bytes(), 14), "ありが…");
        // A replacement is longer than the byte that it stands for.
        for bytes_max in 3..40 {
            let text = harmless(&[0xff; 64], bytes_max);
            assert!(text.len() <= bytes_max && text.ends_with('…'), "{bytes_max} {text}");
        }
    }

    #[test]
    fn chain_names_every_cause() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("read settings")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        assert_eq!(chain(&Outer(std::io::Error::other("disk"))), "read settings: disk");
    }
}
