//! What is held, where it is, and what becomes of it when there is no room.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn replacing(message_hold_bytes_max: u64) -> Script {
    Script::set(Settings {
        message_hold_bytes_max,
        on_hold_failure: OnHoldFailure::Replace,
        ..Settings::default()
    })
}

#[test]
fn the_driver_keeps_the_message_and_the_session_does_not() {
    // The worst case: nothing but lines of dots, of which every one is two pieces.
    const CHUNK_BYTES: usize = 16 * 1024;
    const MAIL_BYTES: usize = 25 * 1024 * 1024;
    for line in ["..\r\n", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n"] {
        let chunk = Bytes::from(line.repeat(CHUNK_BYTES / line.len()));
        let mut script = Script::new();
        script.client("RETR 1\r\n").server("+OK\r\nSubject: large\r\n\r\n");
        let (mut received, mut held) = (0, 0);
        while received < MAIL_BYTES {
            received += chunk.len();
            script.session.receive(Side::Server, chunk.clone(), script.now);
            assert!(script.session.outputs.len() <= 8, "{}", script.session.outputs.len());
            let mut waiting = 0;
            while let Some(output) = script.session.poll_output() {
                match output {
                    Output::Hold(bytes) => {
                        held += bytes.len();
                        waiting += bytes.len();
                    }
                    Output::MessageData(bytes) => waiting += bytes.len(),
                    other => panic!("{other:?}"),
                }
            }
            assert!(waiting <= 2 * chunk.len() + 8);
            assert!(script.session.server.bytes() == 0, "all of it is handed on");
        }
        // What may begin the end is still to come.
        assert!(received - held <= 4, "{received} received, {held} held");
    }
}

#[test]
fn a_list_of_tiny_lines_costs_few_outputs() {
    let mut script = Script::new();
    script.client("UIDL\r\n").server("+OK\r\n");
    let list = Bytes::from("..\r\n".repeat(4096));
    script.session.receive(Side::Server, list, script.now);
    assert!(script.session.outputs.len() <= 4, "{}", script.session.outputs.len());
    script.drain();
    script.server(".\r\n");
    assert_eq!(script.client_got(), format!("+OK\r\n{}.\r\n", "..\r\n".repeat(4096)));
}

#[test]
fn without_room_a_message_passes_as_it_comes_and_is_counted() {
    let raw = answer(b"Subject: x\r\n\r\nbody\r\n..\r\nmore\r\n");
    for at in 22..raw.len() {
        for seconds in [0, 40] {
            let mut script = Script::new().deciding([None]);
            script.client("RETR 1\r\nNOOP\r\n").server(&raw[..at]).wait(seconds * SECOND);
            script.hold_failed().server(&raw[at..]).server("+OK noop\r\n");
            assert_eq!(script.client_got().as_bytes(), [&*raw, b"+OK noop\r\n"].concat());
            assert_eq!(script.seen.events, [Event::HoldLimit], "once");
            assert_eq!(script.seen.messages[0].2, None, "nobody reports it clean");
            script.assert_open();
        }
    }
}

#[test]
fn without_room_at_the_verdict_the_message_passes() {
    let raw = answer(b"Subject: x\r\n\r\nbody\r\n");
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\nNOOP\r\n").server(&raw).server("+OK noop\r\n").hold_failed();
    assert_eq!(script.client_got().as_bytes(), [&*raw, b"+OK noop\r\n"].concat());
    script.decide(refuse());
    assert_eq!(script.client_got(), "", "a late verdict is ignored");
    assert_eq!(script.seen.messages[0].2, None);
    script.assert_open();
}

