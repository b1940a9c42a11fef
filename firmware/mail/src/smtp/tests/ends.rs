//! Peers that leave, or speak out of turn.

use super::*;

#[test]
fn a_client_lost_in_mid_message_completes_nothing() {
    play(&[
        GREETED,
        DATA,
        &[
            C("payload\r\n.\r"),
            ToS("payload"),
            CEnd(End::Reset),
            Did(&["abort", "Reset Client", "Reset Server"]),
            Verdict(Decision::Release),
            ToS(""),
        ],
    ]);
    play(&[
        GREETED,
        DATA,
        &[
            C("payload\r\n.\r"),
            ToS("payload"),
            CEnd(End::Fin),
            Did(&["abort", "Reset Server", "Fin Client"]),
        ],
    ]);
    play(&[
        GREETED,
        DATA,
        HELD,
        &[
            CEnd(End::Reset),
            Did(&["abort", "Reset Client", "Reset Server"]),
            Verdict(Decision::Release),
            ToS(""),
        ],
    ]);
}

#[test]
fn a_half_closed_client_still_gets_its_replies() {
    play(&[
        GREETED,
        DATA,
        &[
            C("hello\r\n.\r\nQUIT\r\n"),
            ToS("hello"),
            Did(&["end hello\\r\\n"]),
            CEnd(End::Fin),
            Verdict(Decision::Release),
            ToS("\r\n.\r\nQUIT\r\n"),
            Did(&["Fin Server"]),
            S("250 queued\r\n221 bye\r\n"),
            ToC("250 queued\r\n221 bye\r\n"),
            SEnd(End::Fin),
            Did(&["Fin Client"]),
        ],
    ]);
}

#[test]
fn a_server_that_ends_in_mid_message_is_reported_and_nothing_is_invented() {
    play(&[
        GREETED,
        DATA,
        &[
            C("half"),
            ToS("half"),
            SEnd(End::Fin),
            ToC("421 4.4.2 The mail server closed the connection\r\n"),
            Did(&["abort", "Reset Server"]),
            C(" and rest\r\n.\r\n"),
            Did(&["Fin Client"]),
            ToS(""),
        ],
    ]);
    play(&[
        GREETED,
        DATA,
        HELD,
        &[
            S("250 que"),
            SEnd(End::Fin),
            ToC("421 4.4.2 The mail server closed the connection\r\n"),
            Did(&["abort", "Fin Client", "Fin Server"]),
        ],
    ]);
    play(&[
        GREETED,
        DATA,
        HELD,
        &[
            Verdict(Decision::Release),
            ToS("\r\n.\r\n"),
            S("250 que"),
            SEnd(End::Fin),
            ToC(""),
            Did(&["Fin Client", "Fin Server"]),
        ],
    ]);
    play(&[
        GREETED,
        DATA,
        &[
            C("half"),
            ToS("half"),
            SEnd(End::Reset),
            Did(&["abort", "Reset Client", "Reset Server"]),
        ],
    ]);
}

#[test]
fn an_early_refusal_is_relayed_and_the_rest_of_the_message_is_no_command() {
    play(&[
        GREETED,
        DATA,
        &[
            C("half"),
            ToS("half"),
            S("552-too\r\n552 large\r\n"),
            ToC("552-too\r\n552 large\r\n"),
            Did(&["abort", "Reset Server"]),
            C("\r\nQUIT\r\nmore\r\n.\r\nQUIT\r\n"),
            ToC("221 2.0.0 Bye\r\n"),
            Did(&["Fin Client"]),
            ToS(""),
        ],
    ]);
    play(&[
        GREETED,
        DATA,
        HELD,
        &[
            S("451 try later\r\n"),
            ToC("451 try later\r\n"),
            Did(&["abort", "Reset Server"]),
            Verdict(Decision::Release),
            ToS(""),
            C("NOOP\r\n"),
            ToC(ORPHAN),
            Did(&["Fin Client"]),
        ],
    ]);
}

#[test]
fn an_early_success_is_never_relayed() {
    play(&[
        GREETED,
        DATA,
        &[
            C("half"),
            ToS("half"),
            S("250 got it\r\n"),
            ToC("451 4.3.0 The mail server answered before the end of the message\r\n"),
            Did(&["UnexpectedReply by Server", "abort", "Reset Server"]),
        ],
    ]);
}

