//! Any chunking gives the same; any bytes leave the session whole.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// One turn of a session.
#[derive(Debug, Clone)]
enum Turn {
    Client(Vec<u8>),
    Server(Vec<u8>),
    /// Seconds pass.
    Wait(u64),
    HoldFailed,
}

fn command() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("RETR 1\r\n"),
        Just("TOP 2 9\r\n"),
        Just("retr\t3\n"),
        Just("LIST\r\n"),
        Just("LIST 1\r\n"),
        Just("NOOP\r\n"),
        Just("AUTH PLAIN\r\n"),
        Just("AUTH\r\n"),
        Just("PASS x\r\n"),
        Just("\r\n"),
        Just("RETR\x001\r\n"),
        Just("STLS\r\n"),
        Just("XRETR 1\r\n"),
        Just("XTND XMIT\r\n"),
    ]
}

fn reply() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("+OK\r\n"),
        Just("+OK\n"),
        Just("-ERR no\r\n"),
        Just("+ \r\n"),
        Just("+OK\r\n1 2\r\n.\r\n"),
        Just("+OK\r\nSubject: a\r\n\r\n..\r\nb\r\n.\r\n"),
        Just("+OK\nSubject: a\n\n..\nb\n.\n"),
        Just(
            "+OK\r\nSubject: long line to reach the limit of what is held here\r\n\r\nxx\r\n.\r\n"
        ),
        Just("+OK\r\nSubject: a\r\n\r\nx\n.\nb\r\n.\r\n"),
        Just("+OK\r\nSubject: a\r\n\r\nx\r\n.\n"),
        Just("\r\n.\r\n"),
        Just("rubbish"),
    ]
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let client = vec(command(), 1..4).prop_map(|lines| Turn::Client(lines.concat().into_bytes()));
    let server = vec(reply(), 1..4).prop_map(|lines| Turn::Server(lines.concat().into_bytes()));
    let wait = (0_u64..40).prop_map(Turn::Wait);
    vec(prop_oneof![4 => client, 4 => server, 2 => wait, 1 => Just(Turn::HoldFailed)], 0..16)
}

/// What a session does with the turns cut into those sizes; of three messages one is refused, one
/// released, and one without a verdict for a while.
fn outcome(turns: &[Turn], sizes: &[usize], hold_bytes_max: u64) -> Seen {
    let mut script = Script::with_hold_limit(hold_bytes_max);
    script.sizes = sizes.to_vec();
    script
        .decisions
        .extend((0..50).map(|at| [Some(refuse()), Some(Decision::Release), None][at % 3].clone()));
    for turn in turns {
        match turn {
            Turn::Client(bytes) => script.client(bytes),
            Turn::Server(bytes) => script.server(bytes),
            Turn::Wait(seconds) => script.wait(Duration::from_secs(*seconds)),
            Turn::HoldFailed => script.hold_failed(),
        };
    }
    script.decide(refuse()).end(Side::Server, End::Fin).end(Side::Client, End::Fin);
    script.seen
}

/// A command, its answer, and what the client gets for it if messages are released.
fn exchange() -> impl Strategy<Value = (String, String, String)> {
    let same = |command: &str, answer: &str| (command.into(), answer.into(), answer.into());
    let line = "[a-z ]{0,20}";
    prop_oneof![
        Just(same("LIST\r\n", "+OK\r\n1 2\r\n.\r\n")),
        Just(same("list \t1\r\n", "+OK 1 2\r\n")),
        Just(same("UIDL\r\n", "-ERR\r\n")),
        Just(same("TOP 1 1\r\n", "-ERR\r\n")),
        Just(("STAT\n".to_owned(), "+OK 1\n".to_owned(), "+OK 1\r\n".to_owned())),
        Just((
            "NOOP\0\r\n".to_owned(),
            String::new(),
            String::from_utf8_lossy(replies::CONTROL_BYTE).into_owned()
        )),
        Just((
            "CAPA\r\n".to_owned(),
            "+OK\nTOP\r\nUIDL\n\n.\n".to_owned(),
            "+OK\r\nTOP\r\nUIDL\r\n\r\n.\r\n".to_owned()
        )),
        (
            line,
            vec(
                prop_oneof![Just("..".to_owned()), Just(String::new()), Just("x\ry\nz".to_owned())],
                0..5
            )
        )
            .prop_map(move |(status, lines)| {
                let body: String = lines.iter().map(|line| line.clone() + "\r\n").collect();
                same("RETR 1\r\n", &format!("+OK {status}\r\nSubject: s\r\n\r\n{body}.\r\n"))
            }),
    ]
}

