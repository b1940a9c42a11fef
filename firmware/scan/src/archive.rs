//! Tells archives by how they begin, so that one that no engine opened is not called clean.

/// Offset and length of the magic of a tar archive (POSIX.1-1988 `ustar`).
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");

/// How the other formats begin. A zip without members is its end record alone.
const MAGICS: [&[u8]; 12] = [
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"Rar!\x1a\x07",
    b"7z\xbc\xaf\x27\x1c",
    b"MSCF",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x60\xea",
    b"\x1f\x9d",
    b"!<arch>\n",
];

/// Whether these bytes are a container whose members only an unpacker sees. Office documents of
/// today are zips, and so count.
pub(crate) fn is_archive(bytes: &[u8]) -> bool {
    let (at, magic) = TAR_MAGIC;
    MAGICS.iter().any(|magic| bytes.starts_with(magic))
        || bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_other_bytes() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for archive in [b"PK\x03\x04rest".as_slice(), b"\x1f\x8b\x08", b"Rar!\x1a\x07\x01\0", &tar]
        {
            assert!(is_archive(archive), "{archive:?}");
        }
        for other in [b"".as_slice(), b"P", b"PKWARE", b"%PDF-1.7", b"hello", &[0; 512]] {
            assert!(!is_archive(other), "{other:?}");
        }
    }
}
