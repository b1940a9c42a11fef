//! The mails of the comparison: no two alike, known to both ends from their `Message-ID` alone.
//!
//! A mail is a short text and an attachment in base64. The attachment is a stretch of a [`Pool`] of
//! lines that begins at another place in every mail, after a line that is that mail's own: so no two
//! mails have the same bytes, nor the same attachment, and nothing that remembers verdicts helps.
//! Making one costs no more than copying it, and who receives one compares bytes, not a checksum.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Bytes in one line of base64 before encoding (RFC 2045, section 6.8).
const LINE_PLAIN_BYTES: usize = 57;
/// The same line encoded, with its CRLF.
const LINE_BYTES: usize = 78;
/// Lines in the pool: 4 MiB, more than the caches of a processor's core.
const POOL_LINES: usize = 53_773;
/// What ends a mail on the wire, after its last line (RFC 5321, section 4.1.1.4).
pub(crate) const END_OF_DATA: &[u8] = b".\r\n";
/// The last line of a mail.
const TAIL: &[u8] = b"--=_edge--\r\n";
/// Smallest mail: the text and one line of the attachment.
pub(crate) const SIZE_BYTES_MIN: usize = 2_048;

/// Says which mail it is. Written in its `Message-ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id {
    /// Which measurement it is from.
    pub(crate) run: u32,
    /// Which mail of the measurement.
    pub(crate) number: u32,
    /// About so many bytes.
    pub(crate) size: usize,
    /// With the same attachment as all other such mails of this size.
    pub(crate) repeated: bool,
}

impl Id {
    /// Finds it in the header fields of a mail.
    #[must_use]
    pub(crate) fn find(header: &[u8]) -> Option<Self> {
        const FIELD: &[u8] = b"Message-ID: <";
        let start = memchr::memmem::find(header, FIELD)? + FIELD.len();
        let rest = header.get(start..)?;
        let end = memchr::memmem::find(rest, b"@bench.test>")?;
        let mut parts = std::str::from_utf8(rest.get(..end)?).ok()?.split('.');
        let mut number = || parts.next()?.parse::<usize>().ok();
        let (run, count, size) = (number()?, number()?, number()?);
        let repeated = match parts.next()? {
            "one-of-a-kind" => false,
            "repeated" => true,
            _ => return None,
        };
        let (run, number) = (run.try_into().ok()?, count.try_into().ok()?);
        Some(Self { run, number, size, repeated })
    }

    /// Decides on the attachment.
    fn seed(self) -> u64 {
        if self.repeated {
            return self.size as u64;
        }
        u64::from(self.run) << 32 | u64::from(self.number)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.repeated { "repeated" } else { "one-of-a-kind" };
        write!(f, "{}.{}.{}.{kind}", self.run, self.number, self.size)
    }
}

/// Lines of base64 that all attachments are stretches of; the same in every process.
#[derive(Debug)]
pub(crate) struct Pool(Vec<u8>);

impl Pool {
    /// Makes it.
    #[must_use]
    pub(crate) fn new() -> Self {
        let mut lines = Vec::with_capacity(POOL_LINES * LINE_BYTES);
        let mut noise = Noise::new(0);
        for _ in 0..POOL_LINES {
            lines.extend_from_slice(noise.line().as_bytes());
        }
        Self(lines)
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

/// One mail, as it crosses a connection: lines that begin with a dot have it doubled.
#[derive(Debug)]
pub(crate) struct Message {
    head: Vec<u8>,
    header_bytes: usize,
    /// Where in the pool the attachment's second line begins.
    start: usize,
    /// Bytes of the attachment that are from the pool.
    stretch: usize,
}

impl Message {
    /// Makes the mail of that name. A size below [`SIZE_BYTES_MIN`] counts as that.
    #[must_use]
    pub(crate) fn new(id: Id) -> Self {
        let header = header(id);
        let header_bytes = header.len();
        let mut noise = Noise::new(id.seed());
        let start = usize::try_from(noise.next() % POOL_LINES as u64).unwrap_or(0) * LINE_BYTES;
        let head = (header + BODY + &noise.line()).into_bytes();
        let rest = id.size.max(SIZE_BYTES_MIN).saturating_sub(head.len() + TAIL.len());
        Self { head, header_bytes, start, stretch: rest / LINE_BYTES * LINE_BYTES }
    }

    /// Its header fields, with the empty line after them.
    #[must_use]
    pub(crate) fn header(&self) -> &[u8] {
        &self.head[..self.header_bytes]
    }

    /// All its bytes, without [`END_OF_DATA`].
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.head.len() + self.stretch + TAIL.len()
    }

    /// Bytes from `position` on, as many as lie together; empty at the end.
    #[must_use]
    pub(crate) fn at<'a>(&'a self, pool: &'a Pool, position: usize) -> &'a [u8] {
        if let Some(head @ [_, ..]) = self.head.get(position..) {
            return head;
        }
        let position = position - self.head.len();
        let Some(left) = self.stretch.checked_sub(position).filter(|left| *left > 0) else {
            return TAIL.get(position - self.stretch..).unwrap_or_default();
        };
        let from = &pool.0[(self.start + position) % pool.0.len()..];
        &from[..from.len().min(left)]
    }

    /// The whole mail.
    #[must_use]
    pub(crate) fn to_vec(&self, pool: &Pool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes());
        while bytes.len() < self.bytes() {
            bytes.extend_from_slice(self.at(pool, bytes.len()));
        }
        bytes
    }
}

