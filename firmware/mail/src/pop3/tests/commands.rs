//! Commands, replies, SASL, STLS, pipelining.

use super::*;

#[test]
fn greeting_and_apop_are_untouched() {
    let mut script = Script::connected();
    script.server("+OK POP3 <1896.697170952@dbc.mtview.ca.us>\r\n");
    assert_eq!(script.client_got(), "+OK POP3 <1896.697170952@dbc.mtview.ca.us>\r\n");
    script.client("APOP mrose c4c9334bac560ecc979e58001b3e22fb\r\n");
    assert_eq!(script.server_got(), "APOP mrose c4c9334bac560ecc979e58001b3e22fb\r\n");
    script.server("+OK\r\n");
    assert_eq!(script.seen.events, [Event::Authenticated]);
}

#[test]
fn a_client_that_speaks_first_loses_nothing() {
    let mut script = Script::connected();
    script.client("CAPA\r\nUSER u\r\n");
    assert_eq!(script.server_got(), "CAPA\r\nUSER u\r\n");
    script.server("+OK hello\r\n+OK\r\nTOP\r\n.\r\n+OK user\r\n");
    assert_eq!(script.client_got(), "+OK hello\r\n+OK\r\nTOP\r\n.\r\n+OK user\r\n");
    script.assert_open();
}

#[test]
fn a_refusing_greeting_passes() {
    let mut script = Script::connected();
    script.server("-ERR too busy\r\n").end(Side::Server, End::Fin);
    assert_eq!(script.client_got(), "-ERR too busy\r\n");
    assert_eq!(
        (script.seen.wires.client_end, script.seen.wires.server_end),
        (Some(End::Fin), None)
    );
}

#[test]
fn single_and_multi_line_answers_are_told_apart() {
    let mut script = Script::new();
    for (command, reply) in [
        ("LIST\r\n", "+OK\r\n1 10\r\n2 20\r\n.\r\n"),
        ("LIST 1\r\n", "+OK 1 10\r\n"),
        ("UIDL 1\r\n", "+OK 1 abc\r\n"),
        ("UIDL\r\n", "-ERR unknown\r\n"),
        ("UIDL\r\n", "+OK\r\n.\r\n"),
        ("list \t1 \r\n", "+OK 1 10\r\n"),
        ("CAPA\r\n", "+OK\r\nTOP\r\nUIDL\r\nSTLS\r\nSASL PLAIN\r\nX-FOO\r\n.\r\n"),
        ("CAPA\r\n", "-ERR unknown\r\n"),
        ("CAPA\r\n", "+OK\r\n.\r\n"),
        ("LAST\r\n", "+OK 1\r\n"),
        ("STAT\r\n", "+OK 2 30\r\n"),
        ("LANG\r\n", "+OK\r\nen English\r\nja Japanese\r\n.\r\n"),
        ("LANG ja\r\n", "+OK ja\r\n"),
        ("LANG *\r\n", "+OK\r\n"),
        ("UTF8\r\n", "+OK\r\n"),
        ("RSET\r\n", "+OK\r\n"),
        ("NOOP\r\n", "+OK\r\n"),
        ("RETR 9\r\n", "-ERR no such message\r\n"),
        ("TOP 9 0\r\n", "-ERR no such message\r\n"),
        ("AUTH\r\n", "+OK\r\nPLAIN\r\n..\r\n.\r\n"),
        ("DELE 1\r\n", "+OK deleted\r\n"),
    ] {
        script.client(command);
        assert_eq!(script.server_got(), command);
        script.server(reply);
        assert_eq!(script.client_got(), reply, "{command}");
    }
    script.assert_open();
    assert_eq!(script.seen, Seen::default(), "neither messages nor events");
}

#[test]
fn sasl_responses_are_not_commands() {
    let mut script = Script::connected();
    script.server("+OK\r\n").client("AUTH LOGIN\r\n").server("+ VXNlcm5hbWU6\r\n");
    script.client("RETR 1\r\n").server("+\r\n");
    script.client("STLS\r\n").server("+ \r\n");
    script.client("*\r\n").server("-ERR cancelled\r\n");
    assert_eq!(script.server_got(), "AUTH LOGIN\r\nRETR 1\r\nSTLS\r\n*\r\n");
    script.client("AUTH PLAIN AGEAYg==\r\n").server("+OK in\r\n").client("LIST 1\r\n");
    script.server("+OK 1 2\r\n");
    assert_eq!(script.seen.events, [Event::Authenticated]);
    assert_eq!(script.seen.messages, []);
    script.assert_open();
}

