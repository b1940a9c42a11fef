//! What is said of each message in the end.

use super::*;
use crate::{Done, SettledBy};

const DECISION: SettledBy = SettledBy::Decision;
const CLIENT: SettledBy = SettledBy::Peer(Side::Client);
const SERVER: SettledBy = SettledBy::Peer(Side::Server);

fn holding() -> Settings {
    Settings { hold: true, ..Settings::default() }
}

/// What is said of the messages of a script, however it is cut.
fn settled(settings: &Settings, script: &[&[Step]]) -> Vec<(Done, SettledBy, Option<u16>)> {
    let script = [&[GREETED, EHLO], script].concat().concat();
    let play = |size: Option<usize>| {
        let mut sizes = size.into_iter().cycle();
        let lab = Lab::with(settings.clone()).played(&script, &mut sizes);
        lab.settled.iter().map(|one| (one.done, one.by, one.answer)).collect::<Vec<_>>()
    };
    let whole = play(None);
    assert_eq!(whole, play(Some(1)));
    whole
}

fn one(settings: &Settings, script: &[&[Step]]) -> (Done, SettledBy, Option<u16>) {
    let all = settled(settings, script);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

const OPEN: &[Step] = &[
    C("MAIL FROM:<a@a.example>\r\n"),
    S("250 ok\r\n"),
    C("RCPT TO:<b@b.example>\r\n"),
    S("250 ok\r\n"),
    C("DATA\r\n"),
    S("354 go\r\n"),
];
const MAIL: &[Step] = &[C("Subject: x\r\n\r\nhello\r\n.\r\n")];
const CHUNKED: &[Step] = &[C("MAIL FROM:<a@a.example>\r\n"), S("250 ok\r\n")];
const RCPT_TO: &[Step] = &[C("RCPT TO:<b@b.example>\r\n"), S("250 ok\r\n")];

#[test]
fn what_went_on_is_told_with_the_servers_answer() {
    let release: &[Step] = &[Verdict(Decision::Release)];
    let streaming = Settings::default();
    for (answer, code) in [("250 queued\r\n", 250), ("554 5.7.1 no\r\n", 554), ("421 x\r\n", 421)] {
        let answered: &[Step] = &[S(answer)];
        let passed = (Done::Passed, DECISION, Some(code));
        assert_eq!(one(&streaming, &[OPEN, MAIL, release, answered]), passed);
        assert_eq!(one(&holding(), &[OPEN, MAIL, release, answered]), passed);
        let chunk: &[Step] = &[C("BDAT 5 LAST\r\nhello")];
        assert_eq!(one(&streaming, &[CHUNKED, RCPT_TO, chunk, release, answered]), passed);
    }
    for (verdict, done) in [
        (Decision::Replace(finding("X")), Done::Replaced),
        (Decision::Edit(finding("X")), Done::Edited),
    ] {
        let script: &[&[Step]] = &[OPEN, MAIL, &[Verdict(verdict)], &[S("250 queued\r\n")]];
        assert_eq!(one(&holding(), script), (done, DECISION, Some(250)));
    }
    // The server goes before it has answered, whatever the client has asked for meanwhile.
    for end in [End::Fin, End::Reset] {
        let ended: &[Step] = &[C("RSET\r\n"), SEnd(end)];
        let passed = (Done::Passed, DECISION, None);
        assert_eq!(one(&streaming, &[OPEN, MAIL, release, ended]), passed);
    }
}

#[test]
fn what_could_not_be_done_any_more_is_not_said_to_be_done() {
    let refused = (Done::Refused, DECISION, None);
    for verdict in [Decision::Replace(finding("X")), Decision::Edit(finding("X"))] {
        let verdict: &[Step] = &[Verdict(verdict)];
        assert_eq!(one(&Settings::default(), &[OPEN, MAIL, verdict]), refused);
        let chunks: &[Step] = &[C("BDAT 1\r\na"), S("250 ok\r\n"), C("BDAT 1 LAST\r\nb")];
        assert_eq!(one(&holding(), &[CHUNKED, RCPT_TO, chunks, verdict]), refused);
        // The reply to a chunk before is still to come when the verdict is there.
        let chunks: &[Step] = &[C("BDAT 1\r\naBDAT 1 LAST\r\nb")];
        let failed: &[Step] = &[S("452 full\r\n")];
        let cut_off = (Done::CutOff, SERVER, None);
        assert_eq!(one(&holding(), &[CHUNKED, RCPT_TO, chunks, verdict, failed]), cut_off);
        let gone: &[Step] = &[SEnd(End::Fin)];
        assert_eq!(one(&holding(), &[CHUNKED, RCPT_TO, chunks, verdict, gone]), cut_off);
    }
}

#[test]
fn what_was_refused_or_deferred_is_told_with_its_reason() {
    let settings = Settings::default();
    let refused = one(&settings, &[OPEN, MAIL, &[refuse("X")]]);
    assert_eq!(refused, (Done::Refused, DECISION, None));
    let later: &[Step] = &[Verdict(Decision::Tempfail { reason: "later".to_owned() })];
    assert_eq!(one(&settings, &[OPEN, MAIL, later]), (Done::Deferred, DECISION, None));
    let late: &[Step] = &[After(300)];
    let deferred = (Done::Deferred, SettledBy::NoVerdict, None);
    assert_eq!(one(&settings, &[OPEN, MAIL, late]), deferred);
    let trick: &[Step] = &[C("Subject: x\r\n\r\nhello\n.\nQUIT\r\n.\r\n")];
    let refused = (Done::Refused, SettledBy::LineEnds, None);
    assert_eq!(one(&settings, &[OPEN, trick]), refused);
}

#[test]
fn who_cut_a_message_off_is_told() {
    let settings = Settings::default();
    let half: &[Step] = &[C("Subject: x\r\n\r\nhalf")];
    for (end, by) in [
        (CEnd(End::Fin), CLIENT),
        (CEnd(End::Reset), CLIENT),
        (After(3_600), CLIENT),
        (SEnd(End::Fin), SERVER),
        (SEnd(End::Reset), SERVER),
        (S("421 shutting down\r\n"), SERVER),
        (S("552 too large\r\n"), SERVER),
        (S("250 queued\r\n"), SERVER),
        (S("rubbish\r\n"), SERVER),
    ] {
        let ended = std::slice::from_ref(&end);
        assert_eq!(one(&settings, &[OPEN, half, ended]), (Done::CutOff, by, None), "{end:?}");
        assert_eq!(one(&holding(), &[OPEN, half, ended]), (Done::CutOff, by, None), "{end:?}");
    }
    // Complete, and its verdict awaited.
    for (end, by) in [(CEnd(End::Reset), CLIENT), (SEnd(End::Fin), SERVER)] {
        let ended = std::slice::from_ref(&end);
        assert_eq!(one(&settings, &[OPEN, MAIL, ended]), (Done::CutOff, by, None), "{end:?}");
    }
    // Between chunks.
    let chunk: &[Step] = &[C("BDAT 1\r\na"), S("250 ok\r\n")];
    for (end, by) in [
        (C("RSET\r\n"), CLIENT),
        (C("BDAT x\r\n"), CLIENT),
        (CEnd(End::Fin), CLIENT),
        (SEnd(End::Fin), SERVER),
    ] {
        let ended = std::slice::from_ref(&end);
        let cut_off = (Done::CutOff, by, None);
        assert_eq!(one(&settings, &[CHUNKED, RCPT_TO, chunk, ended]), cut_off, "{end:?}");
    }
}

#[test]
fn where_nothing_was_accepted_there_is_no_mail_to_speak_of() {
    let settings = Settings::default();
    let refused: &[Step] = &[
        C("MAIL FROM:<a@a.example>\r\n"),
        S("250 ok\r\n"),
        C("RCPT TO:<b@b.example>\r\n"),
        S("550 no\r\n"),
        C("DATA\r\n"),
        S("503 no\r\n"),
        CEnd(End::Fin),
    ];
    assert_eq!(settled(&settings, &[refused]), []);
    let waiting: &[Step] = &[
        C("MAIL FROM:<a@a.example>\r\n"),
        S("250 ok\r\n"),
        C("RCPT TO:<b@b.example>\r\n"),
        S("250 ok\r\n"),
        C("DATA\r\n"),
        CEnd(End::Reset),
    ];
    assert_eq!(settled(&settings, &[waiting]), []);
}
