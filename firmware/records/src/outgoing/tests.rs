use std::net::TcpListener;
use std::thread::JoinHandle;

use proptest::prelude::*;

use super::*;

/// What a server says: to nothing, to each command, and to the final dot.
#[derive(Debug, Clone, Copy)]
struct Script {
    greeting: &'static str,
    ehlo: &'static str,
    mail: &'static str,
    rcpt: &'static [&'static str],
    data: &'static str,
    dot: &'static str,
}

const GOOD: Script = Script {
    greeting: "220-mail.example.jp\r\n220 ESMTP\r\n",
    ehlo: "250-mail.example.jp\r\n250-size 1000000\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
    mail: "250 2.1.0 Ok\r\n",
    rcpt: &["250 2.1.5 Ok\r\n", "251 forwarded\r\n"],
    data: "354 End data with <CR><LF>.<CR><LF>\r\n",
    dot: "250 2.0.0 Ok: queued as 1234\r\n",
};

/// Serves one connection as the script says; everything that came in.
fn server(script: Script) -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let via = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let mut out = stream;
        let mut seen = Vec::new();
        let mut rcpt = script.rcpt.iter();
        let mut in_data = false;
        out.write_all(script.greeting.as_bytes()).unwrap();
        loop {
            let start = seen.len();
            // A client that has enough may reset the connection.
            if lines.read_until(b'\n', &mut seen).unwrap_or(0) == 0 {
                return seen;
            }
            let line = &seen[start..];
            let reply = match line {
                b".\r\n" if in_data => {
                    in_data = false;
                    script.dot
                }
                _ if in_data => continue,
                _ if line.starts_with(b"EHLO") => script.ehlo,
                _ if line.starts_with(b"MAIL") => script.mail,
                _ if line.starts_with(b"RCPT") => rcpt.next().unwrap(),
                b"DATA\r\n" => {
                    in_data = true;
                    script.data
                }
                b"QUIT\r\n" => "221 bye\r\n",
                _ => panic!("{}", escape(line)),
            };
            if reply.is_empty() || out.write_all(reply.as_bytes()).is_err() {
                return seen;
            }
        }
    };
    (via, std::thread::spawn(serve))
}

fn chunks(mail: &[u8], cut: usize) -> impl Iterator<Item = Result<Bytes, VaultError>> {
    let pieces: Vec<_> = mail.chunks(cut).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    pieces.into_iter()
}

fn to(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|&address| address.to_owned()).collect()
}

fn exchange(
    script: Script,
    from: &str,
    recipients: &[&str],
    mail: &[u8],
) -> (Result<String, SendError>, String) {
    let (via, server) = server(script);
    let shape = Shape::of(chunks(mail, 7)).unwrap();
    let to = to(recipients);
    let result = send(&via, Envelope { from, to: &to }, shape, chunks(mail, 7));
    (result, String::from_utf8(server.join().unwrap()).unwrap())
}

#[test]
fn a_mail_arrives_unchanged() {
    let mail = b"Subject: a\r\n\r\n.\r\n..dots\r\nx.\r\n";
    let (result, seen) = exchange(GOOD, "a@example.jp", &["b@example.jp", "c@example.jp"], mail);
    assert_eq!(result.unwrap(), "2.0.0 Ok: queued as 1234");
    assert_eq!(
        seen,
        "EHLO [127.0.0.1]\r\nMAIL FROM:<a@example.jp> SIZE=29\r\nRCPT TO:<b@example.jp>\r\n\
         RCPT TO:<c@example.jp>\r\nDATA\r\nSubject: a\r\n\r\n..\r\n...dots\r\nx.\r\n.\r\nQUIT\r\n"
    );
}

