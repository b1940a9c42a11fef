//! What stands in texts: addresses, elements, lines and armour that hold files.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "an integration test is all tests, and its helpers may fail"
)]

mod support;

use std::io::Write;
use support::{EICAR, walk};
use testkit::base64;
use unpack::{Format, Trouble, formats};

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// That the text holds the test file, in a container of this format, and nothing in it is unread.
fn assert_has(text: &[u8], format: Format) {
    let shown = String::from_utf8_lossy(text);
    assert!(formats(text).contains(&format), "{} of {shown}", format.name());
    let found = walk(text);
    assert!(found.members.iter().any(|member| member.bytes == EICAR), "{shown}");
    assert_eq!(found.troubles, [], "{shown}");
}

#[test]
fn files_in_addresses_are_found_however_they_are_written() {
    let letters = base64(EICAR);
    let escaped: String = EICAR.iter().map(|byte| format!("%{byte:02x}")).collect();
    let pages = [
        format!("<html><a href=\"data:application/octet-stream;base64,{letters}\">x</a>"),
        format!("<html><iframe src='DATA:text/html;charset=utf-8;base64,{letters}'>"),
        format!("<svg><image xlink:href=\"data:;base64,{letters}\"/></svg>"),
        format!("some text <object data=data:a/b;base64,{letters}>"),
        format!("<a href=\"data:a/b,{escaped}\">"),
        format!("<a href='data:,{escaped}'>"),
        format!("<a href=\"&#100;&#x61;ta:a/b;base64,{letters}\">"),
        format!("some text <a href=\"&#100;ata&colon;a/b;base64&comma;{letters}\">"),
        format!("<a href=\"da\r\nta:a/b;ba\tse64,{letters}\">"),
        format!("<iframe srcdoc=\"&lt;a href=&quot;data:a/b;base64,{letters}&quot;>\">"),
        format!("<iframe srcdoc=\"&lt;a href=&quot;&amp;#100;ata:a/b;base64,{letters}&quot;>\">"),
        format!("<meta http-equiv=refresh content=\"0;url=data:a/b;base64,{letters}\">"),
        format!("<style>body {{ background: url(data:a/b;base64,{letters}) }}</style>"),
        format!(
            "<a href=\"data:text/html;base64,{}\">",
            base64(format!("<img src='data:a/b;base64,{letters}'>").as_bytes())
        ),
    ];
    for page in pages {
        assert_has(page.as_bytes(), Format::Markup);
        let wide: Vec<u8> = page.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_has(&[b"\xff\xfe".as_slice(), &wide].concat(), Format::Markup);
    }
    let link = format!("<a download=\"x.exe\" href=\"data:a/b;base64,{letters}\">");
    assert_eq!(walk(link.as_bytes()).names(), ["x.exe"]);
}

#[test]
fn pages_without_files_have_no_members() {
    for page in [
        "<html><body>Hello, data: and more, you</body></html>",
        "<script>f({data:a,base:b}); g({\"data\":[1,2]})</script>",
        "<p>HelloWorldThisIsOneWord</p>",
        "<a href=\"data:\">",
        "a &#100; b",
    ] {
        let found = walk(page.as_bytes());
        assert_eq!((found.members.len(), found.troubles.len()), (0, 0), "{page}");
    }
}

#[test]
fn entities_in_entities_without_end_are_said() {
    let page = format!("<a href=\"&{}#100;ata:,x\">", "amp;".repeat(20));
    let what = "entities in entities";
    assert_eq!(walk(page.as_bytes()).troubles, [Trouble::Damaged { format: Format::Markup, what }]);
}

#[test]
fn files_in_elements_are_found_with_their_names() {
    let letters = base64(EICAR);
    let (head, tail) = letters.split_at(21);
    let documents = [
        format!("<?xml version='1.0'?><w:binData w:name=\"a.mso\">{letters}</w:binData>"),
        format!(
            "<x><pkg:part pkg:name=\"/a.mso\"><pkg:binaryData>{head}\r\n {tail}</pkg:binaryData>"
        ),
        format!("<x><data name='a.mso'>{head}<!-- x --><![CDATA[{tail}]]></data></x>"),
        format!("\u{feff}<x name='a.mso'>{letters}</x>"),
    ];
    for document in documents {
        assert_has(document.as_bytes(), Format::Markup);
        assert!(walk(document.as_bytes()).names()[0].ends_with("a.mso"), "{document}");
    }
}

#[test]
fn files_in_calendars_and_cards_are_found_with_their_names() {
    let letters = base64(EICAR);
    let folded = format!("{}\r\n {}", &letters[..30], &letters[30..]);
    let bare = format!("\r\n{}\r\n{}\r\n\r\n", &letters[..40], &letters[40..]);
    let lines = [
        format!(
            "ATTACH;FMTTYPE=a/b;ENCODING=BASE64;VALUE=BINARY;X-FILENAME=\"a.exe\":{folded}\r\n"
        ),
        format!("attach;x-filename=a.exe;value=binary;encoding=base64\r\n :{folded}\r\n"),
        format!("PHOTO;X-FILENAME=a.exe;ENCODING=b;TYPE=JPEG:{folded}\r\n"),
        format!("PHOTO;FILENAME=a.exe;JPEG;BASE64:{bare}"),
    ];
    for line in lines {
        for kind in ["VCALENDAR", "VCARD"] {
            let card = format!("BEGIN:{kind}\r\nVERSION:2.0\r\n{line}END:{kind}\r\n");
            assert_has(card.as_bytes(), Format::Card);
            assert_eq!(walk(card.as_bytes()).names(), ["a.exe"], "{card}");
        }
    }
    let card = format!("begin:vcard\nPHOTO:data:image/jpeg;base64,{folded}\nend:vcard\n");
    assert_has(card.as_bytes(), Format::Markup);
    let plain = b"BEGIN:VCARD\r\nFN:A;B\r\nNOTE;CHARSET=UTF-8:text\r\nEND:VCARD\r\n";
    assert_eq!((formats(plain), walk(plain).members.len()), (vec![Format::Card], 0));
}

