//! What notices say, and how operators' texts are read.

use super::*;

#[test]
fn a_notice_says_who_claims_what_and_how_to_get_it() {
    let original = capture(
        b"From: =?ISO-2022-JP?B?GyRCOzNFRBsoQg==?= <y@a.example>\r\n\
          Subject: =?ISO-2022-JP?B?GyRCQEE1YRsoQg==?= 7\r\n\
          Date: Tue, 02 Jan 2024 03:04:05 +0000\r\n\r\n",
    );
    let finding = Finding {
        time: Some("2024-01-02 12:34 JST".to_owned()),
        reference: Some("Q-1234".to_owned()),
        quarantined: true,
        ..finding()
    };
    let templates = Templates::default().with_contact("Ms Sato, extension 123");
    for (language, parts) in [
        (
            Language::English,
            [
                "  When: 2024-01-02 12:34 JST\r\n",
                "  From: 山田 <y@a.example>\r\n",
                "  Subject: 請求 7\r\n",
                "  Date: Tue, 02 Jan 2024 03:04:05 +0000\r\n",
                "  Number: Q-1234\r\n",
                "keeps a copy of it",
                "ask\r\nMs Sato, extension 123, and give\r\nthis number: Q-1234.",
            ],
        ),
        (
            Language::Japanese,
            [
                "  検出日時: 2024-01-02 12:34 JST\r\n",
                "  差出人: 山田 <y@a.example>\r\n",
                "  件名: 請求 7\r\n",
                "  日付: Tue, 02 Jan 2024 03:04:05 +0000\r\n",
                "  受付番号: Q-1234\r\n",
                "写しをゲートウェイに保管しています",
                "受付番号 Q-1234 を添えて、Ms Sato, extension 123に",
            ],
        ),
    ] {
        let notice = notice(&templates, language, Cause::Refused(&finding), &original);
        let body = parse(&notice.pop3_reply()).body;
        for part in parts {
            assert!(body.contains(part), "{part}: {body}");
        }
        assert!(!body.contains(['{', '}']), "{body}");
    }
}

#[test]
fn how_to_get_it_depends_on_where_it_is() {
    let original = HeaderCapture::default();
    let templates = Templates::default();
    let (kept, dropped) = (Finding { quarantined: true, ..finding() }, finding());
    let unscanned = Cause::Unscanned { reason: "no scanner" };
    for (protocol, cause, english, japanese) in [
        (Protocol::Pop3, Cause::Refused(&kept), "keeps a copy", "保管しています"),
        (Protocol::Smtp, Cause::Refused(&kept), "keeps a copy", "保管しています"),
        (Protocol::Pop3, Cause::Refused(&dropped), "stays in your mailbox", "残っています"),
        (Protocol::Smtp, Cause::Refused(&dropped), "No copy of it was kept", "保管していません"),
        (Protocol::Pop3, unscanned, "fetch it again later", "もう一度受信してください"),
        (Protocol::Smtp, unscanned, "sent again later", "もう一度送って"),
    ] {
        for (language, part) in [(Language::English, english), (Language::Japanese, japanese)] {
            let notice = Notice { protocol, ..notice(&templates, language, cause, &original) };
            let body = parse(&notice.pop3_reply()).body;
            assert!(body.contains(part), "{part}: {body}");
            // Nothing to say: no line for it.
            assert!(!body.contains("When") && !body.contains("Number"), "{body}");
        }
    }
}

#[test]
fn by_smtp_a_notice_has_the_framing_asked_for() {
    let template = Template::parse("Subject: [x]\n\n.dot {name}\n").unwrap();
    let templates = Templates::default().with(Language::English, Kind::Refused, template);
    let finding = finding();
    let original = capture(b"From: a@b\r\nSubject: s\r\n\r\n");
    let notice = notice(&templates, Language::English, Cause::Refused(&finding), &original);
    let chunk = notice.smtp_message(Framing::Chunk);
    assert!(chunk.starts_with(b"From: a@b\r\nSubject: [x] s\r\n"));
    assert!(chunk.ends_with(b"\r\n\r\n.dot Eicar-Test-Signature\r\n"));
    let dots = notice.smtp_message(Framing::Dots);
    assert!(dots.ends_with(b"\r\n\r\n..dot Eicar-Test-Signature\r\n.\r\n"));
    assert_eq!(dots.len(), chunk.len() + 4);
}

