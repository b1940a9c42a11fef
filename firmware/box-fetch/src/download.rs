//! A bundle, fetched to DATA: gone on behind what is there, and nothing written before its signature holds.
//!
//! In the folder: `bundle.part` are the bundle's first bytes, and `bundle.json` says of which address and
//! content they are. Without the latter, or where the server has another content by now, it begins anew.
//! What is there is read through the bundle's own reader each time, so it need not be believed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use box_update::bundle::{BUNDLE_BYTES_MAX, BundleError, Event, Reader};
use box_update::{Keys, Manifest, Sha256};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use crate::client::{Client, FetchError, Names};
use crate::url::Url;

/// Room that a download leaves on DATA, in bytes: mail's copies and its journal need it.
pub(crate) const ROOM_BYTES_MIN: u64 = 32 * 1024 * 1024;

/// How often a connection may break before it is given up, if each has brought more.
const BREAKS_MAX: u32 = 20;

/// Bytes that are read from the disk at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Largest record, in bytes: an address, a tag, and their names.
const RECORD_BYTES_MAX: u64 = 8 * 1024;

const PART: &str = "bundle.part";
const RECORD: &str = "bundle.json";

/// What to fetch, and who says whether.
pub struct Wanted<'w> {
    /// Where.
    pub url: &'w Url,
    /// Whose signature is believed.
    pub keys: &'w Keys,
    /// Size of the bundle and digest of its system, where an index says them.
    pub offer: Option<(u64, Sha256)>,
    /// Whether this box takes it: asked once the signature holds, before anything is written.
    pub admit: &'w mut dyn FnMut(&Manifest) -> Result<(), String>,
    /// Told how many of how many bytes are there.
    pub progress: &'w mut dyn FnMut(u64, u64),
}

impl std::fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted").field("url", self.url).finish_non_exhaustive()
    }
}

/// A whole bundle in DATA. Nobody else fetches one until it is dropped.
#[derive(Debug)]
pub struct Downloaded {
    /// Its file.
    pub path: PathBuf,
    /// What it is, signed.
    pub manifest: Manifest,
    /// Bytes that were there from an earlier attempt.
    pub resumed_bytes: u64,
    folder: Folder,
}

impl Downloaded {
    /// Gives its room back.
    pub fn remove(self) {
        self.folder.clear();
    }
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The line, the server, or the address.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What came is no bundle, or not signed.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Not for this box, or not now.
    #[error("{0}")]
    Refused(String),
    /// The server has something else than its index says.
    #[error("{0} is not what the index of updates says: have the index written again")]
    Differs(String),
    /// It does not fit.
    #[error(
        "the bundle needs {needed} bytes in {}, and {free} are free: delete copies of mails \
         (avr quarantine) or captures", .folder.display()
    )]
    NoRoom {
        /// Where.
        folder: PathBuf,
        /// With what others need, in bytes.
        needed: u64,
        /// In bytes.
        free: u64,
    },
    /// Somebody else is at it.
    #[error("another download is at work: wait until it has ended")]
    Busy,
    /// The disk's fault.
    #[error("{step} {}: look at DATA", .path.display())]
    Disk {
        /// What was done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Fetches a bundle to this folder, which is made; it goes on behind what is there of it.
///
/// # Errors
/// [`DownloadError`]. What has come stays where the line is at fault, for the next attempt.
pub async fn download<N: Names>(
    client: &Client<N>,
    folder: &Path,
    wanted: &mut Wanted<'_>,
) -> Result<Downloaded, DownloadError> {
    let folder = Folder::lock(folder)?;
    let (mut resumed_bytes, mut breaks, mut has_begun_anew) = (None, 0, false);
    loop {
        let mut part = Part::found(&folder, wanted);
        let start = part.len;
        resumed_bytes = resumed_bytes.or(Some(start));
        match fetch(client, &mut part, wanted).await {
            Ok(Fetched::Whole) => {
                let manifest = part.finish()?;
                let (path, resumed_bytes) = (folder.at(PART), resumed_bytes.unwrap_or(0));
                return Ok(Downloaded { path, manifest, resumed_bytes, folder });
            }
            // What was there is of another content, as the server says or as its digest shows.
            Ok(Fetched::Other) | Err(DownloadError::Bundle(_) | DownloadError::Differs(_))
                if start > 0 && !has_begun_anew =>
            {
                has_begun_anew = true;
                resumed_bytes = Some(0);
                folder.clear();
            }
            Ok(Fetched::Other) => {
                folder.clear();
                let status = FetchError::Status { url: wanted.url.to_string(), status: 416 };
                return Err(status.into());
            }
            Err(DownloadError::Fetch(error)) if error.is_of_the_line() => {
                let can_go_on = part.record.is_some();
                let has_more = part.len > start;
                breaks += 1;
                if !can_go_on {
                    folder.clear();
                }
                if !can_go_on || !has_more || breaks > BREAKS_MAX {
                    return Err(error.into());
                }
            }
            Err(error) => {
                if !matches!(error, DownloadError::Fetch(_) | DownloadError::Disk { .. }) {
                    folder.clear();
                }
                return Err(error);
            }
        }
    }
}

enum Fetched {
    Whole,
    /// The file at the address is not the one that the part is of.
    Other,
}

/// One connection's worth.
async fn fetch<'k, N: Names>(
    client: &Client<N>,
    part: &mut Part<'k>,
    wanted: &mut Wanted<'k>,
) -> Result<Fetched, DownloadError> {
    if part.is_whole {
        return Ok(Fetched::Whole);
    }
    let rest = part.record.as_ref().map(|record| (part.len, record.etag.clone()));
    let rest = rest.as_ref().map(|(from, etag)| (*from, etag.as_str()));
    let Some(mut response) = client.get(wanted.url, rest, BUNDLE_BYTES_MAX).await? else {
        return Ok(Fetched::Other);
    };
    if wanted.offer.is_some_and(|(bytes, _)| bytes != response.total) {
        return Err(DownloadError::Differs(wanted.url.to_string()));
    }
    if response.start != part.len {
        // Another content, or a server that only sends the whole.
        part.begin_anew(wanted.keys);
    } else if part.record.as_ref().is_some_and(|record| record.total != response.total) {
        return Ok(Fetched::Other);
    }
    while let Some(bytes) = response.body.next().await? {
        part.take(bytes, response.total, response.etag.as_deref(), wanted)?;
    }
    part.reader_is_done()?;
    Ok(Fetched::Whole)
}

