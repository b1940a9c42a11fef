//! The limits of BDAT are reached here.

use super::chunks::{FIRST, FIRST_OK, played};
use super::*;

/// A last and only chunk of so many bytes, with its command line.
fn last_chunk(bytes: u64) -> String {
    format!("BDAT {bytes} LAST\r\n{}", "x".repeat(usize::try_from(bytes).unwrap()))
}

#[test]
fn the_largest_chunk_that_is_held_whole() {
    let script = [GREETED, EHLO, RCPT].concat();
    let mut lab = Lab::play(&script, &mut std::iter::empty());
    lab.send(Side::Client, last_chunk(BDAT_HELD_BYTES_MAX).as_bytes(), &mut std::iter::empty());
    assert!(lab.to_server.is_empty());
    assert!(lab.session.buffered_bytes() as u64 > BDAT_HELD_BYTES_MAX);

    let mut lab = Lab::play(&script, &mut std::iter::empty());
    lab.send(Side::Client, last_chunk(BDAT_HELD_BYTES_MAX + 1).as_bytes(), &mut std::iter::empty());
    let part = BDAT_HELD_BYTES_MAX + 1 - BDAT_TAIL_BYTES;
    assert!(lab.to_server.starts_with(format!("BDAT {part}\r\nx").as_bytes()));
    assert!(lab.session.buffered_bytes() as u64 <= BDAT_TAIL_BYTES + 32);
}

#[test]
fn the_largest_size_streams_without_being_stored() {
    let script = [
        &[GREETED, EHLO, RCPT].concat()[..],
        &[
            C(format!("BDAT {BDAT_BYTES_MAX} LAST\r\n").leak()),
            ToS(format!("BDAT {}\r\n", BDAT_BYTES_MAX - BDAT_TAIL_BYTES).leak()),
        ],
    ]
    .concat();
    let mut lab = Lab::play(&script, &mut std::iter::empty());
    for _ in 0..100 {
        lab.send(Side::Client, &[b'x'; 100_000], &mut std::iter::empty());
        assert_eq!(lab.session.buffered_bytes(), 0);
    }
    assert_eq!(lab.to_server.len(), 10_000_000);
}

#[test]
fn more_chunks_than_fit_wait_for_replies() {
    let mut lab = Lab::play(&[GREETED, EHLO, RCPT].concat(), &mut std::iter::empty());
    let chunks = "BDAT 1\r\nx".repeat(PIPELINED_COMMANDS_MAX + 2) + "BDAT 0 LAST\r\n";
    lab.send(Side::Client, chunks.as_bytes(), &mut std::iter::empty());
    assert_eq!(lab.to_server, "BDAT 1\r\nx".repeat(PIPELINED_COMMANDS_MAX).as_bytes());
    for _ in 0..PIPELINED_COMMANDS_MAX + 1 {
        lab.step(&S("250 ok\r\n"), &mut std::iter::empty());
    }
    lab.step(&Verdict(Decision::Release), &mut std::iter::empty());
    assert!(lab.to_server.ends_with(b"BDAT 1\r\nx"));
    lab.step(&S("250 ok\r\n"), &mut std::iter::empty());
    assert!(lab.to_server.ends_with(b"BDAT 0 LAST\r\n"));
}

#[test]
fn chunks_that_are_answered_here_have_a_limit() {
    let count = usize::try_from(REFUSED_COMMANDS_MAX).unwrap();
    play(&[
        GREETED,
        &[
            C("BDAT 6\r\nNOOP\r\n".repeat(count + 1).leak()),
            ToC(("502 5.5.1 BDAT is not available\r\n".repeat(count)
                + "421 4.7.0 Too many errors\r\n")
                .leak()),
            Did(&["Fin Client", "Reset Server"]),
            ToS(""),
        ],
    ]);
}

#[test]
fn a_silent_server_is_given_up_behind_chunks() {
    let end: &[Step] = &[
        ToC("421 4.4.2 The mail server did not answer in time\r\n"),
        Did(&["timeout of Server", "Fin Client", "Reset Server"]),
    ];
    let before: &[Step] = &[C("NOOP\r\n"), ToS("NOOP\r\n")];
    let last: &[Step] = &[C("BDAT 0 LAST\r\n"), Did(&["end hello "]), Verdict(Decision::Release)];
    // Before the first chunk, behind the judged last one, and behind it at the server.
    played(&[before, &[C("BDAT 5\r\nhello"), After(299), Did(&[]), After(1)], end]);
    played(&[FIRST, last, &[After(299), Did(&[]), After(1)], end, &[ToS("")]]);
    played(&[
        FIRST,
        FIRST_OK,
        last,
        &[ToS("BDAT 0 LAST\r\n"), After(599), Did(&[]), After(1)],
        end,
    ]);
}

#[test]
fn a_late_verdict_comes_behind_the_replies_to_the_chunks_before() {
    let late = "451 4.7.1 The message could not be checked in time\r\n";
    played(&[
        FIRST,
        &[
            C("BDAT 0 LAST\r\n"),
            Did(&["end hello "]),
            After(300),
            Did(&["abort"]),
            ToC(""),
            S("250 6 octets\r\n"),
            ToC(format!("250 6 octets\r\n{late}").leak()),
            Did(&["Reset Server"]),
            Verdict(Decision::Release),
            ToS(""),
        ],
    ]);
}

#[test]
fn a_silent_or_slow_client_is_given_up_within_a_chunk() {
    let end: &[Step] = &[
        ToC("421 4.4.2 Timeout, closing the connection\r\n"),
        Did(&["timeout of Client", "abort", "Fin Client", "Reset Server"]),
    ];
    let begun: &[Step] =
        &[C("BDAT 1000\r\nx"), ToS("BDAT 1000\r\nx"), Did(&["begin a@a.example > b@b.example"])];
    played(&[begun, &[After(299), C("x"), ToS("x"), After(299), Did(&[]), After(1)], end]);
    let mut script = [GREETED, EHLO, RCPT, begun].concat();
    for _ in 0..6 {
        script.extend([Did(&[]), After(100), C("x"), ToS("x")]);
    }
    script.extend(end.iter().cloned());
    script.retain(|step| !matches!(step, ToS("x")));
    script.push(ToS("xxxxx"));
    play(&[&script]);
    // Thrown away, it has the limits of a rest.
    play(&[
        GREETED,
        &[
            C("BDAT 5\r\nx"),
            After(299),
            C("x"),
            After(300),
            ToC("421 4.4.2 Timeout, closing the connection\r\n"),
            Did(&["timeout of Client", "Fin Client", "Reset Server"]),
        ],
    ]);
}
