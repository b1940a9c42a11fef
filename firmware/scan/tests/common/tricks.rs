//! Mails put together from ways to write each of their elements.

/// A way to write an element.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    /// Whether the standards allow it, and all clients agree.
    valid: bool,
    text: &'static str,
}

const fn valid(name: &'static str, text: &'static str) -> Way {
    Way { name, valid: true, text }
}

const fn odd(name: &'static str, text: &'static str) -> Way {
    Way { name, valid: false, text }
}

/// The Content-Type of a multipart with the boundary BND.
const TYPES: &[Way] = &[
    valid("usual", "Content-Type: multipart/mixed; boundary=BND"),
    valid("quoted", "Content-Type: multipart/mixed; boundary=\"BND\""),
    valid("case", "CONTENT-TYPE: Multipart/MIXED; BOUNDARY=BND"),
    valid("folded", "Content-Type:\n multipart/mixed;\n\tboundary=\"BND\""),
    valid("comments", "Content-Type: multipart/mixed (a \"b; (c)) ; (d;) boundary=BND (e)"),
    valid(
        "other parameters",
        "Content-Type: multipart/mixed; type=\"a;b=\\\"c\"; boundary=BND; x=y",
    ),
    valid("last semicolon", "Content-Type: multipart/mixed; boundary=BND;"),
    valid("no blank", "Content-Type:multipart/mixed;boundary=BND"),
    valid("subtype nobody knows", "Content-Type: multipart/x-unknown; boundary=BND"),
    odd("escapes", "Content-Type: multipart/mixed; boundary=\"\\B\\N\\D\""),
    odd("pieces", "Content-Type: multipart/mixed; boundary*0=B; boundary*1=\"ND\""),
    odd(
        "encoded pieces",
        "Content-Type: multipart/mixed; boundary*0*=us-ascii''%42; boundary*1=ND",
    ),
    odd("pieces in disorder", "Content-Type: multipart/mixed; boundary*1=ND; boundary*0=B"),
    odd("encoded", "Content-Type: multipart/mixed; boundary*=utf-8'en'B%4ED"),
    odd("encoded word", "Content-Type: multipart/mixed; boundary=\"=?utf-8?B?Qk5E?=\""),
    odd("blanks about =", "Content-Type: multipart/mixed; boundary = BND"),
    odd("fold about =", "Content-Type: multipart/mixed; boundary=\n BND"),
    odd("blank before colon", "Content-Type : multipart/mixed; boundary=BND"),
    odd("control before colon", "Content-Type\x0b: multipart/mixed; boundary=BND"),
    odd("comma", "Content-Type: multipart/mixed, boundary=BND"),
    odd("no separator", "Content-Type: multipart/mixed boundary=BND"),
    odd("open quote", "Content-Type: multipart/mixed; boundary=\"BND"),
    odd("late quote", "Content-Type: multipart/mixed; boundary=B\"ND\""),
    odd("single quotes", "Content-Type: multipart/mixed; boundary='BND'"),
    odd("comment inside", "Content-Type: multipart/mixed; boundary=B(x)ND"),
    odd("comment glued", "Content-Type: multi(x)part/mixed; boundary(y)=(z)BND"),
    odd("quoted type", "Content-Type: \"multipart/mixed\"; boundary=BND"),
    odd("quoted key", "Content-Type: multipart/mixed; \"boundary\"=BND"),
    odd("first of two boundaries", "Content-Type: multipart/mixed; boundary=BND; boundary=b"),
    odd("last of two boundaries", "Content-Type: multipart/mixed; boundary=b; boundary=BND"),
    odd("boundary and pieces", "Content-Type: multipart/mixed; boundary=b; boundary*0=BND"),
    odd("text before", "Content-Type: text/plain\nContent-Type: multipart/mixed; boundary=BND"),
    odd("text behind", "Content-Type: multipart/mixed; boundary=BND\nContent-Type: text/plain"),
    odd("folded blank line", "Content-Type: multipart/mixed;\n \t\n boundary=BND"),
    odd("no slash", "Content-Type: multipart; boundary=BND"),
    odd("type in an encoded word", "Content-Type: =?us-ascii?Q?multipart/mixed?=; boundary=BND"),
    odd("no type", "Content-Type: ; boundary=BND"),
    odd("hidden in a quote", "Content-Type: multipart/mixed; x=\"; boundary=BND"),
    odd("as if another field", "X: y\n Content-Type: multipart/mixed; boundary=BND"),
    odd("no boundary", "Content-Type: multipart/mixed"),
];

