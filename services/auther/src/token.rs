//! Tokens for the HTTP API: `avr.NAME.SECRET`. The registry has only the hash of the secret, which is
//! 256 random bits: there is nothing to guess, so a plain hash does. No IO but the system's randomness.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;

use crate::registry::{Actor, Scope, Token};

/// Longest name of a token, in bytes: lower-case letters, digits and inner hyphens.
pub const TOKEN_NAME_BYTES_MAX: usize = 32;
/// Longest life of a token that ends, in days.
pub const TOKEN_DAYS_MAX: u32 = 3650;
/// Random bytes in a secret.
const SECRET_BYTES: usize = 32;
const PREFIX: &str = "avr.";
const DAY_S: u64 = 24 * 3600;

/// A whole token, shown once, to whoever made it. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretToken(String);

impl SecretToken {
    /// The token itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretToken(..)")
    }
}

/// A new token, good for `days` days from `now_s` (seconds since 1970), or without end.
///
/// # Errors
/// In words: a bad name or number of days, or no randomness.
pub fn make(
    name: &str,
    scope: Scope,
    days: Option<u32>,
    now_s: u64,
    actor: &Actor,
) -> Result<(Token, SecretToken), String> {
    check_name(name)?;
    if days.is_some_and(|days| !(1..=TOKEN_DAYS_MAX).contains(&days)) {
        return Err(format!("a token ends after 1 to {TOKEN_DAYS_MAX} days"));
    }
    let mut secret = [0; SECRET_BYTES];
    rand::fill(&mut secret).map_err(|_| "this host has no random numbers".to_owned())?;
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = Token {
        name: name.to_owned(),
        hash: hash(&secret),
        scope,
        created_s: now_s,
        created_by: actor.name().to_owned(),
        expires_s: days.map(|days| now_s.saturating_add(u64::from(days) * DAY_S)),
    };
    Ok((token, SecretToken(format!("{PREFIX}{name}.{secret}"))))
}

/// Names go into the audit log and into paths.
///
/// # Errors
/// In words, for whoever wrote it.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = (1..=TOKEN_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        Ok(())
    } else {
        Err(format!(
            "a token's name is 1 to {TOKEN_NAME_BYTES_MAX} lower-case letters, digits and inner hyphens"
        ))
    }
}

/// Name and secret in a token, as somebody shows it.
#[must_use]
pub fn split(text: &str) -> Option<(&str, &str)> {
    let (name, secret) = text.strip_prefix(PREFIX)?.split_once('.')?;
    (check_name(name).is_ok() && secret.len() == 2 * SECRET_BYTES).then_some((name, secret))
}

/// Whether `secret` is that of `token`, at `now_s` (seconds since 1970).
#[must_use]
pub fn admits(token: &Token, secret: &str, now_s: u64) -> bool {
    let is_right = verify_slices_are_equal(&hash(secret), &token.hash).is_ok();
    is_right && token.expires_s.is_none_or(|expires_s| now_s < expires_s)
}

fn hash(secret: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    // SHA-256 has 32 bytes; `zip` copies them without a way to panic.
    for (to, from) in hash.iter_mut().zip(digest(&SHA256, secret.as_bytes()).as_ref()) {
        *to = *from;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    #[test]
    fn a_token_admits_until_it_ends_and_no_other_does() {
        let actor = Actor::token("x");
        let (token, secret) = make("ops-1", Scope::Read, Some(1), NOW_S, &actor).unwrap();
        let (name, shown) = split(secret.expose()).unwrap();
        assert_eq!((name, token.created_by.as_str()), ("ops-1", "token:x"));
        assert!(admits(&token, shown, NOW_S + DAY_S - 1));
        assert!(!admits(&token, shown, NOW_S + DAY_S));
        let (_, other) = make("ops-1", Scope::Read, Some(1), NOW_S, &actor).unwrap();
        assert_ne!(other, secret);
        assert!(!admits(&token, split(other.expose()).unwrap().1, NOW_S));
        assert!(!format!("{secret:?}{token:?}").contains(shown));
        let (endless, secret) = make("x", Scope::Write, None, NOW_S, &actor).unwrap();
        assert!(admits(&endless, split(secret.expose()).unwrap().1, u64::MAX));
    }

    #[test]
    fn what_is_no_token_is_not_looked_up() {
        let secret = "0".repeat(64);
        for bad in [
            String::new(),
            "avr.".to_owned(),
            format!("avr..{secret}"),
            format!("avr.x.{secret}0"),
            format!("AVR.x.{secret}"),
            format!("avr.x' OR '1'='1.{secret}"),
            format!("avr.{}.{secret}", "x".repeat(TOKEN_NAME_BYTES_MAX + 1)),
        ] {
            assert_eq!(split(&bad), None, "{bad}");
        }
        assert!(split(&format!("avr.x.{secret}")).is_some());
    }

    #[test]
    fn names_and_days_have_limits() {
        let actor = Actor::token("x");
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "a\r\nb"] {
            assert!(make(bad, Scope::Read, None, NOW_S, &actor).is_err(), "{bad:?}");
        }
        for days in [0, TOKEN_DAYS_MAX + 1] {
            assert!(make("a", Scope::Read, Some(days), NOW_S, &actor).is_err());
        }
    }
}
