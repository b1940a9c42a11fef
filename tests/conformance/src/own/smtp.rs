//! SMTP sessions: odd ends of data, chunks cut anywhere, commands in one go.

use super::{eicar, harmless};
use crate::run::Transcript;
use crate::script::{Bytes, Script, Step, Who};

/// A session, and what must hold after it.
#[derive(Debug)]
pub struct Session {
    /// What is done.
    pub script: Script,
    /// What must have come of it.
    pub rule: Rule,
}

/// See [`Session::rule`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// No message with the payload reached its end at the server, and at most so many others.
    NoneInfected {
        /// Others.
        at_most: usize,
    },
    /// That, and the client was told with 554, or by a close after 5yz or 421.
    Refused,
    /// Exactly these messages arrived, in this order, and the client got so many 250 for them.
    Delivered(Vec<Vec<u8>>),
    /// Of POP3: the client got no payload.
    NothingFetched,
    /// Of POP3: so many complete answers of several lines, none with the payload.
    Notices(usize),
    /// Of POP3: the client got this, and nothing else.
    Received(Vec<u8>),
}

impl Session {
    /// Whether it went as it must.
    ///
    /// # Errors
    ///
    /// What was wrong, in words.
    pub fn judge(&self, t: &Transcript) -> Result<(), String> {
        let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        need(!t.taken.iter().any(|mail| is_infected(mail)), "the server took the payload")?;
        match &self.rule {
            Rule::NoneInfected { at_most } => {
                need(t.taken.len() <= *at_most, "the server took more than was sent")
            }
            Rule::Refused => {
                need(t.taken.is_empty(), "the server took a mail")?;
                let text = String::from_utf8_lossy(&t.client_got);
                need(
                    text.contains("\r\n554 ") || text.contains("\r\n5") && t.client_ended.is_some(),
                    "not refused",
                )
            }
            Rule::Delivered(mails) => {
                need(t.unmet.is_empty(), &t.unmet.join("; "))?;
                need(t.taken == *mails, "not delivered, or changed")
            }
            Rule::NothingFetched => need(!is_infected(&t.client_got), "the client got the payload"),
            Rule::Notices(count) => {
                need(!is_infected(&t.client_got), "the client got the payload")?;
                let ends = t.client_got.windows(5).filter(|w| *w == b"\r\n.\r\n").count();
                need(ends == *count, &format!("{ends} answers instead of {count}"))
            }
            Rule::Received(bytes) => need(t.client_got == *bytes, "the answers were changed"),
        }
    }
}

/// Whether the payload is in it.
fn is_infected(bytes: &[u8]) -> bool {
    let payload = eicar();
    bytes.windows(payload.len()).any(|window| window == payload)
}

/// All of them, by name.
#[must_use]
pub fn sessions() -> Vec<Session> {
    let mut sessions = odd_ends();
    sessions.extend(chunked());
    sessions.extend(chunk_sizes());
    sessions.extend(pipelined());
    sessions.extend(forms());
    sessions
}

/// Sequences that some server takes for the end of data, beyond those of the corpus.
const ODD_ENDS: &[(&str, &[u8])] = &[
    ("lf.crlf", b"\n.\r\n"),
    ("cr.crlf", b"\r.\r\n"),
    ("lf.cr", b"\n.\r"),
    ("crlf.cr", b"\r\n.\r"),
    ("crlf-nul.crlf", b"\r\n\0.\r\n"),
    ("crlf.nul-crlf", b"\r\n.\0\r\n"),
    ("crcrlf.crcrlf", b"\r\r\n.\r\r\n"),
    ("crlf.blank-crlf", b"\r\n. \r\n"),
    ("crlf.tab-lf", b"\r\n.\t\n"),
    ("lfcr.lfcr", b"\n\r.\n\r"),
    ("lf-nul.lf", b"\n\0.\n"),
    ("cr-nul.cr-nul", b"\r\0.\r\0"),
];

/// A clean mail, the odd end, and behind it what a server that honours it takes for a second mail.
fn odd_ends() -> Vec<Session> {
    let mut sessions = Vec::new();
    for (name, odd) in ODD_ENDS {
        let mut body = message("first", &harmless());
        body.truncate(body.len() - 2);
        body.extend_from_slice(odd);
        body.extend_from_slice(b"MAIL FROM:<x@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n");
        body.extend_from_slice(&message("second", &eicar()));
        body.extend_from_slice(b".\r\n");
        for (way, segments) in
            [("whole", None), ("bytes", Some(vec![1])), ("threes", Some(vec![3]))]
        {
            let server = Step { also_eod: Some(Bytes(odd.to_vec())), ..serve() };
            let mut steps = vec![server];
            steps.extend(until_data());
            steps.extend([send_in(&body, segments.clone()), observe()]);
            let rule = Rule::NoneInfected { at_most: 1 };
            sessions.push(session(&format!("end-{name}-{way}"), "smtp", steps, rule));
        }
    }
    for segments in [1, 2, 3, 5] {
        let mut steps = vec![serve()];
        steps.extend(until_data());
        let mail = message("dots", b".\r\n..\r\n. \r\n.a\r\n\r\n...");
        let wire = crate::wire::stuffed(&mail);
        steps.extend([send_in(&wire, Some(vec![segments])), expect("^250"), quit()]);
        let name = format!("end-dots-clean-{segments}");
        sessions.push(session(&name, "smtp", steps, Rule::Delivered(vec![wired(&mail)])));
    }
    sessions
}

