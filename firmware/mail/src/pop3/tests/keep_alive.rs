//! What a client hears while its message is held, and what follows it.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const MAIL: &str = "Received: by mx\r\n\tfor bob; Tue, 02 Jan 2024 03:04:06 +0000\r\n\
    From: Alice <alice@a.example>\r\nSubject: Hé\r\n\tyou\r\nTo: bob@b.example\r\n\
    MIME-Version: 1.0\r\nX-Behind: 1\r\nContent-Type: text/plain\r\n\r\nbody\r\n";

/// What leaves of it, in order, behind the status line.
const PIECES: [&str; 10] = [
    "Received: by mx\r\n\tfor bob; Tue, 02 Jan 2024 03:04:06 +0000\r\n",
    "From: Alice <alice@a.example>\r\n",
    "Subject:",
    " ",
    "H",
    "é",
    "\r\n\ty",
    "o",
    "u",
    "\r\n",
];

/// The answer to a RETR, complete and without a verdict.
fn pending() -> Script {
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\n").server(answer(MAIL.as_bytes()));
    script
}

#[test]
fn the_client_hears_something_at_the_times_set() {
    let mut script = pending();
    script.wait(KEEP_ALIVE_FIRST_DEFAULT - SECOND);
    assert_eq!(script.client_got(), "");
    script.wait(SECOND);
    assert_eq!(script.client_got(), "+OK message follows\r\n");
    for piece in PIECES {
        script.wait(KEEP_ALIVE_INTERVAL_DEFAULT - SECOND);
        assert_eq!(script.client_got(), "");
        script.wait(SECOND);
        assert_eq!(script.client_got(), piece);
    }
    script.wait(KEEP_ALIVE_INTERVAL_DEFAULT);
    assert_eq!(script.client_got(), "To: bob@b.example\r\n");
    script.wait(KEEP_ALIVE_INTERVAL_DEFAULT * 10);
    assert_eq!(script.client_got(), "", "nothing behind the first field that must not leave");
    script.decide(Decision::Release);
    assert!(script.client_got().starts_with("MIME-Version: 1.0\r\nX-Behind"));
}

#[test]
fn the_times_are_settings() {
    let seconds = |first: u32, interval: u32| Settings {
        keep_alive_first: first * SECOND,
        keep_alive_interval: interval * SECOND,
        ..Settings::default()
    };
    let mut script = Script::set(seconds(3, 100)).deciding([None]);
    script.client("RETR 1\r\n").server(answer(MAIL.as_bytes())).wait(102 * SECOND);
    assert_eq!(script.client_got(), "+OK message follows\r\n");
    script.wait(SECOND);
    assert_eq!(script.client_got(), PIECES[0]);

    // All at once is not endless.
    let mut script = Script::set(seconds(0, 0)).deciding([None]);
    script.client("RETR 1\r\n").server(answer(MAIL.as_bytes())).wait(SECOND);
    assert!(script.client_got().ends_with("To: bob@b.example\r\n"));

    for (first, interval) in [(Duration::MAX, SECOND), (SECOND, Duration::MAX)] {
        let settings = Settings {
            keep_alive_first: first,
            keep_alive_interval: interval,
            ..Settings::default()
        };
        let mut script = Script::set(settings).deciding([None]);
        script.client("RETR 1\r\n").server(answer(MAIL.as_bytes())).wait(300 * SECOND);
        assert!(script.client_got().lines().count() <= 1, "never again");
    }
}

#[test]
fn whatever_has_left_the_clean_message_is_whole() {
    let raw = answer(MAIL.as_bytes());
    for seconds in 0..300 {
        let mut script = pending();
        script.wait(seconds * SECOND).decide(Decision::Release);
        assert_eq!(script.client_got().as_bytes(), raw, "after {seconds} s");
        script.client("NOOP\r\n").server("+OK\r\n");
        assert_eq!(script.client_got(), "+OK\r\n");
    }
}

#[test]
fn whatever_has_left_a_notice_is_whole() {
    for seconds in 0..300 {
        for decision in [
            refuse(),
            Decision::Tempfail { reason: "no scanner".to_owned() },
            Decision::Replace(Finding::default()),
        ] {
            let mut script = pending();
            script.wait(seconds * SECOND).decide(decision);
            assert_well_formed_notice(&script.seen.wires.to_client);
            assert!(!script.client_got().contains("body\r\n"));
            script.assert_open();
        }
    }
}

#[test]
fn the_wait_begins_with_the_command_or_the_answer_before_it() {
    let mut script = Script::new().deciding([Some(Decision::Release), None]);
    script.client("RETR 1\r\nRETR 2\r\n").wait(9 * SECOND).server(answer(b"X-A: 1\r\n\r\n"));
    script.wait(5 * SECOND).server("+OK two\r\n").wait(4 * SECOND);
    assert_eq!(script.client_got(), "+OK message follows\r\nX-A: 1\r\n\r\n.\r\n");
    script.wait(SECOND);
    assert_eq!(script.client_got(), "+OK two\r\n", "ten seconds behind the first answer");

    // A RETR behind a quiet time.
    let mut script = Script::new();
    script.wait(60 * SECOND).client("RETR 1\r\n").wait(SECOND).server("+OK\r\n").wait(8 * SECOND);
    assert_eq!(script.client_got(), "");
    script.wait(SECOND);
    assert_eq!(script.client_got(), "+OK\r\n");
}

