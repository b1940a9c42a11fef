//! BDAT (RFC 3030) and BURL (RFC 4468).

use super::*;

/// A large last chunk: its text, its parts, and what goes to the server for them.
const LARGE_BYTES: usize = 70_000;
const PART_BYTES: usize = 68_976;

pub(super) const FIRST: &[Step] =
    &[C("BDAT 6\r\nhello "), ToS("BDAT 6\r\nhello "), Did(&["begin a@a.example > b@b.example"])];

pub(super) const FIRST_OK: &[Step] = &[S("250 6 octets\r\n"), ToC("250 6 octets\r\n")];

pub(super) fn played(script: &[&[Step]]) {
    play(&[&[GREETED, EHLO, RCPT], script].concat());
}

#[test]
fn a_message_in_one_chunk_is_held_whole() {
    played(&[&[
        C("BDAT 7 LAST\r\nhello\r\nQUIT\r\n"),
        ToS(""),
        Did(&["begin a@a.example > b@b.example", "end hello\\r\\n"]),
        Wants(Side::Client, false),
        Wants(Side::Server, true),
        Verdict(Decision::Release),
        ToS("BDAT 7 LAST\r\nhello\r\nQUIT\r\n"),
        S("250 queued\r\n221 bye\r\n"),
        ToC("250 queued\r\n221 bye\r\n"),
    ]]);
}

#[test]
fn chunks_stream_and_the_last_is_held() {
    played(&[
        FIRST,
        FIRST_OK,
        &[
            C("bdat 3\r\n.\r\n"),
            ToS("bdat 3\r\n.\r\n"),
            S("250 3 octets\r\n"),
            ToC("250 3 octets\r\n"),
            C("BDAT 5 last\r\nworld"),
            ToS(""),
            // No dot rules, no line ends.
            Did(&["end hello .\\r\\nworld"]),
            Verdict(Decision::Release),
            ToS("BDAT 5 last\r\nworld"),
            ToC(""),
            S("250 queued\r\n"),
            ToC("250 queued\r\n"),
        ],
        RCPT,
        &[
            C("BDAT 2 LAST\r\nhi"),
            Did(&["begin a@a.example > b@b.example", "end hi"]),
            Verdict(Decision::Release),
            ToS("BDAT 2 LAST\r\nhi"),
        ],
    ]);
}

#[test]
fn pipelined_chunks_are_answered_in_order_and_the_last_waits_for_those_before() {
    played(&[&[
        C("BDAT 1\r\naBDAT 1\r\nbBDAT 1 LAST\r\ncMAIL FROM:<c@c>\r\n"),
        ToS("BDAT 1\r\naBDAT 1\r\nb"),
        Did(&["begin a@a.example > b@b.example", "end abc"]),
        S("250 one\r\n"),
        ToC("250 one\r\n"),
        Verdict(Decision::Release),
        ToS(""),
        Wants(Side::Client, false),
        S("250 two\r\n"),
        ToC("250 two\r\n"),
        ToS("BDAT 1 LAST\r\ncMAIL FROM:<c@c>\r\n"),
        S("250 queued\r\n250 ok\r\n"),
        ToC("250 queued\r\n250 ok\r\n"),
    ]]);
}

#[test]
fn all_of_a_mail_in_one_piece() {
    play(&[
        GREETED,
        EHLO,
        &[
            C(
                "MAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\nRCPT TO:<no@b>\r\nBDAT 5\r\nhelloBDAT 0 LAST\r\n",
            ),
            // What the chunk is to be worth shows in these replies.
            ToS("MAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\nRCPT TO:<no@b>\r\n"),
            S("250 ok\r\n250 ok\r\n"),
            ToC("250 ok\r\n250 ok\r\n"),
            ToS(""),
            S("550 no\r\n"),
            ToC("550 no\r\n"),
            ToS("BDAT 5\r\nhello"),
            Did(&["begin a@a > b@b", "end hello"]),
            Verdict(Decision::Release),
            S("250 5 octets\r\n"),
            ToC("250 5 octets\r\n"),
            ToS("BDAT 0 LAST\r\n"),
            S("250 queued\r\n"),
            ToC("250 queued\r\n"),
        ],
    ]);
}

#[test]
fn an_infected_message_is_refused_and_its_last_chunk_never_sent() {
    played(&[
        FIRST,
        FIRST_OK,
        &[
            C("BDAT 5 LAST\r\nworldQUIT\r\n"),
            Did(&["end hello world"]),
            refuse("Eicar"),
            ToS(""),
            // What stands behind the chunk is the next command.
            ToC("554 5.7.1 Message refused: Eicar\r\n221 2.0.0 Bye\r\n"),
            Did(&["Reset Server", "Fin Client"]),
        ],
    ]);
}

#[test]
fn a_refusal_comes_behind_the_replies_to_the_chunks_before() {
    played(&[
        FIRST,
        &[
            C("BDAT 0 LAST\r\n"),
            Did(&["end hello "]),
            refuse("Eicar"),
            ToC(""),
            S("250 6 octets\r\n"),
            ToC("250 6 octets\r\n554 5.7.1 Message refused: Eicar\r\n"),
            Did(&["Reset Server"]),
            ToS(""),
        ],
    ]);
}

fn large() -> (&'static str, &'static str, &'static str) {
    let text: &'static str = "0123456789".repeat(LARGE_BYTES / 10).leak();
    let sent = format!("BDAT {LARGE_BYTES} LAST\r\n{text}").leak();
    let (part, tail) = text.split_at(PART_BYTES);
    let part = format!("BDAT {PART_BYTES}\r\n{part}").leak();
    let tail = format!("BDAT {} LAST\r\n{tail}", tail.len()).leak();
    (sent, part, tail)
}

