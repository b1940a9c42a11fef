//! Command lines of SMTP, as far as a gateway has to understand them.
//!
//! Verbs are read as leniently as the most lenient server might (blanks before them, anything that
//! is no letter after them): taking a strange line for DATA only makes the session wait for the
//! reply, while missing a BDAT would let a chunk through unread.

use memchr::memchr;

/// Longest forward or reverse path that is kept for the envelope; RFC 5321 section 4.5.3.1.3
/// allows 256 octets, internationalised ones may be longer. A longer one is cut, in our copy only.
pub(super) const PATH_BYTES_KEPT_MAX: usize = 512;

/// What a command line is to this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Ehlo,
    /// HELO and RSET: a new start, nothing to filter in the reply.
    Restart,
    /// With the reverse path.
    Mail(Box<[u8]>),
    /// MAIL with BODY=BINARYMIME, which only works with BDAT (RFC 3030 section 3).
    MailBinary,
    /// With the forward path.
    Rcpt(Box<[u8]>),
    Data,
    /// Bytes that are no commands follow it (RFC 3030 section 2).
    Bdat,
    Auth,
    StartTls,
    Quit,
    /// XCLIENT, XFORWARD, PROXY: for trusted relays only. BURL: content that does not pass here.
    Forbidden,
    /// No verb at all: an empty line, a lone dot.
    Nothing,
    /// Passed on, whatever it is.
    Other,
}

/// Reads a command line without its line end.
pub(super) fn parse(line: &[u8]) -> Command {
    let line = line.trim_ascii_start();
    let line = line.strip_prefix(b"\x0b").map_or(line, <[u8]>::trim_ascii_start);
    let is_verb = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let end = line.iter().position(|byte| !is_verb(byte)).unwrap_or(line.len());
    let (verb, rest) = line.split_at(end);
    let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
    if verb.is_empty() {
        Command::Nothing
    } else if is("EHLO") || is("LHLO") {
        Command::Ehlo
    } else if is("HELO") || is("RSET") {
        Command::Restart
    } else if is("MAIL") {
        if is_binary(rest) { Command::MailBinary } else { Command::Mail(path(rest)) }
    } else if is("RCPT") {
        Command::Rcpt(path(rest))
    } else if is("DATA") {
        Command::Data
    } else if verb.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"BDAT")) {
        // There are servers that look at four letters only.
        Command::Bdat
    } else if is("AUTH") || is("X-EXPS") {
        // X-EXPS is what Exchange calls AUTH between its own.
        Command::Auth
    } else if is("STARTTLS") {
        Command::StartTls
    } else if is("QUIT") {
        Command::Quit
    } else if ["XCLIENT", "XFORWARD", "PROXY", "BURL"].into_iter().any(is) {
        Command::Forbidden
    } else {
        Command::Other
    }
}

fn is_binary(arguments: &[u8]) -> bool {
    arguments
        .split(|byte| byte.is_ascii_whitespace() || *byte == 0x0b)
        .any(|word| word.eq_ignore_ascii_case(b"BODY=BINARYMIME"))
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
        Command::Mail(path.as_bytes().into())
    }

    #[test]
    fn verbs_in_every_form() {
        for (line, command) in [
            (&b"EHLO c.example"[..], Command::Ehlo),
            (b"ehlo", Command::Ehlo),
            (b"HELO x", Command::Restart),
            (b"rSeT", Command::Restart),
            (b"DATA", Command::Data),
            (b" \tData ", Command::Data),
            (b"BDAT 5 LAST", Command::Bdat),
            (b"bdat\t5", Command::Bdat),
            (b"\x0bBDAT:5", Command::Bdat),
            (b"BDAT", Command::Bdat),
            (b"BDATA 5", Command::Bdat),
            (b"BDA 5", Command::Other),
            (b"AUTH PLAIN AGEAYg==", Command::Auth),
            (b"STARTTLS", Command::StartTls),
            (b"QUIT", Command::Quit),
            (b"XCLIENT ADDR=10.0.0.1", Command::Forbidden),
            (b"xforward NAME=x", Command::Forbidden),
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2", Command::Forbidden),
            (b"", Command::Nothing),
            (b".", Command::Nothing),
            (b" \t", Command::Nothing),
            (b"DATAX", Command::Other),
            (b"NOOP", Command::Other),
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
        let Command::Mail(path) = parse(line.as_bytes()) else { panic!("MAIL expected") };
        assert_eq!(path.len(), PATH_BYTES_KEPT_MAX);
    }

    #[test]
    fn binarymime_is_found_wherever_it_stands() {
        assert_eq!(parse(b"MAIL FROM:<a@b> SIZE=1 body=BinaryMime"), Command::MailBinary);
        assert_eq!(parse(b"MAIL FROM:<a@b>\x0bBODY=BINARYMIME"), Command::MailBinary);
        assert_eq!(parse(b"MAIL FROM:<BINARYMIME@b>"), mail("BINARYMIME@b"));
    }
}
