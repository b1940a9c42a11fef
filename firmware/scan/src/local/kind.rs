//! Tells what a file is from its content alone: how a system would run it is not decided by its name.
//!
//! Magic numbers, and for containers the names in them; a file can be of several kinds. What is packed
//! inside is not looked at here: members of archives are objects of their own.

use memchr::memmem;
use serde::{Deserialize, Serialize};

/// A kind of file that mail seldom has a good reason to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Windows program, library, driver or screen saver (PE).
    Pe,
    /// Program for DOS or 16-bit Windows: `MZ` without a PE header.
    Dos,
    /// Linux and BSD program or library.
    Elf,
    /// macOS program or library, also for several processors.
    Macho,
    /// Compiled Java class.
    JavaClass,
    /// Java archive: a zip with a manifest.
    Jar,
    /// Windows Installer package, patch or transform.
    Msi,
    /// Windows shortcut.
    Lnk,
    /// Internet shortcut (`[InternetShortcut]`).
    Url,
    /// Script with an interpreter in its first line (`#!`).
    Script,
    /// Encoded VBScript or JScript (`#@~^`).
    EncodedScript,
    /// HTML application (`<hta:application`).
    HtmlApp,
    /// Registry file of Windows.
    Reg,
    /// Office document with VBA macros, old (OLE) and new (OOXML).
    OfficeMacro,
    /// RTF with an embedded object.
    RtfObject,
    /// OneNote section.
    Onenote,
    /// Compiled HTML help.
    Chm,
    /// Flash.
    Swf,
    /// CD or DVD image (ISO 9660, UDF).
    Iso,
    /// Virtual disk (VHD, VHDX).
    Vhd,
    /// ACE archive, which hardly anything but malware uses.
    Ace,
}

/// All kinds, and the words for them in settings.
pub const KINDS: [(Kind, &str); 21] = [
    (Kind::Pe, "pe"),
    (Kind::Dos, "dos"),
    (Kind::Elf, "elf"),
    (Kind::Macho, "macho"),
    (Kind::JavaClass, "java-class"),
    (Kind::Jar, "jar"),
    (Kind::Msi, "msi"),
    (Kind::Lnk, "lnk"),
    (Kind::Url, "url"),
    (Kind::Script, "script"),
    (Kind::EncodedScript, "encoded-script"),
    (Kind::HtmlApp, "html-app"),
    (Kind::Reg, "reg"),
    (Kind::OfficeMacro, "office-macro"),
    (Kind::RtfObject, "rtf-object"),
    (Kind::Onenote, "onenote"),
    (Kind::Chm, "chm"),
    (Kind::Swf, "swf"),
    (Kind::Iso, "iso"),
    (Kind::Vhd, "vhd"),
    (Kind::Ace, "ace"),
];

/// Several kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KindSet(u32);

impl KindSet {
    /// Adds one.
    pub fn insert(&mut self, kind: Kind) {
        self.0 |= bit(kind);
    }

    /// Whether it is there.
    #[must_use]
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & bit(kind) != 0
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Words of those that are there, in the order of [`KINDS`].
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        KINDS.iter().filter(move |(kind, _)| self.contains(*kind)).map(|(_, word)| *word)
    }
}

const fn bit(kind: Kind) -> u32 {
    1 << kind as u32
}

