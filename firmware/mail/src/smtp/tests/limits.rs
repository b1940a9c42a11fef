//! Every limit is reached here, in size, number and time.

use super::*;

#[test]
fn a_command_line_has_a_limit() {
    let text =
        |bytes: usize| -> &'static str { format!("NOOP {}\r\n", "x".repeat(bytes - 7)).leak() };
    let longest = text(COMMAND_LINE_BYTES_MAX);
    play(&[GREETED, &[C(longest), ToS(longest)]]);
    play(&[
        GREETED,
        &[
            C(text(COMMAND_LINE_BYTES_MAX + 1)),
            ToS(""),
            ToC("500 5.5.2 Line too long, closing the connection\r\n"),
            Did(&["LineTooLong by Client", "Fin Client", "Reset Server"]),
        ],
    ]);
}

#[test]
fn an_endless_greeting_has_a_limit() {
    play(&[&[
        S("220-spam\r\n".repeat(reply::REPLY_LINES_MAX).leak()),
        ToC("421 4.3.0 The mail server broke the protocol\r\n"),
        Did(&["LineTooLong by Server", "Fin Client", "Reset Server"]),
    ]]);
}

#[test]
fn more_commands_than_fit_wait_without_being_lost() {
    let commands = "NOOP\r\n".repeat(PIPELINED_COMMANDS_MAX + 3).leak();
    let first = &commands[..6 * PIPELINED_COMMANDS_MAX];
    let mut lab = Lab::play(
        &[GREETED, &[C(commands), ToS(first), S("250 ok\r\n"), ToS("NOOP\r\n")]].concat(),
        &mut std::iter::empty(),
    );
    // The client is stopped as soon as a little waits.
    let flood = Bytes::from("NOOP\r\n".repeat(UNPROCESSED_BYTES_MAX / 6 + 1));
    lab.session.receive(Side::Client, flood, lab.now);
    assert!(!lab.session.wants(Side::Client));
    for _ in 0..PIPELINED_COMMANDS_MAX {
        lab.step(&S("250 ok\r\n"), &mut std::iter::empty());
    }
    assert!(lab.session.wants(Side::Client));
}

#[test]
fn recipients_beyond_the_limit_are_served_but_not_listed() {
    let mut lab = Lab::play(GREETED, &mut std::iter::empty());
    for _ in 0..RECIPIENTS_KEPT_MAX + 1 {
        lab.step(&C("RCPT TO:<b@b>\r\n"), &mut std::iter::empty());
        lab.step(&S("250 ok\r\n"), &mut std::iter::empty());
    }
    assert_eq!(lab.to_server, "RCPT TO:<b@b>\r\n".repeat(RECIPIENTS_KEPT_MAX + 1).as_bytes());
    assert_eq!(lab.session.transaction.rcpt_to.len(), RECIPIENTS_KEPT_MAX);
}

#[test]
fn commands_answered_here_have_a_limit() {
    let refusals = "500 5.5.2 No command\r\n".repeat(REFUSED_COMMANDS_MAX as usize).leak();
    play(&[
        GREETED,
        &[
            C("\r\n".repeat(REFUSED_COMMANDS_MAX as usize).leak()),
            ToC(refusals),
            C("\r\n"),
            ToC("421 4.7.0 Too many errors\r\n"),
            Did(&["Fin Client", "Reset Server"]),
        ],
    ]);
}

#[test]
fn a_silent_server_is_given_up() {
    let end: &[Step] = &[
        ToC("421 4.4.2 The mail server did not answer in time\r\n"),
        Did(&["timeout of Server", "Fin Client", "Reset Server"]),
    ];
    play(&[&[S("220-"), After(299), Did(&[]), After(1)], end]);
    play(&[GREETED, &[C("NOOP\r\n"), ToS("NOOP\r\n"), After(299), S("250"), After(1)], end]);
    play(&[GREETED, &[C("DATA\r\n"), ToS("DATA\r\n"), After(119), Did(&[]), After(1)], end]);
    play(&[
        GREETED,
        DATA,
        HELD,
        &[Verdict(Decision::Release), ToS("\r\n.\r\n"), After(599), Did(&[]), After(1)],
        end,
    ]);
    // Half closed, all answered, and no FIN.
    play(&[GREETED, &[CEnd(End::Fin), Did(&["Fin Server"]), After(300)], end]);
}

