//! The part of a header that may leave ahead of the verdict, a little at a time.
//!
//! What has left must fit both ends of the story: the rest of the original, byte for byte, and the
//! rest of a notice. So it is a beginning of the original's header in which every field is one that
//! any message may have; it stops before the first that decides how a body is read, and before any
//! line that two programs could read in two ways.

use super::HeaderCapture;
use super::original::{clean, is_date, is_message_id};

/// Longest line of a header, in bytes without its line end (RFC 5322 section 2.1.1).
const LINE_BYTES_MAX: usize = 998;

/// At most one of each (RFC 5322 section 3.6).
const ONCE: [&str; 11] = [
    "bcc",
    "cc",
    "date",
    "from",
    "in-reply-to",
    "message-id",
    "references",
    "reply-to",
    "sender",
    "subject",
    "to",
];

/// Fields that must not stand above a notice. Besides those of MIME and our own: what makes a mail
/// program tell the sender that his mail was read.
const NEVER: [&str; 6] = [
    "disposition-notification-options",
    "disposition-notification-to",
    "encoding",
    "mime-version",
    "return-receipt-to",
    "x-confirm-reading-to",
];

/// Beginnings of such names.
const NEVER_BEGINNINGS: [&str; 2] = ["content-", "x-avr-"];

/// A field that may leave.
struct Field {
    /// In lower case.
    name: String,
    /// Offset of its first byte.
    start: usize,
    /// Behind its last line end.
    end: usize,
}

impl HeaderCapture {
    /// How many bytes may leave next, when `out` have left. `None`: nothing more, as yet.
    ///
    /// A whole field as a rule. The last one that may be cut anywhere goes byte by byte, so that
    /// there is something to say for as long as possible; the message must not end in between, but
    /// a line end may follow at any time.
    pub(crate) fn next_release(&self, out: usize) -> Option<usize> {
        let fields = self.safe_fields();
        let dripping = fields.iter().rposition(Field::is_unstructured);
        let (at, field) = fields.iter().enumerate().find(|(_, field)| out < field.end)?;
        let rest = self.as_on_wire().get(out..field.end)?;
        if Some(at) != dripping {
            return Some(rest.len());
        }
        let name_end = field.start + field.name.len() + 1;
        Some(if out < name_end { name_end - out } else { drip(rest) })
    }

    /// What stands above the rest of a notice when `out` bytes have left.
    pub(super) fn released(&self, out: usize) -> Released {
        let mut names: Vec<String> = Vec::new();
        for field in self.safe_fields() {
            if field.start < out {
                names.push(field.name);
            }
        }
        let bytes = self.as_on_wire().get(..out).unwrap_or_default();
        Released { names, within_line: out > 0 && !bytes.ends_with(b"\r\n") }
    }

    /// The fields from the start on that are complete and safe. The more of the header is known, the
    /// more there are; those that were there stay.
    fn safe_fields(&self) -> Vec<Field> {
        let mut fields: Vec<Field> = Vec::new();
        let mut open: Option<Field> = None;
        let mut at = 0;
        for line in self.as_on_wire().split_inclusive(|byte| *byte == b'\n') {
            let continues = line.starts_with(b" ") || line.starts_with(b"\t");
            if !continues && let Some(mut field) = open.take() {
                field.end = at;
                if !self.is_safe(&field, &fields) {
                    return fields;
                }
                fields.push(field);
            }
            let Some(text) = line.strip_suffix(b"\r\n").filter(|text| is_safe_line(text)) else {
                return fields;
            };
            if continues && open.is_none() {
                return fields;
            }
            if !continues {
                let Some(name) = name(text) else { return fields };
                open = Some(Field { name, start: at, end: at });
            }
            at += line.len();
        }
        // The last one may go on.
        fields
    }

    fn is_safe(&self, field: &Field, before: &[Field]) -> bool {
        let name = &*field.name;
        if NEVER.contains(&name)
            || NEVER_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
            || ONCE.contains(&name) && before.iter().any(|other| other.name == name)
        {
            return false;
        }
        let value =
            self.as_on_wire().get(field.start + name.len() + 1..field.end).unwrap_or_default();
        let value = clean(value);
        match name {
            "date" => is_date(&value),
            "message-id" => is_message_id(&value),
            _ => field.is_unstructured() || !value.is_empty(),
        }
    }
}

/// What has left ahead of a notice.
pub(super) struct Released {
    /// Names of fields, in lower case.
    names: Vec<String>,
    /// The last line has no end yet.
    pub(super) within_line: bool,
}

impl Released {
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|released| released.eq_ignore_ascii_case(name))
    }
}

impl Field {
    /// Text without a syntax: any beginning of it is as good as the whole.
    fn is_unstructured(&self) -> bool {
        matches!(&*self.name, "subject" | "comments") || self.name.starts_with("x-")
    }
}

