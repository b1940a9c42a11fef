//! AUTH (RFC 4954) with every mechanism in use.

use super::*;

#[test]
fn sasl_dialogues_cross_unread() {
    play(&[
        GREETED,
        &[
            C("AUTH LOGIN\r\n"),
            ToS("AUTH LOGIN\r\n"),
            S("334 VXNlcm5hbWU6\r\n"),
            ToC("334 VXNlcm5hbWU6\r\n"),
            // Reads DATA, QUIT and BDAT; none of them is a command here.
            C("DATA\r\n"),
            ToS("DATA\r\n"),
            S("334 UGFzc3dvcmQ6\r\n"),
            ToC("334 UGFzc3dvcmQ6\r\n"),
            C("BDAT 5 LAST\r\n"),
            ToS("BDAT 5 LAST\r\n"),
            S("235 ok\r\n"),
            ToC("235 ok\r\n"),
            Did(&["Authenticated"]),
            C("DATA\r\n"),
            ToS("DATA\r\n"),
            S("354 go\r\n"),
            ToC("354 go\r\n"),
            Did(&["begin  >  authenticated"]),
        ],
    ]);
}

#[test]
fn sasl_responses_sent_at_once_wait_for_their_challenges() {
    play(&[
        GREETED,
        &[
            C("AUTH LOGIN\r\nDATA\r\nBDAT\r\nNOOP\r\n"),
            ToS("AUTH LOGIN\r\n"),
            S("334 VXNlcm5hbWU6\r\n"),
            ToC("334 VXNlcm5hbWU6\r\n"),
            ToS("DATA\r\n"),
            S("334 UGFzc3dvcmQ6\r\n"),
            ToC("334 UGFzc3dvcmQ6\r\n"),
            ToS("BDAT\r\n"),
            S("235 ok\r\n"),
            ToC("235 ok\r\n"),
            ToS("NOOP\r\n"),
            Did(&["Authenticated"]),
        ],
    ]);
}

#[test]
fn a_cancelled_or_refused_sasl_dialogue_returns_to_commands() {
    play(&[
        GREETED,
        &[
            C("AUTH PLAIN\r\n"),
            ToS("AUTH PLAIN\r\n"),
            S("334 \r\n"),
            ToC("334 \r\n"),
            C("*\r\nXCLIENT NAME=x\r\n"),
            ToS("*\r\n"),
            S("501 cancelled\r\n"),
            ToC("501 cancelled\r\n502 5.5.1 Command not available here\r\n"),
            Did(&["ForbiddenCommand by Client"]),
            C("AUTH PLAIN AGEAYg==\r\nNOOP\r\n"),
            ToS("AUTH PLAIN AGEAYg==\r\n"),
            S("535 no\r\n"),
            ToC("535 no\r\n"),
            ToS("NOOP\r\n"),
        ],
    ]);
}

/// Client line, reply; the last reply ends it.
fn dialogue(turns: &[(&'static str, &'static str)], end: &[Step]) {
    let mut script = GREETED.to_vec();
    for (line, reply) in turns {
        script.extend([C(line), ToS(line), S(reply), ToC(reply)]);
    }
    script.extend(end.iter().cloned());
    // A command again, and none that waits for a challenge.
    script.extend([C("NOOP\r\nNOOP\r\n"), ToS("NOOP\r\nNOOP\r\n")]);
    play(&[&script]);
}

