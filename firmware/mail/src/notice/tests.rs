//! Notices, read back the way a mail program would.

mod texts;

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn finding() -> Finding {
    Finding {
        name: "Eicar-Test-Signature".to_owned(),
        engine: "clamd".to_owned(),
        file_name: Some("請求書.zip".to_owned()),
        ..Finding::default()
    }
}

fn capture(header: &[u8]) -> HeaderCapture {
    let mut capture = HeaderCapture::default();
    capture.push(header);
    capture
}

/// The answer to RETR with a notice of the built-in texts.
fn reply(language: Language, cause: Cause<'_>, original: &HeaderCapture) -> Bytes {
    let templates = Templates::default();
    notice(&templates, language, cause, original).pop3_reply()
}

fn notice<'a>(
    templates: &'a Templates,
    language: Language,
    cause: Cause<'a>,
    original: &'a HeaderCapture,
) -> Notice<'a> {
    Notice { templates, language, protocol: Protocol::Pop3, cause, original, unix_s: 1_790_000_000 }
}

/// A notice as read by a client: header fields unfolded, and the decoded body.
struct Parsed {
    fields: Vec<(String, String)>,
    body: String,
}

impl Parsed {
    fn field(&self, name: &str) -> &str {
        let found: Vec<_> = self.fields.iter().filter(|field| field.0 == name).collect();
        assert_eq!(found.len(), 1, "{name} stands there once: {:?}", self.fields);
        &found[0].1
    }
}

/// Takes an answer to RETR apart and checks its form on the way.
fn parse(reply: &[u8]) -> Parsed {
    assert!(reply.is_ascii());
    let text = std::str::from_utf8(reply).unwrap();
    assert!(text.split("\r\n").all(|line| !line.contains(['\r', '\n', '\0']) && line.len() <= 998));
    let (status, rest) = text.split_once("\r\n").unwrap();
    assert!(status.starts_with("+OK "));
    let stuffed = rest.strip_suffix(".\r\n").unwrap();
    let mut message = String::new();
    for line in stuffed.split_terminator("\r\n") {
        let line = match line.strip_prefix('.') {
            Some(rest) => {
                assert!(rest.starts_with('.'), "a line that begins with a dot is stuffed");
                rest
            }
            None => line,
        };
        message.push_str(line);
        message.push_str("\r\n");
    }
    assert_eq!(status, format!("+OK {} octets", message.len()));
    let (header, body) = message.split_once("\r\n\r\n").unwrap();
    let unfolded = header.replace("\r\n ", " ");
    let fields: Vec<(String, String)> = unfolded
        .split("\r\n")
        .map(|line| {
            let (name, value) = line.split_once(": ").expect(line);
            (name.to_owned(), value.to_owned())
        })
        .collect();
    let names = ["From", "Subject", "Date", "Message-ID", "X-AVR-Notice", "Auto-Submitted"];
    let mime = ["MIME-Version", "Content-Type", "Content-Transfer-Encoding"];
    assert!(fields.iter().all(|(name, _)| names.contains(&&**name) || mime.contains(&&**name)));
    let mut parsed = Parsed { fields, body: String::new() };
    parsed.body = match parsed.field("Content-Transfer-Encoding") {
        "base64" => from_base64(body),
        "quoted-printable" => from_quoted_printable(body),
        other => panic!("{other}"),
    };
    parsed
}