/// The field's name, if it stands directly before its colon.
fn name(line: &[u8]) -> Option<String> {
    let (name, _) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    is_name.then_some(name)
}

/// One line for every program: no odd line ends, no dot that is stuffed on the wire, and not one
/// that some take for the empty line at the header's end.
fn is_safe_line(text: &[u8]) -> bool {
    text.len() <= LINE_BYTES_MAX
        && !text.starts_with(b".")
        && text.iter().any(|byte| !matches!(byte, b' ' | b'\t'))
        && text.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t')
}

/// The shortest beginning of a field's rest behind which a line may end: one character, with the
/// fold before it, or the line end alone.
fn drip(rest: &[u8]) -> usize {
    if rest == b"\r\n" {
        return rest.len();
    }
    let fold = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let blanks = rest.iter().skip(fold).take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let first = if fold > 0 { fold + blanks } else { 0 };
    let behind = rest.iter().skip(first + 1);
    first + 1 + behind.take_while(|byte| matches!(byte, 0x80..=0xbf)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(bytes: &[u8]) -> HeaderCapture {
        let mut capture = HeaderCapture::default();
        capture.push(bytes);
        capture
    }

    /// The pieces that leave one after the other.
    fn pieces(header: &str) -> Vec<String> {
        let capture = capture(header.as_bytes());
        let mut out = 0;
        let mut pieces = Vec::new();
        while let Some(bytes) = capture.next_release(out) {
            assert!(bytes > 0);
            pieces.push(header[out..out + bytes].to_owned());
            out += bytes;
        }
        pieces
    }

    #[test]
    fn whole_fields_leave_and_the_last_free_text_byte_by_byte() {
        let header = "Received: by a\r\n\tfor b\r\nX-A: 1\r\nSubject: é\r\n  b\r\n\
                      From: a@b\r\nMIME-Version: 1.0\r\nTo: x@y\r\n\r\n";
        assert_eq!(
            pieces(header),
            [
                "Received: by a\r\n\tfor b\r\n",
                "X-A: 1\r\n",
                "Subject:",
                " ",
                "é",
                "\r\n  b",
                "\r\n",
                "From: a@b\r\n"
            ]
        );
    }

    #[test]
    fn a_field_that_may_go_on_stays() {
        assert_eq!(pieces("From: a@b\r\n"), Vec::<String>::new());
        assert_eq!(pieces("From: a@b\r\n "), Vec::<String>::new());
        assert_eq!(pieces("From: a@b\r\nT"), ["From: a@b\r\n"]);
        assert_eq!(pieces("From: a@b\r\n\r\n"), ["From: a@b\r\n"]);
        assert_eq!(pieces(""), Vec::<String>::new());
    }

    #[test]
    fn nothing_leaves_from_a_line_that_is_not_safe_on() {
        for line in [
            "Content-Type: text/plain\r\n",
            "content-foo: x\r\n",
            "Mime-VERSION: 1.0\r\n",
            "Disposition-Notification-To: a@b\r\n",
            "X-AVR-Notice: clean\r\n",
            "Subject : blank before the colon\r\n",
            "no colon\r\n",
            ": no name\r\n",
            "X-A: bare\rcr\r\n",
            "X-A: bare lf\n",
            "X-A: nul\0\r\n",
            "X-A: escape\x1b\r\n",
            "X-Ä: name\r\n",
            ".X-Dot: x\r\n",
            "X-A: x\r\n \t\r\n",
            "From: second@b\r\n",
            "Date: yesterday!\r\n",
            "Message-ID: none\r\n",
            "To:\r\n",
            "\r\n",
        ] {
            let header = format!("From: a@b\r\n{line}Comments: behind\r\nTo: c@d\r\n\r\n");
            let pieces = pieces(&header);
            // A line that continues the field before it takes that along.
            let before = if line.starts_with(' ') { 0 } else { 1 };
            assert!(pieces.len() <= before.max(1), "{line:?}: {pieces:?}");
            assert!(!pieces.concat().contains("behind"), "{line:?}");
        }
        assert_eq!(pieces(" begins folded\r\nFrom: a@b\r\n\r\n"), Vec::<String>::new());
        let long = format!("From: a@b\r\nX-A: {}\r\n\r\n", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(pieces(&long), ["From: a@b\r\n"]);
    }

    #[test]
    fn what_has_left_is_known_by_name() {
        let capture = capture(b"From: a@b\r\nSubject: hello\r\n\r\n");
        let nothing = capture.released(0);
        assert!(!nothing.has("From") && !nothing.within_line);
        let one = capture.released(11);
        assert!(one.has("FROM") && !one.has("Subject") && !one.within_line);
        let cut = capture.released(11 + 10);
        assert!(cut.has("Subject") && cut.within_line);
    }
}
