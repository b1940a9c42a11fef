//! Scenarios: scripts of what each side sends and what must come out, every one played with the
//! bytes in one piece, one by one, and in random pieces.

mod broken_chunks;
mod chunk_limits;
mod chunks;
mod commands;
mod corpus;
mod ends;
mod fidelity;
mod hold;
mod limits;
mod messages;
mod properties;
mod sasl;
mod server;
mod settled;

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::{Finding, Settled, Side};
use Step::*;

/// One line of a script.
#[derive(Debug, Clone)]
enum Step {
    /// The client sends.
    C(&'static str),
    /// The server sends.
    S(&'static str),
    /// Exactly this has gone to the client since the last look.
    ToC(&'static str),
    /// Exactly this has gone to the server since the last look.
    ToS(&'static str),
    /// Exactly these things have happened since the last look; see [`Lab::note`].
    Did(&'static [&'static str]),
    Verdict(Decision),
    CEnd(End),
    SEnd(End),
    /// Seconds pass.
    After(u64),
    /// There is no room for what the driver was to keep.
    HoldFailed,
    /// Whether more is wanted from that side.
    Wants(Side, bool),
}

/// A session, and what came out of it.
struct Lab {
    session: SmtpSession,
    now: Instant,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    content: Vec<u8>,
    did: Vec<String>,
    /// What the driver keeps ([`Output::Hold`]).
    kept: Vec<u8>,
    scan: Scan,
    /// Messages begun, and what became of them.
    begun: usize,
    settled: Vec<Settled>,
    /// The content of the last message that ended, and of all that were released.
    ended: Vec<u8>,
    released: Vec<Vec<u8>>,
    /// How the directions towards client and server were ended.
    ends: [Option<End>; 2],
    /// Answers every message; one with this in it is refused.
    judges: Option<&'static str>,
}

/// What a driver knows of the message under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scan {
    None,
    Open,
    /// The verdict is awaited.
    Ended,
}

impl Lab {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(smtp: Settings) -> Self {
        let now = testkit::epoch();
        let wall = WallClock { started: now, started_unix_s: 1_790_000_000 };
        let session = SmtpSession::new(&crate::Settings { smtp, ..Default::default() }, wall);
        let (to_client, to_server, content, did, kept) = Default::default();
        let (scan, ends, judges) = (Scan::None, [None; 2], None);
        let (ended, released, begun, settled) = Default::default();
        Self {
            session,
            now,
            to_client,
            to_server,
            content,
            did,
            kept,
            scan,
            begun,
            settled,
            ended,
            released,
            ends,
            judges,
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            self.note(output);
        }
    }

    /// Gives the verdicts that are due, after all that came before them: so they do not depend on
    /// how it was cut.
    fn judge(&mut self) {
        while let Some(evil) = self.judges
            && self.scan == Scan::Ended
        {
            let ended = self.did.iter().rfind(|note| note.starts_with("end "));
            let has = |word| ended.is_some_and(|note| note.contains(word));
            self.verdict(if has(evil) {
                Decision::Refuse(finding("Evil"))
            } else if has("LATER") {
                Decision::Tempfail { reason: "Later".to_owned() }
            } else if has("REPLACE") {
                Decision::Replace(finding("Evil"))
            } else if has("EDIT") {
                Decision::Edit(finding("Evil"))
            } else {
                Decision::Release
            });
            self.drain();
        }
    }

    fn verdict(&mut self, decision: Decision) {
        if self.scan == Scan::Ended {
            self.scan = Scan::None;
            if decision == Decision::Release {
                self.released.push(mem::take(&mut self.ended));
            }
        }
        self.session.verdict(decision, self.now);
    }

    /// What no session may ask of its driver, whatever the peers do.
    fn check(&mut self, output: &Output) {
        let at = |side: &Side| usize::from(*side == Side::Server);
        match output {
            Output::Send { to, .. }
            | Output::SendHeld { to, .. }
            | Output::SendEdited { to, .. } => {
                assert_eq!(self.ends[at(to)], None, "nothing is sent behind an end");
            }
            Output::Shutdown { to, how } => {
                let end = &mut self.ends[at(to)];
                assert!(
                    end.is_none() || (*end, *how) == (Some(End::Fin), End::Reset),
                    "ended twice"
                );
                *end = Some(*how);
            }
            Output::MessageBegin(_) => {
                assert_eq!((self.scan, self.kept.len()), (Scan::None, 0), "one at a time");
                self.scan = Scan::Open;
                assert_eq!(self.begun, self.settled.len(), "all is said of the one before");
                self.begun += 1;
            }
            Output::MessageData(_) | Output::Hold(_) => assert_eq!(self.scan, Scan::Open),
            Output::MessageEnd => {
                assert_eq!(self.scan, Scan::Open);
                self.scan = Scan::Ended;
            }
            Output::MessageAbort => {
                assert_ne!(self.scan, Scan::None, "aborted once, and never after its verdict");
                self.scan = Scan::None;
            }
            Output::Event(Event::Settled(_)) => {
                assert_eq!(self.scan, Scan::None, "nothing is awaited of it any more");
                assert_eq!(self.begun, self.settled.len() + 1, "once");
            }
            Output::DropHeld | Output::Event(_) => {}
        }
        let is_over = self.ends.iter().all(Option::is_some);
        assert!(!is_over || self.scan == Scan::None, "no scan outlives its session");
        assert!(!is_over || self.begun == self.settled.len(), "all is said before the end");
    }

    fn note(&mut self, output: Output) {
        self.check(&output);
        let note = match output {
            Output::Send { to, bytes } => {
                assert!(!bytes.is_empty(), "no empty sends");
                let out = match to {
                    Side::Client => &mut self.to_client,
                    Side::Server => &mut self.to_server,
                };
                out.extend_from_slice(&bytes);
                return;
            }
            Output::MessageData(bytes) => {
                assert!(!bytes.is_empty(), "no empty data");
                self.content.extend_from_slice(&bytes);
                return;
            }
            Output::Hold(bytes) => {
                assert!(!bytes.is_empty(), "nothing empty is kept");
                self.kept.extend_from_slice(&bytes);
                return;
            }
            Output::SendHeld { to, bytes } => {
                assert_eq!((to, bytes), (Side::Server, None));
                self.to_server.append(&mut self.kept);
                return;
            }
            Output::DropHeld => {
                self.kept.clear();
                "drop".to_owned()
            }
            Output::SendEdited { to, framing } => {
                assert_eq!(to, Side::Server);
                self.to_server.extend_from_slice(match framing {
                    crate::Framing::Dots => b"<edited>\r\n.\r\n",
                    crate::Framing::Chunk => b"BDAT 8 LAST\r\n<edited>",
                });
                format!("edited {framing:?}")
            }
            Output::Shutdown { to, how } => format!("{how:?} {to:?}"),
            Output::MessageBegin(envelope) => {
                let to: Vec<_> =
                    envelope.rcpt_to.iter().map(|path| path.escape_ascii().to_string()).collect();
                let from = envelope.mail_from.escape_ascii();
                let authenticated = if envelope.authenticated { " authenticated" } else { "" };
                format!("begin {from} > {}{authenticated}", to.join(" "))
            }
            Output::MessageEnd => {
                self.ended = mem::take(&mut self.content);
                format!("end {}", self.ended.escape_ascii())
            }
            Output::MessageAbort => {
                self.content.clear();
                "abort".to_owned()
            }
            Output::Event(Event::Settled(settled)) => {
                self.settled.push(settled);
                return;
            }
            Output::Event(Event::Violation { side, what }) => format!("{what:?} by {side:?}"),
            Output::Event(Event::TimedOut { side }) => format!("timeout of {side:?}"),
            Output::Event(event) => format!("{event:?}"),
        };
        self.did.push(note);
    }

    /// Sends in chunks of these sizes; what is left goes in one.
    fn send(&mut self, from: Side, bytes: &[u8], sizes: &mut dyn Iterator<Item = usize>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
            let (chunk, tail) = rest.split_at(size);
            self.session.receive(from, Bytes::copy_from_slice(chunk), self.now);
            self.drain();
            rest = tail;
        }
        self.judge();
    }

    fn step(&mut self, step: &Step, sizes: &mut dyn Iterator<Item = usize>) {
        match step {
            C(bytes) => self.send(Side::Client, bytes.as_bytes(), sizes),
            S(bytes) => self.send(Side::Server, bytes.as_bytes(), sizes),
            ToC(expected) => {
                let seen = mem::take(&mut self.to_client);
                assert_eq!(seen.escape_ascii().to_string(), escape(expected), "to the client");
            }
            ToS(expected) => {
                let seen = mem::take(&mut self.to_server);
                assert_eq!(seen.escape_ascii().to_string(), escape(expected), "to the server");
            }
            Did(expected) => assert_eq!(mem::take(&mut self.did), *expected),
            Verdict(decision) => self.verdict(decision.clone()),
            CEnd(end) => self.session.receive_end(Side::Client, *end, self.now),
            SEnd(end) => self.session.receive_end(Side::Server, *end, self.now),
            After(seconds) => {
                self.now += Duration::from_secs(*seconds);
                if self.session.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.session.handle_timeout(self.now);
                }
            }
            HoldFailed => self.session.hold_failed(self.now),
            Wants(side, expected) => assert_eq!(self.session.wants(*side), *expected),
        }
        self.drain();
        self.judge();
    }

