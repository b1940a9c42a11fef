//! A server's status port, where its settings have one: `/readyz`.

use std::net::SocketAddr;
use std::path::Path;

use super::{exchange, shown};
use crate::diag::Found;

/// Largest settings file that is read, in bytes.
const SETTINGS_BYTES_MAX: usize = 1024 * 1024;
/// Longest token that is read, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// A status port, as the section `[status]` of a server's settings has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    listen: SocketAddr,
    token_file: Option<String>,
    /// Whether it speaks TLS, by a certificate that only its readers know.
    is_tls: bool,
}

impl Status {
    /// That of a settings file, if it has one.
    #[must_use]
    pub fn of(settings: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(settings).ok()?;
        Self::parse(text.get(..text.len().min(SETTINGS_BYTES_MAX))?)
    }

    fn parse(text: &str) -> Option<Self> {
        let table: toml::Table = text.parse().ok()?;
        let status = table.get("status")?.as_table()?;
        let string = |key: &str| status.get(key).and_then(toml::Value::as_str);
        Some(Self {
            listen: string("listen")?.parse().ok()?,
            token_file: string("token_file").map(str::to_owned),
            is_tls: status.contains_key("certificate"),
        })
    }

    /// Whether the server says that it is ready.
    pub async fn ready(&self) -> Found {
        if self.is_tls {
            return Found::Unknown(format!("{} speaks TLS: ask it as its readers do", self.listen));
        }
        let token = self.token_file.as_deref().and_then(|file| std::fs::read_to_string(file).ok());
        let token =
            token.map(|token| token.trim().chars().take(TOKEN_BYTES_MAX).collect::<String>());
        let authorization =
            token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "GET /readyz HTTP/1.1\r\nHost: {}\r\n{authorization}Connection: close\r\n\r\n",
            self.listen
        );
        match exchange(self.listen, request.as_bytes(), |_| false).await {
            Ok(answer) => judge(&answer),
            Err(error) => Found::wrong(error.to_string(), "start the server, or mend [status]"),
        }
    }
}

fn judge(answer: &[u8]) -> Found {
    let status = shown(answer);
    let body = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .and_then(|end| answer.get(end + 4..))
        .unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Found::Good("ready".to_owned()),
        Some("503") => Found::wrong(
            format!("says that it is not ready: {}", shown(body)),
            "mend what it names; its log says more",
        ),
        Some("401" | "403") => {
            Found::Unknown("shows itself only to those with its token".to_owned())
        }
        _ => Found::wrong(
            format!("says \"{status}\" to /readyz"),
            "is it this server that listens there?",
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_section_is_found() {
        let text =
            "listen = \"[::]:4651\"\n[status]\nlisten = \"127.0.0.1:4661\"\ntoken_file = \"/t\"\n";
        let status = Status::parse(text).unwrap();
        assert_eq!((status.listen.port(), status.is_tls), (4661, false));
        assert_eq!(Status::parse("listen = \"[::]:4651\"\n"), None);
        assert_eq!(Status::parse("[status]\nlisten = 7\n"), None);
    }

    #[tokio::test]
    async fn a_server_that_is_not_ready_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = listener.local_addr().unwrap();
        let answer = async |answer: &[u8]| {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 500];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            assert!(request.starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
            stream.write_all(answer).await.unwrap();
        };
        let status = Status { listen, token_file: None, is_tls: false };
        let good = b"HTTP/1.1 200 OK\r\n\r\nready\n";
        let (found, ()) = tokio::join!(status.ready(), answer(good));
        assert_eq!(found, Found::Good("ready".to_owned()));
        let bad = b"HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nno proxy answers\n";
        let (found, ()) = tokio::join!(status.ready(), answer(bad));
        let Found::Wrong { what, .. } = found else { panic!("{found:?}") };
        assert_eq!(what, "says that it is not ready: no proxy answers");
        let (found, ()) = tokio::join!(status.ready(), answer(b"SSH-2.0\r\n"));
        assert!(matches!(found, Found::Wrong { .. }));
    }
}
