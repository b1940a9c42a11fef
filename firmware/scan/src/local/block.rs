//! Refuses files by extension and by type, whatever they are called.
//!
//! A name counts as a mail program and its system would read it: Windows drops dots and blanks at the end
//! and opens `name.exe:stream`, C ends at a NUL, nobody sees a character that turns the direction of
//! text. Where readings differ, all count. Types are told by content ([`kind`](super::kind)).

use serde::{Deserialize, Serialize};

use super::kind::{KINDS, KindSet, kinds};
use crate::FINDING_NAME_BYTES_MAX;
use crate::engine::printable;

/// Most rules.
pub const RULES_MAX: usize = 1_000;

/// Longest extension, bytes, its dot included.
pub const EXTENSION_BYTES_MAX: usize = 64;

/// What is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockRules {
    /// Folded, with their dot.
    extensions: Vec<String>,
    kinds: KindSet,
}

/// A rule that is none; the operator's fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockRuleError {
    /// Neither an extension nor a type.
    #[error(
        "`{0}` is no type of file: write an extension with its dot, as in \".exe\", or one of {known}",
        known = known_words()
    )]
    UnknownType(String),
    /// A dot with nothing behind it, or with what no file name has.
    #[error(
        "`{0}` is no extension: write a dot and what follows it in names, as in \".exe\" or \".tar.gz\""
    )]
    Extension(String),
    /// More than [`RULES_MAX`].
    #[error("there are more than {RULES_MAX} rules: leave some out")]
    TooMany,
}

fn known_words() -> String {
    let words: Vec<String> = KINDS.iter().map(|(_, word)| format!("\"{word}\"")).collect();
    words.join(", ")
}

impl BlockRules {
    /// Reads rules: an extension has a dot before it (`.exe`, `.tar.gz`), a type has none (`pe`).
    ///
    /// # Errors
    ///
    /// The first that is neither; the text says what to write.
    pub fn parse(entries: &[String]) -> Result<Self, BlockRuleError> {
        if entries.len() > RULES_MAX {
            return Err(BlockRuleError::TooMany);
        }
        let mut rules = Self::default();
        for entry in entries {
            let shown = || printable(entry, EXTENSION_BYTES_MAX);
            if entry.starts_with('.') {
                let extension = fold(entry);
                let is_one = extension.len() > 1
                    && extension == entry.to_lowercase()
                    && entry.len() <= EXTENSION_BYTES_MAX
                    && !extension.ends_with(['.', ' '])
                    && !extension.contains(['/', '\\', ':']);
                if !is_one {
                    return Err(BlockRuleError::Extension(shown()));
                }
                rules.extensions.push(extension);
            } else {
                let known = KINDS.iter().find(|(_, word)| entry.eq_ignore_ascii_case(word));
                let (kind, _) = known.ok_or_else(|| BlockRuleError::UnknownType(shown()))?;
                rules.kinds.insert(*kind);
            }
        }
        Ok(rules)
    }

    /// Nothing is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extensions.is_empty() && self.kinds.is_empty()
    }

    /// Why a file with these names and this content is refused: `Blocked.Extension.exe` or
    /// `Blocked.Type.pe`.
    #[must_use]
    pub fn check(&self, names: &[String], bytes: &[u8]) -> Option<String> {
        self.check_kinds(names, || kinds(bytes))
    }

    /// [`Self::check`] for content whose kinds are told when they matter.
    pub(super) fn check_kinds(
        &self,
        names: &[String],
        kinds: impl FnOnce() -> KindSet,
    ) -> Option<String> {
        let reason = match names.iter().find_map(|name| self.extension_of(name)) {
            Some(extension) => format!("Blocked.Extension{extension}"),
            None if self.kinds.is_empty() => return None,
            None => format!("Blocked.Type.{}", kinds().and(self.kinds).words().next()?),
        };
        Some(printable(&reason, FINDING_NAME_BYTES_MAX))
    }

    /// The rule for a name.
    fn extension_of(&self, name: &str) -> Option<&str> {
        if self.extensions.is_empty() {
            return None;
        }
        let readings = readings(name);
        let rule = self
            .extensions
            .iter()
            .find(|extension| readings.iter().any(|name| name.ends_with(extension.as_str())))?;
        Some(rule)
    }
}

/// The names that a name can become: whole, up to a NUL, and around colons.
fn readings(name: &str) -> Vec<String> {
    let until_nul = name.split('\0').next().unwrap_or_default();
    let mut readings = Vec::new();
    for name in [name, until_nul] {
        let folded = fold(name);
        let last = folded.rsplit(['/', '\\']).find(|part| !stripped(part).is_empty());
        let last = last.unwrap_or_default();
        readings.push(stripped(last).to_owned());
        readings.extend(last.split(':').map(|part| stripped(part).to_owned()));
    }
    readings
}

/// Without what systems drop at the end of a name.
fn stripped(name: &str) -> &str {
    name.trim_end_matches(|c: char| c == '.' || c.is_whitespace() || matches!(c, '"' | '\''))
}

