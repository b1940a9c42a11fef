//! Scenarios of whole sessions, without IO and with a virtual clock.

mod commands;
mod corpus;
mod endings;
mod holding;
mod keep_alive;
mod messages;
mod properties;
mod settled;
mod unknown;
mod waiting;

use std::time::Duration;

use super::*;
use crate::Finding;
use crate::tests::Wires;

/// What a session did, with adjacent bytes joined.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Seen {
    wires: Wires,
    /// Messages begun: number, content, and whether they ended (`None`: aborted).
    messages: Vec<(Option<u32>, Vec<u8>, Option<bool>)>,
    /// But for [`Event::Settled`].
    events: Vec<Event>,
    settled: Vec<Settled>,
}

/// A session between a scripted client and server.
struct Script {
    session: Pop3Session,
    now: Instant,
    seen: Seen,
    /// Chunk sizes; empty: whole.
    sizes: Vec<usize>,
    /// Decisions on the messages to come; then [`Decision::Release`]. `None`: not answered.
    decisions: VecDeque<Option<Decision>>,
    /// The last message has ended and has no verdict yet.
    is_judged: bool,
    /// Nothing has been said yet of what becomes of the last message.
    is_unsettled: bool,
    /// Messages with this in them are refused when no decision is left.
    refuses: Option<&'static [u8]>,
}

impl Script {
    /// A session that has just been connected.
    fn connected() -> Self {
        Self::with(&crate::Settings::default())
    }

    /// A session whose user has logged in.
    fn new() -> Self {
        let mut script = Self::connected();
        script.log_in();
        script
    }

    fn with(settings: &crate::Settings) -> Self {
        let now = testkit::epoch();
        Self {
            session: Pop3Session::new(
                settings,
                WallClock { started: now, started_unix_s: 1_790_000_000 },
            ),
            now,
            seen: Seen::default(),
            sizes: Vec::new(),
            decisions: VecDeque::new(),
            is_judged: false,
            is_unsettled: false,
            refuses: None,
        }
    }

    fn with_hold_limit(message_hold_bytes_max: u64) -> Self {
        Self::set(Settings { message_hold_bytes_max, ..Settings::default() })
    }

    /// A session with those settings whose user has logged in.
    fn set(pop3: Settings) -> Self {
        let mut script = Self::with(&crate::Settings { pop3, ..crate::Settings::default() });
        script.log_in();
        script
    }

    fn log_in(&mut self) {
        self.server("+OK ready <1.2@mx>\r\n");
        self.client("USER u\r\nPASS p\r\n");
        self.server("+OK\r\n+OK 2 messages\r\n");
        assert_eq!(self.seen.events, [Event::Authenticated]);
        self.seen = Seen::default();
    }

    fn deciding(mut self, decisions: impl IntoIterator<Item = Option<Decision>>) -> Self {
        self.decisions.extend(decisions);
        self
    }

    fn client(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.feed(Side::Client, bytes.as_ref())
    }

    fn server(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.feed(Side::Server, bytes.as_ref())
    }

    fn feed(&mut self, from: Side, bytes: &[u8]) -> &mut Self {
        let sizes = self.sizes.clone();
        for chunk in testkit::chunks(bytes, &sizes) {
            self.session.receive(from, Bytes::copy_from_slice(chunk), self.now);
            self.drain();
        }
        self
    }

    fn end(&mut self, from: Side, end: End) -> &mut Self {
        self.session.receive_end(from, end, self.now);
        self.drain();
        self
    }

    fn decide(&mut self, decision: Decision) -> &mut Self {
        self.is_judged = false;
        self.session.verdict(decision, self.now);
        self.drain();
        self
    }

    /// There is no room for what the session wants held.
    fn hold_failed(&mut self) -> &mut Self {
        self.session.hold_failed(self.now);
        self.drain();
        self
    }

