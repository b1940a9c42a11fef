//! The scripted POP3 sessions of the corpus, played against the session. Every message with the test
//! virus in it is refused, as a scanner would have it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::*;

/// In base64, the end of the zip with the test virus; its clean twin has another one.
const EVIL: &[u8] = b"AAEAAQA3AAAAbQAAAAAA";

/// For each script: how many notices the client gets, and what ends what it gets.
const EXPECTED: &[(&str, usize, &[u8])] = &[
    ("P00-clean", 0, b"+OK\r\n"),
    ("P00b-evil", 1, b"+OK\r\n"),
    ("P01-dots", 0, b"\r\n..\r\n.\r\n"),
    ("P02-top", 1, b"\r\n.\r\n"),
    ("P03-octets-none", 1, b"\r\n.\r\n"),
    ("P03-octets-small", 1, b"\r\n.\r\n"),
    // Nothing at all of the message.
    ("P04-server-close", 0, b"+OK 2 messages\r\n"),
    ("P05-pipelined-retr", 25, b"\r\n.\r\n"),
    ("P06-list-forms", 0, b"+OK 1 10\r\n"),
    ("P06d-auth-list", 0, b"\r\n.\r\n+OK\r\n"),
    ("P07-capa", 0, b"\r\nX-FOO\r\n.\r\n"),
    ("P08-stls-inject", 0, b"-ERR protocol error, closing the connection\r\n"),
    ("P09-sasl", 0, b"-ERR cancelled\r\n"),
    ("P10-apop", 0, b"+OK\r\n"),
    ("P12b-lf-server", 1, b"\r\n.\r\n"),
    ("P13b-slow-server", 0, b"\r\n.\r\n"),
    ("P17-term-crlf.lf", 1, b"+OK\r\nSubject: two\r\n\r\ny\r\n.\r\n"),
    ("P17-term-lf.lf", 1, b"+OK\r\nSubject: two\r\n\r\ny\r\n.\r\n"),
    ("P18-command-forms", 3, b"\r\n.\r\n"),
    ("P20-quit-race", 0, b"+OK 2 messages\r\n"),
];

#[test]
fn the_scripts_of_the_corpus() {
    let folder = std::env::var_os("AVR_CORPUS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/corpus")),
        PathBuf::from,
    );
    let folder = folder.join("authored-sessions/pop3");
    if !folder.is_dir() {
        eprintln!("SKIPPED: no corpus at {} (set AVR_CORPUS)", folder.display());
        return;
    }
    let mut played = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let id = path.file_stem().unwrap().to_string_lossy().into_owned();
        let script: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = EXPECTED.iter().find(|expected| expected.0 == id);
        let (_, notices, end) = expected.unwrap_or_else(|| panic!("{id}: nothing is expected"));
        for sizes in [vec![], vec![1], vec![5, 1, 80]] {
            let (got, heard) = play(&script, sizes);
            let text = String::from_utf8_lossy(&got);
            assert_eq!(text.matches("\r\nX-AVR-Notice: ").count(), *notices, "{id}: {text}");
            assert!(got.ends_with(end), "{id}: {text}");
            assert!(!holds(&got, EVIL), "{id}: the payload came through: {text}");
            if id == "P13b-slow-server" {
                assert_never_silent(&heard);
            }
        }
        played += 1;
    }
    assert_eq!(played, EXPECTED.len(), "every script of the corpus is played");
}

/// A client that gives up after a minute of silence does not, for as long as there are header fields
/// that may leave: in this script, for six minutes.
fn assert_never_silent(heard: &[Duration]) {
    const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
    let mut last = Duration::ZERO;
    for at in heard.iter().copied().take_while(|at| *at < Duration::from_secs(360)) {
        assert!(at - last < CLIENT_TIMEOUT, "silent from {last:?} to {at:?}");
        last = at;
    }
    assert!(last >= Duration::from_secs(300), "{heard:?}");
}

/// Plays a script and gives what the client got, and when it heard something.
fn play(script: &Value, sizes: Vec<usize>) -> (Vec<u8>, Vec<Duration>) {
    let mut heard = Vec::new();
    let mut session = Script::connected();
    let start = session.now;
    session.sizes = sizes;
    session.refuses = Some(EVIL);
    let mut serving: Option<Vec<Vec<u8>>> = None;
    let mut served = 0;
    for step in script["steps"].as_array().unwrap() {
        let client = step["who"] == "C";
        if let Some(bytes) = step["send"]["b64"].as_str().map(from_base64) {
            // In the corpus segments are far apart.
            let gap = Duration::from_millis(step["gap_ms"].as_u64().unwrap_or(0));
            let segment = step["segments"][0].as_u64().unwrap_or(u64::MAX);
            let segment = usize::try_from(segment).unwrap();
            for bytes in bytes.chunks(segment) {
                let before = session.seen.wires.to_client.len();
                session.feed(if client { Side::Client } else { Side::Server }, bytes).wait(gap);
                if session.seen.wires.to_client.len() > before {
                    heard.push(session.now - start);
                }
            }
        } else if step["action"] == "serve" {
            let messages = step["messages"].as_array().unwrap();
            let once = messages.iter().map(|message| from_base64(message["b64"].as_str().unwrap()));
            let once: Vec<_> = once.collect();
            let times = step["repeat"].as_u64().unwrap_or(1);
            serving = Some((0..times).flat_map(|_| once.clone()).collect());
            session.server("+OK ready <1.2@mx>\r\n");
        } else if step["action"] == "close" {
            let how = if step["how"] == "rst" { End::Reset } else { End::Fin };
            session.end(if client { Side::Client } else { Side::Server }, how);
        }
        if let Some(messages) = &serving {
            serve(&mut session, messages, &mut served);
        }
    }
    session.wait(ODD_END_TIMEOUT * 2);
    (session.seen.wires.to_client, heard)
}

/// Answers what has come to the server, from `served` on.
fn serve(session: &mut Script, messages: &[Vec<u8>], served: &mut usize) {
    let input = session.seen.wires.to_server.split_off(*served);
    session.seen.wires.to_server.extend_from_slice(&input);
    *served += input.len();
    for line in String::from_utf8(input).unwrap().lines() {
        match line.strip_prefix("RETR ").map(|number| number.parse::<usize>().unwrap()) {
            Some(number) => session.server(answer(&messages[number - 1])),
            None => session.server("+OK\r\n"),
        };
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count) = (0_u32, 0);
    let mut bytes = Vec::new();
    for c in text.bytes().filter(|c| *c != b'=') {
        let digit = alphabet.iter().position(|a| *a == c).expect("in the alphabet");
        bits = bits << 6 | u32::try_from(digit).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes
}
