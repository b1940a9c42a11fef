//! Carries one case through the gateway and says what became of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::backend::{self, Sink};
use crate::case::{Case, Outcome, Path, Setup};
use crate::program::{Avr, Options};
use crate::wire;

/// How long one case may take on a machine that has other work too. Beyond it, it hangs.
const CASE_MAX: Duration = Duration::from_secs(180);

/// One gateway for each path, with its server behind it.
#[derive(Debug)]
pub struct Road {
    smtp: Avr,
    pop3: Avr,
    sink: Arc<Sink>,
}

impl Road {
    /// Builds it for some cases; they are named by their number from here on.
    ///
    /// # Errors
    ///
    /// When the machine does not allow it.
    pub async fn build(cases: Arc<[Case]>, options: &Options) -> anyhow::Result<Self> {
        let sink = Arc::new(Sink::default());
        let smtp = Avr::start(sink.start().await?, Path::Smtp, options).await?;
        let boxes = backend::mailboxes(cases).await?;
        let pop3 = Avr::start(boxes, Path::Pop3, options).await?;
        Ok(Self { smtp, pop3, sink })
    }

    /// Carries a case.
    ///
    /// # Errors
    ///
    /// When the gateway cannot be reached at all, which says nothing of the case.
    pub async fn carry(&self, number: usize, case: &Case, path: Path) -> anyhow::Result<Outcome> {
        let avr = match path {
            Path::Smtp => &self.smtp,
            Path::Pop3 => &self.pop3,
        };
        let stream = avr.connect().await?;
        let client = stream.local_addr()?;
        let carried = async {
            match path {
                Path::Smtp => self.send(number, case, stream).await,
                Path::Pop3 => fetch(number, case, stream).await,
            }
        };
        let Ok(outcome) = tokio::time::timeout(CASE_MAX, carried).await else {
            return Ok(Outcome::Hung);
        };
        let outcome = outcome.unwrap_or_else(|error| Outcome::Refused(format!("{error:#}")));
        if outcome != Outcome::Unchanged(None) {
            return Ok(outcome);
        }
        let verdicts = avr.verdicts(client).await.context("the log says nothing of a session")?;
        Ok(Outcome::Unchanged(verdicts.into_iter().find(|verdict| verdict != "clean")))
    }

    async fn send(&self, number: usize, case: &Case, stream: TcpStream) -> anyhow::Result<Outcome> {
        let mut stream = BufReader::new(stream);
        let from = format!("MAIL FROM:<case-{number}@corpus.example>\r\n");
        let commands = [
            ("", "220"),
            ("EHLO client.example\r\n", "250"),
            (&from, "250"),
            ("RCPT TO:<someone@office.example>\r\n", "250"),
            ("DATA\r\n", "354"),
        ];
        for (command, expected) in commands {
            stream.write_all(command.as_bytes()).await?;
            let reply = reply(&mut stream).await?;
            anyhow::ensure!(reply.starts_with(expected), "answered {reply}");
        }
        // Written beside the reading: a refusal may come before the end of the mail.
        let wire = wire::stuffed(&case.mail);
        let (read, mut write) = tokio::io::split(&mut stream);
        let mut read = BufReader::new(read);
        let (written, answer) = tokio::join!(write.write_all(&wire), reply(&mut read));
        let answer = answer?;
        if !answer.starts_with("250") {
            anyhow::ensure!(self.sink.taken(number).is_empty(), "refused, and delivered");
            return Ok(refusal(&answer));
        }
        written?;
        write.write_all(b"QUIT\r\n").await?;
        while !wire::line(&mut read).await?.is_empty() {}
        let taken = self.sink.taken(number);
        let expected = wire::terminated(&case.mail);
        Ok(match taken.as_slice() {
            [one] if *one == expected => Outcome::Unchanged(None),
            [one] => Outcome::Altered(difference(&expected, one)),
            several => Outcome::Altered(format!("{} mails instead of one", several.len())),
        })
    }
}

async fn fetch(number: usize, case: &Case, stream: TcpStream) -> anyhow::Result<Outcome> {
    let mut stream = BufReader::new(stream);
    let user = format!("USER case-{number}\r\n");
    for command in ["", &user, "PASS p\r\n", "RETR 1\r\n"] {
        stream.write_all(command.as_bytes()).await?;
        let line = wire::line(&mut stream).await?;
        let shown = line.escape_ascii();
        anyhow::ensure!(line.starts_with(b"+OK"), "answered {shown} to {command:?}");
    }
    let message = wire::message(&mut stream).await?.context("closed within the message")?;
    let message = wire::unstuffed(&message);
    stream.write_all(b"QUIT\r\n").await?;
    while !wire::line(&mut stream).await?.is_empty() {}
    let expected = wire::terminated(&case.mail);
    if message == expected {
        return Ok(Outcome::Unchanged(None));
    }
    Ok(notice(&message).unwrap_or_else(|| Outcome::Altered(difference(&expected, &message))))
}

