//! A POP3 client: log in, fetch, delete.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::smtp::connect;

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
    /// No connection, no banner in time, or another than `+OK`.
    pub fn open(server: SocketAddr) -> Result<Self> {
        let (stream, first_byte) = connect(server)?;
        let mut session = Self { stream, first_byte };
        session.read_status().context("reading the banner")?;
        Ok(session)
    }

    /// Logs in.
    ///
    /// # Errors
    /// A refusal or a broken connection.
    pub fn log_in(&mut self, user: &str, password: &str) -> Result<()> {
        self.command(&format!("USER {user}"))?;
        self.send(&format!("PASS {password}"))?;
        self.read_status().context("reading the reply to PASS")?;
        Ok(())
    }

    /// Fetches message `number`, as it was before dots were doubled.
    ///
    /// # Errors
    /// A refusal, or a connection that broke.
    pub fn retrieve(&mut self, number: u32) -> Result<Vec<u8>> {
        self.command(&format!("RETR {number}"))?;
        let mut message = Vec::new();
        loop {
            let mut line = Vec::new();
            if self.stream.read_until(b'\n', &mut line)? == 0 {
                bail!("the connection was closed after {} bytes of the message", message.len());
            }
            match line.as_slice() {
                b".\r\n" => return Ok(message),
                [b'.', rest @ ..] => message.extend_from_slice(rest),
                all => message.extend_from_slice(all),
            }
        }
    }

    /// Says QUIT and reads the goodbye.
    ///
    /// # Errors
    /// A refusal, or a connection that broke.
    pub fn quit(mut self) -> Result<()> {
        self.command("QUIT").map(drop)
    }

    /// Sends a command, and gives the one line of its positive reply.
    ///
    /// # Errors
    /// `-ERR`, or a connection that broke.
    pub fn command(&mut self, line: &str) -> Result<String> {
        self.send(line)?;
        self.read_status().with_context(|| format!("reading the reply to {line:?}"))
    }

    fn send(&mut self, line: &str) -> Result<()> {
        Ok(self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?)
    }

    fn read_status(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the connection was closed");
        ensure!(line.starts_with("+OK"), "the server says {line:?}");
        Ok(line)
    }
}
