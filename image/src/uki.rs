//! The unified kernel image: systemd's EFI stub with the kernel, its command line, the root and what
//! the boot loader shows, as sections of one PE file.
//!
//! Read by `object`; the sections are appended to the stub here, because `object`'s writer lays a whole
//! file anew and moves sections that do not stand on the alignment their header declares, as the
//! stub's `.sdmagic` does not. The stub's own bytes stay as they are but for three numbers.

use std::mem::{offset_of, size_of};

use object::endian::{LittleEndian as LE, U16, U32};
use object::pe::{
    IMAGE_DOS_SIGNATURE, IMAGE_FILE_MACHINE_AMD64, IMAGE_FILE_MACHINE_ARM64, IMAGE_NT_SIGNATURE,
    IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ, ImageDosHeader, ImageFileHeader,
    ImageNtHeaders64, ImageOptionalHeader64, ImageSectionHeader,
};
use object::pod::{bytes_of, from_bytes, slice_from_bytes};

use board::Arch;

use crate::ImageError;

/// Sections start on pages, so that firmware may protect each as it likes. In bytes.
const PAGE_BYTES: u32 = 4096;
/// Longest name of a section, in bytes.
const NAME_BYTES: usize = 8;

/// What goes into a UKI beside the stub.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// In the form of `/etc/os-release`; the boot loader sorts by it.
    pub os_release: &'a str,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// The kernel, which is a PE file itself.
    pub linux: &'a [u8],
    /// The root, compressed.
    pub initrd: &'a [u8],
    /// A device tree to use in place of the firmware's.
    pub dtb: Option<&'a [u8]>,
}

/// Appends the parts to the stub.
///
/// # Errors
/// The stub or the kernel is no PE file of this architecture, or the stub's header has no room left.
pub fn build(arch: Arch, stub: &[u8], parts: &Parts<'_>) -> Result<Vec<u8>, ImageError> {
    check_machine(arch, "the kernel", parts.linux)?;
    check_machine(arch, "the EFI stub", stub)?;
    let mut file = Pe::read(stub)?;
    // The stub reads them up to a zero byte or their end.
    file.append(".osrel", parts.os_release.as_bytes())?;
    file.append(".cmdline", parts.cmdline.as_bytes())?;
    if let Some(dtb) = parts.dtb {
        file.append(".dtb", dtb)?;
    }
    file.append(".linux", parts.linux)?;
    file.append(".initrd", parts.initrd)?;
    Ok(file.bytes)
}

/// The bytes of a section, as long as it is in memory.
#[must_use]
pub fn section<'a>(uki: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let headers = Headers::of(uki)?;
    let sections = headers.sections(uki)?;
    let found = sections.iter().find(|section| section.name == padded(name))?;
    let start = found.pointer_to_raw_data.get(LE) as usize;
    uki.get(start..start.checked_add(found.virtual_size.get(LE) as usize)?)
}

/// The stub that [`build`] appended the parts to, for a UKI of the same with other parts. `None`: it was made
/// in another way.
#[must_use]
pub fn stub(uki: &[u8]) -> Option<Vec<u8>> {
    let headers = Headers::of(uki)?;
    let sections = headers.sections(uki)?;
    let own = sections.iter().position(|section| section.name == padded(".osrel"))?;
    let first = sections.get(own)?;
    let (start, address) = (first.pointer_to_raw_data.get(LE), first.virtual_address.get(LE));
    let header_at = headers.sections + own * size_of::<ImageSectionHeader>();
    let bytes = uki.get(..start as usize)?.to_vec();
    let mut file = Pe { bytes, headers };
    let header_end = headers.sections + size_of_val(sections);
    file.bytes.get_mut(header_at..header_end)?.fill(0);
    file.headers.count = u16::try_from(own).ok()?;
    file.headers.image_len = address;
    file.put_lengths();
    Some(file.bytes)
}

/// A PE file that sections are appended to.
struct Pe {
    bytes: Vec<u8>,
    headers: Headers,
}

/// Where a PE file's headers are.
#[derive(Clone, Copy)]
struct Headers {
    /// Offset of the NT headers, in bytes.
    nt: usize,
    /// Offset of the first section's header, in bytes.
    sections: usize,
    count: u16,
    machine: u16,
    file_alignment: u32,
    /// Offset behind which sections' contents start, in bytes.
    len: u32,
    /// Size in memory, in bytes.
    image_len: u32,
}

