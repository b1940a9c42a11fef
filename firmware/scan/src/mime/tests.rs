mod limits;
mod places;
mod texts;

use proptest::prelude::*;

use super::*;
use crate::tests::encode_base64;

#[derive(Debug, Default, PartialEq, Eq)]
struct Walked {
    parts: Vec<(PartHead, Vec<u8>)>,
    ended: Vec<u32>,
    findings: Vec<Unscannable>,
}

impl Walked {
    fn bodies(&self) -> Vec<&str> {
        self.parts.iter().map(|part| std::str::from_utf8(&part.1).unwrap_or("?")).collect()
    }

    fn has(&self, body: &str) -> bool {
        self.parts.iter().any(|part| part.1 == body.as_bytes())
    }
}

fn walk_chunks<'a>(
    reading: Reading,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    limits: &Limits,
) -> (Walked, Oddities) {
    let mut walker = Walker::reading(reading, limits);
    let mut walked = Walked::default();
    let mut take = |walker: &mut Walker| {
        while let Some(event) = walker.poll_event() {
            match event {
                Event::PartStart(head) => walked.parts.push((head, Vec::new())),
                Event::PartData { number, bytes } => {
                    assert!(!bytes.is_empty() && bytes.len() <= 4 * EVENT_BYTES);
                    let part = walked.parts.iter_mut().find(|part| part.0.number == number);
                    part.unwrap().1.extend_from_slice(&bytes);
                }
                Event::PartEnd(head) => {
                    walked.ended.push(head.number);
                    let part = walked.parts.iter_mut().find(|part| part.0.number == head.number);
                    part.unwrap().0 = head;
                }
                Event::Finding(finding) => walked.findings.push(finding),
            }
        }
    };
    for chunk in chunks {
        walker.feed(chunk);
        take(&mut walker);
    }
    walker.finish();
    take(&mut walker);
    let oddities = walker.oddities();
    (walked, oddities)
}

/// Walks with CRLF for every LF.
fn walk(mail: &str) -> Walked {
    walk_with(mail, &Limits::default())
}

fn walk_with(mail: &str, limits: &Limits) -> Walked {
    let mail = mail.replace('\n', "\r\n");
    let (walked, _) = walk_chunks(Reading::default(), [mail.as_bytes()], limits);
    if !walked
        .findings
        .iter()
        .any(|f| matches!(f, Unscannable::OverParts | Unscannable::OverDecoded))
    {
        assert_eq!(walked.parts.len(), walked.ended.len(), "every part ends");
    }
    walked
}

fn oddities(mail: &str) -> Oddities {
    let mail = mail.replace('\n', "\r\n");
    walk_chunks(Reading::default(), [mail.as_bytes()], &Limits::default()).1
}

fn multipart(parts: &[&str]) -> String {
    let mut mail = "Content-Type: multipart/mixed; boundary=BND\n\npreamble\n".to_owned();
    for part in parts {
        mail += &format!("--BND\n{part}\n");
    }
    mail + "--BND--\nepilogue\n"
}

#[test]
fn a_plain_mail_is_one_part() {
    assert_eq!(walk("Subject: x\n\nhello\nworld\n").bodies(), ["hello\r\nworld\r\n"]);
    assert_eq!(walk("Subject: x\n").bodies(), [""]);
    assert_eq!(walk("").bodies().len(), 0);
}

#[test]
fn parts_end_before_the_end_of_line_of_their_delimiter() {
    let walked = walk(&multipart(&["\none", "\ntwo\n", "\n"]));
    assert_eq!(walked.bodies(), ["one", "two\r\n", ""]);
    assert_eq!(walked.findings, []);
}

#[test]
fn each_encoding_is_undone() {
    let walked = walk(&multipart(&[
        "Content-Transfer-Encoding: base64\n\naGVsbG8=",
        "Content-Transfer-Encoding: quoted-printable\n\nh=65llo=\n",
        "Content-Transfer-Encoding: 8bit\n\nhello",
        "Content-Transfer-Encoding: x-uuencode\n\nbegin 644 a.bin\n#0V%T\n`\nend",
    ]));
    assert_eq!(walked.bodies()[..3], ["hello"; 3]);
    assert!(walked.has("Cat"));
    assert!(walked.parts.iter().any(|part| part.0.file_names == ["a.bin"]));
}

