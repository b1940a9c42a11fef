//! How sessions end: closes, resets, waits.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_server_that_goes_in_mid_message_leaves_nothing() {
    for end in [End::Fin, End::Reset] {
        let mut script = Script::new();
        script
            .client("RETR 1\r\n")
            .server("+OK\r\nSubject: x\r\n\r\npayload\r\n")
            .end(Side::Server, end);
        assert_eq!(script.client_got(), "", "neither payload nor an end of our own");
        assert_eq!(script.seen.wires.client_end, Some(end));
        assert_eq!(script.seen.messages[0].2, None);
        script.decide(Decision::Release);
        assert_eq!(script.client_got(), "");
    }
}

#[test]
fn a_server_that_goes_while_the_verdict_is_pending_is_forgotten_last() {
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\n").server("+OK\r\nx\r\n.\r\n").end(Side::Server, End::Fin);
    assert_eq!(script.seen.wires.client_end, None);
    script.decide(Decision::Release);
    assert_eq!(script.client_got(), "+OK\r\nx\r\n.\r\n");
    assert_eq!(
        (script.seen.wires.client_end, script.seen.wires.server_end),
        (Some(End::Fin), None)
    );
    script.end(Side::Client, End::Fin);
    assert_eq!(script.seen.wires.server_end, Some(End::Fin));
    assert_eq!(script.session.poll_timeout(), None);
}

#[test]
fn a_client_that_resets_ends_all() {
    for pending in [false, true] {
        let mut script = Script::new().deciding([None]);
        script.client("RETR 1\r\n").server("+OK\r\nx\r\n");
        if pending {
            script.server(".\r\n");
        }
        script.end(Side::Client, End::Reset);
        assert_eq!(script.seen.messages[0].2, None);
        assert_eq!(script.seen.wires.server_end, Some(End::Reset));
        script.decide(Decision::Release);
        assert_eq!(script.client_got(), "");
    }
}

#[test]
fn a_client_that_half_closes_still_gets_its_answers() {
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\nQUIT\r\nRETR 2").end(Side::Client, End::Fin);
    assert_eq!(script.server_got(), "RETR 1\r\nQUIT\r\n", "half a command is none");
    assert_eq!(script.seen.wires.server_end, Some(End::Fin));
    script.server("+OK\r\nx\r\n.\r\n+OK bye\r\n").end(Side::Server, End::Fin);
    script.decide(refuse());
    let replies = script.client_got();
    assert_notice(replies.strip_suffix("+OK bye\r\n").unwrap());
    assert_eq!(script.seen.wires.client_end, Some(End::Fin));
}

#[test]
fn a_client_end_waits_behind_what_waits() {
    let mut script = Script::connected();
    script.server("+OK\r\n").client("AUTH PLAIN\r\nblob\r\n").end(Side::Client, End::Fin);
    assert_eq!(script.seen.wires.server_end, None);
    script.server("+\r\n");
    assert_eq!(script.server_got(), "AUTH PLAIN\r\nblob\r\n");
    assert_eq!(script.seen.wires.server_end, Some(End::Fin));
}

#[test]
fn quit_is_relayed_and_so_is_each_end() {
    let mut script = Script::new();
    script.client("QUIT\r\n").server("+OK bye\r\n").end(Side::Server, End::Fin);
    assert_eq!(script.client_got(), "+OK bye\r\n");
    assert_eq!(
        (script.seen.wires.client_end, script.seen.wires.server_end),
        (Some(End::Fin), None)
    );
    script.end(Side::Client, End::Fin);
    assert_eq!(script.seen.wires.server_end, Some(End::Fin));

    let mut script = Script::new();
    script.client("QUIT\r\n").end(Side::Server, End::Reset);
    assert_eq!(script.seen.wires.client_end, Some(End::Reset));

    // What there is of a last reply is passed on.
    let mut script = Script::new();
    script.client("QUIT\r\n").server("+OK by").end(Side::Server, End::Fin);
    assert_eq!(script.client_got(), "+OK by");
}

#[test]
fn an_idle_client_is_logged_out_without_a_word() {
    assert!(IDLE_TIMEOUT >= 600 * SECOND, "RFC 1939 section 3");
    let mut script = Script::new();
    script.wait(IDLE_TIMEOUT - SECOND).client("NOOP\r\n").server("+OK\r\n");
    script.client_got();
    script.wait(IDLE_TIMEOUT - SECOND);
    script.assert_open();
    script.wait(SECOND);
    assert_eq!(script.client_got(), "");
    assert_eq!(
        (script.seen.wires.client_end, script.seen.wires.server_end),
        (Some(End::Fin), Some(End::Reset))
    );
    assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Client }]);
    assert_eq!(script.session.poll_timeout(), None);
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let mut script = Script::new();
    script.wait(IDLE_TIMEOUT - SECOND).client("STAT\r\n").wait(ANSWER_TIMEOUT - SECOND);
    script.assert_open();
    script.wait(SECOND);
    assert_eq!(script.client_got().as_bytes(), replies::SERVER_TIMED_OUT);
    assert_eq!(script.seen.wires.client_end, Some(End::Fin));
    assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Server }]);

    // Also before its greeting.
    let mut script = Script::connected();
    script.wait(ANSWER_TIMEOUT);
    assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Server }]);
}

