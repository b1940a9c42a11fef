//! LHA (LZH), by `delharc`.

use crate::bytes::{add_name, before_nul, length, piece_or_less, text};
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

/// Whether an archive begins here: a method's name stands behind size and checksum.
pub(crate) fn is_lha(bytes: &[u8]) -> bool {
    matches!(bytes.get(2..7), Some([b'-', b'l' | b'p', b'h' | b'z' | b'm', _, b'-']))
        && bytes.get(20).is_some_and(|level| *level <= 3)
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let mut rest = bytes;
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
