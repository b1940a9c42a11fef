//! Messages of ICAP, as a client reads them: heads, what they encapsulate, chunked bodies.

use spool::Spooled;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::super::pool::{AskError, WHY_BYTES_MAX};
use super::super::printable;
use super::{HEAD_BYTES_MAX, HEADERS_MAX};

/// Longest line before a chunk, bytes: its length in hex, and extensions that nobody knows.
pub(super) const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Most bytes of a body that nobody wants.
pub(super) const SKIPPED_BYTES_MAX: usize = 64 * 1024;

/// The head of an answer of ICAP, or of the HTTP response in it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) reason: String,
    /// Names in small letters; the lines of a folded value are separated by a tab.
    headers: Vec<(String, String)>,
}

/// What an answer encapsulates (RFC 3507 section 4.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encapsulated {
    /// Where the head of the response starts.
    response_at: Option<usize>,
    /// Where the body starts, or would: all before it are heads.
    body_at: usize,
    pub(super) has_body: bool,
}

impl Head {
    /// Takes a head apart; `protocol` is `ICAP/` or `HTTP/`.
    pub(super) fn parse(bytes: &[u8], protocol: &str) -> Result<Self, AskError> {
        let line_bytes = bytes.iter().position(|&c| c == b'\n').map_or(bytes.len(), |at| at + 1);
        let (line, rest) = bytes.split_at_checked(line_bytes).unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.trim_end().splitn(3, ' ');
        let is_version = words.next().is_some_and(|word| word.starts_with(protocol));
        let status = words
            .next()
            .filter(|word| is_version && word.len() == 3)
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| AskError::rubbish(&line))?;
        let reason = printable(words.next().unwrap_or_default(), WHY_BYTES_MAX);
        let rest = unfold(rest);
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let parsed = httparse::parse_headers(&rest, &mut fields);
        let Ok(httparse::Status::Complete((_, fields))) = parsed else {
            return Err(AskError::rubbish("header fields that nobody can read, or too many"));
        };
        let headers = fields
            .iter()
            .map(|field| {
                let value = String::from_utf8_lossy(field.value).trim().to_owned();
                (field.name.to_ascii_lowercase(), value)
            })
            .collect();
        Ok(Self { status, reason, headers })
    }

    /// Of the first field with that name (in small letters).
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a field that is a list has this word in it.
    pub(super) fn has_token(&self, name: &str, token: &str) -> bool {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        values
            .any(|(_, value)| value.split(',').any(|word| word.trim().eq_ignore_ascii_case(token)))
    }

    /// What it says of what follows; nothing where it says nothing that makes sense.
    pub(super) fn encapsulated(&self) -> Option<Encapsulated> {
        let mut parts = Encapsulated { response_at: None, body_at: 0, has_body: false };
        let mut last = None;
        for entry in self.value("encapsulated")?.split(',') {
            let (name, at) = entry.split_once('=')?;
            let at: usize = at.trim().parse().ok()?;
            // Offsets in the order in which they follow, and nothing behind a body.
            if last.is_some_and(|last| last > at) || parts.has_body {
                return None;
            }
            last = Some(at);
            match name.trim().to_ascii_lowercase().as_str() {
                "res-hdr" => parts.response_at = Some(at),
                "req-hdr" => {}
                "null-body" => {}
                "res-body" | "req-body" | "opt-body" => parts.has_body = true,
                _ => return None,
            }
            parts.body_at = at;
        }
        Some(parts)
    }
}

/// Joins folded lines, with a tab where the fold was (RFC 9112 section 5.2). Control characters become
/// question marks: the name of a virus may have some, and must not be lost with them.
fn unfold(bytes: &[u8]) -> Vec<u8> {
    let mut unfolded: Vec<u8> = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|&c| c == b'\n') {
        if !unfolded.is_empty() && matches!(line.first(), Some(b' ' | b'\t')) {
            while matches!(unfolded.last(), Some(b'\r' | b'\n')) {
                unfolded.pop();
            }
            unfolded.push(b'\t');
        }
        let is_kept = |c: &u8| !c.is_ascii_control() || matches!(c, b'\t' | b'\r' | b'\n');
        unfolded.extend(line.iter().map(|c| if is_kept(c) { *c } else { b'?' }));
    }
    unfolded
}

/// Reads a head to its empty line.
pub(super) async fn read_head(
    reader: &mut (impl AsyncBufRead + Unpin),
    protocol: &str,
) -> Result<Head, AskError> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        read_line(reader, &mut head, HEAD_BYTES_MAX).await?;
        if matches!(head.get(before..), Some(b"\r\n" | b"\n")) {
            return Head::parse(&head, protocol);
        }
    }
}

