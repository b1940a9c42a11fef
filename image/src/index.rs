//! The index of updates that a fleet's boxes look at: what there is, and for how many of them.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use box_update::bundle::{BUNDLE_BYTES_MAX, Event, Reader};
use box_update::rollout::{
    INDEX_BYTES_MAX, INDEX_FILE, INDEX_FORMAT, INDEX_SIGNATURE_FILE, Index, Offer,
};
use box_update::{Keys, Manifest};

use crate::ImageError;
use crate::bundle::minisign;
use crate::error::Step as _;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Writes and signs the index of a folder that a web server serves. `offers` are names of bundles in it
/// with the share of boxes that take them, in percent; `now` is the time, in seconds since 1970 UTC. An
/// index that is there is replaced, and is older than the new one.
///
/// # Errors
/// A bundle is not there, not whole, or not signed by a key of this build; what is there stays then.
pub fn write(
    folder: &Path,
    offers: &[(String, u8)],
    key: &Path,
    now: u64,
) -> Result<Index, ImageError> {
    let path = folder.join(INDEX_FILE);
    let step = || format!("writing {}", path.display());
    let keys = Keys::built_in().map_err(std::io::Error::other).step(step)?;
    let before = former(&path).map_or(0, |index| index.issued_at.saturating_add(1));
    let offers = offers
        .iter()
        .map(|(file, percent)| offer(folder, file, *percent, &keys))
        .collect::<Result<_, _>>()?;
    let product = "avr".to_owned();
    let index = Index { format: INDEX_FORMAT, product, issued_at: now.max(before), offers };
    let text = index.to_toml().map_err(std::io::Error::other).step(step)?;
    // Beside their places first: should the key not be had, what is there stays.
    let (new, signature) = (folder.join(".index.new"), folder.join(".index.new.minisig"));
    let done = fs::write(&new, &text).step(step).and_then(|()| {
        let trusted = format!("avr index of updates, {} offers", index.offers.len());
        minisign(key, &new, &signature, "avr index of updates", &trusted)?;
        let signed = fs::read(&signature).step(step)?;
        // As a box of this build takes it, or not at all.
        Index::open(text.as_bytes(), &signed, &keys).map_err(std::io::Error::other).step(step)?;
        // A box that comes between the two sees a signature that does not hold, and comes again.
        fs::rename(&signature, folder.join(INDEX_SIGNATURE_FILE)).step(step)?;
        fs::rename(&new, &path).step(step)
    });
    if done.is_err() {
        let _ = fs::remove_file(&new);
        let _ = fs::remove_file(&signature);
    }
    done.map(|()| index)
}

/// What is there, if it can be read.
fn former(path: &Path) -> Option<Index> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(INDEX_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    Index::parse(&bytes).ok()
}

/// Reads a bundle as a box would.
fn offer(folder: &Path, file: &str, percent: u8, keys: &Keys) -> Result<Offer, ImageError> {
    let path: PathBuf = folder.join(file);
    let step = || format!("reading the bundle {}", path.display());
    let (manifest, bytes) = read(&path, keys).step(step)?;
    let Manifest { board, version, build, uki, .. } = manifest;
    let file = file.to_owned();
    Ok(Offer { board, version, build, percent, file, bytes, sha256: uki.sha256 })
}

fn read(path: &Path, keys: &Keys) -> std::io::Result<(Manifest, u64)> {
    let other = std::io::Error::other;
    let mut source = File::open(path)?.take(BUNDLE_BYTES_MAX + 1);
    let mut reader = Reader::new(keys);
    let mut found = None;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let len = source.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        let mut input = buffer.get(..len).unwrap_or_default();
        while let Some(event) = reader.read(&mut input).map_err(other)? {
            if let Event::Manifest(manifest) = event {
                found = Some(*manifest);
            }
        }
    }
    let bytes = reader.position();
    reader.finish().map_err(other)?;
    // A whole one has a manifest.
    found
        .map(|manifest| (manifest, bytes))
        .ok_or_else(|| std::io::Error::other("it has no manifest"))
}
