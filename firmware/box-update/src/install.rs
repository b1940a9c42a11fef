//! The update itself: steps in the one order in which a power cut at any moment leaves a box that starts.
//!
//! 0. Look whether this box takes this bundle at all. 1. Verify the manifest's signature; nothing has been
//!    written yet. 2. Write the system under a name that the loader passes over, and sync. 3. Read it back
//!    from the medium and look what it is. 4. Take all slots but the running one from the loader by a
//!    rename, sync, delete them, and sync. 5. Rename the new system to a slot, and sync: the commit.
//!
//! Until 5 the running slot starts; from then on the new one does, and after [`TRIES`] starts in vain the
//! old one again. What follows, a start that is cold and the trial, is PID 1's.
//!
//! FAT has no journal. Three things make up for it:
//! - Every rename is within one folder whose entries are in its first sector, so that a cut leaves one name
//!   or the other. Across two folders it could leave both, of the same clusters, and the next update would
//!   free those of the running slot as what is left over.
//! - A slot loses its name before it loses its clusters: firmware that is given half a file does not go on
//!   to the next.
//! - What is left over is deleted before anything new is written, while whatever its entry refers to is
//!   either its own or nobody's.

use std::io::{self, Read, Seek, SeekFrom};

use board::Arch;

use crate::bundle::{BundleError, Event, Reader};
use crate::digest::Hasher;
use crate::disk::{Disk, Entry};
use crate::keys::Keys;
use crate::manifest::Manifest;
use crate::record::{Outcome, Record, Store};
use crate::slots::{
    self, Leftover, Loader, Rename, Running, Slot, Slots, SlotsError, TRIES, Trust,
};
use crate::uki::{self, HEADERS_BYTES_MAX, Section, UkiError};

/// Bytes that are read and written at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Room that an update leaves, in bytes: for folders, and for whoever else may write.
const SPARE_BYTES: u64 = 1024 * 1024;

/// What the box is and runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Of `/etc/avr/release.toml`, as the next three.
    pub product: String,
    /// The board.
    pub board: String,
    /// Its processor.
    pub arch: Arch,
    /// The running build's number.
    pub build: u32,
    /// What the loader says.
    pub loader: Loader,
}

/// A bundle that this box does not take now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The running system has still to prove itself, and the other slot is what it falls back to.
    #[error(
        "build {build}, which runs, is {trust}: wait until it is blessed (2 minutes of health)"
    )]
    NotBlessed {
        /// The running one.
        build: u32,
        /// How far it is trusted.
        trust: Trust,
    },
    /// For something else.
    #[error("the bundle is for the product {theirs}, and this is {ours}: take one for {ours}")]
    Product {
        /// In the bundle.
        theirs: String,
        /// Of the box.
        ours: String,
    },
    /// For another board.
    #[error("the bundle is for the board {theirs}, and this is {ours}: take one for {ours}")]
    Board {
        /// In the bundle, with its architecture.
        theirs: String,
        /// Of the box.
        ours: String,
    },
    /// An older one, which the loader would never start.
    #[error("build {new} is not newer than {running}, which is there: to go back, switch slots")]
    NotNewer {
        /// In the bundle.
        new: u32,
        /// The one that is there.
        running: u32,
    },
    /// One that a later build has shut out.
    #[error(
        "build {new} is below the floor of {floor}, which a later build set: take build {floor} or later"
    )]
    UnderFloor {
        /// In the bundle.
        new: u32,
        /// The least one.
        floor: u32,
    },
    /// It was tried.
    #[error("build {build} was tried on this box and failed ({why}): take a later build")]
    FailedBefore {
        /// In the bundle.
        build: u32,
        /// What happened.
        why: String,
    },
    /// It does not fit.
    #[error(
        "the system needs {needed} bytes, and SLOTS has {free} left: delete what is no slot there, from the \
         recovery system"
    )]
    NoRoom {
        /// In bytes.
        needed: u64,
        /// In bytes.
        free: u64,
    },
}