fn from_base64(text: &str) -> String {
    let mut bits = 0_u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for c in text.bytes().filter(|c| !c.is_ascii_whitespace() && *c != b'=') {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let value = alphabet.iter().position(|a| *a == c).expect("in the alphabet");
        bits = bits << 6 | u32::try_from(value).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    // Lines of whole groups: each is padded at most at the end.
    String::from_utf8(bytes).unwrap()
}

fn from_quoted_printable(text: &str) -> String {
    let mut bytes = Vec::new();
    let joined = text.replace("=\r\n", "");
    let mut rest = joined.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte == b'=' {
            let hex = std::str::from_utf8(&behind[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &behind[2..];
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn an_english_notice_says_what_was_found_and_where_to_get_help() {
    let original = capture(
        b"Received: by b; Tue, 02 Jan 2024 09:09:09 +0000\r\nFrom: Alice <alice@a.example>\r\n\
          Subject: your\r\n invoice\r\nDate: Tue, 02 Jan 2024 03:04:05 +0000\r\n\
          Message-ID: <1@a.example>\r\n\r\nFrom: not a header\r\n",
    );
    let finding = finding();
    let reply = reply(Language::English, Cause::Refused(&finding), &original);
    let raw = std::str::from_utf8(&reply).unwrap();
    assert!(!raw.contains("=\r\n"), "the text needs no soft line breaks: {raw}");
    let notice = parse(&reply);
    assert_eq!(notice.field("From"), "Alice <alice@a.example>");
    assert_eq!(notice.field("Subject"), "[Blocked] your invoice");
    assert_eq!(notice.field("Date"), "Tue, 02 Jan 2024 03:04:05 +0000");
    assert_eq!(notice.field("Message-ID"), "<1@a.example>");
    assert_eq!(notice.field("X-AVR-Notice"), "refused; name=Eicar-Test-Signature; engine=clamd");
    for part in ["Found: Eicar-Test-Signature", "Found by: clamd", "請求書.zip", "want help"] {
        assert!(notice.body.contains(part), "{part}: {}", notice.body);
    }
}

#[test]
fn a_japanese_notice_is_japanese() {
    let original = capture("Subject: =?ISO-2022-JP?B?GyRCQEE1YRsoQg==?=\r\n\r\n".as_bytes());
    let finding = finding();
    let reply = reply(Language::Japanese, Cause::Refused(&finding), &original);
    let notice = parse(&reply);
    let subject = notice.field("Subject");
    assert!(subject.starts_with("=?UTF-8?B?"), "{subject}");
    assert!(subject.ends_with(" =?ISO-2022-JP?B?GyRCQEE1YRsoQg==?="), "as it was: {subject}");
    for part in [
        "検出名: Eicar-Test-Signature",
        "検査エンジン: clamd",
        "添付ファイル: 請求書.zip",
        "お問い合わせ",
    ] {
        assert!(notice.body.contains(part), "{part}: {}", notice.body);
    }
}

#[test]
fn what_could_not_be_checked_says_so() {
    let cause = Cause::Unscanned { reason: "the scan took too long" };
    let notice = parse(&reply(Language::English, cause, &HeaderCapture::default()));
    assert!(notice.body.contains("Reason: the scan took too long"));
    assert_eq!(notice.field("Subject"), "[Not checked]");
    let notice = parse(&reply(Language::Japanese, cause, &HeaderCapture::default()));
    assert!(notice.body.contains("理由: the scan took too long"));
}

#[test]
fn missing_and_unsafe_fields_have_safe_stand_ins() {
    let finding = finding();
    let notice = |header: &[u8]| {
        parse(&reply(Language::English, Cause::Refused(&finding), &capture(header)))
    };
    let empty = notice(b"");
    assert_eq!(empty.field("From"), "\"(unknown sender)\" <unknown@invalid>");
    assert_eq!(empty.field("Date"), "Mon, 21 Sep 2026 14:13:20 +0000");
    assert!(empty.fields.iter().all(|(name, _)| name != "Message-ID"));
    let odd = notice(
        b"Message-ID: <a b@c>\r\nDate: yesterday\x00\r\n\
          Received: by b; Tue, 02 Jan 2024 09:09:09 +0000\r\n\
          Subject: a\rBcc: x@y\x1b[2J\x08b\r\n\r\n",
    );
    assert_eq!(odd.field("Date"), "Tue, 02 Jan 2024 09:09:09 +0000");
    assert_eq!(odd.field("Subject"), "[Blocked] aBcc: x@y[2Jb");
    assert!(odd.fields.iter().all(|(name, _)| name != "Message-ID"));
    let two = notice(b"Message-ID: <a@b><c@d>\r\n\r\nSubject: of the body\r\n");
    assert!(two.fields.iter().all(|(name, _)| name != "Message-ID"));
    assert_eq!(two.field("Subject"), "[Blocked]");
    let utf8 = notice("From: 山田 <y@a.example>\r\nSubject: 請求書\r\n\r\n".as_bytes());
    assert_eq!(utf8.field("From"), "=?UTF-8?B?5bGx55Sw?= <y@a.example>");
    assert_eq!(utf8.field("Subject"), "[Blocked] =?UTF-8?B?6KuL5rGC5pu4?=");
    let sjis = notice(b"Subject: \x90\xbf\x8b\x81x\r\n\r\n");
    assert_eq!(sjis.field("Subject"), "[Blocked] ????x");
}

#[test]
fn names_that_turn_the_text_or_run_long_are_cut() {
    let finding = Finding {
        name: "a\r\nX: y\u{202e}".to_owned() + &"n".repeat(5000),
        engine: "e;\n".to_owned(),
        file_name: Some("exe\u{202e}fdp.\u{7}\r\n.\r\n".to_owned()),
        ..Finding::default()
    };
    let notice = parse(&reply(Language::English, Cause::Refused(&finding), &capture(b"")));
    assert!(notice.body.contains("Attachment: exefdp..\r\n"), "{}", notice.body);
    assert!(notice.body.len() < 1500);
    assert!(notice.field("X-AVR-Notice").ends_with("engine=e__"));
}

proptest! {
    #[test]
    fn any_original_and_finding_give_a_well_formed_notice(
        fields in vec((
            prop_oneof![Just("From"), Just("subject"), Just("Date"), Just("Message-ID"), Just("Received")],
            vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'<'), Just(b'.'), Just(b'\r'), Just(b'\n')], 0..1500),
        ), 0..6),
        name in any::<String>(),
        file_name in any::<Option<String>>(),
        japanese in any::<bool>(),
    ) {
        let mut header = Vec::new();
        for (field, value) in fields {
            header.extend_from_slice(field.as_bytes());
            header.extend_from_slice(b":");
            header.extend_from_slice(&value);
            header.extend_from_slice(b"\r\n");
        }
        let language = if japanese { Language::Japanese } else { Language::English };
        let finding = Finding { name: name.clone(), engine: name, file_name, ..Finding::default() };
        let notice = parse(&reply(language, Cause::Refused(&finding), &capture(&header)));
        prop_assert!(!notice.field("From").is_empty());
        prop_assert!(!notice.field("Date").is_empty());
        prop_assert!(!notice.body.is_empty());
    }

    #[test]
    fn the_capture_has_a_limit(pieces in vec(vec(any::<u8>(), 0..9000), 0..8)) {
        let mut capture = HeaderCapture::default();
        for piece in &pieces {
            capture.push(piece);
        }
        let whole = pieces.concat();
        prop_assert_eq!(capture.bytes(), &whole[..whole.len().min(32 * 1024)]);
    }
}

/// What the released `bytes` of an original and the rest of a notice make together.
fn continued(original: &[u8], out: usize, language: Language) -> Vec<u8> {
    let finding = finding();
    let capture = capture(original);
    let templates = Templates::default();
    let notice = notice(&templates, language, Cause::Refused(&finding), &capture);
    [b"+OK\r\n", &original[..out], &notice.pop3_rest(out)].concat()
}

#[test]
fn a_notice_goes_on_wherever_the_original_was_left() {
    let original = b"Received: by b\r\n\tfor c; Tue, 02 Jan 2024 09:09:09 +0000\r\n\
        From: Alice <alice@a.example>\r\nTo: b@b.example\r\nSubject: a\r\n b \xc3\xa9\r\n\
        Date: Tue, 02 Jan 2024 03:04:05 +0000\r\nMIME-Version: 1.0\r\nMessage-ID: <1@a>\r\n\r\nx\r\n";
    let capture = capture(original);
    let mut out = 0;
    let mut steps = 0;
    loop {
        let message = continued(original, out, Language::English);
        let fields = check_continued(&message);
        let count = |name: &str| fields.iter().filter(|field| *field == name).count();
        for name in ["from", "subject", "date", "message-id", "x-avr-notice", "content-type"] {
            assert_eq!(count(name), 1, "{name} behind {out} bytes: {fields:?}");
        }
        let Some(bytes) = capture.next_release(out) else { break };
        out += bytes;
        steps += 1;
    }
    // Received, From, To; the subject's name, six pieces of its value and its end; Date.
    assert_eq!(steps, 11);
}

/// Names of the header's fields; the form of the answer is checked on the way.
fn check_continued(answer: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(answer);
    let message = text.strip_prefix("+OK\r\n").unwrap();
    assert!(message.ends_with("\r\n.\r\n") && message.matches("\r\n.\r\n").count() == 1, "{text}");
    let (header, body) = message.split_once("\r\n\r\n").unwrap();
    assert!(!body.is_empty());
    let lines = header.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
    lines.map(|line| line.split_once(':').expect(line).0.to_ascii_lowercase()).collect()
}
