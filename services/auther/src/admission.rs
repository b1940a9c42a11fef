//! Who is admitted. No IO and no clock: the registry's entry and the time are arguments.

use wire::DeniedReason;
use wire::ticket::KeyFingerprint;

use crate::device::Device;

/// What is to be done about a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Known, and the right key.
    Admit,
    /// Its first login: bind this key to it, then admit.
    Bind,
    /// Not admitted.
    Deny(DeniedReason),
}

/// Decides on the login of the box that `device` is the entry of, with the key that its TLS
/// handshake proved, at `now_s` (seconds since 1970).
///
/// A key can be bound within the box's enrolment window, which is `window_s` long unless the entry says
/// otherwise; where the operator has its key replaced, a second one too. A suspended box is told only
/// that, whatever its key.
#[must_use]
pub fn decide(
    device: Option<&Device>,
    key: &KeyFingerprint,
    now_s: u64,
    window_s: u64,
) -> Decision {
    let Some(device) = device else { return Decision::Deny(DeniedReason::Unknown) };
    if device.suspended_s.is_some() {
        return Decision::Deny(DeniedReason::Suspended);
    }
    match &device.key {
        Some(bound) if bound == key => Decision::Admit,
        Some(_) if device.replacing && device.is_window_open(now_s, window_s) => Decision::Bind,
        Some(_) => Decision::Deny(DeniedReason::OtherKey),
        None if device.is_window_open(now_s, window_s) => Decision::Bind,
        None => Decision::Deny(DeniedReason::EnrolmentClosed),
    }
}

#[cfg(test)]
mod tests {
    use wire::MacAddress;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;
    const WINDOW_S: u64 = 72 * 3600;
    const KEY: KeyFingerprint = KeyFingerprint([1; 32]);
    const OTHER: KeyFingerprint = KeyFingerprint([2; 32]);

    fn device() -> Device {
        Device::new(MacAddress([2, 0, 0, 0, 0, 1]), NOW_S)
    }

    fn decided(device: &Device, key: &KeyFingerprint, now_s: u64) -> Decision {
        decide(Some(device), key, now_s, WINDOW_S)
    }

    #[test]
    fn a_stranger_is_unknown() {
        let decision = decide(None, &KEY, NOW_S, WINDOW_S);
        assert_eq!(decision, Decision::Deny(DeniedReason::Unknown));
    }

    #[test]
    fn the_window_is_open_to_its_last_second() {
        let fresh = device();
        assert_eq!(decided(&fresh, &KEY, NOW_S), Decision::Bind);
        assert_eq!(decided(&fresh, &KEY, NOW_S + WINDOW_S), Decision::Bind);
        let closed = Decision::Deny(DeniedReason::EnrolmentClosed);
        assert_eq!(decided(&fresh, &KEY, NOW_S + WINDOW_S + 1), closed);
        // The clock was set back after the entry was made.
        assert_eq!(decided(&fresh, &KEY, 0), Decision::Bind);
    }

    #[test]
    fn a_bound_key_is_good_for_ever_and_another_never() {
        let bound = Device { key: Some(KEY), ..device() };
        for now_s in [NOW_S, NOW_S + WINDOW_S + 1, u64::MAX] {
            assert_eq!(decided(&bound, &KEY, now_s), Decision::Admit);
            let denied = Decision::Deny(DeniedReason::OtherKey);
            assert_eq!(decided(&bound, &OTHER, now_s), denied);
        }
    }

    #[test]
    fn while_a_key_is_replaced_both_are_good_and_then_the_bound_one() {
        let replacing = Device { key: Some(KEY), replacing: true, ..device() };
        assert_eq!(decided(&replacing, &KEY, NOW_S), Decision::Admit);
        assert_eq!(decided(&replacing, &OTHER, NOW_S + WINDOW_S), Decision::Bind);
        let late_s = NOW_S + WINDOW_S + 1;
        assert_eq!(decided(&replacing, &KEY, late_s), Decision::Admit);
        let denied = Decision::Deny(DeniedReason::OtherKey);
        assert_eq!(decided(&replacing, &OTHER, late_s), denied);
    }

    #[test]
    fn a_suspended_box_is_told_so_whatever_its_key() {
        let denied = Decision::Deny(DeniedReason::Suspended);
        for key in [None, Some(KEY), Some(OTHER)] {
            let suspended = Device { suspended_s: Some(1), key, ..device() };
            assert_eq!(decided(&suspended, &KEY, NOW_S), denied);
        }
    }
}
