//! Which disk is the box's own, and where STATE, DATA and the slots are on it.

use std::fmt;
use std::io::{Read, Seek};

/// Most partitions of one disk that are looked at.
const PARTITIONS_MAX: usize = 128;

/// A partition's identity (`PARTUUID`), in the byte order of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Guid([u8; 16]);

impl Guid {
    /// Reads it as people write it, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.trim().bytes().filter(|&byte| byte != b'-').collect();
        let mut bytes = [0; 16];
        if digits.len() != 32 {
            return None;
        }
        for (place, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *place = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(swapped(bytes)))
    }
}

/// The first three groups are little-endian in the table.
fn swapped([a, b, c, d, e, f, g, h, rest @ ..]: [u8; 16]) -> [u8; 16] {
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, byte) in swapped(self.0).iter().enumerate() {
            if matches!(number, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Counted from 1.
    pub number: u32,
    /// As in `STATE`.
    pub name: String,
    /// Its identity.
    pub guid: Guid,
    /// Size, in bytes.
    pub bytes: u64,
}

/// A disk with its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// As in `vda`.
    pub name: String,
    /// In the table's order.
    pub partitions: Vec<Partition>,
}

impl Disk {
    /// Reads the table, or its copy at the disk's end; `None` where there is none.
    pub fn read(name: &str, from: &mut (impl Read + Seek), sector_bytes: u64) -> Option<Self> {
        let table = gptman::GPT::read_from(from, sector_bytes).ok()?;
        let partitions = table
            .iter()
            .take(PARTITIONS_MAX)
            .filter(|(_, entry)| entry.is_used())
            .filter_map(|(number, entry)| {
                Some(Partition {
                    number,
                    name: entry.partition_name.as_str().trim_end_matches('\0').to_owned(),
                    guid: Guid(entry.unique_partition_guid),
                    bytes: entry.size().ok()?.checked_mul(sector_bytes)?,
                })
            })
            .collect();
        Some(Self { name: name.to_owned(), partitions })
    }

    /// The partition of this name; `None` also where there are two.
    #[must_use]
    pub fn partition(&self, name: &str) -> Option<&Partition> {
        let mut named = self.partitions.iter().filter(|partition| partition.name == name);
        named.next().filter(|_| named.next().is_none())
    }
}

/// No disk is surely the box's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// None has what is looked for.
    #[error("no disk has {what}")]
    None {
        /// What.
        what: String,
    },
    /// Two have it, so that settings could be read from one and written to the other.
    #[error("{first} and {second} both have {what}: take one of them out")]
    Several {
        /// A disk.
        first: String,
        /// Another.
        second: String,
        /// What.
        what: String,
    },
}

/// The box's own disk: the one with the partition that the loader came from, where the loader said
/// which; otherwise the one with partitions of our names.
///
/// # Errors
/// [`NotFound`]; on several, nothing is used.
pub fn own(disks: &[Disk], loader: Option<Guid>) -> Result<&Disk, NotFound> {
    let (mut fitting, what): (Vec<&Disk>, _) = match loader {
        Some(guid) => {
            let has = |disk: &&Disk| disk.partitions.iter().any(|part| part.guid == guid);
            (disks.iter().filter(has).collect(), format!("the loader's partition {guid}"))
        }
        None => {
            let has = |disk: &&Disk| {
                let named = |name: &str| disk.partitions.iter().any(|part| part.name == name);
                named("ESP") && named("STATE")
            };
            (disks.iter().filter(has).collect(), "partitions ESP and STATE".to_owned())
        }
    };
    match (fitting.pop(), fitting.pop()) {
        (Some(disk), None) => Ok(disk),
        (Some(second), Some(first)) => {
            Err(NotFound::Several { first: first.name.clone(), second: second.name.clone(), what })
        }
        _ => Err(NotFound::None { what }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    const SECTOR: u64 = 512;

    fn image(names: &[&str], salt: u8) -> Vec<u8> {
        let mut image = Cursor::new(vec![0; 1024 * 512]);
        let mut table = gptman::GPT::new_from(&mut image, SECTOR, [salt; 16]).unwrap();
        for (number, name) in (1_u32..).zip(names) {
            let first = table.header.first_usable_lba + u64::from(number) * 100;
            table[number] = gptman::GPTPartitionEntry {
                partition_type_guid: [1; 16],
                unique_partition_guid: [salt + u8::try_from(number).unwrap(); 16],
                starting_lba: first,
                ending_lba: first + 99,
                attribute_bits: 0,
                partition_name: (*name).into(),
            };
        }
        table.write_into(&mut image).unwrap();
        image.into_inner()
    }

    fn disk(name: &str, names: &[&str], salt: u8) -> Disk {
        Disk::read(name, &mut Cursor::new(image(names, salt)), SECTOR).unwrap()
    }

    const OURS: &[&str] = &["ESP", "SLOTS", "STATE", "DATA"];

    #[test]
    fn partitions_have_names_and_sizes() {
        let vda = disk("vda", OURS, 0);
        let state = vda.partition("STATE").unwrap();
        assert_eq!((state.number, state.bytes), (3, 100 * SECTOR));
        assert_eq!(vda.partition("HOME"), None);
        assert_eq!(disk("vda", &["STATE", "STATE"], 0).partition("STATE"), None);
    }

    #[test]
    fn the_copy_of_the_table_does_too() {
        let mut image = image(OURS, 0);
        image[..34 * 512].fill(0xff);
        assert!(Disk::read("vda", &mut Cursor::new(image), SECTOR).is_some());
    }

    #[test]
    fn the_loader_knows_best() {
        let disks = [disk("sda", OURS, 0), disk("sdb", OURS, 100), disk("sdc", &["x"], 50)];
        let loader = disks[1].partitions[0].guid;
        assert_eq!(own(&disks, Some(loader)).unwrap().name, "sdb");
        let guid = Guid::parse("FFFFFFFF-0000-0000-0000-000000000000").unwrap();
        assert!(matches!(own(&disks, Some(guid)), Err(NotFound::None { .. })));
        let twins = [disk("sda", OURS, 0), disk("sdb", OURS, 0)];
        let loader = twins[0].partitions[0].guid;
        assert!(matches!(own(&twins, Some(loader)), Err(NotFound::Several { .. })));
    }

    #[test]
    fn without_a_loader_names_decide() {
        let disks = [disk("sda", &["x"], 0), disk("sdb", OURS, 100)];
        assert_eq!(own(&disks, None).unwrap().name, "sdb");
        let error = own(&[disk("sda", OURS, 0), disk("sdb", OURS, 100)], None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sda and sdb both have partitions ESP and STATE: take one of them out"
        );
        assert_eq!(own(&[], None).unwrap_err().to_string(), "no disk has partitions ESP and STATE");
    }

    #[test]
    fn guids_are_as_people_write_them() {
        let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        let guid = Guid::parse(&text.to_uppercase()).unwrap();
        assert_eq!(guid.to_string(), text);
        assert_eq!(guid.0[..4], [0x28, 0x73, 0x2a, 0xc1]);
        assert_eq!(Guid::parse("c12a7328"), None);
    }

    proptest! {
        #[test]
        fn no_table_panics(at in 0_usize..20_000, bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            let mut image = image(OURS, 0);
            image[at..at + bytes.len()].copy_from_slice(&bytes);
            let _ = Disk::read("vda", &mut Cursor::new(image), SECTOR);
        }
    }
}