/// Kinds that begin with certain bytes, and need nothing else.
const MAGICS: [(&[u8], Kind); 21] = [
    (b"\x7fELF", Kind::Elf),
    (b"\xfe\xed\xfa\xce", Kind::Macho),
    (b"\xfe\xed\xfa\xcf", Kind::Macho),
    (b"\xce\xfa\xed\xfe", Kind::Macho),
    (b"\xcf\xfa\xed\xfe", Kind::Macho),
    (b"\xca\xfe\xba\xbf", Kind::Macho),
    // Size of the head and CLSID {00021401-0000-0000-C000-000000000046}.
    (b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46", Kind::Lnk),
    // {7B5C52E4-D88C-4DA7-AEB1-5378D02996D3}
    (b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d\xae\xb1\x53\x78\xd0\x29\x96\xd3", Kind::Onenote),
    (b"ITSF", Kind::Chm),
    (b"FWS", Kind::Swf),
    (b"CWS", Kind::Swf),
    (b"ZWS", Kind::Swf),
    (b"conectix", Kind::Vhd),
    (b"vhdxfile", Kind::Vhd),
    (b"#!", Kind::Script),
    (b"#@~^", Kind::EncodedScript),
    (b"REGEDIT4", Kind::Reg),
    (b"Windows Registry Editor", Kind::Reg),
    // The same in UTF-16, as the registry editor writes it; the byte order mark is gone.
    (b"W\0i\0n\0d\0o\0w\0s\0 \0R\0e\0g\0i\0s\0t\0r\0y\0", Kind::Reg),
    (b"[InternetShortcut]", Kind::Url),
    (b"[\0I\0n\0t\0e\0r\0n\0e\0t\0S\0h\0o\0r\0t\0c\0u\0t\0", Kind::Url),
];

/// How texts may begin before what counts.
const MARKS: [&[u8]; 2] = [b"\xef\xbb\xbf", b"\xff\xfe"];

/// Where the sector of the first volume descriptor stands in images of 2,048, 2,336 and 2,352 bytes a sector.
const VOLUME_OFFSETS: [usize; 3] = [0x8000, 0x9200, 0x9310];
/// What stands there: ISO 9660 (ECMA-119 section 8.1), UDF (ECMA-167 part 2 section 9.1).
const VOLUMES: [&[u8]; 4] = [b"CD001", b"BEA01", b"NSR02", b"NSR03"];

const OLE_MAGIC: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";
/// CLSIDs of Windows Installer, {000C10xx-0000-0000-C000-000000000046}, but for their first byte.
const INSTALLER: &[u8] = b"\x10\x0c\0\0\0\0\0\xc0\0\0\0\0\0\0\x46";
/// The first bytes: transform, package, patch.
const INSTALLER_FIRST: [u8; 3] = [0x82, 0x84, 0x86];
/// Stream of every VBA project (MS-OVBA section 2.3.4.1), as the directory names it.
const VBA_STREAM: &[u8] = b"_\0V\0B\0A\0_\0P\0R\0O\0J\0E\0C\0T\0";

/// How much of a text is looked at for `<hta:application`, bytes.
const HTML_BYTES_MAX: usize = 64 * 1024;

/// How much of the start [`is_open`] needs, bytes: all places at which something is looked for, but for
/// those kinds that it names.
pub const START_BYTES: usize = HTML_BYTES_MAX;

/// Fewer processors than that are in a fat Mach-O; more is the version of a Java class.
const ARCHITECTURES_MAX: u32 = 44;

/// What these bytes are.
#[must_use]
pub fn kinds(bytes: &[u8]) -> KindSet {
    let mut set = KindSet::default();
    let unmarked = MARKS.iter().find_map(|mark| bytes.strip_prefix(*mark)).unwrap_or(bytes);
    for (magic, kind) in MAGICS {
        if bytes.starts_with(magic) || unmarked.starts_with(magic) {
            set.insert(kind);
        }
    }
    if bytes.starts_with(b"MZ") || bytes.starts_with(b"ZM") {
        set.insert(if is_pe(bytes) { Kind::Pe } else { Kind::Dos });
    }
    if bytes.starts_with(b"\xca\xfe\xba\xbe") {
        let is_fat = u32_at(bytes, 4, u32::from_be_bytes).is_some_and(|n| n <= ARCHITECTURES_MAX);
        set.insert(if is_fat { Kind::Macho } else { Kind::JavaClass });
    }
    if bytes.starts_with(OLE_MAGIC) {
        if is_installer(bytes) {
            set.insert(Kind::Msi);
        }
        if contains(bytes, VBA_STREAM) {
            set.insert(Kind::OfficeMacro);
        }
    }
    if bytes.starts_with(b"PK") {
        // Names in zips are not packed. Any case: the systems that open these make no difference.
        if contains_word(bytes, b"vbaproject.bin") {
            set.insert(Kind::OfficeMacro);
        }
        if contains_word(bytes, b"meta-inf/manifest.mf") {
            set.insert(Kind::Jar);
        }
    }
    // What Word takes for RTF.
    if unmarked.trim_ascii_start().starts_with(b"{\\rt") && contains_word(bytes, b"\\obj") {
        set.insert(Kind::RtfObject);
    }
    let text = bytes.get(..HTML_BYTES_MAX).unwrap_or(bytes);
    if contains_word(text, b"<hta:application") {
        set.insert(Kind::HtmlApp);
    }
    if is_volume(bytes) {
        set.insert(Kind::Iso);
    }
    if bytes.get(7..).is_some_and(|rest| rest.starts_with(b"**ACE**")) {
        set.insert(Kind::Ace);
    }
    set
}

/// Whether what follows such a start might change what [`kinds`] says of it. For starts of
/// [`START_BYTES`] or more.
#[must_use]
pub fn is_open(start: &[u8]) -> bool {
    let unmarked = MARKS.iter().find_map(|mark| start.strip_prefix(*mark)).unwrap_or(start);
    let text = unmarked.trim_ascii_start();
    let is_program = start.starts_with(b"MZ") || start.starts_with(b"ZM");
    start.starts_with(OLE_MAGIC)
        || start.starts_with(b"PK")
        || text.is_empty()
        || text.starts_with(b"{\\rt")
        || is_program && !is_pe_head_within(start)
}

/// Whether the place of the PE head is in these bytes.
fn is_pe_head_within(start: &[u8]) -> bool {
    let at = u32_at(start, 0x3c, u32::from_le_bytes).and_then(|at| usize::try_from(at).ok());
    at.and_then(|at| start.get(at..)).is_some_and(|head| head.len() >= b"PE\0\0".len())
}

/// The DOS head names the place of the PE head (PE format, "MS-DOS stub").
fn is_pe(bytes: &[u8]) -> bool {
    let at = u32_at(bytes, 0x3c, u32::from_le_bytes).and_then(|at| usize::try_from(at).ok());
    at.and_then(|at| bytes.get(at..)).is_some_and(|head| head.starts_with(b"PE\0\0"))
}

/// The root entry of the directory names the application (MS-CFB section 2.6.1).
fn is_installer(bytes: &[u8]) -> bool {
    const SECTOR_SHIFT_AT: usize = 30;
    const FIRST_SECTOR_AT: usize = 48;
    const CLSID_AT: usize = 80;
    let class = || {
        // 9 or 12 (section 2.2); anything else is no document that anybody opens.
        let shift = u32::from(*bytes.get(SECTOR_SHIFT_AT)?);
        let sector = u32_at(bytes, FIRST_SECTOR_AT, u32::from_le_bytes)?;
        let at = usize::try_from(sector)
            .ok()?
            .checked_add(1)?
            .checked_mul(1_usize.checked_shl(shift)?)?;
        bytes.get(at.checked_add(CLSID_AT)?..)
    };
    class().is_some_and(|class| {
        class.first().is_some_and(|first| INSTALLER_FIRST.contains(first))
            && class.get(1..).is_some_and(|rest| rest.starts_with(INSTALLER))
    })
}

fn is_volume(bytes: &[u8]) -> bool {
    VOLUME_OFFSETS.iter().any(|&at| {
        // The type of a descriptor is one byte before its name.
        let name = bytes.get(at + 1..).unwrap_or_default();
        VOLUMES.iter().any(|volume| name.starts_with(volume))
    })
}

fn u32_at(bytes: &[u8], at: usize, read: fn([u8; 4]) -> u32) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| read(*four))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    memmem::find(bytes, wanted).is_some()
}

