//! Files that stand in texts, and bodies that nobody can look into.

use super::*;

fn binhex_text() -> String {
    let file = binhex::tests::encode("cat.sit", b"Cat", b"Fork");
    format!("(This file must be converted with BinHex 4.0)\n\n{file}\n")
}

#[test]
fn uuencoded_files_are_found_everywhere() {
    let file = "begin 644 cat.txt\n#0V%T\n`\nend\n";
    for mail in [
        format!("Subject: x\n\nHello\n{file}bye\n"),
        multipart(&[&format!("\n{file}")]),
        multipart(&["\nx"]).replace("preamble\n", file),
        multipart(&["\nx"]) + file,
        format!(
            "Content-Transfer-Encoding: base64\n\n{}\n",
            encode_base64(file.replace('\n', "\r\n").as_bytes())
        ),
    ] {
        assert!(walk(&mail).has("Cat"), "{mail}");
    }
}

#[test]
fn yenc_files_are_found_everywhere() {
    let file = "=ybegin line=128 size=3 name=cat.txt\n\u{6d}\n=yend size=3\n";
    let mail = multipart(&[&format!("Content-Transfer-Encoding: x-yencode\n\n{file}")]);
    let walked = walk(&mail);
    let part = walked.parts.iter().find(|part| part.0.file_names == ["cat.txt"]).unwrap();
    assert_eq!(part.1, b"C");
}

#[test]
fn what_cannot_be_looked_into_is_said() {
    let of = |mail: &str| walk(mail).findings;
    assert_eq!(of("Content-Type: message/partial; id=x; number=1\n\nx\n"), [Unscannable::Partial]);
    assert_eq!(
        of("Content-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nx\n"),
        [Unscannable::Encrypted]
    );
    assert_eq!(of("Subject: x\n\n-----BEGIN PGP MESSAGE-----\n"), [Unscannable::Encrypted]);
    let zip = encode_base64(b"PK\x03\x04\x14\0\x01\0xxxx");
    assert_eq!(
        of(&format!("Content-Transfer-Encoding: base64\n\n{zip}\n")),
        [Unscannable::Encrypted]
    );
    let zip = encode_base64(b"PK\x03\x04\x14\0\x08\0xxxx");
    assert_eq!(of(&format!("Content-Transfer-Encoding: base64\n\n{zip}\n")), []);
}

#[test]
fn binhex_files_are_found_everywhere() {
    let text = binhex_text();
    for mail in [
        format!("Subject: x\n\nHello\n{text}bye\n"),
        multipart(&[&format!("Content-Type: text/plain\n\n{text}")]),
        multipart(&["\nx"]).replace("preamble\n", &text),
        multipart(&["\nx"]) + &text,
        multipart(&[&format!("Content-Transfer-Encoding: binhex\n\n{text}")]),
        format!(
            "Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n{}\n",
            encode_base64(text.as_bytes())
        ),
        format!(
            "Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n{}\n",
            text.replace('=', "=3D")
        ),
    ] {
        let walked = walk(&mail);
        for fork in ["Cat", "Fork"] {
            let part = walked.parts.iter().find(|part| part.1 == fork.as_bytes());
            assert_eq!(part.unwrap().0.file_names, ["cat.sit"], "{mail}");
        }
        assert_eq!(walked.findings, []);
    }
}

#[test]
fn a_binhex_file_that_is_announced_needs_no_marker() {
    let file = binhex::tests::encode("cat.sit", b"Cat", b"");
    for head in [
        "Content-Type: application/mac-binhex40",
        "Content-Type: application/octet-stream; name=x.hqx",
        "Content-Transfer-Encoding: x-binhex40",
    ] {
        assert!(walk(&format!("{head}\n\n{file}\n")).has("Cat"), "{head}");
        let encoded = encode_base64(file.as_bytes());
        let mail = format!("{head}\nContent-Transfer-Encoding: base64\n\n{encoded}\n");
        assert!(walk(&mail).has("Cat"), "{mail}");
    }
    assert!(!walk(&format!("Subject: x\n\n{file}\n")).has("Cat"));
}