impl Headers {
    /// `None` where that is no 64-bit PE file.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (dos, _) = from_bytes::<ImageDosHeader>(bytes).ok()?;
        if dos.e_magic.get(LE) != IMAGE_DOS_SIGNATURE {
            return None;
        }
        let nt = dos.nt_headers_offset() as usize;
        let (headers, _) = from_bytes::<ImageNtHeaders64>(bytes.get(nt..)?).ok()?;
        if headers.signature.get(LE) != IMAGE_NT_SIGNATURE {
            return None;
        }
        let optional = nt + offset_of!(ImageNtHeaders64, optional_header);
        Some(Self {
            nt,
            sections: optional + usize::from(headers.file_header.size_of_optional_header.get(LE)),
            count: headers.file_header.number_of_sections.get(LE),
            machine: headers.file_header.machine.get(LE),
            file_alignment: headers.optional_header.file_alignment.get(LE),
            len: headers.optional_header.size_of_headers.get(LE),
            image_len: headers.optional_header.size_of_image.get(LE),
        })
    }

    fn sections(self, bytes: &[u8]) -> Option<&[ImageSectionHeader]> {
        let (sections, _) =
            slice_from_bytes(bytes.get(self.sections..)?, usize::from(self.count)).ok()?;
        Some(sections)
    }
}

impl Pe {
    fn read(stub: &[u8]) -> Result<Self, ImageError> {
        let wrong = || no_pe("the EFI stub");
        let headers = Headers::of(stub).ok_or_else(wrong)?;
        let ends = headers.sections(stub).ok_or_else(wrong)?.iter().map(|section| {
            let start = section.pointer_to_raw_data.get(LE) as usize;
            start.saturating_add(section.size_of_raw_data.get(LE) as usize)
        });
        // Whatever stands behind the last section (a table of symbols) is not loaded.
        let end = ends.max().ok_or_else(wrong)?;
        let head = headers.len as usize;
        if !headers.file_alignment.is_power_of_two() || !(head..=stub.len()).contains(&end) {
            return Err(wrong());
        }
        let bytes = stub[..end].to_vec();
        let mut file = Self { bytes, headers };
        let at = headers.nt + offset_of!(ImageNtHeaders64, file_header);
        file.put(at + offset_of!(ImageFileHeader, pointer_to_symbol_table), &U32::new(LE, 0));
        file.put(at + offset_of!(ImageFileHeader, number_of_symbols), &U32::new(LE, 0));
        // Of the stub alone; firmware does not look at it.
        file.put_optional(offset_of!(ImageOptionalHeader64, check_sum), 0);
        Ok(file)
    }

    /// Appends a section that is read and never written or run.
    fn append(&mut self, name: &str, contents: &[u8]) -> Result<(), ImageError> {
        let too_large = || ImageError::Wrong(format!("{name}: a UKI has less than 4 GiB"));
        let header_at = self.headers.sections
            + usize::from(self.headers.count) * size_of::<ImageSectionHeader>();
        let header_end = header_at + size_of::<ImageSectionHeader>();
        if header_end > self.headers.len as usize {
            return Err(ImageError::Wrong(format!(
                "{name}: the EFI stub's header has no room for another section; use the stub of \
                 systemd 252, or drop the board's `dtb`"
            )));
        }
        let alignment = self.headers.file_alignment;
        let virtual_address =
            self.headers.image_len.checked_next_multiple_of(PAGE_BYTES).ok_or_else(too_large)?;
        let virtual_size = u32::try_from(contents.len()).map_err(|_| too_large())?;
        let raw_size = virtual_size.checked_next_multiple_of(alignment).ok_or_else(too_large)?;
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment as usize), 0);
        let raw_at = u32::try_from(self.bytes.len()).map_err(|_| too_large())?;
        self.bytes.extend_from_slice(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment as usize), 0);
        let (zero, none) = (U32::new(LE, 0), U16::new(LE, 0));
        let header = ImageSectionHeader {
            name: padded(name),
            virtual_size: U32::new(LE, virtual_size),
            virtual_address: U32::new(LE, virtual_address),
            size_of_raw_data: U32::new(LE, raw_size),
            pointer_to_raw_data: U32::new(LE, raw_at),
            pointer_to_relocations: zero,
            pointer_to_linenumbers: zero,
            number_of_relocations: none,
            number_of_linenumbers: none,
            characteristics: U32::new(LE, IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ),
        };
        self.bytes[header_at..header_end].copy_from_slice(bytes_of(&header));
        self.headers.count += 1;
        self.headers.image_len = virtual_address
            .checked_add(virtual_size)
            .and_then(|end| end.checked_next_multiple_of(PAGE_BYTES))
            .ok_or_else(too_large)?;
        self.put_lengths();
        Ok(())
    }

    /// How many sections there are, and how much memory they take.
    fn put_lengths(&mut self) {
        let count_at = self.headers.nt
            + offset_of!(ImageNtHeaders64, file_header)
            + offset_of!(ImageFileHeader, number_of_sections);
        self.put(count_at, &U16::new(LE, self.headers.count));
        let image_len = self.headers.image_len;
        self.put_optional(offset_of!(ImageOptionalHeader64, size_of_image), image_len);
    }

    fn put_optional(&mut self, field: usize, value: u32) {
        let at = self.headers.nt + offset_of!(ImageNtHeaders64, optional_header) + field;
        self.put(at, &U32::new(LE, value));
    }

    fn put<T: object::pod::Pod>(&mut self, at: usize, value: &T) {
        self.bytes[at..at + size_of::<T>()].copy_from_slice(bytes_of(value));
    }
}

