//! Properties of the keep-alive: whenever it struck and whatever came of the message, the client got
//! one well-formed answer.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// What comes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Clean,
    Refused,
    Unscanned,
    Edited,
    NoVerdict,
    NoRoom { replace: bool },
}

/// A field of a header, or something in its place.
fn field() -> impl Strategy<Value = String> {
    let usual = prop::sample::select(vec![
        "Received: from a by b;\r\n\tTue, 02 Jan 2024 03:04:06 +0000\r\n",
        "From: Alice <a@a.example>\r\n",
        "From: =?ISO-2022-JP?B?GyRCOzNFRBsoQg==?=\r\n <y@a.example>\r\n",
        "To: b@b.example,\r\n c@c.example\r\n",
        "Subject: your invoice\r\n",
        "Subject:\r\n",
        "Subject: \r\n folded at once\r\n",
        "subject: h\u{e9}\u{8acb}\r\n \u{1f600}\r\n",
        "Date: Tue, 02 Jan 2024 03:04:05 +0000\r\n",
        "Message-ID: <1@a.example>\r\n",
        "X-Mailer: x\r\n",
        "X-Empty:\r\n",
        "Comments: (a\r\n\t\t\tb\r\n",
        "Reply-To: c@c.example\r\n",
        "Auto-Submitted: no\r\n",
        "DKIM-Signature: v=1; b=\r\n  abc==\r\n",
    ]);
    let special = prop::sample::select(vec![
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/mixed; boundary=x\r\n",
        "CONTENT-Transfer-Encoding: base64\r\n",
        "X-AVR-Notice: clean\r\n",
        "Disposition-Notification-To: spy@a.example\r\n",
        "Date: soon!\r\n",
        "Message-ID: 1\r\n",
        "To:\r\n",
        "Subject : blank\r\n",
        "no colon\r\n",
        ": no name\r\n",
        " begins folded\r\n",
        "X-A: b\r\n \t \r\n",
        "X-A: bare\rcr\r\n",
        "X-A: bare\nlf\r\n",
        "X-A: nul\0\r\n",
        "..X-Stuffed: dot\r\n",
        ".X-Dot: alone\r\n",
        "X-A: b\r\n.\n",
    ]);
    let free = "X-[A-Za-z]{1,9}: ?[ -~]{0,12}\r\n".boxed();
    let long = Just(format!("X-Long: {}\r\n", "l".repeat(1000)));
    prop_oneof![6 => usual.prop_map(str::to_owned), 2 => special.prop_map(str::to_owned),
        2 => free, 1 => long]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop::sample::select(vec![
        Fate::Clean,
        Fate::Refused,
        Fate::Unscanned,
        Fate::Edited,
        Fate::NoVerdict,
        Fate::NoRoom { replace: false },
        Fate::NoRoom { replace: true },
    ])
}

