//! Tells containers by their bytes, whatever they are called.

use crate::bytes::{length, u32_le, u64_le};
use crate::{
    base64, cab, card, cms, foreign, iso, lha, lz4, markup, ole, onenote, openpgp, pdf, rar, rtf,
    sevenz, tar, tnef, unix, zip, zlib,
};

/// A kind of container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Zip, and what is one: Office documents of today, jar, odt, epub, apk.
    Zip,
    /// Gzip.
    Gzip,
    /// Bzip2.
    Bzip2,
    /// Xz.
    Xz,
    /// LZMA without a container ("lzma alone").
    Lzma,
    /// Lzip.
    Lzip,
    /// Zstandard.
    Zstd,
    /// What compress(1) makes (`.Z`).
    Compress,
    /// Tar.
    Tar,
    /// Ar, `.deb`.
    Ar,
    /// Cpio.
    Cpio,
    /// 7z.
    SevenZip,
    /// Rar, all versions.
    Rar,
    /// Microsoft cabinet.
    Cab,
    /// LHA, LZH.
    Lha,
    /// Outlook's `winmail.dat`.
    Tnef,
    /// OLE compound file: Office documents up to 2003, `.msg`, `.msi`.
    Ole,
    /// PDF.
    Pdf,
    /// RTF, for the objects embedded in it.
    Rtf,
    /// OneNote section, for the files embedded in it.
    OneNote,
    /// LZ4.
    Lz4,
    /// A zlib stream by itself.
    Zlib,
    /// ActiveMime: macros beside an Office document that is a web page or XML.
    ActiveMime,
    /// Flash that is packed.
    Flash,
    /// OpenPGP message: packed or signed ones are read, encrypted ones named.
    OpenPgp,
    /// CMS, PKCS#7: signed and packed files are read, encrypted ones named.
    Cms,
    /// Base64 in a text, or a text that is nothing else.
    Base64,
    /// Calendar or address card, for the files in its lines.
    Card,
    /// HTML, SVG, XML, for the files in addresses and elements.
    Markup,
    /// ISO 9660 image. UDF is recognised, not read.
    Iso,
    /// ARJ; recognised, not read.
    Arj,
    /// ACE; recognised, not read.
    Ace,
    /// ALZip's ALZ and EGG; recognised, not read.
    Alz,
    /// Zoo; recognised, not read.
    Zoo,
    /// StuffIt; recognised, not read.
    StuffIt,
    /// Lzop; recognised, not read.
    Lzop,
    /// Xar; recognised, not read.
    Xar,
    /// RPM package; recognised, not read.
    Rpm,
    /// Disk images of virtual machines (VHD, VHDX); recognised, not read.
    Vhd,
    /// Apple disk image; recognised, not read.
    Dmg,
    /// Windows image; recognised, not read.
    Wim,
    /// Compiled help; recognised, not read.
    Chm,
    /// Squashfs; recognised, not read.
    SquashFs,
    /// ARC; recognised, not read.
    Arc,
    /// What Windows' `expand` opens beside cabinets (SZDD, KWAJ); recognised, not read.
    Expand,
    /// Images of disks and file systems, and those of other virtual machines; recognised, not read.
    Disk,
    /// Outlook's files of folders (`.pst`, `.dbx`); recognised, not read.
    MailStore,
    /// Access database, in which there may be files; recognised, not read.
    Access,
    /// Program that installs what is packed in it (NSIS, Inno Setup); recognised, not read.
    Installer,
    /// Archives that are seldom seen: FreeArc, ZPAQ, lrzip, Snappy, LZFSE, Apple's, UHarc;
    /// recognised, not read.
    Other,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 50] = [
        Self::Zip,
        Self::Gzip,
        Self::Bzip2,
        Self::Xz,
        Self::Lzma,
        Self::Lzip,
        Self::Zstd,
        Self::Compress,
        Self::Tar,
        Self::Ar,
        Self::Cpio,
        Self::SevenZip,
        Self::Rar,
        Self::Cab,
        Self::Lha,
        Self::Tnef,
        Self::Ole,
        Self::Pdf,
        Self::Rtf,
        Self::OneNote,
        Self::Lz4,
        Self::Zlib,
        Self::ActiveMime,
        Self::Flash,
        Self::OpenPgp,
        Self::Cms,
        Self::Base64,
        Self::Card,
        Self::Markup,
        Self::Iso,
        Self::Arj,
        Self::Ace,
        Self::Alz,
        Self::Zoo,
        Self::StuffIt,
        Self::Lzop,
        Self::Xar,
        Self::Rpm,
        Self::Vhd,
        Self::Dmg,
        Self::Wim,
        Self::Chm,
        Self::SquashFs,
        Self::Arc,
        Self::Expand,
        Self::Disk,
        Self::MailStore,
        Self::Access,
        Self::Installer,
        Self::Other,
    ];

    /// Its name, for logs and counters: lower case, no blanks.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zip => "zip",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lzip => "lzip",
            Self::Zstd => "zstd",
            Self::Compress => "compress",
            Self::Tar => "tar",
            Self::Ar => "ar",
            Self::Cpio => "cpio",
            Self::SevenZip => "7z",
            Self::Rar => "rar",
            Self::Cab => "cab",
            Self::Lha => "lha",
            Self::Tnef => "tnef",
            Self::Ole => "ole",
            Self::Pdf => "pdf",
            Self::Rtf => "rtf",
            Self::OneNote => "onenote",
            Self::Arj => "arj",
            Self::Ace => "ace",
            Self::Alz => "alz",
            Self::Zoo => "zoo",
            Self::StuffIt => "stuffit",
            Self::Lz4 => "lz4",
            Self::Lzop => "lzop",
            Self::Xar => "xar",
            Self::Rpm => "rpm",
            Self::Iso => "iso",
            Self::Vhd => "vhd",
            Self::Dmg => "dmg",
            Self::Wim => "wim",
            Self::Chm => "chm",
            Self::SquashFs => "squashfs",
            Self::Zlib => "zlib",
            Self::ActiveMime => "activemime",
            Self::Flash => "flash",
            Self::OpenPgp => "openpgp",
            Self::Cms => "cms",
            Self::Base64 => "base64",
            Self::Card => "card",
            Self::Markup => "markup",
            Self::Arc => "arc",
            Self::Expand => "expand",
            Self::Disk => "disk",
            Self::MailStore => "mailstore",
            Self::Access => "access",
            Self::Installer => "installer",
            Self::Other => "other",
        }
    }

    /// Whether it packs the one file whose name, less its end, is that of the content.
    pub fn is_stream(self) -> bool {
        matches!(
            self,
            Self::Gzip
                | Self::Bzip2
                | Self::Xz
                | Self::Lzma
                | Self::Lzip
                | Self::Zstd
                | Self::Compress
                | Self::Lz4
                | Self::Zlib
        )
    }

    /// Whether [`crate::unpack`] opens it; the others it says to be unsupported.
    pub fn is_read(self) -> bool {
        self <= Self::Iso
    }
}

