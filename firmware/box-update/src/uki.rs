//! Whether a system's file is what the manifest says: looked at before it becomes a slot, since firmware
//! that cannot load a file does not go on to the next.

use board::Arch;
use object::LittleEndian as LE;
use object::pe::{
    IMAGE_FILE_MACHINE_AMD64, IMAGE_FILE_MACHINE_ARM64, ImageDosHeader, ImageNtHeaders64,
    ImageSectionHeader,
};
use object::read::pe::ImageNtHeaders as _;

use crate::manifest::Manifest;

/// Headers are within so many bytes of the file's start; the EFI stub's take 4 KiB at most.
pub(crate) const HEADERS_BYTES_MAX: u64 = 64 * 1024;

/// Longest section of text, in bytes.
pub(crate) const TEXT_BYTES_MAX: u64 = 8 * 1024;

/// A system that firmware would not start, or not as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system in the bundle {0}: have the bundle built again")]
pub struct UkiError(pub(crate) String);

/// Where a section is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    /// Offset in bytes.
    pub(crate) at: u64,
    /// Size in bytes.
    pub(crate) bytes: u64,
}

/// The sections that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) os_release: Section,
    pub(crate) cmdline: Section,
}

/// Looks at the headers: `start` is the file's start, [`HEADERS_BYTES_MAX`] or all of it.
pub(crate) fn layout(start: &[u8], manifest: &Manifest) -> Result<Layout, UkiError> {
    let wrong = |what: &str| UkiError(what.to_owned());
    let no_pe = |_| wrong("is no 64-bit PE file");
    let dos = ImageDosHeader::parse(start).map_err(no_pe)?;
    let mut offset = dos.nt_headers_offset().into();
    let (headers, _) = ImageNtHeaders64::parse(start, &mut offset).map_err(no_pe)?;
    let machine = match manifest.arch {
        Arch::X86_64 => IMAGE_FILE_MACHINE_AMD64,
        Arch::Aarch64 => IMAGE_FILE_MACHINE_ARM64,
    };
    if headers.file_header.machine.get(LE) != machine {
        return Err(UkiError(format!("is not for {}", manifest.arch.name())));
    }
    let sections =
        headers.sections(start, offset).map_err(|_| wrong("has no table of sections"))?;
    let mut found = [".osrel", ".cmdline", ".linux", ".initrd"].map(|name| (name, None));
    for header in sections.iter() {
        let section = section(header, manifest.uki.bytes)?;
        for (name, place) in &mut found {
            if header.name == padded(name) && place.replace(section).is_some() {
                return Err(UkiError(format!("has two sections {name}")));
            }
        }
    }
    let [os_release, cmdline, linux, initrd] = found.map(|(name, place)| {
        let section = place.filter(|section: &Section| section.bytes > 0);
        section.ok_or_else(|| UkiError(format!("has no section {name}")))
    });
    linux.and(initrd)?;
    Ok(Layout { os_release: text(os_release?)?, cmdline: text(cmdline?)? })
}

/// Looks at what the loader shows and sorts by, and at what the kernel is told.
pub(crate) fn check_texts(
    os_release: &[u8],
    cmdline: &[u8],
    manifest: &Manifest,
) -> Result<(), UkiError> {
    let os_release = str::from_utf8(os_release)
        .map_err(|_| UkiError("has an os-release that is no text".to_owned()))?;
    let build = manifest.build.to_string();
    for (key, wanted) in [
        ("IMAGE_ID", manifest.product.as_str()),
        ("IMAGE_VERSION", build.as_str()),
        ("VERSION_ID", manifest.version.as_str()),
        ("VARIANT_ID", manifest.board.as_str()),
    ] {
        let lines = os_release.trim_end_matches('\0').lines();
        let values = lines.filter_map(|line| line.split_once('=')).filter(|(name, _)| *name == key);
        let values: Vec<&str> = values.map(|(_, value)| value.trim_matches('"')).collect();
        if values != [wanted] {
            let is = values.join(", ").escape_debug().to_string();
            return Err(UkiError(format!("says {key} is {is:?}, and its manifest {wanted:?}")));
        }
    }
    let cmdline = str::from_utf8(cmdline)
        .map_err(|_| UkiError("has a command line that is no text".to_owned()))?;
    if cmdline
        .trim_end_matches('\0')
        .split_whitespace()
        .any(|word| word.starts_with("avr.recovery"))
    {
        return Err(UkiError("is a recovery system".to_owned()));
    }
    Ok(())
}

fn section(header: &ImageSectionHeader, file_bytes: u64) -> Result<Section, UkiError> {
    let at = u64::from(header.pointer_to_raw_data.get(LE));
    let raw = u64::from(header.size_of_raw_data.get(LE));
    if at + raw > file_bytes {
        return Err(UkiError("ends before its sections do".to_owned()));
    }
    // Filled up on disk, to the file's alignment.
    Ok(Section { at, bytes: raw.min(u64::from(header.virtual_size.get(LE))) })
}

fn text(section: Section) -> Result<Section, UkiError> {
    if section.bytes > TEXT_BYTES_MAX {
        return Err(UkiError(format!("has a text of {} bytes in it", section.bytes)));
    }
    Ok(section)
}

/// A section's name as headers have it.
fn padded(name: &str) -> [u8; 8] {
    let mut padded = [0; 8];
    for (place, byte) in padded.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    padded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::tests::manifest;

    /// Headers of a 64-bit PE file for x86_64 with so many sections, behind 64 bytes.
    fn headers(sections: u8) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 64;
        bytes[64..68].copy_from_slice(b"PE\0\0");
        bytes[68..70].copy_from_slice(&0x8664_u16.to_le_bytes());
        bytes[70] = sections;
        bytes[84] = 240;
        bytes[88..90].copy_from_slice(&0x20b_u16.to_le_bytes());
        bytes
    }

    #[test]
    fn headers_without_sections_have_none() {
        let error = layout(&headers(0), &manifest(1, &[0; 1024])).unwrap_err();
        assert_eq!(error, UkiError("has no section .linux".to_owned()));
    }

    proptest! {
        /// What is found is within the file.
        #[test]
        fn no_headers_panic(
            sections in any::<u8>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..1024),
            at in 0_usize..1024,
            len in 0_usize..1024,
        ) {
            let mut file = headers(sections);
            for (place, byte) in file.iter_mut().skip(at).zip(&bytes) {
                *place = *byte;
            }
            file.truncate(len);
            let manifest = manifest(1, &[0; 1024]);
            if let Ok(layout) = layout(&file, &manifest) {
                for section in [layout.os_release, layout.cmdline] {
                    prop_assert!(section.at + section.bytes <= manifest.uki.bytes);
                }
            }
            let _ = check_texts(&bytes, &file, &manifest);
        }
    }
}
