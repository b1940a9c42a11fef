//! Replies of real servers, and dialogues of other test suites, as sessions.
//!
//! A reply (mailkit-transcripts) is given as the answer to the command that its file name says, and
//! must reach the client as it came. A dialogue (james-mpt-smtp) is played with both sides' lines, and
//! what the client said must reach the server, but for a command that was injected.

use std::path::Path;

use anyhow::Context;

use crate::corpus;
use crate::run::Transcript;
use crate::script::{Bytes, Script, Step, Who};
use crate::wire::with_crlf;

/// One of them.
#[derive(Debug)]
pub struct Dialogue {
    /// Its path in the corpus.
    pub name: String,
    /// What is done.
    pub script: Script,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    /// The client got this, and nothing else; or less, and the session ended because it is no answer
    /// to the command.
    Received(Vec<u8>),
    /// The server got this, and nothing else.
    Sent(Vec<u8>),
    /// The server was never told to do this.
    NeverRan(&'static [u8]),
}

impl Dialogue {
    /// Row of the table.
    #[must_use]
    pub fn source(&self) -> String {
        self.name.split('/').next().unwrap_or_default().to_owned()
    }

    /// Whether it went as it must.
    ///
    /// # Errors
    ///
    /// What was wrong, in words.
    pub fn judge(&self, t: &Transcript) -> Result<(), String> {
        match &self.rule {
            Rule::Received(bytes) => {
                let came = t.client_got.as_slice();
                let is_cut = t.client_ended.is_some() && bytes.starts_with(without_farewell(came));
                if came == bytes || is_cut { Ok(()) } else { Err(different(bytes, came)) }
            }
            Rule::Sent(bytes) if t.server_got == *bytes => Ok(()),
            Rule::Sent(bytes) => Err(different(bytes, &t.server_got)),
            Rule::NeverRan(command) => {
                let mut ran = t.server_got.split(|&byte| byte == b'\n');
                let has_run = ran.any(|line| line.starts_with(command));
                if has_run { Err("an injected command ran".to_owned()) } else { Ok(()) }
            }
        }
    }
}

/// What came before the gateway's own last word.
fn without_farewell(bytes: &[u8]) -> &[u8] {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    match lines.last() {
        Some(last) if last.starts_with(b"421 ") || last.starts_with(b"-ERR ") => {
            bytes.get(..bytes.len() - last.len()).unwrap_or_default()
        }
        _ => bytes,
    }
}

fn different(expected: &[u8], came: &[u8]) -> String {
    let at = expected.iter().zip(came).take_while(|(a, b)| a == b).count();
    let from = |bytes: &[u8]| {
        let rest = bytes.get(at..).unwrap_or_default();
        rest.iter().take(40).copied().collect::<Vec<u8>>().escape_ascii().to_string()
    };
    format!("from byte {at} on \"{}\" came instead of \"{}\"", from(came), from(expected))
}

/// All of them, where there is a corpus.
///
/// # Errors
///
/// When a file is there and cannot be read.
pub fn load() -> anyhow::Result<Vec<Dialogue>> {
    let root = corpus::folder();
    let mut dialogues = Vec::new();
    for folder in ["mailkit-transcripts", "james-mpt-smtp"] {
        let mut names = Vec::new();
        files(&root.join(folder), &mut names)?;
        names.sort();
        for path in names {
            let name = path.strip_prefix(&root).context("a file of the corpus")?;
            let name = name.to_string_lossy().into_owned();
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            dialogues.push(if folder == "james-mpt-smtp" {
                played(name, &String::from_utf8_lossy(&bytes))
            } else {
                answered(name, &with_crlf(&bytes))
            });
        }
    }
    Ok(dialogues)
}

fn files(folder: &Path, names: &mut Vec<std::path::PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, names)?;
        } else {
            names.push(path);
        }
    }
    Ok(())
}

/// A reply to the command that its name says.
fn answered(name: String, reply: &[u8]) -> Dialogue {
    let file = name.rsplit('/').next().unwrap_or_default();
    let is_pop3 = name.contains("/Pop3/");
    let command = if is_pop3 { pop3_command(file, reply) } else { smtp_command(file) };
    let (greeting, proto) =
        if is_pop3 { (&b"+OK ready\r\n"[..], "pop3") } else { (&b"220 mx ESMTP\r\n"[..], "smtp") };
    let mut steps = Vec::new();
    let mut expected = Vec::new();
    if let Some(command) = command {
        steps.push(says(greeting));
        steps.push(awaits(Who::C, "\\n$"));
        steps.push(Step { send: Some(Bytes(command.into_bytes())), ..Step::default() });
        steps.push(awaits(Who::S, "\\n$"));
        expected.extend_from_slice(greeting);
    }
    steps.push(says(reply));
    steps.push(observe());
    expected.extend_from_slice(reply);
    Dialogue {
        script: Script { id: name.clone(), proto: proto.to_owned(), steps },
        name,
        rule: Rule::Received(expected),
    }
}

