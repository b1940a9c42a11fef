//! The MIME walk over any message, in all readings that it asks for.

use std::collections::BTreeMap;

use scan::Limits;
use scan::mime::{Event, Reading, Walker, further_readings};

/// Small, so that inputs of a few kilobytes reach them.
fn limits() -> Limits {
    Limits { decoded_bytes_max: 64 * 1024, depth_max: 12, parts_max: 40, ..Limits::default() }
}

/// More readings of one message than this are more than dialects times structures.
const READINGS_MAX: usize = 64;

/// A whole message.
pub(crate) fn walk(bytes: &[u8]) {
    let mut done = vec![Reading::default()];
    let mut waiting = done.clone();
    while let Some(reading) = waiting.pop() {
        let whole = read(reading, bytes, usize::MAX);
        for piece in [1, 7] {
            let cut = read(reading, bytes, piece);
            assert_eq!(whole.events, cut.events, "{reading:?} in pieces of {piece}");
            assert_eq!(whole.parts, cut.parts, "{reading:?} in pieces of {piece}");
        }
        let further = further_readings(whole.oddities, &done);
        done.extend(further.iter().copied());
        waiting.extend(further);
        assert!(done.len() <= READINGS_MAX, "readings without end");
    }
}

/// A text that is no message, for the files in its lines.
pub(crate) fn text_files(bytes: &[u8]) {
    let read = |piece| read_by(Walker::text(&limits()), bytes, piece);
    let whole = read(usize::MAX);
    for piece in [1, 7] {
        let cut = read(piece);
        assert_eq!(whole.events, cut.events, "in pieces of {piece}");
        assert_eq!(whole.parts, cut.parts, "in pieces of {piece}");
    }
}

/// A message whose header fields the fuzzer fills in: NUL-separated values of Content-Type, encoding,
/// disposition.
pub(crate) fn header(bytes: &[u8]) {
    let mut message = b"From: a\r\nMIME-Version: 1.0\r\n".to_vec();
    let fields =
        ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-Type"];
    for (field, value) in fields.iter().zip(bytes.split(|&byte| byte == 0)) {
        message.extend_from_slice(field.as_bytes());
        message.extend_from_slice(b": ");
        message.extend_from_slice(value);
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(b"\r\n--b\r\nContent-Type: x/y; name=");
    message.extend_from_slice(bytes);
    message.extend_from_slice(b"\r\n\r\nVGhpcyBpcyB0ZXh0\r\n--b--\r\n");
    walk(&message);
}

struct Walked {
    /// All but data, in order.
    events: Vec<String>,
    parts: BTreeMap<u32, Vec<u8>>,
    oddities: scan::mime::Oddities,
}

fn read(reading: Reading, bytes: &[u8], piece: usize) -> Walked {
    read_by(Walker::reading(reading, &limits()), bytes, piece)
}

fn read_by(mut walker: Walker, bytes: &[u8], piece: usize) -> Walked {
    let mut walked =
        Walked { events: Vec::new(), parts: BTreeMap::new(), oddities: walker.oddities() };
    for part in bytes.chunks(piece) {
        walker.feed(part);
        walked.drain(&mut walker);
    }
    walker.finish();
    walked.drain(&mut walker);
    assert!(walker.parts() <= limits().parts_max);
    let decoded: usize = walked.parts.values().map(Vec::len).sum();
    assert!(decoded <= limits().decoded_bytes_max, "{decoded} bytes decoded");
    walked.oddities = walker.oddities();
    walked
}

impl Walked {
    fn drain(&mut self, walker: &mut Walker) {
        while let Some(event) = walker.poll_event() {
            if let Event::PartData { number, bytes } = event {
                assert!(!bytes.is_empty(), "empty data");
                self.parts.entry(number).or_default().extend_from_slice(&bytes);
            } else {
                self.events.push(format!("{event:?}"));
            }
        }
    }
}
