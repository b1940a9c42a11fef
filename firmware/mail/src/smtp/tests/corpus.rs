//! The scripted SMTP sessions of the corpus, played against the session and a fake server that also
//! takes each script's odd end of data for one.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::*;

/// How many messages the server ends up with, and what the client must have been told in the end.
/// Only CRLF.CRLF ends a message, so that a script may complete fewer than its odd form suggests.
const EXPECTED: &[(&str, usize, &str)] = &[
    ("S00-clean", 1, "221"),
    ("S00b-evil", 0, "221"),
    // A true end and then a second mail, which is refused.
    ("S01-nul-crlf.crlf", 1, "554 5.7.1"),
    // Plain stuffing, with the payload behind it in the same mail. A server that takes it for an
    // end gets the harmless beginning; the payload is never completed.
    ("S01-crlf..crlf", 1, "554 5.7.1"),
    ("S01-", 0, "554 5.6.0"),
    ("S02-", 1, "250 queued"),
    ("S03-", 1, "554 5.7.1"),
    ("S04-", 0, "554"),
    // The clean first mail arrives, the second is refused.
    ("S05d-", 1, "554 5.7.1"),
    ("S05e-", 0, "501 5.5.4"),
    ("S05", 0, "554 5.7.1"),
    // Played with CHUNKING masked.
    ("S06-", 0, "502 5.5.1"),
    ("S07-", 0, "421 4.7.0"),
    ("S08-", 0, "250"),
    ("S10-", 0, "500 5.5.2"),
    ("S10b-", 1, "250 queued"),
    ("S12-", 0, "421 4.3.0"),
    ("S12c-", 0, "221"),
    ("S13-", 0, "421 4.4.2"),
    ("S14-", 0, "220"),
    ("S15-", 0, "235"),
    ("S16-", 1, "221"),
    ("S18-", 0, "502 5.5.1"),
    // The second mail is told to connect again.
    ("S21-", 0, "421 4.3.0"),
    ("S23-", 0, "554 5.7.1"),
    ("S26-", 1, "250 queued"),
    ("S30-", 0, "354"),
];

/// In base64, the end of the zip with the test virus; the clean twin has another one.
const EVIL: &str = "AAEAAQA3AAAAbQAAAAAA";

/// A server that answers everything kindly.
#[derive(Default)]
struct FakeServer {
    ehlo: Vec<u8>,
    also_end: Option<Vec<u8>>,
    input: Vec<u8>,
    /// So much of the input has no end in it.
    searched: usize,
    in_data: bool,
    /// So much of a chunk is still to come, and whether it is the last.
    chunk: Option<(usize, bool)>,
    /// The chunks of the message that is not complete.
    chunks: Vec<u8>,
    /// As they came, up to the end that it took for one.
    messages: Vec<Vec<u8>>,
}

impl FakeServer {
    fn answers(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.input.extend_from_slice(bytes);
        let mut replies = Vec::new();
        loop {
            if let Some((size, is_last)) = self.chunk {
                if self.input.len() < size {
                    return replies;
                }
                self.chunk = None;
                self.chunks.extend(self.input.drain(..size));
                if is_last {
                    self.messages.push(mem::take(&mut self.chunks));
                }
                replies.extend_from_slice(b"250 octets\r\n");
                self.searched = 0;
            }
            let ends = [Some(b"\r\n.\r\n".to_vec()), self.also_end.clone()];
            let line_ends = [Some(b"\n".to_vec()), None];
            let ends = if self.in_data { ends } else { line_ends };
            let found = ends
                .iter()
                .flatten()
                .filter_map(|end| {
                    let unseen = &self.input[self.searched..];
                    Some((self.searched + memchr::memmem::find(unseen, end)?, end.len()))
                })
                .min();
            let Some((at, length)) = found else {
                self.searched = self.input.len().saturating_sub(8);
                return replies;
            };
            self.searched = 0;
            let rest = self.input.split_off(at + length);
            let mut line = mem::replace(&mut self.input, rest);
            line.truncate(at);
            if self.in_data {
                self.messages.push(line);
                self.in_data = false;
                replies.extend_from_slice(b"250 queued 123\r\n");
                continue;
            }
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            replies.extend_from_slice(match &verb[..] {
                b"EHLO" => &self.ehlo,
                b"DATA" => b"354 go\r\n",
                b"QUIT" => b"221 bye\r\n",
                b"STAR" => b"220 go\r\n",
                b"BDAT" => {
                    let line = String::from_utf8(line).unwrap();
                    let mut words = line.trim_end().split(' ').skip(1);
                    let size = words.next().unwrap().parse().unwrap();
                    self.chunk = Some((size, words.next() == Some("LAST")));
                    b""
                }
                _ => b"250 ok\r\n",
            });
            self.in_data = verb == b"DATA";
        }
    }
}

/// A script being played.
struct Play {
    lab: Lab,
    server: Option<FakeServer>,
    said_to_client: Vec<u8>,
}

impl Play {
    fn client(&mut self, bytes: &[u8], sizes: &[usize]) {
        let last = sizes.last().copied().unwrap_or(bytes.len().max(1));
        let mut sizes = sizes.iter().copied().chain(std::iter::repeat(last));
        let mut rest = bytes;
        while !rest.is_empty() && self.lab.session.wants(Side::Client) {
            let size = sizes.next().unwrap_or(last).clamp(1, rest.len());
            let (chunk, tail) = rest.split_at(size);
            self.lab.send(Side::Client, chunk, &mut std::iter::empty());
            self.settle();
            rest = tail;
        }
    }