#[test]
fn a_silent_or_dripping_client_is_given_up() {
    let end: &[Step] = &[
        ToC("421 4.4.2 Timeout, closing the connection\r\n"),
        Did(&["timeout of Client", "Fin Client", "Reset Server"]),
    ];
    play(&[GREETED, &[After(329), Did(&[]), After(1)], end]);
    // The time of a line is a total, however steadily it drips.
    play(&[
        GREETED,
        &[C("N"), After(20), C("O"), After(20), C("O"), After(19), Did(&[]), After(1)],
        end,
    ]);
    play(&[
        GREETED,
        DATA,
        &[
            C("half"),
            ToS("half"),
            After(299),
            Did(&[]),
            After(1),
            ToC("421 4.4.2 Timeout, closing the connection\r\n"),
            Did(&["timeout of Client", "abort", "Fin Client", "Reset Server"]),
        ],
    ]);
}

#[test]
fn a_message_has_a_lowest_speed() {
    let mut lab = Lab::play(&[GREETED, DATA].concat(), &mut std::iter::empty());
    for _ in 0..60 {
        assert!(lab.did.is_empty());
        lab.step(&C("x"), &mut std::iter::empty());
        lab.step(&After(10), &mut std::iter::empty());
    }
    assert_eq!(lab.did, ["timeout of Client", "abort", "Fin Client", "Reset Server"]);

    // One that earns its time goes on.
    let mut lab = Lab::play(&[GREETED, DATA].concat(), &mut std::iter::empty());
    for _ in 0..60 {
        lab.step(&C("x".repeat(10 * 1_024).leak()), &mut std::iter::empty());
        lab.step(&After(20), &mut std::iter::empty());
    }
    assert!(lab.did.is_empty());
}

#[test]
fn the_rest_of_a_refused_message_is_waited_for_a_while() {
    play(&[
        GREETED,
        DATA,
        &[
            C("a\n.\n"),
            ToS("a\n."),
            ToC("554 5.6.0 Lone dot with a line end other than CR LF, message refused\r\n"),
            Did(&["BareLineEnd by Client", "abort", "Reset Server"]),
            After(29),
            C("b"),
            After(29),
            Did(&[]),
            After(1),
            Did(&["timeout of Client", "Fin Client"]),
        ],
    ]);
}

#[test]
fn a_verdict_that_never_comes_defers_the_mail() {
    play(&[
        GREETED,
        DATA,
        HELD,
        &[
            After(299),
            Did(&[]),
            After(1),
            ToC("451 4.7.1 The message could not be checked in time\r\n"),
            Did(&["abort", "Reset Server"]),
            Verdict(Decision::Release),
            ToS(""),
        ],
    ]);
}

#[test]
fn outputs_are_made_as_they_are_taken() {
    let mut lab = Lab::play(&[GREETED, DATA].concat(), &mut std::iter::empty());
    let body = "..\r\n".repeat(10_000) + ".\r\n";
    lab.session.receive(Side::Client, body.clone().into(), lab.now);
    let (mut taken, mut most) = (0, 0);
    while let Some(output) = lab.session.poll_output() {
        lab.note(output);
        taken += 1;
        most = most.max(lab.session.outputs.len());
    }
    assert!(taken > 20_000 && most < OUTPUTS_MAX + 4, "{taken} {most}");
    assert_eq!(lab.to_server, body.strip_suffix("\r\n.\r\n").unwrap().as_bytes());
    assert_eq!(lab.did, [format!("end {}", escape(&".\r\n".repeat(10_000)))]);
}

#[test]
fn a_client_of_a_lost_server_may_not_stay_for_ever() {
    play(&[
        GREETED,
        DATA,
        HELD,
        &[
            refuse("Eicar"),
            Did(&["Reset Server"]),
            ToC("554 5.7.1 Message refused: Eicar\r\n"),
            After(329),
            Did(&[]),
            After(1),
            ToC("421 4.4.2 Timeout, closing the connection\r\n"),
            Did(&["timeout of Client", "Fin Client"]),
        ],
    ]);
}

#[test]
fn a_session_is_small() {
    // A thousand idle ones must fit a small box many times.
    assert!(size_of::<SmtpSession>() <= 4 * 1_024);
}
