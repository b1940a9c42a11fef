//! Lines and dots as a strict peer reads and writes them (RFC 5321 section 4.5.2, RFC 1939
//! section 3): only CRLF ends a line, only CRLF.CRLF a message.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead};

/// Most bytes of one line or message that a peer of the harness takes.
const BYTES_MAX: usize = 256 * 1024 * 1024;

/// A message with the end of its last line, which it must have on the wire.
#[must_use]
pub fn terminated(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if !message.is_empty() && !message.ends_with(b"\r\n") {
        message.extend_from_slice(b"\r\n");
    }
    message
}

/// A message as it crosses: dots at the beginning of lines doubled, the end appended.
#[must_use]
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let message = terminated(message);
    let mut wire = Vec::with_capacity(message.len() + 16);
    let mut starts = true;
    let mut last = 0;
    for &byte in &message {
        if starts && byte == b'.' {
            wire.push(b'.');
        }
        wire.push(byte);
        starts = last == b'\r' && byte == b'\n';
        last = byte;
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// The message of a stuffed one, whose end is cut off already.
#[must_use]
pub fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(wire.len());
    let (mut starts, mut last) = (true, 0);
    for &byte in wire {
        let is_stuffing = starts && byte == b'.';
        if !is_stuffing {
            message.push(byte);
        }
        starts = last == b'\r' && byte == b'\n';
        last = byte;
    }
    message
}

/// LF line ends made CRLF; what is CRLF stays.
#[must_use]
pub fn with_crlf(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 32);
    let mut last = 0;
    for &byte in message {
        if byte == b'\n' && last != b'\r' {
            out.push(b'\r');
        }
        out.push(byte);
        last = byte;
    }
    out
}

/// Whether all line ends are bare LFs, as a file of a Unix machine has them.
#[must_use]
pub fn has_only_bare_lf(message: &[u8]) -> bool {
    message.contains(&b'\n') && !message.contains(&b'\r')
}

/// Reads a line with its LF. Empty at the end of the stream.
///
/// # Errors
///
/// When the connection breaks, or the line does not end.
pub async fn line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    if line.len() > BYTES_MAX {
        return Err(io::Error::other("a line without an end"));
    }
    Ok(line)
}

/// Reads up to CRLF.CRLF, and returns what was before the dot, still stuffed. `None` if the stream
/// ends before.
///
/// # Errors
///
/// When the connection breaks, or the message does not end.
pub async fn message<R>(reader: &mut tokio::io::BufReader<R>) -> io::Result<Option<Vec<u8>>>
where
    R: AsyncRead + Unpin,
{
    let mut wire = Vec::new();
    let mut starts = true;
    loop {
        let line = line(reader).await?;
        if line.is_empty() {
            return Ok(None);
        }
        if starts && line == b".\r\n" {
            return Ok(Some(wire));
        }
        starts = line.ends_with(b"\r\n");
        wire.extend_from_slice(&line);
        if wire.len() > BYTES_MAX {
            return Err(io::Error::other("a message without an end"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffing_is_undone() {
        for message in [&b""[..], b".\r\n..\r\n.x\r\n", b"a\n.b\r\n", b"a\r.\r\n", b"x"] {
            let wire = stuffed(message);
            let inside = wire.strip_suffix(b".\r\n").unwrap();
            assert_eq!(unstuffed(inside), terminated(message));
        }
        assert_eq!(stuffed(b".a\n.b"), b"..a\n.b\r\n.\r\n");
    }

    #[tokio::test]
    async fn only_the_exact_marker_ends_a_message() {
        let wire = b"a\n.\n.\r\nb\r\n..\r\n.\r\nrest";
        let mut reader = tokio::io::BufReader::new(&wire[..]);
        let read = message(&mut reader).await.unwrap().unwrap();
        assert_eq!(read, b"a\n.\n.\r\nb\r\n..\r\n");
        assert_eq!(line(&mut reader).await.unwrap(), b"rest");
    }
}
