//! The files that `scripts/build-image` made.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use board::Board;
use box_update::Manifest;
use box_update::bundle::MANIFEST_FILE;
use image::layout::Layout;

/// The board that these tests play.
const BOARD: &str = "qemu-x86_64";
/// Names another image than the newest in `target/image`: the path of its `.img.zst`.
const VARIABLE: &str = "AVR_BOOT_IMAGE";

/// An image, and what belongs to it.
#[derive(Debug)]
pub struct Released {
    /// The disk, compressed.
    pub image: PathBuf,
    /// The update bundle.
    pub update: PathBuf,
    /// The system.
    pub uki: Vec<u8>,
    /// What its bundle says of it.
    pub manifest: Manifest,
    /// The board it is for.
    pub board: Board,
    /// Where the partitions are.
    pub layout: Layout,
}

impl Released {
    /// The one that `AVR_BOOT_IMAGE` names, or else the newest that was built in this tree.
    ///
    /// # Errors
    /// There is none, with what to do; or it is damaged.
    pub fn find() -> Result<Self> {
        let image = match std::env::var_os(VARIABLE) {
            Some(path) => PathBuf::from(path),
            None => newest(&tree().join("target/image"))?,
        };
        let name = image.to_string_lossy();
        let stem = name.strip_suffix(".img.zst").context("an image's name ends with .img.zst")?;
        let beside = |ending: &str| PathBuf::from(format!("{stem}{ending}"));
        let (uki, update) = (beside(".efi"), beside(".update.tar"));
        let uki = fs::read(&uki).with_context(|| format!("reading {}", uki.display()))?;
        let manifest = manifest_of(&update)?;
        let board = Board::from_folder(&tree().join("board"), BOARD)?;
        ensure!(manifest.board == board.id, "{name} is for {}, not {BOARD}", manifest.board);
        let layout = Layout::load(&tree().join("image/layout.toml"), board.boot.slots)?;
        Ok(Self { update, uki, manifest, board, layout, image })
    }
}

/// Root of the source tree.
pub(crate) fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn newest(folder: &Path) -> Result<PathBuf> {
    let is_it = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with(&format!("avr-{BOARD}-")) && name.ends_with(".img.zst")
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.filter(|entry| is_it(&entry.file_name()));
    let newest = found.max_by_key(|entry| entry.metadata().and_then(|about| about.modified()).ok());
    newest.map(|entry| entry.path()).with_context(|| {
        format!("no image of {BOARD} in {}: run scripts/build-image {BOARD}", folder.display())
    })
}

fn manifest_of(bundle: &Path) -> Result<Manifest> {
    let step = || format!("reading the manifest of {}", bundle.display());
    let mut archive = tar::Archive::new(File::open(bundle).with_context(step)?);
    for entry in archive.entries().with_context(step)? {
        let mut entry = entry.with_context(step)?;
        if entry.path().with_context(step)?.as_os_str() == MANIFEST_FILE {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).with_context(step)?;
            return Ok(Manifest::parse(&bytes)?);
        }
    }
    anyhow::bail!("{} has no {MANIFEST_FILE}", bundle.display())
}