#[test]
fn base64_is_decoded_where_a_text_is_that_or_says_so() {
    let letters = base64(EICAR);
    let texts = [
        letters.clone(),
        format!("{}\r\n{}\r\n", &letters[..48], &letters[48..]),
        format!("some text\nbegin-base64 644 x.com\n{letters}\n====\nmore"),
        format!("-----BEGIN CERTIFICATE-----\r\n{letters}\r\n-----END CERTIFICATE-----\r\n"),
        format!("x\n-----BEGIN X-----\nProc-Type: 4\n\n{letters}\n-----END X-----\n"),
    ];
    for text in texts {
        assert_has(text.as_bytes(), Format::Base64);
    }
    let named = format!("begin-base64 644 x.com\n{letters}\n====\n");
    assert_eq!(walk(named.as_bytes()).names(), ["x.com"]);
}

/// A packet with its length in four bytes, of the old format where that has its type.
fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap().to_be_bytes();
    let head = if tag < 16 { vec![0x80 | tag << 2 | 2] } else { vec![0xc0 | tag, 0xff] };
    [&head, size.as_slice(), body].concat()
}

fn literal(content: &[u8]) -> Vec<u8> {
    packet(11, &[b"b\x05x.com\0\0\0\0", content].concat())
}

fn armoured(message: &[u8]) -> String {
    format!(
        "-----BEGIN PGP MESSAGE-----\r\nVersion: x\r\n\r\n{}\r\n=abcd\r\n-----END PGP MESSAGE-----\r\n",
        base64(message)
    )
}

#[test]
fn openpgp_messages_that_need_no_key_are_opened() {
    let inner = literal(EICAR);
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    bzip2.write_all(&inner).unwrap();
    let one_pass = packet(4, &[3, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let packed = packet(8, &[b"\x01".as_slice(), &deflate(&inner)].concat());
    let mut endless = vec![0xa3, 1];
    endless.extend_from_slice(&deflate(&inner));
    // In parts: 2 bytes, then the rest with its length in two bytes.
    let body = [b"b\x05x.com\0\0\0\0", EICAR].concat();
    let mut parts = vec![0xcb, 0xe1];
    parts.extend_from_slice(&body[..2]);
    parts.push(u8::try_from(body.len() - 2).unwrap());
    parts.extend_from_slice(&body[2..]);
    let messages = [
        packed.clone(),
        endless,
        packet(8, &[b"\x02".as_slice(), &zlib(&inner)].concat()),
        packet(8, &[b"\x03".as_slice(), &bzip2.finish().unwrap()].concat()),
        packet(8, &[b"\0".as_slice(), &inner].concat()),
        packet(8, &[b"\x01".as_slice(), &deflate(&packed)].concat()),
        [one_pass, packed, packet(2, b"\x04")].concat(),
        parts,
        inner,
    ];
    for message in messages {
        assert_has(&message, Format::OpenPgp);
        assert_has(format!("text\n{}", armoured(&message)).as_bytes(), Format::OpenPgp);
        assert!(walk(&message).names().contains(&"x.com"));
    }
}

#[test]
fn openpgp_messages_that_need_one_are_said_to_be_encrypted() {
    let data = packet(18, b"\x01some bytes");
    let to_a_key = [packet(1, b"\x03xxxxxxxx\x01"), data.clone()].concat();
    let to_a_password = [packet(3, b"\x04\x09\x03"), data].concat();
    let packed = packet(8, &[b"\x01".as_slice(), &deflate(&to_a_key)].concat());
    let encrypted = [Trouble::Encrypted { format: Format::OpenPgp }];
    for message in [to_a_key, to_a_password, packed] {
        assert_eq!(walk(&message).troubles, encrypted, "{message:x?}");
        assert_eq!(walk(armoured(&message).as_bytes()).troubles, encrypted, "{message:x?}");
    }
    assert_eq!(walk(armoured(b"rubbish").as_bytes()).troubles, encrypted);
    assert_eq!(walk(b"> -----BEGIN PGP MESSAGE-----\n").troubles, []);
    let mut deep = literal(EICAR);
    (0..40).for_each(|_| deep = packet(8, &[b"\0".as_slice(), &deep].concat()));
    assert!(matches!(walk(&deep).troubles[..], [Trouble::Damaged { .. }]));
}

/// An element of BER.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x84], size.as_slice(), content].concat()
}

#[test]
fn cms_files_are_opened_where_they_need_no_key() {
    let cms = |id: &[u8], content: &[u8]| {
        let octets = element(0xa0, &element(4, content));
        element(0x30, &[id, &element(0xa0, &element(0x30, &octets))].concat())
    };
    let data =
        |number| [b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07".as_slice(), &[number]].concat();
    let packed = b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x09";
    assert_has(&cms(&data(2), EICAR), Format::Cms);
    assert_has(&cms(packed, &zlib(EICAR)), Format::Cms);
    let encrypted = [Trouble::Encrypted { format: Format::Cms }];
    assert_eq!(walk(&cms(&data(3), EICAR)).troubles, encrypted);
    assert!(formats(&cms(&data(1), EICAR)).is_empty());
}