/// What of a mail is compared as it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Every byte as it was sent.
    Exact,
    /// Header fields were added; all that was sent is there.
    FieldsAdded,
    /// Something else is different.
    Altered,
    /// Not a mail of the comparison.
    Foreign,
}

/// Compares a mail with what was sent, in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    header: Vec<u8>,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    expected: Option<Message>,
    arrived: Arrived,
    position: usize,
}

impl Comparison {
    /// Longest header that is looked at, in bytes; a longer one is not of the comparison.
    pub(crate) const HEADER_BYTES_MAX: usize = 64 * 1024;

    /// Takes the next bytes of the mail as they crossed, dots doubled.
    pub(crate) fn push(&mut self, pool: &Pool, mut bytes: &[u8]) {
        if self.body.is_none() {
            let known = self.header.len();
            self.header.extend_from_slice(bytes);
            let from = known.saturating_sub(3);
            let Some(found) = memchr::memmem::find(&self.header[from..], b"\r\n\r\n") else {
                if self.header.len() > Self::HEADER_BYTES_MAX {
                    self.body = Some(Body::foreign());
                }
                return;
            };
            let end = from + found + 4;
            bytes = &bytes[end - known..];
            self.header.truncate(end);
            self.body = Some(Body::after(&self.header));
        }
        if let Some(body) = &mut self.body {
            body.compare(pool, bytes);
        }
    }

    /// The mail has ended: what became of it. Ready for the next.
    pub(crate) fn finish(&mut self) -> Arrived {
        self.header.clear();
        self.body.take().map_or(Arrived::Foreign, Body::finish)
    }
}

impl Body {
    fn foreign() -> Self {
        Self { expected: None, arrived: Arrived::Foreign, position: 0 }
    }

    fn after(header: &[u8]) -> Self {
        let Some(id) = Id::find(header) else { return Self::foreign() };
        let expected = Message::new(id);
        let arrived = if header == expected.header() {
            Arrived::Exact
        } else if has_all_lines(header, expected.header()) {
            Arrived::FieldsAdded
        } else {
            Arrived::Altered
        };
        let position = expected.header().len();
        Self { expected: Some(expected), arrived, position }
    }

    fn compare(&mut self, pool: &Pool, mut bytes: &[u8]) {
        let Some(expected) = &self.expected else { return };
        while !bytes.is_empty() && self.arrived != Arrived::Altered {
            let wanted = expected.at(pool, self.position);
            let length = wanted.len().min(bytes.len());
            if length == 0 || wanted[..length] != bytes[..length] {
                self.arrived = Arrived::Altered;
            }
            self.position += length;
            bytes = &bytes[length..];
        }
    }

    fn finish(self) -> Arrived {
        match self.expected {
            Some(expected) if self.position != expected.bytes() => Arrived::Altered,
            _ => self.arrived,
        }
    }
}

/// Whether all lines of `wanted` are in `header` in their order, others between them.
fn has_all_lines(header: &[u8], wanted: &[u8]) -> bool {
    let mut lines = header.split(|&byte| byte == b'\n');
    wanted.split(|&byte| byte == b'\n').all(|wanted| lines.any(|line| line == wanted))
}

fn header(id: Id) -> String {
    format!(
        "From: Office <user@bench.test>\r\nTo: <partner@bench.test>\r\n\
         Subject: Report {id}\r\nDate: Mon, 23 Nov 2026 09:00:00 +0900\r\n\
         Message-ID: <{id}@bench.test>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"=_edge\"\r\n\r\n"
    )
}

/// The text, with a line that begins with a dot, doubled; and how the attachment begins.
const BODY: &str = "--=_edge\r\nContent-Type: text/plain; charset=UTF-8\r\n\
    Content-Transfer-Encoding: 8bit\r\n\r\n\
    Good morning,\r\n\r\nplease find attached the report of this week. The figures of the second page\r\n\
    are not final; those of the third are. If anything is missing, call me before noon.\r\n\
    ..and this line begins with a dot, trailing blanks follow   \r\n\
    \u{3088}\u{308d}\u{3057}\u{304f}\u{304a}\u{9858}\u{3044}\u{3057}\u{307e}\u{3059}\r\n\r\n\
    --=_edge\r\nContent-Type: application/octet-stream; name=\"report.bin\"\r\n\
    Content-Disposition: attachment; filename=\"report.bin\"\r\n\
    Content-Transfer-Encoding: base64\r\n\r\n";

