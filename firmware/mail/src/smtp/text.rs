//! Replies of the gateway's own.

use bytes::Bytes;

use crate::Finding;

/// Longest part of a reply that is not ours word for word. RFC 5321 section 4.5.3.1.5 limits reply
/// lines to 512 octets.
pub(super) const QUOTED_CHARACTERS_MAX: usize = 128;

pub(super) const ORPHAN: &str =
    "421 4.3.0 The connection to the mail server has ended, please connect again\r\n";
pub(super) const ORPHAN_QUIT: &str = "221 2.0.0 Bye\r\n";
pub(super) const SERVER_LOST: &str = "421 4.4.2 The mail server closed the connection\r\n";
pub(super) const SERVER_SILENT: &str = "421 4.4.2 The mail server did not answer in time\r\n";
pub(super) const SERVER_BROKEN: &str = "421 4.3.0 The mail server broke the protocol\r\n";
pub(super) const EARLY_SUCCESS: &str =
    "451 4.3.0 The mail server answered before the end of the message\r\n";
pub(super) const CLIENT_SILENT: &str = "421 4.4.2 Timeout, closing the connection\r\n";
pub(super) const VERDICT_LATE: &str = "451 4.7.1 The message could not be checked in time\r\n";
pub(super) const LINE_TOO_LONG: &str = "500 5.5.2 Line too long, closing the connection\r\n";
pub(super) const BARE_LINE_END: &str =
    "500 5.5.2 Lines end with CR LF and contain no NUL, closing the connection\r\n";
pub(super) const NO_COMMAND: &str = "500 5.5.2 No command\r\n";
pub(super) const FORBIDDEN: &str = "502 5.5.1 Command not available here\r\n";
pub(super) const NO_BDAT: &str = "502 5.5.1 BDAT is not available, closing the connection\r\n";
pub(super) const BAD_CHUNK_SIZE: &str =
    "501 5.5.4 BDAT takes a decimal size and LAST or nothing, closing the connection\r\n";
pub(super) const CHUNKING_NOT_OFFERED: &str = "502 5.5.1 BDAT is not available\r\n";
pub(super) const CHUNK_OUT_OF_TURN: &str = "503 5.5.1 No recipient has been accepted\r\n";
pub(super) const CHUNK_OF_DEAD: &str =
    "503 5.5.1 The message has been given up, RSET or a new MAIL comes first\r\n";
pub(super) const UNFRAMED: &str =
    "421 4.7.0 What follows this command cannot be checked, closing the connection\r\n";
pub(super) const NO_BINARYMIME: &str = "555 5.5.4 BODY=BINARYMIME is not available\r\n";
pub(super) const TOO_MANY_REFUSED: &str = "421 4.7.0 Too many errors\r\n";
pub(super) const TLS_INJECTION: &str =
    "421 4.7.0 Commands behind STARTTLS, closing the connection\r\n";
pub(super) const SMUGGLING: &str =
    "554 5.6.0 Lone dot with a line end other than CR LF, message refused\r\n";

/// 554 with the name of what was found.
pub(super) fn refused(finding: &Finding) -> Bytes {
    format!("554 5.7.1 Message refused: {}\r\n", quotable(&finding.name)).into()
}

/// 451 with the reason.
pub(super) fn tempfailed(reason: &str) -> Bytes {
    format!("451 4.7.1 {}\r\n", quotable(reason)).into()
}

/// One line of printable ASCII, bounded.
fn quotable(text: &str) -> String {
    let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let text: String = text.chars().take(QUOTED_CHARACTERS_MAX).map(printable).collect();
    if text.trim().is_empty() { "not acceptable".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_stays_on_its_line() {
        let finding = Finding {
            name: format!("Evil\r\n250 ok\u{202e}{}", "x".repeat(1_000)),
            ..Finding::default()
        };
        let reply = refused(&finding);
        let text = std::str::from_utf8(&reply).unwrap();
        assert!(text.starts_with("554 5.7.1 Message refused: Evil??250 ok?xxx"));
        assert!(text.len() < 512 && text.ends_with("x\r\n"));
        assert_eq!(text.matches("\r\n").count(), 1);
        assert_eq!(tempfailed(" \n"), "451 4.7.1  ?\r\n");
        assert_eq!(tempfailed(""), "451 4.7.1 not acceptable\r\n");
    }
}
