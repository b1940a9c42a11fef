//! RETR and TOP: hold, release, notice, limits, odd ends.

use super::*;

/// The odd ends of attacks.md P17, as they follow a line of text.
const ODD_ENDS: [&str; 14] = [
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r.\n",
    "\n.\r",
    "\r\n.\r",
    "\r\n.\r\r\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\n. \r\n",
    "\n\r.\n\r",
    "\r\r\n.\r\r\n",
];

#[test]
fn a_clean_message_leaves_exactly_as_it_came() {
    for command in ["RETR 1\r\n", "TOP 1 99999\r\n", "retr  1\r\n", "RETR\t1\r\n", " RETR 01\r\n"] {
        let mut script = Script::new();
        let raw = "+OK\r\nSubject: d\r\n\r\n..\r\n...\r\n....x\r\n..\r\nbare\rand\nends\r\n.\r\n";
        script.client(command).server(raw);
        assert_eq!(script.client_got(), raw);
        assert_eq!(
            script.seen.messages,
            [(
                Some(1),
                b"Subject: d\r\n\r\n.\r\n..\r\n...x\r\n.\r\nbare\rand\nends\r\n".to_vec(),
                Some(true)
            )]
        );
        script.assert_open();
        assert_eq!(script.seen.events, []);
    }
}

#[test]
fn octet_counts_are_ignored() {
    for status in ["+OK 3 octets", "+OK", "+OK -1 octets", "+OK 99999999999999999999 octets"] {
        let mut script = Script::new().deciding([Some(refuse())]);
        script
            .client("RETR 1\r\nNOOP\r\n")
            .server(format!("{status}\r\nSubject: x\r\n\r\ny\r\n.\r\n+OK noop\r\n"));
        let reply = script.client_got();
        assert_notice(reply.strip_suffix("+OK noop\r\n").unwrap());
    }
}

#[test]
fn nothing_of_a_message_goes_out_before_the_verdict() {
    let mut script = Script::new().deciding([None]);
    script.client("RETR 7\r\n").server("+OK\r\nSubject: x\r\n\r\nbody\r\n");
    assert!(script.session.wants(Side::Server));
    script.server(".\r\n+OK behind\r\n");
    assert_eq!(script.client_got(), "");
    assert!(!script.session.wants(Side::Server), "back-pressure while the verdict is pending");
    // Commands go on, and their replies wait.
    script.client("NOOP\r\n");
    assert_eq!(script.server_got(), "RETR 7\r\nNOOP\r\n");
    script.decide(Decision::Release);
    assert_eq!(script.client_got(), "+OK\r\nSubject: x\r\n\r\nbody\r\n.\r\n+OK behind\r\n");
    script.decide(refuse());
    assert_eq!(script.client_got(), "", "a verdict on nothing is ignored");
}

#[test]
fn a_refused_message_is_replaced_and_the_session_stays_in_step() {
    let mail = testkit::Mail::new().subject("invoice").attachment("invoice.zip", &testkit::eicar());
    let mut script =
        Script::new().deciding([Some(refuse()), Some(refuse()), Some(Decision::Release)]);
    script.client("RETR 1\r\n").server(answer(&mail.build()));
    let first = script.client_got();
    assert_notice(&first);
    assert!(first.contains("\r\nSubject: [Blocked] invoice\r\n"));
    assert!(first.contains("\r\nFrom: Alice <alice@a.example>\r\n"));
    assert!(first.contains("\r\nDate: Tue, 02 Jan 2024 03:04:05 +0000\r\n"));
    assert!(first.contains("\r\nMessage-ID: <1@a.example>\r\n"));
    assert!(first.contains("Eicar-Test-Signature") && first.contains("invoice.zip"));
    script.client("TOP 1 50\r\n").server(answer(&mail.build()));
    assert_eq!(script.client_got(), first, "the same again");
    script.client("RETR 2\r\nNOOP\r\n").server(answer(b"Subject: two\r\n\r\ny")).server("+OK\r\n");
    assert_eq!(script.client_got(), "+OK message follows\r\nSubject: two\r\n\r\ny\r\n.\r\n+OK\r\n");
    assert_eq!(script.server_got(), "RETR 1\r\nTOP 1 50\r\nRETR 2\r\nNOOP\r\n", "no DELE of ours");
    script.assert_open();
}