/// Bytes that look random and follow from a seed.
#[derive(Debug)]
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        // SplitMix64 (Steele, Lea and Flood, 2014): near seeds give distant sequences.
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((state ^ state >> 31).max(1))
    }

    fn next(&mut self) -> u64 {
        // Xorshift (Marsaglia, 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A line of base64 with its CRLF.
    fn line(&mut self) -> String {
        let mut plain = [0; LINE_PLAIN_BYTES];
        for chunk in plain.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        STANDARD.encode(plain) + "\r\n"
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(number: u32, size: usize) -> Id {
        Id { run: 7, number, size, repeated: false }
    }

    fn attachment(message: &[u8]) -> Vec<u8> {
        let start = memchr::memmem::rfind(message, b"base64\r\n\r\n").unwrap() + 10;
        let text = std::str::from_utf8(&message[start..message.len() - TAIL.len()]).unwrap();
        STANDARD.decode(text.replace("\r\n", "")).unwrap()
    }

    #[test]
    fn sizes_are_what_was_asked_for_up_to_a_line() {
        let pool = Pool::new();
        for size in [SIZE_BYTES_MIN, 10_240, 102_400, 1 << 20, 25 << 20] {
            let message = Message::new(id(1, size));
            assert!(message.bytes() <= size && message.bytes() + LINE_BYTES > size, "{size}");
            let bytes = message.to_vec(&pool);
            assert_eq!(bytes.len(), message.bytes());
            assert!(bytes.ends_with(TAIL) && bytes.starts_with(message.header()));
        }
    }

    #[test]
    fn no_two_mails_nor_their_attachments_are_alike() {
        let pool = Pool::new();
        let mut seen = HashSet::new();
        for number in 0..2_000 {
            let bytes = Message::new(id(number, 4_096)).to_vec(&pool);
            let attachment = attachment(&bytes);
            assert!(
                seen.insert(bytes) && seen.insert(attachment),
                "mail {number} is another again"
            );
        }
    }

    #[test]
    fn repeated_attachments_are_alike_and_their_mails_are_not() {
        let pool = Pool::new();
        let mail = |number| Message::new(Id { repeated: true, ..id(number, 10_240) }).to_vec(&pool);
        assert_ne!(mail(1), mail(2));
        assert_eq!(attachment(&mail(1)), attachment(&mail(2)));
    }

    #[test]
    fn every_line_is_within_the_limits_of_mail_and_has_its_dot_doubled() {
        let bytes = Message::new(id(3, 20_000)).to_vec(&Pool::new());
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
        // RFC 5322, section 2.1.1.
        assert!(text.split("\r\n").all(|line| line.len() <= 998));
        assert!(text.split("\r\n").all(|line| !line.starts_with('.') || line.starts_with("..")));
    }

    #[test]
    fn the_name_is_found_again() {
        for repeated in [false, true] {
            let id = Id { repeated, ..id(5, 10_240) };
            assert_eq!(Id::find(Message::new(id).header()), Some(id));
        }
        for other in ["", "Message-ID: <1.2@bench.test>", "Message-ID: <1.2.x.repeated@bench.test>"]
        {
            assert_eq!(Id::find(other.as_bytes()), None, "{other}");
        }
    }

    fn arrived(pool: &Pool, bytes: &[u8], piece: usize) -> Arrived {
        let mut comparison = Comparison::default();
        bytes.chunks(piece).for_each(|chunk| comparison.push(pool, chunk));
        comparison.finish()
    }

    #[test]
    fn a_mail_is_compared_in_pieces_of_any_size() {
        let pool = Pool::new();
        let bytes = Message::new(id(1, 4_096)).to_vec(&pool);
        for piece in 1..bytes.len() {
            assert_eq!(arrived(&pool, &bytes, piece), Arrived::Exact, "pieces of {piece}");
        }
    }

    #[test]
    fn any_byte_that_is_different_is_seen() {
        let pool = Pool::new();
        let bytes = Message::new(id(1, 2_048)).to_vec(&pool);
        for index in 0..bytes.len() {
            let mut other = bytes.clone();
            other[index] ^= 1;
            assert_ne!(arrived(&pool, &other, 1_000), Arrived::Exact, "byte {index}");
        }
        assert_eq!(arrived(&pool, &bytes[..bytes.len() - 1], 1_000), Arrived::Altered);
        assert_eq!(arrived(&pool, &[&bytes[..], b"x"].concat(), 1_000), Arrived::Altered);
    }

    #[test]
    fn added_fields_are_told_from_other_changes() {
        let pool = Pool::new();
        let bytes = Message::new(id(1, 2_048)).to_vec(&pool);
        let added = [b"Received: from x\r\n by y\r\n", &bytes[..]].concat();
        assert_eq!(arrived(&pool, &added, 100), Arrived::FieldsAdded);
        let lost = &bytes[memchr::memchr(b'\n', &bytes).unwrap() + 1..];
        assert_eq!(arrived(&pool, lost, 100), Arrived::Altered);
        assert_eq!(arrived(&pool, b"Subject: x\r\n\r\nhello\r\n", 5), Arrived::Foreign);
        let long = vec![b'x'; Comparison::HEADER_BYTES_MAX + 1];
        assert_eq!(arrived(&pool, &long, 4_096), Arrived::Foreign);
    }
}