#[test]
fn what_the_mail_needs_is_asked_of_the_server() {
    let (result, seen) = exchange(GOOD, "", &["利用者@example.jp"], "本文\r\n".as_bytes());
    result.unwrap();
    assert!(seen.contains("MAIL FROM:<> SIZE=8 BODY=8BITMIME SMTPUTF8\r\n"), "{seen}");
    let plain = Script { ehlo: "250 mail.example.jp\r\n", ..GOOD };
    let (result, seen) = exchange(plain, "", &["b@example.jp"], "本文\r\n".as_bytes());
    assert!(matches!(result, Err(SendError::EightBit)) && !seen.contains("MAIL"), "{seen}");
    let (result, seen) = exchange(plain, "", &["利用者@example.jp"], b"a\r\n");
    assert!(matches!(result, Err(SendError::International)) && !seen.contains("MAIL"), "{seen}");
    let (result, seen) = exchange(plain, "", &["b@example.jp"], b"a\r\n");
    assert!(result.is_ok() && seen.contains("MAIL FROM:<>\r\n"), "{seen}");
}

#[test]
fn an_unended_last_line_and_an_empty_mail_still_end_in_a_dot() {
    let (result, seen) = exchange(GOOD, "", &["b@example.jp"], b"a\r\nb");
    assert!(result.is_ok() && seen.contains("DATA\r\na\r\nb\r\n.\r\n"), "{seen}");
    let (result, seen) = exchange(GOOD, "", &["b@example.jp"], b"");
    assert!(result.is_ok() && seen.contains("DATA\r\n.\r\n"), "{seen}");
}

#[test]
fn a_refusal_says_what_was_refused_and_nothing_is_sent() {
    for (script, says, unsent) in [
        (
            Script { greeting: "554 go away\x1b[2J\r\n", ..GOOD },
            "greeting: the mail server refuses: 554 go away\\x1b[2J",
            "EHLO",
        ),
        (
            Script { ehlo: "502 what\r\n", ..GOOD },
            "EHLO: the mail server refuses: 502 what",
            "MAIL",
        ),
        (
            Script { mail: "550-no\r\n550 never\r\n", ..GOOD },
            "MAIL FROM: the mail server refuses: 550 no never",
            "RCPT",
        ),
        (
            Script { rcpt: &["250 Ok\r\n", "550 5.1.1 no such user\r\n"], ..GOOD },
            "RCPT TO:<c@example.jp>: the mail server refuses: 550 5.1.1 no such user",
            "DATA",
        ),
        (
            Script { data: "451 later\r\n", ..GOOD },
            "DATA: the mail server refuses: 451 later",
            "text",
        ),
        (
            Script { dot: "554 5.7.1 Eicar\r\n", ..GOOD },
            "final dot: the mail server refuses: 554 5.7.1 Eicar",
            "QUIT",
        ),
        (Script { mail: "", ..GOOD }, "MAIL FROM: the mail server does not answer", "RCPT"),
        (Script { mail: "hello\r\n", ..GOOD }, "MAIL FROM: what the mail server answers", "RCPT"),
    ] {
        let (result, seen) = exchange(script, "", &["b@example.jp", "c@example.jp"], b"text\r\n");
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(says), "{error}");
        assert!(!seen.contains(unsent), "{seen}");
    }
}

#[test]
fn a_mail_that_turns_out_damaged_is_not_ended() {
    let (via, server) = server(GOOD);
    let id = "darkq047sw".parse().unwrap();
    let broken =
        [Ok(Bytes::from_static(b"a\r\n")), Err(VaultError::Damaged { id, what: "its mail" })];
    let envelope = Envelope { from: "", to: &to(&["b@example.jp"]) };
    let error = send(&via, envelope, Shape::default(), broken.into_iter()).unwrap_err();
    assert!(matches!(error, SendError::Content(_)), "{error}");
    let seen = String::from_utf8(server.join().unwrap()).unwrap();
    assert!(!seen.contains("\r\n.\r\n"), "{seen}");
}

