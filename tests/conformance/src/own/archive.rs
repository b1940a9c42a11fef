//! Archives, made here byte by byte, with one oddity each.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};

use super::Soundness::{self, Broken, Sound};
use super::twins;
use crate::case::{Case, Setup};
use crate::corpus::with_attachment;

/// Name of the case, file name, soundness, and the archive round a payload.
type Form = (&'static str, &'static str, Soundness, fn(&[u8]) -> Vec<u8>);

const FORMS: &[Form] = &[
    ("zip-stored", "a.zip", Sound, |p| zip(&[Member::new("x.com", p).stored()])),
    ("zip-deflated", "a.zip", Sound, |p| zip(&[Member::new("x.com", p)])),
    ("zip-without-extension", "note", Sound, |p| zip(&[Member::new("x.com", p)])),
    ("zip-as-text", "note.txt", Sound, |p| zip(&[Member::new("x.com", p)])),
    ("zip-second-of-three", "a.zip", Sound, |p| {
        zip(&[Member::new("a", b"a"), Member::new("x.com", p), Member::new("z", b"z")])
    }),
    ("zip-last-of-400", "a.zip", Sound, |p| {
        let names: Vec<String> = (0..399).map(|number| format!("file-{number}")).collect();
        let mut members: Vec<_> = names.iter().map(|name| Member::new(name, b"text")).collect();
        members.push(Member::new("x.com", p));
        zip(&members)
    }),
    ("zip-empty-name", "a.zip", Sound, |p| zip(&[Member::new("", p)])),
    ("zip-name-as-folder", "a.zip", Broken, |p| zip(&[Member::new("folder/", p)])),
    ("zip-name-up", "a.zip", Sound, |p| zip(&[Member::new("../../../../etc/x", p)])),
    ("zip-names-alike", "a.zip", Broken, |p| {
        zip(&[Member::new("same", b"clean"), Member::new("same", p)])
    }),
    ("zip-in-zip-2", "a.zip", Sound, |p| wrapped(2, p)),
    ("zip-in-zip-8", "a.zip", Sound, |p| wrapped(8, p)),
    ("zip-behind-1-byte", "a.exe", Sound, |p| behind(1, &zip(&[Member::new("x.com", p)]))),
    ("zip-behind-70000-bytes", "a.exe", Sound, |p| {
        behind(70_000, &zip(&[Member::new("x.com", p)]))
    }),
    ("zip-before-junk", "a.zip", Broken, |p| {
        [zip(&[Member::new("x.com", p)]), vec![b'j'; 1000]].concat()
    }),
    ("zip-behind-zip", "a.zip", Broken, |p| {
        [zip(&[Member::new("x.com", p)]), zip(&[Member::new("a", b"clean")])].concat()
    }),
    ("zip-in-comment", "a.zip", Broken, |p| {
        commented(&zip(&[Member::new("a", b"clean")]), &zip(&[Member::new("x.com", p)]))
    }),
    ("zip-without-directory", "a.zip", Broken, |p| {
        let whole = zip(&[Member::new("x.com", p)]);
        let end = whole.windows(4).position(|window| window == b"PK\x01\x02");
        whole.get(..end.unwrap_or_default()).unwrap_or_default().to_vec()
    }),
    ("zip-local-name-differs", "a.zip", Broken, |p| {
        changed(&zip(&[Member::new("x.com", p)]), b"x.com", b"a.txt")
    }),
    ("zip-wrong-crc", "a.zip", Broken, |p| zip(&[Member { crc: Some(1), ..Member::new("x", p) }])),
    ("zip-descriptor", "a.zip", Sound, |p| {
        zip(&[Member { descriptor: true, ..Member::new("x.com", p) }])
    }),
    ("zip-flag-encrypted", "a.zip", Soundness::Closed, |p| {
        zip(&[Member { flags: 1, ..Member::new("x.com", p) }])
    }),
    ("zip-unknown-method", "a.zip", Soundness::Closed, |p| {
        zip(&[Member { method: Some(77), ..Member::new("x.com", p) }])
    }),
    ("gz", "a.gz", Sound, |p| gz(p)),
    ("gz-two-members", "a.gz", Sound, |p| [gz(b"clean text\n"), gz(p)].concat()),
    ("gz-in-zip", "a.zip", Sound, |p| zip(&[Member::new("x.gz", &gz(p))])),
    ("zip-in-gz", "a.gz", Sound, |p| gz(&zip(&[Member::new("x.com", p)]))),
    ("gz-cut-off", "a.gz", Broken, |p| {
        let whole = gz(p);
        whole.get(..whole.len() - 8).unwrap_or_default().to_vec()
    }),
    ("tar", "a.tar", Sound, |p| tar(&[("a.txt", b"clean"), ("x.com", p)])),
    ("tar-gz", "a.tar.gz", Sound, |p| gz(&tar(&[("x.com", p)]))),
    ("tar-in-zip", "a.zip", Sound, |p| zip(&[Member::new("x.tar", &tar(&[("x.com", p)]))])),
    ("mail-in-zip", "a.zip", Sound, |p| zip(&[Member::new("m.eml", &with_attachment("x.com", p))])),
    ("zip-in-mail-in-zip", "a.zip", Sound, |p| {
        let inner = with_attachment("x.zip", &zip(&[Member::new("x.com", p)]));
        zip(&[Member::new("m.eml", &inner)])
    }),
];

/// Each with its clean twin.
#[must_use]
pub fn cases() -> Vec<Case> {
    let form = |&(name, file_name, soundness, archive): &Form| {
        twins("own/archive", name, Setup::Archive, soundness, move |payload| {
            // Blanks behind the test file are part of its definition, and make it compressible:
            // without them a packer would store it as it is, for everyone to see.
            let payload = [payload, &[b' '; 60]].concat();
            with_attachment(file_name, &archive(&payload))
        })
    };
    FORMS.iter().flat_map(form).collect()
}