#[test]
fn nested_messages_and_digests() {
    let inner = "Subject: inner\nContent-Transfer-Encoding: base64\n\naGVsbG8=";
    let walked = walk(&multipart(&[&format!("Content-Type: message/rfc822\n\n{inner}")]));
    assert_eq!(walked.bodies(), ["hello"]);
    assert_eq!(walked.parts[0].0.depth, 2);
    let digest = format!("Content-Type: multipart/digest; boundary=D\n\n--D\n\n{inner}\n--D--\n");
    assert_eq!(walk(&digest).bodies(), ["hello"]);
}

#[test]
fn encoded_messages_and_multiparts_are_walked_inside() {
    let inner = "Subject: inner\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=";
    let message = format!(
        "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n{}\n",
        encode_base64(inner.as_bytes())
    );
    assert!(walk(&message).has("hello"));
    let parts = "--BND\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n--BND--\r\n";
    let encoded = format!(
        "Content-Type: multipart/mixed; boundary=BND\nContent-Transfer-Encoding: base64\n\n{}\n",
        encode_base64(parts.as_bytes())
    );
    assert!(walk(&encoded).has("hello"));
    let clear = format!(
        "Content-Type: multipart/mixed; boundary=BND\nContent-Transfer-Encoding: base64\n\n{}",
        parts.replace("\r\n", "\n")
    );
    assert!(walk(&clear).has("hello"));
}

#[test]
fn signed_messages_and_attached_mail_files_are_walked_inside() {
    let inner = "Content-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n";
    for chunk in [None, Some(10)] {
        let signed = cms::tests::signed(inner.as_bytes(), chunk);
        let walked = walk(&format!(
            "Content-Type: application/pkcs7-mime; smime-type=signed-data\n\
             Content-Transfer-Encoding: base64\n\n{}\n",
            encode_base64(&signed)
        ));
        assert!(walked.has("hello"));
        assert_eq!(walked.findings, []);
    }
    for kind in [
        "application/octet-stream; name=\"x.EML\"",
        "application/octet-stream; name*=utf-8''x.mh%54",
        "message/global",
        "message/x-unknown",
    ] {
        let attached = walk(&format!(
            "Content-Type: {kind}\nContent-Transfer-Encoding: base64\n\n{}\n",
            encode_base64(inner.as_bytes())
        ));
        assert!(attached.has("hello"), "{kind}");
    }
}

#[test]
fn fields_given_twice_are_read_both_ways() {
    let twice = "Content-Transfer-Encoding: quoted-printable\n\
                 Content-Transfer-Encoding: base64\n\naGVsbG8=\n";
    assert!(walk(twice).has("hello"));
    assert!(walk("Content-Transfer-Encoding: x-base64\n\naGVsbG8=\n").has("hello"));
}

#[test]
fn two_boundaries_that_both_occur_are_ambiguous() {
    let head = "Content-Type: multipart/mixed; boundary=\"a\"; boundary=\"b\"\n\n";
    let part = "Content-Transfer-Encoding: base64\n\naGVsbG8=\n";
    for one in ["a", "b"] {
        let walked = walk(&format!("{head}--{one}\n{part}--{one}--\n"));
        assert!(walked.has("hello"));
        assert_eq!(walked.findings, []);
    }
    let walked = walk(&format!("{head}--a\n{part}--b\n{part}--a--\n"));
    assert_eq!(walked.findings, [Unscannable::Ambiguous]);
}

#[test]
fn delimiters_nobody_announced_are_ambiguous_and_read_flat() {
    let mail = "Content-Type: multipart/mixed; boundary=a\n\n\
                --b\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n--b--\n";
    let walked = walk(mail);
    assert_eq!(walked.findings, [Unscannable::Ambiguous]);
    assert!(walked.has("hello"), "the preamble is sniffed");
    assert!(oddities(mail).structure);
    // No boundary at all, and no line that could be one: nothing to read in two ways.
    assert_eq!(walk("Content-Type: multipart/mixed; boundary=a\n\nhello\n").findings, []);
}