/// Why nothing was installed. The box is as before, and starts what it started before.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Not on this box, or not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not known what runs, or two files say they do.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// The bundle is at fault.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The system in it is. It will not be tried again.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// The bundle could not be read to its end. What there is stays, and the next attempt goes on there.
    #[error("reading the bundle: try again, it goes on where it stopped")]
    Source(#[source] io::Error),
    /// A step failed on the disk.
    #[error("{step}: try again; if it stays so, the disk has to be replaced")]
    Disk {
        /// Which.
        step: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was there of an earlier attempt cannot be gone on behind, and is gone.
    #[error("what was there of an earlier attempt was damaged: try again, from the start")]
    Earlier,
    /// The disk does not give back what was written to it.
    #[error(
        "the disk gives back other bytes than were written: try again; if it stays so, replace it"
    )]
    ReadBack,
    /// Something is called otherwise than it was just renamed.
    #[error(
        "the slots' folder does not show what was done ({0}): try again; if it stays so, replace the disk"
    )]
    NotDone(String),
    /// What was done could not be noted.
    #[error("writing to STATE what is being installed: look at the disk")]
    Store(#[source] io::Error),
}

/// The new system is in its slot. It starts at the next start, which has to be a cold one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// What it is.
    pub manifest: Manifest,
    /// Its file in the slots' folder.
    pub file: String,
    /// Bytes of it that were there from an earlier attempt.
    pub resumed_bytes: u64,
    /// What turned out to have become of the update before.
    pub earlier: Option<Outcome>,
}

/// Installs a bundle, whatever there is of it from an earlier attempt. `progress` is told how many of how
/// many bytes of the system are written.
///
/// # Errors
/// [`InstallError`]; nothing was installed.
pub fn install(
    source: &mut (impl Read + Seek),
    disk: &mut impl Disk,
    store: &mut impl Store,
    facts: &Facts,
    keys: &Keys,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Installed, InstallError> {
    let slots = slots(disk)?;
    check_running(&slots, facts)?;
    // Without it a box would never be updated again.
    let mut record = store.load().unwrap_or_default();
    let earlier = record.settle(&slots, "");
    if earlier.is_some() {
        store.save(&record).map_err(InstallError::Store)?;
    }
    let mut received = receive(source, disk, &record, facts, keys, progress);
    if let Err(InstallError::Earlier) = received {
        // It was damaged by a power cut, and is gone now.
        source.seek(SeekFrom::Start(0)).map_err(InstallError::Source)?;
        received = receive(source, disk, &record, facts, keys, progress);
    }
    let (staging, resumed_bytes) = received?;
    let (build, sha256) = (staging.manifest.build.get(), staging.manifest.uki.sha256);
    let verified = match staging.finish() {
        Err(InstallError::Uki(error)) => {
            record.fail(build, sha256, &error.to_string());
            store.save(&record).map_err(InstallError::Store)?;
            return Err(error.into());
        }
        verified => verified?,
    };
    record.expect(&verified.0.manifest);
    store.save(&record).map_err(InstallError::Store)?;
    let (manifest, file) = verified.make_room(facts)?.commit()?;
    Ok(Installed { manifest, file, resumed_bytes, earlier })
}

/// Steps 0 to 2. With how many bytes were there from an earlier attempt.
fn receive<'d, D: Disk>(
    source: &mut (impl Read + Seek),
    disk: &'d mut D,
    record: &Record,
    facts: &Facts,
    keys: &Keys,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Staging<'d, D>, u64), InstallError> {
    let mut reader = Reader::new(keys);
    let mut buffer = vec![0; PIECE_BYTES];
    let (manifest, unread) = manifest(source, &mut reader, &mut buffer)?;
    check(&manifest, &slots(disk)?, record, facts)?;

    let mut staging = Staging::begin(disk, manifest, facts)?;
    let resumed_bytes = staging.at;
    let mut input = buffer.get(unread..).unwrap_or_default();
    if let Some(hasher) = staging.hasher_if_resumed()? {
        let at = reader.resume(hasher, resumed_bytes).ok_or(InstallError::ReadBack)?;
        source.seek(SeekFrom::Start(at)).map_err(InstallError::Source)?;
        input = &[];
    }
    loop {
        match staging.take(&mut reader, input, progress) {
            Ok(()) => {}
            // Going on behind what is damaged would fail again, and so would going on to write.
            Err(error @ (InstallError::Bundle(_) | InstallError::Disk { .. })) => {
                staging.throw_away()?;
                return Err(if resumed_bytes > 0 { InstallError::Earlier } else { error });
            }
            Err(error) => return Err(error),
        }
        input = fetch(source, &mut buffer)?;
        if input.is_empty() {
            break;
        }
    }
    // What there is stays, to go on behind.
    reader.finish()?;
    Ok((staging, resumed_bytes))
}