#[test]
fn addresses_are_nothing_but_addresses() {
    let long = "x".repeat(ADDRESS_BYTES_MAX + 1);
    for bad in ["a\r\nRCPT TO:<c@d>", "a> SIZE=1", "<a", "a b", "a\u{fffd}", "cut…", "a\0", &long]
    {
        for empty in [true, false] {
            assert!(check_address(bad, empty).is_err(), "{bad:?}");
        }
    }
    check_address(&long[1..], false).unwrap();
    check_address("", true).unwrap();
    assert!(check_address("", false).is_err());
    // Before anything is connected to.
    let envelope = Envelope { from: "", to: &to(&["a b"]) };
    let error = send("127.0.0.1:1", envelope, Shape::default(), chunks(b"", 1)).unwrap_err();
    assert!(error.to_string().starts_with("a b is no address"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for via in [free.as_str(), "no port", ""] {
        let envelope = Envelope { from: "", to: &to(&["b@example.jp"]) };
        let error = send(via, envelope, Shape::default(), chunks(b"", 1)).unwrap_err().to_string();
        assert_eq!(error, format!("connect to {via}; write the mail server as HOST:PORT"));
    }
}

#[test]
fn what_smtp_cannot_carry_is_refused_before_anything_is_sent() {
    for bad in ["a\nb\r\n", "a\rb\r\n", "a\r", "a\r\r\n", "\n", "a\r\n.\n\r\n", "a\n.\nb"] {
        for cut in 1..=bad.len() {
            let shape = Shape::of(chunks(bad.as_bytes(), cut));
            assert!(matches!(shape, Err(SendError::LineEnds)), "{bad:?}");
        }
    }
    assert_eq!(Shape::of(chunks(b"a\r\n\r\nb", 1)).unwrap().bytes, 6);
    let gone = std::iter::once(Err(VaultError::Random));
    assert!(matches!(Shape::of(gone), Err(SendError::Content(_))));
}

#[test]
fn replies_are_bounded() {
    let read = |text: &[u8]| read_reply(&mut &text[..], "EHLO");
    let lines = |count: usize| "250-x\r\n".repeat(count - 1) + "250 x\r\n";
    assert_eq!(read(lines(REPLY_LINES_MAX).as_bytes()).unwrap().1.len(), REPLY_LINES_MAX);
    let long = |bytes: usize| format!("250 {}\r\n", "x".repeat(bytes - 6));
    read(long(REPLY_LINE_BYTES_MAX).as_bytes()).unwrap();
    let endless = "2".repeat(10 * REPLY_LINE_BYTES_MAX);
    for bad in [
        lines(REPLY_LINES_MAX + 1).as_bytes(),
        long(REPLY_LINE_BYTES_MAX + 1).as_bytes(),
        endless.as_bytes(),
        b"250-a\r\n251 b\r\n",
        b"25\r\n",
        b"250_a\r\n",
        b"999 a\r\n",
        b"150 a\r\n",
        b"+50 a\r\n",
        b"250 a",
    ] {
        assert!(matches!(read(bad), Err(SendError::NoReply { .. })), "{}", escape(bad));
    }
    assert!(matches!(read(b""), Err(SendError::Lost { .. })));
    assert_eq!(read(b"250\n").unwrap(), (250, vec![String::new()]));
}

proptest! {
    /// Whatever the content and its cut, a server that undoes the dots has it back.
    #[test]
    fn dots_come_back(
        lines in prop::collection::vec("[.a\u{e9}]{0,5}", 0..10),
        cut in 1_usize..20,
    ) {
        let mail: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let (mut wire, mut last) = (Vec::new(), None);
        for chunk in mail.as_bytes().chunks(cut) {
            write_stuffed(&mut wire, chunk, &mut last).unwrap();
        }
        let wire = String::from_utf8(wire).unwrap();
        let undone: String = wire
            .split_inclusive("\r\n")
            .map(|line| line.strip_prefix('.').unwrap_or(line))
            .collect();
        prop_assert!(!wire.split_inclusive("\r\n").any(|line| line == ".\r\n"));
        prop_assert_eq!(undone, mail);
    }

    #[test]
    fn no_reply_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_reply(&mut &bytes[..], "EHLO");
    }
}
