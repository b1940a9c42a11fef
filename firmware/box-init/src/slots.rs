//! Names of slots, and the counters in them (Boot Loader Specification, "Boot counting"):
//! `avr_000012.efi` is good, `avr_000012+2-1.efi` has two starts left and one behind it,
//! `avr_000012+0-3.efi` has failed.

use std::fmt;

pub use box_update::slots::FOLDER;
use box_update::slots::Rename;

/// A slot's file name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    base: &'a str,
    /// Starts left, and starts done; `None` for one that is blessed.
    counters: Option<(u32, u32)>,
}

impl<'a> Name<'a> {
    /// Takes a file name apart; `None` if it is no slot's.
    #[must_use]
    pub fn parse(file: &'a str) -> Option<Self> {
        let stem = file.strip_suffix(".efi").filter(|stem| !stem.is_empty())?;
        let Some((base, counters)) = stem.rsplit_once('+') else {
            return Some(Self { base: stem, counters: None });
        };
        let (left, done) = counters.split_once('-').unwrap_or((counters, "0"));
        match (number(left), number(done)) {
            (Some(left), Some(done)) if !base.is_empty() => {
                Some(Self { base, counters: Some((left, done)) })
            }
            // As the loader has it: a plus sign that is no counter belongs to the name.
            _ => Some(Self { base: stem, counters: None }),
        }
    }

    /// Without counters and ending.
    #[must_use]
    pub fn base(&self) -> &'a str {
        self.base
    }

    /// Starts left; `None` for one that is blessed.
    #[must_use]
    pub fn starts_left(&self) -> Option<u32> {
        self.counters.map(|(left, _)| left)
    }

    /// It has been tried often enough in vain.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.starts_left() == Some(0)
    }

    /// The name of the same slot when it is good.
    #[must_use]
    pub fn blessed(&self) -> String {
        Self { counters: None, ..*self }.to_string()
    }

    /// The name of the same slot when it is bad.
    #[must_use]
    pub fn bad(&self) -> String {
        let done = self.counters.map_or(1, |(left, done)| (left.saturating_add(done)).clamp(1, 9));
        Self { counters: Some((0, done)), ..*self }.to_string()
    }

    /// Its build number: the digits behind the last underscore.
    #[must_use]
    pub fn build(&self) -> Option<u32> {
        self.base.rsplit_once('_').and_then(|(_, digits)| number(digits))
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.counters {
            Some((left, done)) => write!(f, "{}+{left}-{done}.efi", self.base),
            None => write!(f, "{}.efi", self.base),
        }
    }
}

fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// How to bless the slot `running` among these files; `Ok(None)` where it is blessed.
///
/// # Errors
/// Why it cannot be.
pub fn bless(files: &[String], running: &str) -> Result<Option<Rename>, String> {
    let wanted = Name::parse(running).ok_or_else(|| format!("{running} is no slot's name"))?;
    let same = parsed(files).filter(|(_, name)| name.base == wanted.base);
    let (counted, plain): (Vec<_>, Vec<_>) = same.partition(|(_, name)| name.counters.is_some());
    match (counted.as_slice(), plain.len()) {
        ([], 1) => Ok(None),
        ([], _) => Err(format!("there is no file of the slot {}", wanted.base)),
        ([(file, name)], 0) => Ok(Some(Rename { from: (*file).to_owned(), to: name.blessed() })),
        // Which of them runs is not certain, and the loader would see both.
        _ => Err(format!("there are several files of the slot {}", wanted.base)),
    }
}

/// How to mark the slot `running` bad, so that another good one has its turn; `None` where there is no
/// other good one, since a bad slot is better than none.
#[must_use]
pub fn condemn(files: &[String], running: &str) -> Option<Rename> {
    let wanted = Name::parse(running)?;
    let has_other = parsed(files).any(|(_, name)| {
        name.base != wanted.base && name.counters.is_none() && name.build().is_some()
    });
    let (file, own) = parsed(files).find(|(_, name)| name.base == wanted.base && !name.is_bad())?;
    let to = own.bad();
    (has_other && !files.contains(&to)).then(|| Rename { from: file.to_owned(), to })
}

/// How to count a start of the slot `running`, where the loader cannot: one less is left. `None` for one
/// that is blessed or has none left.
#[must_use]
pub fn count(files: &[String], running: &str) -> Option<Rename> {
    let wanted = Name::parse(running)?;
    let (file, own) = parsed(files).find(|(_, name)| name.base == wanted.base)?;
    let (left, done) = own.counters.filter(|&(left, _)| left > 0)?;
    let to = Name { counters: Some((left - 1, done.saturating_add(1).min(9))), ..own }.to_string();
    (!files.contains(&to)).then(|| Rename { from: file.to_owned(), to })
}

