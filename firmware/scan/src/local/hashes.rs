//! Lists of files that are known to be bad, by their digests.
//!
//! Two formats, by the ending of the file's name. `*.sha256`: a SHA-256 in hex and, behind a blank, a name
//! (what `sha256sum` prints will do). `*.hdb`, `*.hsb`, and those of unwanted programs `*.hdu`, `*.hsu`: as
//! ClamAV has them, `digest:size:name`, where the digest is MD5, SHA-1 or SHA-256 and the size may be `*`.
//!
//! A digest is only computed of bytes for whose size there is an entry. MD5 and SHA-1 are no weakness here:
//! whoever can make a second file with the digest of a listed one gets it refused.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use crate::FINDING_NAME_BYTES_MAX;
use crate::engine::printable;

/// Most entries of all lists together; each costs some 40 bytes, and its name once.
pub const ENTRIES_MAX: usize = 4_000_000;
/// Largest list file, bytes.
pub const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Most list files of a folder.
pub const FILES_MAX: usize = 1_000;
/// Longest line, bytes.
pub const LINE_BYTES_MAX: usize = 1_024;

/// Stands for any size; no object is so large.
const ANY_SIZE: u64 = u64::MAX;

/// Why lists cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HashListError {
    /// The folder cannot be read.
    #[error("read the folder of hash lists {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("read the hash list {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no entry.
    #[error("{}, line {line}: {what}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong, and what to write.
        what: &'static str,
    },
    /// A file is larger than [`FILE_BYTES_MAX`].
    #[error("the hash list {} is over {FILE_BYTES_MAX} bytes: split it", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// More than [`FILES_MAX`].
    #[error("the folder {} has more than {FILES_MAX} hash lists: join some", path.display())]
    TooManyFiles {
        /// Which folder.
        path: PathBuf,
    },
    /// More than [`ENTRIES_MAX`].
    #[error("{}, line {line}: more than {ENTRIES_MAX} entries in all lists: leave some out", path.display())]
    TooManyEntries {
        /// Where it became too much.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// All lists of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HashLists {
    md5: Table,
    sha1: Table,
    sha256: Table,
    names: Names,
}

/// The limits, so that tests can reach them.
#[derive(Debug, Clone, Copy)]
struct Limits {
    entries_max: usize,
    file_bytes_max: u64,
    files_max: usize,
}

const LIMITS: Limits =
    Limits { entries_max: ENTRIES_MAX, file_bytes_max: FILE_BYTES_MAX, files_max: FILES_MAX };

impl HashLists {
    /// Reads all lists of a folder. Files with other endings are left alone.
    ///
    /// # Errors
    ///
    /// What cannot be read, or is no entry; the text names file and line.
    pub fn load(folder: &Path) -> Result<Self, HashListError> {
        Self::load_within(folder, LIMITS)
    }

    fn load_within(folder: &Path, limits: Limits) -> Result<Self, HashListError> {
        let mut builder = Builder::default();
        for (path, format) in list_files(folder, limits)? {
            builder.read(&path, format, limits)?;
        }
        Ok(builder.build())
    }

    /// The name of these bytes, where they are listed.
    #[must_use]
    pub fn lookup(&self, bytes: &[u8]) -> Option<&str> {
        let size = u64::try_from(bytes.len()).unwrap_or(ANY_SIZE);
        let name = self
            .sha256
            .find(size, || digest(&SHA256, bytes).as_ref().to_vec())
            .or_else(|| {
                self.sha1.find(size, || digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec())
            })
            .or_else(|| self.md5.find(size, || Md5::digest(bytes).to_vec()))?;
        self.names.at(name)
    }

