//! Files that hold the payload and are no archive to look at: documents with files inside them, texts
//! that are files, and archives that nobody opens.

use std::io::Write as _;

use base64::Engine as _;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::Soundness::{self, Broken, Closed, Sound};
use super::twins;
use crate::case::{Case, Setup};
use crate::corpus::with_attachment;

/// Name of the case, file name, soundness, and the file round a payload.
type Form = (&'static str, &'static str, Soundness, fn(&[u8]) -> Vec<u8>);

const FORMS: &[Form] = &[
    ("html-data-base64", "a.html", Sound, |p| {
        text(format!("<html><a href=\"data:application/zip;base64,{}\">x</a>", b64(p)))
    }),
    ("html-data-percent", "a.htm", Sound, |p| {
        text(format!("<html><iframe src='data:text/html,{}'></iframe>", percent(p)))
    }),
    ("html-data-entities", "a.html", Sound, |p| {
        text(format!("<html><a href=\"&#100;a&#x74;a&colon;;base64&comma;{}\">x</a>", b64(p)))
    }),
    ("html-data-in-srcdoc", "a.html", Sound, |p| {
        let inner = format!("&lt;embed src=&quot;data:a/b;base64,{}&quot;>", b64(p));
        text(format!("<html><iframe srcdoc=\"{inner}\"></iframe>"))
    }),
    ("html-data-in-data", "a.html", Sound, |p| {
        let inner = format!("<embed src='data:a/b;base64,{}'>", b64(p));
        text(format!("<html><embed src=\"data:text/html;base64,{}\">", b64(inner.as_bytes())))
    }),
    ("html-utf-16", "a.html", Sound, |p| {
        let page = format!("\u{feff}<html><embed src=\"data:a/b;base64,{}\">", b64(p));
        page.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }),
    ("svg-data", "a.svg", Sound, |p| {
        text(format!("<svg><image xlink:href=\"data:image/png;base64,{}\"/></svg>", b64(p)))
    }),
    ("word-2003-xml", "a.xml", Sound, |p| {
        text(format!(
            "<?xml version=\"1.0\"?><w:wordDocument><w:docSuppData><w:binData \
             w:name=\"editdata.mso\">{}</w:binData></w:docSuppData></w:wordDocument>",
            b64(&active_mime(p))
        ))
    }),
    ("flat-opc", "a.xml", Sound, |p| {
        text(format!(
            "<?xml version=\"1.0\"?><pkg:package><pkg:part pkg:name=\"/word/x.bin\">\
             <pkg:binaryData>{}</pkg:binaryData></pkg:part></pkg:package>",
            b64(p)
        ))
    }),
    ("activemime", "editdata.mso", Sound, |p| active_mime(p)),
    ("zlib", "a.bin", Sound, |p| zlib(p)),
    ("flash", "a.swf", Sound, |p| [b"CWS\x0a\0\0\x01\0", zlib(p).as_slice()].concat()),
    ("ics-attach", "a.ics", Sound, |p| {
        text(format!(
            "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nATTACH;VALUE=BINARY;ENCODING=BASE64;\
             X-FILENAME=x.com:{}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n",
            folded(&b64(p))
        ))
    }),
    ("vcard-photo", "a.vcf", Sound, |p| {
        let photo = folded(&b64(p));
        text(format!("BEGIN:VCARD\r\nPHOTO;ENCODING=b;TYPE=JPEG:{photo}\r\nEND:VCARD\r\n"))
    }),
    ("uuencode-in-zip", "a.zip", Sound, |p| zip("a.txt", uuencoded(p, uu).as_bytes())),
    ("uuencode-as-octets", "a.bin", Sound, |p| text(uuencoded(p, uu))),
    ("xxencode", "a.xxe", Sound, |p| text(uuencoded(p, xx))),
    ("base64-file", "a.b64", Sound, |p| text(folded(&b64(p)).replace("\r\n ", "\r\n"))),
    ("begin-base64-in-zip", "a.zip", Sound, |p| {
        zip("a.txt", format!("begin-base64 644 x.com\n{}\n====\n", b64(p)).as_bytes())
    }),
    ("certutil", "a.txt", Sound, |p| {
        text(format!("-----BEGIN CERTIFICATE-----\r\n{}\r\n-----END CERTIFICATE-----\r\n", b64(p)))
    }),
    ("openpgp-packed", "a.gpg", Sound, |p| openpgp(p)),
    ("openpgp-packed-armour", "a.asc", Sound, |p| text(armour(&openpgp(p)))),
    ("openpgp-in-zip", "a.zip", Sound, |p| zip("a.asc", armour(&openpgp(p)).as_bytes())),
    ("cms-in-zip", "a.zip", Sound, |p| zip("a.txt.p7m", &cms(p))),
    ("gz-behind-zeros", "a.gz", Sound, |p| [gz(b"clean"), vec![0; 512], gz(p)].concat()),
    ("lz4", "a.lz4", Sound, |p| {
        let size = u32::try_from(p.len()).unwrap_or(0) | 1 << 31;
        let head = b"\x04\x22\x4d\x18\x40\x40\xc0";
        [head, size.to_le_bytes().as_slice(), p, &[0; 4]].concat()
    }),
    ("zip-behind-lzh-name", "a.exe", Broken, |p| {
        [b"MZ-lh5-".as_slice(), &zip("x.com", p)].concat()
    }),
    ("szdd", "a.ex_", Closed, |p| [b"SZDD\x88\xf0\x27\x33A\0\0\0\x01\0\xff", p].concat()),
    ("arc", "a.arc", Closed, |p| {
        let size = u32::try_from(p.len()).unwrap_or(0).to_le_bytes();
        [b"\x1a\x02x.com\0\0\0\0\0\0\0\0", size.as_slice(), &[0; 10], p].concat()
    }),
    ("disk-image", "a.img", Closed, |p| {
        let mut image = vec![0; 4096];
        image.splice(0..3, *b"\xeb\x3c\x90");
        image.splice(54..59, *b"FAT16");
        image.splice(510..512, *b"\x55\xaa");
        [&image, p].concat()
    }),
    ("outlook-folders", "a.pst", Closed, |p| [b"!BDN", p].concat()),
    ("access-database", "a.accdb", Closed, |p| [b"\0\x01\0\0Standard ACE DB\0", p].concat()),
    ("installer", "setup.exe", Closed, |p| [b"MZ\0\0\xef\xbe\xad\xdeNullsoftInst", p].concat()),
    ("piece-of-an-archive", "a.7z.002", Closed, |p| [b"\0\x01\x02", p].concat()),
];

