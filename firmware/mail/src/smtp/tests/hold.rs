//! Messages that are held whole: released, replaced, edited.

use super::*;

fn holding() -> Settings {
    Settings { hold: true, ..Settings::default() }
}

fn played(script: &[&[Step]]) {
    play_with(&holding(), &[&[GREETED, EHLO], script].concat());
}

const KEPT: &[Step] = &[
    C("Subject: x\r\n\r\n..hello\r\n.\r\n"),
    ToS(""),
    Did(&["end Subject: x\\r\\n\\r\\n.hello\\r\\n"]),
    Wants(Side::Client, false),
];

const KEPT_CHUNK: &[Step] =
    &[C("BDAT 5 LAST\r\nhello"), ToS(""), Did(&["begin a@a.example > b@b.example", "end hello"])];

const QUEUED: &[Step] = &[
    S("250 queued\r\n"),
    ToC("250 queued\r\n"),
    C("NOOP\r\n"),
    ToS("NOOP\r\n"),
    S("250 ok\r\n"),
    ToC("250 ok\r\n"),
];

fn replace() -> Step {
    Verdict(Decision::Replace(finding("Eicar")))
}

fn edit() -> Step {
    Verdict(Decision::Edit(finding("Eicar")))
}

#[test]
fn a_clean_message_goes_on_as_it_came() {
    let wire = "Subject: x\r\n\r\n..hello\r\n.\r\n";
    let released: &[Step] = &[Verdict(Decision::Release), ToS(wire)];
    played(&[DATA, KEPT, released, QUEUED, DATA, KEPT, released, QUEUED]);
    played(&[
        DATA,
        &[C(".\r\n"), ToS(""), Did(&["end "]), Verdict(Decision::Release), ToS(".\r\n")],
        QUEUED,
    ]);
    played(&[RCPT, KEPT_CHUNK, &[Verdict(Decision::Release), ToS("BDAT 5 LAST\r\nhello")], QUEUED]);
}

#[test]
fn a_message_that_is_edited_or_deferred() {
    let edited: &[Step] = &[
        edit(),
        ToS("<edited>\r\n.\r\n"),
        Did(&["edited Dots", "drop"]),
        Verdict(Decision::Release),
    ];
    played(&[DATA, KEPT, edited, QUEUED]);
    let edited: &[Step] = &[edit(), ToS("BDAT 8 LAST\r\n<edited>"), Did(&["edited Chunk", "drop"])];
    played(&[RCPT, KEPT_CHUNK, edited, QUEUED]);
    let gone: &[Step] = &[Did(&["drop", "Reset Server"]), ToS("")];
    for (verdict, reply) in [
        (Verdict(Decision::Tempfail { reason: "Later".to_owned() }), "451 4.7.1 Later\r\n"),
        (refuse("Eicar"), "554 5.7.1 Message refused: Eicar\r\n"),
    ] {
        let answered: &[Step] = &[verdict, ToC(reply)];
        played(&[DATA, KEPT, answered, gone]);
        played(&[RCPT, KEPT_CHUNK, answered, gone]);
    }
}

/// What the server gets in the place of a message.
fn replacement(script: &[&[Step]]) -> String {
    let script = [&[GREETED, EHLO], script, &[&[replace()]]].concat().concat();
    let mut lab = Lab::with(holding()).played(&script, &mut std::iter::repeat(3));
    let sent = String::from_utf8(mem::take(&mut lab.to_server)).unwrap();
    assert_eq!(mem::take(&mut lab.did), ["drop"]);
    // The session goes on.
    lab.played(QUEUED, &mut std::iter::empty()).assert_nothing_left();
    sent
}

#[test]
fn a_notice_goes_on_in_the_place_of_an_infected_message() {
    let sent = replacement(&[DATA, KEPT]);
    let (message, rest) = sent.split_once("\r\n.\r\n").unwrap();
    assert_eq!(rest, "");
    assert!(message.contains("\r\nSubject: [Blocked] x\r\n"), "{message}");
    assert!(message.contains("Found: Eicar") && message.contains("No copy of it was kept"));
    assert!(!message.contains("hello") && !message.contains("mailbox"));

    let sent = replacement(&[RCPT, KEPT_CHUNK]);
    let (line, message) = sent.split_once("\r\n").unwrap();
    assert_eq!(line, format!("BDAT {} LAST", message.len()));
    assert!(message.contains("Found: Eicar") && !message.contains("\r\n.\r\n"));
}

