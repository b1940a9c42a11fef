//! Boxes from a CSV file (RFC 4180): `mac`, `note`, `sessions_max`, the last two optional.
//!
//! A first row that begins with `mac` is a heading; empty rows and rows that begin with `#` are
//! passed over. A file with a bad row imports nothing, and every bad row is named by its line.

use std::collections::HashMap;
use std::fmt;

use wire::MacAddress;

use crate::registry::{Device, NOTE_BYTES_MAX, SESSIONS_MAX_DEFAULT, SESSIONS_MAX_LIMIT};

/// Largest file that is imported, in bytes.
pub const CSV_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most bad rows that are named; the rest is counted.
pub const BAD_ROWS_SHOWN_MAX: usize = 20;

/// The boxes in `bytes`, registered at `added_s` (seconds since 1970).
///
/// # Errors
/// Every row that cannot be used.
pub fn parse(bytes: &[u8], added_s: u64) -> Result<Vec<Device>, BadRows> {
    // What Excel puts in front of "CSV UTF-8".
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut devices = Vec::new();
    let mut bad = BadRows::default();
    let mut lines: HashMap<MacAddress, usize> = HashMap::new();
    for (index, row) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        let row = row.strip_suffix(b"\r").unwrap_or(row);
        let device = match std::str::from_utf8(row) {
            Ok(row) => parse_row(row, line == 1, added_s),
            Err(_) => Err("not UTF-8; save the file as \"CSV UTF-8\"".to_owned()),
        };
        match device {
            Ok(None) => {}
            Ok(Some(device)) => match lines.insert(device.mac, line) {
                None => devices.push(device),
                Some(first) => bad.push(line, format!("{} stands on line {first} too", device.mac)),
            },
            Err(why) => bad.push(line, why),
        }
    }
    if bad.count == 0 { Ok(devices) } else { Err(bad) }
}

/// The rows that cannot be used, one a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BadRows {
    shown: Vec<(usize, String)>,
    count: usize,
}

impl BadRows {
    fn push(&mut self, line: usize, why: String) {
        self.count += 1;
        if self.shown.len() < BAD_ROWS_SHOWN_MAX {
            self.shown.push((line, why));
        }
    }
}

impl fmt::Display for BadRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing was imported; {} bad rows:", self.count)?;
        for (line, why) in &self.shown {
            write!(f, "\n  line {line}: {why}")?;
        }
        let more = self.count - self.shown.len();
        if more > 0 { write!(f, "\n  and {more} more") } else { Ok(()) }
    }
}

impl std::error::Error for BadRows {}

/// The box of a row, if the row has one.
fn parse_row(row: &str, is_first: bool, added_s: u64) -> Result<Option<Device>, String> {
    if row.trim().is_empty() || row.starts_with('#') {
        return Ok(None);
    }
    let fields = split_fields(row)?;
    let mut fields = fields.iter().map(|field| field.trim());
    let mac = fields.next().unwrap_or_default();
    if is_first && mac.eq_ignore_ascii_case("mac") {
        return Ok(None);
    }
    let mac = parse_mac(mac)?;
    let note = fields.next().unwrap_or_default().to_owned();
    check_note(&note)?;
    let sessions_max = match fields.next() {
        None | Some("") => SESSIONS_MAX_DEFAULT,
        Some(number) => parse_sessions_max(number)?,
    };
    if fields.next().is_some() {
        return Err("more than three fields; a note with a comma needs \"quotes\"".to_owned());
    }
    Ok(Some(Device { note, sessions_max, ..Device::new(mac, added_s) }))
}

/// A box's own address, from the command line or a file.
pub(crate) fn parse_mac(text: &str) -> Result<MacAddress, String> {
    let mac: MacAddress = text.parse().map_err(|error| format!("\"{}\" is {error}", show(text)))?;
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err(format!("{mac} is the address of a group, not of a box"))
    }
}

/// Sessions to grant, from the command line or a file.
pub(crate) fn parse_sessions_max(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=SESSIONS_MAX_LIMIT).contains(number));
    number.ok_or_else(|| {
        format!("\"{}\" is no number of sessions from 1 to {SESSIONS_MAX_LIMIT}", show(text))
    })
}

/// Notes go to logs and terminals.
pub(crate) fn check_note(note: &str) -> Result<(), String> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(format!("the note has {} bytes, at most {NOTE_BYTES_MAX} fit", note.len()));
    }
    if note.chars().any(char::is_control) {
        return Err("the note has control characters".to_owned());
    }
    Ok(())
}

