//! A box as the registry knows it, and what its fields may hold. No IO.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wire::MacAddress;
use wire::ticket::KeyFingerprint;

/// Sessions a box may have at once, unless told otherwise.
pub const SESSIONS_MAX_DEFAULT: u32 = 1000;
/// Most sessions that can be granted to a box.
pub const SESSIONS_MAX_LIMIT: u32 = 100_000;
/// Longest note on a box, in bytes of UTF-8.
pub const NOTE_BYTES_MAX: usize = 256;
/// Longest serial number, in bytes: letters, digits and `-_./#`.
pub const SERIAL_BYTES_MAX: usize = 64;
/// Longest enrolment window, in hours: a year. A window without end is no window.
pub const ENROLMENT_WINDOW_HOURS_MAX: u32 = 8760;

/// Seconds in an hour.
pub const HOUR_S: u64 = 3600;

/// One box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its inventory number.
    pub mac: MacAddress,
    /// The number on its label; may be empty.
    pub serial: String,
    /// The operator's words on it.
    pub note: String,
    /// Sessions it may have at once.
    pub sessions_max: u32,
    /// Since when it is kept out, in seconds since 1970.
    pub suspended_s: Option<u64>,
    /// When it was registered, in seconds since 1970.
    pub added_s: u64,
    /// When its enrolment window was opened, in seconds since 1970.
    pub enrolment_from_s: u64,
    /// How long that window is, in seconds; by the auther's setting unless said here.
    pub enrolment_window_s: Option<u64>,
    /// Within the window another key may take the place of `key`.
    pub replacing: bool,
    /// Its key, from its first login on.
    pub key: Option<KeyFingerprint>,
    /// When that was bound, in seconds since 1970.
    pub bound_s: Option<u64>,
    /// Its last login that went well, in seconds since 1970.
    pub last_login_s: Option<u64>,
    /// What it said it runs.
    pub software: Option<String>,
    /// Logins refused because they came with another key.
    pub other_key_logins: u64,
}

impl Device {
    /// A box that has never logged in.
    #[must_use]
    pub fn new(mac: MacAddress, added_s: u64) -> Self {
        Self {
            mac,
            serial: String::new(),
            note: String::new(),
            sessions_max: SESSIONS_MAX_DEFAULT,
            suspended_s: None,
            added_s,
            enrolment_from_s: added_s,
            enrolment_window_s: None,
            replacing: false,
            key: None,
            bound_s: None,
            last_login_s: None,
            software: None,
            other_key_logins: 0,
        }
    }

    /// Whether a key can be bound at `now_s` (seconds since 1970), with windows of `window_s` where
    /// the box has none of its own.
    #[must_use]
    pub fn is_window_open(&self, now_s: u64, window_s: u64) -> bool {
        let window_s = self.enrolment_window_s.unwrap_or(window_s);
        now_s.saturating_sub(self.enrolment_from_s) <= window_s
    }

    /// In one word.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Self { suspended_s: Some(_), .. } => State::Suspended,
            Self { key: Some(_), .. } => State::Enrolled,
            Self { key: None, .. } => State::Waiting,
        }
    }
}

/// What a box is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// For its first login.
    Waiting,
    /// Has a key.
    Enrolled,
    /// Kept out by the operator.
    Suspended,
}

impl State {
    /// As in lists: `waiting`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Enrolled => "enrolled",
            Self::Suspended => "suspended",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A box as it is shown: in `list --json`, in the API and in the audit log. Fields are only ever
/// added. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Box)]
pub struct View {
    /// MAC address, `02:00:5e:10:00:01`.
    pub mac: String,
    /// `waiting` for its first login, `enrolled`, or `suspended`.
    pub state: State,
    /// The number on its label.
    #[serde(default)]
    pub serial: String,
    /// The operator's words on it.
    pub note: String,
    /// Sessions it may have at once.
    pub sessions_max: u32,
    /// When it was registered.
    pub added_s: u64,
    /// Since when it is kept out.
    #[serde(default)]
    pub suspended_s: Option<u64>,
    /// When its enrolment window was opened.
    #[serde(default)]
    pub enrolment_from_s: u64,
    /// How long that is, if not as long as the auther's setting says.
    #[serde(default)]
    pub enrolment_window_s: Option<u64>,
    /// Whether another key may take the place of the one it has, within that window.
    #[serde(default)]
    pub replacing: bool,
    /// SHA-256 of its public key, in hexadecimal digits.
    pub key: Option<String>,
    /// When that was bound.
    pub bound_s: Option<u64>,
    /// Its last login that went well.
    pub last_login_s: Option<u64>,
    /// What it said it runs.
    pub software: Option<String>,
    /// Logins refused because they came with another key.
    pub other_key_logins: u64,
}

impl From<&Device> for View {
    fn from(device: &Device) -> Self {
        Self {
            mac: device.mac.to_string(),
            state: device.state(),
            serial: device.serial.clone(),
            note: device.note.clone(),
            sessions_max: device.sessions_max,
            added_s: device.added_s,
            suspended_s: device.suspended_s,
            enrolment_from_s: device.enrolment_from_s,
            enrolment_window_s: device.enrolment_window_s,
            replacing: device.replacing,
            key: device.key.map(|key| key.to_string()),
            bound_s: device.bound_s,
            last_login_s: device.last_login_s,
            software: device.software.clone(),
            other_key_logins: device.other_key_logins,
        }
    }
}

/// A box's own address, from an operator.
///
/// # Errors
/// In words, for whoever wrote it.
pub fn parse_mac(text: &str) -> Result<MacAddress, String> {
    let mac: MacAddress = text.parse().map_err(|error| format!("\"{}\" is {error}", show(text)))?;
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err(format!("{mac} is the address of a group, not of a box"))
    }
}