#[test]
fn every_mechanism_in_use() {
    let authenticated: &[Step] = &[Did(&["Authenticated"])];
    let refused: &[Step] = &[Did(&[])];
    dialogue(&[("AUTH PLAIN AGEAYg==\r\n", "235 2.7.0 ok\r\n")], authenticated);
    dialogue(&[("AUTH PLAIN =\r\n", "334 \r\n"), ("AGEAYg==\r\n", "235 ok\r\n")], authenticated);
    dialogue(
        &[
            ("auth login\r\n", "334 VXNlcm5hbWU6\r\n"),
            ("QUIT\r\n", "334 UGFzc3dvcmQ6\r\n"),
            ("RSET\r\n", "235 ok\r\n"),
        ],
        authenticated,
    );
    dialogue(
        &[("AUTH LOGIN dXNlcg==\r\n", "334 UGFzc3dvcmQ6\r\n"), ("DATA\r\n", "235 ok\r\n")],
        authenticated,
    );
    dialogue(
        &[
            ("AUTH CRAM-MD5\r\n", "334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2U+\r\n"),
            ("dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw\r\n", "235 ok\r\n"),
        ],
        authenticated,
    );
    // RFC 7628 and its forerunner: the error is a challenge, which the client answers with nothing
    // or with one control byte.
    dialogue(
        &[
            (
                "AUTH XOAUTH2 dXNlcj1hAWF1dGg9QmVhcmVyIHgBAQ==\r\n",
                "334 eyJzdGF0dXMiOiI0MDEifQ==\r\n",
            ),
            ("\r\n", "535 5.7.8 no\r\n"),
        ],
        refused,
    );
    dialogue(
        &[
            (
                "AUTH OAUTHBEARER bixhPWEsAWF1dGg9QmVhcmVyIHgBAQ==\r\n",
                "334 eyJzdGF0dXMiOiI0MDEifQ==\r\n",
            ),
            ("AQ==\r\n", "535 5.7.8 no\r\n"),
        ],
        refused,
    );
    dialogue(&[("AUTH CRAM-MD5\r\n", "334 PDE+\r\n"), ("*\r\n", "501 cancelled\r\n")], refused);
    dialogue(&[("AUTH LOGIN\r\n", "334 VXNlcm5hbWU6\r\n"), ("x\r\n", "454 later\r\n")], refused);
    dialogue(&[("AUTH UNHEARD-OF\r\n", "504 no\r\n")], refused);
    dialogue(&[("X-EXPS GSSAPI\r\n", "334 x\r\n"), ("DATA\r\n", "235 ok\r\n")], authenticated);
}

#[test]
fn behind_a_security_layer_nobody_reads() {
    let begun: &[Step] =
        &[C("AUTH GSSAPI YII=\r\n\0\0\0\u{7}NOOP\n.\n"), ToS("AUTH GSSAPI YII=\r\n")];
    let accepted: &[Step] = &[S("235 ok\r\n"), ToC("235 ok\r\n")];
    play(&[
        GREETED,
        begun,
        accepted,
        &[
            ToS("\0\0\0\u{7}NOOP\n.\n"),
            Did(&["Authenticated", "Opaque(Unframed)"]),
            S("\0\0\0\u{2}x\n"),
            ToC("\0\0\0\u{2}x\n"),
        ],
    ]);
    // Nothing was agreed on.
    let bare_line_end =
        "500 5.5.2 Lines end with CR LF and contain no NUL, closing the connection\r\n";
    let closed: &[Step] = &[Did(&["BareLineEnd by Client", "Fin Client", "Reset Server"]), ToS("")];
    play(&[
        GREETED,
        begun,
        &[S("535 no\r\n"), ToC(format!("535 no\r\n{bare_line_end}").leak())],
        closed,
    ]);
    // Only the first byte counts.
    play(&[
        GREETED,
        &[C("AUTH GSSAPI YII=\r\nNOOP\r\n"), ToS("AUTH GSSAPI YII=\r\n")],
        accepted,
        &[Did(&["Authenticated"]), ToS("NOOP\r\n"), C("\0\n"), S("250 ok\r\n")],
        &[ToC(format!("250 ok\r\n{bare_line_end}").leak())],
        closed,
    ]);
}

#[test]
fn the_longest_tokens_fit() {
    // RFC 4954 section 4: 12,288 octets of base64, initial responses and challenges alike.
    let token = "A".repeat(12_288);
    let initial = format!("AUTH OAUTHBEARER {token}\r\n").leak();
    let challenge = format!("334 {token}\r\n").leak();
    let response = format!("{token}\r\n").leak();
    dialogue(
        &[(initial, challenge), (response, challenge), (response, "235 ok\r\n")],
        &[Did(&["Authenticated"])],
    );
}

#[test]
fn sasl_lines_have_the_limits_of_commands() {
    let begun: &[Step] =
        &[C("AUTH PLAIN\r\n"), ToS("AUTH PLAIN\r\n"), S("334 \r\n"), ToC("334 \r\n")];
    play(&[
        GREETED,
        begun,
        &[
            C(format!("{}\r\n", "A".repeat(COMMAND_LINE_BYTES_MAX)).leak()),
            ToS(""),
            ToC("500 5.5.2 Line too long, closing the connection\r\n"),
            Did(&["LineTooLong by Client", "Fin Client", "Reset Server"]),
        ],
    ]);
    play(&[
        GREETED,
        begun,
        &[
            C("AGEAYg==\nDATA\r\n"),
            ToS(""),
            ToC("500 5.5.2 Lines end with CR LF and contain no NUL, closing the connection\r\n"),
            Did(&["BareLineEnd by Client", "Fin Client", "Reset Server"]),
        ],
    ]);
}