    /// Lets the time pass; no timer of the session is missed.
    fn wait(&mut self, time: Duration) -> &mut Self {
        let until = self.now + time;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= until) {
            self.now = at;
            self.session.handle_timeout(at);
            self.drain();
        }
        self.now = until;
        self
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            let seen = &mut self.seen;
            let Some(output) = seen.wires.perform(output) else { continue };
            match output {
                Output::MessageBegin(envelope) => {
                    assert!(envelope.authenticated && envelope.protocol == crate::Protocol::Pop3);
                    let before = seen.messages.last().map(|message| message.2);
                    assert!(before != Some(Some(false)) && !self.is_judged, "one at a time");
                    assert!(seen.wires.held.is_empty(), "nothing is left of the one before");
                    self.is_unsettled = true;
                    seen.messages.push((envelope.message_number, Vec::new(), Some(false)));
                }
                Output::MessageData(bytes) => {
                    assert!(!bytes.is_empty());
                    let message = seen.messages.last_mut().expect("a message has begun");
                    assert_eq!(message.2, Some(false), "the message is open");
                    message.1.extend_from_slice(&bytes);
                }
                Output::MessageEnd => {
                    let message = seen.messages.last_mut().expect("a message has begun");
                    assert_eq!(message.2, Some(false), "it ends once");
                    message.2 = Some(true);
                    self.is_judged = true;
                    let evil = self.refuses.is_some_and(|evil| holds(&message.1, evil));
                    let scanned = if evil { refuse() } else { Decision::Release };
                    let decision = self.decisions.pop_front().unwrap_or(Some(scanned));
                    if let Some(decision) = decision {
                        self.is_judged = false;
                        self.session.verdict(decision, self.now);
                    }
                }
                Output::MessageAbort => {
                    let message = seen.messages.last_mut().expect("a message has begun");
                    assert!(message.2 == Some(false) || self.is_judged, "it has not ended yet");
                    message.2 = None;
                    self.is_judged = false;
                }
                Output::Hold(_)
                | Output::SendHeld { .. }
                | Output::DropHeld
                | Output::SendEdited { .. } => panic!("the session keeps its messages itself"),
                Output::Event(Event::Settled(settled)) => {
                    assert!(std::mem::take(&mut self.is_unsettled), "of a message, and once");
                    assert!(!self.is_judged, "nothing is awaited of it any more");
                    seen.settled.push(settled);
                }
                Output::Event(event) => seen.events.push(event),
                other => unreachable!("the wires perform {other:?}"),
            }
        }
    }

    /// What went to the client since the last call.
    fn client_got(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.seen.wires.to_client)).unwrap()
    }

    /// What went to the server since the last call.
    fn server_got(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.seen.wires.to_server)).unwrap()
    }

    fn assert_open(&self) {
        assert_eq!((self.seen.wires.client_end, self.seen.wires.server_end), (None, None));
    }

    fn assert_closed_for(&self, side: Side, what: Violation) {
        assert_eq!(self.seen.events.last(), Some(&Event::Violation { side, what }));
        assert_eq!(self.seen.wires.server_end, Some(End::Reset));
        assert!(self.seen.wires.client_end.is_some());
        assert_eq!(self.session.poll_timeout(), None);
    }
}

fn refuse() -> Decision {
    Decision::Refuse(Finding {
        name: "Eicar-Test-Signature".to_owned(),
        engine: "clamd".to_owned(),
        file_name: Some("invoice.zip".to_owned()),
        ..Finding::default()
    })
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// `+OK` and a mail, as a server sends them.
fn answer(mail: &[u8]) -> Vec<u8> {
    [b"+OK message follows\r\n", &*testkit::dot_stuffed(mail)].concat()
}

/// Checks that `answer` is one answer to RETR, and the message in it a notice with every field that it
/// needs, whatever of the original stands above them.
fn assert_well_formed_notice(answer: &[u8]) {
    // Every byte a character: there may be text of any charset in what the original left.
    let text: String = answer.iter().copied().map(char::from).collect();
    let (status, message) = text.split_once("\r\n").expect(&text);
    assert!(status.starts_with("+OK"), "{text}");
    assert!(message.ends_with("\r\n.\r\n"), "{text}");
    assert_eq!(message.matches("\r\n.\r\n").count(), 1, "{text}");
    assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']), "{text}");
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "{text}");
    let (header, body) = message.split_once("\r\n\r\n").expect(&text);
    assert!(body.len() > 100, "{text}");
    let mut names = Vec::new();
    for line in header.split("\r\n") {
        if line.starts_with([' ', '\t']) {
            assert!(!names.is_empty() && !line.trim().is_empty(), "{text}");
            continue;
        }
        let (name, _) = line.split_once(':').expect(&text);
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_graphic()), "{text}");
        names.push(name.to_ascii_lowercase());
    }
    let count = |name: &str| names.iter().filter(|other| *other == name).count();
    let needed = ["from", "subject", "date", "x-avr-notice", "mime-version", "content-type"];
    for name in needed {
        assert_eq!(count(name), 1, "{name}: {text}");
    }
    for name in ["to", "cc", "sender", "reply-to", "message-id", "references", "in-reply-to"] {
        assert!(count(name) <= 1, "{name}: {text}");
    }
    assert!(count("content-disposition") == 0 && count("content-transfer-encoding") == 1, "{text}");
}

/// Whether it is one complete answer with a notice in it, and none of a mail.
fn assert_notice(reply: &str) {
    assert!(reply.starts_with("+OK"), "{reply}");
    assert!(reply.contains("\r\nX-AVR-Notice: "), "{reply}");
    assert!(reply.ends_with("\r\n.\r\n"), "{reply}");
    assert_eq!(reply.matches("\r\n.\r\n").count(), 1, "{reply}");
    assert!(!reply.replace("\r\n", "").contains(['\r', '\n']), "{reply}");
}