#[test]
fn a_slow_server_is_no_reason_to_be_silent() {
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\n").wait(60 * SECOND);
    assert_eq!(script.client_got(), "", "there is nothing to say: it may be -ERR");
    script.server("+OK\r\nFrom: a@a.example\r\n").wait(Duration::ZERO);
    assert_eq!(script.client_got(), "+OK\r\n", "at once");
    script.wait(100 * SECOND);
    assert_eq!(script.client_got(), "", "a field that may go on stays");
    script.server("To: b@b.example\r\nX-A: 1\r\n").wait(Duration::ZERO);
    assert_eq!(script.client_got(), "From: a@a.example\r\n", "at once");
    script.wait(15 * SECOND);
    assert_eq!(script.client_got(), "To: b@b.example\r\n");
    script.wait(100 * SECOND).server("X-B: 22\r\n").wait(Duration::ZERO);
    assert_eq!(script.client_got(), "X-A:", "the last one byte by byte");
    script.server("X-C: 3\r\n").wait(15 * SECOND);
    assert_eq!(script.client_got(), " 1\r\n", "not the last one any more");
    script.server("\r\nbody\r\n.\r\n").decide(Decision::Release);
    assert_eq!(script.client_got(), "X-B: 22\r\nX-C: 3\r\n\r\nbody\r\n.\r\n");
}

#[test]
fn nothing_but_the_status_line_leaves_where_nothing_is_safe() {
    for header in [
        "Content-Type: text/html\r\nFrom: a@b\r\n",
        "MIME-Version: 1.0\r\n",
        "\r\n",
        "no field\r\n",
        "..Subject: begins with a dot\r\nFrom: a@b\r\n",
        ".Subject: looks stuffed and is not\r\nFrom: a@b\r\n",
        "Subject: bare\nlf\r\n",
        "",
    ] {
        for decision in [Decision::Release, refuse()] {
            let raw = format!("+OK\r\n{header}\r\nbody\r\n.\r\n");
            let mut script = Script::new().deciding([None]);
            script.client("RETR 1\r\n").server(&raw).wait(300 * SECOND);
            assert_eq!(script.seen.wires.to_client, b"+OK\r\n", "{header:?}");
            let clean = decision == Decision::Release;
            script.decide(decision);
            if clean {
                assert_eq!(script.client_got(), raw);
            } else {
                assert_well_formed_notice(&script.seen.wires.to_client);
            }
        }
    }
}

#[test]
fn a_server_that_goes_leaves_no_end_of_our_making() {
    for end in [End::Fin, End::Reset] {
        let mut script = Script::new();
        script.client("RETR 1\r\n").server("+OK\r\nFrom: a@b\r\nTo: c@d\r\n").wait(30 * SECOND);
        script.end(Side::Server, end);
        assert_eq!(script.client_got(), "+OK\r\nFrom: a@b\r\n");
        assert_eq!(script.seen.wires.client_end, Some(end));
        assert_eq!(script.seen.wires.held, b"", "dropped");
    }
}

#[test]
fn an_error_has_no_place_in_a_message_that_has_begun() {
    let mut script = pending();
    script.wait(10 * SECOND).client("\r\n".repeat(200));
    assert_eq!(script.client_got(), "+OK message follows\r\n");
    assert_eq!(script.seen.wires.client_end, Some(End::Reset));
    assert_eq!(script.seen.messages[0].2, None);
}

#[test]
fn a_verdict_that_never_comes_is_bridged_all_the_way() {
    let mut script = pending();
    script.wait(VERDICT_TIMEOUT);
    assert_well_formed_notice(&script.seen.wires.to_client);
    assert!(script.client_got().contains("X-AVR-Notice: unscanned"));
}

#[test]
fn odd_ends_behind_what_has_left_make_a_notice() {
    let mut script = Script::new().deciding([None]);
    script.client("RETR 1\r\n").server("+OK\r\nFrom: a@b\r\nX-A: 1\r\nTo: c@d\r\n");
    script.wait(40 * SECOND);
    assert_eq!(script.seen.wires.to_client, b"+OK\r\nFrom: a@b\r\nX-A:");
    script.server("\r\nx\n.\npayload\r\n").wait(15 * SECOND);
    assert!(script.seen.wires.to_client.ends_with(b"X-A: "), "goes on from what is kept");
    script.server(".\r\n").decide(Decision::Release);
    assert_well_formed_notice(&script.seen.wires.to_client);
    assert!(script.client_got().contains("name=Malformed.LineEnd"));
}

#[test]
fn an_edited_message_goes_out_only_where_nothing_of_the_original_has() {
    let edit = Decision::Edit(Finding { name: "Macro".to_owned(), ..Finding::default() });
    for (seconds, status) in [(0, "+OK\r\n"), (10, "+OK message follows\r\n")] {
        let mut script = pending();
        script.seen.wires.edited = b"From: a@b\r\n\r\n.edited\r\n".to_vec();
        script.wait(seconds * SECOND).decide(edit.clone());
        assert_eq!(script.client_got(), format!("{status}From: a@b\r\n\r\n..edited\r\n.\r\n"));
        script.client("NOOP\r\n").server("+OK\r\n").assert_open();
    }
    let mut script = pending();
    script.wait(25 * SECOND).decide(edit.clone());
    assert_well_formed_notice(&script.seen.wires.to_client);
    assert!(script.client_got().contains("X-AVR-Notice: refused; name=Macro"));

    // Nor where the edit might keep what made the original malformed.
    let mut script = Script::new().deciding([Some(edit)]);
    script.client("RETR 1\r\n").server("+OK\r\nx\n.\npayload\r\n.\r\n");
    assert_notice(&script.client_got());
}
