//! The partition table: `layout.toml`, checked.

use std::path::Path;

use board::Slots;
use config::{ConfigError, Document};
use serde::de::{Deserialize, Deserializer, Error as _, Unexpected};
use uuid::Uuid;

/// In bytes.
pub const MIB: u64 = 1024 * 1024;
/// Before the first partition and behind the last, for the two tables; in MiB.
const TABLE_MIB: u64 = 1;
/// Largest disk that is made, in MiB: what does not fit a small flash disk fits no box.
const DISK_MIB_MAX: u64 = 3_500;

/// Where everything is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The disk's own GUID.
    pub disk_guid: Uuid,
    /// In their order on the disk, and of their numbers.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name in the table.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Where it begins, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// Its GUID, and its file system's.
    pub guid: Uuid,
}

/// What a partition is for, by the type in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Firmware starts the boot loader from it. FAT.
    Esp,
    /// The boot loader finds systems on it. FAT.
    Xbootldr,
    /// Ours. ext4.
    Linux,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    disk_guid: Guid,
    xbootldr: Vec<Entry>,
    esp: Vec<Entry>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    kind: Kind,
    #[serde(deserialize_with = "config::within::<_, 8, DISK_MIB_MAX>")]
    mib: u64,
    #[serde(default)]
    gap_mib: u64,
    guid: Guid,
}

struct Guid(Uuid);

impl<'de> Deserialize<'de> for Guid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Uuid::try_parse(&text).map(Self).map_err(|_| {
            D::Error::invalid_value(Unexpected::Str(&text), &"a GUID, as `uuidgen` prints it")
        })
    }
}

impl Layout {
    /// Reads the layout for boards whose systems are there.
    ///
    /// # Errors
    /// The file is not there or not right.
    pub fn load(path: &Path, slots: Slots) -> Result<Self, ConfigError> {
        Self::of(&Document::load(path)?, slots)
    }

    fn of(document: &Document, slots: Slots) -> Result<Self, ConfigError> {
        let file: File = document.parse()?;
        let (table, entries, needed): (_, _, &[&str]) = match slots {
            Slots::Xbootldr => ("xbootldr", file.xbootldr, &["ESP", "SLOTS", "STATE", "DATA"]),
            Slots::Esp => ("esp", file.esp, &["ESP", "STATE", "DATA"]),
        };
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        if names != needed {
            return Err(document.invalid(
                table,
                format!("[[{table}]]: has {}", names.join(", ")),
                format!(
                    "write {} instead, in this order: programs look for them",
                    needed.join(", ")
                ),
            ));
        }
        let mut at_mib = TABLE_MIB;
        let mut partitions: Vec<Partition> = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let key = format!("{table}[{index}]");
            let guid = entry.guid.0;
            if guid == file.disk_guid.0 || partitions.iter().any(|other| other.guid == guid) {
                return Err(document.invalid(
                    &format!("{key}.guid"),
                    format!("`guid`: {guid} stands twice in the file's table"),
                    "write another, as `uuidgen` prints it",
                ));
            }
            let (start, bytes) = (at_mib * MIB, entry.mib * MIB);
            partitions.push(Partition { name: entry.name, kind: entry.kind, start, bytes, guid });
            at_mib = at_mib.saturating_add(entry.mib).saturating_add(entry.gap_mib);
            if at_mib > DISK_MIB_MAX {
                return Err(document.invalid(
                    &key,
                    format!("[[{table}]]: ends at {at_mib} MiB"),
                    format!("write less: a disk has {DISK_MIB_MAX} MiB"),
                ));
            }
        }
        Ok(Self { disk_guid: file.disk_guid.0, partitions })
    }

    /// The disk's size, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let end = self.partitions.last().map_or(0, |last| last.start + last.bytes);
        end + TABLE_MIB * MIB
    }

    /// The partition of that name, which [`Self::load`] has seen.
    #[must_use]
    pub fn partition(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.name == name)
    }
}

impl Partition {
    /// The FAT volume's number: the first digits of the GUID.
    #[must_use]
    pub fn volume_id(&self) -> u32 {
        self.guid.as_fields().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("layout.toml");
        std::fs::read_to_string(path).unwrap()
    }

    fn complaint(text: String) -> String {
        Layout::of(&Document::from_text("layout.toml", text), Slots::Xbootldr)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_drawing_in_the_file_is_what_comes_of_it() {
        let document = Document::from_text("layout.toml", text());
        let layout = Layout::of(&document, Slots::Xbootldr).unwrap();
        let starts: Vec<_> =
            layout.partitions.iter().map(|it| (it.name.as_str(), it.start / MIB)).collect();
        assert_eq!(starts, [("ESP", 1), ("SLOTS", 193), ("STATE", 577), ("DATA", 641)]);
        assert_eq!(layout.bytes() / MIB, 898);
        let other = Layout::of(&document, Slots::Esp).unwrap();
        assert_eq!(other.bytes(), layout.bytes());
        assert!(other.partition("SLOTS").is_none());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let (other, esp) =
            ("83b1a7c4-02d5-4f38-9a67-1c4e8b9f3d02", "6f0f8f2b-9b3e-4d6a-8c1e-5a1f2c0d7e01");
        let line = 1 + text().lines().position(|line| line.contains(other)).unwrap();
        let twice = complaint(text().replacen(other, esp, 1));
        assert!(twice.starts_with(&format!("layout.toml:{line}: `guid`: {esp} stands")), "{twice}");
        let named = text().replacen("\"SLOTS\"", "\"BOOT\"", 1);
        assert!(
            complaint(named).contains("[[xbootldr]]: has ESP, BOOT, STATE, DATA; write ESP, SLOTS")
        );
        let huge = text().replacen("mib = 384", "mib = 3400", 1);
        let huge = complaint(huge);
        assert!(huge.contains("[[xbootldr]]: ends at 3593 MiB"), "{huge}");
        let guid = complaint(text().replacen("6f0f8f2b-9b3e-4d6a-8c1e-5a1f2c0d7e00", "x", 1));
        assert!(guid.contains("write a GUID, as `uuidgen` prints it instead"), "{guid}");
    }
}
