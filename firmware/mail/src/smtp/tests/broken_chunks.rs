//! BDAT that fails, is cut off, or could be read in two ways.

use super::chunks::{FIRST, FIRST_OK, played};
use super::*;

#[test]
fn a_size_that_can_be_read_in_two_ways_ends_the_session() {
    for size in ["", " -1", " +5", " 0x10", " 5.0", "\t5", " 5 X", " 5 LAST LAST", " 2147483648"] {
        let text = format!("BDAT{size}\r\nHELLO\r\n").leak();
        let end: &[Step] = &[
            C(text),
            ToS(""),
            ToC(BAD_SIZE),
            Did(&["ChunkSize by Client", "Fin Client", "Reset Server"]),
        ];
        played(&[end]);
        let mut end = end.to_vec();
        end[3] = Did(&["ChunkSize by Client", "abort", "Fin Client", "Reset Server"]);
        played(&[FIRST, FIRST_OK, &end]);
    }
}

#[test]
fn a_chunk_that_a_server_might_run_as_commands_does_not_go_there() {
    let chunk = "BDAT 18\r\nMAIL FROM:<evil@x>BDAT 6 LAST\r\nRSET\r\nNOOP\r\n";
    let not_offered = "502 5.5.1 BDAT is not available\r\n";
    let no_recipient = "503 5.5.1 No recipient has been accepted\r\n";
    let refused =
        |reply: &str| -> [Step; 3] { [C(chunk), ToC(reply.repeat(2).leak()), ToS("NOOP\r\n")] };
    play(&[GREETED, RCPT, &refused(not_offered)]);
    let helo: &[Step] = &[C("HELO c\r\n"), ToS("HELO c\r\n"), S("250 mx\r\n"), ToC("250 mx\r\n")];
    play(&[GREETED, EHLO, helo, RCPT, &refused(not_offered)]);
    play(&[GREETED, EHLO, &refused(no_recipient)]);
    play(&[
        GREETED,
        EHLO,
        &[
            C("MAIL FROM:<a@a>\r\nRCPT TO:<no@b>\r\n"),
            S("250 ok\r\n550 no\r\n"),
            ToC("250 ok\r\n550 no\r\n"),
            ToS("MAIL FROM:<a@a>\r\nRCPT TO:<no@b>\r\n"),
        ],
        &refused(no_recipient),
    ]);
}

#[test]
fn a_refused_chunk_kills_the_message_until_rset() {
    played(&[
        FIRST,
        &[
            S("452 full\r\n"),
            ToC("452 full\r\n"),
            Did(&["abort"]),
            // Neither these nor the last one may make a message of their own.
            C("BDAT 5\r\nworldBDAT 3 LAST\r\nendNOOP\r\n"),
            ToC(DEAD.repeat(2).leak()),
            ToS("NOOP\r\n"),
            S("250 ok\r\n"),
            ToC("250 ok\r\n"),
            C("RSET\r\n"),
            ToS("RSET\r\n"),
            S("250 ok\r\n"),
            ToC("250 ok\r\n"),
        ],
        RCPT,
        FIRST,
    ]);
}

#[test]
fn a_refused_last_chunk_leaves_nothing_to_add_to() {
    let refused: &[Step] = &[
        C("BDAT 5 LAST\r\nworld"),
        Did(&["end hello world"]),
        Verdict(Decision::Release),
        ToS("BDAT 5 LAST\r\nworld"),
        S("552 too large\r\n"),
        ToC("552 too large\r\n"),
    ];
    let last: &[Step] = &[C("BDAT 1 LAST\r\nx"), ToC(DEAD), ToS("")];
    played(&[FIRST, FIRST_OK, refused, last, RCPT, FIRST]);
    let mixed: &[Step] = &[
        C("DATA\r\n"),
        ToS("DATA\r\n"),
        S("354 go\r\n"),
        ToC("421 4.3.0 The mail server broke the protocol\r\n"),
        Did(&["UnexpectedReply by Server", "Fin Client", "Reset Server"]),
    ];
    played(&[FIRST, FIRST_OK, refused, mixed]);
}

#[test]
fn chunks_in_flight_behind_a_refused_one_keep_their_size() {
    played(&[
        FIRST,
        &[
            C("BDAT 5\r\nwor"),
            ToS("BDAT 5\r\nwor"),
            S("452 full\r\n"),
            ToC("452 full\r\n"),
            Did(&["abort"]),
            // Announced to the server, so it gets it, though nobody scans it.
            C("ldBDAT 4 LAST\r\nevilNOOP\r\n"),
            ToS("ld"),
            ToC(""),
            S("503 no\r\n"),
            ToC(format!("503 no\r\n{DEAD}").leak()),
            ToS("NOOP\r\n"),
        ],
    ]);
}

#[test]
fn a_held_last_chunk_fails_with_the_chunks_before_it() {
    let end: &[Step] = &[
        S("250 more\r\n"),
        ToC(format!("250 more\r\n{DEAD}").leak()),
        ToS(""),
        Verdict(Decision::Release),
        C("NOOP\r\n"),
        ToS("NOOP\r\n"),
    ];
    let two: &[Step] = &[
        C("BDAT 1\r\naBDAT 1\r\nbBDAT 1 LAST\r\nc"),
        ToS("BDAT 1\r\naBDAT 1\r\nb"),
        Did(&["begin a@a.example > b@b.example", "end abc"]),
    ];
    let fails: &[Step] = &[S("452 full\r\n"), ToC("452 full\r\n")];
    played(&[two, fails, &[Did(&["abort"])], end]);
    played(&[two, &[Verdict(Decision::Release)], fails, end]);
    // While it still comes in.
    played(&[
        FIRST,
        &[
            C("BDAT 4 LAST\r\nen"),
            S("452 full\r\n"),
            ToC("452 full\r\n"),
            Did(&["abort"]),
            C("d.NOOP\r\n"),
            ToC(DEAD),
            ToS("NOOP\r\n"),
        ],
    ]);
}

