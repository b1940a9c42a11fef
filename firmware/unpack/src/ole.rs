//! Compound files ([MS-CFB], "OLE"): the older Office documents, `.msg`, `.msi`, and the projects
//! of macros in the newer ones. Every stream is a member; what streams of known kinds wrap is one
//! too.

use crate::bytes::{
    add_name, before_nul, length, piece, piece_or_less, text, text_utf16, u16_le, u32_le,
};
use crate::inflate::{Deflate, Stream};
use crate::work::{End, Sized, Work};
use crate::{compound, ovba, zlib};
use std::collections::HashMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

pub(crate) const MAGIC: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";

/// Streams that hold an embedded file as the programs of Windows wrap it.
const NATIVE: &str = "\u{1}Ole10Native";
/// The content of an Office document that is encrypted ([MS-OFFCRYPTO] section 2.3.4.4).
const ENCRYPTED: &str = "EncryptedPackage";
/// A message's attachment in `.msg`, and its names: display, short, long ([MS-OXMSG] section
/// 2.2.2).
const ATTACHMENT: &str = "__substg1.0_37010102";
const ATTACHMENT_NAMES: [&str; 3] = ["__substg1.0_3001", "__substg1.0_3704", "__substg1.0_3707"];
/// Longest name in an Ole10Native stream, or value of a name in `.msg`, in bytes.
const NAME_BYTES_MAX: usize = 4096;

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    if let Ok(mut file) = cfb::CompoundFile::open(Cursor::new(bytes)) {
        let entries = file.walk().filter(cfb::Entry::is_stream);
        let paths: Vec<PathBuf> = entries.map(|entry| entry.path().to_owned()).collect();
        let texts: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let mut read = |index: usize, work: &mut Work<'_>| {
            let path = paths.get(index).map(PathBuf::as_path).unwrap_or(Path::new(""));
            match file.open_stream(path) {
                Ok(mut reader) => work.read(&mut Sized::new(&mut reader, bytes.len())),
                Err(_) => (Vec::new(), End::Broken),
            }
        };
        streams(&texts, &mut read, work);
    } else if let Some(file) = compound::File::open(bytes) {
        let mut read = |index: usize, work: &mut Work<'_>| {
            let (content, is_whole) = file.read(index);
            let (content, end) = work.read(&mut Sized::new(&mut &*content, bytes.len()));
            (content, if is_whole || end == End::Limit { end } else { End::Broken })
        };
        streams(&file.paths(), &mut read, work);
    } else {
        work.damaged("its structure");
    }
}

/// Reads the stream of this number.
type ReadStream<'a> = dyn FnMut(usize, &mut Work<'_>) -> (Vec<u8>, End) + 'a;

fn streams(paths: &[String], read: &mut ReadStream<'_>, work: &mut Work<'_>) {
    let names = attachment_names(paths, read, work);
    let hangul = hangul_header(paths, read, work);
    if hangul == Some(Hangul::Encrypted) {
        work.encrypted();
    }
    for (index, path) in paths.iter().enumerate() {
        let (parent, own) = path.rsplit_once('/').unwrap_or(("", path));
        if own == ENCRYPTED {
            work.encrypted();
        }
        if !work.begin() {
            return;
        }
        let (content, end) = read(index, work);
        if end == End::Broken {
            work.damaged("a stream is cut off");
        }
        look_inside(own, &content, work);
        if hangul == Some(Hangul::Packed) {
            let names = vec![path.trim_start_matches('/').to_owned()];
            // Which streams are packed is not said here: those that are not break off.
            inflated(names, &content, work);
        }
        let names = match names.get(parent) {
            Some(names) if own == ATTACHMENT => names.clone(),
            _ => vec![path.trim_start_matches('/').to_owned()],
        };
        work.hand_out(names, content, false);
    }
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
        // The token of an encrypted presentation ([MS-PPT] section 2.3.2).
        "Current User" if u32_le(content, 12) == Some(0xf3d1_c4df) => work.encrypted(),
        "PowerPoint Document" => {
            for packed in packed_objects(content) {
                if inflated(Vec::new(), packed, work) == End::Broken {
                    work.damaged("a packed object");
                }
            }
        }
        _ => {
            for packed in ovba::modules(content) {
                let mut decoder = ovba::Decoder::new(packed);
                let names = vec![format!("{name}.bas")];
                work.member(names, &mut Sized::new(&mut decoder, packed.len()), false);
            }
        }
    }
}

