//! What holds for any bytes in any pieces.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// What a client says, and what its server answers; plausible, odd, hostile.
const EXCHANGES: &[(&str, &str)] = &[
    ("EHLO x\r\n", "250-mx\r\n250-SIZE 1\r\n250 CHUNKING\r\n"),
    ("MAIL FROM:<a@a>\r\n", "250 ok\r\n"),
    ("RCPT TO:<b@b>\r\n", "250 ok\r\n"),
    ("RCPT TO:<b@b>\r\n", "550 no\r\n"),
    ("MAIL FROM:<>\r\nRCPT TO:<c@c>\r\nDATA\r\n", "250 ok\r\n250 ok\r\n354 go\r\n"),
    ("DATA\r\n", "354 go\r\n"),
    ("DATA\r\n", "354 go\r\n"),
    ("DATA\r\n", "503 no\r\n"),
    ("DATA\r\nNOOP\r\n.\r\n", "554 no\r\n250 ok\r\n"),
    ("hello\r\n.\r\n", "250 queued\r\n"),
    ("EVIL\r\n.\r\n", ""),
    ("LATER\r\n.\r\nQUIT\r\n", ""),
    (".\r\n", "250 queued\r\n"),
    ("one\r\n.\r\nMAIL FROM:<d@d>\r\nDATA\r\n", "250 queued\r\n250 ok\r\n354 go\r\n"),
    ("..\r\n..a\r\n", ""),
    ("text\r\n", "552 too large\r\n"),
    ("\n.\r", ""),
    ("\r\n.\r\r\n", ""),
    ("\0\r", ""),
    ("AUTH PLAIN\r\n", "334 \r\n"),
    ("Zm9v\r\n", "235 ok\r\n"),
    ("*\r\n", "501 cancelled\r\n"),
    ("STARTTLS\r\n", "220 go\r\n"),
    ("STARTTLS\r\n", "454 no\r\n"),
    ("STARTTLS\r\nNOOP\r\n", "220 go\r\n"),
    ("\x16\x03\x01", "\x16\x03\x03"),
    ("NOOP\r\nXCLIENT A=b\r\nNOOP\r\n", "250 ok\r\n250 ok\r\n"),
    ("NOOP\r\nBDAT 6\r\nQUIT\r\n", "250 ok\r\n250 6\r\n"),
    ("BDAT 0\r\nBDAT 1\r\nx", "250 0\r\n250 1\r\n"),
    ("BDAT 5\r\nEVIL\n", "250 5\r\n"),
    ("BDAT 5\r\nLATER", "452 full\r\n"),
    ("BDAT 007\r\nREPLACE", "250 7\r\n"),
    ("BDAT 4 LAST\r\nEDIT", "250 queued\r\n"),
    ("BDAT 7 LAST\r\nREPLACE", "250 queued\r\n"),
    ("BDAT 4 LAST\r\nEVIL", ""),
    ("BDAT 0 LAST\r\n", "250 queued\r\n"),
    ("BDAT 1\r\naBDAT 1\r\nbBDAT 1 LAST\r\nc", "250 1\r\n554 no\r\n503 no\r\n"),
    ("RCPT TO:<b@b>\r\nBDAT 2 LAST\r\nhiRSET\r\n", "250 ok\r\n250 queued\r\n250 ok\r\n"),
    ("BDAT +1\r\nx", ""),
    ("BDAT 9 LAST\r\n", ""),
    ("BURL imap://x LAST\r\n", "250 queued\r\n"),
    ("BURL imap://x\r\n", "250 ok\r\n"),
    ("XEXCH50 1 2\r\n", "354 go\r\n"),
    ("XVERB\r\nNOOP\r\n", "500 what\r\n250 ok\r\n"),
    ("REPLACE\r\n.\r\n", "250 queued\r\n"),
    ("EDIT\r\n.\r\n", "250 queued\r\n"),
    ("\r\n.\r\n", ""),
    ("NOOP\nNOOP\r\n", ""),
    ("RSET\r\n", "250 ok\r\n"),
    ("QUIT\r\n", "221 bye\r\n"),
    ("", "421 timeout\r\n"),
    ("", "250-half\r\n"),
    ("NOOP\r\n", "354 what\r\n"),
    ("NOOP\r\n", "rubbish\r\n"),
];

/// What came out of a session, apart from how it was cut.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    to_client: String,
    to_server: String,
    content: String,
    did: Vec<String>,
}

/// Plays exchanges with the bytes cut at `sizes`; verdicts come at once and go by the content.
fn exchange(
    exchanges: &[(&str, &str)],
    ends: Option<(Side, End)>,
    settings: &Settings,
    sizes: &mut dyn Iterator<Item = usize>,
) -> Outcome {
    let mut lab = Lab::with(settings.clone());
    lab.judges = Some("EVIL");
    lab.send(Side::Server, b"220 mx\r\n", sizes);
    lab.send(Side::Client, b"EHLO c\r\nMAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\n", sizes);
    lab.send(Side::Server, b"250-mx\r\n250 CHUNKING\r\n250 ok\r\n250 ok\r\n", sizes);
    for (client, server) in exchanges {
        lab.send(Side::Client, client.as_bytes(), sizes);
        lab.send(Side::Server, server.as_bytes(), sizes);
    }
    if let Some((side, end)) = ends {
        lab.session.receive_end(side, end, lab.now);
        lab.drain();
    }
    Outcome {
        to_client: lab.to_client.escape_ascii().to_string(),
        to_server: lab.to_server.escape_ascii().to_string(),
        content: lab.content.escape_ascii().to_string(),
        did: lab.did,
    }
}