#[test]
fn an_initial_response_may_be_all_or_only_the_beginning() {
    // RFC 5034 section 4: `=` is an empty one.
    for (command, steps) in [("AUTH EXTERNAL =\r\n", 0), ("AUTH LOGIN dXNlcg==\r\n", 1)] {
        let mut script = Script::connected();
        script.server("+OK\r\n").client(command);
        for _ in 0..steps {
            script.server("+ UGFzc3dvcmQ6\r\n").client("cGFzcw==\r\n");
        }
        script.client("STAT\r\n").server("+OK in\r\n");
        assert!(script.server_got().ends_with("STAT\r\n"), "not before AUTH is over");
        assert_eq!(script.seen.events, [Event::Authenticated]);
        script.server("+OK 1 2\r\n").assert_open();
    }
    // Cancelled behind an initial response; then another mechanism.
    let mut script = Script::connected();
    script.server("+OK\r\n").client("AUTH XOAUTH2 dXNlcg==\r\n").server("+ e30=\r\n");
    script.client("*\r\nAUTH PLAIN\r\n").server("-ERR cancelled\r\n").server("+\r\n");
    script.client("AGEAYg==\r\n").server("+OK\r\n");
    assert_eq!(script.server_got(), "AUTH XOAUTH2 dXNlcg==\r\n*\r\nAUTH PLAIN\r\nAGEAYg==\r\n");
    assert_eq!(script.seen.events, [Event::Authenticated]);
    script.assert_open();
}

#[test]
fn what_follows_auth_waits_until_it_is_clear_what_it_is() {
    let mut script = Script::connected();
    script.server("+OK\r\n").client("AUTH CRAM-MD5\r\nLIST\r\nNOOP\r\n");
    assert_eq!(script.server_got(), "AUTH CRAM-MD5\r\n");
    script.server("+ PDE+\r\n");
    assert_eq!(script.server_got(), "LIST\r\n", "the response, whatever it reads like");
    script.server("-ERR no\r\n");
    assert_eq!(script.server_got(), "NOOP\r\n");
    script.server("+OK\r\n");
    script.assert_open();
}

#[test]
fn long_sasl_lines_pass_up_to_the_limit() {
    let blob = "A".repeat(COMMAND_LINE_BYTES_MAX);
    let mut script = Script::connected();
    script.server("+OK\r\n").client("AUTH GSSAPI\r\n");
    script.server(format!("+ {blob}\r\n")).client(format!("{blob}\r\n")).server("+OK\r\n");
    assert_eq!(script.server_got(), format!("AUTH GSSAPI\r\n{blob}\r\n"));
    assert_eq!(script.client_got(), format!("+OK\r\n+ {blob}\r\n+OK\r\n"));
    script.assert_open();

    let mut script = Script::connected();
    script.server("+OK\r\n").client("AUTH GSSAPI\r\n").server("+\r\n").client(blob + "A\r\n");
    script.assert_closed_for(Side::Client, Violation::LineTooLong);
    assert_eq!(script.server_got(), "AUTH GSSAPI\r\n");
}

#[test]
fn a_challenge_to_anything_but_auth_ends_the_session() {
    let mut script = Script::new();
    script.client("STAT\r\n").server("+ \r\n");
    script.assert_closed_for(Side::Server, Violation::UnexpectedReply);
}

#[test]
fn no_secret_shows_in_debug_output() {
    let mut script = Script::connected();
    script.client("PASS hunter2");
    assert!(!format!("{:?}", script.session).contains("hunter2"));
}

#[test]
fn tls_begins_and_the_session_is_opaque() {
    let mut script = Script::connected();
    script.server("+OK\r\n").client("STLS\r\n").server("+OK begin\r\n");
    assert!(!script.session.is_opaque(), "not before TLS really begins");
    script.client(b"\x16\x03\x01hello").server(b"\x16\x03\x03RETR 1\r\n");
    assert!(script.session.is_opaque());
    assert_eq!(script.seen.events, [Event::Opaque(OpaqueReason::Tls)]);
    assert_eq!(script.seen.wires.to_server, b"STLS\r\n\x16\x03\x01hello");
    assert_eq!(script.seen.wires.to_client, b"+OK\r\n+OK begin\r\n\x16\x03\x03RETR 1\r\n");
    script.end(Side::Client, End::Fin);
    assert_eq!(
        (script.seen.wires.client_end, script.seen.wires.server_end),
        (None, Some(End::Fin))
    );
    assert_eq!(script.session.poll_timeout(), None);
}

