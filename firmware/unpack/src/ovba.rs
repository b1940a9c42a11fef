//! The source text of macros, out of the streams of a VBA project ([MS-OVBA] section 2.4.1).

use std::io::{self, Read};

/// How the text of every module begins, in its packed form: a byte of flags that says "eight bytes
/// as they are", these, and flags again.
const BEGIN: &[u8] = b"\0Attribut\0e ";
/// The byte that begins a packed text, and a chunk's header.
const HEADER_BYTES: usize = 3;
const CHUNK_BYTES_MAX: usize = 4096;

/// The packed texts of modules in a stream. Where they begin stands in another stream; they are
/// found by how they begin, which holds for projects whose other streams were spoiled as well.
pub(crate) fn modules(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    memchr::memmem::find_iter(stream, BEGIN)
        .filter_map(|at| stream.get(at.checked_sub(HEADER_BYTES)?..))
        .filter(|packed| packed.first() == Some(&1))
}

/// Unpacks one text, chunk by chunk.
pub(crate) struct Decoder<'a> {
    input: &'a [u8],
    chunk: Vec<u8>,
    taken: usize,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(packed: &'a [u8]) -> Self {
        Self { input: packed.get(1..).unwrap_or_default(), chunk: Vec::new(), taken: 0 }
    }

    /// Unpacks the next chunk. False: there is none.
    fn next_chunk(&mut self) -> bool {
        let Some(header) = crate::bytes::u16_le(self.input, 0) else { return false };
        if header >> 12 & 7 != 3 {
            return false;
        }
        let size = usize::from(header & 0xfff) + 3;
        let data = crate::bytes::piece_or_less(self.input, 2, size - 2);
        self.input = self.input.get(size..).unwrap_or_default();
        self.taken = 0;
        self.chunk.clear();
        if header & 0x8000 == 0 {
            self.chunk.extend_from_slice(data);
        } else {
            unpack_chunk(data, &mut self.chunk);
        }
        true
    }
}

fn unpack_chunk(mut data: &[u8], chunk: &mut Vec<u8>) {
    while let Some((flags, rest)) = data.split_first() {
        data = rest;
        for bit in 0..8 {
            let Some((byte, rest)) = data.split_first() else { return };
            if flags >> bit & 1 == 0 {
                chunk.push(*byte);
                data = rest;
                continue;
            }
            let Some(token) = crate::bytes::u16_le(data, 0) else { return };
            data = data.get(2..).unwrap_or_default();
            // The further the chunk is, the more bits the offset has (section 2.4.1.3.19.1).
            let offset_bits = chunk.len().next_power_of_two().trailing_zeros().clamp(4, 12);
            let length = usize::from(token & (0xffff >> offset_bits)) + 3;
            let offset = usize::from(token >> (16 - offset_bits)) + 1;
            for _ in 0..length {
                let from = chunk.len().checked_sub(offset).and_then(|at| chunk.get(at)).copied();
                let Some(byte) = from.filter(|_| chunk.len() < CHUNK_BYTES_MAX) else { return };
                chunk.push(byte);
            }
        }
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        while self.taken >= self.chunk.len() {
            if !self.next_chunk() {
                return Ok(0);
            }
        }
        let rest = self.chunk.get(self.taken..).unwrap_or_default();
        let count = (&mut &*rest).read(output)?;
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_text_is_unpacked() {
        // The normal example of [MS-OVBA] section 3.2.2.
        let packed = [
            0x01, 0x2f, 0xb0, 0x00, 0x23, 0x61, 0x61, 0x61, 0x62, 0x63, 0x64, 0x65, 0x82, 0x66,
            0x00, 0x70, 0x61, 0x67, 0x68, 0x69, 0x6a, 0x01, 0x38, 0x08, 0x61, 0x6b, 0x6c, 0x00,
            0x30, 0x6d, 0x6e, 0x6f, 0x70, 0x06, 0x71, 0x02, 0x70, 0x04, 0x10, 0x72, 0x73, 0x74,
            0x75, 0x76, 0x10, 0x77, 0x78, 0x79, 0x7a, 0x00, 0x3c,
        ];
        let mut unpacked = String::new();
        Decoder::new(&packed).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, "#aaabcdefaaaaghijaaaaaklaaamnopqaaaaaaaaaaaarstuvwxyzaaa");
    }

    #[test]
    fn modules_are_found_by_how_they_begin() {
        let stream = b"\xff\xffsource\x01\x19\xb0\0Attribut\0e VB_Nam\0e = \"a\"\r\n";
        assert_eq!(modules(stream).count(), 1);
        assert_eq!(modules(b"\0Attribut\0e ").count(), 0);
    }
}
