//! The notice in the place of a message with any header: one well-formed mail, whatever the sender
//! wrote.

use std::time::Instant;

use bytes::Bytes;
use mail::notice::Language;
use mail::{Decision, Finding, Output, Protocol, Session, Settings, Side};

/// Longest line of a mail without its line end (RFC 5322 section 2.1.1).
const LINE_BYTES_MAX: usize = 998;

/// The bytes are the message, the first of them the language.
pub(crate) fn hostile_header(bytes: &[u8]) {
    let Some((choice, message)) = bytes.split_first() else { return };
    let language = if choice & 1 == 0 { Language::English } else { Language::Japanese };
    let finding = Finding {
        name: String::from_utf8_lossy(&message[..message.len().min(64)]).into_owned(),
        engine: "fuzz".to_owned(),
        file_name: Some(String::from_utf8_lossy(message).into_owned()),
        time: Some(String::from_utf8_lossy(&message[..message.len().min(32)]).into_owned()),
        reference: Some("17".to_owned()),
        quarantined: choice & 2 == 2,
    };
    let reply = fetched(language, message, Decision::Refuse(finding));
    let Some(reply) = reply else { return };
    let Some(body) = reply.strip_prefix(b"+OK") else {
        assert!(reply.starts_with(b"-ERR"), "{}", reply.escape_ascii());
        return;
    };
    let text = std::str::from_utf8(body).expect("a notice is ASCII");
    assert!(text.is_ascii(), "a notice is ASCII");
    assert!(text.ends_with("\r\n.\r\n"), "a notice has its end");
    assert_eq!(text.matches("\r\n.\r\n").count(), 1, "and one alone");
    for line in text.split("\r\n") {
        let is_odd = |c: char| c.is_control() && c != '\t';
        assert!(!line.contains(is_odd), "a control character: {line:?}");
        assert!(line.len() <= LINE_BYTES_MAX, "a line of {} characters", line.len());
    }
    let (_, mail) = text.split_once("\r\n").expect("a status line");
    let (head, _) = mail.split_once("\r\n\r\n").expect("a header and a body");
    let tags = head.split("\r\n").filter(|line| line.starts_with("X-AVR-Notice:"));
    assert_eq!(tags.count(), 1, "{head}");
    for line in head.split("\r\n") {
        let is_field = line.starts_with([' ', '\t'])
            || line.split_once(':').is_some_and(|(name, _)| {
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
            });
        assert!(is_field, "no header field: {line:?}");
    }
}

/// What the client gets for its RETR, where the message is held to its end and judged.
fn fetched(language: Language, message: &[u8], decision: Decision) -> Option<Vec<u8>> {
    let settings = Settings { language, ..Settings::default() };
    // An opaque start; the session only adds to it.
    #[allow(clippy::disallowed_methods, reason = "as the driver does, once")]
    let now = Instant::now();
    let mut session = Session::new(Protocol::Pop3, &settings, now, 0);
    let mut reply = Vec::new();
    let mut kept = Vec::new();
    let mut decision = Some(decision);
    let mut answer = b"+OK\r\n".to_vec();
    for (at, &byte) in message.iter().enumerate() {
        if byte == b'.' && (at == 0 || message[..at].ends_with(b"\r\n")) {
            answer.push(b'.');
        }
        answer.push(byte);
    }
    answer.extend_from_slice(b"\r\n.\r\n");
    let moves: [(Side, &[u8]); 3] =
        [(Side::Server, b"+OK\r\n"), (Side::Client, b"RETR 1\r\n"), (Side::Server, &answer)];
    for (number, (from, bytes)) in moves.into_iter().enumerate() {
        session.receive(from, Bytes::copy_from_slice(bytes), now);
        while let Some(output) = session.poll_output() {
            match output {
                Output::Send { to: Side::Client, bytes } if number == 2 => {
                    reply.extend_from_slice(&bytes);
                }
                Output::Hold(bytes) => kept.extend_from_slice(&bytes),
                Output::SendHeld { to: Side::Client, bytes } => {
                    let count = bytes.and_then(|count| usize::try_from(count).ok());
                    let count = count.unwrap_or(kept.len()).min(kept.len());
                    reply.extend(kept.drain(..count));
                }
                Output::MessageEnd => {
                    let decision = decision.take()?;
                    session.verdict(decision, now);
                }
                _ => {}
            }
        }
    }
    // Where the message was refused for its line ends, or the session ended, there was no verdict.
    decision.is_none().then_some(reply)
}