/// Step 1: reads on until the manifest is there and its signature holds. With the place in the buffer
/// from which on bytes have not been taken.
fn manifest(
    source: &mut impl Read,
    reader: &mut Reader<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(Manifest, usize), InstallError> {
    loop {
        let mut input = fetch(source, buffer)?;
        if input.is_empty() {
            return Err(BundleError::Truncated { at: reader.position() }.into());
        }
        let len = input.len();
        if let Some(event) = reader.read(&mut input)? {
            let (taken, Event::Manifest(manifest)) = (len - input.len(), event) else {
                return Err(BundleError::NotABundle { at: 0 }.into());
            };
            buffer.truncate(len);
            return Ok((*manifest, taken));
        }
    }
}

/// The source's next bytes; none at its end.
fn fetch<'b>(source: &mut impl Read, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], InstallError> {
    buffer.resize(PIECE_BYTES, 0);
    loop {
        match source.read(buffer) {
            Ok(len) => return Ok(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(InstallError::Source(error)),
        }
    }
}

/// The slots on a disk.
///
/// # Errors
/// The folder cannot be read.
pub fn slots(disk: &mut impl Disk) -> Result<Slots, InstallError> {
    let files = disk.list(slots::FOLDER).map_err(at("reading the slots' folder"))?;
    Ok(Slots::of(files.iter().map(|entry| &entry.name)))
}

/// Gives a slot another name, alone, and looks whether it has it: to bless it, to mark it bad, to count.
///
/// # Errors
/// It cannot be, or is not so afterwards.
pub fn rename_slot(disk: &mut impl Disk, rename: &Rename) -> Result<(), InstallError> {
    disk.sync().map_err(at("writing out what was to be written before a slot is renamed"))?;
    commit(disk, &path(slots::FOLDER, &rename.from), &rename.to)
}

/// Step 0, as far as it is about the box: the running system is good.
fn check_running(slots: &Slots, facts: &Facts) -> Result<(), InstallError> {
    match slots.running(&facts.loader)? {
        Running::Slot(slot) if slot.trust() != Trust::Good => {
            Err(Refusal::NotBlessed { build: slot.build(), trust: slot.trust() }.into())
        }
        Running::Slot(_) | Running::Recovery => Ok(()),
    }
}

/// Step 0, as far as it is about the bundle.
fn check(
    manifest: &Manifest,
    slots: &Slots,
    record: &Record,
    facts: &Facts,
) -> Result<(), InstallError> {
    let running = match slots.running(&facts.loader)? {
        Running::Slot(slot) => Some(slot.build().max(facts.build)),
        // It is put beside slots by hand, and may be newer than they are.
        Running::Recovery => None,
    };
    Ok(admit(manifest, record, facts, running)?)
}

/// Whether a box takes what a manifest describes, as far as that is known without its slots: asked before
/// a whole bundle is fetched. `running` is the build that it has to be newer than, if any.
///
/// # Errors
/// [`Refusal`].
pub fn admit(
    manifest: &Manifest,
    record: &Record,
    facts: &Facts,
    running: Option<u32>,
) -> Result<(), Refusal> {
    let full = |board: &str, arch: Arch| format!("{board} ({})", arch.name());
    if manifest.product != facts.product {
        let (theirs, ours) = (manifest.product.clone(), facts.product.clone());
        return Err(Refusal::Product { theirs, ours });
    }
    if (&manifest.board, manifest.arch) != (&facts.board, facts.arch) {
        let theirs = full(&manifest.board, manifest.arch);
        return Err(Refusal::Board { theirs, ours: full(&facts.board, facts.arch) });
    }
    let new = manifest.build.get();
    if new < record.floor {
        return Err(Refusal::UnderFloor { new, floor: record.floor });
    }
    if let Some(running) = running.filter(|&running| new <= running) {
        return Err(Refusal::NotNewer { new, running });
    }
    match record.failure(&manifest.uki.sha256) {
        Some(failed) => Err(Refusal::FailedBefore { build: failed.build, why: failed.why.clone() }),
        None => Ok(()),
    }
}

/// Step 2: the system is being written, where the loader does not look.
struct Staging<'d, D> {
    disk: &'d mut D,
    manifest: Manifest,
    path: String,
    /// Bytes that are there.
    at: u64,
}

/// Step 3 is done: it is whole, and what the manifest says.
struct Verified<'d, D>(Staging<'d, D>);

/// Step 4 is done: the running slot is the only one.
struct Ready<'d, D>(Staging<'d, D>);

