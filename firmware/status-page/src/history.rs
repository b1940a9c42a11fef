//! The last day, minute by minute: a ring of records of fixed size in one file.
//!
//! Each minute has its place in the file, so that a minute costs one write of [`RECORD_BYTES`] and the
//! file never grows. A record that a power cut tore fails its checksum and counts as not there; a file
//! that is no such ring is begun anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Minutes that are kept.
pub(crate) const MINUTES: u32 = 24 * 60;
/// Bytes of a minute.
pub(crate) const RECORD_BYTES: usize = 64;
/// Counted things of a minute.
pub(crate) const COUNTS: usize = 10;

/// What was counted in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Minute {
    /// Minutes since 1970.
    pub(crate) at: u32,
    /// See [`Count`].
    pub(crate) counts: [u32; COUNTS],
    /// The gateway answered.
    pub(crate) answered: bool,
    /// New connections stayed on the bridge.
    pub(crate) snoozing: bool,
}

/// Places in [`Minute::counts`]: counters of the gateway, by their names in its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub(crate) enum Count {
    Mails,
    Infected,
    Unscannable,
    Unread,
    Scanned,
    Tls,
    UnreadSessions,
    Relay,
    Direct,
    Refused,
}

impl Count {
    /// In the order of their places in a record, which never changes.
    pub(crate) const ALL: [(Self, &'static str); COUNTS] = [
        (Self::Mails, "mails"),
        (Self::Infected, "mails_infected"),
        (Self::Unscannable, "mails_unscannable"),
        (Self::Unread, "mails_unread"),
        (Self::Scanned, "sessions_scanned"),
        (Self::Tls, "sessions_tls"),
        (Self::UnreadSessions, "sessions_unread"),
        (Self::Relay, "sessions_relay"),
        (Self::Direct, "sessions_direct"),
        (Self::Refused, "sessions_refused"),
    ];
}

impl Minute {
    /// How many of these there were.
    pub(crate) fn count(&self, count: Count) -> u64 {
        let at = Count::ALL.iter().position(|(one, _)| *one == count);
        at.and_then(|at| self.counts.get(at)).map_or(0, |&count| count.into())
    }

    fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(more);
        }
        self.answered |= other.answered;
        self.snoozing |= other.snoozing;
    }

    /// Little-endian: the minute, the counts, zeros, the flags, and the CRC-32 of all before.
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        bytes.extend(self.at.to_le_bytes());
        bytes.extend(self.counts.iter().flat_map(|count| count.to_le_bytes()));
        let flags = u32::from(self.answered) | u32::from(self.snoozing) << 1;
        bytes.resize(RECORD_BYTES - 8, 0);
        bytes.extend(flags.to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let mut record = [0; RECORD_BYTES];
        // Both have this length: nothing above is of another size.
        record.copy_from_slice(&bytes);
        record
    }

    fn decode(record: &[u8; RECORD_BYTES]) -> Option<Self> {
        let (words, _) = record.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let at = words.next()?;
        let mut minute = Self { at, ..Self::default() };
        for count in &mut minute.counts {
            *count = words.next()?;
        }
        let crc = words.next_back()?;
        let flags = words.next_back()?;
        (minute.answered, minute.snoozing) = (flags & 1 != 0, flags & 2 != 0);
        let body = record.get(..RECORD_BYTES - 4)?;
        (crc == crc32fast::hash(body)).then_some(minute)
    }

    fn place(&self) -> usize {
        usize::try_from(self.at % MINUTES).unwrap_or(0)
    }
}

/// The ring, in memory and in its file.
#[derive(Debug)]
pub(crate) struct History {
    minutes: Vec<Option<Minute>>,
    file: Option<File>,
}

impl History {
    /// In memory only.
    pub(crate) fn in_memory() -> Self {
        let places = usize::try_from(MINUTES).unwrap_or(0);
        Self { minutes: vec![None; places], file: None }
    }