/// The Content-Transfer-Encoding of a base64 body.
const ENCODINGS: &[Way] = &[
    valid("usual", "Content-Transfer-Encoding: base64"),
    valid("case", "content-transfer-encoding: BASE64"),
    valid("folded", "Content-Transfer-Encoding:\n base64"),
    valid("comments", "Content-Transfer-Encoding: (7bit) base64 (x)"),
    valid("blanks", "Content-Transfer-Encoding: \t base64 \t"),
    odd("blank before colon", "Content-Transfer-Encoding : base64"),
    odd("first of two", "Content-Transfer-Encoding: base64\nContent-Transfer-Encoding: 7bit"),
    odd("last of two", "Content-Transfer-Encoding: 8bit\nContent-Transfer-Encoding: base64"),
    odd(
        "beside another",
        "Content-Transfer-Encoding: quoted-printable\nContent-Transfer-Encoding: base64",
    ),
    odd("semicolon", "Content-Transfer-Encoding: base64;"),
    odd("parameter", "Content-Transfer-Encoding: base64; x=y"),
    odd("comma", "Content-Transfer-Encoding: 7bit, base64"),
    odd("quoted", "Content-Transfer-Encoding: \"base64\""),
    odd("escape", "Content-Transfer-Encoding: bas\\e64"),
    odd("comment inside", "Content-Transfer-Encoding: bas(x)e64"),
    odd("open comment", "Content-Transfer-Encoding: base64 (x"),
    odd("encoded word", "Content-Transfer-Encoding: =?utf-8?Q?base64?="),
    odd("unknown", "Content-Transfer-Encoding: x-base64"),
    odd("cut", "Content-Transfer-Encoding: base6"),
    odd("control", "Content-Transfer-Encoding: \x0bbase64"),
    odd("empty one before", "Content-Transfer-Encoding:\nContent-Transfer-Encoding: base64"),
    odd(
        "behind a bare word",
        "Content-Type: application/octet-stream\nbare word\nContent-Transfer-Encoding: base64",
    ),
    odd("bytes in the name", "Content-\x00Transfer-Encoding: base64"),
];

/// What stands between the header of the attachment and its body.
const BREAKS: &[Way] = &[
    valid("empty line", "\n\n"),
    odd("blanks", "\n \t\n"),
    odd("blanks, then an empty line", "\n \n\n"),
    odd("a control character", "\n\x0b\n"),
    odd("two control characters", "\n\x0b\n\x0c\n"),
    odd("letters, then an empty line", "\nABC\n\n"),
    odd("an odd field, then an empty line", "\nfoo bar:\n\n"),
    odd("an odd line and a field", "\nA\nX: y\n\n"),
    odd("blanks, letters, an empty line", "\n \nAB\n\n"),
    odd("a NUL", "\n\0\n"),
];

/// How the base64 text is laid out; the text says how.
const LAYOUTS: &[Way] = &[
    valid("76 letters", "76"),
    valid("4 letters", "4"),
    valid("one letter a line", "1"),
    valid("three letters a line", "3"),
    valid("one line", "9999"),
    odd("no padding", "nopad"),
    odd("blanks", "blanks"),
    odd("junk", "junk"),
    odd("junk line", "junkline"),
    odd("padding in every line", "padded"),
    odd("letters of URLs", "url"),
    odd("something behind the padding", "behind"),
    odd("empty lines", "empty"),
    odd("NUL", "nul"),
];

/// The same for quoted-printable.
const QUOTED_LAYOUTS: &[Way] = &[
    valid("everything escaped", "escaped"),
    valid("one escape a line", "one"),
    valid("letters in clear", "clear"),
    odd("lower case", "lower"),
    odd("blanks behind soft breaks", "blanks"),
    odd("escapes of nothing", "nothing"),
    odd("half escapes", "half"),
    odd("an escape for each =", "equals"),
    odd("no soft break at the end", "hard"),
    odd("empty soft breaks", "empty"),
];

/// How lines end; the text says how.
const LINE_ENDS: &[Way] =
    &[valid("CRLF", "\r\n"), odd("LF", "\n"), odd("either", "mixed"), odd("CR", "\r")];