    fn play(script: &[Step], sizes: &mut dyn Iterator<Item = usize>) -> Self {
        Self::new().played(script, sizes)
    }

    fn played(self, script: &[Step], sizes: &mut dyn Iterator<Item = usize>) -> Self {
        let mut lab = self;
        for (number, step) in script.iter().enumerate() {
            // Shown by the harness when a step fails.
            let shown: String = format!("{step:?}").chars().take(200).collect();
            eprintln!("step {number}: {shown}");
            lab.step(step, sizes);
        }
        lab
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.to_client.escape_ascii().to_string(), "", "to the client, unlooked at");
        assert_eq!(self.to_server.escape_ascii().to_string(), "", "to the server, unlooked at");
        assert!(self.did.is_empty(), "unlooked at: {:?}", self.did);
    }
}

fn escape(text: &str) -> String {
    text.as_bytes().escape_ascii().to_string()
}

/// Plays a script in whole pieces, byte by byte, and in odd pieces.
fn play(parts: &[&[Step]]) {
    play_with(&Settings::default(), parts);
}

/// The same with another policy.
fn play_with(settings: &Settings, parts: &[&[Step]]) {
    let script = parts.concat();
    let lab = || Lab::with(settings.clone());
    lab().played(&script, &mut std::iter::empty()).assert_nothing_left();
    lab().played(&script, &mut std::iter::repeat(1)).assert_nothing_left();
    for sizes in [[2, 3, 5], [7, 1, 4], [16, 1, 9]] {
        lab().played(&script, &mut sizes.into_iter().cycle()).assert_nothing_left();
    }
}