/// Sessions to grant, from an operator.
///
/// # Errors
/// In words, for whoever wrote it.
pub fn parse_sessions_max(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| not_sessions(text))
        .and_then(|number| check_sessions_max(number).map(|()| number))
}

/// # Errors
/// In words, for whoever wrote it.
pub fn check_sessions_max(number: u32) -> Result<(), String> {
    if (1..=SESSIONS_MAX_LIMIT).contains(&number) {
        Ok(())
    } else {
        Err(not_sessions(&number.to_string()))
    }
}

fn not_sessions(text: &str) -> String {
    format!("\"{}\" is no number of sessions from 1 to {SESSIONS_MAX_LIMIT}", show(text))
}

/// Notes go to logs, terminals and pages: no control characters, and nothing that turns the reading
/// direction. Without the blanks at both ends.
///
/// # Errors
/// In words, for whoever wrote it.
pub fn parse_note(text: &str) -> Result<String, String> {
    let note = text.trim();
    if note.len() > NOTE_BYTES_MAX {
        return Err(format!("the note has {} bytes, at most {NOTE_BYTES_MAX} fit", note.len()));
    }
    if telemetry::harmless(note.as_bytes(), NOTE_BYTES_MAX) != note {
        return Err("the note has control characters".to_owned());
    }
    Ok(note.to_owned())
}

/// A serial number, as a label printer or a scanner takes it.
///
/// # Errors
/// In words, for whoever wrote it.
pub fn parse_serial(text: &str) -> Result<String, String> {
    let serial = text.trim();
    if serial.len() > SERIAL_BYTES_MAX {
        return Err(format!(
            "the serial number has {} bytes, at most {SERIAL_BYTES_MAX} fit",
            serial.len()
        ));
    }
    if !serial.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./#".contains(&b)) {
        return Err(format!(
            "\"{}\" is no serial number; letters, digits and -_./# make one",
            show(serial)
        ));
    }
    Ok(serial.to_owned())
}

/// An enrolment window in hours, from an operator, in seconds.
///
/// # Errors
/// In words, for whoever wrote it.
pub fn parse_window_hours(hours: u32) -> Result<u64, String> {
    if (1..=ENROLMENT_WINDOW_HOURS_MAX).contains(&hours) {
        Ok(u64::from(hours) * HOUR_S)
    } else {
        Err(format!(
            "{hours} hours is no enrolment window; write a number from 1 to \
             {ENROLMENT_WINDOW_HOURS_MAX}"
        ))
    }
}

/// Short and harmless.
pub(crate) fn show(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_trimmed_and_steer_no_terminal() {
        assert_eq!(parse_note("  2F, east 東 "), Ok("2F, east 東".to_owned()));
        for bad in ["a\x1b[31mb", "a\nb", "a\u{202e}b", "a\u{85}b", "a\0b"] {
            assert!(parse_note(bad).unwrap_err().contains("control characters"), "{bad:?}");
        }
        assert!(parse_note(&"x".repeat(NOTE_BYTES_MAX)).is_ok());
        let error = parse_note(&"x".repeat(NOTE_BYTES_MAX + 1)).unwrap_err();
        assert!(error.contains("the note has 257 bytes"), "{error}");
    }

    #[test]
    fn serial_numbers_are_plain() {
        assert_eq!(parse_serial(" AVR-2026/0001 "), Ok("AVR-2026/0001".to_owned()));
        assert_eq!(parse_serial(""), Ok(String::new()));
        for bad in ["a b", "=1+1", "a\"b", "é"] {
            assert!(parse_serial(bad).unwrap_err().contains("is no serial number"), "{bad}");
        }
        let error = parse_serial(&"1".repeat(SERIAL_BYTES_MAX + 1)).unwrap_err();
        assert!(error.contains("65 bytes"), "{error}");
    }

    #[test]
    fn windows_and_sessions_have_limits() {
        assert_eq!(parse_window_hours(1), Ok(3600));
        assert_eq!(parse_window_hours(ENROLMENT_WINDOW_HOURS_MAX), Ok(8760 * 3600));
        assert!(parse_window_hours(0).is_err());
        assert!(parse_window_hours(ENROLMENT_WINDOW_HOURS_MAX + 1).is_err());
        assert_eq!(parse_sessions_max("100000"), Ok(SESSIONS_MAX_LIMIT));
        for bad in ["0", "100001", "-1", "x", ""] {
            assert!(parse_sessions_max(bad).unwrap_err().contains("from 1 to 100000"), "{bad}");
        }
    }

    #[test]
    fn a_window_of_its_own_goes_before_the_setting() {
        let mut device = Device::new(MacAddress([2, 0, 0, 0, 0, 1]), 1000);
        assert!(device.is_window_open(1100, 100));
        assert!(!device.is_window_open(1101, 100));
        device.enrolment_window_s = Some(50);
        assert!(!device.is_window_open(1051, 100));
        device.enrolment_from_s = 1050;
        assert!(device.is_window_open(1100, 0));
    }
}
