//! Files that are whole or not there, and small ones of the kernel's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Largest file that is read whole, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Writes a file so that after a power cut either the old or the new one is there.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = folder.join(name);
    // What an earlier attempt left may have another mode.
    let _ = fs::remove_file(&new);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// Reads a small file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a small text, without space at its ends; empty where there is none.
pub(crate) fn text(path: impl AsRef<Path>) -> String {
    let bytes = read(path.as_ref()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_matches(['\0', '\n', ' ']).to_owned()
}

/// Writes to a file of the kernel's.
pub(crate) fn put(path: impl AsRef<Path>, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// Names of what is in a folder, sorted; none where there is no such folder.
pub(crate) fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}