/// How formats begin that are told by that alone.
const MAGICS: [(&[u8], Format); 10] = [
    (b"\x1f\x8b\x08", Format::Gzip),
    (b"\xfd7zXZ\0", Format::Xz),
    (b"LZIP\x01", Format::Lzip),
    (b"\x28\xb5\x2f\xfd", Format::Zstd),
    (b"!<arch>\n", Format::Ar),
    (tnef::MAGIC, Format::Tnef),
    (ole::MAGIC, Format::Ole),
    (rtf::MAGIC, Format::Rtf),
    (onenote::MAGIC, Format::OneNote),
    (zlib::ACTIVE_MIME, Format::ActiveMime),
];

/// Which containers these bytes are: more than one where they can be read as several, such as a
/// picture or a program with a zip behind it. None for bytes that hold nothing else.
///
/// The members of tar and cpio stand in them as they are; what looks like another container inside
/// one of these is left to whoever looks at the member, and what follows the last member is handed
/// out as one.
pub fn formats(bytes: &[u8]) -> Vec<Format> {
    if let Some(format) = plain_container(bytes) {
        return vec![format];
    }
    let mut formats = Vec::new();
    let mut add = |format, is_one| {
        if is_one && !formats.contains(&format) {
            formats.push(format);
        }
    };
    for (magic, format) in MAGICS {
        add(format, bytes.starts_with(magic));
    }
    add(Format::Zip, zip::is_zip(bytes));
    add(Format::Rar, !rar::starts(bytes).is_empty());
    add(Format::SevenZip, !sevenz::starts(bytes).is_empty());
    add(Format::Cab, !cab::starts(bytes).is_empty());
    add(Format::Pdf, pdf::is_pdf(bytes));
    add(Format::Lha, lha::start(bytes).is_some());
    add(Format::Bzip2, is_bzip2(bytes));
    add(Format::Zstd, is_skippable_zstd(bytes));
    add(
        Format::Compress,
        matches!(bytes, [0x1f, 0x9d, flags, ..] if (9..=16).contains(&(flags & 0x1f))),
    );
    add(Format::Lz4, lz4::is_lz4(bytes));
    add(Format::Zlib, zlib::is_zlib(bytes));
    add(Format::Flash, zlib::is_flash(bytes));
    add(Format::OpenPgp, openpgp::is_openpgp(bytes));
    add(Format::Cms, cms::is_cms(bytes));
    add(Format::Base64, base64::is_base64(bytes));
    add(Format::Card, card::is_card(bytes));
    add(Format::Markup, markup::is_markup(bytes));
    add(Format::Iso, iso::is_iso(bytes));
    for format in foreign::formats(bytes) {
        add(format, true);
    }
    if formats.is_empty() && is_lzma(bytes) {
        formats.push(Format::Lzma);
    }
    formats
}