fn padded(name: &str) -> [u8; NAME_BYTES] {
    let mut padded = [0; NAME_BYTES];
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    padded
}

fn no_pe(what: &str) -> ImageError {
    ImageError::Wrong(format!("{what}: not a 64-bit PE file; look at image/packages.toml"))
}

fn check_machine(arch: Arch, what: &str, bytes: &[u8]) -> Result<(), ImageError> {
    let wanted = match arch {
        Arch::X86_64 => IMAGE_FILE_MACHINE_AMD64,
        Arch::Aarch64 => IMAGE_FILE_MACHINE_ARM64,
    };
    let found = Headers::of(bytes).ok_or_else(|| no_pe(what))?.machine;
    if found == wanted {
        return Ok(());
    }
    Err(ImageError::Wrong(format!("{what}: for another processor than {}", arch.name())))
}

#[cfg(test)]
mod tests {
    use object::pe::{IMAGE_NT_OPTIONAL_HDR64_MAGIC, ImageDataDirectory};
    use object::{Object as _, ObjectSection as _};
    use proptest::prelude::*;

    use super::*;

    const FILE_ALIGNMENT: usize = 512;
    const HEADER_BYTES: usize = 1024;

    /// A PE file of this machine with one section, made of the given bytes.
    fn pe(machine: u16, text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        let put = |bytes: &mut Vec<u8>, at: usize, part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
        };
        put(&mut bytes, 0, &IMAGE_DOS_SIGNATURE.to_le_bytes());
        put(&mut bytes, 0x3c, &0x40_u32.to_le_bytes());
        put(&mut bytes, 0x40, &IMAGE_NT_SIGNATURE.to_le_bytes());
        let file_header = 0x44;
        put(&mut bytes, file_header, &machine.to_le_bytes());
        put(&mut bytes, file_header + 2, &1_u16.to_le_bytes());
        let directories = 16;
        let optional_len =
            size_of::<ImageOptionalHeader64>() + directories * size_of::<ImageDataDirectory>();
        let optional = file_header + size_of::<ImageFileHeader>();
        put(&mut bytes, file_header + 16, &u16::try_from(optional_len).unwrap().to_le_bytes());
        let number = |at: usize, value: usize, bytes: &mut Vec<u8>| {
            put(bytes, optional + at, &u32::try_from(value).unwrap().to_le_bytes());
        };
        put(&mut bytes, optional, &IMAGE_NT_OPTIONAL_HDR64_MAGIC.to_le_bytes());
        number(offset_of!(ImageOptionalHeader64, section_alignment), 512, &mut bytes);
        number(offset_of!(ImageOptionalHeader64, file_alignment), FILE_ALIGNMENT, &mut bytes);
        number(offset_of!(ImageOptionalHeader64, size_of_image), 4096 + text.len(), &mut bytes);
        number(offset_of!(ImageOptionalHeader64, size_of_headers), HEADER_BYTES, &mut bytes);
        number(offset_of!(ImageOptionalHeader64, number_of_rva_and_sizes), directories, &mut bytes);
        let section = optional + optional_len;
        put(&mut bytes, section, b".text");
        for (at, value) in [(8, text.len()), (12, 4096), (16, text.len()), (20, HEADER_BYTES)] {
            put(&mut bytes, section + at, &u32::try_from(value).unwrap().to_le_bytes());
        }
        bytes.extend_from_slice(text);
        bytes
    }

    fn parts<'a>(linux: &'a [u8], initrd: &'a [u8]) -> Parts<'a> {
        Parts { os_release: "ID=avr\n", cmdline: "quiet", linux, initrd, dtb: None }
    }

    #[test]
    fn what_is_for_another_machine_is_refused() {
        let (here, other) =
            (pe(IMAGE_FILE_MACHINE_AMD64, b"x"), pe(IMAGE_FILE_MACHINE_ARM64, b"x"));
        let said = |stub: &[u8], linux: &[u8]| {
            build(Arch::X86_64, stub, &parts(linux, b"")).unwrap_err().to_string()
        };
        assert_eq!(said(&here, &other), "the kernel: for another processor than x86_64");
        assert_eq!(said(&other, &here), "the EFI stub: for another processor than x86_64");
        assert!(said(b"MZ", &here).starts_with("the EFI stub: not a 64-bit PE file"));
        assert!(said(&here, b"").starts_with("the kernel: not a 64-bit PE file"));
    }

    #[test]
    fn a_header_without_room_is_said_so() {
        let mut stub = pe(IMAGE_FILE_MACHINE_ARM64, b"x");
        let at = 0x44 + size_of::<ImageFileHeader>();
        let at = at + offset_of!(ImageOptionalHeader64, size_of_headers);
        stub[at..at + 4].copy_from_slice(&512_u32.to_le_bytes());
        let linux = pe(IMAGE_FILE_MACHINE_ARM64, b"x");
        let error = build(Arch::Aarch64, &stub, &parts(&linux, b"")).unwrap_err().to_string();
        assert!(error.contains("has no room for another section"), "{error}");
    }

    proptest! {
        #[test]
        fn every_part_is_read_back_and_the_stub_is_as_it_was(
            text in prop::collection::vec(any::<u8>(), 1..3000),
            initrd in prop::collection::vec(any::<u8>(), 0..9000),
            dtb in prop::option::of(prop::collection::vec(any::<u8>(), 1..2000)),
        ) {
            let stub = pe(IMAGE_FILE_MACHINE_AMD64, &text);
            let linux = pe(IMAGE_FILE_MACHINE_AMD64, b"the kernel");
            let parts = Parts { dtb: dtb.as_deref(), ..parts(&linux, &initrd) };
            let uki = build(Arch::X86_64, &stub, &parts).unwrap();
            prop_assert_eq!(section(&uki, ".linux"), Some(linux.as_slice()));
            prop_assert_eq!(section(&uki, ".initrd"), Some(initrd.as_slice()));
            prop_assert_eq!(section(&uki, ".cmdline"), Some(b"quiet".as_slice()));
            prop_assert_eq!(section(&uki, ".osrel"), Some(b"ID=avr\n".as_slice()));
            prop_assert_eq!(section(&uki, ".dtb"), dtb.as_deref());
            prop_assert_eq!(section(&uki, ".text"), Some(text.as_slice()));

            // Of its stub the same is made again, and of its stub with fewer parts what is made of that.
            let again = super::stub(&uki).unwrap();
            prop_assert_eq!(&build(Arch::X86_64, &again, &parts).unwrap(), &uki);
            let fewer = Parts { dtb: None, ..parts };
            let expected = build(Arch::X86_64, &stub, &fewer).unwrap();
            prop_assert_eq!(build(Arch::X86_64, &again, &fewer).unwrap(), expected);
            prop_assert_eq!(super::stub(&stub), None);

            // As somebody else reads it: in order, apart, and within the image.
            let file = object::File::parse(uki.as_slice()).unwrap();
            let mut end = 0;
            for part in file.sections() {
                prop_assert!(part.address() >= end, "{} overlaps", part.name().unwrap());
                end = part.address() + part.size();
            }
            prop_assert!(u64::from(Headers::of(&uki).unwrap().image_len) >= end);
        }

        #[test]
        fn damaged_stubs_are_errors_at_worst(
            at in 0_usize..400, byte in any::<u8>(), len in 0_usize..1100,
        ) {
            let mut stub = pe(IMAGE_FILE_MACHINE_AMD64, b"x");
            stub[at] = byte;
            stub.truncate(len);
            let linux = pe(IMAGE_FILE_MACHINE_AMD64, b"x");
            let _ = build(Arch::X86_64, &stub, &parts(&linux, b""));
            let _ = (section(&stub, ".text"), super::stub(&stub));
        }
    }
}
