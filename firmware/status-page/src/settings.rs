//! The page's settings, of `config/page.toml` in STATE.

use std::path::Path;

use config::Document;
use serde::Deserialize;

/// The file as written. One that is not there is all defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// What everybody on the network sees. Default `"status"`.
    pub(crate) before_login: BeforeLogin,
}

/// What is shown before anybody has said the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BeforeLogin {
    /// Version and serial number.
    Short,
    /// The banner and the charts: numbers of mails, none of their addresses or subjects. The default.
    #[default]
    Status,
    /// Also the last mails and the quarantine's list.
    All,
}

impl Settings {
    /// Of a file that cannot be used, the most careful setting is taken; why comes with it.
    pub(crate) fn load(state: &Path) -> (Self, Option<String>) {
        let path = state.join("config/page.toml");
        if !path.exists() {
            return (Self::default(), None);
        }
        match Document::load(&path).and_then(|document| document.parse()) {
            Ok(settings) => (settings, None),
            Err(error) => {
                (Self { before_login: BeforeLogin::Short }, Some(telemetry::chain(&error)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_shows_least() {
        let state = tempfile::tempdir().unwrap();
        let load = || Settings::load(state.path());
        assert_eq!(load(), (Settings { before_login: BeforeLogin::Status }, None));
        std::fs::create_dir(state.path().join("config")).unwrap();
        let write =
            |text: &str| std::fs::write(state.path().join("config/page.toml"), text).unwrap();
        for (name, shown) in [
            ("short", BeforeLogin::Short),
            ("status", BeforeLogin::Status),
            ("all", BeforeLogin::All),
        ] {
            write(&format!("before_login = \"{name}\"\n"));
            assert_eq!(load(), (Settings { before_login: shown }, None));
        }
        for wrong in ["before_login = \"alll\"", "befor_login = \"all\"", "\u{1}"] {
            write(wrong);
            let (settings, problem) = load();
            assert_eq!(settings.before_login, BeforeLogin::Short);
            assert!(problem.unwrap().contains("page.toml"));
        }
    }
}
