//! Tells containers that nothing here opens, so that they are named and not called clean.

use crate::Format;
use crate::bytes::{length, piece, u16_le, u32_le};
use memchr::memmem;

/// How such formats begin that are told by that alone.
const MAGICS: [(&[u8], Format); 49] = [
    (b"ALZ\x01", Format::Alz),
    (b"EGGA", Format::Alz),
    (b"StuffIt (c)1997", Format::StuffIt),
    (b"StuffIt!", Format::StuffIt),
    (b"SITX", Format::StuffIt),
    (b"\x89LZO\0\r\n\x1a\n", Format::Lzop),
    (b"xar!", Format::Xar),
    (b"\xed\xab\xee\xdb", Format::Rpm),
    (b"conectix", Format::Vhd),
    (b"vhdxfile", Format::Vhd),
    (b"KDMV\x01\0\0\0", Format::Disk),
    (b"KDMV\x02\0\0\0", Format::Disk),
    (b"KDMV\x03\0\0\0", Format::Disk),
    (b"COWD\x01\0\0\0", Format::Disk),
    (b"# Disk DescriptorFile", Format::Disk),
    (b"QFI\xfb", Format::Disk),
    // Apple's, encrypted and sparse: who opens the plain ones does not open these.
    (b"encrcdsa", Format::Disk),
    (b"sprs\0\0\0", Format::Disk),
    (b"MSWIM\0\0\0", Format::Wim),
    (b"WLPWM\0\0\0", Format::Wim),
    (b"ITSF\x03\0\0\0", Format::Chm),
    (b"ITSF\x02\0\0\0", Format::Chm),
    (b"ITOLITLS", Format::Other),
    (b"hsqs", Format::SquashFs),
    (b"sqsh", Format::SquashFs),
    (b"SZDD\x88\xf0\x27\x33", Format::Expand),
    (b"SZ \x88\xf0\x27\x33\xd1", Format::Expand),
    (b"KWAJ\x88\xf0\x27\xd1", Format::Expand),
    (b"!BDN", Format::MailStore),
    (b"\xcf\xad\x12\xfe", Format::MailStore),
    (b"\0\x01\0\0Standard Jet DB", Format::Access),
    (b"\0\x01\0\0Standard ACE DB", Format::Access),
    (b"\0\x01\0\0MSISAM Database", Format::Access),
    (b"ArC\x01", Format::Other),
    (b"7kSt\xa0\x31\x83\xd3\x8c\xb2\x28\xb0\xd3", Format::Other),
    (b"zPQ\x01", Format::Other),
    (b"zPQ\x02", Format::Other),
    (b"LRZI\0", Format::Other),
    (b"\xff\x06\0\0sNaPpY", Format::Other),
    (b"bvx2", Format::Other),
    (b"bvxn", Format::Other),
    (b"bvx-", Format::Other),
    (b"pbze\0", Format::Other),
    (b"pbzz\0", Format::Other),
    (b"pbz4\0", Format::Other),
    (b"pbzx\0", Format::Other),
    (b"MAR1\0\0", Format::Other),
    (b"LZX\0\0\0\0\0", Format::Other),
    (b"UHA\0", Format::Other),
];

/// Marks of programs in programs that install what is packed behind them: NSIS, Inno Setup.
const INSTALLERS: [&[u8]; 3] = [
    b"\xef\xbe\xad\xdeNullsoftInst",
    b"Inno Setup Setup Data (",
    b"rDlPtS\xcd\xe6\xd7\x7b\x0b\x2a",
];
/// Places in a program where an archive may begin that are tried.
const MARKS_MAX: usize = 4096;

/// Which of them these bytes are.
pub(crate) fn formats(bytes: &[u8]) -> Vec<Format> {
    let mut formats = Vec::new();
    let mut add = |format, is_one| {
        if is_one && !formats.contains(&format) {
            formats.push(format);
        }
    };
    for (magic, format) in MAGICS {
        add(format, bytes.starts_with(magic));
    }
    add(Format::StuffIt, bytes.starts_with(b"SIT!") && piece(bytes, 10, 4) == Some(b"rLau"));
    add(Format::Zoo, piece(bytes, 20, 4) == Some(b"\xdc\xa7\xc4\xfd"));
    add(Format::Arc, is_arc(bytes));
    add(Format::Other, is_apple_archive(bytes));
    add(Format::Arj, is_arj(bytes));
    add(Format::Ace, is_ace_header(bytes));
    let is_program = bytes.starts_with(b"MZ");
    add(Format::Arj, is_program && follows(bytes, b"\x60\xea", is_arj));
    add(
        Format::Ace,
        is_program
            && memmem::find(bytes, b"**ACE**").is_some_and(|at| {
                at.checked_sub(7).and_then(|at| bytes.get(at..)).is_some_and(is_ace_header)
            }),
    );
    let is_installer = || INSTALLERS.iter().any(|mark| memmem::find(bytes, mark).is_some());
    add(Format::Installer, is_program && is_installer());
    add(Format::Disk, is_disk(bytes));
    let footer = bytes.len().checked_sub(512).and_then(|at| piece(bytes, at, 8));
    add(Format::Vhd, footer == Some(b"conectix"));
    add(Format::Dmg, footer.is_some_and(|footer| footer.starts_with(b"koly\0\0\0\x04")));
    add(Format::Disk, bytes.ends_with(b"cdsaencr"));
    formats
}

