//! Settings files: any text gives settings or an error that names file and line.

use config::Document;
use session::settings::ScanSettings;

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