/// Of which address and content the part is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    url: String,
    etag: String,
    total: u64,
}

/// What there is of the bundle.
struct Part<'k> {
    folder: PathBuf,
    reader: Reader<'k>,
    manifest: Option<Manifest>,
    /// Bytes that have come before the signature held.
    head: Vec<u8>,
    file: Option<File>,
    len: u64,
    record: Option<Record>,
    is_whole: bool,
}

impl<'k> Part<'k> {
    fn new(folder: &Folder, keys: &'k Keys) -> Self {
        Self {
            folder: folder.path.clone(),
            reader: Reader::new(keys),
            manifest: None,
            head: Vec::new(),
            file: None,
            len: 0,
            record: None,
            is_whole: false,
        }
    }

    /// What an earlier attempt has left, if it is of this bundle and still wanted; else nothing.
    fn found(folder: &Folder, wanted: &mut Wanted<'k>) -> Self {
        let found = folder.record().filter(|record| record.url == wanted.url.to_string());
        if let Some(record) = found
            && let Some(part) = Self::read(folder, record, wanted)
        {
            return part;
        }
        folder.clear();
        Self::new(folder, wanted.keys)
    }

    fn read(folder: &Folder, record: Record, wanted: &mut Wanted<'k>) -> Option<Self> {
        let mut part = Self::new(folder, wanted.keys);
        let options = &mut File::options();
        let mut file = options.read(true).append(true).open(folder.at(PART)).ok()?;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let len = file.read(&mut buffer).ok()?;
            if len == 0 {
                break;
            }
            part.look(buffer.get(..len).unwrap_or_default(), wanted).ok()?;
        }
        // Of less than that nothing was written.
        part.manifest.as_ref()?;
        part.file = Some(file);
        part.record = Some(record);
        Some(part)
    }

    /// Shows the next bytes to the bundle's reader.
    fn look(&mut self, bytes: &[u8], wanted: &mut Wanted<'_>) -> Result<(), DownloadError> {
        let mut input = bytes;
        while let Some(event) = self.reader.read(&mut input)? {
            match event {
                Event::Manifest(manifest) => {
                    if wanted.offer.is_some_and(|(_, sha256)| sha256 != manifest.uki.sha256) {
                        return Err(DownloadError::Differs(wanted.url.to_string()));
                    }
                    (wanted.admit)(&manifest).map_err(DownloadError::Refused)?;
                    self.manifest = Some(*manifest);
                }
                Event::Uki(_) => {}
                Event::End => self.is_whole = true,
            }
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Takes what has come.
    fn take(
        &mut self,
        bytes: &[u8],
        total: u64,
        etag: Option<&str>,
        wanted: &mut Wanted<'_>,
    ) -> Result<(), DownloadError> {
        self.look(bytes, wanted)?;
        match (&mut self.file, &self.manifest) {
            (None, None) => self.head.extend_from_slice(bytes),
            (None, Some(_)) => {
                let mut file = self.begin(total, etag, wanted.url)?;
                let head = std::mem::take(&mut self.head);
                file.write_all(&head)
                    .and_then(|()| file.write_all(bytes))
                    .map_err(|source| self.write_error(source, total))?;
                self.file = Some(file);
            }
            (Some(file), _) => {
                file.write_all(bytes).map_err(|source| self.write_error(source, total))?;
            }
        }
        (wanted.progress)(self.len, total);
        Ok(())
    }

    /// The signature holds, and the box takes it: the file, and before it what it is of.
    fn begin(&mut self, total: u64, etag: Option<&str>, url: &Url) -> Result<File, DownloadError> {
        let disk =
            |step, path: &Path, source| DownloadError::Disk { step, path: path.to_owned(), source };
        let room = statvfs(&self.folder)
            .map_err(|error| disk("look at the room in", &self.folder, error.into()))?;
        let free = room.blocks_available().saturating_mul(room.fragment_size());
        let needed = total.saturating_add(ROOM_BYTES_MIN);
        if free < needed {
            return Err(DownloadError::NoRoom { folder: self.folder.clone(), needed, free });
        }
        let (part, record) = (self.folder.join(PART), self.folder.join(RECORD));
        let file = private(&part).map_err(|source| disk("write", &part, source))?;
        self.record = None;
        if let Some(etag) = etag {
            let kept = Record { url: url.to_string(), etag: etag.to_owned(), total };
            private(&record)
                .and_then(|file| Ok(serde_json::to_writer(file, &kept)?))
                .map_err(|source| disk("write", &record, source))?;
            self.record = Some(kept);
        }
        Ok(file)
    }

    fn write_error(&self, source: io::Error, total: u64) -> DownloadError {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let (folder, needed) = (self.folder.clone(), total.saturating_sub(self.len));
            return DownloadError::NoRoom { folder, needed, free: 0 };
        }
        DownloadError::Disk { step: "write", path: self.folder.join(PART), source }
    }

    fn begin_anew(&mut self, keys: &'k Keys) {
        (self.reader, self.manifest, self.file, self.record) =
            (Reader::new(keys), None, None, None);
        (self.len, self.is_whole) = (0, false);
        self.head.clear();
    }

    /// No more comes.
    fn reader_is_done(&self) -> Result<(), DownloadError> {
        match self.is_whole {
            true => Ok(()),
            false => Err(BundleError::Truncated { at: self.len }.into()),
        }
    }

    fn finish(self) -> Result<Manifest, DownloadError> {
        let path = self.folder.join(PART);
        let (Some(file), Some(manifest)) = (self.file, self.manifest) else {
            return Err(BundleError::Truncated { at: self.len }.into());
        };
        file.sync_all().map_err(|source| DownloadError::Disk { step: "write", path, source })?;
        Ok(manifest)
    }
}

/// The folder, and nobody else at work in it.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Folder {
    fn lock(path: &Path) -> Result<Self, DownloadError> {
        let disk = |step| move |source| DownloadError::Disk { step, path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(disk("make"))?;
        let folder = File::open(path).map_err(disk("open"))?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(DownloadError::Busy),
            Err((_, error)) => Err(disk("lock")(error.into())),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn record(&self) -> Option<Record> {
        let mut bytes = Vec::new();
        File::open(self.at(RECORD)).ok()?.take(RECORD_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Forgets what has come. What cannot be deleted is not gone on behind: first goes what says of which
    /// content it is.
    fn clear(&self) {
        let _ = fs::remove_file(self.at(RECORD));
        let _ = fs::remove_file(self.at(PART));
    }
}

/// A new file, for root alone; one that is there goes.
fn private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().append(true).create_new(true).mode(0o600).open(path)
}