/// Slots that were tried in vain, without their counters.
pub fn failed(files: &[String]) -> impl Iterator<Item = &str> {
    parsed(files).filter(|(_, name)| name.is_bad()).map(|(_, name)| name.base)
}

fn parsed(files: &[String]) -> impl Iterator<Item = (&str, Name<'_>)> {
    files.iter().filter_map(|file| Some((file.as_str(), Name::parse(file)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn names_are_taken_apart() {
        let parse = |file| Name::parse(file).map(|name| (name.base, name.counters));
        assert_eq!(parse("avr_000012.efi"), Some(("avr_000012", None)));
        assert_eq!(parse("avr_000012+2-1.efi"), Some(("avr_000012", Some((2, 1)))));
        assert_eq!(parse("avr_000012+3.efi"), Some(("avr_000012", Some((3, 0)))));
        assert_eq!(parse("avr+x.efi"), Some(("avr+x", None)));
        assert_eq!(parse("avr++1.efi"), Some(("avr+", Some((1, 0)))));
        assert_eq!(parse("+1.efi"), Some(("+1", None)));
        assert_eq!(parse(".efi"), None);
        assert_eq!(parse("avr"), None);
        assert_eq!(Name::parse("avr_000012+2-1.efi").unwrap().build(), Some(12));
    }

    #[test]
    fn blessing_takes_the_counters_off() {
        // What the loader said was before it counted this start.
        let now = files(&["avr_000001.efi", "avr_000002+2-1.efi"]);
        let rename = bless(&now, "avr_000002+3-0.efi").unwrap().unwrap();
        assert_eq!(
            (rename.from.as_str(), rename.to.as_str()),
            ("avr_000002+2-1.efi", "avr_000002.efi")
        );
        assert_eq!(bless(&now, "avr_000001.efi"), Ok(None));
        assert!(bless(&now, "avr_000003.efi").is_err());
        assert!(bless(&files(&["a+1.efi", "a.efi"]), "a.efi").is_err());
        assert!(bless(&files(&["a+1.efi", "a+0-1.efi"]), "a.efi").is_err());
    }

    #[test]
    fn a_slot_is_bad_only_beside_a_good_one() {
        let two = files(&["avr_000001.efi", "avr_000002.efi"]);
        let rename = condemn(&two, "avr_000002.efi").unwrap();
        assert_eq!(rename.to, "avr_000002+0-1.efi");
        assert_eq!(condemn(&files(&["avr_000002.efi"]), "avr_000002.efi"), None);
        let trial = files(&["avr_000001+3-0.efi", "avr_000002.efi"]);
        assert_eq!(condemn(&trial, "avr_000002.efi"), None);
        let bad = files(&["avr_000001.efi", "avr_000002+0-3.efi"]);
        assert_eq!(condemn(&bad, "avr_000002+0-3.efi"), None);
        assert_eq!(failed(&bad).collect::<Vec<_>>(), ["avr_000002"]);
    }

    #[test]
    fn starts_are_counted() {
        let to = |file: &str| count(&files(&[file]), file).map(|rename| rename.to);
        assert_eq!(to("avr_000002+3-0.efi").as_deref(), Some("avr_000002+2-1.efi"));
        assert_eq!(to("avr_000002+1-2.efi").as_deref(), Some("avr_000002+0-3.efi"));
        assert_eq!(to("avr_000002+0-3.efi"), None);
        assert_eq!(to("avr_000002.efi"), None);
    }

    proptest! {
        #[test]
        fn names_survive_being_taken_apart(base in "[a-z_]{1,8}[0-9]{0,6}", counters in
            proptest::option::of((0_u32..10, 0_u32..10)))
        {
            let text = Name { base: &base, counters }.to_string();
            prop_assert_eq!(Name::parse(&text), Some(Name { base: &base, counters }));
        }

        #[test]
        fn whatever_is_renamed_is_there_and_its_new_name_is_not(
            names in proptest::collection::hash_set("(a|b|zz)_[12](\\+[0-3](-[0-3])?)?\\.efi", 0..6),
            running in "(a|b)_[12](\\+[0-3]-[0-3])?\\.efi",
        ) {
            let files: Vec<String> = names.into_iter().collect();
            let blessing = bless(&files, &running).ok().flatten();
            let renames = [blessing, condemn(&files, &running), count(&files, &running)];
            for rename in renames.into_iter().flatten() {
                prop_assert!(files.contains(&rename.from));
                prop_assert!(!files.contains(&rename.to));
            }
        }

        #[test]
        fn no_name_panics(file in any::<String>()) {
            if let Some(name) = Name::parse(&file) {
                let _ = (name.blessed(), name.bad(), name.build());
            }
        }
    }
}