impl<'d, D: Disk> Staging<'d, D> {
    /// Clears away what is left over, and looks how much of this system is there already.
    fn begin(disk: &'d mut D, manifest: Manifest, facts: &Facts) -> Result<Self, InstallError> {
        let step = "deleting what is left of an earlier attempt";
        let files = disk.list(slots::FOLDER).map_err(at("reading the slots' folder"))?;
        let slots = Slots::of(files.iter().map(|entry| &entry.name));
        let running = slots.running(&facts.loader)?;
        let name = slots::new_name(manifest.build.get(), &manifest.uki.sha256);
        let total = manifest.uki.bytes;
        let (mut bytes, mut has_deleted) = (0, false);
        for entry in &files {
            let Some(leftover) = Leftover::parse(&entry.name) else { continue };
            let twins: Vec<&Slot> =
                slots.iter().filter(|slot| slot.build() == leftover.build).collect();
            let is_wanted = entry.name.eq_ignore_ascii_case(&name) && entry.bytes <= total;
            if is_wanted && twins.is_empty() {
                bytes = entry.bytes;
                continue;
            }
            // Should a folder have grown so that a rename was two sectors after all, both names may be of
            // the same clusters: then both go, or both stay.
            let is_kept = match running {
                Running::Slot(slot) => twins.contains(&slot),
                Running::Recovery => {
                    leftover.is_new && twins.iter().any(|slot| slot.trust() == Trust::Good)
                }
            };
            if is_kept {
                continue;
            }
            for file in twins.into_iter().map(Slot::file).chain([entry.name.as_str()]) {
                disk.delete(&path(slots::FOLDER, file)).map_err(at(step))?;
            }
            has_deleted = true;
        }
        if has_deleted {
            disk.sync().map_err(at(step))?;
        }
        let free = disk.free_bytes().map_err(at("asking how much room there is"))?;
        let needed = total - bytes + SPARE_BYTES;
        if free < needed {
            return Err(Refusal::NoRoom { needed, free }.into());
        }
        Ok(Self { disk, manifest, path: path(slots::FOLDER, &name), at: bytes })
    }

    /// Of the bytes that are there from an earlier attempt, if any.
    fn hasher_if_resumed(&mut self) -> Result<Option<Hasher>, InstallError> {
        if self.at == 0 {
            return Ok(None);
        }
        // They may be in the cache alone.
        self.disk.sync().map_err(at("writing out an earlier attempt"))?;
        match self.hash(self.at) {
            Ok((hasher, _)) => Ok(Some(hasher)),
            Err(InstallError::ReadBack | InstallError::Disk { .. }) => {
                self.throw_away()?;
                Err(InstallError::Earlier)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes bytes of the bundle.
    fn take(
        &mut self,
        reader: &mut Reader<'_>,
        mut input: &[u8],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), InstallError> {
        while let Some(event) = reader.read(&mut input)? {
            if let Event::Uki(bytes) = event {
                self.disk
                    .write(&self.path, self.at, bytes)
                    .map_err(at("writing the new system"))?;
                self.at += bytes.len() as u64;
                progress(self.at, self.manifest.uki.bytes);
            }
        }
        Ok(())
    }

    /// Step 3.
    fn finish(mut self) -> Result<Verified<'d, D>, InstallError> {
        self.disk.sync().map_err(at("writing the new system out"))?;
        match self.look() {
            Ok(()) => Ok(Verified(self)),
            Err(error) => {
                self.throw_away()?;
                Err(error)
            }
        }
    }

    fn look(&mut self) -> Result<(), InstallError> {
        let (hasher, start) = self.hash(self.manifest.uki.bytes)?;
        if hasher.finish() != self.manifest.uki.sha256 {
            return Err(InstallError::ReadBack);
        }
        let layout = uki::layout(&start, &self.manifest)?;
        let os_release = self.section(layout.os_release)?;
        let cmdline = self.section(layout.cmdline)?;
        Ok(uki::check_texts(&os_release, &cmdline, &self.manifest)?)
    }

    /// The next attempt begins anew.
    fn throw_away(&mut self) -> Result<(), InstallError> {
        let step = "deleting the new system, which cannot be used";
        let files = self.disk.list(slots::FOLDER).map_err(at(step))?;
        let is_there = |entry: &Entry| self.path.ends_with(&format!("/{}", entry.name));
        if !files.iter().any(is_there) {
            return Ok(());
        }
        self.disk.delete(&self.path).map_err(at(step))?;
        self.disk.sync().map_err(at(step))
    }

    /// Reads so many bytes back; with the first of them, in which the headers are.
    fn hash(&mut self, bytes: u64) -> Result<(Hasher, Vec<u8>), InstallError> {
        let (mut hasher, mut start, mut done) = (Hasher::default(), Vec::new(), 0);
        let mut buffer = vec![0; PIECE_BYTES];
        while done < bytes {
            let piece = self.read_back(done, bytes - done, &mut buffer)?;
            if piece.is_empty() {
                // Shorter than its folder says.
                return Err(InstallError::ReadBack);
            }
            hasher.update(piece);
            if done < HEADERS_BYTES_MAX {
                start.extend_from_slice(piece);
            }
            done += piece.len() as u64;
        }
        start.truncate(usize::try_from(HEADERS_BYTES_MAX).unwrap_or(usize::MAX));
        Ok((hasher, start))
    }

    fn section(&mut self, section: Section) -> Result<Vec<u8>, InstallError> {
        let mut bytes = vec![0; usize::try_from(section.bytes).unwrap_or_default()];
        let len = self.read_back(section.at, section.bytes, &mut bytes)?.len();
        if len == bytes.len() { Ok(bytes) } else { Err(InstallError::ReadBack) }
    }

    fn read_back<'b>(
        &mut self,
        place: u64,
        most: u64,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], InstallError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        let into = buffer.get_mut(..most).unwrap_or_default();
        let len = self
            .disk
            .read_back(&self.path, place, into)
            .map_err(at("reading the new system back"))?;
        Ok(buffer.get(..len.min(most)).unwrap_or_default())
    }
}