fn masking(keywords: &[&str]) -> Settings {
    Settings {
        masked: keywords.iter().map(|keyword| (*keyword).to_owned()).collect(),
        ..Settings::default()
    }
}

fn finding(name: &str) -> Finding {
    Finding { name: name.to_owned(), engine: "test".to_owned(), ..Finding::default() }
}

fn refuse(name: &str) -> Step {
    Verdict(Decision::Refuse(finding(name)))
}

const GREETED: &[Step] = &[S("220 mx.example ESMTP\r\n"), ToC("220 mx.example ESMTP\r\n")];

const EHLO: &[Step] = &[
    C("EHLO c.example\r\n"),
    ToS("EHLO c.example\r\n"),
    S("250-mx.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 DSN\r\n"),
    ToC("250-mx.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 DSN\r\n"),
];

const RCPT: &[Step] = &[
    C("MAIL FROM:<a@a.example>\r\n"),
    ToS("MAIL FROM:<a@a.example>\r\n"),
    S("250 ok\r\n"),
    ToC("250 ok\r\n"),
    C("RCPT TO:<b@b.example>\r\n"),
    ToS("RCPT TO:<b@b.example>\r\n"),
    S("250 ok\r\n"),
    ToC("250 ok\r\n"),
];

const DATA: &[Step] = &[
    C("MAIL FROM:<a@a.example>\r\n"),
    ToS("MAIL FROM:<a@a.example>\r\n"),
    S("250 ok\r\n"),
    ToC("250 ok\r\n"),
    C("RCPT TO:<b@b.example>\r\n"),
    ToS("RCPT TO:<b@b.example>\r\n"),
    S("250 ok\r\n"),
    ToC("250 ok\r\n"),
    C("DATA\r\n"),
    ToS("DATA\r\n"),
    S("354 go\r\n"),
    ToC("354 go\r\n"),
    Did(&["begin a@a.example > b@b.example"]),
];

const HELD: &[Step] = &[
    C("Subject: x\r\n\r\nhello\r\n.\r\n"),
    ToS("Subject: x\r\n\r\nhello"),
    Did(&["end Subject: x\\r\\n\\r\\nhello\\r\\n"]),
    Wants(Side::Client, false),
    Wants(Side::Server, true),
];

const BAD_SIZE: &str =
    "501 5.5.4 BDAT takes a decimal size and LAST or nothing, closing the connection\r\n";
const DEAD: &str = "503 5.5.1 The message has been given up, RSET or a new MAIL comes first\r\n";
const ORPHAN: &str =
    "421 4.3.0 The connection to the mail server has ended, please connect again\r\n";
