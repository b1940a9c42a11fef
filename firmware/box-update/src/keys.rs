//! Whose signature a system takes: minisign's keys and signatures, of which any person with the program
//! `minisign` can say the same.

use minisign_verify::{Error, PublicKey, Signature};

/// Longest signature, in bytes; minisign writes some 300, and its comments may be longer.
pub const SIGNATURE_BYTES_MAX: u64 = 1024;

/// The two public keys of a release build, each as in the second line of minisign's `.pub`, with a comma
/// between them. A build without it is a development build.
const RELEASE_KEYS: Option<&str> = option_env!("AVR_UPDATE_KEYS");

/// Keys whose secret halves lie open in `image/keys/dev`.
const DEVELOPMENT_KEYS: &str = "RWRSDbIUG/p5LvsMYaJm4xJQWPDAPmvsJiSDoEFkIw1qGRVCAgkGuSd6,\
                                RWQBBAJuvyAHtUc0UcWLUhWD9H75Ce4/MZn8iv2UwfZmweT9JZIimkpP";

/// The two keys that a system takes updates of; either signs, so that the other can be replaced when one
/// is lost or no longer secret.
#[derive(Debug, Clone)]
pub struct Keys {
    keys: [PublicKey; 2],
    /// Known by sight, so that a refusal can say what it is.
    development: [PublicKey; 2],
}

/// The keys that were given to the build cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "AVR_UPDATE_KEYS {0}: build again with two public keys of minisign, with a comma between them"
)]
pub struct KeysError(&'static str);

/// A signature that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is none.
    #[error(
        "the signature is none of minisign ({0}): fetch it again, and if it stays so, \
         have it signed again"
    )]
    Unreadable(String),
    /// It is of the older kind, without the digest in between.
    #[error("the signature is of minisign's older kind: have it signed by minisign 0.11 or later")]
    Legacy,
    /// Some other key made it.
    #[error(
        "it is signed with a key that this system does not know: take one that was made for this \
         product"
    )]
    UnknownKey,
    /// A key made it that everybody has.
    #[error("it is signed with a development key, which a release does not take: take a release")]
    DevelopmentKey,
    /// A known key's name, and not its signature.
    #[error("this is not what was signed: fetch it again")]
    Wrong,
}

impl Keys {
    /// Those that were built in.
    ///
    /// # Errors
    /// What was given to the build were not two different keys, or development keys.
    pub fn built_in() -> Result<Self, KeysError> {
        Self::given(RELEASE_KEYS)
    }

    /// Whether this is a development build.
    #[must_use]
    pub fn is_development_build() -> bool {
        RELEASE_KEYS.is_none()
    }

    /// Of a build that was given this text, or none.
    pub(crate) fn given(release: Option<&str>) -> Result<Self, KeysError> {
        let development = pair(DEVELOPMENT_KEYS)?;
        let keys = release.map_or_else(|| Ok(development.clone()), pair)?;
        if release.is_some() && keys.iter().any(|key| development.contains(key)) {
            return Err(KeysError("has a development key"));
        }
        Ok(Self { keys, development })
    }

    /// Whether one of the keys signed these bytes.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, bytes: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let unreadable = |what: &str| SignatureError::Unreadable(what.to_owned());
        let text = str::from_utf8(signature).map_err(|_| unreadable("it is no text"))?;
        let signature = Signature::decode(text).map_err(|error| unreadable(&error.to_string()))?;
        let by = |key: &PublicKey| key.verify(bytes, &signature, false);
        for key in &self.keys {
            match by(key) {
                Ok(()) => return Ok(()),
                Err(Error::UnexpectedKeyId) => {}
                Err(Error::UnexpectedAlgorithm | Error::UnsupportedLegacyMode) => {
                    return Err(SignatureError::Legacy);
                }
                Err(_) => return Err(SignatureError::Wrong),
            }
        }
        let is_development = self.development.iter().any(|key| by(key).is_ok());
        Err(if is_development {
            SignatureError::DevelopmentKey
        } else {
            SignatureError::UnknownKey
        })
    }
}

fn pair(text: &str) -> Result<[PublicKey; 2], KeysError> {
    let (one, other) = text.split_once(',').ok_or(KeysError("is not two keys"))?;
    let key = |text: &str| {
        PublicKey::from_base64(text.trim()).map_err(|_| KeysError("has something that is no key"))
    };
    let keys = [key(one)?, key(other)?];
    if keys[0] == keys[1] {
        return Err(KeysError("has the same key twice"));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = include_bytes!("../tests/data/hello.minisig");
    // Of the documentation of minisign-verify: nobody here has its secret half.
    const OTHERS: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn the_built_in_keys_are_two() {
        Keys::built_in().unwrap();
    }

    #[test]
    fn the_development_keys_are_those_of_the_folder() {
        for (file, key) in [
            (include_str!("../../../image/keys/dev/dev-1.pub"), 0),
            (include_str!("../../../image/keys/dev/dev-2.pub"), 1),
        ] {
            let key = DEVELOPMENT_KEYS.split(',').nth(key).unwrap();
            assert_eq!(file.lines().nth(1), Some(key));
        }
    }

    #[test]
    fn either_key_signs_and_in_a_release_neither() {
        let keys = Keys::given(None).unwrap();
        assert_eq!(keys.verify(b"hello", SIGNATURE), Ok(()));
        assert_eq!(keys.verify(b"hell", SIGNATURE), Err(SignatureError::Wrong));
        let (_, second) = DEVELOPMENT_KEYS.split_once(',').unwrap();
        for pair in [format!("{OTHERS},{second}"), format!("{second} , {OTHERS}")] {
            let error = Keys::given(Some(&pair)).unwrap_err().to_string();
            assert!(error.contains("has a development key"), "{error}");
        }
    }

    #[test]
    fn a_development_key_is_told_from_an_unknown_one() {
        let mut keys = Keys::given(None).unwrap();
        let other = PublicKey::from_base64(OTHERS).unwrap();
        keys.keys = [other.clone(), other.clone()];
        assert_eq!(keys.verify(b"hello", SIGNATURE), Err(SignatureError::DevelopmentKey));
        keys.development = [other.clone(), other];
        assert_eq!(keys.verify(b"hello", SIGNATURE), Err(SignatureError::UnknownKey));
    }

    #[test]
    fn what_is_no_pair_of_keys_is_refused() {
        for (text, told) in [
            (OTHERS.to_owned(), "is not two keys"),
            (format!("{OTHERS},{OTHERS}"), "same key twice"),
            (format!("{OTHERS},x"), "no key"),
        ] {
            let error = Keys::given(Some(&text)).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let keys = Keys::given(None).unwrap();
        for bytes in [&b""[..], b"\xff", b"a\nb\nc\nd\n"] {
            let error = keys.verify(b"hello", bytes).unwrap_err();
            assert!(matches!(error, SignatureError::Unreadable(_)), "{error}");
        }
    }
}
