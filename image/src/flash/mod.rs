//! Writes an image to a disk, and makes of it one unit of a fleet.
//!
//! Looked at first: which disks there are ([`disks`]), the image and its map ([`Release`]), the unit's
//! settings ([`provision`]). Then [`write`] does it, in an order that no power cut can turn into half a
//! box. What the operator needs of the unit is on its [`label`].

pub mod bmap;
pub mod disks;
pub mod label;
pub mod medium;
pub mod provision;
pub mod secret;
mod write;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

pub use self::write::{Guids, Partition, Phase, Progress, Source, Unit, write};
use crate::ImageError;
use crate::error::Step as _;
use bmap::{MAP_BYTES_MAX, Map};

/// Largest list of checksums that is read, in bytes.
const SUMS_BYTES_MAX: u64 = 64 * 1024;
/// Read at once, in bytes.
const CHUNK_BYTES: usize = 1024 * 1024;

/// An image as it is published, with what stands beside it.
#[derive(Debug)]
pub struct Release {
    /// The compressed image.
    pub image: PathBuf,
    /// Its map.
    pub map: Map,
}

impl Release {
    /// Finds map and checksums beside an image, and checks all of it by them.
    ///
    /// # Errors
    /// One of them is missing or damaged.
    pub fn open(image: &Path) -> Result<Self, ImageError> {
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = name.strip_suffix(".img.zst").ok_or_else(|| {
            ImageError::Wrong(format!("{name} is no image; name one, as in avr-BOARD-1.0.img.zst"))
        })?;
        let beside = |ending: &str| image.with_file_name(format!("{stem}{ending}"));
        let sums = read(&beside(".SHA256SUMS"), SUMS_BYTES_MAX)?;
        let (map, map_name) = (beside(".bmap"), format!("{stem}.bmap"));
        for (path, name) in [(&map, &map_name), (&image.to_owned(), &name)] {
            let expected = sums.lines().find_map(|line| {
                line.split_once("  ").filter(|(_, of)| of == name).map(|(sum, _)| sum)
            });
            if expected.is_none_or(|sum| sum.len() != 64) {
                return Err(ImageError::Wrong(format!(
                    "{stem}.SHA256SUMS says nothing of {name}; build or fetch them anew"
                )));
            }
            if Some(hash(path)?.as_str()) != expected {
                return Err(ImageError::Wrong(format!(
                    "{name} is not what {stem}.SHA256SUMS says: it is damaged, or of another build; \
                     build or fetch both anew"
                )));
            }
        }
        Ok(Self { map: Map::parse(&read(&map, MAP_BYTES_MAX)?)?, image: image.to_owned() })
    }
}

fn read(path: &Path, bytes_max: u64) -> Result<String, ImageError> {
    let step = || format!("reading {}, which belongs beside the image", path.display());
    let mut text = String::new();
    File::open(path).step(step)?.take(bytes_max).read_to_string(&mut text).step(step)?;
    Ok(text)
}

fn hash(path: &Path) -> Result<String, ImageError> {
    let step = || format!("reading {}", path.display());
    let mut file = File::open(path).step(step)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = file.read(&mut buffer).step(step)?;
        if length == 0 {
            return Ok(context
                .finish()
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect());
        }
        context.update(&buffer[..length]);
    }
}
