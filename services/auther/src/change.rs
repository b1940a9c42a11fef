//! What an operator can do to a box, and what a login does: from the entry as it is to the entry as
//! it will be, and which tickets that voids. No IO and no clock; the stores write it down.

use wire::MacAddress;
use wire::revocation::RevokedReason;
use wire::ticket::KeyFingerprint;

use crate::device::{Device, SESSIONS_MAX_DEFAULT};

/// A box to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDevice {
    /// The number on its label; may be empty.
    pub serial: String,
    /// The operator's words on it.
    pub note: String,
    /// Sessions it may have at once.
    pub sessions_max: u32,
    /// How long its enrolment window is, in seconds; by the auther's setting unless said here.
    pub window_s: Option<u64>,
    /// Kept out from the start, as it was where it comes from.
    pub suspended: bool,
    /// Its key, as it was where it comes from.
    pub key: Option<KeyFingerprint>,
}

impl Default for NewDevice {
    fn default() -> Self {
        Self {
            serial: String::new(),
            note: String::new(),
            sessions_max: SESSIONS_MAX_DEFAULT,
            window_s: None,
            suspended: false,
            key: None,
        }
    }
}

/// What is to be done to one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Register it; refused when it is there.
    Add(NewDevice),
    /// Register it; when it is there, it stays as it is.
    Import(NewDevice),
    /// Write something else about it.
    Edit {
        /// If given.
        serial: Option<String>,
        /// If given.
        note: Option<String>,
        /// If given.
        sessions_max: Option<u32>,
    },
    /// Keep it out.
    Suspend,
    /// Let it in again.
    Resume,
    /// Open an enrolment window in which a new key is bound to it. The old key, if there is one,
    /// works until then, or is void at once.
    ReplaceKey {
        /// How long the window is, in seconds; by the auther's setting unless said here.
        window_s: Option<u64>,
        /// Whether the old key is void at once.
        revoke_now: bool,
    },
    /// Forget it and its key.
    Remove,
    /// By the box itself: this key is its key now.
    Bind {
        /// As its TLS handshake proved.
        key: KeyFingerprint,
        /// What it said it runs.
        software: String,
    },
}

impl Command {
    /// As in the audit log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "add",
            Self::Import(_) => "import",
            Self::Edit { .. } => "edit",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::ReplaceKey { revoke_now: false, .. } => "replace-key",
            Self::ReplaceKey { revoke_now: true, .. } => "replace-key --revoke-now",
            Self::Remove => "remove",
            Self::Bind { .. } => "bind",
        }
    }

    /// What it makes of the entry `before` of the box `mac` at `now_s` (seconds since 1970);
    /// `None` when all is that way already.
    ///
    /// # Errors
    /// [`Refusal`]: it cannot be done to this box.
    pub fn apply(
        &self,
        mac: MacAddress,
        before: Option<&Device>,
        now_s: u64,
    ) -> Result<Option<Change>, Refusal> {
        if let Self::Add(new) | Self::Import(new) = self {
            return match (before, self) {
                (None, _) => Ok(Some(add(mac, new, now_s))),
                (Some(_), Self::Import(_)) => Ok(None),
                (Some(_), _) => Err(Refusal::AlreadyRegistered),
            };
        }
        let before = before.ok_or(Refusal::NotRegistered)?;
        let mut after = before.clone();
        let mut change = Change::default();
        match self {
            Self::Add(_) | Self::Import(_) => {}
            Self::Edit { serial, note, sessions_max } => {
                after.serial = serial.clone().unwrap_or(after.serial);
                after.note = note.clone().unwrap_or(after.note);
                after.sessions_max = sessions_max.unwrap_or(after.sessions_max);
            }
            Self::Suspend => {
                if after.suspended_s.is_none() {
                    after.suspended_s = Some(now_s);
                    change.revoke(before.key, RevokedReason::Suspended);
                }
            }
            Self::Resume => {
                if after.suspended_s.take().is_some() {
                    change.restored = before.key;
                }
            }
            Self::ReplaceKey { window_s, revoke_now } => {
                after.enrolment_from_s = now_s;
                after.enrolment_window_s = *window_s;
                after.replacing = before.key.is_some() && !revoke_now;
                if *revoke_now {
                    change.revoke(before.key, RevokedReason::KeyReplaced);
                    (after.key, after.bound_s) = (None, None);
                }
            }
            Self::Remove => {
                change.revoke(before.key, RevokedReason::Removed);
                return Ok(Some(change));
            }
            Self::Bind { key, software } => {
                if before.key != Some(*key) {
                    change.revoke(before.key, RevokedReason::KeyReplaced);
                }
                // Whoever has it proved it: what was void of it before is good again.
                change.restored = Some(*key);
                after.key = Some(*key);
                (after.bound_s, after.last_login_s) = (Some(now_s), Some(now_s));
                after.software = Some(software.clone());
                after.replacing = false;
            }
        }
        if after == *before {
            return Ok(None);
        }
        change.after = Some(after);
        Ok(Some(change))
    }
}

fn add(mac: MacAddress, new: &NewDevice, now_s: u64) -> Change {
    let after = Device {
        serial: new.serial.clone(),
        note: new.note.clone(),
        sessions_max: new.sessions_max,
        enrolment_window_s: new.window_s,
        suspended_s: new.suspended.then_some(now_s),
        key: new.key,
        bound_s: new.key.map(|_| now_s),
        ..Device::new(mac, now_s)
    };
    let mut change = Change::default();
    if new.suspended {
        change.revoke(new.key, RevokedReason::Suspended);
    } else {
        change.restored = new.key;
    }
    Change { after: Some(after), ..change }
}

