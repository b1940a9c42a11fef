//! What is said of each message in the end.

use super::*;

const MAIL: &[u8] = b"Received: by x\r\nSubject: hi\r\n\r\nhello\r\n";
const DECISION: SettledBy = SettledBy::Decision;

fn edit() -> Decision {
    Decision::Edit(Finding { name: "X".to_owned(), ..Finding::default() })
}

/// What is said of the one message that there was.
fn one(script: &Script) -> (Done, SettledBy) {
    let settled = &script.seen.settled;
    assert_eq!((settled.len(), script.seen.messages.len()), (1, 1), "{settled:?}");
    assert_eq!(settled[0].answer, None);
    (settled[0].done, settled[0].by)
}

#[test]
fn each_decision_is_told_as_it_was_carried_out() {
    let later = Decision::Tempfail { reason: "later".to_owned() };
    for (decision, done) in [
        (Decision::Release, Done::Passed),
        (refuse(), Done::Replaced),
        (edit(), Done::Edited),
        (later, Done::Deferred),
    ] {
        let mut script = Script::new().deciding([Some(decision)]);
        script.client("RETR 1\r\n").server(answer(MAIL));
        assert_eq!(one(&script), (done, DECISION));
    }
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\n").server(answer(MAIL)).wait(VERDICT_TIMEOUT);
    assert_eq!(one(&script), (Done::Deferred, SettledBy::NoVerdict));
}

#[test]
fn behind_a_header_that_has_left_nothing_is_edited() {
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\n").server(answer(MAIL));
    script.wait(KEEP_ALIVE_FIRST_DEFAULT + KEEP_ALIVE_INTERVAL_DEFAULT).decide(edit());
    assert_notice(&script.client_got());
    assert_eq!(one(&script), (Done::Replaced, DECISION));
}

#[test]
fn odd_line_ends_are_what_a_notice_is_for() {
    for decision in [Decision::Release, Decision::Tempfail { reason: "later".to_owned() }] {
        let mut script = Script::new().deciding([Some(decision)]);
        script.client("RETR 1\r\n").server("+OK\r\nSubject: x\r\n\r\na\n.\nb\r\n.\r\n");
        assert_eq!(one(&script), (Done::Replaced, SettledBy::LineEnds));
    }
}

#[test]
fn what_could_not_be_held_is_told_to_have_passed_or_to_be_asked_for_again() {
    for (on_hold_failure, done) in
        [(OnHoldFailure::Pass, Done::Passed), (OnHoldFailure::Replace, Done::Deferred)]
    {
        let mut script = Script::set(Settings {
            on_hold_failure,
            message_hold_bytes_max: 20,
            ..Settings::default()
        });
        script.client("RETR 1\r\n").server(answer(MAIL));
        assert_eq!(one(&script), (done, SettledBy::NoRoom));
        let mut script = Script::set(Settings { on_hold_failure, ..Settings::default() });
        script.client("RETR 1\r\n").server("+OK\r\nSubject: x\r\n").hold_failed();
        script.server("\r\nhi\r\n.\r\n");
        assert_eq!(one(&script), (done, SettledBy::NoRoom));
    }
}

/// Ends a session in some way.
type Ending = fn(&mut Script) -> &mut Script;

const ENDINGS: [(Ending, Side); 4] = [
    (|script| script.end(Side::Client, End::Reset), Side::Client),
    (|script| script.end(Side::Server, End::Fin), Side::Server),
    (|script| script.end(Side::Server, End::Reset), Side::Server),
    (|script| script.wait(ANSWER_TIMEOUT), Side::Server),
];

#[test]
fn who_cut_a_mail_off_is_told() {
    for (end, side) in ENDINGS {
        for command in ["RETR 1\r\n", "TOP 1 0\r\n"] {
            let mut script = Script::new();
            script.client(command).server("+OK\r\nSubject: x\r\n\r\nhalf");
            end(&mut script);
            assert_eq!(one(&script), (Done::CutOff, SettledBy::Peer(side)));
        }
        // There was no room for it, and its notice did not go out.
        let mut script = Script::set(Settings {
            on_hold_failure: OnHoldFailure::Replace,
            ..Settings::default()
        });
        script.client("RETR 1\r\n").server("+OK\r\nSubject: x\r\n").hold_failed();
        end(&mut script);
        assert_eq!(one(&script), (Done::CutOff, SettledBy::Peer(side)));
    }
}

#[test]
fn what_may_have_been_no_mail_is_not_said_to_be_one_cut_off() {
    for (end, _) in ENDINGS {
        // No answer yet; one to an unknown command; a list.
        for (command, reply) in
            [("RETR 1\r\n", ""), ("XMAIL 1\r\n", "+OK\r\nperhaps a mail"), ("LIST\r\n", "+OK\r\n1")]
        {
            let mut script = Script::new();
            script.client(command).server(reply);
            end(&mut script);
            assert_eq!(script.seen.settled, [], "{command}");
        }
    }
    // One that ends was scanned as one, and is told.
    let mut script = Script::new();
    script.client("XMAIL 1\r\n").server(answer(MAIL));
    assert_eq!(one(&script), (Done::Passed, DECISION));
}
