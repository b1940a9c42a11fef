//! A log of everything that was written to a disk, in the form of dm-log-writes (Linux,
//! Documentation/admin-guide/device-mapper/log-writes.rst), which QEMU's `blklogwrites` writes.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// First eight bytes of a log.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// Flags of an entry (`LOG_*_FLAG`).
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
/// Unit of an entry's place and length, and of the log itself, in bytes; QEMU's own choice.
const SECTOR_BYTES: u64 = 512;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where, in bytes.
    pub at: u64,
    /// What; for what was discarded, zeros.
    pub bytes: Vec<u8>,
}

/// Writes between one flush and the next: a disk may keep any of them, and lose any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log(pub Vec<Vec<Write>>);

impl Log {
    /// Reads a log.
    ///
    /// # Errors
    /// It is none, or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let step = || format!("reading the log of writes {}", path.display());
        Self::parse(BufReader::new(File::open(path).with_context(step)?)).with_context(step)
    }

    fn parse(mut log: impl Read) -> Result<Self> {
        let (magic, version) = (number(&mut log)?, number(&mut log)?);
        ensure!((magic, version) == (MAGIC, VERSION), "no log of version {VERSION}");
        let entries = number(&mut log)?;
        let mut word = [0; 4];
        log.read_exact(&mut word)?;
        let sector = u64::from(u32::from_le_bytes(word));
        ensure!(sector == SECTOR_BYTES, "places are counted in sectors of {sector} bytes");
        // What is left of a sector behind the four numbers at its start.
        let rest = |used: u64| sector.checked_sub(used).context("sectors are larger");
        skip(&mut log, rest(28)?)?;
        let mut intervals = vec![Vec::new()];
        for _ in 0..entries {
            let at = number(&mut log)?;
            let sectors = number(&mut log)?;
            let flags = number(&mut log)?;
            skip(&mut log, rest(24)?)?;
            if flags & FLUSH != 0 {
                intervals.push(Vec::new());
            }
            let len = sectors * SECTOR_BYTES;
            let mut bytes = vec![0; usize::try_from(len)?];
            if flags & DISCARD == 0 {
                log.read_exact(&mut bytes)?;
                skip(&mut log, len.next_multiple_of(sector) - len)?;
            }
            if len > 0
                && let Some(interval) = intervals.last_mut()
            {
                interval.push(Write { at: at * SECTOR_BYTES, bytes });
            }
        }
        intervals.retain(|interval| !interval.is_empty());
        Ok(Self(intervals))
    }
}

fn number(log: &mut impl Read) -> Result<u64> {
    let mut bytes = [0; 8];
    log.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn skip(log: &mut impl Read, bytes: u64) -> Result<()> {
    let skipped = std::io::copy(&mut log.take(bytes), &mut std::io::sink())?;
    ensure!(skipped == bytes, "the log ends early");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64, bytes: &[u8], flags: u64) -> Vec<u8> {
        let numbers = [at / SECTOR_BYTES, bytes.len() as u64 / SECTOR_BYTES, flags, 0];
        let mut entry: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
        entry.resize(512, 0);
        if flags & DISCARD == 0 {
            entry.extend_from_slice(bytes);
        }
        entry
    }

    #[test]
    fn writes_are_read_by_the_flushes_between_them() {
        let entries = [
            entry(1024, &[7; 1024], 0),
            entry(0, &[], FLUSH),
            entry(512, &[8; 512], 0),
            entry(0, &[0; 512], DISCARD),
            entry(4096, &[9; 512], 0),
            entry(0, &[], FLUSH),
        ];
        let mut log: Vec<u8> =
            [MAGIC, VERSION, entries.len() as u64].into_iter().flat_map(u64::to_le_bytes).collect();
        log.extend_from_slice(&512_u32.to_le_bytes());
        log.resize(512, 0);
        log.extend(entries.concat());
        let write = |at, bytes: &[u8]| Write { at, bytes: bytes.to_vec() };
        let found = Log::parse(log.as_slice()).unwrap();
        assert_eq!(
            found.0,
            [
                vec![write(1024, &[7; 1024])],
                vec![write(512, &[8; 512]), write(0, &[0; 512]), write(4096, &[9; 512])],
            ]
        );
        assert!(Log::parse(&log[..log.len() - 600]).is_err());
        assert!(Log::parse(&b"x"[..]).is_err());
    }
}
