//! Command lines of SMTP, as far as a gateway has to understand them.
//!
//! Verbs are read as leniently as the most lenient server might (blanks before them, anything that
//! is no letter after them): taking a strange line for DATA only makes the session wait for the
//! reply, while missing a BDAT would let a chunk through unread. The size of a chunk is read as
//! strictly as the strictest server might, because everything behind it hangs on it.

use memchr::memchr;

use super::BDAT_BYTES_MAX;

/// Longest forward or reverse path that is kept for the envelope; RFC 5321 section 4.5.3.1.3
/// allows 256 octets, internationalised ones may be longer. A longer one is cut, in our copy only.
pub(super) const PATH_BYTES_KEPT_MAX: usize = 512;
/// Most digits of a chunk size, leading zeros included.
const CHUNK_SIZE_DIGITS_MAX: usize = 20;
/// SASL mechanisms with security layers: RFC 4752, Microsoft's SPNEGO, RFC 2831, RFC 2222, SRP.
const WRAPPING_MECHANISMS: [&str; 5] = ["GSSAPI", "GSS-SPNEGO", "DIGEST-MD5", "KERBEROS_V4", "SRP"];

/// What a command line is to this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Ehlo,
    Helo,
    Rset,
    Mail {
        /// The reverse path.
        path: Box<[u8]>,
        /// BODY=BINARYMIME, which only works with BDAT (RFC 3030 section 3).
        is_binary: bool,
    },
    /// With the forward path.
    Rcpt(Box<[u8]>),
    Data,
    /// Bytes that are no commands follow it (RFC 3030 section 2). `None` if how many could be read
    /// in two ways.
    Bdat(Option<ChunkSize>),
    /// Content that the server fetches elsewhere (RFC 4468 section 3).
    Burl {
        is_last: bool,
    },
    Auth {
        /// The mechanism can agree on a security layer (RFC 4422 section 3.7).
        may_wrap: bool,
    },
    StartTls,
    Quit,
    /// NOOP and others that never have anything but one reply.
    Plain,
    /// LHLO, TURN, ATRN: once the server accepts it, another protocol, or SMTP the other way round.
    Foreign,
    /// XCLIENT, XFORWARD, PROXY: for trusted relays only.
    Forbidden,
    /// No verb at all: an empty line, a lone dot.
    Nothing,
    /// Passed on, whatever it is.
    Unknown,
}

/// The arguments of BDAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkSize {
    pub(super) bytes: u64,
    pub(super) is_last: bool,
    /// There are zeros in front of the number, which some read as the mark of an octal one.
    pub(super) has_leading_zero: bool,
}

/// The verb of a command line, and what follows it.
pub(super) fn verb(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.trim_ascii_start();
    let line = line.strip_prefix(b"\x0b").map_or(line, <[u8]>::trim_ascii_start);
    let is_verb = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    line.split_at(line.iter().position(|byte| !is_verb(byte)).unwrap_or(line.len()))
}

/// Reads a command line without its line end.
pub(super) fn parse(line: &[u8]) -> Command {
    let (verb, rest) = verb(line);
    let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
    // There are servers that look at four letters only.
    let starts = |name: &str| {
        verb.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
    };
    if verb.is_empty() {
        Command::Nothing
    } else if is("EHLO") {
        Command::Ehlo
    } else if is("HELO") {
        Command::Helo
    } else if is("RSET") {
        Command::Rset
    } else if is("MAIL") {
        Command::Mail { path: path(rest), is_binary: is_binary(rest) }
    } else if is("RCPT") {
        Command::Rcpt(path(rest))
    } else if starts("DATA") {
        Command::Data
    } else if starts("BDAT") {
        Command::Bdat(chunk_size(line))
    } else if starts("BURL") {
        Command::Burl { is_last: words(rest).any(|word| word.eq_ignore_ascii_case(b"LAST")) }
    } else if is("AUTH") || is("X-EXPS") {
        // X-EXPS is what Exchange calls AUTH between its own.
        let mechanism = words(rest).find(|word| !word.is_empty()).unwrap_or_default();
        let is_mechanism = |name: &&str| mechanism.eq_ignore_ascii_case(name.as_bytes());
        Command::Auth { may_wrap: WRAPPING_MECHANISMS.iter().any(is_mechanism) }
    } else if is("STARTTLS") {
        Command::StartTls
    } else if is("QUIT") {
        Command::Quit
    } else if ["NOOP", "VRFY", "EXPN", "HELP", "ETRN"].into_iter().any(is) {
        Command::Plain
    } else if ["LHLO", "TURN", "ATRN"].into_iter().any(is) {
        Command::Foreign
    } else if ["XCLIENT", "XFORWARD", "PROXY"].into_iter().any(is) {
        Command::Forbidden
    } else {
        Command::Unknown
    }
}

