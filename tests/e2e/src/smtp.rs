//! An SMTP client that keeps its eyes open: what was answered at each step, and when.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::clock::now;

/// Longest wait for an answer: over the box's 5 s for each dead manager.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A reply: the code and all lines (RFC 5321, section 4.2).
#[derive(Debug, Clone)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

/// An open session, greeted.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<TcpStream>,
    /// From the first SYN to the first byte of the banner.
    pub first_byte: Duration,
}

impl Session {
    /// Connects and reads the banner. Run it within the client's machine.
    ///
    /// # Errors
    /// No connection, no banner in time, or a banner other than 220.
    pub fn open(server: SocketAddr) -> Result<Self> {
        let (stream, first_byte) = connect(server)?;
        let mut session = Self { stream, first_byte };
        let banner = session.read_reply().context("reading the banner")?;
        ensure!(banner.code == 220, "banner {banner:?}");
        Ok(session)
    }

    /// Sends a mail in one transaction, and gives the reply to its end.
    ///
    /// # Errors
    /// A refusal before the message, or a connection that broke.
    pub fn send(&mut self, from: &str, to: &str, message: &[u8]) -> Result<Reply> {
        self.send_slowly(from, to, message, 1, Duration::ZERO)
    }

    /// The same with the message in `steps` pieces, and a pause before each.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_slowly(
        &mut self,
        from: &str,
        to: &str,
        message: &[u8],
        steps: usize,
        pause: Duration,
    ) -> Result<Reply> {
        self.expect("EHLO pc.office.test", 250)?;
        self.expect(&format!("MAIL FROM:<{from}> BODY=8BITMIME"), 250)?;
        self.expect(&format!("RCPT TO:<{to}>"), 250)?;
        self.expect("DATA", 354)?;
        let bytes = stuffed(message);
        for piece in bytes.chunks(bytes.len().div_ceil(steps)) {
            if !pause.is_zero() {
                std::thread::park_timeout(pause);
            }
            self.stream.get_mut().write_all(piece).context("sending the message")?;
        }
        self.read_reply().context("reading the reply to the message")
    }

    /// Says QUIT and reads the goodbye.
    ///
    /// # Errors
    /// Another reply than 221.
    pub fn quit(mut self) -> Result<()> {
        self.expect("QUIT", 221).map(drop)
    }

    /// Sends a command, and gives the reply.
    ///
    /// # Errors
    /// A broken connection, or nothing understandable in time.
    pub fn command(&mut self, line: &str) -> Result<Reply> {
        let sent = self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes());
        sent.and(Ok(())).with_context(|| format!("sending {line:?}"))?;
        self.read_reply().with_context(|| format!("reading the reply to {line:?}"))
    }

    fn expect(&mut self, line: &str, code: u16) -> Result<Reply> {
        let reply = self.command(line)?;
        ensure!(reply.code == code, "{line:?} was answered by {reply:?}");
        Ok(reply)
    }

    fn read_reply(&mut self) -> Result<Reply> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the connection was closed; so far: {text:?}");
            }
            text += &line;
            if line.as_bytes().get(3) != Some(&b'-') {
                let code = line.get(..3).unwrap_or_default();
                let code = code.parse().with_context(|| format!("no reply code in {line:?}"))?;
                return Ok(Reply { code, text });
            }
        }
    }
}

/// Connects, and waits for the first byte; gives how long that took.
pub(crate) fn connect(server: SocketAddr) -> Result<(BufReader<TcpStream>, Duration)> {
    let start = now();
    let stream = TcpStream::connect_timeout(&server, ANSWER_MAX)
        .with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut stream = BufReader::new(stream);
    let bytes = stream.fill_buf().context("waiting for the banner")?;
    ensure!(!bytes.is_empty(), "the connection was closed before a banner");
    Ok((stream, start.elapsed()))
}

/// The message as it crosses: dots doubled at line starts, and the end of data after it.
pub(crate) fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            bytes.push(b'.');
        }
        bytes.extend_from_slice(line);
    }
    bytes.extend_from_slice(b".\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_at_line_starts_are_doubled() {
        assert_eq!(stuffed(b"a\r\n.\r\n..b\r\n"), b"a\r\n..\r\n...b\r\n.\r\n");
    }
}
