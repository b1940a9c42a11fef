//! Where entities stand in the raw message, and which of them every reader decodes alike.

use super::*;

/// What is put in the place of a part.
const NOTICE: &str = "Content-Type: text/plain\r\n\r\nremoved";

fn walk_bytes(mail: &[u8]) -> Walked {
    walk_chunks(Reading::default(), [mail], &Limits::default()).0
}

/// The entities of the parts that have a place.
fn entities(mail: &str) -> Vec<&str> {
    let walked = walk_bytes(mail.as_bytes());
    let places = walked.parts.into_iter().filter_map(|part| part.0.range);
    places
        .map(|range| {
            &mail[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
        })
        .collect()
}

fn crlf(mail: &str) -> String {
    mail.replace('\n', "\r\n")
}

#[test]
fn entities_are_where_they_stand() {
    let mail = "From: x\nContent-Type: multipart/mixed; boundary=A\n\npreamble\n--A\n\nno header\n\
                --A\nContent-Type: text/plain\n\ntwo\n\n--A\n\n--A\nX: only a header\n--A  \n\
                Content-Type: multipart/mixed; boundary=B\n\n--B\n\ninner\n--B--\n\n--A\n\nlast\n--A--\nepilogue\n";
    let wanted = [
        "\nno header",
        "Content-Type: text/plain\n\ntwo\n",
        "",
        "X: only a header",
        "\ninner",
        "\nlast",
    ];
    assert_eq!(entities(mail), wanted);
    assert_eq!(entities(&crlf(mail)), wanted.map(crlf));
}

#[test]
fn an_entity_without_a_delimiter_behind_it_reaches_the_end() {
    let mail = "Content-Type: multipart/mixed; boundary=A\n\n--A\nX: y\n\nlast\n";
    assert_eq!(entities(mail), ["X: y\n\nlast\n"]);
    assert_eq!(entities(&crlf(mail)), ["X: y\r\n\r\nlast\r\n"]);
    assert_eq!(entities(mail.trim_end()), ["X: y\n\nlast"]);
    // A multipart that is not closed ends with the one around it.
    let mail = "Content-Type: multipart/mixed; boundary=A\n\n--A\n\
                Content-Type: multipart/mixed; boundary=B\n\n--B\n\none\n--A\n\ntwo\n--A--\n";
    assert_eq!(entities(mail), ["\none", "\ntwo"]);
}

#[test]
fn attached_messages_have_places_inside() {
    let mail = "Content-Type: multipart/mixed; boundary=A\n\n--A\nContent-Type: message/rfc822\n\n\
                Subject: inner\n\nhello\n--A\nContent-Type: message/rfc822\n\nno field\nhello\n--A--\n";
    assert_eq!(entities(mail), ["Subject: inner\n\nhello", "no field\nhello"]);
    let alone = "Content-Type: message/rfc822\n\nSubject: inner\n\nhello\n";
    assert_eq!(entities(alone), ["Subject: inner\n\nhello\n"]);
}

#[test]
fn what_cannot_be_replaced_has_no_place() {
    let body = "--BND\n\nhello\n--BND--\n";
    let encoded = encode_base64(crlf(body).as_bytes());
    for mail in [
        "Subject: the message itself\n\nhello\n".to_owned(),
        format!("Content-Type: text/plain\nContent-Type: multipart/mixed; boundary=BND\n\n{body}"),
        format!("Content-Type: multipart/mixed; boundary=(c)BND; boundary=b\n\n{body}"),
        format!(
            "Content-Type: multipart/mixed; boundary=BND\nContent-Transfer-Encoding: base64\n\n{body}"
        ),
        format!(
            "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n{}\n",
            encode_base64(format!("Content-Type: multipart/x; boundary=BND\n\n{body}").as_bytes())
        ),
        format!(
            "Content-Type: multipart/mixed; boundary=BND\nContent-Transfer-Encoding: base64\n\n{encoded}\n"
        ),
        // Behind the closing delimiter, and what is only text to most.
        format!("Content-Type: multipart/mixed; boundary=BND\n\n--BND--\n{body}"),
        "Content-Type: multipart/mixed; boundary=BND\n\n\
         Content-Transfer-Encoding: base64\n\naGVsbG8=\n--BND--\n"
            .to_owned(),
        "Subject: x\n\nbegin 644 cat.txt\n#0V%T\n`\nend\n".to_owned(),
    ] {
        assert_eq!(entities(&mail), Vec::<&str>::new(), "{mail}");
    }
}

/// The parts of a mail that are plain.
fn plain(mail: &str) -> usize {
    let mail = crlf(mail);
    walk_bytes(mail.as_bytes()).parts.iter().filter(|part| part.0.is_plain).count()
}

const PDF: &str =
    "Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\naGVsbG8=";

fn regular(part: &str) -> String {
    format!(
        "From: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"----=_A\"\n\n\
         preamble\n------=_A\nContent-Type: text/plain\n\nhello\n------=_A\n{part}\n------=_A--\n"
    )
}

#[test]
fn a_regular_attachment_is_plain() {
    assert_eq!(plain(&regular(PDF)), 1);
    assert_eq!(plain(&format!("From: x\n{PDF}\n------=_A--\n")), 0, "the end is not seen by all");
    let nested =
        "Content-Type: multipart/related; boundary=B\n\n--B\n".to_owned() + PDF + "\n--B--\n";
    assert_eq!(plain(&regular(&format!("{nested}\n------=_A\n{PDF}"))), 2);
    assert_eq!(plain(&regular(&format!("{PDF}\n\n"))), 1, "empty lines at its end do no harm");
}

#[test]
fn in_doubt_a_part_is_not_plain() {
    let usual = regular(PDF);
    for (from, to) in [
        ("From: x", "X-Mailer: x"),
        ("From: x", "\nFrom: x"),
        ("From: x", "From x\nFrom: x"),
        ("MIME-Version: 1.0", "MIME-Version : 1.0"),
        ("MIME-Version: 1.0", "MIME-Version: 1.0\n \t"),
        ("preamble\n", "preamble\r"),
        ("multipart/mixed", "multipart/signed"),
        ("multipart/mixed", "message/rfc822"),
        ("boundary=\"----=_A\"", "boundary*0=\"----=_A\""),
        ("boundary=\"----=_A\"", "boundary=\"----=_A\"; boundary=b"),
        ("boundary=\"----=_A\"", "boundary=\"----=_A\" (c)"),
        ("Content-Type: application", "content-type : application"),
        ("Content-Type: application", "Content-Type: application/pdf\nContent-Type: application"),
        ("application/pdf", "text/html"),
        ("application/pdf", "(c)application/pdf"),
        ("Encoding: base64", "Encoding: (c)base64"),
        ("Encoding: base64", "Encoding: x-base64"),
        ("Encoding: base64", "Encoding: base64\nContent-Transfer-Encoding: base64"),
        ("Encoding: base64", "Encoding: quoted-printable"),
        ("aGVsbG8=", "aGVsbG8"),
        ("aGVsbG8=", "aGVs bG8="),
        ("aGVsbG8=", "aGVs\n\nbG8="),
        ("aGVsbG8=", "aGVsbG8=\naGVsbG8="),
        ("aGVsbG8=", "aGVsbG8=\n------=_A  "),
        ("------=_A--", ""),
        ("------=_A\nContent-Type: app", "------=_A\t\nContent-Type: app"),
    ] {
        assert!(usual.contains(from));
        let odd = usual.replacen(from, to, 1);
        assert_eq!(plain(&odd), 0, "{odd}");
    }
}

#[test]
fn plain_parts_are_not_deep_and_not_many() {
    let nested = |depth: usize| {
        let mut mail = "From: x\n".to_owned();
        for at in 0..depth {
            mail += &format!("Content-Type: multipart/mixed; boundary=b{at}x\n\n--b{at}x\n");
        }
        mail + PDF + &format!("\n--b{}x--\n", depth - 1)
    };
    assert_eq!(plain(&nested(plain::PLAIN_DEPTH_MAX)), 1);
    assert_eq!(plain(&nested(plain::PLAIN_DEPTH_MAX + 1)), 0);
    let most = usize::try_from(plain::PLAIN_PARTS_MAX).unwrap();
    let many = vec![PDF; most + 5].join("\n------=_A\n");
    // One of the first ones is the text.
    assert_eq!(plain(&regular(&many)), most - 1);
}

#[test]
fn a_header_over_the_limits_of_others_is_not_plain() {
    let with = |field: String| plain(&regular(&format!("{field}{PDF}")));
    assert_eq!(with("X: y\n".repeat(plain::PLAIN_HEADER_LINES_MAX - 2)), 1);
    assert_eq!(with("X: y\n".repeat(plain::PLAIN_HEADER_LINES_MAX - 1)), 0);
    assert_eq!(with(format!("X: {}\n", "y".repeat(plain::PLAIN_HEADER_BYTES_MAX - 200))), 1);
    assert_eq!(with(format!("X: {}\n", "y".repeat(plain::PLAIN_HEADER_BYTES_MAX))), 0);
}

/// A tree of regular entities.
#[derive(Debug, Clone)]
enum Node {
    Leaf(String),
    Multipart(Vec<Self>, bool),
    Message(Box<Self>),
}

impl Node {
    fn write(&self, ids: &mut u32, out: &mut String) {
        match self {
            Self::Leaf(text) => *out += &format!("Content-Type: text/x\n\n{text}"),
            Self::Message(inner) => {
                *out += "Content-Type: message/rfc822\n\n";
                inner.write(ids, out);
            }
            Self::Multipart(nodes, closed) => {
                *ids += 1;
                let id = *ids;
                *out +=
                    &format!("Content-Type: multipart/mixed; boundary=\"=_b{id}x\"\n\npreamble");
                for node in nodes {
                    *out += &format!("\n--=_b{id}x\n");
                    node.write(ids, out);
                }
                if *closed {
                    *out += &format!("\n--=_b{id}x--\nepilogue");
                }
            }
        }
    }
}

fn tree() -> impl Strategy<Value = Node> {
    let leaf = "(|x|[a-z]{1,9}\n?){0,3}".prop_map(Node::Leaf);
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            3 => (proptest::collection::vec(inner.clone(), 1..4), any::<bool>())
                .prop_map(|(nodes, closed)| Node::Multipart(nodes, closed)),
            1 => inner.prop_map(|node| Node::Message(Box::new(node))),
        ]
    })
}

proptest! {
    /// Whatever part is replaced, it alone changes.
    #[test]
    fn a_part_can_be_replaced(tree in tree(), line_feeds: bool) {
        let mut mail = "Subject: x\n".to_owned();
        Node::Multipart(vec![tree], true).write(&mut 0, &mut mail);
        let mail = if line_feeds { mail } else { crlf(&mail) };
        let before = walk_bytes(mail.as_bytes());
        prop_assert_eq!(&before.findings, &[]);
        for (at, (head, _)) in before.parts.iter().enumerate() {
            let range = head.range.clone().expect("regular parts have a place");
            let (start, end): (usize, usize) = (range.start.try_into().unwrap(), range.end.try_into().unwrap());
            let mut replaced = mail.clone();
            replaced.replace_range(start..end, NOTICE);
            let after = walk_bytes(replaced.as_bytes());
            prop_assert_eq!(&after.findings, &[]);
            prop_assert_eq!(after.parts.len(), before.parts.len());
            for (other, ((_, bytes), (_, was))) in after.parts.iter().zip(&before.parts).enumerate() {
                let wanted = if other == at { b"removed".as_slice() } else { was };
                prop_assert_eq!(bytes.as_slice(), wanted, "{}", replaced);
            }
        }
    }
}