/// Plays one RETR; pieces of the answer and waits take turns.
fn play(raw: &[u8], fate: Fate, pieces: &[(usize, u64)], last_wait: u64) -> Script {
    let on_hold_failure = match fate {
        Fate::NoRoom { replace: true } => OnHoldFailure::Replace,
        _ => OnHoldFailure::Pass,
    };
    let mut script = Script::set(Settings { on_hold_failure, ..Settings::default() });
    script.decisions.push_back(None);
    script.seen.wires.edited = b"From: a@b\r\n\r\n.edited\r\n".to_vec();
    script.client("RETR 1\r\n");
    let mut rest = raw;
    for (count, seconds) in pieces {
        let (piece, behind) = rest.split_at((*count).min(rest.len()));
        script.server(piece).wait(Duration::from_secs(*seconds));
        rest = behind;
    }
    if matches!(fate, Fate::NoRoom { .. }) {
        script.hold_failed();
    }
    script.server(rest).wait(Duration::from_secs(last_wait));
    if matches!(script.session.reading, Reading::Message { .. }) {
        // An odd end, and then silence.
        script.wait(ODD_END_TIMEOUT);
    }
    match fate {
        Fate::Clean | Fate::NoRoom { .. } => script.decide(Decision::Release),
        Fate::Refused => script.decide(refuse()),
        Fate::Unscanned => script.decide(Decision::Tempfail { reason: "no scanner".to_owned() }),
        Fate::Edited => script.decide(Decision::Edit(Finding::default())),
        Fate::NoVerdict => script.wait(VERDICT_TIMEOUT),
    };
    script
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn whenever_it_struck_the_answer_is_well_formed(
        fields in vec(field(), 0..8),
        body in prop_oneof![Just(""), Just("\r\nbody\r\n"), Just("\r\n..\r\nFrom: b\r\n\r\n...\r\n")],
        fate in fate(),
        pieces in vec((0_usize..200, 0_u64..40), 0..8),
        last_wait in 0_u64..270,
    ) {
        let raw = format!("+OK it follows\r\n{}{body}.\r\n", fields.concat());
        let mut script = play(raw.as_bytes(), fate, &pieces, last_wait);
        if script.seen.events.iter().any(|event| matches!(event, Event::TimedOut { .. })) {
            // The status line took too long.
            return Ok(());
        }
        let malformed = script.seen.events.iter().any(|event| matches!(event, Event::Violation { .. }));
        if malformed && script.seen.wires.client_end.is_some() {
            // An odd end in what passes unscanned; or one that silence made the end, and then more.
            return Ok(());
        }
        let got = std::mem::take(&mut script.seen.wires.to_client);
        let fate = match fate {
            // It failed before there was anything to hold.
            Fate::NoRoom { .. } if !script.seen.events.contains(&Event::HoldLimit) => Fate::Clean,
            fate => fate,
        };
        match fate {
            Fate::Clean | Fate::NoRoom { replace: false } if !malformed => {
                prop_assert_eq!(got.escape_ascii().to_string(), raw.as_bytes().escape_ascii().to_string());
            }
            Fate::Edited if got.ends_with(b"\r\nFrom: a@b\r\n\r\n..edited\r\n.\r\n") => {
                prop_assert!(holds(b"+OK\r\n +OK it follows\r\n", got.split_inclusive(|byte| *byte == b'\n').next().unwrap()));
                prop_assert_eq!(got.split(|byte| *byte == b'\n').count(), 6, "nothing else is out");
            }
            _ => assert_well_formed_notice(&got),
        }
        prop_assert!(script.seen.wires.held.is_empty(), "nothing is left with the driver");
        // The session is in step.
        script.client("NOOP\r\n").server("+OK noop\r\n");
        prop_assert_eq!(script.client_got(), "+OK noop\r\n");
        script.assert_open();
    }

    #[test]
    fn what_the_client_hears_is_a_beginning_of_what_the_server_said(
        fields in vec(field(), 0..8),
        pieces in vec((0_usize..100, 0_u64..60), 1..12),
    ) {
        let raw = format!("+OK it follows\r\n{}\r\nbody\r\n.\r\n", fields.concat());
        let mut script = Script::new().deciding([None]);
        script.client("RETR 1\r\n");
        let mut rest = raw.as_bytes();
        for (count, seconds) in pieces {
            let (piece, behind) = rest.split_at(count.min(rest.len()));
            script.server(piece).wait(Duration::from_secs(seconds));
            rest = behind;
            if script.seen.wires.client_end.is_some() {
                break;
            }
            let heard = &script.seen.wires.to_client;
            prop_assert!(raw.as_bytes().starts_with(heard), "{}", heard.escape_ascii());
            let header = String::from_utf8_lossy(heard).to_ascii_lowercase();
            for never in ["mime-", "content-", "disposition-", "x-avr-", "body"] {
                prop_assert!(!header.contains(&format!("\n{never}")), "{header}");
            }
        }
    }
}