#[test]
fn a_delimiter_behind_a_bare_carriage_return_is_ambiguous() {
    let mail = multipart(&["\none", "\ntwo"]).replace("one\n--BND", "one\r--BND");
    let (walked, _) = walk_chunks(Reading::default(), [mail.as_bytes()], &Limits::default());
    assert_eq!(walked.findings, [Unscannable::Ambiguous]);
}

#[test]
fn what_looks_like_a_part_is_decoded_wherever_it_stands() {
    let hidden = "Content-Transfer-Encoding: base64\n\naGVsbG8=\n";
    let preamble = multipart(&["\nx"]).replace("preamble\n", hidden);
    assert!(walk(&preamble).has("hello"));
    let epilogue = multipart(&["\nx"]).replace("epilogue\n", &format!("--x\n{hidden}"));
    assert!(walk(&epilogue).has("hello"));
    assert!(walk(&format!("Subject: x\n\nsee below\n{hidden}")).has("hello"));
    assert!(walk(&format!("Subject: x\nno field\n{hidden}")).has("hello"));
}

#[test]
fn lines_that_may_end_a_header_are_read_both_ways() {
    let flat = Reading { flat: true, ..Reading::default() };
    for line in [" \t", "\u{b}", "\0", "foobar", "foo bar:", ":", "ABC=", "\u{e4}: x", "foo bar"] {
        let head = format!("Content-Transfer-Encoding: base64\n{line}\n");
        let begun = base64::base64((line.to_owned() + "aGVsbG8=").as_bytes());
        for (mail, wanted) in [
            // Skipped, or a part of the header.
            (format!("{head}X: y\n\naGVsbG8=\n"), b"hello".as_slice()),
            (format!("{head}\naGVsbG8=\n"), b"hello"),
            // The body, or the end of the header.
            (format!("{head}aGVsbG8=\n\n#\n"), &begun),
            (format!("{head}aGVs:bG8=\n\n#\n"), &begun),
        ] {
            assert!(oddities(&mail).structure, "{mail}");
            let [usual, flat] = [Reading::default(), flat]
                .map(|reading| walk_chunks(reading, [mail.as_bytes()], &Limits::default()).0);
            let parts = [usual.parts, flat.parts].concat();
            assert!(parts.iter().any(|part| part.1 == wanted), "{mail}: {parts:?}");
        }
    }
}

#[test]
fn a_folded_line_above_the_first_field_is_no_end() {
    let mail = " x\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n";
    assert_eq!(walk(mail).bodies(), ["hello"]);
}

#[test]
fn a_flat_reading_ignores_the_structure() {
    let mail = multipart(&["Content-Transfer-Encoding: base64\n\naGVsbG8="]).replace('\n', "\r\n");
    let flat = Reading { flat: true, ..Reading::default() };
    let (walked, _) = walk_chunks(flat, [mail.as_bytes()], &Limits::default());
    assert!(walked.has("hello"));
}

#[test]
fn regular_mail_needs_one_reading() {
    let mail =
        multipart(&["\nhello -- there\n-- \nme", "Content-Transfer-Encoding: base64\n\naGk="]);
    assert_eq!(further_readings(oddities(&mail), &[Reading::default()]), []);
}

#[test]
fn odd_but_harmless_mail_has_no_findings() {
    for mail in [
        "",
        "\n",
        "Subject: x\n\n",
        "Content-Type: multipart/mixed; boundary=BND\n\n",
        "Content-Type: multipart/mixed; boundary=BND\n\n--BND--\n",
        "Content-Type: multipart/mixed; boundary=BND\n\n--BND\n--BND\n\n--BND--\n",
        "Content-Type: message/rfc822\n\n",
        "Content-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=BND\n\n",
        "From me Mon Nov 23\nSubject: x\n\nhello\n-- \nme\n--\n",
    ] {
        assert_eq!(walk(mail).findings, [], "{mail:?}");
        assert_eq!(oddities(mail), Oddities::default(), "{mail:?}");
    }
}