#[test]
fn refused_stls_changes_nothing() {
    let mut script = Script::connected();
    script.server("+OK\r\n").client("STLS\r\n").server("-ERR no TLS\r\n").client("USER u\r\n");
    assert_eq!(script.server_got(), "STLS\r\nUSER u\r\n");
    script.assert_open();
}

#[test]
fn bytes_behind_stls_close_the_session() {
    let mut script = Script::connected();
    script.server("+OK\r\n").client("STLS\r\nUSER x\r\nPASS y\r\n");
    script.assert_closed_for(Side::Client, Violation::InjectionBehindStartTls);
    assert_eq!(script.server_got(), "STLS\r\n");

    // The same when they come only after the server has agreed.
    let mut script = Script::connected();
    script.server("+OK\r\n").client("STLS\r\n").server("+OK begin\r\n").client("USER x\r\n");
    script.assert_closed_for(Side::Client, Violation::InjectionBehindStartTls);

    for split in [false, true] {
        let mut script = Script::connected();
        script.server("+OK\r\n").client("STLS\r\n");
        if split {
            script.server("+OK begin\r\n").server("+OK extra\r\n");
        } else {
            script.server("+OK begin\r\n+OK extra\r\n");
        }
        script.assert_closed_for(Side::Server, Violation::InjectionBehindStartTls);
        assert_eq!(script.client_got(), "+OK\r\n+OK begin\r\n");
        assert_eq!(script.seen.wires.client_end, Some(End::Reset), "no clear text into the TLS");
    }
}

#[test]
fn fifty_pipelined_retrs_are_answered_in_order() {
    let mut script = Script::new();
    let decisions = (0..50).map(|at| Some(if at % 2 == 0 { Decision::Release } else { refuse() }));
    script.decisions.extend(decisions);
    let commands: String = (1..=50).map(|number| format!("RETR {number}\r\n")).collect();
    script.client(&commands);
    assert_eq!(script.server_got(), commands);
    let answers: Vec<u8> =
        (1..=50).flat_map(|n| answer(format!("Subject: m{n}\r\n\r\n{n}\r\n").as_bytes())).collect();
    script.server(answers);
    let numbers: Vec<_> = script.seen.messages.iter().map(|message| message.0).collect();
    assert_eq!(numbers, (1..=50).map(Some).collect::<Vec<_>>());
    let replies = script.client_got();
    let replies: Vec<&str> = replies.split_inclusive("\r\n.\r\n").collect();
    assert_eq!(replies.len(), 50);
    for (at, reply) in replies.iter().enumerate() {
        if at % 2 == 0 {
            assert_eq!(
                reply.as_bytes(),
                answer(format!("Subject: m{0}\r\n\r\n{0}\r\n", at + 1).as_bytes())
            );
        } else {
            assert_notice(reply);
            assert!(reply.contains(&format!("Subject: [Blocked] m{}\r\n", at + 1)));
        }
    }
    script.assert_open();
}

#[test]
fn a_full_queue_is_back_pressure_and_no_error() {
    let mut script = Script::new();
    script.client("NOOP\r\n".repeat(1000));
    assert_eq!(script.server_got().len(), 6 * COMMANDS_IN_FLIGHT_MAX);
    let mut answered = 0;
    while answered < 1000 {
        script.server("+OK\r\n");
        answered += 1;
        assert_eq!(script.client_got(), "+OK\r\n");
    }
    assert_eq!(script.server_got().len(), 6 * (1000 - COMMANDS_IN_FLIGHT_MAX));

    script.client("NOOP\r\n".repeat(COMMANDS_IN_FLIGHT_MAX));
    assert!(script.session.wants(Side::Client), "also to see its end");
    script.client("NOOP\r\n".repeat(CLIENT_PENDING_BYTES_MAX / 6 + 1));
    assert!(!script.session.wants(Side::Client));
    script.server("+OK\r\n".repeat(COMMANDS_IN_FLIGHT_MAX));
    assert!(script.session.wants(Side::Client));
    script.assert_open();
}

#[test]
fn odd_commands_are_refused_in_their_turn_and_not_forwarded() {
    let mut script = Script::new();
    script.client("STAT\r\nRETR 1\0\r\nNOOP\rRETR 1\r\nRETR\x0b1\r\n\r\nLIST 1\r\n");
    assert_eq!(script.server_got(), "STAT\r\nLIST 1\r\n");
    assert_eq!(script.client_got(), "", "not before the reply to STAT");
    script.server("+OK 1 2\r\n");
    let control = String::from_utf8(replies::CONTROL_BYTE.repeat(3)).unwrap();
    let empty = std::str::from_utf8(replies::EMPTY).unwrap();
    assert_eq!(script.client_got(), format!("+OK 1 2\r\n{control}{empty}"));
    script.server("+OK 1 2\r\n");
    assert_eq!(script.client_got(), "+OK 1 2\r\n");
    script.assert_open();
}