/// One file in a zip, with what its headers say of it.
#[derive(Clone, Copy)]
struct Member<'a> {
    name: &'a str,
    content: &'a [u8],
    is_stored: bool,
    descriptor: bool,
    flags: u16,
    method: Option<u16>,
    crc: Option<u32>,
}

impl<'a> Member<'a> {
    fn new(name: &'a str, content: &'a [u8]) -> Self {
        Self {
            name,
            content,
            is_stored: false,
            descriptor: false,
            flags: 0,
            method: None,
            crc: None,
        }
    }

    fn stored(self) -> Self {
        Self { is_stored: true, ..self }
    }

    /// From the version needed to the length of the extra field, as both headers have it.
    fn fields(&self, packed: usize, in_local: bool) -> Vec<u8> {
        let mut crc = flate2::Crc::new();
        crc.update(self.content);
        let hidden = self.descriptor && in_local;
        let sizes = [self.crc.unwrap_or(crc.sum()), four(packed), four(self.content.len())];
        let flags = self.flags | if self.descriptor { 8 } else { 0 };
        let method = self.method.unwrap_or(if self.is_stored { 0 } else { 8 });
        let mut out = Vec::new();
        for two in [20, flags, method, 0, 0x21] {
            out.extend_from_slice(&u16::to_le_bytes(two));
        }
        for size in sizes {
            out.extend_from_slice(&if hidden { 0 } else { size }.to_le_bytes());
        }
        out.extend_from_slice(&two(self.name.len()));
        out.extend_from_slice(&[0, 0]);
        out
    }

    fn packed(&self) -> Vec<u8> {
        if self.is_stored {
            return self.content.to_vec();
        }
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        // Writing to memory does not fail.
        drop(encoder.write_all(self.content));
        encoder.finish().unwrap_or_default()
    }
}

/// A zip (APPNOTE 4.3).
fn zip(members: &[Member<'_>]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        let (offset, packed) = (out.len(), member.packed());
        out.extend_from_slice(b"PK\x03\x04");
        out.extend_from_slice(&member.fields(packed.len(), true));
        out.extend_from_slice(member.name.as_bytes());
        out.extend_from_slice(&packed);
        let fields = member.fields(packed.len(), false);
        if member.descriptor {
            out.extend_from_slice(b"PK\x07\x08");
            out.extend_from_slice(fields.get(10..22).unwrap_or_default());
        }
        directory.extend_from_slice(b"PK\x01\x02\x14\x00");
        directory.extend_from_slice(&fields);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&four(offset).to_le_bytes());
        directory.extend_from_slice(member.name.as_bytes());
    }
    let (count, at) = (two(members.len()), four(out.len()));
    let size = four(directory.len());
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&count);
    out.extend_from_slice(&count);
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out
}

fn two(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes()
}

fn four(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A zip of one file, deflated.
pub(super) fn packed(name: &str, content: &[u8]) -> Vec<u8> {
    zip(&[Member::new(name, content)])
}

/// Zips in zips.
fn wrapped(depth: usize, payload: &[u8]) -> Vec<u8> {
    let inner = zip(&[Member::new("x.com", payload)]);
    (1..depth).fold(inner, |inner, _| zip(&[Member::new("inner.zip", &inner)]))
}

/// Bytes before the archive, as of a self-extractor.
fn behind(count: usize, archive: &[u8]) -> Vec<u8> {
    [vec![b'M'; count], archive.to_vec()].concat()
}

/// A zip with a comment, whose length stands at its end.
fn commented(archive: &[u8], comment: &[u8]) -> Vec<u8> {
    let mut out = archive.to_vec();
    out.truncate(out.len().saturating_sub(2));
    out.extend_from_slice(&two(comment.len()));
    out.extend_from_slice(comment);
    out
}

/// The first of these replaced.
fn changed(archive: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let Some(at) = archive.windows(from.len()).position(|window| window == from) else {
        return archive.to_vec();
    };
    let (before, rest) = archive.split_at(at);
    [before, to, rest.get(from.len()..).unwrap_or_default()].concat()
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    drop(encoder.write_all(content));
    encoder.finish().unwrap_or_default()
}

/// A tar (POSIX ustar).
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in members {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(field) = header.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        put(0, name.as_bytes());
        put(100, b"0000644\x000000000\x000000000\x00");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0        0");
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        if let Some(field) = header.get_mut(148..156) {
            field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_has_its_sum() {
        let archive = tar(&[("a", b"x")]);
        assert_eq!(archive.len(), 512 + 512 + 1024);
        assert_eq!(&archive[257..263], b"ustar\0");
        let said = std::str::from_utf8(&archive[148..154]).unwrap();
        // The sum is made with blanks in its own place.
        let others = archive[..148].iter().chain(&archive[156..512]);
        let sum = others.map(|&byte| u32::from(byte)).sum::<u32>() + 8 * u32::from(b' ');
        assert_eq!(u32::from_str_radix(said, 8).unwrap(), sum);
    }

    #[test]
    fn a_zip_says_where_its_directory_is() {
        let archive = zip(&[Member::new("ab", b"text").stored()]);
        let end = archive.len() - 22;
        assert_eq!(&archive[end..end + 4], b"PK\x05\x06");
        let at = u32::from_le_bytes(archive[end + 16..end + 20].try_into().unwrap());
        assert_eq!(&archive[at as usize..at as usize + 4], b"PK\x01\x02");
    }
}
