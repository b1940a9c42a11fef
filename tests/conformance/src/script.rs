//! The session files: JSON, steps run in order between a client and a server.

use anyhow::Context;
use base64::Engine as _;
use serde::{Deserialize, Deserializer};

/// One session file.
#[derive(Debug, Deserialize)]
pub struct Script {
    /// Its name, as in `S00-clean`.
    pub id: String,
    /// `smtp` or `pop3`.
    pub proto: String,
    /// Run in order.
    pub steps: Vec<Step>,
}

/// One step; which fields are there says what it is.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Step {
    /// `C`, `S` or `X` (the harness).
    pub who: Who,
    /// Exact bytes to send.
    pub send: Option<Bytes>,
    /// Sizes of the writes; the last repeats.
    pub segments: Option<Vec<usize>>,
    /// Between writes, in milliseconds.
    pub gap_ms: Option<u64>,
    /// Wait until this matches what has come since the last wait.
    pub expect: Option<String>,
    /// Only paces the script; may time out.
    #[serde(default)]
    pub auto: bool,
    /// `serve`, `close`, `shutdown_write`, `sleep`, `repeat`, `observe`, `check`.
    pub action: Option<String>,
    /// Of `close`: `fin` or `rst`.
    pub how: Option<String>,
    /// Of `sleep`.
    pub ms: Option<u64>,
    /// Of `repeat`.
    pub data: Option<Bytes>,
    /// Of `repeat`.
    pub times: Option<usize>,
    /// Of `serve`.
    pub greeting: Option<Bytes>,
    /// Of `serve`.
    pub ehlo: Option<Bytes>,
    /// Of `serve`.
    pub eod_reply: Option<Bytes>,
    /// Of `serve`: what this server takes as the end of data as well.
    pub also_eod: Option<Bytes>,
    /// Of `serve`: what a POP3 server has.
    pub messages: Option<Vec<Bytes>>,
    /// Of `serve`: the messages so many times over.
    pub repeat: Option<usize>,
}

/// Whose step it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Who {
    /// Client.
    #[default]
    C,
    /// Server.
    S,
    /// Harness.
    X,
}

/// Bytes in base64.
#[derive(Debug, Clone)]
pub struct Bytes(pub Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Encoded {
            b64: String,
        }
        let encoded = Encoded::deserialize(deserializer)?;
        base64::engine::general_purpose::STANDARD
            .decode(encoded.b64)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

impl Script {
    /// Everything the client sends in the script, joined.
    #[must_use]
    pub fn client_bytes(&self) -> Vec<u8> {
        self.sent(Who::C)
    }

    /// Everything the server sends in the script, joined.
    #[must_use]
    pub fn server_bytes(&self) -> Vec<u8> {
        self.sent(Who::S)
    }

    fn sent(&self, who: Who) -> Vec<u8> {
        let mut bytes = Vec::new();
        for step in self.steps.iter().filter(|step| step.who == who) {
            if let Some(send) = &step.send {
                bytes.extend_from_slice(&send.0);
            }
            if let Some(data) = &step.data {
                bytes.extend_from_slice(&data.0.repeat(step.times.unwrap_or(1)));
            }
        }
        bytes
    }
}

/// All session files, by name. `None` where there is no corpus.
///
/// # Errors
///
/// When a file is there and cannot be read.
pub fn load_all() -> anyhow::Result<Option<Vec<Script>>> {
    let root = crate::corpus::folder().join("authored-sessions");
    if !root.is_dir() {
        return Ok(None);
    }
    let mut scripts = Vec::new();
    for folder in ["smtp", "pop3"] {
        for entry in std::fs::read_dir(root.join(folder)).context("read the corpus")? {
            let path = entry?.path();
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let script = serde_json::from_slice(&text)
                .with_context(|| format!("read the script {}", path.display()))?;
            scripts.push(script);
        }
    }
    scripts.sort_by(|a: &Script, b| a.id.cmp(&b.id));
    Ok(Some(scripts))
}