/// A container in which members stand as they are.
fn plain_container(bytes: &[u8]) -> Option<Format> {
    if tar::is_tar(bytes) {
        return Some(Format::Tar);
    }
    unix::is_cpio(bytes).then_some(Format::Cpio)
}

/// "BZh", the size of blocks, and the mark of a block or of the end.
fn is_bzip2(bytes: &[u8]) -> bool {
    const MARKS: [&[u8]; 2] = [b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90"];
    match bytes {
        [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..] => {
            MARKS.iter().any(|mark| rest.starts_with(mark))
        }
        _ => false,
    }
}

/// A frame that is to be skipped, and another behind it.
fn is_skippable_zstd(bytes: &[u8]) -> bool {
    if !matches!(u32_le(bytes, 0), Some(0x184d_2a50..=0x184d_2a5f)) {
        return false;
    }
    let next = u32_le(bytes, 4).map_or(usize::MAX, length).saturating_add(8);
    matches!(u32_le(bytes, next), Some(0xfd2f_b528 | 0x184d_2a50..=0x184d_2a5f))
}

/// LZMA alone has no mark: a byte of properties, a dictionary of a usual size, a size that is not
/// known or not absurd, and a first byte of data that is always 0.
fn is_lzma(bytes: &[u8]) -> bool {
    const UNPACKED_BYTES_MAX: u64 = 1 << 38;
    let Some((properties, dictionary)) = bytes.first().zip(u32_le(bytes, 1)) else { return false };
    // A power of two, or one and a half.
    let top = 1_u32.checked_shl(dictionary.checked_ilog2().unwrap_or(0)).unwrap_or(0);
    let is_usual = dictionary >= 4096 && (dictionary == top || dictionary == top | top >> 1);
    let is_sized =
        u64_le(bytes, 5).is_some_and(|size| size == u64::MAX || size < UNPACKED_BYTES_MAX);
    *properties < 9 * 5 * 5 && is_usual && is_sized && bytes.get(13) == Some(&0) && bytes.len() > 18
}