#[test]
fn what_is_streamed_cannot_be_replaced() {
    let refused: &[Step] =
        &[ToC("554 5.7.1 Message refused: Eicar\r\n"), Did(&["Reset Server"]), ToS("")];
    for verdict in [replace(), edit()] {
        play(&[GREETED, DATA, HELD, std::slice::from_ref(&verdict), refused]);
        // Several chunks, the first of which must be answered by the server.
        played(&[
            RCPT,
            &[
                C("BDAT 1\r\na"),
                ToS("BDAT 1\r\na"),
                S("250 ok\r\n"),
                ToC("250 ok\r\n"),
                C("BDAT 1 LAST\r\nb"),
                Did(&["begin a@a.example > b@b.example", "end ab"]),
                verdict.clone(),
            ],
            refused,
        ]);
        // One chunk of nothing.
        played(&[
            RCPT,
            &[C("BDAT 0 LAST\r\n"), Did(&["begin a@a.example > b@b.example", "end "]), verdict],
            refused,
        ]);
    }
}

#[test]
fn what_is_larger_than_the_limit_is_streamed_from_there_on() {
    let settings = Settings { hold_bytes_max: 5, ..holding() };
    let begun: &[Step] = &[
        C("12345"),
        ToS(""),
        C("67\r\n.\r\n"),
        ToS("1234567"),
        Did(&["HoldLimit", "end 1234567\\r\\n"]),
    ];
    play_with(
        &settings,
        &[GREETED, EHLO, DATA, begun, &[Verdict(Decision::Release), ToS("\r\n.\r\n")], QUEUED],
    );
    play_with(
        &settings,
        &[
            GREETED,
            EHLO,
            DATA,
            begun,
            &[replace(), ToC("554 5.7.1 Message refused: Eicar\r\n"), Did(&["Reset Server"])],
        ],
    );
    // Just at the limit.
    play_with(
        &settings,
        &[
            GREETED,
            EHLO,
            DATA,
            &[
                C("12345\r\n.\r\n"),
                ToS(""),
                Did(&["end 12345\\r\\n"]),
                Verdict(Decision::Release),
                ToS("12345\r\n.\r\n"),
            ],
        ],
    );
    play_with(
        &settings,
        &[
            GREETED,
            EHLO,
            RCPT,
            KEPT_CHUNK,
            &[edit(), ToS("BDAT 8 LAST\r\n<edited>")],
            &[Did(&["edited Chunk", "drop"])],
        ],
    );
    play_with(
        &settings,
        &[
            GREETED,
            EHLO,
            RCPT,
            &[
                C("BDAT 6 LAST\r\nhello!"),
                Did(&["begin a@a.example > b@b.example", "end hello!"]),
                refuse("Eicar"),
                ToC("554 5.7.1 Message refused: Eicar\r\n"),
                Did(&["Reset Server"]),
            ],
        ],
    );
}

#[test]
fn a_kept_message_is_forgotten_with_its_scan() {
    let half: &[Step] = &[C("half"), ToS("")];
    played(&[DATA, half, &[CEnd(End::Fin), Did(&["abort", "drop", "Reset Server", "Fin Client"])]]);
    played(&[
        DATA,
        half,
        &[
            S("421 timeout\r\n"),
            ToC("421 timeout\r\n"),
            Did(&["abort", "drop", "Reset Server"]),
            C("\r\n.\r\n"),
            Did(&["Fin Client"]),
        ],
    ]);
    played(&[
        DATA,
        KEPT,
        &[
            After(300),
            ToC("451 4.7.1 The message could not be checked in time\r\n"),
            Did(&["abort", "drop", "Reset Server"]),
        ],
    ]);
    played(&[
        DATA,
        KEPT,
        &[CEnd(End::Reset), Did(&["abort", "drop", "Reset Client", "Reset Server"])],
    ]);
    played(&[
        RCPT,
        &[
            C("BDAT 5 LAST\r\nhel"),
            Did(&["begin a@a.example > b@b.example"]),
            SEnd(End::Fin),
            ToC("421 4.4.2 The mail server closed the connection\r\n"),
            Did(&["abort", "drop", "Reset Server"]),
            C("lo"),
            Did(&["Fin Client"]),
        ],
    ]);
}

