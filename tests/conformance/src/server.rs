//! A well-behaved server of either kind, or one with a fault that the script gives it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;

use crate::peer::Inbox;
use crate::script::Step;

/// Messages that an SMTP server took to their end, as they came on the wire.
pub type Taken = Arc<Mutex<Vec<Vec<u8>>>>;

/// Reads lines and bodies from an inbox, which another task fills.
struct Reader {
    inbox: Arc<Inbox>,
    at: usize,
}

impl Reader {
    /// Everything up to and with the first of `ends`; `None` if the client is gone before.
    async fn until(&mut self, ends: &[&[u8]]) -> Option<Vec<u8>> {
        let mut searched = 0;
        loop {
            let known = self.inbox.len();
            let bytes = self.inbox.since(self.at);
            let from = searched;
            let end = ends
                .iter()
                .filter_map(|end| {
                    let found = bytes.get(from..)?.windows(end.len()).position(|w| w == *end)?;
                    Some(from + found + end.len())
                })
                .min();
            if let Some(end) = end {
                self.at += end;
                return bytes.get(..end).map(<[u8]>::to_vec);
            }
            if known.1.is_some() {
                return None;
            }
            searched = bytes.len().saturating_sub(16);
            self.inbox.changed(known).await;
        }
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        loop {
            let known = self.inbox.len();
            if let Some(bytes) = self.inbox.since(self.at).get(..count) {
                self.at += count;
                return Some(bytes.to_vec());
            }
            if known.1.is_some() {
                return None;
            }
            self.inbox.changed(known).await;
        }
    }
}

/// Serves SMTP as the step describes it, from where the script stands.
pub async fn smtp(step: &Step, inbox: Arc<Inbox>, mut writer: OwnedWriteHalf, taken: Taken) {
    let mut reader = Reader { at: inbox.len().0, inbox };
    let bytes = |field: &Option<crate::script::Bytes>, default: &[u8]| {
        field.as_ref().map_or_else(|| default.to_vec(), |bytes| bytes.0.clone())
    };
    let mut say = bytes(&step.greeting, b"220 fake\r\n");
    let mut chunks = Vec::new();
    loop {
        if writer.write_all(&say).await.is_err() {
            return;
        }
        let Some(line) = reader.until(&[b"\n"]).await else { return };
        let words: Vec<String> = String::from_utf8_lossy(&line)
            .split_whitespace()
            .map(str::to_ascii_uppercase)
            .collect();
        say = match words.first().map(String::as_str) {
            Some("EHLO" | "HELO") => bytes(&step.ehlo, b"250 fake\r\n"),
            Some("MAIL" | "RCPT" | "RSET" | "NOOP") => b"250 ok\r\n".to_vec(),
            Some("DATA") => {
                if writer.write_all(b"354 go\r\n").await.is_err() {
                    return;
                }
                let mut ends: Vec<&[u8]> = vec![b"\r\n.\r\n"];
                ends.extend(step.also_eod.as_ref().map(|end| end.0.as_slice()));
                let Some(body) = reader.until(&ends).await else { return };
                taken.lock().unwrap_or_else(PoisonError::into_inner).push(body);
                bytes(&step.eod_reply, b"250 queued\r\n")
            }
            Some("BDAT") => {
                let Some(size) = words.get(1).and_then(|size| size.parse().ok()) else {
                    return;
                };
                let Some(chunk) = reader.exactly(size).await else { return };
                chunks.extend_from_slice(&chunk);
                if words.get(2).is_some_and(|word| word == "LAST") {
                    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                    taken.push(std::mem::take(&mut chunks));
                }
                b"250 ok\r\n".to_vec()
            }
            Some("STARTTLS") => b"220 go\r\n".to_vec(),
            Some("QUIT") => {
                let _ = writer.write_all(b"221 bye\r\n").await;
                let _ = writer.shutdown().await;
                return;
            }
            _ => b"500 what\r\n".to_vec(),
        };
    }
}

/// Serves POP3 as the step describes it.
pub async fn pop3(step: &Step, inbox: Arc<Inbox>, mut writer: OwnedWriteHalf) {
    let mut reader = Reader { at: inbox.len().0, inbox };
    let once: Vec<&[u8]> =
        step.messages.iter().flatten().map(|message| message.0.as_slice()).collect();
    let messages = once.repeat(step.repeat.unwrap_or(1));
    let mut say = b"+OK ready <1.2@mx>\r\n".to_vec();
    loop {
        if writer.write_all(&say).await.is_err() {
            return;
        }
        let Some(line) = reader.until(&[b"\n"]).await else { return };
        let words: Vec<String> = String::from_utf8_lossy(&line)
            .split_whitespace()
            .map(str::to_ascii_uppercase)
            .collect();
        let message = words
            .get(1)
            .and_then(|number| number.parse::<usize>().ok())
            .and_then(|number| messages.get(number.checked_sub(1)?));
        say = match (words.first().map(String::as_str), message) {
            (Some("RETR" | "TOP"), Some(message)) => {
                let mut reply = format!("+OK {} octets\r\n", message.len()).into_bytes();
                reply.extend_from_slice(&stuffed(message));
                reply
            }
            (Some("QUIT"), _) => {
                let _ = writer.write_all(b"+OK bye\r\n").await;
                let _ = writer.shutdown().await;
                return;
            }
            (Some("RETR" | "TOP"), None) => b"-ERR no such message\r\n".to_vec(),
            _ => b"+OK\r\n".to_vec(),
        };
    }
}

/// A message as it crosses: dots stuffed, the end appended.
#[must_use]
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for line in message.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    if !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}