#[test]
fn commands_between_chunks_abort_the_message() {
    for (command, reply) in [
        ("RSET\r\n", "250 ok\r\n"),
        ("EHLO c\r\n", "250-mx\r\n250 CHUNKING\r\n"),
        ("HELO c\r\n", "250 mx\r\n"),
        ("MAIL FROM:<c@c>\r\n", "503 nested\r\n"),
        ("DATA\r\n", "503 no\r\n"),
        ("STARTTLS\r\n", "454 no\r\n"),
        ("QUIT\r\n", "221 bye\r\n"),
    ] {
        let told: &[Step] = &[C(command), ToS(command), Did(&["abort"]), S(reply), ToC(reply)];
        played(&[FIRST, FIRST_OK, told]);
        // Refused: the server may have the chunks still, so nothing completes them.
        if reply.starts_with('5') || reply.starts_with("454") {
            let last: &[Step] = &[C("BDAT 1 LAST\r\nx"), ToC(DEAD), ToS("")];
            played(&[FIRST, FIRST_OK, told, last]);
        }
    }
    // These do not.
    for command in ["NOOP\r\n", "VRFY x\r\n", "XUNKNOWN\r\n", "RCPT TO:<c@c>\r\n"] {
        played(&[
            FIRST,
            FIRST_OK,
            &[
                C(command),
                ToS(command),
                S("250 ok\r\n"),
                ToC("250 ok\r\n"),
                C("BDAT 0 LAST\r\n"),
                Did(&["end hello "]),
            ],
        ]);
    }
}

#[test]
fn a_354_to_data_behind_chunks_would_mix_two_messages() {
    played(&[
        FIRST,
        FIRST_OK,
        &[
            C("DATA\r\n"),
            ToS("DATA\r\n"),
            S("354 go\r\n"),
            ToC("421 4.3.0 The mail server broke the protocol\r\n"),
            Did(&["abort", "UnexpectedReply by Server", "Fin Client", "Reset Server"]),
        ],
    ]);
}

#[test]
fn a_server_that_answers_a_chunk_early_is_dropped_and_the_rest_skipped() {
    let early: &[Step] = &[C("BDAT 9\r\nhel"), ToS("BDAT 9\r\nhel")];
    let begun: &[Step] = &[Did(&["begin a@a.example > b@b.example"])];
    played(&[
        early,
        begun,
        &[
            S("552 too large\r\n"),
            ToC("552 too large\r\n"),
            Did(&["abort", "Reset Server"]),
            C("lo"),
            C("QUITQUIT\r\n"),
            ToC("221 2.0.0 Bye\r\n"),
            Did(&["Fin Client"]),
            ToS(""),
        ],
    ]);
    played(&[
        early,
        begun,
        &[
            S("250 got it\r\n"),
            ToC("451 4.3.0 The mail server answered before the end of the message\r\n"),
            Did(&["UnexpectedReply by Server", "abort", "Reset Server"]),
        ],
    ]);
    played(&[
        early,
        begun,
        &[
            S("421 bye\r\n"),
            ToC("421 bye\r\n"),
            Did(&["abort", "Reset Server"]),
            C("lo....NOOP\r\n"),
            Did(&["Fin Client"]),
        ],
    ]);
}

#[test]
fn ends_within_and_between_chunks_complete_nothing() {
    let begun: &[Step] =
        &[C("BDAT 9\r\nhel"), ToS("BDAT 9\r\nhel"), Did(&["begin a@a.example > b@b.example"])];
    played(&[begun, &[CEnd(End::Fin), Did(&["abort", "Reset Server", "Fin Client"])]]);
    played(&[begun, &[CEnd(End::Reset), Did(&["abort", "Reset Client", "Reset Server"])]]);
    played(&[
        begun,
        &[
            SEnd(End::Fin),
            ToC("421 4.4.2 The mail server closed the connection\r\n"),
            Did(&["abort", "Reset Server"]),
            C("lo....QUIT\r\n"),
            Did(&["Fin Client"]),
        ],
    ]);
    played(&[
        FIRST,
        &[CEnd(End::Fin), Did(&["abort", "Fin Server"])],
        FIRST_OK,
        &[SEnd(End::Fin), Did(&["Fin Client"])],
    ]);
    played(&[
        FIRST,
        &[
            C("BDAT 3 LAST\r\nabc"),
            Did(&["end hello abc"]),
            CEnd(End::Fin),
            Verdict(Decision::Release),
            ToS(""),
            S("250 ok\r\n"),
            ToC("250 ok\r\n"),
            ToS("BDAT 3 LAST\r\nabc"),
            Did(&["Fin Server"]),
            S("250 queued\r\n"),
            ToC("250 queued\r\n"),
        ],
    ]);
    played(&[
        FIRST,
        &[
            C("BDAT 0 LAST\r\n"),
            Did(&["end hello "]),
            Verdict(Decision::Release),
            SEnd(End::Fin),
            ToC("421 4.4.2 The mail server closed the connection\r\n"),
            Did(&["Fin Client", "Fin Server"]),
            ToS(""),
        ],
    ]);
}
