//! The token that a reader shows, compared without telling by the time it takes how much was right.

use std::fmt;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::files::{FileError, read_pem};

/// Shortest token: with 64 characters to choose from that is 96 bits.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 256;

/// Only its hash is kept: what is compared has always the same length.
#[derive(Clone)]
pub struct Token(Digest);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// From text: visible ASCII of [`TOKEN_BYTES_MIN`] to [`TOKEN_BYTES_MAX`] characters.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let length = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&text.len());
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        (length && visible).then(|| Self(digest(&SHA256, text.as_bytes())))
    }

    /// From a file that holds nothing but the token and white space round it.
    pub(super) fn load(path: &Path) -> Result<Self, FileError> {
        let key = "status.token_file";
        let text = read_pem(key, path)?;
        Self::new(text.trim()).ok_or_else(|| FileError::Unusable {
            key,
            path: path.to_owned(),
            why: format!(
                "a token is one word of at least {TOKEN_BYTES_MIN} characters and at most \
                 {TOKEN_BYTES_MAX}; `openssl rand -hex 32` writes one"
            ),
        })
    }

    /// Whether a request's `Authorization` shows it: as a bearer token (RFC 6750 section 2.1), or,
    /// for browsers, as the password of any user (RFC 7617).
    #[must_use]
    pub fn admits(&self, authorization: Option<&HeaderValue>) -> bool {
        let Some((scheme, credentials)) = authorization
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split_once(' '))
        else {
            return false;
        };
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(credentials.as_bytes());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let Ok(pair) = STANDARD.decode(credentials) else { return false };
        let mut parts = pair.splitn(2, |&byte| byte == b':');
        parts.nth(1).is_some_and(|password| self.is(password))
    }

    fn is(&self, shown: &[u8]) -> bool {
        verify_slices_are_equal(self.0.as_ref(), digest(&SHA256, shown).as_ref()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef";

    fn admits(header: &str) -> bool {
        Token::new(GOOD).unwrap().admits(Some(&HeaderValue::from_str(header).unwrap()))
    }

    #[test]
    fn a_token_is_shown_as_bearer_or_as_a_password() {
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        assert!(admits(&format!("Bearer {GOOD}")));
        assert!(admits(&format!("bearer   {GOOD} ")));
        assert!(admits(&basic(&format!("anybody:{GOOD}"))));
        assert!(admits(&basic(&format!(":{GOOD}"))));
        for wrong in [
            String::new(),
            GOOD.to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Bearer {GOOD}0"),
            format!("Bearer {}", &GOOD[1..]),
            format!("Digest {GOOD}"),
            basic(GOOD),
            basic(&format!("{GOOD}:")),
            basic(&format!("a:b:{GOOD}")),
            "Basic !!!".to_owned(),
        ] {
            assert!(!admits(&wrong), "{wrong}");
        }
        assert!(!Token::new(GOOD).unwrap().admits(None));
    }

    #[test]
    fn limits() {
        assert!(Token::new(&"x".repeat(TOKEN_BYTES_MIN - 1)).is_none());
        assert!(Token::new(&"x".repeat(TOKEN_BYTES_MIN)).is_some());
        assert!(Token::new(&"x".repeat(TOKEN_BYTES_MAX)).is_some());
        assert!(Token::new(&"x".repeat(TOKEN_BYTES_MAX + 1)).is_none());
        assert!(Token::new("0123456789 abcdef").is_none());
        assert!(Token::new("0123456789abcdé").is_none());
    }
}
