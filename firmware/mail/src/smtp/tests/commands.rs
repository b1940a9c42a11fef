//! Commands, replies, masks and STARTTLS.

use super::*;

#[test]
fn pipelined_commands_and_a_second_mail_behind_the_first() {
    play(&[
        GREETED,
        &[
            C(
                "EHLO c\r\nMAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\nRCPT TO:<no@b>\r\nRCPT TO:<c@b>\r\nDATA\r\n",
            ),
            ToS(
                "EHLO c\r\nMAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\nRCPT TO:<no@b>\r\nRCPT TO:<c@b>\r\nDATA\r\n",
            ),
            S("250 mx\r\n250 ok\r\n250 ok\r\n550 no\r\n251 forwarded\r\n354 go\r\n"),
            ToC("250 mx\r\n250 ok\r\n250 ok\r\n550 no\r\n251 forwarded\r\n354 go\r\n"),
            Did(&["begin a@a > b@b c@b"]),
            C("one\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<d@b>\r\nDATA\r\n"),
            ToS("one"),
            Did(&["end one\\r\\n"]),
            Verdict(Decision::Release),
            ToS("\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<d@b>\r\nDATA\r\n"),
            S("250 queued\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
            ToC("250 queued\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
            Did(&["begin  > d@b"]),
            C("two\r\n.\r\n"),
            ToS("two"),
            Did(&["end two\\r\\n"]),
            refuse("Eicar"),
            Did(&["Reset Server"]),
            ToC("554 5.7.1 Message refused: Eicar\r\n"),
        ],
    ]);
}

#[test]
fn rset_ehlo_and_the_end_of_a_mail_forget_the_envelope() {
    let forgotten: &[Step] =
        &[C("DATA\r\n"), ToS("DATA\r\n"), S("354 go\r\n"), ToC("354 go\r\n"), Did(&["begin  > "])];
    for command in ["RSET\r\n", "HELO x\r\n", "EHLO x\r\n"] {
        play(&[
            GREETED,
            &[
                C("MAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\n"),
                ToS("MAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\n"),
                S("250 ok\r\n250 ok\r\n"),
                ToC("250 ok\r\n250 ok\r\n"),
                C(command),
                ToS(command),
                S("250 ok\r\n"),
                ToC("250 ok\r\n"),
            ],
            forgotten,
        ]);
    }
    play(&[
        GREETED,
        DATA,
        HELD,
        &[Verdict(Decision::Release), ToS("\r\n.\r\n"), S("250 ok\r\n"), ToC("250 ok\r\n")],
        forgotten,
    ]);
}

#[test]
fn after_a_refused_data_the_next_bytes_are_commands() {
    play(&[
        GREETED,
        &[
            C("DATA\r\nSubject: x\r\n\r\nMAIL FROM:<e@a>\r\n.\r\n"),
            ToS("DATA\r\n"),
            S("554 no valid recipients\r\n"),
            ToC("554 no valid recipients\r\n"),
            // Nobody knows what an unknown command begins, so the next one waits for its reply. The
            // lines without a verb are answered here, in turn.
            ToS("Subject: x\r\n"),
            S("500 what\r\n"),
            ToC("500 what\r\n500 5.5.2 No command\r\n"),
            ToS("MAIL FROM:<e@a>\r\n"),
            S("250 ok\r\n"),
            ToC("250 ok\r\n500 5.5.2 No command\r\n"),
        ],
    ]);
}

#[test]
fn an_early_talker_waits_for_the_greeting() {
    play(&[&[
        C("EHLO early\r\nNOOP\r\n"),
        ToS(""),
        S("220 "),
        ToC(""),
        S("mx\r\n"),
        ToC("220 mx\r\n"),
        ToS("EHLO early\r\nNOOP\r\n"),
    ]]);
}

#[test]
fn a_554_greeting_is_passed_on() {
    play(&[&[
        S("554 no service\r\n"),
        ToC("554 no service\r\n"),
        C("QUIT\r\n"),
        ToS("QUIT\r\n"),
        S("221 bye\r\n"),
        ToC("221 bye\r\n"),
    ]]);
}

#[test]
fn starttls_makes_the_session_opaque() {
    let script = [
        GREETED,
        &[
            C("STARTTLS\r\n"),
            ToS("STARTTLS\r\n"),
            S("220 go\r\n"),
            ToC("220 go\r\n"),
            Did(&["Opaque(Tls)"]),
            C("\x16\x03\x01hello\n.\n"),
            ToS("\x16\x03\x01hello\n.\n"),
            S("\x16\x03\x03\0\x00250 x"),
            ToC("\x16\x03\x03\0\x00250 x"),
            CEnd(End::Fin),
            Did(&["Fin Server"]),
            S("bye"),
            ToC("bye"),
            SEnd(End::Fin),
            Did(&["Fin Client"]),
        ],
    ];
    play(&script);
    let lab = Lab::play(&script.concat()[..7], &mut std::iter::empty());
    assert!(!lab.session.is_opaque(), "not before the client's first byte");
    let lab = Lab::play(&script.concat()[..8], &mut std::iter::empty());
    assert!(lab.session.is_opaque());
}

#[test]
fn a_refused_starttls_goes_on_in_clear() {
    play(&[
        GREETED,
        &[
            C("STARTTLS\r\n"),
            ToS("STARTTLS\r\n"),
            S("454 not now\r\n"),
            ToC("454 not now\r\n"),
            C("NOOP\r\n"),
            ToS("NOOP\r\n"),
        ],
    ]);
}

#[test]
fn commands_behind_starttls_end_the_session() {
    play(&[
        GREETED,
        &[
            C("STARTTLS\r\nMAIL FROM:<evil@a>\r\n"),
            ToS("STARTTLS\r\n"),
            ToC("421 4.7.0 Commands behind STARTTLS, closing the connection\r\n"),
            Did(&["InjectionBehindStartTls by Client", "Fin Client", "Reset Server"]),
            S("220 go\r\n"),
            ToC(""),
        ],
    ]);
}

#[test]
fn replies_behind_the_220_of_starttls_end_the_session() {
    play(&[
        GREETED,
        &[
            C("STARTTLS\r\n"),
            ToS("STARTTLS\r\n"),
            S("220 go\r\n250-AUTH PLAIN\r\n"),
            ToC("220 go\r\n421 4.3.0 The mail server broke the protocol\r\n"),
            Did(&[
                "Opaque(Tls)",
                "InjectionBehindStartTls by Server",
                "Fin Client",
                "Reset Server",
            ]),
        ],
    ]);
}

#[test]
fn privileged_commands_are_answered_here_and_in_turn() {
    play(&[
        GREETED,
        &[
            C("NOOP\r\nXCLIENT ADDR=10.0.0.1\r\nxforward NAME=x\r\nNOOP\r\nPROXY TCP4 1 2 3 4\r\n"),
            ToS("NOOP\r\nNOOP\r\n"),
            Did(&["ForbiddenCommand by Client"; 3]),
            ToC(""),
            S("250 one\r\n"),
            ToC(
                "250 one\r\n502 5.5.1 Command not available here\r\n502 5.5.1 Command not available here\r\n",
            ),
            S("250 two\r\n"),
            ToC("250 two\r\n502 5.5.1 Command not available here\r\n"),
        ],
    ]);
}

#[test]
fn what_the_server_offers_is_what_the_client_sees() {
    let offer = "250-mx\r\n250-PIPELINING\r\n250-SIZE 1\r\n250-CHUNKING\r\n250-BINARYMIME\r\n\
                 250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-BURL imap\r\n250-STARTTLS\r\n\
                 250-ENHANCEDSTATUSCODES\r\n250-AUTH PLAIN LOGIN XOAUTH2\r\n250 X-UNHEARD-OF\r\n";
    play(&[
        GREETED,
        &[
            C("EHLO c\r\n"),
            ToS("EHLO c\r\n"),
            S(offer),
            ToC(offer),
            C("MAIL FROM:<\u{e9}@a> SMTPUTF8 BODY=BINARYMIME SIZE=9 RET=HDRS ENVID=x\r\n"),
            ToS("MAIL FROM:<\u{e9}@a> SMTPUTF8 BODY=BINARYMIME SIZE=9 RET=HDRS ENVID=x\r\n"),
        ],
    ]);
}

#[test]
fn masked_keywords_are_not_shown_and_their_commands_are_refused() {
    let refused = "502 5.5.1 Command not available here\r\n";
    play_with(
        &masking(&["binarymime", "BURL", "STARTTLS", "AUTH", "ETRN"]),
        &[
            GREETED,
            &[
                C("EHLO c\r\n"),
                ToS("EHLO c\r\n"),
                S("250-mx\r\n250-BINARYMIME\r\n250-CHUNKING\r\n250-ETRN\r\n250 AUTH PLAIN\r\n"),
                ToC("250-mx\r\n250 CHUNKING\r\n"),
                C("MAIL FROM:<a@a> BODY=BINARYMIME\r\nVRFY x\r\n"),
                ToC("555 5.5.4 BODY=BINARYMIME is not available\r\n"),
                ToS("VRFY x\r\n"),
                S("252 x\r\n"),
                ToC("252 x\r\n"),
                C("BURL imap://x LAST\r\n"),
                ToC(refused),
                C("STARTTLS\r\n"),
                ToC(refused),
                C(" auth PLAIN AGEAYg==\r\n"),
                ToC(refused),
                C("ETRN x\r\n"),
                ToC(refused),
                Did(&["ForbiddenCommand by Client"; 4]),
                ToS(""),
            ],
        ],
    );
}

#[test]
fn a_masked_bdat_ends_the_session_and_its_chunk_is_never_run() {
    for bdat in [
        "BDAT 23 LAST\r\nMAIL FROM:<evil@a>\r\nX",
        "BDAT -1\r\nQUIT\r\n",
        " bdat 0x10\r\nNOOP\r\n",
        "BDAT \r\nHELLO\r\n",
        "BDAT 18446744073709551616\r\nNOOP\r\n",
    ] {
        play_with(
            &masking(&["CHUNKING"]),
            &[
                GREETED,
                &[
                    C("NOOP\r\n"),
                    ToS("NOOP\r\n"),
                    C(bdat),
                    ToC(""),
                    S("250 ok\r\n"),
                    ToC("250 ok\r\n502 5.5.1 BDAT is not available, closing the connection\r\n"),
                    Did(&["ForbiddenCommand by Client", "Fin Client", "Reset Server"]),
                    ToS(""),
                ],
            ],
        );
    }
}

#[test]
fn lines_that_can_be_read_in_two_ways_end_the_session() {
    for line in ["NOOP\nNOOP\r\n", "NO\rOP\r\n", "NOOP\0\r\n", "\n", "\r\r\n", "MAIL\r\0\n"] {
        play(&[
            GREETED,
            &[
                C(line),
                ToS(""),
                ToC(
                    "500 5.5.2 Lines end with CR LF and contain no NUL, closing the connection\r\n",
                ),
                Did(&["BareLineEnd by Client", "Fin Client", "Reset Server"]),
                C("NOOP\r\n"),
            ],
        ]);
    }
}

#[test]
fn debug_tells_no_secrets() {
    let mut lab = Lab::play(
        &[GREETED, &[C("AUTH PLAIN\r\n"), S("334 \r\n"), C("c2VjcmV0")]].concat(),
        &mut std::iter::empty(),
    );
    lab.drain();
    assert!(!format!("{:?}", lab.session).contains("c2Vj"));
    let script = [GREETED, EHLO, RCPT, &[C("BDAT 6 LAST\r\nsecret")]].concat();
    let lab = Lab::play(&script, &mut std::iter::empty());
    let shown = format!("{:?}", lab.session);
    assert!(shown.contains("Held") && !shown.contains("secret"), "{shown}");
}