/// Lines that make trouble, in any order.
fn hostile_mail() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("Content-Type: multipart/mixed; boundary=a".as_bytes().to_vec()),
        Just(b"Content-Type: multipart/mixed; boundary=b".to_vec()),
        Just(b"Content-Type: multipart/digest; boundary=\"a\"; boundary=c".to_vec()),
        Just(b"Content-Type: message/rfc822".to_vec()),
        Just(b"Content-Transfer-Encoding: base64".to_vec()),
        Just(b"Content-Transfer-Encoding: quoted-printable".to_vec()),
        Just(b"Content-Transfer-Encoding: odd".to_vec()),
        Just(b"--a".to_vec()),
        Just(b"--a--".to_vec()),
        Just(b"--b  ".to_vec()),
        Just(b"--c".to_vec()),
        Just(b" --a".to_vec()),
        Just(b"".to_vec()),
        Just(b"".to_vec()),
        Just(b"aGVsbG8=".to_vec()),
        Just(b"Q29udGVudC1UeXBlOiBtdWx0aXBhcnQvbWl4ZWQ7IGJvdW5kYXJ5PWEKCi0tYQoKeAo=".to_vec()),
        Just(b"h=65=".to_vec()),
        Just(b"begin 644 x".to_vec()),
        Just(b"#0V%T".to_vec()),
        Just(b"(This file must be converted with BinHex 4.0)".to_vec()),
        Just(b":#8\"4Fe0,h4,Dh9bB3!!!!!".to_vec()),
        Just(b"=ybegin line=1 size=1 name=x".to_vec()),
        Just(b"-----BEGIN PGP MESSAGE-----".to_vec()),
        Just(b"end".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..30),
    ];
    let end = prop_oneof![4 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("")];
    proptest::collection::vec((line, end), 0..40).prop_map(|lines| {
        lines.into_iter().flat_map(|(line, end)| [&line, end.as_bytes()].concat()).collect()
    })
}

fn reading() -> impl Strategy<Value = Reading> {
    let dialect = proptest::sample::select(vec![
        Dialect::Usual,
        Dialect::PaddingIsJunk,
        Dialect::PaddingIsZero,
        Dialect::PaddingFillsQuantum,
        Dialect::UrlAlphabet,
        Dialect::EscapeDropped,
        Dialect::EscapeDroppedWhole,
        Dialect::BlanksKept,
    ]);
    (any::<bool>(), dialect).prop_map(|(flat, dialect)| Reading { dialect, flat })
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_parts(
        mail in hostile_mail(),
        reading in reading(),
        sizes in proptest::collection::vec(1_usize..30, 1..10),
    ) {
        let limits = Limits { depth_max: 8, parts_max: 50, ..Limits::default() };
        let (whole, _) = walk_chunks(reading, [mail.as_slice()], &limits);
        let mut chunks = Vec::new();
        let (mut rest, mut at) = (mail.as_slice(), 0);
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(sizes[at % sizes.len()].min(rest.len()));
            chunks.push(head);
            (rest, at) = (tail, at + 1);
        }
        let (chunked, _) = walk_chunks(reading, chunks, &limits);
        prop_assert_eq!(&chunked, &whole);
        let decoded: usize = whole.parts.iter().map(|part| part.1.len()).sum();
        prop_assert!(decoded <= limits.decoded_bytes_max);
        prop_assert!(whole.parts.len() <= 50);
    }

    #[test]
    fn arbitrary_bytes(mail: Vec<u8>, reading in reading()) {
        walk_chunks(reading, [mail.as_slice()], &Limits::default());
    }

    #[test]
    fn what_was_attached_comes_out(bytes: Vec<u8>, width in 4_usize..100) {
        let text = encode_base64(&bytes);
        let lines: Vec<&str> =
            text.as_bytes().chunks(width).map(|l| std::str::from_utf8(l).unwrap()).collect();
        let mail = multipart(&[
            "\nhello",
            &format!("Content-Transfer-Encoding: base64\n\n{}", lines.join("\n")),
        ]);
        let walked = walk(&mail);
        prop_assert_eq!(&walked.parts[1].1, &bytes);
        prop_assert_eq!(walked.parts.len(), 2);
    }
}