/// In small letters, without what nobody sees, and with full-width forms as the plain ones.
fn fold(name: &str) -> String {
    name.chars()
        .filter(|&c| !is_unseen(c))
        .map(|c| match c {
            // Japanese full stops, and one that looks like a dot.
            '\u{3002}' | '\u{ff61}' | '\u{2024}' => '.',
            '\u{3000}' => ' ',
            // The full-width forms of ASCII are in its order.
            '\u{ff01}'..='\u{ff5e}' => {
                u32::from(c).checked_sub(0xfee0).and_then(char::from_u32).unwrap_or(c)
            }
            c => c,
        })
        .flat_map(char::to_lowercase)
        .collect()
}

/// Controls, and what has no width or turns the direction of text.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(entries: &[&str]) -> Result<BlockRules, BlockRuleError> {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        BlockRules::parse(&entries)
    }

    fn check(rules: &BlockRules, name: &str) -> Option<String> {
        rules.check(&[name.to_owned()], b"hello")
    }

    #[test]
    fn names_count_as_systems_read_them() {
        let rules = rules(&[".EXE", ".tar.gz", ".さ"]).unwrap();
        for blocked in [
            "a.exe",
            "A.Exe",
            "a.exe.",
            "a.exe . .",
            "a.exe\t",
            "a.txt.exe",
            ".exe",
            "a.ex\0e",
            "a.exe\0.txt",
            "a.exe:stream",
            "a.exe::$DATA",
            "a.txt:b.exe",
            "a.txt\0.exe",
            "a．ｅｘｅ",
            "a。exe",
            "a\u{202e}txt.exe",
            "a.e\u{200b}xe",
            "a.exe\u{feff}",
            "C:\\x\\a.exe",
            "x/a.exe",
            "a.exe/",
            "a.exe\u{3000}",
            "\"a.exe\"",
            "a.txt                                                       .exe",
        ] {
            assert_eq!(
                check(&rules, blocked).as_deref(),
                Some("Blocked.Extension.exe"),
                "{blocked:?}"
            );
        }
        for fine in ["", "a", "exe", "a.exe.txt", "aexe", "a.exes", "x.exe/a.txt", "a.gz", "a. exe"]
        {
            assert_eq!(check(&rules, fine), None, "{fine:?}");
        }
        assert_eq!(check(&rules, "a.TAR.GZ").as_deref(), Some("Blocked.Extension.tar.gz"));
        assert_eq!(check(&rules, "a.さ").as_deref(), Some("Blocked.Extension.?"));
    }

    #[test]
    fn every_name_counts_and_so_does_the_content() {
        let rules = rules(&[".exe", "elf", "script"]).unwrap();
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let reason = rules.check(&names(&["a.txt", "b.exe"]), b"");
        assert_eq!(reason.as_deref(), Some("Blocked.Extension.exe"));
        assert_eq!(rules.check(&[], b"\x7fELF").as_deref(), Some("Blocked.Type.elf"));
        assert_eq!(rules.check(&names(&["a.txt"]), b"#!x").as_deref(), Some("Blocked.Type.script"));
        assert_eq!(rules.check(&names(&["a.txt"]), b"MZ"), None);
        assert!(!rules.is_empty());
        let none = BlockRules::parse(&[]).unwrap();
        assert!(none.is_empty());
        assert_eq!(none.check(&names(&["a.exe"]), b"\x7fELF"), None);
    }

    #[test]
    fn what_is_no_rule_is_said_and_what_to_write() {
        let error = rules(&["exe"]).unwrap_err().to_string();
        assert!(error.contains("`exe` is no type") && error.contains("\".exe\""), "{error}");
        for (_, word) in KINDS {
            assert!(error.contains(&format!("\"{word}\"")), "{word}");
            assert!(rules(&[word]).is_ok(), "{word}");
        }
        let long = format!(".{}", "x".repeat(EXTENSION_BYTES_MAX));
        for bad in [".", "..", ".exe.", ".e/x", ".e\\x", ".e:x", ".e\0xe", ".exe ", &long] {
            assert!(matches!(rules(&[bad]), Err(BlockRuleError::Extension(_))), "{bad:?}");
        }
        assert!(rules(&[long.trim_end_matches('x'), &long[..EXTENSION_BYTES_MAX]][1..]).is_ok());
        let many = vec![".a".to_owned(); RULES_MAX + 1];
        assert_eq!(BlockRules::parse(&many), Err(BlockRuleError::TooMany));
        assert!(BlockRules::parse(&many[1..]).is_ok());
    }

    proptest! {
        /// What nobody sees, and what systems drop, hides no extension.
        #[test]
        fn no_name_hides_its_extension(
            before in ".{0,20}", after in "[. \t\u{200b}\u{202e}\u{3000}]{0,5}", hidden in "[\u{ad}\u{feff}\u{7f}]{0,3}",
        ) {
            let name = format!("{before}.e{hidden}xe{after}");
            let reason = check(&rules(&[".exe"]).unwrap(), &name);
            prop_assert_eq!(reason.as_deref(), Some("Blocked.Extension.exe"));
        }
    }

    #[test]
    fn they_can_be_sent_to_another_process() {
        let rules = rules(&[".exe", "pe"]).unwrap();
        let sent = postcard::to_allocvec(&rules).unwrap();
        assert_eq!(postcard::from_bytes::<BlockRules>(&sent).unwrap(), rules);
    }
}
