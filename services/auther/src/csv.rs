//! Boxes as CSV (RFC 4180), in and out.
//!
//! A heading names the columns: `mac`, and any of `serial`, `note`, `sessions_max`, `suspended`
//! (`yes` or `no`) and `key` (64 hexadecimal digits). What an export has beyond these is passed over.
//! Without a heading a line is as on a box's label: `mac,serial,note,sessions_max`, of which all but
//! the first may be left out. Empty lines and lines that begin with `#` are passed over. A file with a
//! bad line imports nothing, and every bad line is named.
//!
//! A cell that a spreadsheet would take for a formula gets a `'` in front on the way out, and loses it
//! on the way in.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use wire::MacAddress;

use crate::change::NewDevice;
use crate::device::{
    Device, SESSIONS_MAX_DEFAULT, parse_mac, parse_note, parse_serial, parse_sessions_max, show,
};

/// Largest file that is imported, in bytes.
pub const CSV_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most boxes in one file.
pub const ROWS_MAX: usize = 100_000;
/// Most bad rows that are named; the rest is counted.
pub const BAD_ROWS_SHOWN_MAX: usize = 20;

/// First line of an export.
pub const HEADING: &str = "mac,serial,note,sessions_max,suspended,key,\
     added_s,suspended_s,bound_s,last_login_s,software,other_key_logins\r\n";

/// What stands in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Mac,
    Serial,
    Note,
    SessionsMax,
    Suspended,
    Key,
    /// Only shown: it cannot be set.
    Shown,
}

/// A line without a heading above it.
const LABEL: [Column; 4] = [Column::Mac, Column::Serial, Column::Note, Column::SessionsMax];

impl Column {
    fn of(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "mac" => Some(Self::Mac),
            "serial" => Some(Self::Serial),
            "note" => Some(Self::Note),
            "sessions_max" => Some(Self::SessionsMax),
            "suspended" => Some(Self::Suspended),
            "key" => Some(Self::Key),
            "state" | "added_s" | "suspended_s" | "bound_s" | "last_login_s" | "software"
            | "other_key_logins" => Some(Self::Shown),
            _ => None,
        }
    }
}

/// The boxes in `bytes`.
///
/// # Errors
/// Every row that cannot be used.
pub fn parse(bytes: &[u8]) -> Result<Vec<(MacAddress, NewDevice)>, BadRows> {
    // What Excel puts in front of "CSV UTF-8".
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut devices = Vec::new();
    let mut bad = BadRows::default();
    let mut lines: HashMap<MacAddress, usize> = HashMap::new();
    let mut columns = LABEL.to_vec();
    for (index, row) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        let row = row.strip_suffix(b"\r").unwrap_or(row);
        let parsed = match std::str::from_utf8(row) {
            Ok(row) if line == 1 && is_heading(row) => parse_heading(row).map(|named| {
                columns = named;
                None
            }),
            Ok(row) => parse_row(row, &columns),
            Err(_) => Err("not UTF-8; save the file as \"CSV UTF-8\"".to_owned()),
        };
        match parsed {
            Ok(None) => {}
            Ok(Some((mac, device))) => match lines.insert(mac, line) {
                Some(first) => bad.push(line, format!("{mac} stands on line {first} too")),
                None if devices.len() == ROWS_MAX => {
                    bad.push(line, format!("more than {ROWS_MAX} boxes; split the file"));
                    return Err(bad);
                }
                None => devices.push((mac, device)),
            },
            Err(why) => bad.push(line, why),
        }
    }
    if bad.count == 0 { Ok(devices) } else { Err(bad) }
}

/// The rows that cannot be used, one a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BadRows {
    /// Line and problem, of the first [`BAD_ROWS_SHOWN_MAX`].
    pub shown: Vec<(usize, String)>,
    /// Of all of them.
    pub count: usize,
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

/// One line of an export.
#[must_use]
pub fn row(device: &Device) -> String {
    let time = |time: Option<u64>| time.map(|time| time.to_string()).unwrap_or_default();
    let cells = [
        device.mac.to_string(),
        device.serial.clone(),
        device.note.clone(),
        device.sessions_max.to_string(),
        if device.suspended_s.is_some() { "yes" } else { "no" }.to_owned(),
        device.key.map(|key| key.to_string()).unwrap_or_default(),
        device.added_s.to_string(),
        time(device.suspended_s),
        time(device.bound_s),
        time(device.last_login_s),
        device.software.clone().unwrap_or_default(),
        device.other_key_logins.to_string(),
    ];
    let cells: Vec<String> = cells.iter().map(|cell| write_cell(cell)).collect();
    cells.join(",") + "\r\n"
}

/// A cell that is no formula, in quotes where it needs them.
fn write_cell(text: &str) -> String {
    let text = if looks_like_formula(text) { Cow::Owned(format!("'{text}")) } else { text.into() };
    if text.contains([',', '"']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into_owned()
    }
}

/// Also behind any number of `'`, so that what was added can be told from what was there.
fn looks_like_formula(text: &str) -> bool {
    text.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r'])
}

fn read_cell(text: &str) -> &str {
    match text.strip_prefix('\'') {
        Some(rest) if looks_like_formula(rest) => rest,
        _ => text,
    }
}

fn is_heading(row: &str) -> bool {
    let mut cells = row.split(',').map(|cell| cell.trim().trim_matches('"'));
    let is_label = cells.clone().next().is_some_and(|first| parse_mac(first).is_ok());
    !is_label && cells.any(|cell| cell.eq_ignore_ascii_case("mac"))
}

fn parse_heading(row: &str) -> Result<Vec<Column>, String> {
    let names = split_fields(row)?;
    let mut columns = Vec::new();
    for name in &names {
        let name = name.trim();
        let column = Column::of(name).ok_or_else(|| {
            format!(
                "\"{}\" is no column; there are mac, serial, note, sessions_max, suspended and key",
                show(name)
            )
        })?;
        if column != Column::Shown && columns.contains(&column) {
            return Err(format!("the column \"{}\" stands there twice", show(name)));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// The box of a row, if the row has one.
fn parse_row(row: &str, columns: &[Column]) -> Result<Option<(MacAddress, NewDevice)>, String> {
    if row.trim().is_empty() || row.starts_with('#') {
        return Ok(None);
    }
    let fields = split_fields(row)?;
    if fields.len() > columns.len() {
        return Err(format!(
            "more than {} fields; a note with a comma needs \"quotes\"",
            columns.len()
        ));
    }
    let mut mac = None;
    let mut device = NewDevice::default();
    for (field, column) in fields.iter().zip(columns) {
        let text = read_cell(field.trim());
        match column {
            Column::Mac => mac = Some(parse_mac(text)?),
            Column::Serial => device.serial = parse_serial(text)?,
            Column::Note => device.note = parse_note(text)?,
            Column::SessionsMax if text.is_empty() => device.sessions_max = SESSIONS_MAX_DEFAULT,
            Column::SessionsMax => device.sessions_max = parse_sessions_max(text)?,
            Column::Suspended => device.suspended = parse_yes(text)?,
            Column::Key if text.is_empty() => {}
            Column::Key => {
                let key = text.parse().map_err(|error| format!("the key is {error}"))?;
                device.key = Some(key);
            }
            Column::Shown => {}
        }
    }
    let mac = mac.ok_or_else(|| "no MAC address on this line".to_owned())?;
    Ok(Some((mac, device)))
}

fn parse_yes(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" => Ok(true),
        "" | "no" | "false" | "0" => Ok(false),
        _ => Err(format!("\"{}\" is neither yes nor no", show(text))),
    }
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

#[cfg(test)]
mod tests;