/// A large last chunk; what was scanned is not compared here.
fn large_chunk(steps: &[Step]) -> Lab {
    let (sent, part, _) = large();
    let script = [GREETED, EHLO, RCPT, &[C(sent), ToS(part)]].concat();
    let mut lab = Lab::play(&script, &mut std::iter::repeat(10_000));
    let end = format!("end {}", &sent[sent.len() - LARGE_BYTES..]);
    assert_eq!(mem::take(&mut lab.did), ["begin a@a.example > b@b.example", &end]);
    let lab = lab.played(steps, &mut std::iter::empty());
    lab.assert_nothing_left();
    lab
}

#[test]
fn of_a_large_last_chunk_only_the_end_is_held() {
    let (.., tail) = large();
    assert_eq!(LARGE_BYTES - PART_BYTES, usize::try_from(BDAT_TAIL_BYTES).unwrap());
    large_chunk(&[
        Verdict(Decision::Release),
        ToS(""),
        S("250 part\r\n"),
        ToC(""),
        ToS(tail),
        S("250 queued\r\n"),
        ToC("250 queued\r\n"),
    ]);
    large_chunk(&[
        S("250 part\r\n"),
        ToC(""),
        refuse("Eicar"),
        ToS(""),
        ToC("554 5.7.1 Message refused: Eicar\r\n"),
        Did(&["Reset Server"]),
    ]);
}

#[test]
fn a_server_that_refuses_the_beginning_of_a_large_last_chunk_has_answered_all_of_it() {
    let after: &[Step] = &[
        ToC("552 too large\r\n"),
        ToS(""),
        C("RSET\r\n"),
        ToS("RSET\r\n"),
        S("250 ok\r\n"),
        ToC("250 ok\r\n"),
    ];
    let refused: &[Step] = &[S("552 too large\r\n"), Did(&["abort"])];
    large_chunk(&[refused, &[Verdict(Decision::Release)], after].concat());
    // The scan was over already.
    large_chunk(&[&[Verdict(Decision::Release), S("552 too large\r\n")], after].concat());
    // The client is still sending.
    let (sent, part, _) = large();
    let (most, rest) = sent.split_at(sent.len() - 10);
    let lab = Lab::play(
        &[
            GREETED,
            EHLO,
            RCPT,
            &[C(most), ToS(part), Did(&["begin a@a.example > b@b.example"])],
            refused,
            &[ToC("552 too large\r\n"), C(rest), ToC(""), ToS(""), C("NOOP\r\n"), ToS("NOOP\r\n")],
        ]
        .concat(),
        &mut std::iter::repeat(999),
    );
    lab.assert_nothing_left();
}

#[test]
fn zeros_in_front_of_a_size_are_left_out() {
    played(&[&[
        C("BDAT 0010\r\n0123456789BDAT 00 LAST\r\n"),
        ToS("BDAT 10\r\n0123456789"),
        Did(&["begin a@a.example > b@b.example", "end 0123456789"]),
        S("250 ok\r\n"),
        ToC("250 ok\r\n"),
        Verdict(Decision::Release),
        ToS("BDAT 0 LAST\r\n"),
    ]]);
}

#[test]
fn what_a_server_fetches_itself_is_counted_and_completes_nothing_unjudged() {
    let url: &[Step] = &[C("BURL imap://x/;uid=1 LAST\r\n")];
    let passed: &[Step] = &[
        ToS("BURL imap://x/;uid=1 LAST\r\n"),
        S("250 queued\r\n"),
        ToC("250 queued\r\n"),
        Did(&["Unscanned(Burl)"]),
    ];
    played(&[url, passed]);
    // Refused on its own, it leaves the transaction as it was.
    let refused: &[Step] =
        &[ToS("BURL imap://x/;uid=1 LAST\r\n"), S("500 what\r\n"), ToC("500 what\r\n")];
    let data: &[Step] = &[C("DATA\r\n"), ToS("DATA\r\n"), S("354 go\r\n"), ToC("354 go\r\n")];
    played(&[url, refused, data, &[Did(&["begin a@a.example > b@b.example"])]]);
    // Behind chunks the server may keep those.
    let judged: &[Step] = &[ToS(""), Did(&["end hello "]), Verdict(Decision::Release)];
    let last: &[Step] = &[C("BDAT 1 LAST\r\nx"), ToC(DEAD), ToS("")];
    played(&[FIRST, FIRST_OK, url, judged, refused, last]);
    // Behind chunks it is what makes the message real.
    played(&[
        FIRST,
        FIRST_OK,
        url,
        &[ToS(""), Did(&["end hello "]), Verdict(Decision::Release)],
        passed,
    ]);
    played(&[
        FIRST,
        FIRST_OK,
        &[
            C("BURL imap://x/;uid=1\r\nBDAT 1 LAST\r\n!"),
            ToS("BURL imap://x/;uid=1\r\n"),
            Did(&["end hello !"]),
            S("250 ok\r\n"),
            ToC("250 ok\r\n"),
            Did(&["Unscanned(Burl)"]),
            refuse("Eicar"),
            ToC("554 5.7.1 Message refused: Eicar\r\n"),
            Did(&["Reset Server"]),
        ],
    ]);
    played(&[
        FIRST,
        FIRST_OK,
        &[
            C("BURL imap://x/\r\n"),
            ToS("BURL imap://x/\r\n"),
            S("554 no\r\n"),
            ToC("554 no\r\n"),
            Did(&["abort"]),
        ],
        url,
        &[ToC(DEAD), ToS("")],
    ]);
}
