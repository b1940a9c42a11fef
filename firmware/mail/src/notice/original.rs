//! What a notice repeats of the original's header, after cleaning.

use super::decode::decoded;
use super::encode::encoded_words;
use super::is_shown;

/// Bytes of a message's beginning that are kept for its header.
const HEADER_CAPTURE_BYTES_MAX: usize = 32 * 1024;

/// Longest Message-ID and Date repeated, in characters.
const SHORT_VALUE_CHARS_MAX: usize = 250;

/// In the place of a From that is missing or empty.
const FROM_UNKNOWN: &str = "\"(unknown sender)\" <unknown@invalid>";

/// The beginning of a message's content, kept while it streams by.
#[derive(Default)]
pub(crate) struct HeaderCapture {
    bytes: Vec<u8>,
    /// Up to here it is what crosses the wire, too.
    sealed_at: Option<usize>,
}

impl HeaderCapture {
    /// Takes content in order; what is beyond the limit is ignored.
    pub(crate) fn push(&mut self, content: &[u8]) {
        let room = HEADER_CAPTURE_BYTES_MAX - self.bytes.len();
        self.bytes.extend_from_slice(content.get(..room).unwrap_or(content));
    }

    /// What comes from here on is not as it crosses the wire (unstuffed dots, for one).
    pub(crate) fn seal(&mut self) {
        self.sealed_at.get_or_insert(self.bytes.len());
    }

    /// The beginning that is as it crosses the wire.
    pub(crate) fn as_on_wire(&self) -> &[u8] {
        self.sealed_at.and_then(|at| self.bytes.get(..at)).unwrap_or(&self.bytes)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn from(&self) -> String {
        let value = self.field("From").map(|raw| mailbox(&raw)).unwrap_or_default();
        if value.is_empty() { FROM_UNKNOWN.to_owned() } else { value }
    }

    /// As the header has it, to show in the text; empty if there is none.
    pub(super) fn claimed_from(&self) -> String {
        self.claimed("From")
    }

    /// As [`Self::claimed_from`].
    pub(super) fn claimed_subject(&self) -> String {
        self.claimed("Subject")
    }

    /// As [`Self::claimed_from`].
    pub(super) fn claimed_date(&self) -> String {
        self.claimed("Date")
    }

    fn claimed(&self, name: &str) -> String {
        decoded(&self.field(name).map(|raw| clean(&raw)).unwrap_or_default())
    }

    /// Empty if there is none.
    pub(super) fn subject(&self) -> String {
        encoded_words(&self.field("Subject").map(|raw| clean(&raw)).unwrap_or_default())
    }

    /// The Date, or that of the newest Received, if either is one.
    pub(super) fn date(&self) -> Option<String> {
        let received = || {
            let raw = self.field("Received")?;
            Some(raw.get(raw.iter().rposition(|byte| *byte == b';')? + 1..)?.to_vec())
        };
        let date = |raw: Vec<u8>| Some(clean(&raw)).filter(|value| is_date(value));
        self.field("Date").and_then(date).or_else(|| received().and_then(date))
    }

    pub(super) fn message_id(&self) -> Option<String> {
        let value = clean(&self.field("Message-ID")?);
        is_message_id(&value).then_some(value)
    }

    /// The first field of that name, unfolded.
    fn field(&self, name: &str) -> Option<Vec<u8>> {
        let mut found: Option<Vec<u8>> = None;
        for line in self.bytes.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                break;
            }
            let continues = line.starts_with(b" ") || line.starts_with(b"\t");
            match &mut found {
                Some(value) if continues => value.extend_from_slice(line),
                Some(_) => break,
                None => {
                    let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
                    let (before, behind) = line.split_at(colon);
                    if before.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()) {
                        found = Some(behind.get(1..).unwrap_or_default().to_vec());
                    }
                }
            }
        }
        found
    }
}

/// Printable text on one line: encoded words stay as they are, 8-bit text that is not UTF-8 becomes
/// question marks.
pub(super) fn clean(raw: &[u8]) -> String {
    let text = match std::str::from_utf8(raw) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            raw.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect()
        }
    };
    let blank = |c: char| if c == '\t' { ' ' } else { c };
    let printable: String = text.chars().map(blank).filter(|c| is_shown(*c)).collect();
    printable.trim().to_owned()
}

/// A From in ASCII: a display name in UTF-8 (RFC 6532) is encoded, an address cannot be.
fn mailbox(raw: &[u8]) -> String {
    let value = clean(raw);
    if value.is_ascii() {
        return value;
    }
    let ascii = |text: &str| text.replace(|c: char| !c.is_ascii(), "?");
    match value.rfind('<').map(|at| value.split_at(at)) {
        Some((name, address)) => {
            let name = name.trim().trim_matches('"');
            let name = if name.contains("=?") { ascii(name) } else { encoded_words(name) };
            format!("{name} {}", ascii(address)).trim().to_owned()
        }
        None => ascii(&value),
    }
}

/// Of the characters that dates have; mail programs judge the rest.
pub(super) fn is_date(value: &str) -> bool {
    value.len() <= SHORT_VALUE_CHARS_MAX
        && value.bytes().any(|byte| byte.is_ascii_digit())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" ,:+-().".contains(&byte))
}

/// One identifier in angle brackets, and nothing else.
pub(super) fn is_message_id(value: &str) -> bool {
    let inner = value.strip_prefix('<').and_then(|value| value.strip_suffix('>'));
    value.len() <= SHORT_VALUE_CHARS_MAX
        && inner.is_some_and(|inner| {
            let safe = inner.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>".contains(&byte));
            safe && inner.contains('@')
        })
}