    /// Reads a ring, or begins one.
    ///
    /// # Errors
    /// The file can be neither read nor made: the history is in memory then.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut history = Self::in_memory();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let size = u64::from(MINUTES) * RECORD_BYTES as u64;
        if file.metadata()?.len() == size {
            for place in &mut history.minutes {
                let mut record = [0; RECORD_BYTES];
                file.read_exact(&mut record)?;
                *place = Minute::decode(&record);
            }
        } else {
            // Begun anew, all of it zeros, which are no record.
            file.set_len(0)?;
            file.set_len(size)?;
        }
        history.file = Some(file);
        Ok(history)
    }

    /// Adds to a minute.
    ///
    /// # Errors
    /// The disk does not take it; it is in memory all the same.
    pub(crate) fn add(&mut self, minute: &Minute) -> io::Result<()> {
        let place = minute.place();
        let Some(slot) = self.minutes.get_mut(place) else { return Ok(()) };
        let kept = match slot {
            Some(kept) if kept.at == minute.at => {
                kept.add(minute);
                *kept
            }
            _ => *slot.insert(*minute),
        };
        let Some(file) = &self.file else { return Ok(()) };
        file.write_all_at(&kept.encode(), (place * RECORD_BYTES) as u64)
    }

    /// What is known of the day that ends with this minute, oldest first.
    pub(crate) fn day(&self, now: u32) -> Vec<Minute> {
        let first = (now + 1).saturating_sub(MINUTES);
        let mut day: Vec<Minute> = self
            .minutes
            .iter()
            .flatten()
            .filter(|m| (first..=now).contains(&m.at))
            .copied()
            .collect();
        day.sort_unstable_by_key(|minute| minute.at);
        day
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn minute(at: u32, mails: u32) -> Minute {
        let mut counts = [0; COUNTS];
        counts[0] = mails;
        Minute { at, counts, answered: true, snoozing: false }
    }

    #[test]
    fn a_day_outlives_a_restart_and_no_more_than_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page/day");
        let mut history = History::open(&path).unwrap();
        let start = 29_000_000;
        for at in start..start + MINUTES + 10 {
            history.add(&minute(at, 1)).unwrap();
        }
        history.add(&minute(start + MINUTES + 9, 2)).unwrap();
        drop(history);
        let history = History::open(&path).unwrap();
        let day = history.day(start + MINUTES + 9);
        assert_eq!(day.len(), 1440);
        assert_eq!((day[0].at, day[1439].count(Count::Mails)), (start + 10, 3));
        // Hours later, the rest is still there; before it all, nothing is.
        assert_eq!(history.day(start + MINUTES + 69).len(), 1380);
        assert!(history.day(start).is_empty());
        assert_eq!(fs::metadata(&path).unwrap().len(), 1440 * 64);
    }

    #[test]
    fn a_torn_record_is_one_minute_and_a_torn_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("day");
        let mut history = History::open(&path).unwrap();
        for at in 0..20 {
            history.add(&minute(at, 1)).unwrap();
        }
        drop(history);
        let mut bytes = fs::read(&path).unwrap();
        bytes[7 * RECORD_BYTES + 5] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let day = History::open(&path).unwrap().day(19);
        assert_eq!(day.len(), 19);
        assert!(day.iter().all(|minute| minute.at != 7));
        bytes.truncate(1000);
        fs::write(&path, &bytes).unwrap();
        let mut history = History::open(&path).unwrap();
        assert!(history.day(19).is_empty());
        history.add(&minute(19, 4)).unwrap();
        drop(history);
        assert_eq!(History::open(&path).unwrap().day(19), [minute(19, 4)]);
        // A folder stands in its place: there is a history all the same.
        assert!(History::open(folder.path()).is_err());
        let mut history = History::in_memory();
        history.add(&minute(3, 1)).unwrap();
        assert_eq!(history.day(3).len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            at: u32, counts in any::<[u32; COUNTS]>(), answered: bool, snoozing: bool, bit in 0_usize..512,
        ) {
            let minute = Minute { at, counts, answered, snoozing };
            let mut record = minute.encode();
            prop_assert_eq!(Minute::decode(&record), Some(minute));
            record[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Minute::decode(&record), None);
        }

        #[test]
        fn any_bytes_are_read(record in any::<[u8; RECORD_BYTES]>()) {
            let _ = Minute::decode(&record);
        }
    }
}