/// Whether behind one of these marks something stands that is what it looks like.
fn follows(bytes: &[u8], mark: &[u8], is_one: fn(&[u8]) -> bool) -> bool {
    memmem::find_iter(bytes, mark).take(MARKS_MAX).any(|at| bytes.get(at..).is_some_and(is_one))
}

/// A main header whose checksum is right.
fn is_arj(bytes: &[u8]) -> bool {
    const HEADER_BYTES_MAX: u16 = 2600;
    let size = u16_le(bytes, 2).filter(|size| (1..=HEADER_BYTES_MAX).contains(size));
    bytes.starts_with(b"\x60\xea")
        && size.is_some_and(|size| {
            let size = usize::from(size);
            piece(bytes, 4, size).map(crc32fast::hash) == u32_le(bytes, 4 + size)
        })
}

/// The main header of an archive: its type is 0, and its size fits.
fn is_ace_header(bytes: &[u8]) -> bool {
    piece(bytes, 7, 7) == Some(b"**ACE**")
        && bytes.get(4) == Some(&0)
        && u16_le(bytes, 2).is_some_and(|size| size < 4096)
}

/// ARC (of System Enhancement Associates, 1985): a mark, a method, a name of at most 12 characters,
/// and a packed size that fits.
fn is_arc(bytes: &[u8]) -> bool {
    const NAME_BYTES: usize = 13;
    const HEADER_BYTES: usize = 29;
    let Some((0x1a, 1..=11)) = bytes.first().copied().zip(bytes.get(1).copied()) else {
        return false;
    };
    let name = piece(bytes, 2, NAME_BYTES).unwrap_or_default();
    let Some(end) = name.iter().position(|byte| *byte == 0).filter(|end| *end > 0) else {
        return false;
    };
    let is_name = name.iter().take(end).all(|byte| byte.is_ascii_graphic());
    let size = u32_le(bytes, 2 + NAME_BYTES).map_or(usize::MAX, length);
    is_name && size.saturating_add(HEADER_BYTES) <= bytes.len().saturating_add(1)
}

/// Apple's archives, plain and encrypted: their marks could begin a text, so the next fields count
/// too.
fn is_apple_archive(bytes: &[u8]) -> bool {
    let is_plain = bytes.starts_with(b"AA01") || bytes.starts_with(b"YAA1");
    is_plain && piece(bytes, 6, 3) == Some(b"TYP")
        || matches!(bytes, [b'A', b'E', b'A', b'1', 0..=5, 0, 0, ..])
}

/// Images of disks and of what is on them: partitions, FAT, exFAT, NTFS, HFS, APFS, ext, and those
/// of virtual machines that have their mark further in.
fn is_disk(bytes: &[u8]) -> bool {
    const SECTOR_BYTES: usize = 512;
    let at = |at: usize, mark: &[u8]| piece(bytes, at, mark.len()) == Some(mark);
    let is_sector = bytes.len() >= 2 * SECTOR_BYTES && at(510, b"\x55\xaa");
    let is_fat =
        is_sector && (at(54, b"FAT1") || at(82, b"FAT32")) && matches!(bytes, [0xeb | 0xe9, ..]);
    let is_windows = is_sector && (at(3, b"NTFS    ") || at(3, b"EXFAT   ") || at(3, b"-FVE-FS-"));
    let is_partitioned = is_sector && !bytes.starts_with(b"MZ") && is_partition_table(bytes);
    let is_apple = (at(1024, b"H+\0\x04") || at(1024, b"HX\0\x05"))
        || at(32, b"NXSB") && u32_le(bytes, 36).is_some_and(|size| size >= 4096)
        || at(0, b"ER\x02\0") && at(SECTOR_BYTES, b"PM\0\0");
    let is_linux = at(1080, b"\x53\xef")
        && u32_le(bytes, 1048).is_some_and(|size| size < 7)
        && bytes.len() >= 4096
        && bytes.iter().take(1024).all(|byte| *byte == 0);
    let is_virtual = at(64, b"\x7f\x10\xda\xbe") || at(SECTOR_BYTES, b"EFI PART");
    is_fat || is_windows || is_partitioned || is_apple || is_linux || is_virtual
}

/// Four entries, each empty or active or not, of which one lies in the image, or covers a GUID
/// table.
fn is_partition_table(bytes: &[u8]) -> bool {
    const TABLE_AT: usize = 446;
    const ENTRY_BYTES: usize = 16;
    let sectors = u64::try_from(bytes.len()).unwrap_or(u64::MAX) / 512;
    let mut is_used = false;
    for index in 0..4 {
        let entry = piece(bytes, TABLE_AT + index * ENTRY_BYTES, ENTRY_BYTES).unwrap_or_default();
        let [0 | 0x80, .., _] = entry else { return false };
        let (Some(kind), Some(begin), Some(size)) =
            (entry.get(4), u32_le(entry, 8), u32_le(entry, 12))
        else {
            return false;
        };
        if *kind == 0 {
            if size != 0 {
                return false;
            }
            continue;
        }
        is_used |= begin > 0 && size > 0 && u64::from(begin) < sectors;
    }
    is_used
}