/// The arguments of BDAT, if the strictest server reads them as the most lenient one does: `BDAT`,
/// one blank, decimal digits, and perhaps one blank and `LAST`, nothing else on the line.
fn chunk_size(line: &[u8]) -> Option<ChunkSize> {
    let mut words = line.split(|byte| *byte == b' ');
    let is_bdat = words.next()?.eq_ignore_ascii_case(b"BDAT");
    let digits = words.next()?;
    let is_last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return None,
    };
    let is_number = (1..=CHUNK_SIZE_DIGITS_MAX).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit);
    if !is_bdat || !is_number || words.next().is_some() {
        return None;
    }
    let bytes = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let has_leading_zero = digits.len() > 1 && digits.starts_with(b"0");
    (bytes <= BDAT_BYTES_MAX).then_some(ChunkSize { bytes, is_last, has_leading_zero })
}

/// The words of a line, however they are set apart.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| byte.is_ascii_whitespace() || *byte == 0x0b)
}

fn is_binary(arguments: &[u8]) -> bool {
    words(arguments).any(|word| word.eq_ignore_ascii_case(b"BODY=BINARYMIME"))
}

/// The path in `FROM:<path> ...` or `TO:<path> ...`, without brackets; the word behind the colon
/// where there are none.
fn path(arguments: &[u8]) -> Box<[u8]> {
    let behind_colon = memchr(b':', arguments).and_then(|at| arguments.get(at + 1..));
    let text = behind_colon.unwrap_or(arguments).trim_ascii();
    let path = match text.strip_prefix(b"<") {
        Some(inner) => {
            // A quoted local part may contain brackets and escaped quotes.
            let (mut quoted, mut escaped) = (false, false);
            let end = inner.iter().position(|byte| {
                let closes = *byte == b'>' && !quoted;
                if *byte == b'"' && !escaped {
                    quoted = !quoted;
                }
                escaped = *byte == b'\\' && !escaped;
                closes
            });
            &inner[..end.unwrap_or(inner.len())]
        }
        None => text.split(u8::is_ascii_whitespace).next().unwrap_or_default(),
    };
    path[..path.len().min(PATH_BYTES_KEPT_MAX)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(path: &str) -> Command {
        Command::Mail { path: path.as_bytes().into(), is_binary: false }
    }

    fn bdat(bytes: u64, is_last: bool) -> Command {
        Command::Bdat(Some(ChunkSize { bytes, is_last, has_leading_zero: false }))
    }

    #[test]
    fn verbs_in_every_form() {
        for (line, command) in [
            (&b"EHLO c.example"[..], Command::Ehlo),
            (b"ehlo", Command::Ehlo),
            (b"HELO x", Command::Helo),
            (b"rSeT", Command::Rset),
            (b"DATA", Command::Data),
            (b" \tData ", Command::Data),
            (b"bdat 5 last", bdat(5, true)),
            (b"\x0bBDAT:5", Command::Bdat(None)),
            (b"BDATA 5", Command::Bdat(None)),
            (b"BDA 5", Command::Unknown),
            (b"BURL imap://x/ LAST", Command::Burl { is_last: true }),
            (b"burl imap://x/LAST", Command::Burl { is_last: false }),
            (b"AUTH PLAIN AGEAYg==", Command::Auth { may_wrap: false }),
            (b"AUTH", Command::Auth { may_wrap: false }),
            (b"X-EXPS  gssapi YII=", Command::Auth { may_wrap: true }),
            (b"STARTTLS", Command::StartTls),
            (b"QUIT", Command::Quit),
            (b"XCLIENT ADDR=10.0.0.1", Command::Forbidden),
            (b"xforward NAME=x", Command::Forbidden),
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2", Command::Forbidden),
            (b"", Command::Nothing),
            (b".", Command::Nothing),
            (b" \t", Command::Nothing),
            (b"DATAX", Command::Data),
            (b"XEXCH50 1 2", Command::Unknown),
            (b"LHLO x", Command::Foreign),
            (b"ATRN", Command::Foreign),
            (b"NOOP", Command::Plain),
            (b"\xff\xfe", Command::Nothing),
        ] {
            assert_eq!(parse(line), command, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn paths() {
        for (line, path) in [
            ("MAIL FROM:<a@a.example>", "a@a.example"),
            ("MAIL FROM:<> SIZE=3", ""),
            ("mail from: <a@b> BODY=8BITMIME", "a@b"),
            ("MAIL FROM:a@b SIZE=1", "a@b"),
            ("MAIL FROM:<\"a> \\\"b\"@c> RET=HDRS", "\"a> \\\"b\"@c"),
            ("MAIL FROM:<open", "open"),
            ("MAIL", ""),
        ] {
            assert_eq!(parse(line.as_bytes()), mail(path), "{line}");
        }
        assert_eq!(parse(b"RCPT TO:<b@b> NOTIFY=NEVER"), Command::Rcpt(b"b@b"[..].into()));
    }

    #[test]
    fn long_paths_are_cut_in_the_copy() {
        let line = format!("MAIL FROM:<{}>", "x".repeat(PATH_BYTES_KEPT_MAX + 1));
        let Command::Mail { path, .. } = parse(line.as_bytes()) else { panic!("MAIL expected") };
        assert_eq!(path.len(), PATH_BYTES_KEPT_MAX);
    }

    #[test]
    fn binarymime_is_found_wherever_it_stands() {
        for (line, binary) in [
            (&b"MAIL FROM:<a@b> SIZE=1 body=BinaryMime"[..], true),
            (b"MAIL FROM:<a@b>\x0bBODY=BINARYMIME", true),
            (b"MAIL FROM:<BINARYMIME@b>", false),
            (b"MAIL FROM:<a@b> BODY=8BITMIME", false),
        ] {
            let Command::Mail { is_binary, .. } = parse(line) else { panic!("MAIL expected") };
            assert_eq!(is_binary, binary, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn sizes_of_chunks() {
        assert_eq!(parse(b"BDAT 0 LAST"), bdat(0, true));
        assert_eq!(parse(b"BDAT 2147483647"), bdat(BDAT_BYTES_MAX, false));
        for line in [&b"BDAT 00000000000000000005"[..], b"BDAT 05"] {
            let size = ChunkSize { bytes: 5, is_last: false, has_leading_zero: true };
            assert_eq!(parse(line), Command::Bdat(Some(size)));
        }
        for arguments in [
            "",
            " ",
            " -1",
            " +5",
            " 0x10",
            " 5.0",
            " 5 ",
            "  5",
            "\t5",
            " 5\tLAST",
            " 5  LAST",
            " 5 LAST ",
            " 5 LAST LAST",
            " 5 LASTX",
            " 5 X",
            " LAST",
            " LAST 5",
            " 5LAST",
            " 5,000",
            " \u{665}",
            " 2147483648",
            " 4294967296",
            " 18446744073709551616",
            " 99999999999999999999",
            " 000000000000000000005",
            ":5",
        ] {
            let line = format!("BDAT{arguments}");
            assert_eq!(parse(line.as_bytes()), Command::Bdat(None), "{line:?}");
        }
        assert_eq!(parse(b" BDAT 5"), Command::Bdat(None));
    }
}