#[test]
fn without_room_a_notice_takes_the_place_where_that_is_set() {
    let raw = answer(b"From: a@b\r\nX-Long: 12345\r\nTo: c@d\r\n\r\npayload\r\n..\r\nmore\r\n");
    for at in 22..=raw.len() {
        for (before, behind) in [(0, 0), (30, 0), (0, 30), (30, 60)] {
            let mut script = replacing(MESSAGE_HOLD_BYTES_DEFAULT).deciding([None]);
            script.client("RETR 1\r\nNOOP\r\n").server(&raw[..at]).wait(before * SECOND);
            script.hold_failed();
            assert_eq!(script.seen.wires.held, b"", "its room is free at once");
            script.wait(behind * SECOND).hold_failed();
            script.server(&raw[at..]).server("+OK noop\r\n");
            let got = std::mem::take(&mut script.seen.wires.to_client);
            assert_well_formed_notice(got.strip_suffix(b"+OK noop\r\n").unwrap());
            assert!(!holds(&got, b"payload") && holds(&got, b"X-AVR-Notice: unscanned"));
            assert!(holds(&got, b"no room to hold the message"));
            assert_eq!(script.seen.events, [Event::HoldLimit], "once");
            assert_eq!(script.seen.messages[0].2, None, "nobody reports it clean");
            script.assert_open();
        }
    }
}

#[test]
fn the_limit_has_the_same_choice() {
    let raw = answer(format!("Subject: x\r\n\r\npayload {}\r\n", "z".repeat(500)).as_bytes());
    let mut script = replacing(100);
    script.client("RETR 1\r\n").server(&raw);
    assert_notice(&script.client_got());
    assert_eq!(script.seen.events, [Event::HoldLimit]);
    let mut script = replacing(raw.len() as u64);
    script.client("RETR 1\r\n").server(&raw);
    assert_eq!(script.client_got().as_bytes(), raw, "at the limit it is scanned");
    assert_eq!(script.seen.events, []);
}

#[test]
fn a_message_without_room_may_end_oddly_too() {
    let mut script = replacing(30);
    script.client("RETR 1\r\n").server("+OK\r\nSubject: x\r\n\r\nxxxxxxxxxxxxxxxxxxxx\n.\n");
    script.wait(ODD_END_TIMEOUT);
    assert_well_formed_notice(&script.seen.wires.to_client);
    assert_eq!(script.seen.events, [Event::HoldLimit]);
}

#[test]
fn a_malformed_message_needs_no_room() {
    for at_end in [false, true] {
        let mut script = Script::new().deciding([None]);
        script.client("RETR 1\r\n").server("+OK\r\nFrom: a@b\r\nTo: c@d\r\n\r\nx\n.\npayload\r\n");
        if at_end {
            script.server(".\r\n").hold_failed();
        } else {
            script.hold_failed().server(".\r\n");
        }
        assert_eq!(script.seen.wires.held, b"");
        script.wait(30 * SECOND);
        assert_eq!(script.seen.wires.to_client, b"+OK\r\nFrom: a@b\r\n", "from what is here");
        script.decide(Decision::Release);
        assert_well_formed_notice(&script.seen.wires.to_client);
        assert!(script.client_got().contains("name=Malformed.LineEnd"));
    }
}

#[test]
fn without_a_message_nothing_has_failed() {
    let mut script = Script::new();
    script.hold_failed().client("LIST\r\n").server("+OK\r\n1 5\r\n").hold_failed().server(".\r\n");
    assert_eq!(script.client_got(), "+OK\r\n1 5\r\n.\r\n");
    assert_eq!(script.seen.events, []);
    script.assert_open();
}

#[test]
fn what_a_server_says_of_a_replaced_message_stays_as_it_was() {
    let mut script = Script::new().deciding([Some(refuse()), Some(refuse())]);
    let evil = answer(b"Subject: evil\r\n\r\npayload\r\n");
    for (command, reply) in [
        ("STAT\r\n", "+OK 1 42\r\n"),
        ("LIST\r\n", "+OK\r\n1 42\r\n.\r\n"),
        ("LIST 1\r\n", "+OK 1 42\r\n"),
        ("UIDL\r\n", "+OK\r\n1 xyz\r\n.\r\n"),
        ("UIDL 1\r\n", "+OK 1 xyz\r\n"),
    ] {
        script.client(command).server(reply);
        assert_eq!(script.client_got(), reply);
    }
    script.client("RETR 1\r\n").server(&evil);
    let first = script.client_got();
    assert_notice(&first);
    script.client("LIST 1\r\n").server("+OK 1 42\r\n");
    assert_eq!(script.client_got(), "+OK 1 42\r\n");
    script.client("RETR 1\r\n").server(&evil);
    assert_eq!(script.client_got(), first, "the same again");
}
