//! Every limit of the walk, reached.

use super::*;

#[test]
fn depth_has_a_limit() {
    let nested = |depth: usize| {
        let mut mail = String::new();
        for at in 0..depth {
            mail += &format!("Content-Type: multipart/mixed; boundary=b{at}x\n\n--b{at}x\n");
        }
        mail + "Content-Transfer-Encoding: base64\n\naGVsbG8=\n"
    };
    let limits = Limits { depth_max: 50, ..Limits::default() };
    let at = walk_with(&nested(50), &limits);
    assert!(at.has("hello"));
    assert_eq!(at.findings, []);
    assert!(walk_with(&nested(51), &limits).findings.contains(&Unscannable::OverDepth));
    assert!(walk_with(&nested(5000), &limits).findings.contains(&Unscannable::OverDepth));
    let messages = "Content-Type: message/rfc822\n\n".repeat(51) + "\nx";
    assert!(walk_with(&messages, &limits).findings.contains(&Unscannable::OverDepth));
}

#[test]
fn depth_counts_through_encoded_messages() {
    let mut mail = "Subject: x\r\n\r\nhello".to_owned();
    for _ in 0..6 {
        mail = format!(
            "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n",
            encode_base64(mail.as_bytes())
        );
    }
    let limits = Limits { depth_max: 6, ..Limits::default() };
    let (walked, _) = walk_chunks(Reading::default(), [mail.as_bytes()], &limits);
    assert!(walked.has("hello"));
    let limits = Limits { depth_max: 5, ..Limits::default() };
    let (walked, _) = walk_chunks(Reading::default(), [mail.as_bytes()], &limits);
    assert!(walked.findings.contains(&Unscannable::OverDepth), "{walked:?}");
}

#[test]
fn parts_have_a_limit() {
    let limits = Limits { parts_max: 10, ..Limits::default() };
    assert_eq!(walk_with(&multipart(&["\nx"; 10]), &limits).findings, []);
    let over = walk_with(&multipart(&["\nx"; 11]), &limits);
    assert_eq!((over.parts.len(), over.findings), (10, vec![Unscannable::OverParts]));
}

#[test]
fn decoded_bytes_have_a_limit() {
    let limits = Limits { decoded_bytes_max: 1000, ..Limits::default() };
    let mail = |bytes: usize| format!("Subject: x\n\n{}", "x".repeat(bytes));
    assert_eq!(walk_with(&mail(1000), &limits).findings, []);
    assert_eq!(walk_with(&mail(1001), &limits).findings, [Unscannable::OverDecoded]);
}

#[test]
fn headers_have_a_limit() {
    let mail = |bytes: usize| format!("X: {}\n\nhello", "x".repeat(bytes));
    assert_eq!(walk(&mail(header::HEADER_BYTES_MAX - 3)).findings, []);
    assert_eq!(walk(&mail(header::HEADER_BYTES_MAX)).findings, [Unscannable::Ambiguous]);
}

#[test]
fn comparisons_with_boundaries_have_a_limit() {
    let mut mail = String::new();
    for depth in 0..100 {
        let boundaries: String = (0..30).map(|n| format!("; boundary=b{depth}x{n}")).collect();
        mail += &format!("Content-Type: multipart/mixed{boundaries}\n\n--b{depth}x0\n");
    }
    let open = mail.clone() + "\n" + &"--x\n".repeat(1000);
    assert!(!walk(&open).findings.contains(&Unscannable::Ambiguous), "below the limit");
    let (walked, _) = walk_chunks(
        Reading::default(),
        [open.as_bytes(), "--x\n".repeat(walk::COMPARISONS_MAX / 1000).as_bytes()],
        &Limits::default(),
    );
    assert!(walked.findings.contains(&Unscannable::Ambiguous));
}

#[test]
fn headers_of_all_parts_have_a_limit_together() {
    let field = format!("Content-Type: multipart/mixed; boundary=x; y={}", "\"(=;".repeat(10_000));
    let count = CONTENT_TOTAL_BYTES_MAX / field.len();
    let mail = |count: usize| multipart(&vec![format!("{field}\n").as_str(); count]);
    assert_eq!(walk(&mail(count - 1)).findings, []);
    assert_eq!(walk(&mail(count + 1)).findings, [Unscannable::Ambiguous]);
}

#[test]
fn a_line_of_many_megabytes_is_held_in_pieces() {
    let line = vec![b'x'; 20 * 1024 * 1024];
    let chunks = std::iter::once(&b"Subject: x\r\n\r\n"[..]).chain(line.chunks(60_000));
    let (walked, _) = walk_chunks(Reading::default(), chunks, &Limits::default());
    assert_eq!(walked.parts[0].1.len(), line.len());
}