/// The same whatever the case of letters; `wanted` is in small ones, and its first is found by itself.
fn contains_word(bytes: &[u8], wanted: &[u8]) -> bool {
    let Some((&first, _)) = wanted.split_first() else { return false };
    memchr::memchr2_iter(first, first.to_ascii_uppercase(), bytes).any(|at| {
        let here = bytes.get(at..).and_then(|rest| rest.get(..wanted.len()));
        here.is_some_and(|here| here.eq_ignore_ascii_case(wanted))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(bytes: &[u8]) -> Vec<&'static str> {
        kinds(bytes).words().collect()
    }

    fn at(offset: usize, what: &[u8]) -> Vec<u8> {
        [&vec![0; offset], what].concat()
    }

    /// A compound file whose root entry has this CLSID.
    fn ole(class: &[u8]) -> Vec<u8> {
        let mut file = OLE_MAGIC.to_vec();
        file.resize(2048, 0);
        file[30] = 9;
        file[48] = 2;
        let root = (2 + 1) * 512;
        file[root + 80..root + 80 + class.len()].copy_from_slice(class);
        file
    }

    #[test]
    fn every_kind_is_told_by_its_content() {
        let mut pe = b"MZ".to_vec();
        pe.resize(0x40, 0);
        pe[0x3c] = 0x40;
        pe.extend_from_slice(b"PE\0\0\x64\x86");
        let cases: Vec<(Vec<u8>, &[&str])> = vec![
            (pe, &["pe"]),
            (b"MZ\x90".to_vec(), &["dos"]),
            (b"\x7fELF\x02".to_vec(), &["elf"]),
            (b"\xcf\xfa\xed\xfe\x07".to_vec(), &["macho"]),
            (b"\xca\xfe\xba\xbe\0\0\0\x02".to_vec(), &["macho"]),
            (b"\xca\xfe\xba\xbe\0\0\0\x41".to_vec(), &["java-class"]),
            (b"PK\x03\x04...META-INF/MANIFEST.MF".to_vec(), &["jar"]),
            (ole(b"\x84\x10\x0c\0\0\0\0\0\xc0\0\0\0\0\0\0\x46"), &["msi"]),
            (ole(VBA_STREAM), &["office-macro"]),
            (ole(b""), &[]),
            (b"PK\x03\x04...word/vbaProject.bin".to_vec(), &["office-macro"]),
            (b"PK\x03\x04...WORD/VBAPROJECT.BIN".to_vec(), &["office-macro"]),
            (b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46\x9b".to_vec(), &["lnk"]),
            (b"[InternetShortcut]\r\nURL=".to_vec(), &["url"]),
            (b"#!/bin/sh\n".to_vec(), &["script"]),
            (b"\xef\xbb\xbf#!/bin/sh\n".to_vec(), &["script"]),
            (b"#@~^AAAAAA==".to_vec(), &["encoded-script"]),
            (b"<html><HTA:Application id=x>".to_vec(), &["html-app"]),
            (b"\xff\xfeW\0i\0n\0d\0o\0w\0s\0 \0R\0e\0g\0i\0s\0t\0r\0y\0 \0".to_vec(), &["reg"]),
            (b"{\\rt1{\\object\\objdata 01}}".to_vec(), &["rtf-object"]),
            (b" {\\rtf1{\\OBJEMB}}".to_vec(), &["rtf-object"]),
            (
                b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d\xae\xb1\x53\x78\xd0\x29\x96\xd3x".to_vec(),
                &["onenote"],
            ),
            (b"ITSF\x03".to_vec(), &["chm"]),
            (b"CWS\x09".to_vec(), &["swf"]),
            (at(0x8001, b"CD001\x01"), &["iso"]),
            (at(0x9311, b"NSR02\x01"), &["iso"]),
            (b"vhdxfile".to_vec(), &["vhd"]),
            (at(7, b"**ACE**"), &["ace"]),
        ];
        let mut seen = KindSet::default();
        for (bytes, expected) in &cases {
            assert_eq!(words(bytes), *expected);
            seen.0 |= kinds(bytes).0;
        }
        for (kind, word) in KINDS {
            assert!(seen.contains(kind), "{word} has no case");
        }
    }

    #[test]
    fn harmless_files_are_of_no_kind() {
        for bytes in [
            b"".as_slice(),
            b"M",
            b"%PDF-1.7",
            b"PK\x03\x04...word/document.xml",
            b"{\\rtf1 hello}",
            b"Hello #!",
            b"\xca\xfe",
            OLE_MAGIC,
            b"\x89PNG\r\n\x1a\n",
        ] {
            assert_eq!(words(bytes), [""; 0], "{bytes:?}");
        }
    }

    #[test]
    fn an_html_application_says_so_early() {
        let late = |bytes| [vec![b' '; bytes].as_slice(), b"<hta:application"].concat();
        assert_eq!(words(&late(HTML_BYTES_MAX - b"<hta:application".len())), ["html-app"]);
        assert_eq!(words(&late(HTML_BYTES_MAX)), [""; 0]);
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_there_is_an_answer(
            magic in 0..MAGICS.len() + 4, rest in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let others = [OLE_MAGIC, b"MZ", b"PK", b"\xca\xfe\xba\xbe"];
            let magic = MAGICS.get(magic).map_or_else(|| others[magic - MAGICS.len()], |(magic, _)| magic);
            let set = kinds(&[magic, &rest].concat());
            prop_assert_eq!(set.words().count() > 0, !set.is_empty());
        }
    }

    proptest! {
        /// What is behind a start that is not open changes nothing.
        #[test]
        fn a_start_that_is_not_open_says_all(
            magic in 0..MAGICS.len() + 6, at in 0..200_u32,
            more in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let others =
                [OLE_MAGIC, b"MZ", b"PK", b"\xca\xfe\xba\xbe", b" ", b" \xff\xfe{\\rt"];
            let magic =
                MAGICS.get(magic).map_or_else(|| others[magic - MAGICS.len()], |(magic, _)| magic);
            let mut bytes = magic.to_vec();
            bytes.resize(START_BYTES, b' ');
            bytes[0x3c..0x40].copy_from_slice(&(at + 0xff00).to_le_bytes());
            bytes.extend(more);
            bytes.extend_from_slice(b"vbaProject.bin\\objPE\0\0<hta:application");
            bytes.extend_from_slice(VBA_STREAM);
            let start = &bytes[..START_BYTES];
            prop_assert!(is_open(start) || kinds(start) == kinds(&bytes));
        }
    }

    #[test]
    fn offsets_that_lead_nowhere_are_no_harm() {
        let mut file = OLE_MAGIC.to_vec();
        file.resize(600, 0xff);
        assert_eq!(words(&file), [""; 0]);
        let mut program = b"MZ".to_vec();
        program.resize(0x80, 0xff);
        assert_eq!(words(&program), ["dos"]);
    }
}
