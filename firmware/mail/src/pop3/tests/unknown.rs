//! Commands that no RFC describes.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const EVIL_MAIL: &str = "Subject: x\r\n\r\npayload\r\n";

fn opaque() -> Script {
    Script::set(Settings { unframed: Unframed::Opaque, ..Settings::default() })
}

#[test]
fn an_error_is_one_line_and_costs_no_time() {
    let mut script = Script::new();
    script.client("XFOO 1\r\nNOOP\r\n");
    assert_eq!(script.server_got(), "XFOO 1\r\n", "what is behind it waits");
    script.server("-ERR what?\r\n");
    assert_eq!(script.client_got(), "-ERR what?\r\n");
    assert_eq!(script.server_got(), "NOOP\r\n");
    script.server("+OK\r\n").assert_open();
}

#[test]
fn a_server_that_says_no_more_has_answered_in_one_line() {
    let mut script = Script::new();
    script.client("XSENDER 1\r\n").server("+OK alice@a.example\r\n");
    assert_eq!(script.client_got(), "+OK alice@a.example\r\n", "without a wait");
    script.client("STAT\r\nNOOP\r\n").wait(UNFRAMED_TIMEOUT - SECOND);
    assert_eq!(script.server_got(), "XSENDER 1\r\n");
    script.wait(SECOND);
    assert_eq!(script.server_got(), "STAT\r\nNOOP\r\n");
    script.server("+OK 1 2\r\n+OK\r\n");
    assert_eq!(script.client_got(), "+OK 1 2\r\n+OK\r\n");
    assert_eq!(script.seen.messages, []);
    script.assert_open();
}

#[test]
fn more_than_one_line_is_scanned_as_a_message() {
    for (decision, clean) in [(Decision::Release, true), (refuse(), false)] {
        let mut script = Script::new().deciding([Some(decision)]);
        script.client("LIST 1\r\nXRETR 1\r\nNOOP\r\n").server("+OK 1 2\r\n");
        assert_eq!(script.client_got(), "+OK 1 2\r\n");
        script.server(answer(EVIL_MAIL.as_bytes()));
        let content = (None, EVIL_MAIL.as_bytes().to_vec(), Some(true));
        assert_eq!(script.seen.messages, [content]);
        if clean {
            assert_eq!(script.client_got().as_bytes(), answer(EVIL_MAIL.as_bytes()));
        } else {
            let got = script.client_got();
            assert!(got.starts_with("+OK message follows\r\n"));
            assert_well_formed_notice(got.as_bytes());
            assert!(!got.contains("payload"));
        }
        assert_eq!(script.server_got(), "LIST 1\r\nXRETR 1\r\nNOOP\r\n");
        script.server("+OK\r\n").assert_open();
    }
}

#[test]
fn lists_of_unknown_commands_pass() {
    for list in ["", "1 a@b\r\n2 c@d\r\n", "..\r\n+OK not a reply\r\n-ERR neither\r\n"] {
        let raw = format!("+OK\r\n{list}.\r\n");
        let mut script = Script::new();
        script.client("XTND XLIST From\r\n").server(&raw);
        assert_eq!(script.client_got(), raw);
        script.client("NOOP\r\n").server("+OK\r\n").assert_open();
    }
    // Also of a server of bare line feeds.
    let mut script = Script::new();
    script.client("HELP\r\n").server("+OK\nUSER\n..x\n.\n");
    assert_eq!(script.client_got(), "+OK\r\nUSER\r\n..x\r\n.\r\n");
}

#[test]
fn a_message_to_an_unknown_command_is_kept_alive_and_edited_like_any_other() {
    let mut script = Script::new().deciding([None]);
    script.client("XRETR 1\r\n").server(answer(b"From: a@b\r\nTo: c@d\r\n\r\nx\r\n"));
    script.wait(10 * SECOND);
    assert_eq!(script.client_got(), "+OK message follows\r\nFrom: a@b\r\n");
    script.decide(Decision::Release);
    assert_eq!(script.client_got(), "To: c@d\r\n\r\nx\r\n.\r\n");

    let mut script = Script::new().deciding([Some(Decision::Edit(Finding::default()))]);
    script.seen.wires.edited = b"edited\r\n".to_vec();
    script.client("XRETR 1\r\n").server(answer(EVIL_MAIL.as_bytes()));
    assert_eq!(script.client_got(), "+OK message follows\r\nedited\r\n.\r\n");
}

#[test]
fn what_comes_too_late_ends_the_session_and_does_not_pass() {
    let mut script = Script::new();
    script.client("XRETR 1\r\nNOOP\r\n").server("+OK\r\n").wait(UNFRAMED_TIMEOUT);
    assert_eq!(script.server_got(), "XRETR 1\r\nNOOP\r\n");
    script.client_got();
    script.server(EVIL_MAIL);
    script.assert_closed_for(Side::Server, Violation::UnexpectedReply);
    assert_eq!(script.client_got().as_bytes(), replies::violation(Side::Server));
}