/// Each with its clean twin.
#[must_use]
pub fn cases() -> Vec<Case> {
    let form = |&(name, file_name, soundness, file): &Form| {
        twins("own/hidden", name, Setup::Archive, soundness, move |payload| {
            // Blanks behind the test file are part of its definition, and make it compressible.
            let payload = [payload, &[b' '; 60]].concat();
            let payload = if soundness == Closed { masked(&payload) } else { payload };
            with_attachment(file_name, &file(&payload))
        })
    };
    FORMS.iter().flat_map(form).collect()
}

/// As nothing can find it: what is closed is packed.
fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().map(|byte| byte ^ 0xa5).collect()
}

fn text(text: String) -> Vec<u8> {
    text.into_bytes()
}

fn b64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn percent(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// In lines that go on with a blank.
fn folded(text: &str) -> String {
    let lines: Vec<&str> =
        text.as_bytes().chunks(60).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    lines.join("\r\n ")
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    drop(encoder.write_all(content));
    encoder.finish().unwrap_or_default()
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    drop(encoder.write_all(content));
    encoder.finish().unwrap_or_default()
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    drop(encoder.write_all(content));
    encoder.finish().unwrap_or_default()
}

fn active_mime(content: &[u8]) -> Vec<u8> {
    [b"ActiveMime\0\0\x01\xf0\x04\0\0\0".as_slice(), &[0; 32], &zlib(content)].concat()
}

/// One member, deflated.
fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    super::archive::packed(name, content)
}

/// Lines of uuencode or xxencode, by the letters of each.
fn uuencoded(bytes: &[u8], letter: fn(u8) -> char) -> String {
    let mut text = "Some text.\r\nbegin 644 x.com\r\n".to_owned();
    for line in bytes.chunks(45) {
        text.push(letter(u8::try_from(line.len()).unwrap_or(0)));
        for three in line.chunks(3) {
            let byte = |at: usize| three.get(at).copied().unwrap_or(0);
            let [a, b, c] = [byte(0), byte(1), byte(2)];
            let values = [a >> 2, (a & 3) << 4 | b >> 4, (b & 15) << 2 | c >> 6, c & 63];
            text.extend(values.map(letter));
        }
        text.push_str("\r\n");
    }
    text.push(letter(0));
    text + "\r\nend\r\n"
}

fn uu(value: u8) -> char {
    if value == 0 { '`' } else { char::from(value + b' ') }
}

fn xx(value: u8) -> char {
    let letters = b"+-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    letters.get(usize::from(value)).copied().map_or('+', char::from)
}

/// A message that is packed and nothing else, as `gpg --store` makes it (RFC 9580 section 5.6).
fn openpgp(content: &[u8]) -> Vec<u8> {
    let packet = |tag: u8, body: &[u8]| {
        let size = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
        [&[0x80 | tag << 2 | 2], size.as_slice(), body].concat()
    };
    let literal = packet(11, &[b"b\x05x.com\0\0\0\0", content].concat());
    packet(8, &[b"\x01".as_slice(), &deflate(&literal)].concat())
}

fn armour(message: &[u8]) -> String {
    format!(
        "-----BEGIN PGP MESSAGE-----\r\n\r\n{}\r\n-----END PGP MESSAGE-----\r\n",
        folded(&b64(message)).replace("\r\n ", "\r\n")
    )
}

/// Signed data in chunks of 20 bytes (RFC 5652).
fn cms(content: &[u8]) -> Vec<u8> {
    let element = |tag: u8, inside: &[u8]| {
        let size = u32::try_from(inside.len()).unwrap_or(0).to_be_bytes();
        [&[tag, 0x84], size.as_slice(), inside].concat()
    };
    let chunks: Vec<u8> = content.chunks(20).flat_map(|chunk| element(4, chunk)).collect();
    let octets = element(0xa0, &element(0x24, &chunks));
    let id = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02".as_slice();
    element(0x30, &[id, &element(0xa0, &element(0x30, &octets))].concat())
}
