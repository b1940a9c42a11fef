//! Settings and key files: any text gives what it should or an error that names the line.

use config::Document;
use session::settings::ScanSettings;
use site::dns::key::Key;

/// A file, and the key of an error in it.
pub(crate) fn document(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().count();
    let document = Document::from_text("fuzz.toml", text.clone());
    if let Err(error) = document.parse::<ScanSettings>() {
        assert!(!error.to_string().is_empty());
        assert!(error.place().line.is_none_or(|line| line <= lines + 1), "no such line");
    }
    let key = text.lines().next().unwrap_or_default();
    let error = document.invalid(key, "is wrong", "write something else");
    assert!(error.place().line.is_none_or(|line| line <= lines + 1), "no such line");
}

/// A TSIG key file of any form. Neither a key nor an error shows the longest word, where a secret
/// would be.
pub(crate) fn tsig_key(bytes: &[u8]) {
    const WORD_BYTES_MIN: usize = 24;
    let text = String::from_utf8_lossy(bytes);
    let shown = match Key::parse(&text, None) {
        Ok(key) => format!("{key:?}"),
        Err(error) => {
            assert!(error.line <= text.lines().count() + 1, "no such line");
            error.to_string()
        }
    };
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let secret =
        words.filter(|word| word.bytes().any(|b| b.is_ascii_digit())).max_by_key(|w| w.len());
    if let Some(secret) = secret.filter(|word| word.len() >= WORD_BYTES_MIN) {
        // The name of a key is no secret, however long.
        let is_name = Key::parse(&text, None)
            .is_ok_and(|key| key.name().to_ascii().contains(&secret.to_ascii_lowercase()));
        assert!(is_name || !shown.contains(secret), "a secret is shown");
    }
}
