//! Whole sessions between in-memory legs, with a scanner that knows one word.

use std::fmt;
use std::sync::Arc;

use mail::Protocol;
use scan::engine::ScanFuture;
use scan::{Engine, EngineOutcome, Limits, Object, Scanner};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::{Carrier, Opaque, Outcome, Policy, carry};

/// Finds the word `EVIL`.
struct Word;

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Word")
    }
}

impl Engine for Word {
    fn name(&self) -> &str {
        "word"
    }

    fn scan(&self, object: Object) -> ScanFuture<'_> {
        let found = object.bytes.windows(4).any(|window| window == b"EVIL");
        Box::pin(async move {
            if found { EngineOutcome::Found("Evil.Word".to_owned()) } else { EngineOutcome::Clean }
        })
    }
}

fn carrier() -> Carrier {
    Carrier {
        scanner: Some(Scanner::new(vec![Arc::new(Word)], Limits::default())),
        mail: Arc::default(),
        policy: Arc::new(Policy::default()),
    }
}

/// Runs a session over legs that hold at most `room` bytes in flight.
async fn carried<F>(
    protocol: Protocol,
    room: usize,
    peers: impl FnOnce(DuplexStream, DuplexStream) -> F,
) -> Outcome
where
    F: Future<Output = ()>,
{
    let (client, near) = tokio::io::duplex(room);
    let (far, server) = tokio::io::duplex(room);
    let carrier = carrier();
    let (carried, ()) =
        tokio::join!(carry("test", protocol, near, far, &carrier), peers(client, server));
    carried.outcome
}

/// Writes what it has to say, then reads until `until` has come; returns all that came.
async fn say(stream: &mut DuplexStream, words: &str, until: &str) -> String {
    stream.write_all(words.as_bytes()).await.unwrap();
    hear(stream, until).await
}

async fn hear(stream: &mut DuplexStream, until: &str) -> String {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(until) {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap() == 0 {
            panic!("ended before {until:?}: {:?}", String::from_utf8_lossy(&heard));
        }
        heard.push(byte[0]);
    }
    String::from_utf8(heard).unwrap()
}

async fn open_transaction(client: &mut DuplexStream, server: &mut DuplexStream) {
    server.write_all(b"220 mx.example ESMTP\r\n").await.unwrap();
    hear(client, "\r\n").await;
    client.write_all(b"MAIL FROM:<a@a.example>\r\n").await.unwrap();
    say(server, "", "\r\n").await;
    server.write_all(b"250 ok\r\n").await.unwrap();
    hear(client, "\r\n").await;
    client.write_all(b"RCPT TO:<b@b.example>\r\n").await.unwrap();
    say(server, "", "\r\n").await;
    server.write_all(b"250 ok\r\n").await.unwrap();
    hear(client, "\r\n").await;
    client.write_all(b"DATA\r\n").await.unwrap();
    say(server, "", "\r\n").await;
    server.write_all(b"354 go\r\n").await.unwrap();
    hear(client, "354 go\r\n").await;
}

#[tokio::test]
async fn a_clean_mail_arrives_byte_for_byte_whatever_the_legs_hold() {
    const MAIL: &str = "Subject: x\r\n\r\n..dots\r\n...\r\nbody\r\n.\r\n";
    for room in [1, 7, 4096] {
        let outcome = carried(Protocol::Smtp, room, |mut client, mut server| async move {
            open_transaction(&mut client, &mut server).await;
            client.write_all(MAIL.as_bytes()).await.unwrap();
            assert_eq!(hear(&mut server, "\r\n.\r\n").await, MAIL);
            server.write_all(b"250 queued\r\n").await.unwrap();
            assert_eq!(hear(&mut client, "\r\n").await, "250 queued\r\n");
            client.write_all(b"QUIT\r\n").await.unwrap();
            hear(&mut server, "QUIT\r\n").await;
            server.write_all(b"221 bye\r\n").await.unwrap();
            assert_eq!(hear(&mut client, "\r\n").await, "221 bye\r\n");
        })
        .await;
        assert_eq!((outcome.messages, outcome.infected, outcome.unscannable), (1, 0, 0));
    }
}

#[tokio::test]
async fn the_dot_of_an_infected_mail_never_goes_out() {
    let outcome = carried(Protocol::Smtp, 4096, |mut client, mut server| async move {
        open_transaction(&mut client, &mut server).await;
        client.write_all(b"Subject: x\r\n\r\nEVIL\r\n.\r\n").await.unwrap();
        let reply = hear(&mut client, "\r\n").await;
        assert!(reply.starts_with("554 5.7.1 ") && reply.contains("Evil.Word"), "{reply}");
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.windows(3).any(|window| window == b"\r\n."), "{rest:?}");
    })
    .await;
    assert_eq!((outcome.messages, outcome.infected), (1, 1));
    assert!(outcome.reset);
}

#[tokio::test]
async fn a_notice_stands_in_for_an_infected_mail() {
    let outcome = carried(Protocol::Pop3, 4096, |mut client, mut server| async move {
        server.write_all(b"+OK ready\r\n").await.unwrap();
        hear(&mut client, "\r\n").await;
        for command in ["USER u\r\n", "PASS p\r\n"] {
            client.write_all(command.as_bytes()).await.unwrap();
            hear(&mut server, command).await;
            server.write_all(b"+OK\r\n").await.unwrap();
            hear(&mut client, "+OK\r\n").await;
        }
        client.write_all(b"RETR 1\r\nRETR 2\r\n").await.unwrap();
        hear(&mut server, "RETR 1\r\n").await;
        server
            .write_all(b"+OK\r\nSubject: secret\r\n\r\nEVIL\r\n.\r\n+OK\r\nSubject: good\r\n\r\nhi\r\n.\r\n")
            .await
            .unwrap();
        let notice = hear(&mut client, "\r\n.\r\n").await;
        assert!(notice.starts_with("+OK") && !notice.contains("EVIL"), "{notice}");
        assert_eq!(
            hear(&mut client, "\r\n.\r\n").await,
            "+OK\r\nSubject: good\r\n\r\nhi\r\n.\r\n"
        );
    })
    .await;
    assert_eq!((outcome.messages, outcome.infected), (2, 1));
}

#[tokio::test]
async fn a_client_that_vanishes_in_mid_mail_leaves_no_completed_mail() {
    let outcome = carried(Protocol::Smtp, 4096, |mut client, mut server| async move {
        open_transaction(&mut client, &mut server).await;
        client.write_all(b"Subject: x\r\n\r\nhalf").await.unwrap();
        drop(client);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.ends_with(b".\r\n"), "{rest:?}");
    })
    .await;
    assert_eq!((outcome.messages, outcome.aborted), (0, 1));
}

#[tokio::test]
async fn unread_by_setting_is_said_to_be_unread() {
    let (mut client, near) = tokio::io::duplex(64);
    let (far, mut server) = tokio::io::duplex(64);
    let carrier = Carrier { scanner: None, ..carrier() };
    let peers = async {
        client.write_all(b"EVIL").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = String::new();
        server.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "EVIL");
        drop(server);
    };
    let (carried, ()) = tokio::join!(carry("test", Protocol::Smtp, near, far, &carrier), peers);
    assert_eq!(carried.outcome.opaque, Some(Opaque::Setting));
}