    /// For bytes that come in pieces: digests of every kind of which there are entries. (Their size is not
    /// known, and so cannot save a digest, as it does in [`Self::lookup`].)
    #[must_use]
    pub fn digests(&self) -> Digests {
        Digests {
            bytes: 0,
            sha256: (self.sha256.len() > 0).then(|| Context::new(&SHA256)),
            sha1: (self.sha1.len() > 0).then(|| Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
            md5: (self.md5.len() > 0).then(Md5::new),
        }
    }

    /// The name of the bytes that were added to these digests, where they are listed.
    #[must_use]
    pub fn find(&self, digests: Digests) -> Option<&str> {
        let Digests { bytes, sha256, sha1, md5 } = digests;
        let sha = |context: Context| context.finish().as_ref().to_vec();
        let name = sha256
            .and_then(|context| self.sha256.find(bytes, || sha(context)))
            .or_else(|| sha1.and_then(|context| self.sha1.find(bytes, || sha(context))))
            .or_else(|| md5.and_then(|state| self.md5.find(bytes, || state.finalize().to_vec())))?;
        self.names.at(name)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.md5.len() + self.sha1.len() + self.sha256.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Digests of bytes that come in pieces.
#[derive(Default)]
pub struct Digests {
    bytes: u64,
    sha256: Option<Context>,
    sha1: Option<Context>,
    md5: Option<Md5>,
}

impl Digests {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len().try_into().unwrap_or(u64::MAX));
        for context in [&mut self.sha256, &mut self.sha1].into_iter().flatten() {
            context.update(bytes);
        }
        if let Some(state) = &mut self.md5 {
            state.update(bytes);
        }
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digests").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Digests of one kind, in the order of size and digest. Columns, since rows would be padded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Table {
    sizes: Vec<u64>,
    /// All of them, one behind the other.
    digests: Vec<u8>,
    names: Vec<u32>,
}

impl Table {
    fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Computes the digest if there are entries of that size, or of any.
    fn find(&self, size: u64, digest: impl FnOnce() -> Vec<u8>) -> Option<u32> {
        let (this, any) = (self.rows(size), self.rows(ANY_SIZE));
        if this.is_empty() && any.is_empty() {
            return None;
        }
        let digest = digest();
        self.search(this, &digest).or_else(|| self.search(any, &digest))
    }

    fn rows(&self, size: u64) -> Range<usize> {
        let start = self.sizes.partition_point(|&other| other < size);
        let rest = self.sizes.get(start..).unwrap_or_default();
        start..start + rest.partition_point(|&other| other == size)
    }

    fn search(&self, rows: Range<usize>, digest: &[u8]) -> Option<u32> {
        let Range { mut start, mut end } = rows;
        while start < end {
            let middle = start + (end - start) / 2;
            let row = self.digests.get(middle * digest.len()..)?.get(..digest.len())?;
            match row.cmp(digest) {
                std::cmp::Ordering::Less => start = middle + 1,
                std::cmp::Ordering::Greater => end = middle,
                std::cmp::Ordering::Equal => return self.names.get(middle).copied(),
            }
        }
        None
    }
}

/// Names, each once, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Names {
    text: String,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Names {
    fn at(&self, number: u32) -> Option<&str> {
        let number = usize::try_from(number).ok()?;
        let end = usize::try_from(*self.ends.get(number)?).ok()?;
        let start = match number.checked_sub(1) {
            Some(before) => usize::try_from(*self.ends.get(before)?).ok()?,
            None => 0,
        };
        self.text.get(start..end)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Sha256,
    ClamAv,
}

/// What is wrong with a line.
type What = &'static str;

const NO_SHA256: What = "a line is a SHA-256 of 64 hex digits and, behind a blank, a name";
const NO_CLAMAV: What =
    "a line is digest:size:name, where the digest is an MD5, SHA-1 or SHA-256 in hex";
const NO_SIZE: What = "the size is a number of bytes, or * for any";
const TOO_LONG: What = "the line is too long: at most 1,024 bytes";
const NO_TEXT: What = "the line is not UTF-8: write names in ASCII";

/// An entry, as its line says.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    digest: Vec<u8>,
    size: u64,
    name: &'a str,
}

impl<'a> Entry<'a> {
    /// `None` for lines without one.
    fn parse(line: &'a str, format: Format) -> Result<Option<Self>, What> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        match format {
            Format::Sha256 => {
                let (digest, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
                let digest = hex(digest).filter(|digest| digest.len() == SHA256_BYTES);
                // `sha256sum` marks files it read as binary.
                let name = name.trim_start().trim_start_matches('*');
                Ok(Some(Self { digest: digest.ok_or(NO_SHA256)?, size: ANY_SIZE, name }))
            }
            Format::ClamAv => {
                // Behind the name may stand the versions of ClamAV that know the format.
                let mut fields = line.split(':');
                let digest = hex(fields.next().unwrap_or_default()).ok_or(NO_CLAMAV)?;
                let size = match fields.next().ok_or(NO_CLAMAV)? {
                    "*" => ANY_SIZE,
                    size => size.parse().map_err(|_| NO_SIZE)?,
                };
                let name = fields.next().filter(|name| !name.is_empty()).ok_or(NO_CLAMAV)?;
                Ok(Some(Self { digest, size, name }))
            }
        }
    }
}

const MD5_BYTES: usize = 16;
const SHA1_BYTES: usize = 20;
const SHA256_BYTES: usize = 32;

/// A digest of one of the three lengths.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digest = text
        .as_bytes()
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()?;
    matches!(digest.len(), MD5_BYTES | SHA1_BYTES | SHA256_BYTES).then_some(digest)
}

/// Lists while they are read.
#[derive(Debug, Default)]
struct Builder {
    md5: Vec<(u64, [u8; MD5_BYTES], u32)>,
    sha1: Vec<(u64, [u8; SHA1_BYTES], u32)>,
    sha256: Vec<(u64, [u8; SHA256_BYTES], u32)>,
    names: Names,
    numbers: HashMap<String, u32>,
}

impl Builder {
    fn read(&mut self, path: &Path, format: Format, limits: Limits) -> Result<(), HashListError> {
        let failed = |source| HashListError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > limits.file_bytes_max {
            return Err(HashListError::TooLarge { path: path.to_owned() });
        }
        let unnamed = path.file_stem().unwrap_or_default().to_string_lossy();
        let unnamed = format!("Listed.{unnamed}");
        // However it grows while it is read.
        let mut reader = BufReader::new(file.take(limits.file_bytes_max));
        let mut bytes = Vec::new();
        for line in 1.. {
            let wrong = |what| HashListError::Line { path: path.to_owned(), line, what };
            bytes.clear();
            let limit = u64::try_from(LINE_BYTES_MAX + 1).unwrap_or(u64::MAX);
            reader.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(failed)?;
            if bytes.is_empty() {
                break;
            }
            if bytes.len() > LINE_BYTES_MAX {
                return Err(wrong(TOO_LONG));
            }
            let text = str::from_utf8(&bytes).map_err(|_| wrong(NO_TEXT))?;
            if let Some(entry) = Entry::parse(text, format).map_err(wrong)? {
                if self.len() >= limits.entries_max {
                    return Err(HashListError::TooManyEntries { path: path.to_owned(), line });
                }
                self.push(&entry, &unnamed);
            }
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.md5.len() + self.sha1.len() + self.sha256.len()
    }

    fn push(&mut self, entry: &Entry<'_>, unnamed: &str) {
        let name = if entry.name.is_empty() { unnamed } else { entry.name };
        let name = self.number(&printable(name, FINDING_NAME_BYTES_MAX));
        let Entry { digest, size, .. } = entry;
        if let Ok(digest) = <[u8; MD5_BYTES]>::try_from(digest.as_slice()) {
            self.md5.push((*size, digest, name));
        } else if let Ok(digest) = <[u8; SHA1_BYTES]>::try_from(digest.as_slice()) {
            self.sha1.push((*size, digest, name));
        } else if let Ok(digest) = <[u8; SHA256_BYTES]>::try_from(digest.as_slice()) {
            self.sha256.push((*size, digest, name));
        }
    }

    fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        // Both far below: at most ENTRIES_MAX names of at most FINDING_NAME_BYTES_MAX.
        let number = u32::try_from(self.names.ends.len()).unwrap_or(u32::MAX);
        self.names.text.push_str(name);
        self.names.ends.push(u32::try_from(self.names.text.len()).unwrap_or(u32::MAX));
        self.numbers.insert(name.to_owned(), number);
        number
    }