#[test]
fn a_command_over_the_limit_is_dropped_with_flat_memory() {
    let mut script = Script::new();
    script.sizes = vec![700, 1, 9000];
    script.client("RETR ".to_owned() + &"1".repeat(COMMAND_LINE_BYTES_MAX - 5) + "\r\n");
    assert_eq!(script.server_got().len(), COMMAND_LINE_BYTES_MAX + 2, "at the limit it passes");
    script.server("-ERR\r\n");
    script.client_got();
    script.client("RETR 1".to_owned() + &"x".repeat(100_000));
    assert!(script.session.client.bytes() <= COMMAND_LINE_BYTES_MAX + 2);
    script.client("\r\nNOOP\r\n").server("+OK\r\n");
    assert_eq!(script.server_got(), "NOOP\r\n");
    assert_eq!(script.client_got().as_bytes(), [replies::TOO_LONG, b"+OK\r\n"].concat());
    let what = Violation::LineTooLong;
    assert_eq!(script.seen.events, [Event::Violation { side: Side::Client, what }]);
    script.assert_open();
}

#[test]
fn a_reply_line_over_the_limit_ends_the_session() {
    let mut script = Script::new();
    script.client("STAT\r\n").server("+OK ".to_owned() + &"x".repeat(REPLY_LINE_BYTES_MAX));
    script.assert_closed_for(Side::Server, Violation::LineTooLong);
    assert_eq!(script.client_got().as_bytes(), replies::violation(Side::Server));
}

#[test]
fn bare_line_feeds_become_line_ends_for_both_peers() {
    let mut script = Script::connected();
    script.server("+OK hello\n").client("USER u\nPASS p\n").server("+OK\n+OK in\n");
    assert_eq!(script.client_got(), "+OK hello\r\n+OK\r\n+OK in\r\n");
    assert_eq!(script.server_got(), "USER u\r\nPASS p\r\n");
    let what = Violation::BareLineEnd;
    assert_eq!(
        script.seen.events,
        [
            Event::Violation { side: Side::Server, what },
            Event::Violation { side: Side::Client, what },
            Event::Authenticated
        ],
        "each is told once"
    );
}

#[test]
fn replies_that_are_none_end_the_session() {
    for reply in
        ["OK\r\n", "+ \r\n", "+KO\r\n", "Subject: x\r\n", "\r\n", "+OK a\rb\r\n", "+OK\0\r\n"]
    {
        let mut script = Script::new();
        script.client("STAT\r\n").server(reply);
        let Some(Event::Violation { side: Side::Server, .. }) = script.seen.events.last() else {
            panic!("{reply:?}: {:?}", script.seen.events);
        };
        assert_eq!(script.client_got().as_bytes(), replies::violation(Side::Server), "{reply:?}");
    }
}

#[test]
fn replies_without_a_blank_are_replies() {
    let mut script = Script::new();
    script.client("NOOP\r\nDELE 1\r\nRETR 1\r\n").server("+ok,\r\n-ERR: no\r\n");
    script.decisions.push_back(Some(refuse()));
    script.server("+OKAY\r\npayload\r\n.\r\n");
    assert_notice(script.client_got().strip_prefix("+ok,\r\n-ERR: no\r\n").unwrap());
    script.assert_open();
}

#[test]
fn a_message_that_nobody_asked_for_does_not_pass() {
    let mut script = Script::new();
    script.server(answer(b"Subject: x\r\n\r\npayload\r\n"));
    script.assert_closed_for(Side::Server, Violation::UnexpectedReply);
    assert!(!script.client_got().contains("Subject"));
}

#[test]
fn a_server_may_announce_its_logout_once() {
    let mut script = Script::new();
    script.server("-ERR autologout\r\n");
    assert_eq!(script.client_got(), "-ERR autologout\r\n");
    script.assert_open();
    script.server("-ERR once more\r\n");
    script.assert_closed_for(Side::Server, Violation::UnexpectedReply);
}

#[test]
fn an_odd_end_in_a_list_ends_the_session() {
    let mut script = Script::new();
    script.client("UIDL\r\n").server("+OK\r\n1 a\r\n.\n+OK\r\n");
    script.assert_closed_for(Side::Server, Violation::BareLineEnd);
    assert_eq!(script.client_got(), "+OK\r\n1 a\r\n.", "cut before a client sees an end");
    assert_eq!(script.seen.wires.client_end, Some(End::Reset));
}