/// `None`: it is the greeting.
fn pop3_command(file: &str, reply: &[u8]) -> Option<String> {
    let of_file = [
        ("greeting", ""),
        ("capa", "CAPA"),
        ("retr123", "RETR 1\r\nRETR 2\r\nRETR 3"),
        ("top123", "TOP 1 0\r\nTOP 2 0\r\nTOP 3 0"),
        ("dele123", "DELE 1\r\nDELE 2\r\nDELE 3"),
        ("retr", "RETR 1"),
        ("top", "TOP 1 0"),
        ("list", "LIST"),
        ("uidl", "UIDL"),
        ("stat", "STAT"),
        ("dele", "DELE 1"),
        ("quit", "NOOP"),
        ("auth", "AUTH PLAIN"),
        ("plus", "AUTH LOGIN"),
    ];
    let command = of_file.iter().find(|(word, _)| file.contains(word));
    // A lone number asks for one line, and so does what answers with one.
    let is_one_line = reply.iter().filter(|&&byte| byte == b'\n').count() == 1;
    Some(match command.map(|(_, command)| *command) {
        Some("") => return None,
        Some("LIST") if is_one_line => "LIST 1\r\n".to_owned(),
        Some("UIDL") if is_one_line => "UIDL 1\r\n".to_owned(),
        Some(command) => format!("{command}\r\n"),
        None if is_one_line => "NOOP\r\n".to_owned(),
        None => "RETR 1\r\n".to_owned(),
    })
}

/// `None`: it is the greeting.
fn smtp_command(file: &str) -> Option<String> {
    let of_file = [
        ("greeting", ""),
        ("ehlo", "EHLO c.example"),
        ("helo", "HELO c.example"),
        ("auth", "AUTH PLAIN"),
        ("data-done", "NOOP"),
        ("data", "DATA"),
        ("pipelined", "MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>"),
        ("mail-from", "MAIL FROM:<a@a.example>"),
        ("rcpt-to", "RCPT TO:<b@b.example>"),
        ("vrfy", "VRFY x"),
        ("expn", "EXPN x"),
        ("rset", "RSET"),
    ];
    let command = of_file.iter().find(|(word, _)| file.contains(word));
    match command.map_or("NOOP", |(_, command)| *command) {
        "" => None,
        command => Some(format!("{command}\r\n")),
    }
}

/// Both sides' lines, each side waiting for the other's before its own. What the server says is a
/// pattern in places.
fn played(name: String, text: &str) -> Dialogue {
    let mut steps: Vec<Step> = Vec::new();
    let mut sent = Vec::new();
    for line in text.lines() {
        let (who, said) = if let Some(said) = line.strip_prefix("S:") {
            (Who::S, said.trim_start().replace("250.*", "250-mx").replace(".*", "ok"))
        } else if let Some(said) = line.strip_prefix("C:") {
            // A line end within a line is written out.
            (Who::C, said.strip_prefix(' ').unwrap_or(said).replace("\\r\\n", "\r\n"))
        } else {
            continue;
        };
        if steps.last().is_some_and(|last| last.who != who) {
            steps.push(awaits(who, "\\n$"));
        }
        let bytes = format!("{}\r\n", said.trim_end_matches("\r\n")).into_bytes();
        if who == Who::C {
            sent.extend_from_slice(&bytes);
        }
        match steps.last_mut() {
            // In one segment: what one side says at once, the other answers at once.
            Some(Step { who: last, send: Some(said), .. }) if *last == who => {
                said.0.extend_from_slice(&bytes);
            }
            _ => steps.push(Step { who, send: Some(Bytes(bytes)), ..Step::default() }),
        }
    }
    steps.push(observe());
    let rule =
        if name.contains("injection") { Rule::NeverRan(b"mail from") } else { Rule::Sent(sent) };
    Dialogue { script: Script { id: name.clone(), proto: "smtp".to_owned(), steps }, name, rule }
}

fn says(bytes: &[u8]) -> Step {
    Step { who: Who::S, send: Some(Bytes(bytes.to_vec())), ..Step::default() }
}

fn awaits(who: Who, pattern: &str) -> Step {
    Step { who, expect: Some(pattern.to_owned()), ..Step::default() }
}

fn observe() -> Step {
    Step { who: Who::X, action: Some("observe".to_owned()), ..Step::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_told_from_the_file() {
        assert_eq!(pop3_command("gmail.retr1.txt", b"").unwrap(), "RETR 1\r\n");
        assert_eq!(pop3_command("list1.txt", b"+OK 1 2\r\n").unwrap(), "LIST 1\r\n");
        assert_eq!(smtp_command("comcast-greeting.txt"), None);
        assert_eq!(smtp_command("rfc0821-vrfy.txt").unwrap(), "VRFY x\r\n");
    }
}