/// What stands behind a delimiter.
const DELIMITERS: &[Way] = &[
    valid("nothing", ""),
    valid("blanks", " \t "),
    odd("blanks before", "before"),
    odd("a letter", "x"),
    odd("a control character", "\x0b"),
    odd("a comment", " (x)"),
    odd("a longer one inside", "longer"),
];

/// How the parts end.
const ENDS: &[Way] = &[
    valid("closed", "\n--BND--\nepilogue\n"),
    valid("closed at the end", "\n--BND--"),
    valid("closed and blank", "\n--BND-- \t\n\n"),
    odd("not closed", "\n"),
    odd("not even a line end", ""),
    odd("closed badly", "\n--BND-\n"),
    odd("closed, then a part", "\n--BND--\n--BND\n\nx\n--BND--\n"),
];

/// Where the attachment is; `%` stands for it and `@` for a delimiter's text.
const PLACES: &[Way] = &[
    valid("second", "\n\nhello\n@\n%"),
    valid("first", "\n%"),
    valid("last", "\n\nhello\n@\n\nbye\n@\nContent-Type: text/html\n\n\n@\n%"),
    valid(
        "in an alternative",
        "\nContent-Type: multipart/alternative; boundary=\"BND2\"\n\n--BND2\n\nhello\n--BND2\n%\n--BND2--\n",
    ),
    valid(
        "behind an alternative",
        "\nContent-Type: multipart/alternative; boundary=BND2\n\n--BND2\n\nx\n--BND2--\n\n@\n%",
    ),
    valid("in a message", "\nContent-Type: message/rfc822\n\nSubject: inner\n%"),
    valid(
        "in a digest",
        "\nContent-Type: multipart/digest; boundary=BND3\n\n--BND3\n\nSubject: inner\n%\n--BND3--\n",
    ),
    odd(
        "in an open alternative",
        "\nContent-Type: multipart/alternative; boundary=BND2\n\n--BND2\n%",
    ),
    odd(
        "in an extension of its boundary",
        "\nContent-Type: multipart/x; boundary=BNDX\n\n--BNDX\n%\n--BNDX--\n",
    ),
];

/// What stands before the header of the mail.
const STARTS: &[Way] = &[
    valid("nothing", "Subject: x\nMIME-Version: 1.0\n"),
    valid("no version", "Subject: x\n"),
    odd("an empty line", "\nSubject: x\n"),
    odd("a mailbox line", "From x@y Mon Jan  1 00:00:00 2024\nSubject: x\n"),
    odd("a line that is no field", "Subject: x\nno field\n"),
    odd("a folded line", " x\nSubject: x\n"),
];

/// How the attachment is encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Coding {
    Base64,
    QuotedPrintable,
}

impl Coding {
    /// All elements of a mail. The first way of each is the usual one.
    pub(crate) fn elements(self) -> [&'static [Way]; ELEMENTS] {
        let layouts = match self {
            Self::Base64 => LAYOUTS,
            Self::QuotedPrintable => QUOTED_LAYOUTS,
        };
        [TYPES, ENCODINGS, layouts, LINE_ENDS, DELIMITERS, ENDS, PLACES, STARTS, BREAKS]
    }
}

/// How many elements a mail has.
pub(crate) const ELEMENTS: usize = 9;

/// A mail, and what it hides.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) names: Vec<&'static str>,
    pub(crate) valid: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
}

impl Mail {
    /// With these ways, one an element.
    pub(crate) fn new(coding: Coding, choice: [usize; ELEMENTS]) -> Self {
        let elements = coding.elements();
        let ways: Vec<&Way> =
            choice.iter().zip(elements).map(|(&at, element)| &element[at]).collect();
        let [kind, encoding, layout, ends, delimiter, end, place, start, between] = ways.as_slice()
        else {
            unreachable!("nine elements")
        };
        // Bytes of every kind, none of them a sign of anything.
        let payload: Vec<u8> = (0..=255_u8).map(|byte| byte.wrapping_mul(73) ^ 0x55).collect();
        let (encoding, body) = match coding {
            Coding::Base64 => (encoding.text.to_owned(), lay_out(&payload, layout.text)),
            Coding::QuotedPrintable => {
                (quoted_printable(encoding.text), lay_out_quoted(&payload, layout.text))
            }
        };
        let attachment =
            format!("Content-Type: application/octet-stream\n{encoding}{}{body}", between.text);
        let mark = match delimiter.text {
            "before" => " \t--BND".to_owned(),
            "longer" => "--BND".to_owned(),
            behind => format!("--BND{behind}"),
        };
        let inside = if delimiter.text == "longer" { "--BNDlonger\n" } else { "" };
        let parts = place.text.replace('@', &mark).replace('%', &attachment);
        let text =
            format!("{}{}\n\npreamble\n{inside}{mark}{parts}{}", start.text, kind.text, end.text);
        Self {
            names: ways.iter().map(|way| way.name).collect(),
            valid: ways.iter().all(|way| way.valid),
            payload,
            bytes: end_lines(&text, ends.text),
        }
    }
}

