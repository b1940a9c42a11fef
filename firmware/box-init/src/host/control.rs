//! The socket that console and status page ask over: lines in, lines out, no waiting.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::control::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request};

/// Most connections at a time; the oldest is closed for one more.
const CONNECTIONS_MAX: usize = 16;
/// Read at once, in bytes.
const READ_BYTES: usize = 4096;

/// The socket and its connections.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    asked: Vec<u8>,
    answer: Vec<u8>,
    over: bool,
}

impl Server {
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connections: Vec::new() })
    }

    /// What to wait for; the second is true where there is something to write.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let connections =
            self.connections.iter().map(|one| (one.stream.as_fd(), !one.answer.is_empty()));
        std::iter::once((self.listener.as_fd(), false)).chain(connections)
    }

    /// Takes in what has come, answers it, and sends what there is room for.
    pub(crate) fn serve(&mut self, mut answer: impl FnMut(Request) -> Reply) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                if self.connections.len() >= CONNECTIONS_MAX {
                    self.connections.remove(0);
                }
                let (asked, answer) = (Vec::new(), Vec::new());
                self.connections.push(Connection { stream, asked, answer, over: false });
            }
        }
        for connection in &mut self.connections {
            connection.serve(&mut answer);
        }
        self.connections.retain(|connection| !connection.over);
    }
}

impl Connection {
    fn serve(&mut self, answer: &mut impl FnMut(Request) -> Reply) {
        self.send();
        // One who does not take his answers is asked nothing more.
        while self.answer.is_empty() && !self.over {
            if let Some(end) = self.asked.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.asked.drain(..=end).collect();
                let reply = match serde_json::from_slice(&line) {
                    Ok(request) => answer(request),
                    Err(error) => Reply::Failed { problem: format!("not understood: {error}") },
                };
                self.answer = line_of(&reply);
                self.send();
            } else if self.asked.len() >= REQUEST_BYTES_MAX || !self.receive() {
                self.over |= self.asked.len() >= REQUEST_BYTES_MAX;
                break;
            }
        }
    }

    /// Whether something came.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.over = true,
            Ok(bytes) => {
                self.asked.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.over = true,
        }
        false
    }

    fn send(&mut self) {
        while !self.answer.is_empty() {
            match self.stream.write(&self.answer) {
                Ok(bytes) => drop(self.answer.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.over = true;
                    return;
                }
            }
        }
    }
}

fn line_of(reply: &Reply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    if line.is_empty() || line.len() >= REPLY_BYTES_MAX {
        let problem = "the answer is too long: ask for less".to_owned();
        line = serde_json::to_vec(&Reply::Failed { problem }).unwrap_or_default();
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    fn server() -> (tempfile::TempDir, String, Server) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control").to_str().unwrap().to_owned();
        let server = Server::open(&path).unwrap();
        (folder, path, server)
    }

    fn answer(request: Request) -> Reply {
        match request {
            Request::Logs { lines, .. } => {
                Reply::Done { note: "x".repeat(usize::try_from(lines).unwrap()) }
            }
            other => Reply::Failed { problem: format!("{other:?}") },
        }
    }

    #[test]
    fn each_line_has_its_answer_however_it_comes() {
        let (_folder, path, mut server) = server();
        let mut client = UnixStream::connect(path).unwrap();
        for byte in b"{\"verb\":\"status\"}\nnonsense\n{\"verb\":\"reboot\"}\n" {
            client.write_all(&[*byte]).unwrap();
            server.serve(answer);
        }
        let mut lines = BufReader::new(client).lines();
        let mut next = || lines.next().unwrap().unwrap();
        assert_eq!(next(), r#"{"reply":"failed","problem":"Status"}"#);
        assert!(next().contains("not understood"));
        assert!(next().contains("Reboot"));
    }

    #[test]
    fn lines_without_end_and_answers_without_end_are_cut() {
        let (_folder, path, mut server) = server();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(&vec![b'x'; REQUEST_BYTES_MAX]).unwrap();
        server.serve(answer);
        assert_eq!(server.connections.len(), 0);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"{\"verb\":\"logs\",\"service\":\"a\",\"lines\":2000000}\n").unwrap();
        server.serve(answer);
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).unwrap();
        assert!(line.contains("too long"));
    }

    #[test]
    fn one_who_does_not_read_holds_nobody_up() {
        let (_folder, path, mut server) = server();
        let mut slow = UnixStream::connect(&path).unwrap();
        for _ in 0..4 {
            slow.write_all(b"{\"verb\":\"logs\",\"service\":\"a\",\"lines\":900000}\n").unwrap();
        }
        server.serve(answer);
        assert!(server.descriptors().any(|(_, writes)| writes));
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"{\"verb\":\"status\"}\n").unwrap();
        server.serve(answer);
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).unwrap();
        assert!(line.contains("Status"));
    }

    #[test]
    fn the_oldest_goes_for_one_more() {
        let (_folder, path, mut server) = server();
        let clients: Vec<UnixStream> = (0..=CONNECTIONS_MAX)
            .map(|_| {
                let client = UnixStream::connect(&path).unwrap();
                server.serve(answer);
                client
            })
            .collect();
        assert_eq!(server.connections.len(), CONNECTIONS_MAX);
        assert_eq!((&clients[0]).read(&mut [0; 1]).unwrap(), 0);
    }
}