#[test]
fn a_wait_for_the_server_starts_when_its_turn_does() {
    // Not while we kept it waiting for a verdict.
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\nNOOP\r\n").server("+OK\r\n.\r\n").wait(VERDICT_TIMEOUT - SECOND);
    script.decide(Decision::Release).wait(ANSWER_TIMEOUT - SECOND);
    script.assert_open();
    script.wait(SECOND);
    assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Server }]);

    // Nor while a person looked for a password.
    let mut script = Script::connected();
    script.server("+OK\r\n").client("AUTH LOGIN\r\n").server("+ \r\n").wait(ANSWER_TIMEOUT * 2);
    script.client("dXNlcg==\r\n").wait(ANSWER_TIMEOUT - SECOND);
    script.assert_open();
    script.wait(SECOND);
    assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Server }]);
}

#[test]
fn a_message_that_stalls_or_trickles_for_ever_is_given_up() {
    let mut script = Script::new();
    script.client("RETR 1\r\n").server("+OK\r\nSubject: x\r\n").wait(ANSWER_TIMEOUT);
    assert_eq!(script.seen.messages[0].2, None);
    // The keep-alive has begun the answer: an error has no place in it.
    assert_eq!(script.client_got(), "+OK\r\n");
    assert_eq!(script.seen.wires.client_end, Some(End::Reset));
    assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Server }]);

    for command in ["RETR 1\r\n", "LIST\r\n"] {
        let mut script = Script::new();
        script.client(command).server("+OK\r\n");
        let started = script.now;
        while script.seen.wires.client_end.is_none() {
            script.server("line\r\n").wait(300 * SECOND);
            assert!(script.now <= started + MULTI_LINE_TIMEOUT + 300 * SECOND);
        }
        assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Server }]);
    }
}

#[test]
fn a_slow_but_living_message_arrives() {
    let mut script = Script::new();
    script.client("RETR 1\r\n").server("+OK\r\n");
    for _ in 0..30 {
        script.server("line\r\n").wait(20 * SECOND);
    }
    script.server(".\r\n");
    assert_eq!(script.client_got(), "+OK\r\n".to_owned() + &"line\r\n".repeat(30) + ".\r\n");
}

#[test]
fn lines_byte_by_byte_have_a_total_limit() {
    let mut script = Script::new();
    for _ in 0..LINE_TIMEOUT.as_secs() / 10 {
        script.assert_open();
        script.client("N").wait(10 * SECOND);
    }
    assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Client }]);

    let mut script = Script::new();
    script.client("STAT\r\n").server("+");
    for _ in 0..LINE_TIMEOUT.as_secs() / 10 {
        script.assert_open();
        script.wait(10 * SECOND).server("O");
    }
    assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Server }]);
}

#[test]
fn a_verdict_that_never_comes_makes_a_notice() {
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\nNOOP\r\n").server("+OK\r\nx\r\n.\r\n+OK\r\n").wait(VERDICT_TIMEOUT);
    let replies = script.client_got();
    assert_notice(replies.strip_suffix("+OK\r\n").unwrap());
    assert_eq!(script.seen.messages[0].2, None, "the scan is dropped");
    script.decide(Decision::Release);
    assert_eq!(script.client_got(), "");
    script.assert_open();
}

#[test]
fn a_client_that_stays_after_the_server_left_is_closed() {
    let mut script = Script::new();
    script.client("QUIT\r\n").server("+OK\r\n").end(Side::Server, End::Fin);
    script.wait(HALF_CLOSED_TIMEOUT);
    assert_eq!(script.seen.wires.server_end, Some(End::Reset));
    assert_eq!(script.session.poll_timeout(), None);
}

#[test]
fn calling_early_changes_nothing() {
    let mut script = Script::new();
    script.client("STAT\r\n");
    script.session.handle_timeout(script.now);
    script.drain();
    script.assert_open();
    assert_eq!(script.seen.events, []);
}

#[test]
fn nothing_is_said_to_a_client_behind_its_end() {
    let mut script = Script::new();
    script.client("QUIT\r\n").server("+OK\r\n").end(Side::Server, End::Fin);
    script.client_got();
    script.client("NOOP\0\r\n\r\n").client("STLS\r\nx");
    assert_eq!(script.client_got(), "");
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Pop3Session>() < 4096, "{}", size_of::<Pop3Session>());
}