/// Hands out what some bytes inflate to, if that is anything, and a document behind its length.
fn inflated(names: Vec<String>, packed: &[u8], work: &mut Work<'_>) -> End {
    const LENGTH_BYTES: usize = 4;
    if !work.begin() {
        return End::Limit;
    }
    let (content, end) = work.read(&mut Stream::new(packed, Deflate::new()));
    if let Some(inner) = content.get(LENGTH_BYTES..).filter(|inner| inner.starts_with(MAGIC)) {
        work.slice(names.clone(), inner, false);
    }
    if !content.is_empty() {
        work.hand_out(names, content, false);
    }
    end
}

/// What the header of a Hangul document says, if this is one.
fn hangul_header(
    paths: &[String],
    read: &mut ReadStream<'_>,
    work: &mut Work<'_>,
) -> Option<Hangul> {
    let at = paths.iter().position(|path| path.trim_start_matches('/') == "FileHeader")?;
    if !work.begin() {
        return None;
    }
    hangul(&read(at, work).0)
}

/// The embedded objects of a presentation ([MS-PPT] section 2.10.34) that are packed: what follows
/// their headers in the stream of the document.
fn packed_objects(document: &[u8]) -> impl Iterator<Item = &[u8]> {
    /// Version 0, instance 1 (packed), ExOleObjStg.
    const HEADER: &[u8] = b"\x10\0\x11\x10";
    const SIZE_BYTES: usize = 4;
    memchr::memmem::find_iter(document, HEADER).filter_map(|at| {
        let size = length(u32_le(document, at + HEADER.len())?);
        let begin = at + HEADER.len() + SIZE_BYTES;
        let object = document.get(begin..begin.saturating_add(size).min(document.len()))?;
        object.get(SIZE_BYTES..).filter(|packed| zlib::is_header(packed))?.get(zlib::HEADER_BYTES..)
    })
}

/// What the header of a Hangul document says of its other streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hangul {
    Plain,
    Packed,
    Encrypted,
}

/// Reads the stream `FileHeader` of a Hangul document (HWP 5.0 section 3.2.1).
fn hangul(header: &[u8]) -> Option<Hangul> {
    piece(header, 0, 17).filter(|name| *name == b"HWP Document File")?;
    let flags = u16_le(header, 36)?;
    Some(match (flags & 2 != 0, flags & 1 != 0) {
        (true, _) => Hangul::Encrypted,
        (false, true) => Hangul::Packed,
        (false, false) => Hangul::Plain,
    })
}

/// The names and the content of an embedded file ([MS-OLEDS] section 2.3.6, and what the packager
/// puts there): a size, two bytes, label, path, eight bytes' worth of flags and path again,
/// content.
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
fn attachment_names<'p>(
    paths: &'p [String],
    read: &mut ReadStream<'_>,
    work: &mut Work<'_>,
) -> HashMap<&'p str, Vec<String>> {
    let mut all: HashMap<&str, Vec<String>> = HashMap::new();
    for (index, path) in paths.iter().enumerate() {
        let (parent, own) = path.rsplit_once('/').unwrap_or(("", path));
        if !ATTACHMENT_NAMES.iter().any(|prefix| own.starts_with(prefix)) || !work.begin() {
            continue;
        }
        let (value, _) = read(index, work);
        let value = piece_or_less(&value, 0, NAME_BYTES_MAX);
        let name = if own.ends_with("1F") { text_utf16(value) } else { text(value) };
        add_name(all.entry(parent).or_default(), name);
    }
    all
}
