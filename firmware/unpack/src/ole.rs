//! Compound files ([MS-CFB], "OLE"): the older Office documents, `.msg`, `.msi`, and the projects of
//! macros in the newer ones. Every stream is a member; what streams of known kinds wrap is one too.

use crate::bytes::{add_name, before_nul, length, piece_or_less, text, text_utf16, u16_le, u32_le};
use crate::ovba;
use crate::work::{End, Sized, Work};
use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

pub(crate) const MAGIC: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";

/// Streams that hold an embedded file as the programs of Windows wrap it.
const NATIVE: &str = "\u{1}Ole10Native";
/// The content of an Office document that is encrypted ([MS-OFFCRYPTO] section 2.3.4.4).
const ENCRYPTED: &str = "EncryptedPackage";
/// A message's attachment in `.msg`, and its names: display, short, long ([MS-OXMSG] section 2.2.2).
const ATTACHMENT: &str = "__substg1.0_37010102";
const ATTACHMENT_NAMES: [&str; 3] = ["__substg1.0_3001", "__substg1.0_3704", "__substg1.0_3707"];
/// Longest name in an Ole10Native stream, or value of a name in `.msg`, in bytes.
const NAME_BYTES_MAX: usize = 4096;

type File<'a> = cfb::CompoundFile<Cursor<&'a [u8]>>;

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let Ok(mut file) = cfb::CompoundFile::open(Cursor::new(bytes)) else {
        return work.damaged("its structure");
    };
    let streams: Vec<PathBuf> =
        file.walk().filter(cfb::Entry::is_stream).map(|entry| entry.path().to_owned()).collect();
    let names = attachment_names(&mut file, &streams);
    for path in &streams {
        if work.is_over() {
            return;
        }
        stream(&mut file, path, &names, work);
    }
}

fn stream(
    file: &mut File<'_>,
    path: &Path,
    names: &HashMap<PathBuf, Vec<String>>,
    work: &mut Work<'_>,
) {
    let own = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if own == ENCRYPTED {
        work.encrypted();
    }
    if !work.begin() {
        return;
    }
    let Ok(mut reader) = file.open_stream(path) else { return work.damaged("a stream") };
    let packed = work.packed();
    let (content, end) = work.read(&mut Sized::new(&mut reader, packed));
    if end == End::Broken {
        work.damaged("a stream is cut off");
    }
    look_inside(&own, &content, work);
    let names = match path.parent().and_then(|parent| names.get(parent)) {
        Some(names) if own == ATTACHMENT => names.clone(),
        _ => vec![path.to_string_lossy().trim_start_matches('/').to_owned()],
    };
    work.hand_out(names, content, false);
}

/// Hands out what a stream wraps, and says if a document in it is encrypted.
fn look_inside(name: &str, content: &[u8], work: &mut Work<'_>) {
    match name {
        NATIVE => {
            if let Some((names, file)) = native(content) {
                work.slice(names, file, false);
            }
        }
        "WordDocument" if u16_le(content, 10).is_some_and(|flags| flags & 0x100 != 0) => {
            work.encrypted();
        }
        "Workbook" | "Book" if is_encrypted_workbook(content) => work.encrypted(),
        _ => {
            for packed in ovba::modules(content) {
                let mut decoder = ovba::Decoder::new(packed);
                let names = vec![format!("{name}.bas")];
                work.member(names, &mut Sized::new(&mut decoder, packed.len()), false);
            }
        }
    }
}

/// The names and the content of an embedded file ([MS-OLEDS] section 2.3.6, and what the packager
/// puts there): a size, two bytes, label, path, eight bytes' worth of flags and path again, content.
pub(crate) fn native(content: &[u8]) -> Option<(Vec<String>, &[u8])> {
    let mut rest = content.get(6..)?;
    let mut names = Vec::new();
    for _ in 0..2 {
        let name = before_nul(piece_or_less(rest, 0, NAME_BYTES_MAX));
        rest = rest.get(name.len() + 1..)?;
        add_name(&mut names, text(name));
    }
    let path_bytes = length(u32_le(rest, 4)?);
    rest = rest.get(8..)?;
    add_name(&mut names, text(before_nul(rest.get(..path_bytes)?)));
    rest = rest.get(path_bytes..)?;
    let size = length(u32_le(rest, 0)?);
    Some((names, piece_or_less(rest, 4, size)))
}

/// Whether one of the first records of a workbook says that the others are encrypted
/// ([MS-XLS] section 2.4.117).
fn is_encrypted_workbook(content: &[u8]) -> bool {
    const FILE_PASS: u16 = 0x2f;
    const RECORDS_MAX: usize = 16;
    let mut at = 0;
    for _ in 0..RECORDS_MAX {
        match u16_le(content, at).zip(u16_le(content, at + 2)) {
            Some((FILE_PASS, _)) => return true,
            Some((_, size)) => at += 4 + usize::from(size),
            None => return false,
        }
    }
    false
}

/// The names of a message's attachments, by the storage that holds each.
fn attachment_names(file: &mut File<'_>, streams: &[PathBuf]) -> HashMap<PathBuf, Vec<String>> {
    let mut all: HashMap<PathBuf, Vec<String>> = HashMap::new();
    for path in streams {
        let own = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let own = own.unwrap_or_default();
        let is_name = ATTACHMENT_NAMES.iter().any(|prefix| own.starts_with(prefix));
        let Some(parent) = path.parent().filter(|_| is_name) else { continue };
        let Ok(reader) = file.open_stream(path) else { continue };
        let mut value = Vec::new();
        let limit = u64::try_from(NAME_BYTES_MAX).unwrap_or(u64::MAX);
        if reader.take(limit).read_to_end(&mut value).is_ok() {
            let name = if own.ends_with("1F") { text_utf16(&value) } else { text(&value) };
            add_name(all.entry(parent.to_owned()).or_default(), name);
        }
    }
    all
}