/// The same mail in chunks of several sizes (RFC 3030), infected and clean.
fn chunked() -> Vec<Session> {
    let mut sessions = Vec::new();
    for (twin, payload) in [("evil", eicar()), ("clean", harmless())] {
        let mail = message("chunks", &payload);
        let rule = |mail: &[u8]| match twin {
            "evil" => Rule::Refused,
            _ => Rule::Delivered(vec![mail.to_vec()]),
        };
        for size in [mail.len(), 300, 97, 16, 1] {
            for ends_empty in [false, true] {
                let mut wire = Vec::new();
                let chunks: Vec<&[u8]> = mail.chunks(size).collect();
                for (number, chunk) in chunks.iter().enumerate() {
                    let is_last = !ends_empty && number + 1 == chunks.len();
                    wire.extend_from_slice(&bdat(chunk, is_last));
                }
                if ends_empty {
                    wire.extend_from_slice(b"BDAT 0 LAST\r\n");
                }
                let mut steps = vec![serve_chunking()];
                steps.extend(until_recipient());
                // A hundred and more replies are outstanding at once with small chunks.
                steps.extend(until_judged(twin, send(&wire)));
                let end = if ends_empty { "-empty-last" } else { "" };
                let name = format!("bdat-{twin}-{size}{end}");
                sessions.push(session(&name, "smtp", steps, rule(&mail)));
            }
        }
        let mut steps = vec![serve_chunking()];
        steps.extend(until_recipient());
        let wire = bdat(&mail, true);
        steps.extend(until_judged(twin, send_in(&wire, Some(vec![1]))));
        sessions.push(session(&format!("bdat-{twin}-bytes"), "smtp", steps, rule(&mail)));
        // What looks like the end of a message in a chunk is content.
        let tail = [&b".\r\nMAIL FROM:<x@a.example>\r\n"[..], &payload, b"\r\n"].concat();
        let with_dot = [message("dot", &harmless()), tail].concat();
        let mut steps = vec![serve_chunking()];
        steps.extend(until_recipient());
        steps.extend(until_judged(twin, send(&bdat(&with_dot, true))));
        sessions.push(session(&format!("bdat-{twin}-dot-inside"), "smtp", steps, rule(&with_dot)));
    }
    let (first, second) = (message("one", &harmless()), message("two", &harmless()));
    let mut wire = bdat(&first, true);
    wire.extend_from_slice(b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n");
    wire.extend_from_slice(&bdat(&second, true));
    let mut steps = vec![serve_chunking()];
    steps.extend(until_recipient());
    steps.extend(until_judged("clean", send(&wire)));
    sessions.push(session("bdat-two-mails", "smtp", steps, Rule::Delivered(vec![first, second])));
    sessions
}

/// Sizes that are none, or that two peers could read as two numbers.
fn chunk_sizes() -> Vec<Session> {
    let mut sessions = Vec::new();
    let sizes = [
        ("plus", "+10"),
        ("word", "5 X"),
        ("over64", "18446744073709551616"),
        ("max64", "18446744073709551615"),
        ("tab", "\t5"),
        ("joined", "5LAST"),
        ("comma", "1,000"),
        ("octal", "010"),
        ("exponent", "1e3"),
        ("last-word", "5 LAST X"),
        ("last-first", "LAST 5"),
        ("full-width", "\u{ff15}"),
    ];
    for (name, size) in sizes {
        let body = message("lies", &eicar());
        let mut wire = format!("BDAT {size}\r\n").into_bytes();
        wire.extend_from_slice(&body);
        let mut steps = vec![serve_chunking()];
        steps.extend(until_recipient());
        steps.extend([send(&wire), observe()]);
        let rule = Rule::NoneInfected { at_most: 0 };
        sessions.push(session(&format!("bdat-size-{name}"), "smtp", steps, rule));
    }
    sessions
}

/// Whole transactions in one write, and cut anywhere.
fn pipelined() -> Vec<Session> {
    let mut sessions = Vec::new();
    for segments in [None, Some(vec![1]), Some(vec![7]), Some(vec![64])] {
        let way =
            segments.as_ref().map_or_else(|| "whole".to_owned(), |sizes| sizes[0].to_string());
        for (twin, payload) in [("evil", eicar()), ("clean", harmless())] {
            let (first, second) = (message("one", &harmless()), message("two", &payload));
            let mut wire = Vec::new();
            for mail in [&first, &second] {
                wire.extend_from_slice(
                    b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n",
                );
                wire.extend_from_slice(&crate::wire::stuffed(mail));
            }
            let mut steps = vec![serve(), expect("^220"), send(b"EHLO c.example\r\n")];
            steps.push(expect("(?m)^250 "));
            steps.extend(until_judged(twin, send_in(&wire, segments.clone())));
            let rule = if twin == "evil" {
                Rule::NoneInfected { at_most: 1 }
            } else {
                Rule::Delivered(vec![wired(&first), wired(&second)])
            };
            sessions.push(session(&format!("pipelined-{twin}-{way}"), "smtp", steps, rule));
        }
    }
    sessions
}

/// Commands as old or careless clients write them.
fn forms() -> Vec<Session> {
    let mut sessions = Vec::new();
    let forms: [(&str, &str, &str); 5] = [
        (
            "lower-case",
            "ehlo c.example",
            "mail from:<a@a.example>\r\nrcpt to:<b@b.example>\r\ndata\r\n",
        ),
        ("helo", "HELO c.example", "MAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n"),
        (
            "parameters",
            "EHLO [192.0.2.1]",
            "MAIL FROM:<a@a.example> BODY=8BITMIME SIZE=100\r\nRCPT TO:<b@b.example>\r\nDATA\r\n",
        ),
        (
            "reset-between",
            "EHLO c.example",
            "MAIL FROM:<x@a.example>\r\nRSET\r\nNOOP\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n",
        ),
        (
            "blanks-behind",
            "EHLO c.example ",
            "MAIL FROM:<a@a.example> \r\nRCPT TO:<b@b.example>\r\nDATA \r\n",
        ),
    ];
    for (name, hello, commands) in forms {
        for (twin, payload) in [("evil", eicar()), ("clean", harmless())] {
            let mail = message(name, &payload);
            let mut steps = vec![serve(), expect("^220")];
            steps.extend([send(format!("{hello}\r\n").as_bytes()), expect("(?m)^250 ")]);
            steps.extend([send(commands.as_bytes()), expect("(?m)^354 ")]);
            let rule =
                if twin == "evil" { Rule::Refused } else { Rule::Delivered(vec![wired(&mail)]) };
            steps.extend(until_judged(twin, send(&crate::wire::stuffed(&mail))));
            sessions.push(session(&format!("form-{name}-{twin}"), "smtp", steps, rule));
        }
    }
    sessions
}

/// A mail with this text; its lines end with CRLF.
pub(super) fn message(subject: &str, text: &[u8]) -> Vec<u8> {
    let head = format!("From: a@a.example\r\nTo: b@b.example\r\nSubject: {subject}\r\n\r\n");
    [head.as_bytes(), text, b"\r\n"].concat()
}

/// As the server of the sessions keeps what came by DATA: as it crossed, with its end.
fn wired(mail: &[u8]) -> Vec<u8> {
    // The CRLF before the dot belongs to the mail and to the end.
    crate::wire::stuffed(mail)
}

fn bdat(chunk: &[u8], is_last: bool) -> Vec<u8> {
    let last = if is_last { " LAST" } else { "" };
    [format!("BDAT {}{last}\r\n", chunk.len()).as_bytes(), chunk].concat()
}

/// Sends, and waits for what can only come when the last mail has been judged: the refusal, or the
/// answer to a QUIT behind it.
fn until_judged(twin: &str, last: Step) -> Vec<Step> {
    if twin == "evil" {
        return vec![last, expect("(?m)^554 ")];
    }
    vec![last, quit(), expect("(?m)^221 ")]
}

fn until_recipient() -> Vec<Step> {
    vec![
        expect("^220"),
        send(b"EHLO c.example\r\n"),
        expect("(?m)^250 "),
        send(b"MAIL FROM:<a@a.example>\r\n"),
        expect("^250"),
        send(b"RCPT TO:<b@b.example>\r\n"),
        expect("^250"),
    ]
}

fn until_data() -> Vec<Step> {
    let mut steps = until_recipient();
    steps.extend([send(b"DATA\r\n"), expect("^354")]);
    steps
}

pub(super) fn session(name: &str, proto: &str, steps: Vec<Step>, rule: Rule) -> Session {
    let id = format!("own/{proto}/{name}");
    Session { script: Script { id, proto: proto.to_owned(), steps }, rule }
}

fn serve() -> Step {
    Step { who: Who::S, action: Some("serve".to_owned()), ..Step::default() }
}

fn serve_chunking() -> Step {
    let ehlo = b"250-fake\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 CHUNKING\r\n";
    Step { ehlo: Some(Bytes(ehlo.to_vec())), ..serve() }
}

pub(super) fn send(bytes: &[u8]) -> Step {
    Step { send: Some(Bytes(bytes.to_vec())), ..Step::default() }
}

pub(super) fn send_in(bytes: &[u8], segments: Option<Vec<usize>>) -> Step {
    Step { segments, ..send(bytes) }
}

pub(super) fn expect(pattern: &str) -> Step {
    Step { expect: Some(pattern.to_owned()), ..Step::default() }
}

pub(super) fn observe() -> Step {
    Step { who: Who::X, action: Some("observe".to_owned()), ..Step::default() }
}

fn quit() -> Step {
    send(b"QUIT\r\n")
}
