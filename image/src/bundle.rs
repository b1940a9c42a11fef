//! The update bundle: the system, and a manifest that Debian's minisign signs.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;

use board::Board;
use box_update::bundle::{self, MANIFEST_FILE, SIGNATURE_FILE};
use box_update::{FORMAT, Keys, Manifest, Sha256, Uki};

use crate::error::Step as _;
use crate::{ImageError, Release};

/// Who signs updates, and what that shuts out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signing {
    /// File of a secret key of minisign, which asks for its password where it has one.
    pub key: PathBuf,
    /// Once a box has blessed the update, it takes no build below this one; at most the build itself.
    pub floor: u32,
}

/// What is in the bundle.
pub(crate) fn manifest(
    board: &Board,
    release: &Release,
    uki: &[u8],
    sign: &Signing,
) -> Result<Manifest, ImageError> {
    let build = NonZeroU32::new(release.build).ok_or_else(|| {
        ImageError::Wrong("no box takes an update to build 0: count from 1".to_owned())
    })?;
    Ok(Manifest {
        format: FORMAT,
        product: "avr".to_owned(),
        board: board.id.clone(),
        arch: board.arch,
        version: release.version.clone(),
        build,
        min_build_floor: sign.floor,
        built_at: release.epoch.into(),
        commit: release.commit.clone(),
        uki: Uki { bytes: uki.len() as u64, sha256: Sha256::of(uki) },
    })
}

/// Signs the manifest, in a folder for what is in between, and writes the bundle to `to`.
///
/// # Errors
/// No box that is built with this program would take it, or it cannot be written.
pub fn write(
    manifest: &Manifest,
    uki: &[u8],
    sign: &Signing,
    folder: &Path,
    to: &Path,
) -> Result<(), ImageError> {
    let step = || format!("writing {}", to.display());
    let text = manifest.to_toml().map_err(io::Error::other).step(step)?;
    let signature = signature(manifest, &text, &sign.key, folder)?;
    // As a box built with this program takes it, or not at all.
    let keys = Keys::built_in().map_err(io::Error::other).step(step)?;
    let new = folder.join("update.tar");
    let file = File::create(&new).step(step)?;
    bundle::write(text.as_bytes(), &signature, uki, &keys, file)
        .map_err(io::Error::other)
        .step(step)?;
    fs::rename(&new, to).step(step)
}

/// What minisign writes.
fn signature(
    manifest: &Manifest,
    text: &str,
    key: &Path,
    folder: &Path,
) -> Result<Vec<u8>, ImageError> {
    let step = || format!("signing the update with {}", key.display());
    let (file, signature) = (folder.join(MANIFEST_FILE), folder.join(SIGNATURE_FILE));
    fs::write(&file, text).step(step)?;
    let Manifest { product, board, version, build, .. } = manifest;
    let trusted = format!("{product} {board} {version}, build {build}");
    minisign(key, &file, &signature, &format!("{product} update"), &trusted)?;
    fs::read(&signature).step(step)
}

/// Has minisign sign a file. Both comments are given, or it would put the time in: a signature itself is
/// the same for the same bytes.
pub(crate) fn minisign(
    key: &Path,
    file: &Path,
    signature: &Path,
    comment: &str,
    trusted: &str,
) -> Result<(), ImageError> {
    let step = || format!("signing the update with {}", key.display());
    let mut minisign = Command::new("minisign");
    minisign.arg("-S").arg("-s").arg(key).arg("-m").arg(file).arg("-x").arg(signature);
    minisign.args(["-c", comment, "-t", trusted]);
    // With this terminal: it may ask for a password, and says itself what is wrong.
    let status = minisign
        .status()
        .step(|| format!("{}: starting minisign, which is Debian's package minisign", step()))?;
    if !status.success() {
        return Err(ImageError::Program { step: step(), complaint: format!("minisign: {status}") });
    }
    Ok(())
}
