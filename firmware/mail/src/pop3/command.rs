//! What a client's command line asks for, and so what kind of answer it gets.

/// A command, by the shape of its answer (RFC 1939, 2449, 2595, 5034, 6856).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// One line either way.
    Line,
    /// Not known here: `+OK` may be the whole answer, or begin a list or a message.
    Unknown,
    /// XTND XMIT, in no RFC: behind `+OK` the client sends a message.
    Submit,
    /// PASS or APOP: one line; `+OK` means logged in.
    Login,
    /// `AUTH mechanism`: challenges, then one line.
    Auth,
    /// CAPA; LIST, UIDL, AUTH and LANG without argument: `+OK` begins a list.
    Listing,
    /// RETR or TOP: `+OK` begins a message.
    Retrieve {
        /// Its number, where it is one.
        number: Option<u32>,
    },
    /// `+OK` begins TLS.
    Stls,
}

/// Servers might disagree on what the line is: it is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// NUL, CR or another control byte: a line end or a blank for some.
    ControlByte,
    /// Nothing in it: some servers answer, some do not.
    Empty,
    /// XCLIENT: a server that trusts this gateway's address would take the client's word for who it is.
    Forbidden,
}

/// Commands with answers of one line (RFC 1939; LAST of RFC 1460; UTF8 of RFC 6856).
const SINGLE_LINE: [&str; 8] = ["USER", "STAT", "DELE", "NOOP", "RSET", "QUIT", "LAST", "UTF8"];

/// Reads a command line without its line end.
///
/// Blanks are taken as generously as any server does (any number of spaces and tabs, also in front):
/// where a server is stricter it answers `-ERR`, which has the same shape for every command. The
/// dangerous direction, a server that sees a RETR where we see none, needs a byte that is refused.
pub(super) fn parse(line: &[u8]) -> Result<Command, Refusal> {
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Refusal::ControlByte);
    }
    let mut words =
        line.split(|byte| *byte == b' ' || *byte == b'\t').filter(|word| !word.is_empty());
    let keyword = words.next().ok_or(Refusal::Empty)?;
    let argument = words.next();
    let is = |name: &str| keyword.eq_ignore_ascii_case(name.as_bytes());
    if is("XCLIENT") {
        return Err(Refusal::Forbidden);
    }
    Ok(if is("RETR") || is("TOP") {
        Command::Retrieve { number: argument.and_then(number) }
    } else if is("CAPA") {
        Command::Listing
    } else if is("LIST") || is("UIDL") || is("LANG") {
        if argument.is_none() { Command::Listing } else { Command::Line }
    } else if is("AUTH") {
        if argument.is_none() { Command::Listing } else { Command::Auth }
    } else if is("PASS") || is("APOP") {
        Command::Login
    } else if is("STLS") {
        Command::Stls
    } else if SINGLE_LINE.iter().any(|name| is(name)) {
        Command::Line
    } else if is("XTND") && argument.is_some_and(|word| word.eq_ignore_ascii_case(b"XMIT")) {
        Command::Submit
    } else {
        Command::Unknown
    })
}

fn number(word: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(word).ok()?;
    // `parse` alone would take a sign.
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_command_and_argument() {
        for (line, command) in [
            ("LIST", Command::Listing),
            ("list ", Command::Listing),
            ("LIST 1", Command::Line),
            ("list \t1 ", Command::Line),
            ("UIDL", Command::Listing),
            ("UIDL 7", Command::Line),
            ("CAPA", Command::Listing),
            ("AUTH", Command::Listing),
            ("auth PLAIN", Command::Auth),
            ("AUTH LOGIN dXNlcg==", Command::Auth),
            ("LANG", Command::Listing),
            ("LANG ja", Command::Line),
            ("UTF8", Command::Line),
            ("STAT", Command::Line),
            ("LAST", Command::Line),
            ("QUIT", Command::Line),
            ("utf8", Command::Line),
            ("LANG *", Command::Line),
            ("AUTH PLAIN =", Command::Auth),
            ("XTND XMIT", Command::Submit),
            ("xtnd\txmit x", Command::Submit),
            ("XTND XLIST From 1", Command::Unknown),
            ("XTND", Command::Unknown),
            ("RETRO 1", Command::Unknown),
            ("XSENDER 1", Command::Unknown),
            ("USER RETR 1", Command::Line),
            ("PASS LIST", Command::Login),
            ("APOP mrose c4c9334bac560ecc979e58001b3e22fb", Command::Login),
            ("stls", Command::Stls),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn every_form_of_retr_that_some_server_takes_is_one() {
        for (line, number) in [
            ("RETR 1", Some(1)),
            ("retr  1", Some(1)),
            ("RETR\t1", Some(1)),
            (" RETR 1", Some(1)),
            ("RETR 01", Some(1)),
            ("RETR 1 x", Some(1)),
            ("TOP 3 0", Some(3)),
            ("TOP 3 99999", Some(3)),
            ("RETR +1", None),
            ("RETR -1", None),
            ("RETR", None),
            ("RETR 99999999999999999999", None),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Command::Retrieve { number }), "{line:?}");
        }
    }

    #[test]
    fn lines_that_servers_read_differently_are_refused() {
        for line in ["RETR\x0b1", "RETR 1\0", "NOOP\rRETR 1", "RETR 1\r", "\x7fRETR 1", "\0"] {
            assert_eq!(parse(line.as_bytes()), Err(Refusal::ControlByte), "{line:?}");
        }
        assert_eq!(parse(b"xclient ADDR=192.0.2.1"), Err(Refusal::Forbidden));
        for line in ["", " ", "\t "] {
            assert_eq!(parse(line.as_bytes()), Err(Refusal::Empty), "{line:?}");
        }
    }
}