impl<'d, D: Disk> Verified<'d, D> {
    /// Step 4.
    fn make_room(self, facts: &Facts) -> Result<Ready<'d, D>, InstallError> {
        let staging = self.0;
        // Anew, since a while has passed.
        let slots = slots(staging.disk)?;
        check_running(&slots, facts)?;
        let running = slots.running(&facts.loader)?;
        for slot in slots.replaced_by(staging.manifest.build.get(), running) {
            delete_slot(staging.disk, slot, &staging.path)?;
        }
        Ok(Ready(staging))
    }
}

/// First its name, so that the loader never sees half of it; then its clusters. The system at `new` stays,
/// which may be of the same build.
fn delete_slot(disk: &mut impl Disk, slot: &Slot, new: &str) -> Result<(), InstallError> {
    let step = "deleting the other slot";
    let old = slots::old_name(slot.build());
    disk.sync().map_err(at(step))?;
    commit(disk, &path(slots::FOLDER, slot.file()), &old)?;
    disk.delete(&path(slots::FOLDER, &old)).map_err(at(step))?;
    // Another name of the same clusters, if any.
    for entry in disk.list(slots::FOLDER).map_err(at(step))? {
        let path = path(slots::FOLDER, &entry.name);
        let is_of_it =
            Leftover::parse(&entry.name).is_some_and(|leftover| leftover.build == slot.build());
        if is_of_it && !path.eq_ignore_ascii_case(new) {
            disk.delete(&path).map_err(at(step))?;
        }
    }
    disk.sync().map_err(at(step))
}

impl<D: Disk> Ready<'_, D> {
    /// Step 5.
    fn commit(self) -> Result<(Manifest, String), InstallError> {
        let Staging { disk, manifest, path, .. } = self.0;
        let file = slots::file_name(manifest.build.get(), Trust::Trial { left: TRIES, done: 0 });
        commit(disk, &path, &file)?;
        Ok((manifest, file))
    }
}

/// Renames a file into the slots' folder, syncs, and looks.
fn commit(disk: &mut impl Disk, from: &str, to: &str) -> Result<(), InstallError> {
    disk.rename(from, &path(slots::FOLDER, to)).map_err(at("renaming a slot"))?;
    disk.sync().map_err(at("writing a slot's new name out"))?;
    let files = disk.list(slots::FOLDER).map_err(at("reading the slots' folder"))?;
    let has = |name: &str| files.iter().any(|entry: &Entry| entry.name.eq_ignore_ascii_case(name));
    let is_left = from.rsplit_once('/').is_some_and(|(folder, name)| {
        folder == slots::FOLDER && !name.eq_ignore_ascii_case(to) && has(name)
    });
    if has(to) && !is_left {
        return Ok(());
    }
    Err(InstallError::NotDone(format!("{from} is not called {to}")))
}

/// For `map_err`: the step that failed.
fn at(step: &'static str) -> impl FnOnce(io::Error) -> InstallError {
    move |source| InstallError::Disk { step, source }
}

fn path(folder: &str, name: &str) -> String {
    format!("{folder}/{name}")
}