#[test]
fn rarer_transfer_encodings_are_undone() {
    let gzip = [0x1f, 0x8b, 8, 0, 1, 2, 3];
    for word in ["gzip64", "X-GZIP64", "x-unknown"] {
        let text = encode_base64(&gzip);
        let walked = walk(&format!("Content-Transfer-Encoding: {word}\n\n{text}\n"));
        assert!(walked.parts.iter().any(|part| part.1 == gzip), "{word}");
    }
    for word in ["x-uuencode", "uuencode", "X-UUE", "uue", "x-uu", "x-unknown"] {
        // With its first and last line, and without them.
        for text in ["begin 644 a\n#0V%T\n`\nend\n", "#0V%T\n`\n"] {
            let mail = format!("Content-Transfer-Encoding: {word}\n\n{text}");
            assert!(walk(&mail).has("Cat"), "{mail}");
        }
    }
    for word in ["x-yencode", "yenc"] {
        let file = "=ybegin line=128 size=3 name=cat.txt\n\u{6d}\n=yend size=3\n";
        assert!(walk(&format!("Content-Transfer-Encoding: {word}\n\n{file}")).has("C"));
    }
}

#[test]
fn encrypted_texts_are_seen_in_every_encoding() {
    let text = "-----BEGIN PGP MESSAGE-----\n\nhQEMA\n-----END PGP MESSAGE-----\n";
    let encoded = encode_base64(text.as_bytes());
    for mail in [
        format!("Subject: x\n\nsee below\n\n{text}"),
        format!("Content-Transfer-Encoding: base64\n\n{encoded}\n"),
        format!("Content-Transfer-Encoding: quoted-printable\n\n{}", text.replace('=', "=3D")),
        multipart(&[&format!(
            "Content-Type: application/octet-stream; name=a.asc\n\
             Content-Transfer-Encoding: base64\n\n{encoded}"
        )]),
        multipart(&[&format!(
            "Content-Type: application/octet-stream; name=a.gpg\n\
             Content-Transfer-Encoding: base64\n\n{}",
            encode_base64(&[0x85, 1, 0x0c, 3])
        )]),
        multipart(&[&format!(
            "Content-Type: application/octet-stream; name=a.PGP\n\
             Content-Transfer-Encoding: base64\n\n{}",
            encode_base64(&[0xd2, 1, 0x0c, 3])
        )]),
    ] {
        assert_eq!(walk(&mail).findings, [Unscannable::Encrypted], "{mail}");
    }
    for mail in [
        "Subject: x\n\n> -----BEGIN PGP MESSAGE-----\n".to_owned(),
        "Subject: x\n\n-----BEGIN PGP SIGNED MESSAGE-----\n".to_owned(),
        multipart(&[&format!(
            "Content-Type: application/octet-stream; name=key.gpg\n\
             Content-Transfer-Encoding: base64\n\n{}",
            encode_base64(&[0x99, 1, 0x0d, 4])
        )]),
    ] {
        assert_eq!(walk(&mail).findings, [], "{mail}");
    }
}

#[test]
fn a_repetition_in_binhex_counts_against_the_limit() {
    let file = binhex::tests::encode("a", &[0; 100_000], b"");
    assert!(file.len() < 2_000);
    let mail = format!("Content-Type: application/mac-binhex40\n\n{file}\n");
    assert!(walk(&mail).parts.iter().any(|part| part.1.len() == 100_000));
    let limits = Limits { decoded_bytes_max: 50_000, ..Limits::default() };
    assert!(walk_with(&mail, &limits).findings.contains(&Unscannable::OverDecoded));
}

#[test]
fn forks_of_macintosh_files_are_parts() {
    let file = apple::tests::single(&[(3, b"x.zip"), (1, b"Data"), (2, b"Fork")]);
    let walked = walk(&format!(
        "Content-Type: application/applefile; name=x.zip\n\
         Content-Transfer-Encoding: base64\n\n{}\n",
        encode_base64(&file)
    ));
    for fork in ["Data", "Fork"] {
        let part = walked.parts.iter().find(|part| part.1 == fork.as_bytes());
        assert_eq!(part.unwrap().0.file_names, ["x.zip"]);
    }
    assert_eq!(walked.findings, []);
}