#[test]
fn a_message_that_could_not_be_scanned_is_replaced_too() {
    let reason = "no scanner answered".to_owned();
    let mut script = Script::new().deciding([Some(Decision::Tempfail { reason })]);
    script.client("RETR 1\r\n").server(answer(b"Subject: x\r\n\r\ny\r\n"));
    let reply = script.client_got();
    assert_notice(&reply);
    assert!(reply.contains("X-AVR-Notice: unscanned\r\n") && reply.contains("no scanner answered"));
}

#[test]
fn an_empty_message_is_one() {
    let mut script = Script::new();
    script.client("TOP 1 0\r\n").server("+OK\r\n.\r\n");
    assert_eq!(script.client_got(), "+OK\r\n.\r\n");
    assert_eq!(script.seen.messages, [(Some(1), Vec::new(), Some(true))]);
}

#[test]
fn odd_ends_never_let_the_payload_through() {
    for odd in ODD_ENDS {
        // The worst case: the scan finds nothing.
        let mut script = Script::new();
        script.client("RETR 1\r\nRETR 2\r\n").server(format!(
            "+OK\r\nSubject: one\r\n\r\nx{odd}+OK\r\nSubject: evil\r\n\r\npayload\r\n.\r\n\
             +OK\r\nSubject: two\r\n\r\ny\r\n.\r\n"
        ));
        let replies = script.client_got();
        let (first, second) = replies.split_at(replies.find("\r\n.\r\n").unwrap() + 5);
        assert_notice(first);
        assert!(first.contains("name=Malformed.LineEnd"), "{odd:?}: {first}");
        assert_eq!(second, "+OK\r\nSubject: two\r\n\r\ny\r\n.\r\n", "{odd:?}");
        assert!(!replies.contains("payload"), "{odd:?}");
        let scanned = &script.seen.messages[0].1;
        assert!(scanned.ends_with(b"payload\r\n"), "{odd:?}: what follows is scanned too");
        let what = Violation::BareLineEnd;
        assert_eq!(script.seen.events, [Event::Violation { side: Side::Server, what }], "{odd:?}");
        script.assert_open();
    }
}

#[test]
fn a_finding_of_the_scan_names_the_malformed_message() {
    let mut script = Script::new().deciding([Some(refuse())]);
    script.client("RETR 1\r\n").server("+OK\r\nx\n.\r\npayload\r\n.\r\n");
    assert!(script.client_got().contains("name=Eicar-Test-Signature"));
}

#[test]
fn a_malformed_message_does_not_get_better_by_waiting() {
    let reason = "no scanner answered".to_owned();
    let mut script = Script::new().deciding([Some(Decision::Tempfail { reason })]);
    script.client("RETR 1\r\n").server("+OK\r\nx\n.\r\npayload\r\n.\r\n");
    assert!(script.client_got().contains("name=Malformed.LineEnd"), "not: fetch it again later");
}

#[test]
fn a_server_silent_behind_an_odd_end_has_ended_the_message() {
    let mut script = Script::new();
    script.client("RETR 1\r\n").server("+OK\r\nSubject: x\n\ny\n.\r\n");
    script.wait(ODD_END_TIMEOUT - Duration::from_secs(1));
    assert_eq!(script.client_got(), "+OK\r\n", "the keep-alive");
    script.wait(Duration::from_secs(1));
    assert_notice(&format!("+OK\r\n{}", script.client_got()));
    script.client("NOOP\r\n").server("+OK\r\n");
    assert_eq!(script.client_got(), "+OK\r\n");
    script.assert_open();
}