#[test]
fn replies_out_of_turn_end_the_session() {
    let broken = "421 4.3.0 The mail server broke the protocol\r\n";
    let end: &[Step] =
        &[ToC(broken), Did(&["UnexpectedReply by Server", "Fin Client", "Reset Server"])];
    play(&[GREETED, &[S("250 for nothing\r\n")], end]);
    play(&[GREETED, &[S("hello\r\n")], end]);
    for (command, reply) in [
        ("NOOP\r\n", "354 go\r\n"),
        ("RSET\r\n", "354 go\r\n"),
        ("MAIL FROM:<a@a>\r\n", "334 go\r\n"),
        ("DATA\r\n", "334 go\r\n"),
        ("DATAX\r\n", "334 go\r\n"),
        ("AUTH X\r\n", "354 go\r\n"),
        ("STARTTLS\r\n", "250 go\r\n"),
    ] {
        play(&[GREETED, &[C(command), ToS(command), S(reply)], end]);
    }
}

#[test]
fn a_421_ends_the_session_whenever_it_comes() {
    let bye: &[Step] = &[S("421-not\r\n421 now\r\n"), ToC("421-not\r\n421 now\r\n")];
    let end: &[Step] = &[Did(&["Fin Client", "Fin Server"]), C("NOOP\r\n"), ToS("")];
    play(&[bye, end]);
    play(&[GREETED, bye, end]);
    for command in ["NOOP\r\nNOOP\r\n", "DATA\r\n", "AUTH PLAIN\r\n", "STARTTLS\r\n", "XYZ\r\n"] {
        play(&[GREETED, &[C(command), ToS(command)], bye, end]);
    }
    // In a message the rest of it is waited for: few clients look before they have sent it.
    play(&[
        GREETED,
        DATA,
        &[C("half"), ToS("half")],
        bye,
        &[
            Did(&["abort", "Reset Server"]),
            C(" and\r\n.\r\nNOOP\r\n"),
            Did(&["Fin Client"]),
            ToS(""),
        ],
    ]);
    play(&[
        GREETED,
        DATA,
        HELD,
        bye,
        &[Did(&["abort", "Reset Server", "Fin Client"]), Verdict(Decision::Release), ToS("")],
    ]);
    play(&[
        GREETED,
        DATA,
        HELD,
        &[Verdict(Decision::Release), ToS("\r\n.\r\n")],
        bye,
        &[Did(&["Fin Client", "Fin Server"])],
    ]);
}

#[test]
fn behind_an_unknown_data_phase_nobody_reads_or_the_session_ends() {
    for (command, reply) in [
        ("XEXCH50 1 2\r\n", "354 go\r\n"),
        ("XSTREAM\r\n", "334 go\r\n"),
        ("LHLO c\r\n", "250 lmtp\r\n"),
        ("ATRN\r\n", "250 your turn\r\n"),
    ] {
        let asked: &[Step] =
            &[C(command), ToS(command), C("MAIL FROM:<a\n.\r\n"), ToS(""), S(reply)];
        play(&[
            GREETED,
            asked,
            &[
                ToC(reply),
                ToS("MAIL FROM:<a\n.\r\n"),
                Did(&["Opaque(Unframed)"]),
                S("EHLO x\r\n"),
                ToC("EHLO x\r\n"),
            ],
        ]);
        play_with(
            &Settings { unframed: Unframed::Close, ..Settings::default() },
            &[
                GREETED,
                asked,
                &[
                    ToC("421 4.7.0 What follows this command cannot be checked, closing the \
                         connection\r\n"),
                    Did(&["Fin Client", "Reset Server"]),
                    ToS(""),
                ],
            ],
        );
        play(&[
            GREETED,
            &[
                C(command),
                ToS(command),
                C("NOOP\r\n"),
                ToS(""),
                S("502 unknown\r\n"),
                ToC("502 unknown\r\n"),
                ToS("NOOP\r\n"),
            ],
        ]);
    }
}

#[test]
fn both_resets_are_passed_on() {
    play(&[GREETED, &[CEnd(End::Reset), Did(&["Reset Client", "Reset Server"])]]);
    play(&[GREETED, &[SEnd(End::Reset), Did(&["Reset Client", "Reset Server"])]]);
}

#[test]
fn a_last_word_survives_a_server_that_ends_without_answering() {
    play(&[
        GREETED,
        &[
            C("NOOP\r\nBDAT +3\r\nabc"),
            ToS("NOOP\r\n"),
            ToC(""),
            SEnd(End::Fin),
            ToC(BAD_SIZE),
            Did(&["ChunkSize by Client", "Fin Client", "Fin Server"]),
        ],
    ]);
}