#[test]
fn without_room_a_message_is_streamed_and_its_end_waits_all_the_same() {
    let half: &[Step] = &[C("Subject: x\r\n\r\n..hel"), ToS(""), HoldFailed, Did(&["HoldLimit"])];
    let rest: &[Step] = &[
        ToS("Subject: x\r\n\r\n..hel"),
        C("lo\r\n"),
        C(".\r\n"),
        ToS("lo"),
        Did(&["end Subject: x\\r\\n\\r\\n.hello\\r\\n"]),
        HoldFailed,
        ToS(""),
    ];
    let released: &[Step] = &[Verdict(Decision::Release), ToS("\r\n.\r\n")];
    let gone: &[Step] = &[Did(&["Reset Server"]), ToS("")];
    played(&[DATA, half, rest, released, QUEUED]);
    // The policy decides, as on any message that has been streamed.
    let later = Decision::Tempfail { reason: "Later".to_owned() };
    played(&[DATA, half, rest, &[Verdict(later), ToC("451 4.7.1 Later\r\n")], gone]);
    let refused: &[Step] = &[replace(), ToC("554 5.7.1 Message refused: Eicar\r\n")];
    played(&[DATA, half, rest, refused, gone]);
    // It has come in whole already.
    let whole: &[Step] =
        &[C("hi\r\n.\r\n"), ToS(""), HoldFailed, Did(&["end hi\\r\\n", "HoldLimit"]), ToS("hi")];
    played(&[DATA, whole, released, QUEUED]);
}

#[test]
fn without_room_a_chunk_goes_on_as_two() {
    let begun = Did(&["begin a@a.example > b@b.example", "HoldLimit"]);
    // Its end is held: all of it that is still to come, at most so much.
    let half: &[Step] = &[C("BDAT 5 LAST\r\nhe"), ToS(""), HoldFailed, begun.clone()];
    let rest: &[Step] =
        &[ToS("BDAT 2\r\nhe"), C("llo"), S("250 2 bytes\r\n"), ToC(""), Did(&["end hello"])];
    let released: &[Step] = &[Verdict(Decision::Release), ToS("BDAT 3 LAST\r\nllo")];
    played(&[RCPT, half, rest, released, QUEUED]);
    let refused: &[Step] =
        &[refuse("Eicar"), ToC("554 5.7.1 Message refused: Eicar\r\n"), Did(&["Reset Server"])];
    played(&[RCPT, half, rest, refused]);
    // The server refuses the first of the two: that is its answer to the client's one.
    let failed: &[Step] = &[
        ToS("BDAT 2\r\nhe"),
        S("452 full\r\n"),
        ToC("452 full\r\n"),
        Did(&["abort"]),
        C("lloRSET\r\n"),
        ToS("RSET\r\n"),
    ];
    played(&[RCPT, half, failed]);
    // It has come in whole already.
    let whole: &[Step] = &[
        KEPT_CHUNK,
        &[HoldFailed, Did(&["HoldLimit"]), ToS("BDAT 5\r\nhello"), S("250 5 bytes\r\n"), ToC("")],
    ]
    .concat();
    played(&[RCPT, whole, &[Verdict(Decision::Release), ToS("BDAT 0 LAST\r\n")], QUEUED]);
    // A long way before its end.
    let script: &[Step] = &[
        C("BDAT 4096 LAST\r\nhe"),
        HoldFailed,
        begun,
        ToS("BDAT 3072\r\nhe"),
        C("llo"),
        ToS("llo"),
        CEnd(End::Fin),
        Did(&["abort", "Reset Server", "Fin Client"]),
    ];
    played(&[RCPT, script]);
}
