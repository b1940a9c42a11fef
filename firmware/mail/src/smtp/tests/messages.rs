//! Messages: clean, refused, deferred, and those whose end could be read in two ways.

use super::*;

#[test]
fn a_clean_mail() {
    play(&[
        GREETED,
        EHLO,
        DATA,
        HELD,
        &[
            Verdict(Decision::Release),
            ToS("\r\n.\r\n"),
            ToC(""),
            Wants(Side::Client, true),
            S("250 queued 123\r\n"),
            ToC("250 queued 123\r\n"),
            C("QUIT\r\n"),
            ToS("QUIT\r\n"),
            S("221 bye\r\n"),
            ToC("221 bye\r\n"),
            SEnd(End::Fin),
            Did(&["Fin Client", "Fin Server"]),
            Wants(Side::Client, false),
            Wants(Side::Server, false),
        ],
    ]);
}

#[test]
fn an_empty_message() {
    play(&[
        GREETED,
        DATA,
        &[
            C(".\r\n"),
            ToS(""),
            Did(&["end "]),
            Verdict(Decision::Release),
            ToS(".\r\n"),
            S("250 ok\r\n"),
            ToC("250 ok\r\n"),
        ],
    ]);
}

#[test]
fn stuffed_dots_cross_unchanged_and_are_unstuffed_for_the_scanner() {
    play(&[
        GREETED,
        DATA,
        &[
            C("..\r\n...\r\n..a\r\n.\r\n"),
            ToS("..\r\n...\r\n..a"),
            Did(&["end .\\r\\n..\\r\\n.a\\r\\n"]),
            Verdict(Decision::Release),
            ToS("\r\n.\r\n"),
        ],
    ]);
}

#[test]
fn bare_line_ends_away_from_dots_cross_unchanged() {
    play(&[
        GREETED,
        DATA,
        &[
            C("a\nb\rc\0d\n..\n .\r\n.\r\n"),
            ToS("a\nb\rc\0d\n..\n ."),
            Did(&["end a\\nb\\rc\\x00d\\n..\\n .\\r\\n"]),
        ],
    ]);
}

#[test]
fn an_infected_mail_is_refused_and_the_client_may_quit() {
    play(&[
        GREETED,
        EHLO,
        DATA,
        HELD,
        &[
            refuse("Eicar\r\n250 ok"),
            Did(&["Reset Server"]),
            ToC("554 5.7.1 Message refused: Eicar??250 ok\r\n"),
            Wants(Side::Client, true),
            Wants(Side::Server, false),
            C("QUIT\r\n"),
            ToC("221 2.0.0 Bye\r\n"),
            Did(&["Fin Client"]),
        ],
    ]);
}

#[test]
fn after_a_refused_mail_any_other_command_is_told_to_connect_again() {
    play(&[
        GREETED,
        DATA,
        HELD,
        &[
            refuse("Eicar"),
            Did(&["Reset Server"]),
            ToC("554 5.7.1 Message refused: Eicar\r\n"),
            C("MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n"),
            ToC(ORPHAN),
            Did(&["Fin Client"]),
            ToS(""),
        ],
    ]);
}

#[test]
fn a_mail_that_cannot_be_judged_is_deferred() {
    play(&[
        GREETED,
        DATA,
        HELD,
        &[
            Verdict(Decision::Tempfail { reason: "Scanner not available".to_owned() }),
            Did(&["Reset Server"]),
            ToC("451 4.7.1 Scanner not available\r\n"),
            CEnd(End::Fin),
            Did(&["Fin Client"]),
        ],
    ]);
}

#[test]
fn a_verdict_counts_once_and_only_while_a_message_is_held() {
    play(&[
        GREETED,
        &[refuse("early"), ToC("")],
        DATA,
        &[refuse("early"), ToC("")],
        HELD,
        &[Verdict(Decision::Release), ToS("\r\n.\r\n"), refuse("late"), ToC(""), ToS("")],
    ]);
}

#[test]
fn a_body_sent_before_the_354_is_a_message_once_it_came() {
    play(&[
        GREETED,
        &[
            C("DATA\r\nhello\r\n.\r\n"),
            ToS("DATA\r\n"),
            S("354 go\r\n"),
            ToC("354 go\r\n"),
            ToS("hello"),
            Did(&["begin  > ", "end hello\\r\\n"]),
        ],
    ]);
}

#[test]
fn every_odd_end_of_data_refuses_the_message() {
    let forms = [
        "\n.\n",
        "\n.\r\n",
        "\r.\r",
        "\r.\r\n",
        "\r.\n",
        "\n.\r",
        "\r\n.\n",
        "\r\n.\r",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
        "\r\0\n.\r\n",
        "\r\n.\r\0\n",
        "\r\r\n.\r\r\n",
        "\r\n.\r\r\n",
        "\r\n. \r\n",
        "\n\r.\n\r",
        "\r\n.\x0b\r\n",
    ];
    for form in forms {
        let text = format!("first{form}MAIL FROM:<smuggled@a>\r\nDATA\r\nevil\r\n.\r\nRSET\r\n");
        let script = [
            GREETED,
            DATA,
            &[
                C(text.leak()),
                ToC("554 5.6.0 Lone dot with a line end other than CR LF, message refused\r\n\
                     421 4.3.0 The connection to the mail server has ended, please connect again\r\n"),
                Did(&["BareLineEnd by Client", "abort", "Reset Server", "Fin Client"]),
            ],
        ]
        .concat();
        for size in [1, 2, 1_000] {
            let lab = Lab::play(&script, &mut std::iter::repeat(size));
            let out = lab.to_server.escape_ascii().to_string();
            assert!(out.starts_with("first") && !out.contains("smuggled"), "{out}");
            let dot = lab.to_server.iter().position(|byte| *byte == b'.');
            let behind = &lab.to_server[dot.unwrap_or(lab.to_server.len())..];
            assert!(!behind.iter().any(|byte| b"\r\n".contains(byte)), "{out}");
        }
    }
}

#[test]
fn a_true_end_behind_a_nul_and_plain_stuffing_are_no_tricks() {
    play(&[
        GREETED,
        DATA,
        &[
            C("body\0\r\n.\r\n"),
            ToS("body\0"),
            Did(&["end body\\x00\\r\\n"]),
            Verdict(Decision::Release),
            ToS("\r\n.\r\n"),
            S("250 ok\r\n"),
            ToC("250 ok\r\n"),
        ],
        DATA,
        &[
            C("body\r\n..\r\nMAIL FROM:<x@y>\r\n.\r\n"),
            ToS("body\r\n..\r\nMAIL FROM:<x@y>"),
            Did(&["end body\\r\\n.\\r\\nMAIL FROM:<x@y>\\r\\n"]),
        ],
    ]);
}