/// What a notice in place of a message says; `None` if it is none.
fn notice(message: &[u8]) -> Option<Outcome> {
    let text = String::from_utf8_lossy(message);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let (_, tag) = head.split_once("\r\nX-AVR-Notice: ")?;
    // Unfolded (RFC 5322 section 2.2.3).
    let tag = tag.replace("\r\n ", " ").replace("\r\n\t", "\t");
    let tag = tag.lines().next()?;
    let name = tag.strip_prefix("refused; name=").and_then(|rest| rest.split(';').next());
    Some(match name {
        Some(name) => named(&name.replace('_', " ")),
        None => Outcome::Refused(tag.to_owned()),
    })
}

/// What a reply other than 250 says of a mail.
fn refusal(reply: &str) -> Outcome {
    match reply.trim_end().strip_prefix("554 5.7.1 Message refused: ") {
        Some(name) => named(name),
        None => Outcome::Refused(reply.trim_end().to_owned()),
    }
}

/// A finding, or a reason of the gateway's own in the place of one.
fn named(name: &str) -> Outcome {
    let reason = name.strip_prefix("unscannable: ");
    match reason.or_else(|| name.starts_with("Malformed.").then_some(name)) {
        Some(reason) => Outcome::Refused(reason.to_owned()),
        None => Outcome::Detected(name.to_owned()),
    }
}

async fn reply(reader: &mut (impl tokio::io::AsyncBufReadExt + Unpin)) -> anyhow::Result<String> {
    loop {
        let line = wire::line(reader).await?;
        anyhow::ensure!(!line.is_empty(), "closed without a reply");
        if line.get(3) != Some(&b'-') {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
    }
}

fn difference(expected: &[u8], got: &[u8]) -> String {
    let at = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let (all, came) = (expected.len(), got.len());
    format!("{came} bytes instead of {all}, the first difference at {at}")
}

impl Setup {
    /// YARA rules of this gateway, for a folder of them.
    #[must_use]
    pub const fn rules(self) -> &'static str {
        match self {
            Self::Mail => concat!(eicar_anywhere!(), eicar_zip!()),
            Self::Archive | Self::Block => eicar_anywhere!(),
        }
    }

    /// Arguments of `avr listen` beside the rules.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        match self {
            Self::Mail | Self::Archive => Vec::new(),
            Self::Block => vec!["--block".to_owned(), ".zip".to_owned()],
        }
    }
}

/// The EICAR file's marker wherever it stands; the built-in rule wants it at a file's start. Split,
/// so that scanners of source trees leave this one alone.
macro_rules! eicar_anywhere {
    () => {
        "rule Corpus_Eicar { strings: $marker = \"EICAR-STANDARD-ANTIVIRUS-\" condition: $marker }\n"
    };
}

/// The zip of the corpus's infected mails, by its first member.
macro_rules! eicar_zip {
    () => {
        "rule Corpus_Eicar_Zip { strings: $zip = { 50 4B 03 04 [22-26] 65 69 63 61 72 2E 63 6F 6D } condition: $zip }\n"
    };
}
use {eicar_anywhere, eicar_zip};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_says_what_was_found() {
        let found = b"From: a\r\nX-AVR-Notice: refused; name=EICAR; engine=yara\r\n\r\ntext\r\n";
        assert_eq!(notice(found), Some(Outcome::Detected("EICAR".to_owned())));
        let unread =
            b"From: a\r\nX-AVR-Notice: refused;\r\n name=unscannable:_nested; engine=p\r\n\r\nt\r\n";
        assert_eq!(notice(unread), Some(Outcome::Refused("nested".to_owned())));
        assert_eq!(notice(b"From: a\r\n\r\nX-AVR-Notice: no\r\n"), None);
    }

    #[test]
    fn a_reply_says_what_was_found() {
        let found = refusal("554 5.7.1 Message refused: EICAR\r\n");
        assert_eq!(found, Outcome::Detected("EICAR".to_owned()));
        let reason = "554 5.6.0 Lone dot";
        assert_eq!(refusal("554 5.6.0 Lone dot\r\n"), Outcome::Refused(reason.to_owned()));
    }
}
