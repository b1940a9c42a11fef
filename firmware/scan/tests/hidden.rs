//! What is packed in mails in ways that the MIME walk does not see: it is found, or the mail is said not
//! to have been looked at in full.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "a test crate of its own, whose helpers may fail"
)]

use std::sync::Arc;

use scan::analysis::{Analysis, Analyzer, Export, LocalEngine, LocalObject};
use scan::engine::EngineOutcome;
use scan::local::BlockEngine;
use scan::local::block::BlockRules;
use scan::{Limits, Unscannable};
use testkit::base64;

/// What is looked for: bytes that no encoding leaves as they are.
const PAYLOAD: &[u8] = b"payload \0\x01\x02 payload";

struct Needle;

impl LocalEngine for Needle {
    fn name(&self) -> &'static str {
        "needle"
    }

    fn scan(&mut self, object: &LocalObject<'_>) -> EngineOutcome {
        let mut windows = object.bytes.windows(PAYLOAD.len());
        match windows.any(|window| window == PAYLOAD) {
            true => EngineOutcome::Found("payload".to_owned()),
            false => EngineOutcome::Clean,
        }
    }
}

fn analyze(mail: &[u8], block: &[&str]) -> Analysis {
    let block: Vec<String> = block.iter().map(|entry| (*entry).to_owned()).collect();
    let rules = BlockRules::parse(&block).unwrap();
    let engines: Vec<Box<dyn LocalEngine>> =
        vec![Box::new(BlockEngine::new(rules)), Box::new(Needle)];
    let stop: unpack::Stop = Arc::new(|| false);
    let mut analyzer = Analyzer::new(engines, Limits::default());
    analyzer.analyze(mail, Export::Nothing, &stop, &mut |_, _, _| {})
}

fn attached(name: &str, bytes: &[u8]) -> Vec<u8> {
    format!(
        "From: a@example.com\r\nContent-Type: multipart/mixed; boundary=B\r\n\r\n\
         --B\r\nContent-Type: application/octet-stream\r\n\
         Content-Disposition: attachment; filename=\"{name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--B--\r\n",
        base64(bytes)
    )
    .into_bytes()
}

/// A zip of one stored member, without a directory.
fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(content.len()).unwrap().to_le_bytes();
    let mut out = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&size);
    out.extend_from_slice(&size);
    out.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(content);
    out
}

/// Lines of uuencode or xxencode, by the letters of each.
fn uuencoded(bytes: &[u8], letter: impl Fn(u8) -> char) -> String {
    let mut text = "begin 644 x.com\r\n".to_owned();
    for line in bytes.chunks(45) {
        text.push(letter(u8::try_from(line.len()).unwrap()));
        for three in line.chunks(3) {
            let byte = |at: usize| three.get(at).copied().unwrap_or(0);
            let [a, b, c] = [byte(0), byte(1), byte(2)];
            let values = [a >> 2, (a & 3) << 4 | b >> 4, (b & 15) << 2 | c >> 6, c & 63];
            text.extend(values.map(&letter));
        }
        text.push_str("\r\n");
    }
    text + &format!("{}\r\nend\r\n", letter(0))
}

fn uu(value: u8) -> char {
    if value == 0 { '`' } else { char::from(value + b' ') }
}

fn xx(value: u8) -> char {
    let letters = b"+-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    char::from(letters[usize::from(value)])
}

/// yEnc: each byte moved by 42.
fn yenc(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"=ybegin line=128 size=1 name=x.com\r\n".to_vec();
    for byte in bytes {
        let moved = byte.wrapping_add(42);
        match moved {
            0 | b'\n' | b'\r' | b'=' => out.extend([b'=', moved.wrapping_add(64)]),
            _ => out.push(moved),
        }
    }
    [out.as_slice(), b"\r\n=yend size=1\r\n"].concat()
}

/// A literal packet of OpenPGP in one that is packed with nothing.
fn openpgp(content: &[u8]) -> Vec<u8> {
    let packet = |tag: u8, body: &[u8]| {
        let size = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[0x80 | tag << 2 | 2], size.as_slice(), body].concat()
    };
    let literal = packet(11, &[b"b\x05x.com\0\0\0\0", content].concat());
    packet(8, &[b"\0".as_slice(), &literal].concat())
}

fn armoured(message: &[u8]) -> String {
    format!(
        "-----BEGIN PGP MESSAGE-----\r\n\r\n{}\r\n-----END PGP MESSAGE-----\r\n",
        base64(message)
    )
}

#[test]
fn files_in_texts_are_found_in_attachments_and_in_archives() {
    let texts = [
        ("uuencode", format!("Hello\r\n{}", uuencoded(PAYLOAD, uu)).into_bytes()),
        ("xxencode", format!("Hello\r\n{}", uuencoded(PAYLOAD, xx)).into_bytes()),
        ("yEnc", yenc(PAYLOAD)),
        ("begin-base64", format!("begin-base64 644 x\n{}\n====\n", base64(PAYLOAD)).into_bytes()),
        ("PGP", armoured(&openpgp(PAYLOAD)).into_bytes()),
        ("address", format!("<a href='data:;base64,{}'>", base64(PAYLOAD)).into_bytes()),
    ];
    for (what, text) in &texts {
        for mail in [
            attached("a.txt", text),
            attached("a.zip", &zip("a.txt", text)),
            attached("a.zip", &zip("a.zip", &zip("a.txt", text))),
            [b"Subject: x\r\n\r\n", text.as_slice()].concat(),
        ] {
            let analysis = analyze(&mail, &[]);
            let found = analysis.found.unwrap_or_else(|| panic!("{what}: {mail:?}"));
            assert_eq!(found.name, "payload");
        }
    }
}

