//! Sessions of both protocols under any moves.
//!
//! What must hold: no panic; the order of outputs that a driver relies on; nothing sent that was not
//! kept; and the same outcome whether bytes come in one piece or one by one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::{Decision, End, Event, Finding, Output, Protocol, Session, Settings, Side};

use crate::script::{Move, decode};

/// An SMTP session.
pub(crate) fn smtp(bytes: &[u8]) {
    both_ways(Protocol::Smtp, bytes);
}

/// A POP3 session.
pub(crate) fn pop3(bytes: &[u8]) {
    both_ways(Protocol::Pop3, bytes);
}

/// The first byte chooses settings, the rest are moves.
fn both_ways(protocol: Protocol, bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let moves = decode(rest);
    let whole = play(protocol, *choice, &moves, usize::MAX);
    let single = play(protocol, *choice, &moves, 1);
    // An end that waits for a reply comes before or after what follows that reply in one segment:
    // which of the two depends on how it was cut, and is as good.
    let ends = moves.iter().position(|step| matches!(step, Move::End(_)));
    let is_last_word = moves
        .iter()
        .skip(ends.unwrap_or(moves.len()))
        .all(|step| matches!(step, Move::End(_) | Move::Wait(_) | Move::Verdict(_)));
    if is_last_word {
        assert_eq!(whole, single, "the outcome depends on how the bytes were cut");
    }
}

impl Outcome {
    /// Where a direction is reset in the end, it does not matter whether it was ended in order before.
    fn without_what_a_reset_undoes(mut self) -> Self {
        for side in [Side::Client, Side::Server] {
            if self.did.iter().any(|did| did.starts_with(&format!("Reset {side:?}"))) {
                self.did.retain(|did| !did.starts_with(&format!("Fin {side:?}")));
            }
        }
        self
    }
}

/// What came out of a session, apart from how it was cut.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Joined sends, with marks of everything else between them.
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    content: Vec<u8>,
    did: Vec<String>,
}

/// Where a message is, as its driver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    None,
    Open,
    /// Complete; the verdict is awaited.
    Ended,
}

struct Player {
    session: Session,
    now: Instant,
    message: Message,
    kept: Vec<u8>,
    is_ended: [bool; 2],
    verdict: u8,
    outcome: Outcome,
}

fn play(protocol: Protocol, choice: u8, moves: &[Move], piece: usize) -> Outcome {
    let mut settings = Settings::default();
    settings.smtp.hold = choice & 1 == 1;
    // An opaque start; the session only adds to it.
    #[allow(clippy::disallowed_methods, reason = "as the driver does, once")]
    let now = Instant::now();
    let mut player = Player {
        session: Session::new(protocol, &settings, now, 0),
        now,
        message: Message::None,
        kept: Vec::new(),
        is_ended: [false; 2],
        verdict: 0,
        outcome: Outcome::default(),
    };
    player.settle();
    for step in moves {
        match step {
            Move::Client(bytes) => player.receive(Side::Client, bytes, piece),
            Move::Server(bytes) => player.receive(Side::Server, bytes, piece),
            Move::End(number) => player.end(*number),
            Move::Wait(number) => player.wait(*number),
            Move::Verdict(number) => player.verdict = *number,
        }
        player.settle();
    }
    player.outcome.without_what_a_reset_undoes()
}

impl Player {
    fn receive(&mut self, from: Side, bytes: &[u8], piece: usize) {
        if self.is_ended[index(from)] {
            return;
        }
        for part in bytes.chunks(piece) {
            self.session.receive(from, Bytes::copy_from_slice(part), self.now);
            self.drain();
        }
    }

    fn end(&mut self, number: u8) {
        let side = if number & 1 == 0 { Side::Client } else { Side::Server };
        let how = if number & 2 == 0 { End::Fin } else { End::Reset };
        if !std::mem::replace(&mut self.is_ended[index(side)], true) {
            self.session.receive_end(side, how, self.now);
        }
    }

    fn wait(&mut self, number: u8) {
        self.now += Duration::from_secs(u64::from(number) * 10);
        if self.session.poll_timeout().is_some_and(|at| at <= self.now) {
            self.session.handle_timeout(self.now);
        }
    }

    /// All outputs, and the verdict that a message waits for: after all that was said before it, so
    /// that it does not depend on how that was cut.
    fn settle(&mut self) {
        self.drain();
        // A verdict may let the next message through, and so on; each needs bytes that are there.
        while self.message == Message::Ended {
            self.message = Message::None;
            self.session.verdict(decision(self.verdict), self.now);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            self.note(output);
        }
    }

    fn note(&mut self, output: Output) {
        match output {
            Output::Send { to, bytes } => {
                assert!(!bytes.is_empty(), "an empty send");
                self.sent(to).extend_from_slice(&bytes);
            }
            Output::MessageBegin(envelope) => {
                assert_eq!(self.message, Message::None, "a message begins within another");
                self.message = Message::Open;
                self.outcome.did.push(format!("begin {envelope:?}"));
            }
            Output::MessageData(bytes) => {
                assert_eq!(self.message, Message::Open, "data of no message");
                self.outcome.content.extend_from_slice(&bytes);
            }
            Output::MessageEnd => {
                assert_eq!(self.message, Message::Open, "the end of no message");
                self.message = Message::Ended;
                self.outcome.did.push(format!("end at {}", self.outcome.content.len()));
            }
            Output::MessageAbort => {
                assert_ne!(self.message, Message::None, "no message to abort");
                self.message = Message::None;
                self.outcome.did.push("abort".to_owned());
            }
            Output::Hold(bytes) => self.kept.extend_from_slice(&bytes),
            Output::SendHeld { to, bytes } => {
                let all = self.kept.len();
                let count = bytes.map_or(all, |count| usize::try_from(count).unwrap_or(all));
                assert!(count <= all, "{count} of {all} kept bytes are to be sent");
                let bytes: Vec<u8> = self.kept.drain(..count).collect();
                self.sent(to).extend_from_slice(&bytes);
            }
            Output::DropHeld => self.kept.clear(),
            Output::SendEdited { to, framing } => {
                self.sent(to).extend_from_slice(format!("<edited {framing:?}>").as_bytes());
            }
            Output::Shutdown { to, how } => {
                let at = self.sent(to).len();
                self.outcome.did.push(format!("{how:?} {to:?} at {at}"));
            }
            Output::Event(event) => self.event(&event),
        }
    }

    fn event(&mut self, event: &Event) {
        if matches!(event, Event::HoldLimit) {
            // The driver drops its scan then.
            self.message = Message::None;
        }
        self.outcome.did.push(format!("{event:?}"));
    }

    fn sent(&mut self, to: Side) -> &mut Vec<u8> {
        match to {
            Side::Client => &mut self.outcome.to_client,
            Side::Server => &mut self.outcome.to_server,
        }
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}

fn decision(number: u8) -> Decision {
    let finding = || Finding {
        name: "Fuzz.Found\r\n250 ok".to_owned(),
        engine: "fuzz".to_owned(),
        file_name: Some("a\u{202e}b\r\n.c".to_owned()),
        time: Some("2026-01-02 03:04\r\n.\r\n".to_owned()),
        reference: Some("17\0".to_owned()),
        quarantined: number & 8 == 8,
    };
    match number % 5 {
        0 => Decision::Release,
        1 => Decision::Refuse(finding()),
        2 => Decision::Replace(finding()),
        3 => Decision::Edit(finding()),
        _ => Decision::Tempfail { reason: "not now".to_owned() },
    }
}