#[test]
fn silence_in_the_middle_of_a_malformed_message_is_no_end() {
    let mut script = Script::new();
    script.client("RETR 1\r\n").server("+OK\r\nx\n.\nmore");
    script.wait(ODD_END_TIMEOUT * 2);
    assert_eq!(script.seen.messages[0].2, Some(false));
    script.server("\r\n.\r\n");
    assert_notice(&script.client_got());
}

#[test]
fn a_server_of_bare_line_feeds_is_understood_and_repaired() {
    let mut script = Script::connected();
    script
        .server("+OK\n")
        .client("USER u\r\n")
        .server("+OK\n")
        .client("PASS p\r\n")
        .server("+OK\n");
    script.client("LIST\r\n").server("+OK\n1 5\n2 7\n.\n");
    assert_eq!(script.client_got(), "+OK\r\n+OK\r\n+OK\r\n+OK\r\n1 5\r\n2 7\r\n.\r\n");
    script.client("RETR 1\r\nRETR 2\r\n");
    script.server("+OK\nSubject: x\n\n..a\nb\r\nc\n.\n+OK\nSubject: evil\n\npayload\n.\n");
    script.seen.messages.clear();
    assert_eq!(
        script.client_got(),
        "+OK\r\nSubject: x\r\n\r\n..a\r\nb\r\nc\r\n.\r\n+OK\r\nSubject: evil\r\n\r\npayload\r\n.\r\n"
    );
    script.decisions.push_back(Some(refuse()));
    script.client("RETR 2\r\n").server("+OK\nSubject: evil\n\npayload\n.\n");
    assert_eq!(
        script.seen.messages,
        [(Some(2), b"Subject: evil\r\n\r\npayload\r\n".to_vec(), Some(true))]
    );
    assert_notice(&script.client_got());
    script.assert_open();
}

#[test]
fn a_message_of_just_the_hold_limit_is_held() {
    let raw = answer(b"Subject: x\r\n\r\nbody\r\n");
    let mut script = Script::with_hold_limit(raw.len() as u64).deciding([Some(refuse())]);
    script.client("RETR 1\r\n").server(&raw);
    assert_notice(&script.client_got());
    assert_eq!(script.seen.events, []);
}

#[test]
fn a_message_over_the_hold_limit_passes_uncounted_as_clean() {
    for odd_sizes in [vec![], vec![1], vec![3, 7]] {
        let raw = answer(format!("Subject: x\r\n\r\n{}\r\n..\r\n", "z".repeat(500)).as_bytes());
        let mut script = Script::with_hold_limit(100);
        script.sizes = odd_sizes;
        script.client("RETR 1\r\nNOOP\r\n").server(&raw[..100]);
        assert_eq!(script.client_got(), "", "at the limit nothing is out");
        script.server(&raw[100..]).server("+OK noop\r\n");
        assert_eq!(script.client_got().as_bytes(), [&*raw, b"+OK noop\r\n"].concat());
        assert_eq!(script.seen.events, [Event::HoldLimit]);
        assert_eq!(script.seen.messages.len(), 1);
        assert_eq!(script.seen.messages[0].2, None, "aborted: nobody reports it clean");
        script.assert_open();
    }
}

#[test]
fn an_odd_end_beyond_the_hold_limit_cuts_the_session() {
    let mut script = Script::with_hold_limit(20);
    script.client("RETR 1\r\n").server(format!("+OK\r\n{}\n.\nafter\r\n.\r\n", "x".repeat(50)));
    script.assert_closed_for(Side::Server, Violation::BareLineEnd);
    assert_eq!(script.seen.wires.client_end, Some(End::Reset));
    assert!(script.client_got().ends_with("x\n."));
}

#[test]
fn a_malformed_message_over_the_limit_is_replaced_and_costs_no_memory() {
    let mut script = Script::with_hold_limit(100);
    script.client("RETR 1\r\n").server("+OK\r\nSubject: x\r\n\r\n.\n");
    script.server("payload\r\n".repeat(1000)).server(".\r\n");
    assert_notice(&script.client_got());
    assert_eq!(script.seen.messages[0].2, Some(true));
}