    fn build(self) -> HashLists {
        HashLists {
            md5: table(self.md5),
            sha1: table(self.sha1),
            sha256: table(self.sha256),
            names: self.names,
        }
    }
}

/// In order, each digest once.
fn table<const N: usize>(mut rows: Vec<(u64, [u8; N], u32)>) -> Table {
    rows.sort_unstable();
    rows.dedup_by_key(|(size, digest, _)| (*size, *digest));
    let mut table = Table {
        sizes: Vec::with_capacity(rows.len()),
        digests: Vec::with_capacity(rows.len() * N),
        names: Vec::with_capacity(rows.len()),
    };
    for (size, digest, name) in rows {
        table.sizes.push(size);
        table.digests.extend_from_slice(&digest);
        table.names.push(name);
    }
    table
}

/// In the order of their names, so that the same folder always gives the same lists.
fn list_files(folder: &Path, limits: Limits) -> Result<Vec<(PathBuf, Format)>, HashListError> {
    let failed = |source| HashListError::Folder { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let format = match path.extension().and_then(|end| end.to_str()) {
            Some("sha256") => Format::Sha256,
            Some("hdb" | "hsb" | "hdu" | "hsu") => Format::ClamAv,
            _ => continue,
        };
        if path.is_file() {
            files.push((path, format));
        }
        if files.len() > limits.files_max {
            return Err(HashListError::TooManyFiles { path: folder.to_owned() });
        }
    }
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MD5_HELLO: &str = "5d41402abc4b2a76b9719d911017c592";
    const SHA1_HELLO: &str = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";
    const SHA256_HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn load(files: &[(&str, &str)]) -> Result<HashLists, HashListError> {
        load_within(files, LIMITS)
    }

    fn load_within(files: &[(&str, &str)], limits: Limits) -> Result<HashLists, HashListError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        HashLists::load_within(folder.path(), limits)
    }

