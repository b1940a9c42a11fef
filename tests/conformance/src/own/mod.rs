//! Cases of our own: each class of attack as variants that the corpus does not have, made by
//! combining tricks, each with a clean twin of the same structure.
//!
//! The payload is the EICAR test file, put together at run time, so that no virus scanner takes the
//! source away.

pub mod archive;
pub mod hidden;
pub mod mime;
pub mod names;
pub mod pop3;
pub mod smtp;

use crate::case::{Case, Expect, Setup};

/// All mails and archives, in a fixed order.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = mime::cases();
    cases.extend(names::cases());
    cases.extend(archive::cases());
    cases.extend(hidden::cases());
    cases
}

/// The EICAR test file, 68 bytes.
#[must_use]
pub fn eicar() -> Vec<u8> {
    ["X5O!P%@AP[4\\PZX54(P^)7CC)7}$", "EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!", "$H+H*"]
        .concat()
        .into_bytes()
}

/// What a clean twin carries in its place, as long.
#[must_use]
pub fn harmless() -> Vec<u8> {
    b"A harmless line of text, as long as the other and of the same kind!!".to_vec()
}

/// How sound the structure of a case is, which decides what is expected of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Soundness {
    /// Valid, or so common that every client reads it.
    Sound,
    /// Invalid, or read in several ways.
    Broken,
    /// Cannot be scanned, by its nature.
    Closed,
}

impl Soundness {
    /// What is expected of a case with the payload.
    #[must_use]
    pub fn evil(self) -> Expect {
        match self {
            Self::Sound => Expect::Detect,
            Self::Broken => Expect::DetectOrRefuse,
            Self::Closed => Expect::NotClean,
        }
    }

    /// And of its clean twin.
    #[must_use]
    pub fn clean(self) -> Expect {
        match self {
            Self::Sound => Expect::Pass,
            Self::Broken | Self::Closed => Expect::PassOrRefuse,
        }
    }
}

/// A case and its clean twin.
fn twins(
    source: &str,
    name: &str,
    setup: Setup,
    soundness: Soundness,
    mail: impl Fn(&[u8]) -> Vec<u8>,
) -> [Case; 2] {
    let case = |twin: &str, payload: &[u8], expect: Expect| Case {
        source: source.to_owned(),
        name: format!("{source}/{name}.{twin}"),
        mail: mail(payload),
        expect,
        setup,
    };
    [case("evil", &eicar(), soundness.evil()), case("clean", &harmless(), soundness.clean())]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_are_many_cases_and_each_has_a_name_of_its_own() {
        let cases = cases();
        let names: HashSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(cases.len() >= 300, "{}", cases.len());
        assert_eq!(eicar().len(), 68);
        assert_eq!(harmless().len(), 68);
    }

    #[test]
    fn twins_differ() {
        for pair in cases().chunks(2) {
            let [evil, clean] = pair else { unreachable!("cases come in pairs") };
            assert_ne!(evil.mail, clean.mail, "{}", evil.name);
        }
    }
}