#[test]
fn texts_that_only_mention_such_files_are_clean() {
    for text in [
        "We begin 2 weeks later.\r\n#0V%T\r\n",
        "begin the end, BinHex, =ybegin\r\n",
        "Hello\r\n-----BEGIN PGP SIGNATURE-----\r\n\r\niQEz\r\n-----END PGP SIGNATURE-----\r\n",
    ] {
        let analysis = analyze(&attached("a.zip", &zip("a.txt", text.as_bytes())), &[]);
        assert_eq!((analysis.found, analysis.unscannable), (None, Vec::new()), "{text}");
    }
}

#[test]
fn openpgp_is_encrypted_where_it_is_and_read_where_it_is_not() {
    let packed = armoured(&openpgp(PAYLOAD));
    let encrypted = armoured(b"\x85\x01\x0c\x03some bytes");
    for (text, is_found) in [(packed, true), (encrypted, false)] {
        for mail in [
            format!("Subject: x\r\n\r\nHello\r\n{text}").into_bytes(),
            attached("a.asc", text.as_bytes()),
            attached("a.zip", &zip("a.asc", text.as_bytes())),
        ] {
            let analysis = analyze(&mail, &[]);
            assert_eq!(analysis.found.is_some(), is_found, "{text}");
            assert_eq!(analysis.unscannable == [Unscannable::Encrypted], !is_found, "{text}");
        }
    }
    assert!(analyze(&attached("a.gpg", &openpgp(PAYLOAD)), &[]).found.is_some());
}

/// Gzip without a name in it: a stored block.
fn gzip(content: &[u8]) -> Vec<u8> {
    let size = u16::try_from(content.len()).unwrap();
    let mut out = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01".to_vec();
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&(!size).to_le_bytes());
    out.extend_from_slice(content);
    out.extend_from_slice(&[0; 8]);
    out
}

#[test]
fn what_is_packed_has_the_name_of_the_file_less_its_end() {
    let blocked = |mail: &[u8]| analyze(mail, &[".exe"]).blocked.map(|finding| finding.name);
    let exe = Some("Blocked.Extension.exe".to_owned());
    for name in ["a.exe.gz", "invoice.pdf.exe.gz", "a.EXE.GZ "] {
        assert_eq!(blocked(&attached(name, &gzip(b"text"))), exe, "{name}");
        assert_eq!(blocked(&attached("a.zip", &zip(name, &gzip(b"text")))), exe, "{name}");
    }
    let twice = gzip(&gzip(b"text"));
    assert_eq!(blocked(&attached("a.exe.gz.gz", &twice)), exe);
    for name in ["a.txt.gz", "a.exe.txt.gz", "exe.gz", "gz"] {
        assert_eq!(blocked(&attached(name, &gzip(b"text"))), None, "{name}");
    }
}

#[test]
fn pieces_of_archives_are_not_clean() {
    let bytes = [7, 0, 3].repeat(100);
    for name in ["a.7z.002", "a.z03"] {
        for mail in [attached(name, &bytes), attached("a.zip", &zip(name, &bytes))] {
            assert_eq!(analyze(&mail, &[]).unscannable, [Unscannable::Partial], "{name}");
        }
    }
    assert_eq!(analyze(&attached("a.log.002", b"a text"), &[]).unscannable, []);
}

#[test]
fn a_mail_in_a_zip_in_winmail_dat_is_read() {
    let inner = zip("a.eml", &attached("x.com", PAYLOAD));
    let mut tnef = b"\x78\x9f\x3e\x22\x01\0".to_vec();
    for (id, data) in [(0x9002_u16, [0; 14].as_slice()), (0x8010, b"a.zip\0"), (0x800f, &inner)] {
        tnef.push(2);
        tnef.extend_from_slice(&id.to_le_bytes());
        tnef.extend_from_slice(&[6, 0]);
        tnef.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
        tnef.extend_from_slice(data);
        tnef.extend_from_slice(&[0, 0]);
    }
    assert!(analyze(&attached("winmail.dat", &tnef), &[]).found.is_some());
}

#[test]
fn a_mail_box_in_a_zip_is_read_to_its_end() {
    let mails = [attached("a.txt", b"harmless"), attached("x.com", PAYLOAD)];
    let mbox: Vec<u8> =
        mails.iter().flat_map(|mail| [b"From a Mon Jan 1\r\n", mail.as_slice()].concat()).collect();
    assert!(analyze(&attached("a.zip", &zip("inbox", &mbox)), &[]).found.is_some());
}