proptest! {
    #[test]
    fn a_conversation_stays_in_step(
        exchanges in vec(exchange(), 0..COMMANDS_IN_FLIGHT_MAX),
        sizes in vec(1_usize..12, 0..6),
        pipelined in any::<bool>(),
    ) {
        let mut script = Script::new();
        script.sizes = sizes;
        let joined = |part: fn(&(String, String, String)) -> &String| -> String {
            exchanges.iter().map(|exchange| part(exchange).as_str()).collect()
        };
        if pipelined {
            script.client(joined(|exchange| &exchange.0)).server(joined(|exchange| &exchange.1));
        } else {
            for (command, answer, _) in &exchanges {
                script.client(command).server(answer);
            }
        }
        script.assert_open();
        prop_assert_eq!(script.client_got(), joined(|exchange| &exchange.2));
        let forwarded = joined(|exchange| &exchange.0).replace("NOOP\0\r\n", "");
        prop_assert_eq!(script.server_got(), forwarded.replace("STAT\n", "STAT\r\n"));
        prop_assert!(script.session.in_flight.is_empty());
    }

    #[test]
    fn any_chunking_gives_the_same(
        turns in turns(),
        sizes in vec(1_usize..12, 0..6),
        hold_bytes_max in prop_oneof![Just(50_u64), Just(10_000)],
    ) {
        let whole = outcome(&turns, &[], hold_bytes_max);
        prop_assert_eq!(&outcome(&turns, &sizes, hold_bytes_max), &whole);
        prop_assert_eq!(&outcome(&turns, &[1; 64], hold_bytes_max), &whole);
    }

    #[test]
    fn one_message_in_any_chunking_is_byte_exact(
        body in vec(prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), Just(b'x'), any::<u8>()], 0..200),
        sizes in vec(1_usize..40, 0..5),
    ) {
        // Not those that have odd ends of their own.
        let mail: Vec<u8> = body.split(|byte| *byte == b'\n').flat_map(|line| {
            let mut line: Vec<u8> = line.iter().copied().filter(|byte| !b"\r\0".contains(byte)).collect();
            line.extend_from_slice(b"\r\n");
            line
        }).collect();
        let raw = answer(&mail);
        let mut script = Script::new();
        script.sizes = sizes;
        script.client("RETR 1\r\n").server(&raw);
        prop_assert_eq!(&script.seen.wires.to_client, &raw);
        prop_assert_eq!(&script.seen.messages, &[(Some(1), mail, Some(true))]);
    }

    #[test]
    fn refused_content_never_shows(
        body in vec(prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), Just(b'x'), Just(0)], 0..100),
        sizes in vec(1_usize..40, 0..5),
    ) {
        // Whatever stands around it, the payload of a message that is refused stays here.
        let raw = [b"+OK\r\nSubject: s\r\n\r\n", &*body, b"PAYLOAD", &*body, b"\r\n.\r\n"].concat();
        let mut script = Script::new();
        script.sizes = sizes;
        script.decisions.push_back(Some(refuse()));
        script.client("RETR 1\r\n").server(&raw);
        let shown = script.client_got();
        prop_assert!(!shown.contains("PAYLOAD"), "{}", shown);
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_pile_up(
        turns in vec((any::<bool>(), vec(any::<u8>(), 0..300), 0_u64..400), 0..30),
        logged_in in any::<bool>(),
    ) {
        let mut script = if logged_in { Script::with_hold_limit(500) } else { Script::connected() };
        script.client("RETR 1\r\n");
        for (from_client, bytes, seconds) in turns {
            let from = if from_client { Side::Client } else { Side::Server };
            if script.session.wants(from) {
                script.feed(from, &bytes);
            }
            script.wait(Duration::from_secs(seconds));
            prop_assert!(script.session.client.bytes() <= CLIENT_PENDING_BYTES_MAX + 300);
            prop_assert!(script.session.server.bytes() <= REPLY_LINE_BYTES_MAX + 300);
            if let Reading::Message { message, .. } = &script.session.reading {
                prop_assert!(message.received_bytes <= 500 || !logged_in || message.fate != Fate::Held);
            }
        }
    }

    #[test]
    fn arbitrary_events_leave_every_message_with_one_end(
        turns in vec((0_usize..9, 0_u64..90), 0..60),
        answers in vec(reply(), 1..20),
        commands in vec(command(), 1..20),
        settings in (any::<bool>(), any::<bool>(), prop_oneof![Just(40_u64), Just(10_000)]),
    ) {
        // `Script::drain` checks that messages begin and end in order, and that nothing is sent behind
        // an end; here, that none is left open.
        let mut script = Script::set(Settings {
            on_hold_failure: if settings.0 { OnHoldFailure::Replace } else { OnHoldFailure::Pass },
            unframed: if settings.1 { Unframed::Opaque } else { Unframed::Close },
            message_hold_bytes_max: settings.2,
            ..Settings::default()
        });
        script.decisions.extend(std::iter::repeat_n(None, 100));
        let (mut answers, mut commands) = (answers.into_iter().cycle(), commands.into_iter().cycle());
        for (what, seconds) in turns {
            match what {
                0 | 1 => script.client(commands.next().unwrap()),
                2..=4 => script.server(answers.next().unwrap()),
                5 => script.decide(if seconds % 2 == 0 { refuse() } else { Decision::Release }),
                6 => script.decide(Decision::Edit(Finding::default())),
                7 => script.hold_failed(),
                _ if seconds == 0 => script.end(Side::Server, End::Fin),
                _ => script.wait(Duration::from_secs(seconds)),
            };
            let buffered = script.session.client.bytes() + script.session.server.bytes();
            prop_assert!(buffered <= CLIENT_PENDING_BYTES_MAX + REPLY_LINE_BYTES_MAX + 300);
        }
        script.end(Side::Client, End::Reset);
        prop_assert!(!script.is_judged && script.seen.messages.iter().all(|message| message.2 != Some(false)));
        prop_assert!(script.seen.wires.held.is_empty());
    }

    #[test]
    fn arbitrary_lines_neither_panic_nor_send_after_the_end(
        lines in vec((any::<bool>(), "(?s-u:[+A-Z .\r\n\t\0]{0,12}\r?\n)", 0_usize..3), 0..40),
    ) {
        // `Script::drain` checks the order of outputs.
        let mut script = Script::connected();
        for (from_client, line, end) in lines {
            let from = if from_client { Side::Client } else { Side::Server };
            script.feed(from, line.as_bytes());
            if end == 2 {
                script.end(from, End::Fin);
            }
        }
    }
}
