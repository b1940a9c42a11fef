//! What is sent, and what it means that it arrives. No clock, no socket.

use std::time::Duration;

/// An Ethernet frame of a TCP SYN without options, in bytes.
const FRAME_BYTES: usize = 54;
const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
/// The office's program and its router: neither is there, and the bridge does not ask.
const FROM_MAC: [u8; 6] = [0x02, 0, 0x5e, 0, 0x53, 0x11];
const TO_MAC: [u8; 6] = [0x02, 0, 0x5e, 0, 0x53, 0x12];
/// Of RFC 5737.
const FROM: [u8; 4] = [192, 0, 2, 10];
const TO: [u8; 4] = [198, 51, 100, 25];
/// A port that is always taken off the bridge, and one that never is ("discard").
const MAIL_PORT: u16 = 25;
const OTHER_PORT: u16 = 9;
/// Probes are told apart by their source ports, which begin here.
const FIRST_SOURCE_PORT: u16 = 20_000;
/// So many probes in a row have to be intercepted: one frame alone may have been lost.
const PROBES_IN_A_ROW: u32 = 3;

/// One frame as it is on the wire.
pub type Frame = [u8; FRAME_BYTES];

/// How long after the firmware's hand-over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// On the wall.
    pub elapsed: Duration,
    /// Of a processor's time, which the guest has used: no more than that passes on a machine that does
    /// nothing else, but for what the guest waits.
    pub processor: Duration,
}

/// When what was seen first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// The bridge forwards.
    pub forwarding: Option<Moment>,
    /// Mail is taken off it.
    pub intercepting: Option<Moment>,
}

/// Sends pairs, the start of a mail session and that of another, and draws its conclusions from which
/// of them cross the box: neither, both, or the other alone.
#[derive(Debug, Default)]
pub struct Watch {
    sent: u16,
    mail_arrived: Option<u16>,
    taken: u32,
    first_taken: Option<Moment>,
    times: Times,
}

impl Watch {
    /// The next pair; the mail session's is to be sent first.
    pub fn probe(&mut self) -> [Frame; 2] {
        let number = self.sent;
        self.sent = self.sent.wrapping_add(1) % (u16::MAX - FIRST_SOURCE_PORT);
        [syn(number, MAIL_PORT), syn(number, OTHER_PORT)]
    }

    /// A frame has come out at the other port.
    pub fn arrived(&mut self, frame: &[u8], at: Moment) {
        match numbered(frame) {
            Some((number, MAIL_PORT)) => self.mail_arrived = Some(number),
            Some((number, _)) => self.other_arrived(number, at),
            None => {}
        }
    }

    /// What has been seen so far.
    #[must_use]
    pub fn times(&self) -> Times {
        self.times
    }

    /// The second of a pair: if the first has not come before, it does not come.
    fn other_arrived(&mut self, number: u16, at: Moment) {
        self.times.forwarding.get_or_insert(at);
        if self.mail_arrived == Some(number) {
            (self.taken, self.first_taken) = (0, None);
            return;
        }
        let first = *self.first_taken.get_or_insert(at);
        self.taken += 1;
        if self.taken >= PROBES_IN_A_ROW {
            self.times.intercepting.get_or_insert(first);
        }
    }
}

/// The number and the port of a frame that is one of ours, unchanged.
fn numbered(frame: &[u8]) -> Option<(u16, u16)> {
    let at = ETHERNET_BYTES + IPV4_BYTES;
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let number = word(at)?.checked_sub(FIRST_SOURCE_PORT)?;
    let port = word(at + 2)?;
    (*frame == syn(number, port)).then_some((number, port))
}

fn syn(number: u16, port: u16) -> Frame {
    let source = FIRST_SOURCE_PORT.saturating_add(number).to_be_bytes();
    let port = port.to_be_bytes();
    let mut tcp = [
        source[0], source[1], port[0], port[1], 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x40, 0, 0, 0,
        0, 0,
    ];
    let mut pseudo = [&FROM[..], &TO[..], &[0, 6, 0, 20]].concat();
    pseudo.extend_from_slice(&tcp);
    tcp[16..18].copy_from_slice(&checksum(&pseudo));

    let mut ip = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[12..16].copy_from_slice(&FROM);
    ip[16..20].copy_from_slice(&TO);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);

    let mut frame = [0; FRAME_BYTES];
    frame[..6].copy_from_slice(&TO_MAC);
    frame[6..12].copy_from_slice(&FROM_MAC);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[ETHERNET_BYTES..ETHERNET_BYTES + IPV4_BYTES].copy_from_slice(&ip);
    frame[ETHERNET_BYTES + IPV4_BYTES..].copy_from_slice(&tcp);
    frame
}

/// RFC 1071, of a whole number of 16-bit words.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = u16::try_from(sum).expect("folded to 16 bits");
    (!folded).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64) -> Moment {
        Moment { elapsed: Duration::from_secs(seconds), processor: Duration::ZERO }
    }

    #[test]
    fn sums_are_right() {
        let [mail, _] = Watch::default().probe();
        // A sum over what holds its own sum is zero.
        assert_eq!(checksum(&mail[ETHERNET_BYTES..ETHERNET_BYTES + IPV4_BYTES]), [0, 0]);
        let tcp = [&FROM[..], &TO[..], &[0, 6, 0, 20], &mail[34..]].concat();
        assert_eq!(checksum(&tcp), [0, 0]);
    }

    #[test]
    fn a_bridge_forwards_both_and_an_interceptor_one() {
        let mut watch = Watch::default();
        watch.probe();
        assert_eq!(watch.times(), Times::default(), "nothing has arrived");
        let [mail, other] = watch.probe();
        watch.arrived(&mail, after(1));
        watch.arrived(&other, after(1));
        assert_eq!(watch.times(), Times { forwarding: Some(after(1)), intercepting: None });
        for second in 2..5 {
            let [_, other] = watch.probe();
            assert_eq!(watch.times().intercepting, None);
            watch.arrived(&other, after(second));
        }
        let expected = Times { forwarding: Some(after(1)), intercepting: Some(after(2)) };
        assert_eq!(watch.times(), expected);
    }

    #[test]
    fn a_mail_frame_that_crosses_starts_the_count_anew() {
        let mut watch = Watch::default();
        for second in 1..9 {
            let [mail, other] = watch.probe();
            if second % 3 == 0 {
                watch.arrived(&mail, after(second));
            }
            watch.arrived(&other, after(second));
        }
        assert_eq!(watch.times().intercepting, None);
    }

    #[test]
    fn other_frames_mean_nothing() {
        let mut watch = Watch::default();
        let [_, mut other] = watch.probe();
        other[40] ^= 1;
        watch.arrived(&other, after(1));
        watch.arrived(&[], after(1));
        watch.arrived(&[0xff; 1500], after(1));
        assert_eq!(watch.times(), Times::default());
    }
}