#[test]
fn an_operators_text_takes_the_place_of_a_built_in_one() {
    let text = "\u{feff}Subject:  [停止] \r\n\r\n{{{name}}} {file}\r\nno file: {time}\r\n\r\n{id}\r\nend\r\n\r\n";
    let template = Template::parse(text).unwrap();
    let templates = Templates::default().with(Language::English, Kind::Refused, template);
    let finding = finding();
    let original = HeaderCapture::default();
    let notice = notice(&templates, Language::English, Cause::Refused(&finding), &original);
    let parsed = parse(&notice.pop3_reply());
    assert_eq!(parsed.body, "{Eicar-Test-Signature} 請求書.zip\r\n\r\nend\r\n");
    assert_eq!(parsed.field("Subject"), encoded_words("[停止]"));
}

#[test]
fn a_text_that_cannot_be_used_says_what_to_write() {
    let long = "Subject: x\n\n".to_owned() + &"x".repeat(TEMPLATE_BYTES_MAX);
    let prefix = "Subject: ".to_owned() + &"x".repeat(SUBJECT_PREFIX_CHARS_MAX + 1) + "\n\nx\n";
    for (text, error, says) in [
        (
            "Subject: x\n\none\n{nmae} two",
            TemplateError::Unknown { line: 4, name: "nmae".to_owned() },
            "line 4: {nmae} is no placeholder; write one of {name}, {time}, {from}, {subject}, \
             {date}, {file}, {engine}, {id}, {release}",
        ),
        (
            "Subject: x\n\na } b",
            TemplateError::Brace { line: 3 },
            "line 3: a brace without its other half; write {{ or }} for a brace of the text",
        ),
        (
            "Subject: x\n\na {name",
            TemplateError::Brace { line: 3 },
            "line 3: a brace without its other half; write {{ or }} for a brace of the text",
        ),
        (
            "Subject: x\n\na \u{202e}b",
            TemplateError::Hidden { line: 3, code_point: 0x202e },
            "line 3: a character that is not shown (code point 0x202e); leave it out",
        ),
        (
            "Subject: x\n\nok\n\u{200b}",
            TemplateError::Hidden { line: 4, code_point: 0x200b },
            "line 4: a character that is not shown (code point 0x200b); leave it out",
        ),
        (
            "Betreff: x\n\nx",
            TemplateError::Subject,
            "line 1: write `Subject: ` and what goes in front of the original's subject, at most \
             60 characters and no placeholder",
        ),
        ("", TemplateError::Subject, "line 1: write `Subject: `"),
        ("Subject: {name}\n\nx", TemplateError::Subject, "line 1: write `Subject: `"),
        (&prefix, TemplateError::Subject, "line 1: write `Subject: `"),
        (
            "Subject: x\nbody",
            TemplateError::NoBody,
            "line 2: write a blank line, and behind it the text of the notice",
        ),
        ("Subject: x\n\n\n", TemplateError::NoBody, "line 2: write a blank line"),
        (
            &long,
            TemplateError::TooLong { bytes: long.len() },
            "the text has 16396 bytes; write at most 16384",
        ),
    ] {
        let found = Template::parse(text).unwrap_err();
        assert_eq!(found, error);
        assert!(found.to_string().starts_with(says), "{found}");
    }
}

#[test]
fn the_built_in_texts_can_be_begun_with() {
    for language in [Language::English, Language::Japanese] {
        for kind in [Kind::Refused, Kind::Unscanned] {
            let template = Template::parse(Template::built_in(language, kind)).unwrap();
            let same = Templates::default().with(language, kind, template);
            let finding = finding();
            let cause = match kind {
                Kind::Refused => Cause::Refused(&finding),
                Kind::Unscanned => Cause::Unscanned { reason: "no scanner" },
            };
            let original = HeaderCapture::default();
            assert_eq!(
                notice(&same, language, cause, &original).pop3_reply(),
                reply(language, cause, &original)
            );
        }
    }
}