/// Fields of a row, quotes taken off (RFC 4180 section 2, except that no field spans lines).
fn split_fields(row: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = row.chars().peekable();
    while let Some(character) = chars.next() {
        match character {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => {
                quoted = false;
                if !matches!(chars.peek(), None | Some(',')) {
                    return Err("something stands behind a closing quote".to_owned());
                }
            }
            '"' if field.trim().is_empty() => {
                field.clear();
                quoted = true;
            }
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    if quoted {
        return Err("a quote is not closed; a field ends on its line".to_owned());
    }
    fields.push(field);
    Ok(fields)
}

/// Short and harmless.
fn show(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Vec<(String, String, u32)> {
        let devices = parse(text.as_bytes(), 7).unwrap();
        assert!(devices.iter().all(|device| device.added_s == 7 && device.key.is_none()));
        let row = |device: Device| (device.mac.to_string(), device.note, device.sessions_max);
        devices.into_iter().map(row).collect()
    }

    fn refused(text: &[u8]) -> String {
        parse(text, 7).unwrap_err().to_string()
    }

    #[test]
    fn rows_with_one_two_and_three_fields() {
        let text = "\u{feff}MAC,note,sessions_max\r\n\
                    # Tokyo\r\n\
                    02:00:00:00:00:01\r\n\
                    \r\n\
                    02-00-00-00-00-02, front desk \r\n\
                    020000000003,\"2F, \"\"east\"\"\",50\n\
                    0200.0000.0004,,";
        let row = |mac: &str, note: &str, sessions| (mac.to_owned(), note.to_owned(), sessions);
        assert_eq!(
            parsed(text),
            [
                row("02:00:00:00:00:01", "", SESSIONS_MAX_DEFAULT),
                row("02:00:00:00:00:02", "front desk", SESSIONS_MAX_DEFAULT),
                row("02:00:00:00:00:03", "2F, \"east\"", 50),
                row("02:00:00:00:00:04", "", SESSIONS_MAX_DEFAULT),
            ]
        );
        assert!(parsed("").is_empty());
    }

    #[test]
    fn every_bad_row_is_named_by_its_line() {
        let text = b"02:00:00:00:00:01\n\
                     nonsense,x\n\
                     02:00:00:00:00:02,ok,0\n\
                     02:00:00:00:00:03,a,1,b\n\
                     02:00:00:00:00:01\n\
                     ff:ff:ff:ff:ff:ff\n\
                     02:00:00:00:00:04,\"open\n\
                     02:00:00:00:00:05,\"a\"b\n\
                     02:00:00:00:00:06,\x93\xfa\x96\x7b\n";
        assert_eq!(
            refused(text),
            "nothing was imported; 8 bad rows:\n  \
             line 2: \"nonsense\" is not a MAC address; write it as 02:00:5e:10:00:01\n  \
             line 3: \"0\" is no number of sessions from 1 to 100000\n  \
             line 4: more than three fields; a note with a comma needs \"quotes\"\n  \
             line 5: 02:00:00:00:00:01 stands on line 1 too\n  \
             line 6: ff:ff:ff:ff:ff:ff is the address of a group, not of a box\n  \
             line 7: a quote is not closed; a field ends on its line\n  \
             line 8: something stands behind a closing quote\n  \
             line 9: not UTF-8; save the file as \"CSV UTF-8\""
        );
    }

    #[test]
    fn bad_rows_beyond_the_limit_are_counted() {
        let shown = refused("x\n".repeat(BAD_ROWS_SHOWN_MAX + 5).as_bytes());
        assert!(shown.starts_with("nothing was imported; 25 bad rows:"), "{shown}");
        assert!(shown.ends_with("\n  and 5 more"), "{shown}");
    }

    #[test]
    fn notes_have_limits() {
        let long = format!("02:00:00:00:00:01,{}", "x".repeat(NOTE_BYTES_MAX + 1));
        assert!(refused(long.as_bytes()).contains("the note has 257 bytes"));
        assert!(refused(b"02:00:00:00:00:01,a\x1b[31mb").contains("control characters"));
        assert_eq!(parsed(&long[..long.len() - 1]).len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_boxes_or_bad_rows(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
            match parse(&bytes, 0) {
                Ok(devices) => prop_assert!(devices.len() <= lines),
                Err(bad) => prop_assert!((1..=lines).contains(&bad.count)),
            }
        }
    }
}
