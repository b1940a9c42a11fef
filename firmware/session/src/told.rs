//! What a client was told of a message in its place, so that it is told the same whenever it fetches that
//! message again: with the same time, and the same copy in the quarantine.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use mail::Finding;
use spool::{SpoolError, Spooled};

/// Messages that are remembered, the latest ones. A client that fetches an older one is told of it anew.
pub const TOLD_MAX: usize = 1024;

/// Shared by all sessions of a program.
#[derive(Debug, Default)]
pub struct Told {
    /// Secret, so that nobody can make a message that is taken for another.
    keys: RandomState,
    latest: Mutex<VecDeque<(Key, Notice)>>,
}

/// A message: its size and hash.
pub(crate) type Key = (u64, u64);

/// What was said, and where its copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) finding: Finding,
    pub(crate) copy: Option<String>,
}

impl Told {
    /// Of a message. Reads all of it, which may be from a disk.
    pub(crate) fn key(&self, content: &Spooled) -> Result<Key, SpoolError> {
        let mut hasher = self.keys.build_hasher();
        for chunk in content.chunks() {
            hasher.write(&chunk?);
        }
        Ok((content.len(), hasher.finish()))
    }

    /// What was said of it, if that is what is to be said now.
    pub(crate) fn find(&self, key: Key, now: &Finding) -> Option<Notice> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, notice) = latest.iter().find(|(known, _)| *known == key)?;
        let then = &notice.finding;
        let is_same =
            (&then.name, &then.engine, &then.file_name) == (&now.name, &now.engine, &now.file_name);
        is_same.then(|| notice.clone())
    }

    /// Remembers what is said of it now.
    pub(crate) fn remember(&self, key: Key, notice: Notice) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.retain(|(known, _)| *known != key);
        if latest.len() == TOLD_MAX {
            latest.pop_front();
        }
        latest.push_back((key, notice));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn notice(name: &str, copy: &str) -> Notice {
        let finding = Finding { name: name.to_owned(), ..Finding::default() };
        Notice { finding, copy: Some(copy.to_owned()) }
    }

    #[test]
    fn a_message_is_known_by_its_content_and_what_was_found_in_it() {
        let told = Told::default();
        let key = |text: &'static str| told.key(&Bytes::from(text).into()).unwrap();
        told.remember(key("a mail"), notice("Evil", "1"));
        assert_eq!(
            told.find(key("a mail"), &notice("Evil", "").finding),
            Some(notice("Evil", "1"))
        );
        assert_eq!(told.find(key("a mail"), &notice("Worse", "").finding), None);
        assert_eq!(told.find(key("another"), &notice("Evil", "").finding), None);
        told.remember(key("a mail"), notice("Worse", "2"));
        assert_eq!(told.find(key("a mail"), &notice("Evil", "").finding), None);
    }

    #[test]
    fn the_oldest_is_forgotten_at_the_limit() {
        let told = Told::default();
        for number in 0..=TOLD_MAX as u64 {
            told.remember((number, number), notice("Evil", "1"));
        }
        let find = |number| told.find((number, number), &notice("Evil", "").finding);
        assert_eq!((find(0), find(1).is_some()), (None, true));
        assert_eq!(told.latest.lock().unwrap().len(), TOLD_MAX);
    }
}