    /// Lets the fake server answer until nothing more happens.
    fn settle(&mut self) {
        loop {
            self.said_to_client.append(&mut self.lab.to_client);
            let Some(server) = &mut self.server else { return };
            let replies = server.answers(&mem::take(&mut self.lab.to_server));
            if replies.is_empty() {
                return;
            }
            self.lab.send(Side::Server, &replies, &mut std::iter::empty());
        }
    }

    fn step(&mut self, step: &Value) {
        let is_client = step["who"] == "C";
        let bytes = decoded(&step["send"]);
        match step["action"].as_str() {
            Some("serve") => {
                let also_end = decoded(&step["also_eod"]);
                self.server = Some(FakeServer {
                    ehlo: decoded(&step["ehlo"]),
                    also_end: (!also_end.is_empty()).then_some(also_end),
                    ..FakeServer::default()
                });
                self.lab.send(Side::Server, &decoded(&step["greeting"]), &mut std::iter::empty());
            }
            Some("repeat") => {
                let data = decoded(&step["data"]);
                for _ in 0..step["times"].as_u64().unwrap() {
                    if is_client {
                        self.client(&data, &[]);
                    } else if self.lab.session.wants(Side::Server) {
                        self.lab.send(Side::Server, &data, &mut std::iter::empty());
                    }
                }
            }
            Some("close") if step["how"] == "rst" => {
                self.lab.step(&CEnd(End::Reset), &mut std::iter::empty());
            }
            Some("close" | "shutdown_write") => {
                self.lab.step(&CEnd(End::Fin), &mut std::iter::empty());
            }
            _ if is_client => {
                let sizes: Vec<usize> = step["segments"]
                    .as_array()
                    .map(|sizes| sizes.iter().filter_map(Value::as_u64).collect::<Vec<_>>())
                    .unwrap_or_default()
                    .into_iter()
                    .map(|size| usize::try_from(size).unwrap())
                    .collect();
                // The real gaps would take too long to say; a dripping line runs out of time.
                if step["gap_ms"].as_u64().is_some_and(|gap| gap >= 10_000) {
                    self.client(&bytes[..1], &[]);
                    self.lab.step(&After(60), &mut std::iter::empty());
                } else {
                    self.client(&bytes, &sizes);
                }
            }
            _ => self.lab.send(Side::Server, &bytes, &mut std::iter::empty()),
        }
        self.settle();
    }
}

/// The files of a folder of the corpus; says so where there is none.
fn corpus(folder: &str) -> Option<fs::ReadDir> {
    let corpus = std::env::var_os("AVR_CORPUS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/corpus")),
        PathBuf::from,
    );
    let files = fs::read_dir(corpus.join(folder)).ok();
    if files.is_none() {
        eprintln!("SKIPPED: no corpus at {} ({folder}); set AVR_CORPUS", corpus.display());
    }
    files
}

#[test]
fn replies_of_real_servers_can_be_read() {
    let Some(files) = corpus("mailkit-transcripts/Smtp/Resources") else { return };
    let mut read = 0;
    for file in files {
        let path = file.unwrap().path();
        let mut inbox = Inbox::default();
        inbox.push(fs::read(&path).unwrap().into());
        let mut reader = ReplyReader::default();
        while let Some(reply) = reader.read(&mut inbox).unwrap() {
            assert!(reply.class() >= 2, "{}", path.display());
            read += 1;
        }
        assert!(inbox.is_empty(), "{}", path.display());
    }
    assert!(read > 30, "only {read} replies");
}

#[test]
fn scripted_sessions() {
    let Some(files) = corpus("authored-sessions/smtp") else { return };
    let mut played = 0;
    for file in files {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let script: Value = serde_json::from_str(&text).unwrap();
        let id = script["id"].as_str().unwrap();
        eprintln!("session {id}");
        let expected = EXPECTED.iter().find(|(prefix, ..)| id.starts_with(prefix));
        let (_, messages, last) = expected.unwrap_or_else(|| panic!("{id} is not expected"));
        check(id, &script, *messages, last);
        played += 1;
    }
    assert!(played > 0, "the corpus folder is empty");
}

fn check(id: &str, script: &Value, messages: usize, last: &str) {
    let lab =
        Lab::with(if id.starts_with("S06") { masking(&["CHUNKING"]) } else { Settings::default() });
    let mut play = Play { lab, server: None, said_to_client: Vec::new() };
    play.lab.judges = Some(EVIL);
    let mut sent = Vec::new();
    for step in script["steps"].as_array().unwrap() {
        if step["who"] == "C" && step["send"].is_object() {
            sent = decoded(&step["send"]);
        }
        play.step(step);
    }
    let said = String::from_utf8(play.said_to_client).unwrap();
    assert!(said.lines().last().is_some_and(|line| line.starts_with(last)), "{id}: {said}");
    let Some(server) = play.server else { return };
    assert_eq!(server.messages.len(), messages, "{id}: messages at the server");
    for message in &server.messages {
        let text = message.escape_ascii().to_string();
        assert!(!text.contains(EVIL), "{id}: the payload has arrived");
    }
    if script["expect"]["server_body_equals_client_body"] == true && !sent.starts_with(b"QUIT") {
        assert_eq!(server.messages.last().unwrap(), sent.strip_suffix(b"\r\n.\r\n").unwrap());
    }
}

/// The bytes of a `{"b64": ...}` object, none if it is not there.
fn decoded(value: &Value) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for digit in value["b64"].as_str().unwrap_or_default().bytes() {
        let Some(six) = ALPHABET.iter().position(|byte| *byte == digit) else { break };
        bits = (bits << 6) | u32::try_from(six).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).unwrap());
        }
    }
    bytes
}