/// What is to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The entry as it will be; `None` when it goes.
    pub after: Option<Device>,
    /// The key whose tickets are void from now on, and why.
    pub revoked: Option<(KeyFingerprint, RevokedReason)>,
    /// The key whose tickets are good again.
    pub restored: Option<KeyFingerprint>,
}

impl Change {
    fn revoke(&mut self, key: Option<KeyFingerprint>, reason: RevokedReason) {
        self.revoked = key.map(|key| (key, reason));
    }
}

/// Why something cannot be done to a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none of this address.
    #[error("is not registered; `avr-auther list` shows all boxes")]
    NotRegistered,
    /// It is there.
    #[error("is registered already; `avr-auther replace-key` lets it bind a new key")]
    AlreadyRegistered,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;
    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const KEY: KeyFingerprint = KeyFingerprint([1; 32]);
    const OTHER: KeyFingerprint = KeyFingerprint([2; 32]);

    fn bound() -> Device {
        Device { key: Some(KEY), bound_s: Some(5), ..Device::new(MAC, 5) }
    }

    fn applied(command: &Command, before: &Device) -> Option<Change> {
        command.apply(MAC, Some(before), NOW_S).unwrap()
    }

    fn after(command: &Command, before: &Device) -> Device {
        applied(command, before).unwrap().after.unwrap()
    }

    fn bind(key: KeyFingerprint) -> Command {
        Command::Bind { key, software: "avr 1".to_owned() }
    }

    const REPLACE: Command = Command::ReplaceKey { window_s: None, revoke_now: false };
    const REVOKE: Command = Command::ReplaceKey { window_s: Some(60), revoke_now: true };

    #[test]
    fn what_is_not_there_is_not_changed_and_what_is_there_is_not_added() {
        let edit = Command::Edit { serial: None, note: None, sessions_max: None };
        for command in [edit, Command::Suspend, Command::Resume, REPLACE, Command::Remove] {
            assert_eq!(command.apply(MAC, None, NOW_S), Err(Refusal::NotRegistered));
        }
        let new = NewDevice::default();
        let refused = Command::Add(new.clone()).apply(MAC, Some(&bound()), NOW_S);
        assert_eq!(refused, Err(Refusal::AlreadyRegistered));
        assert_eq!(applied(&Command::Import(new.clone()), &bound()), None);
        let added = Command::Add(new).apply(MAC, None, NOW_S).unwrap().unwrap();
        assert_eq!(added.after, Some(Device::new(MAC, NOW_S)));
    }

    #[test]
    fn suspending_voids_the_tickets_and_resuming_makes_them_good() {
        let change = applied(&Command::Suspend, &bound()).unwrap();
        assert_eq!(change.revoked, Some((KEY, RevokedReason::Suspended)));
        let suspended = change.after.unwrap();
        assert_eq!(suspended.suspended_s, Some(NOW_S));
        assert_eq!(applied(&Command::Suspend, &suspended), None);
        let change = applied(&Command::Resume, &suspended).unwrap();
        assert_eq!((change.restored, change.after), (Some(KEY), Some(bound())));
        assert_eq!(applied(&Command::Resume, &bound()), None);
        // Without a key there is no ticket.
        let change = applied(&Command::Suspend, &Device::new(MAC, 5)).unwrap();
        assert_eq!(change.revoked, None);
    }

    #[test]
    fn a_key_is_replaced_when_the_new_one_comes_or_at_once() {
        let waiting = after(&REPLACE, &bound());
        assert!(waiting.replacing && waiting.key == Some(KEY));
        assert_eq!(waiting.enrolment_from_s, NOW_S);
        let change = applied(&bind(OTHER), &waiting).unwrap();
        assert_eq!(change.revoked, Some((KEY, RevokedReason::KeyReplaced)));
        assert_eq!(change.restored, Some(OTHER));
        let replaced = change.after.unwrap();
        assert!(!replaced.replacing && replaced.key == Some(OTHER));

        let change = applied(&REVOKE, &bound()).unwrap();
        assert_eq!(change.revoked, Some((KEY, RevokedReason::KeyReplaced)));
        let open = change.after.unwrap();
        assert_eq!((open.key, open.bound_s, open.replacing), (None, None, false));
        assert_eq!(open.enrolment_window_s, Some(60));
        // The same key may come back: the operator said that some key may.
        let change = applied(&bind(KEY), &open).unwrap();
        assert_eq!((change.revoked, change.restored), (None, Some(KEY)));
    }

    #[test]
    fn a_window_is_opened_for_a_box_that_missed_it() {
        let open = after(&REPLACE, &Device::new(MAC, 5));
        assert_eq!((open.enrolment_from_s, open.replacing), (NOW_S, false));
    }

    #[test]
    fn removing_voids_the_tickets() {
        let change = applied(&Command::Remove, &bound()).unwrap();
        assert_eq!(change.after, None);
        assert_eq!(change.revoked, Some((KEY, RevokedReason::Removed)));
    }

    #[test]
    fn an_edit_changes_what_it_names() {
        let edit = |note: &str| Command::Edit {
            serial: None,
            note: Some(note.to_owned()),
            sessions_max: Some(5),
        };
        let edited = after(&edit("x"), &bound());
        assert_eq!(edited, Device { note: "x".to_owned(), sessions_max: 5, ..bound() });
        assert_eq!(applied(&edit("x"), &edited), None);
    }

    #[test]
    fn a_box_comes_from_another_registry_with_its_key() {
        let new = NewDevice { key: Some(KEY), suspended: true, ..NewDevice::default() };
        let change = Command::Import(new).apply(MAC, None, NOW_S).unwrap().unwrap();
        assert_eq!(change.revoked, Some((KEY, RevokedReason::Suspended)));
        let device = change.after.unwrap();
        assert_eq!((device.key, device.suspended_s), (Some(KEY), Some(NOW_S)));
    }
}