/// Policies that make a difference.
fn policies() -> impl Strategy<Value = Settings> {
    (any::<bool>(), select(vec![3, 1_000]), any::<bool>(), select(vec!["", "", "CHUNKING", "AUTH"]))
        .prop_map(|(hold, hold_bytes_max, is_closing, masked)| Settings {
            hold,
            hold_bytes_max,
            unframed: if is_closing { Unframed::Close } else { Unframed::Opaque },
            ..masking(&[masked])
        })
}

/// Whether a lenient server might see a message end in these bytes.
fn shows_an_end(bytes: &[u8]) -> bool {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    (0..bytes.len()).filter(|at| bytes[*at] == b'.').any(|at| {
        let before = bytes[..at].iter().rev().find(|byte| **byte != 0);
        let after = bytes[at + 1..].iter().find(|byte| !b"\0 \t\x0b\x0c".contains(byte));
        before.is_none_or(is_end) && after.is_some_and(is_end)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_chunking_gives_the_same(
        exchanges in prop::collection::vec(select(EXCHANGES), 0..14),
        ends in prop::option::of(select(vec![
            (Side::Client, End::Fin),
            (Side::Client, End::Reset),
            (Side::Server, End::Fin),
            (Side::Server, End::Reset),
        ])),
        settings in policies(),
        sizes in prop::collection::vec(1usize..20, 1..20),
    ) {
        let whole = exchange(&exchanges, ends, &settings, &mut std::iter::empty());
        let pieces = exchange(&exchanges, ends, &settings, &mut sizes.into_iter().cycle());
        prop_assert_eq!(&whole, &pieces);
        let single = exchange(&exchanges, ends, &settings, &mut std::iter::repeat(1));
        prop_assert_eq!(&whole, &single);
    }

    #[test]
    fn no_server_sees_an_end_before_the_verdict(
        body in prop::collection::vec(
            select(vec!["\r", "\n", "\r\n", ".", "..", "\0", " ", "EVIL", "\r\n.\r\n", "\x0b"]),
            0..24,
        ),
        sizes in prop::collection::vec(1usize..9, 1..9),
    ) {
        let body = body.concat();
        let mut lab = Lab::play(&[GREETED, DATA].concat(), &mut std::iter::empty());
        lab.send(Side::Client, body.as_bytes(), &mut sizes.into_iter().cycle());
        let out = &lab.to_server;
        prop_assert!(!shows_an_end(out), "{}", out.escape_ascii());
        prop_assert!(body.as_bytes().starts_with(out));
        let has_end = lab.did.iter().any(|note| note.starts_with("end "));
        let is_refused = lab.did.iter().any(|note| note == "abort");
        let strict = body.starts_with(".\r\n") || body.contains("\r\n.\r\n");
        prop_assert!(has_end || is_refused || !strict, "an end was missed");
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_pile_up(
        moves in prop::collection::vec(
            (any::<bool>(), select(EXCHANGES), prop::collection::vec(any::<u8>(), 0..64),
             any::<Index>(), 0u8..32),
            0..60,
        ),
        settings in policies(),
        judges in prop::option::of(Just("EVIL")),
    ) {
        const CHUNK_BYTES: usize = 70_000;
        let mut lab = Lab::with(settings);
        lab.judges = judges;
        lab.send(Side::Server, b"220 mx\r\n", &mut std::iter::empty());
        let start = b"EHLO c\r\nMAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\n";
        lab.send(Side::Client, start, &mut std::iter::empty());
        let replies = b"250-mx\r\n250 CHUNKING\r\n250 ok\r\n250 ok\r\n";
        lab.send(Side::Server, replies, &mut std::iter::empty());
        for (is_client, exchange, noise, cut, action) in moves {
            let side = if is_client { Side::Client } else { Side::Server };
            let text = if is_client { exchange.0 } else { exchange.1 };
            let bytes = match action {
                0 => noise.clone(),
                1 => vec![b'A'; CHUNK_BYTES],
                2 => [text.as_bytes(), &noise].concat(),
                3 => text.as_bytes()[..cut.index(text.len() + 1)].to_vec(),
                4 => b"250-x\r\n".repeat(100),
                _ => text.as_bytes().to_vec(),
            };
            match action {
                5 => lab.step(&After(100), &mut std::iter::empty()),
                6 => lab.step(&CEnd(End::Fin), &mut std::iter::empty()),
                7 => lab.step(&refuse("x"), &mut std::iter::empty()),
                8 => lab.step(&Verdict(Decision::Replace(finding("x"))), &mut std::iter::empty()),
                9 => lab.step(&Verdict(Decision::Edit(finding("x"))), &mut std::iter::empty()),
                10..=13 => lab.step(&Verdict(Decision::Release), &mut std::iter::empty()),
                14 if noise.len() > 60 => {
                    lab.step(&SEnd(End::Fin), &mut std::iter::empty());
                }
                15 if noise.len() > 60 => {
                    lab.step(&CEnd(End::Reset), &mut std::iter::empty());
                }
                16 => {
                    if let Some(at) = lab.session.poll_timeout() {
                        lab.now = lab.now.max(at);
                        lab.session.handle_timeout(lab.now);
                        lab.drain();
                    }
                }
                _ if lab.session.wants(side) => {
                    lab.session.receive(side, bytes.into(), lab.now);
                    lab.drain();
                }
                _ => {}
            }
            let limit = UNPROCESSED_BYTES_MAX + CHUNK_BYTES + reply::REPLY_BYTES_MAX
                + reply::REPLY_LINE_BYTES_MAX
                + usize::try_from(BDAT_HELD_BYTES_MAX).unwrap()
                + 2 * COMMAND_LINE_BYTES_MAX;
            prop_assert!(lab.session.buffered_bytes() <= limit);
            prop_assert!(lab.session.outputs.is_empty());
        }
    }
}