#[test]
fn as_long_as_the_client_waits_so_does_the_session() {
    for minutes in [1, 10, 29] {
        // A slow server: nothing is too late.
        let mut script = Script::new().deciding([Some(refuse())]);
        script.client("XRETR 1\r\n").server("+OK\r\n").wait(minutes * 60 * SECOND);
        script.server(EVIL_MAIL).server(".\r\n");
        assert_well_formed_notice(&script.seen.wires.to_client);
        script.assert_open();

        // Or a client that had its answer: it need not wait any more.
        let mut script = Script::new();
        script.client("XFOO\r\n").server("+OK\r\n").wait(minutes * 60 * SECOND);
        script.client("NOOP\r\n");
        assert_eq!(script.server_got(), "XFOO\r\nNOOP\r\n");
        script.server("+OK\r\n").assert_open();
    }
    // It is the client then that is idle.
    let mut script = Script::new();
    script.client("XFOO\r\n").server("+OK\r\n").wait(IDLE_TIMEOUT);
    assert_eq!(script.seen.events, [Event::TimedOut { side: Side::Client }]);
}

#[test]
fn a_server_may_leave_behind_an_unknown_command() {
    let mut script = Script::new();
    script.client("XBYE\r\n").server("+OK bye\r\n").end(Side::Server, End::Fin);
    assert_eq!(script.client_got(), "+OK bye\r\n");
    assert_eq!(script.seen.wires.client_end, Some(End::Fin));
    script.end(Side::Client, End::Fin);
    assert_eq!(script.session.poll_timeout(), None);

    let mut script = Script::new();
    script.client("XRETR 1\r\n").server("+OK\r\npayload\r\n").end(Side::Server, End::Fin);
    assert_eq!(script.client_got(), "+OK\r\n", "nothing that was not scanned");
    assert_eq!(script.seen.messages[0].2, None);
}

#[test]
fn a_message_sent_by_pop3_is_refused_or_passes_unread_and_counted() {
    let mut script = Script::new();
    script.client("STAT\r\nXTND XMIT\r\nNOOP\r\n").server("+OK 1 2\r\n+OK\r\n");
    assert_eq!(script.server_got(), "STAT\r\nNOOP\r\n");
    let forbidden = std::str::from_utf8(replies::FORBIDDEN).unwrap();
    assert_eq!(script.client_got(), format!("+OK 1 2\r\n{forbidden}+OK\r\n"));
    let what = Violation::ForbiddenCommand;
    assert_eq!(script.seen.events, [Event::Violation { side: Side::Client, what }]);
    script.assert_open();

    let mut script = opaque();
    script.client("XTND XMIT\r\nRETR 1").server("-ERR no\r\n").client("\r\n");
    assert_eq!(script.server_got(), "XTND XMIT\r\nRETR 1\r\n", "refused: nothing has changed");
    script.server("-ERR\r\n");
    script.client_got();
    script.client("XTND XMIT\r\n").client("From: a@b\r\n").client("par");
    script.server("+OK go\r\nbehind").end(Side::Client, End::Fin);
    assert_eq!(script.server_got(), "XTND XMIT\r\nFrom: a@b\r\npar");
    assert_eq!(script.client_got(), "+OK go\r\nbehind");
    assert!(script.session.is_opaque());
    assert_eq!(script.seen.events, [Event::Opaque(OpaqueReason::Unframed)]);
    assert_eq!(script.seen.wires.server_end, Some(End::Fin));
}

#[test]
fn an_end_that_waits_is_passed_on_when_the_session_goes_opaque() {
    let mut script = opaque();
    script.client("XTND XMIT\r\nmail\r\n.\r\n").end(Side::Client, End::Fin);
    assert_eq!(script.seen.wires.server_end, None);
    script.server("+OK go\r\n");
    assert_eq!(script.server_got(), "XTND XMIT\r\nmail\r\n.\r\n");
    assert_eq!(script.seen.wires.server_end, Some(End::Fin));
}

#[test]
fn a_server_that_asks_back_ends_the_session_or_passes_unread_and_counted() {
    let mut script = Script::new();
    script.client("XAUTH foo\r\n").server("+ Y2hhbGxlbmdl\r\n");
    script.assert_closed_for(Side::Server, Violation::UnexpectedReply);

    let mut script = opaque();
    script.client("XAUTH foo\r\nRETR 1\r\n").server("+ Y2hhbGxlbmdl\r\n");
    assert_eq!(script.client_got(), "+ Y2hhbGxlbmdl\r\n");
    assert_eq!(script.server_got(), "XAUTH foo\r\nRETR 1\r\n");
    assert_eq!(script.seen.events, [Event::Opaque(OpaqueReason::Unframed)]);
}

#[test]
fn xclient_is_not_let_through() {
    let mut script = Script::connected();
    script.server("+OK\r\n").client("XCLIENT ADDR=192.0.2.1\r\nUSER u\r\n");
    assert_eq!(script.server_got(), "USER u\r\n");
    assert_eq!(script.client_got().as_bytes(), [b"+OK\r\n", replies::FORBIDDEN].concat());
    script.assert_open();
}

#[test]
fn a_client_of_many_errors_is_closed() {
    let mut script = Script::new();
    let limit = usize::try_from(REFUSED_COMMANDS_MAX).unwrap();
    script.client("\r\n".repeat(limit));
    assert_eq!(script.client_got().as_bytes(), replies::EMPTY.repeat(limit));
    script.assert_open();
    script.client("\r\n".repeat(1000));
    assert_eq!(script.client_got().as_bytes(), replies::TOO_MANY_REFUSED);
    script.assert_closed_for(Side::Client, Violation::ForbiddenCommand);
}