    fn find_in_pieces<'a>(lists: &'a HashLists, bytes: &[u8]) -> Option<&'a str> {
        let mut digests = lists.digests();
        bytes.chunks(2).for_each(|piece| digests.update(piece));
        lists.find(digests)
    }

    #[test]
    fn all_digests_in_all_formats_are_found() {
        for (file, line, name) in [
            ("bad.sha256", SHA256_HELLO.to_owned(), "Listed.bad"),
            ("bad.sha256", format!("{} Some Name", SHA256_HELLO.to_uppercase()), "Some Name"),
            ("bad.sha256", format!("{SHA256_HELLO} *hello.exe"), "hello.exe"),
            ("x.hdb", format!("{MD5_HELLO}:5:Md5.Hello"), "Md5.Hello"),
            ("x.hdb", format!("{MD5_HELLO}:*:Md5.Hello:73"), "Md5.Hello"),
            ("x.hsb", format!("{SHA1_HELLO}:5:Sha1.Hello"), "Sha1.Hello"),
            ("x.hsb", format!("{SHA256_HELLO}:*:Sha256.Hello:73:120"), "Sha256.Hello"),
            ("x.hdu", format!("{MD5_HELLO}:5:PUA.Hello"), "PUA.Hello"),
            ("x.hsu", format!("{SHA1_HELLO}:*:PUA.H\x1bello"), "PUA.H?ello"),
        ] {
            let lists = load(&[(file, &format!("# a list\n\n{line}\r\n"))]).unwrap();
            assert_eq!(lists.len(), 1);
            assert_eq!(lists.lookup(b"hello"), Some(name), "{line}");
            assert_eq!(find_in_pieces(&lists, b"hello"), Some(name), "{line}");
            assert_eq!(find_in_pieces(&lists, b"hell"), None);
            assert_eq!(lists.lookup(b"hellO"), None);
            assert_eq!(lists.lookup(b""), None);
        }
        let sized = load(&[("x.hdb", &format!("{MD5_HELLO}:6:X"))]).unwrap();
        assert_eq!(sized.lookup(b"hello"), None, "the size counts");
        let none = load(&[("x.txt", "rubbish")]).unwrap();
        assert!(none.is_empty() && none.lookup(b"hello").is_none());
    }

    #[test]
    fn a_digest_is_computed_only_where_an_entry_could_match() {
        let lists = load(&[("x.hdb", &format!("{MD5_HELLO}:5:X"))]).unwrap();
        assert_eq!(lists.md5.find(6, || unreachable!("no entry of that size")), None);
        assert_eq!(lists.sha1.find(5, || unreachable!("no entry of that kind")), None);
    }

    #[test]
    fn what_is_no_entry_is_named_with_its_line() {
        for (file, line, what) in [
            ("x.sha256", MD5_HELLO, NO_SHA256),
            ("x.sha256", "hello", NO_SHA256),
            ("x.sha256", "\u{e4}\u{e4}", NO_SHA256),
            ("x.hdb", MD5_HELLO, NO_CLAMAV),
            ("x.hdb", "5d41:5:X", NO_CLAMAV),
            ("x.hdb", "5d41402abc4b2a76b9719d911017c592:5:", NO_CLAMAV),
            ("x.hdb", "5d41402abc4b2a76b9719d911017c59g:5:X", NO_CLAMAV),
            ("x.hdb", "5d41402abc4b2a76b9719d911017c592:-5:X", NO_SIZE),
            ("x.hdb", "5d41402abc4b2a76b9719d911017c592::X", NO_SIZE),
        ] {
            let error = load(&[(file, &format!("# one\n{line}\n"))]).unwrap_err();
            let HashListError::Line { line: 2, what: said, path } = &error else {
                panic!("{line}: {error}")
            };
            assert_eq!((*said, path.file_name().unwrap()), (what, file.as_ref()), "{line}");
            assert!(error.to_string().contains(&format!("{file}, line 2: ")), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.hdb"), b"\xff\n").unwrap();
        let error = HashLists::load(folder.path()).unwrap_err();
        assert!(matches!(error, HashListError::Line { line: 1, what: NO_TEXT, .. }), "{error}");
        let error = HashLists::load(Path::new("/nonexistent/lists")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/lists"), "{error}");
    }

    #[test]
    fn limits_hold() {
        let line = format!("{SHA256_HELLO} {}", "x".repeat(LINE_BYTES_MAX));
        let longest = &line[..LINE_BYTES_MAX];
        let lists = load(&[("x.sha256", longest)]).unwrap();
        assert_eq!(lists.lookup(b"hello").unwrap().len(), FINDING_NAME_BYTES_MAX);
        let error = load(&[("x.sha256", &line[..=LINE_BYTES_MAX])]).unwrap_err();
        assert!(matches!(error, HashListError::Line { what: TOO_LONG, .. }), "{error}");

        let line = format!("{MD5_HELLO}:5:X\n");
        let limits = Limits { entries_max: 2, file_bytes_max: 100, files_max: 2 };
        assert!(load_within(&[("x.hdb", &line.repeat(2))], limits).is_ok());
        let error = load_within(&[("a.hdb", &line.repeat(2)), ("b.hdb", &line)], limits);
        assert!(matches!(error, Err(HashListError::TooManyEntries { line: 1, .. })), "{error:?}");
        let error = load_within(&[("x.hdb", &"#".repeat(101))], limits);
        assert!(matches!(error, Err(HashListError::TooLarge { .. })), "{error:?}");
        let files = [("a.hdb", ""), ("b.hdb", ""), ("c.hdb", "")];
        let error = load_within(&files, limits);
        assert!(matches!(error, Err(HashListError::TooManyFiles { .. })), "{error:?}");
        assert!(load_within(&files[1..], limits).is_ok());
    }

    #[test]
    fn names_are_kept_once_and_all_can_be_sent_to_another_process() {
        let text = format!("{MD5_HELLO}:5:Same\n{SHA1_HELLO}:5:Same\n{MD5_HELLO}:*:Other\n");
        let lists = load(&[("x.hdb", &text)]).unwrap();
        assert_eq!((lists.len(), lists.names.text.as_str()), (3, "SameOther"));
        let sent = postcard::to_allocvec(&lists).unwrap();
        let got: HashLists = postcard::from_bytes(&sent).unwrap();
        assert_eq!(got, lists);
        assert_eq!(got.lookup(b"hello"), Some("Same"));
    }

    #[test]
    fn columns_that_do_not_fit_together_are_no_harm() {
        let broken = Table { sizes: vec![5; 9], digests: vec![0; 3], names: Vec::new() };
        assert_eq!(broken.find(5, || vec![1; MD5_BYTES]), None);
        assert_eq!(Names { text: "x".into(), ends: vec![9] }.at(0), None);
    }

    /// ClamAV's own signature of its own test file, from the corpus beside the checkout.
    #[test]
    fn clamavs_own_list() {
        let corpus = std::env::var_os("AVR_CORPUS").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus"),
            PathBuf::from,
        );
        let folder = corpus.join("clamav/sig");
        if !folder.is_dir() {
            println!("SKIPPED: no corpus at {}", folder.display());
            return;
        }
        let lists = HashLists::load(&folder).unwrap();
        assert!(!lists.is_empty());
    }

    proptest! {
        #[test]
        fn every_listed_file_is_found_and_no_other(
            files in proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 0..40), any::<bool>(), 1..40,
            ),
        ) {
            let mut text = String::new();
            for (number, (bytes, any_size)) in files.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
                let size = if *any_size { "*".to_owned() } else { bytes.len().to_string() };
                let digest = match number % 3 {
                    0 => digest(&SHA256, bytes).as_ref().to_vec(),
                    1 => digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec(),
                    _ => Md5::digest(bytes).to_vec(),
                };
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                text += &format!("{digest}:{size}:File.{number}\n");
            }
            let lists = load(&[("x.hsb", &text)]).unwrap();
            for (number, (bytes, _)) in files.iter().enumerate() {
                let name = (number % 2 == 0).then(|| format!("File.{number}"));
                prop_assert_eq!(lists.lookup(bytes), name.as_deref());
            }
        }
    }
}
