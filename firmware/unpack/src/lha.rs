//! LHA (LZH), by `delharc`, also behind a program that unpacks it.

use crate::bytes::{add_name, before_nul, length, piece, piece_or_less, text, u16_le, u32_le};
use crate::work::{End, Sized, Work};
use delharc::decode::{DecoderAny, LhaDecodeReader};
use delharc::header::LhaHeader;
use delharc::stub_io::Read as _;
use std::io;

/// Bytes decoded in one step.
const STEP_BYTES: usize = 512;
/// Extra headers: the name, and the directory in which each part ends with 0xff.
const EXTRA_NAME: u8 = 1;
const EXTRA_DIRECTORY: u8 = 2;

/// Places in a program where an archive may begin that are tried.
const MARKS_MAX: usize = 4096;
/// Bytes of a header before its method.
const METHOD_AT: usize = 2;

/// Where the archive begins: at the start of the bytes, or behind a program that unpacks them.
pub(crate) fn start(bytes: &[u8]) -> Option<usize> {
    if !bytes.starts_with(b"MZ") {
        return is_lha(bytes).then_some(0);
    }
    memchr::memmem::find_iter(bytes, b"-lh")
        .take(MARKS_MAX)
        .filter_map(|at| at.checked_sub(METHOD_AT))
        .find(|at| bytes.get(*at..).is_some_and(is_checked))
}

/// Whether a header stands here whose sum is right, or in the form without one, whose size fits.
fn is_checked(bytes: &[u8]) -> bool {
    const SIZES: std::ops::RangeInclusive<u16> = 24..=4096;
    is_lha(bytes)
        && match bytes {
            [size, sum, ..] if bytes.get(20).is_some_and(|level| *level < 2) => {
                let header = piece(bytes, METHOD_AT, usize::from(*size)).unwrap_or_default();
                header.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == *sum
            }
            _ => {
                let packed = u32_le(bytes, 7).map_or(usize::MAX, length);
                packed < bytes.len() && u16_le(bytes, 0).is_some_and(|size| SIZES.contains(&size))
            }
        }
}

/// Whether an archive begins here: a method's name stands behind size and checksum.
fn is_lha(bytes: &[u8]) -> bool {
    matches!(bytes.get(2..7), Some([b'-', b'l' | b'p', b'h' | b'z' | b'm', _, b'-']))
        && bytes.get(20).is_some_and(|level| *level <= 3)
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let mut rest = bytes.get(start(bytes).unwrap_or(0)..).unwrap_or_default();
    while !work.is_over() {
        let header = match LhaHeader::read(&mut rest) {
            Ok(Some(header)) => header,
            Ok(None) => return,
            Err(_) => return work.damaged("a header"),
        };
        let size = length(header.compressed_size);
        let data = piece_or_less(rest, 0, size);
        if data.len() < size {
            work.damaged("a member is cut off");
        }
        rest = rest.get(size..).unwrap_or_default();
        member(header, data, work);
    }
}

fn member(header: LhaHeader, data: &[u8], work: &mut Work<'_>) {
    if header.is_directory() {
        return;
    }
    let names = names(&header);
    let decoder = DecoderAny::new_from_header(&header, data);
    if matches!(decoder, DecoderAny::UnsupportedDecoder(_)) {
        work.unsupported("a compression method");
        return;
    }
    let mut reader = LhaDecodeReader::default();
    reader.begin_with_header_and_decoder(header, decoder);
    let mut reader = Reader(reader);
    if work.member(names, &mut Sized::new(&mut reader, data.len()), false) == End::Broken {
        work.damaged("the data of a member");
    }
}

/// The member's name as it stands, with its directory; `delharc` would make it safe for disks.
fn names(header: &LhaHeader) -> Vec<String> {
    let mut names = Vec::new();
    let (mut directory, mut name) = (String::new(), text(before_nul(&header.filename)));
    for extra in header.iter_extra() {
        match extra {
            [EXTRA_NAME, value @ ..] => name = text(before_nul(value)),
            [EXTRA_DIRECTORY, value @ ..] => {
                let parts: Vec<String> = value.split(|byte| *byte == 0xff).map(text).collect();
                directory = parts.join("/");
            }
            _ => {}
        }
    }
    add_name(&mut names, directory + &name);
    names
}

struct Reader<'a>(LhaDecodeReader<&'a [u8]>);

impl io::Read for Reader<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        // An error costs what was decoded in the same step.
        let step = output.len().min(STEP_BYTES);
        self.0
            .read_all(output.get_mut(..step).unwrap_or_default())
            .map_err(|_| io::ErrorKind::InvalidData.into())
    }
}