/// Reads the heads that stand before a body; gives that of the response.
pub(super) async fn read_encapsulated(
    reader: &mut (impl AsyncBufRead + Unpin),
    parts: &Encapsulated,
) -> Result<Head, AskError> {
    if parts.body_at > HEAD_BYTES_MAX {
        return Err(AskError::ReplyTooLong(HEAD_BYTES_MAX));
    }
    let mut heads = vec![0; parts.body_at];
    reader.read_exact(&mut heads).await.map_err(AskError::Receive)?;
    let head = parts.response_at.and_then(|at| heads.get(at..));
    Head::parse(head.ok_or_else(|| AskError::rubbish("200 without a response"))?, "HTTP/")
}

/// Whether a chunked body is this content. Reads it to its end if it is, else to where it is not.
pub(super) async fn is_echo(
    reader: &mut (impl AsyncBufRead + Unpin),
    content: &Spooled,
) -> Result<bool, AskError> {
    let mut offset: u64 = 0;
    // What is compared next: read back, and not seen yet.
    let mut wanted = bytes::Bytes::new();
    loop {
        let mut left = chunk_bytes(reader).await?;
        if left == 0 {
            break;
        }
        while left > 0 {
            if wanted.is_empty() {
                wanted = content.read_at(offset).map_err(AskError::Content)?;
                offset = offset.saturating_add(u64::try_from(wanted.len()).unwrap_or(u64::MAX));
            }
            let seen = reader.fill_buf().await.map_err(AskError::Receive)?;
            if seen.is_empty() {
                return Err(AskError::Closed);
            }
            let count = seen.len().min(wanted.len()).min(left);
            // Behind the end of the content nothing is wanted.
            if count == 0 || seen.get(..count) != wanted.get(..count) {
                return Ok(false);
            }
            reader.consume(count);
            drop(wanted.split_to(count));
            left -= count;
        }
        end_of_line(reader).await?;
    }
    let is_all = wanted.is_empty() && offset >= content.len();
    Ok(is_all && trailer(reader).await.is_ok())
}

/// Reads a chunked body that nobody wants.
pub(super) async fn skip_body(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<(), AskError> {
    let mut total: usize = 0;
    loop {
        let bytes = chunk_bytes(reader).await?;
        if bytes == 0 {
            return trailer(reader).await;
        }
        total = total.saturating_add(bytes);
        if total > SKIPPED_BYTES_MAX {
            return Err(AskError::ReplyTooLong(SKIPPED_BYTES_MAX));
        }
        let mut chunk = vec![0; bytes];
        reader.read_exact(&mut chunk).await.map_err(AskError::Receive)?;
        end_of_line(reader).await?;
    }
}

/// The length of the next chunk; 0 at the end.
async fn chunk_bytes(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<usize, AskError> {
    let mut line = Vec::new();
    read_line(reader, &mut line, CHUNK_LINE_BYTES_MAX).await?;
    let line = String::from_utf8_lossy(&line);
    let digits = line.split(';').next().unwrap_or_default().trim();
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(AskError::rubbish(&line));
    }
    usize::from_str_radix(digits, 16).map_err(|_| AskError::rubbish(&line))
}

/// Behind a chunk.
async fn end_of_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<(), AskError> {
    let mut line = Vec::new();
    read_line(reader, &mut line, CHUNK_LINE_BYTES_MAX).await?;
    if line == b"\r\n" || line == b"\n" {
        Ok(())
    } else {
        Err(AskError::rubbish("a chunk too long"))
    }
}

/// Behind the last chunk: fields that nobody wants, and an empty line.
async fn trailer(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<(), AskError> {
    let mut trailer = Vec::new();
    loop {
        let before = trailer.len();
        read_line(reader, &mut trailer, HEAD_BYTES_MAX).await?;
        if matches!(trailer.get(before..), Some(b"\r\n" | b"\n")) {
            return Ok(());
        }
    }
}

/// Adds a line, with its end, to `into`, which may get `bytes_max` long.
async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    into: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<(), AskError> {
    loop {
        let seen = reader.fill_buf().await.map_err(AskError::Receive)?;
        if seen.is_empty() {
            return Err(AskError::Closed);
        }
        let end = seen.iter().position(|&c| c == b'\n');
        let count = end.map_or(seen.len(), |at| at + 1);
        if into.len() + count > bytes_max {
            return Err(AskError::ReplyTooLong(bytes_max));
        }
        into.extend_from_slice(seen.get(..count).unwrap_or_default());
        reader.consume(count);
        if end.is_some() {
            return Ok(());
        }
    }
}