/// The same field for quoted-printable.
fn quoted_printable(field: &str) -> String {
    [
        ("base64", "quoted-printable"),
        ("BASE64", "QUOTED-printable"),
        ("bas(x)e64", "quoted-(x)printable"),
        ("bas\\e64", "quoted-\\printable"),
        ("base6", "quoted-printabl"),
    ]
    .iter()
    .fold(field.to_owned(), |field, (from, to)| field.replace(from, to))
}

/// Mails of which every element is drawn.
pub(crate) fn sample(coding: Coding, seed: u64) -> impl Iterator<Item = Mail> {
    let mut state = seed | 1;
    let mut draw = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    std::iter::repeat_with(move || {
        let mut choice = [0; ELEMENTS];
        for (at, element) in choice.iter_mut().zip(coding.elements()) {
            // Half of them usual, so that not everything is odd at a time.
            *at = if draw(2) == 0 { 0 } else { draw(element.len()) };
        }
        Mail::new(coding, choice)
    })
}

fn lay_out(payload: &[u8], layout: &str) -> String {
    let encoded = testkit::base64(payload);
    let lines = |width: usize, end: &str| -> String {
        let lines: Vec<&str> = encoded
            .as_bytes()
            .chunks(width)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        lines.join(end)
    };
    match layout {
        "nopad" => lines(76, "\n").trim_end_matches('=').to_owned(),
        "blanks" => lines(5, " \t \x0b \x0c\n"),
        "junk" => lines(7, "#!\u{e4}\n"),
        "junkline" => format!("#? * ~\n{}", lines(76, "\n")),
        "padded" => {
            let lines: Vec<String> = payload.chunks(31).map(testkit::base64).collect();
            lines.join("\n")
        }
        "url" => lines(76, "\n").replace('+', "-").replace('/', "_"),
        "behind" => lines(76, "\n") + "\nAAAA",
        "empty" => lines(8, "\n\n\n"),
        "nul" => lines(9, "\0\n"),
        width => lines(width.parse().unwrap(), "\n"),
    }
}

fn lay_out_quoted(payload: &[u8], layout: &str) -> String {
    let mut out = String::new();
    for (at, &byte) in payload.iter().enumerate() {
        let letter = char::from(byte);
        let digits = letter.is_ascii_hexdigit();
        match layout {
            "one" => out += &format!("={byte:02X}=\n"),
            "lower" => out += &format!("={byte:02x}"),
            "blanks" => out += &format!("={byte:02X}= \t\n"),
            "empty" => out += &format!("=\n={byte:02X}="),
            "clear" if letter.is_ascii_alphanumeric() => out.push(letter),
            // A reader that drops what is no escape sees the letter alone.
            "nothing" if letter.is_ascii_alphabetic() && !digits => out += &format!("={letter}"),
            "half" if letter.is_ascii_alphabetic() && !digits => out += &format!("=0{letter}"),
            "equals" if byte == b'=' => out += "==",
            _ => out += &format!("={byte:02X}"),
        }
        if layout == "empty" {
            out.push('\n');
        }
        let hard = layout == "hard" && at + 1 == payload.len();
        if at % 20 == 19 && !out.ends_with('\n') && !hard {
            out += "=\n";
        }
    }
    out
}

fn end_lines(text: &str, ends: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            let end = match ends {
                "mixed" if at % 2 == 0 => "\n",
                "mixed" => "\r\n",
                end => end,
            };
            out.extend(end.bytes());
        }
        out.extend(line.bytes());
    }
    out
}
