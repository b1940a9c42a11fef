//! The servers behind the gateway: an SMTP server that keeps what it gets, and a POP3 server that
//! has the cases as its mail. Both are strict: what they understand is what RFCs 5321 and 1939 say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::case::Case;
use crate::wire;

/// What the SMTP server took to its end: message by number of the case, unstuffed.
#[derive(Debug, Default)]
pub struct Sink(Mutex<HashMap<usize, Vec<Vec<u8>>>>);

impl Sink {
    /// Starts to serve.
    ///
    /// # Errors
    ///
    /// When no port can be listened on.
    pub async fn start(self: &Arc<Self>) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen as the server")?;
        let address = listener.local_addr()?;
        let sink = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sink = Arc::clone(&sink);
                // A connection that breaks has left no message; the client's side tells why.
                tokio::spawn(async move { drop(sink.serve(stream).await) });
            }
        });
        Ok(address)
    }

    /// The messages taken for a case.
    pub fn taken(&self, number: usize) -> Vec<Vec<u8>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&number).unwrap_or_default()
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let mut number = None;
        stream.write_all(b"220 mx.example ESMTP\r\n").await?;
        loop {
            let line = wire::line(&mut stream).await?;
            let text = String::from_utf8_lossy(&line).to_ascii_uppercase();
            let verb = text.split_whitespace().next().unwrap_or_default();
            let reply: &[u8] = match verb {
                "" if line.is_empty() => return Ok(()),
                "EHLO" => b"250-mx.example\r\n250-8BITMIME\r\n250 CHUNKING\r\n",
                "MAIL" => {
                    number = number_in(&text);
                    b"250 2.1.0 Ok\r\n"
                }
                "DATA" => {
                    stream.write_all(b"354 Go ahead\r\n").await?;
                    let Some(message) = wire::message(&mut stream).await? else { return Ok(()) };
                    let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    let message = wire::unstuffed(&message);
                    taken.entry(number.unwrap_or(usize::MAX)).or_default().push(message);
                    b"250 2.0.0 Queued\r\n"
                }
                "RCPT" | "RSET" | "NOOP" => b"250 2.0.0 Ok\r\n",
                "QUIT" => {
                    stream.write_all(b"221 2.0.0 Bye\r\n").await?;
                    return stream.shutdown().await;
                }
                _ => b"500 5.5.1 Unknown\r\n",
            };
            stream.write_all(reply).await?;
        }
    }
}

/// Starts the POP3 server. Each user `case-N` has one message, that of the case N.
///
/// # Errors
///
/// When no port can be listened on.
pub async fn mailboxes(cases: Arc<[Case]>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen as the server")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let cases = Arc::clone(&cases);
            // The client's side tells why a connection broke.
            tokio::spawn(async move { drop(mailbox(stream, &cases).await) });
        }
    });
    Ok(address)
}

async fn mailbox(stream: TcpStream, cases: &[Case]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut mail: &[u8] = b"";
    stream.write_all(b"+OK ready\r\n").await?;
    loop {
        let line = wire::line(&mut stream).await?;
        let text = String::from_utf8_lossy(&line).to_ascii_uppercase();
        match text.split_whitespace().next().unwrap_or_default() {
            "" if line.is_empty() => return Ok(()),
            "USER" => {
                let case = number_in(&text).and_then(|number| cases.get(number));
                mail = case.map(|case| case.mail.as_slice()).unwrap_or_default();
                stream.write_all(b"+OK\r\n").await?;
            }
            "RETR" => {
                let mut reply = format!("+OK {} octets\r\n", mail.len()).into_bytes();
                reply.extend_from_slice(&wire::stuffed(mail));
                stream.write_all(&reply).await?;
            }
            "QUIT" => {
                stream.write_all(b"+OK bye\r\n").await?;
                return stream.shutdown().await;
            }
            _ => stream.write_all(b"+OK\r\n").await?,
        }
    }
}

/// The number in `case-17`.
fn number_in(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("CASE-")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}
