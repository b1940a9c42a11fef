//! Whole sessions between in-memory legs, with a scanner that knows one word.

mod written;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use journal::Journal;
use mail::Protocol;
use quarantine::{Vault, VaultKey};
use scan::engine::ScanFuture;
use scan::local::block::BlockRules;
use scan::local::hashes::HashLists;
use scan::worker::Knowledge;
use scan::worker::pool::{Isolation, Workers};
use scan::yara::CompiledRules;
use scan::{Engine, EngineOutcome, Limits, Object, Scanner};
use spool::Spooler;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::policy::{Action, Rule};
use crate::{Carrier, Facts, Opaque, Outcome, Policy, carry};

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
        let bytes: Vec<u8> =
            object.content.chunks().map(Result::unwrap).collect::<Vec<_>>().concat();
        let found = bytes.windows(4).any(|window| window == b"EVIL");
        Box::pin(async move {
            if found { EngineOutcome::Found("Evil.Word".to_owned()) } else { EngineOutcome::Clean }
        })
    }
}

fn carrier_with(spooler: Spooler, block: &[&str]) -> Carrier {
    let rules = CompiledRules::load(None).unwrap();
    let block: Vec<String> = block.iter().map(|entry| (*entry).to_owned()).collect();
    let block = BlockRules::parse(&block).unwrap();
    let limits = Limits::default();
    let knowledge = Knowledge::new(&rules, HashLists::default(), block, limits.clone()).unwrap();
    let workers = Workers::new(Isolation::Thread, 1, &knowledge).unwrap();
    Carrier {
        scanner: Some(Scanner::new(workers, vec![Arc::new(Word)], limits, spooler)),
        mail: Arc::default(),
        policy: Arc::new(Policy::default()),
        vault: None,
        told: Arc::default(),
        journal: None,
        read: crate::settings::Marks::default(),
    }
}

fn carrier() -> Carrier {
    carrier_with(Spooler::default(), &[])
}

fn journal_in(folder: &Path) -> Arc<Journal> {
    Arc::new(Journal::open(folder, journal::Limits::default()).unwrap())
}

fn facts(protocol: Protocol) -> Facts {
    Facts {
        id: "00ff00ff".to_owned(),
        protocol,
        client: "192.0.2.1:4000".to_owned(),
        server: "192.0.2.25:25".to_owned(),
        way: "direct".to_owned(),
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
    carried_by(&carrier(), protocol, room, peers).await
}

async fn carried_by<F>(
    carrier: &Carrier,
    protocol: Protocol,
    room: usize,
    peers: impl FnOnce(DuplexStream, DuplexStream) -> F,
) -> Outcome
where
    F: Future<Output = ()>,
{
    let (client, near) = tokio::io::duplex(room);
    let (far, server) = tokio::io::duplex(room);
    let facts = facts(protocol);
    let (carried, ()) = tokio::join!(carry(&facts, near, far, carrier), peers(client, server));
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

/// A POP3 session up to the answer to its RETR.
async fn ask_for_message(client: &mut DuplexStream, server: &mut DuplexStream) {
    server.write_all(b"+OK ready\r\n").await.unwrap();
    hear(client, "\r\n").await;
    client.write_all(b"RETR 1\r\n").await.unwrap();
    hear(server, "RETR 1\r\n").await;
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
    let facts = facts(Protocol::Smtp);
    let (carried, ()) = tokio::join!(carry(&facts, near, far, &carrier), peers);
    assert_eq!(carried.outcome.opaque, Some(Opaque::Setting));
}

/// A rule for every outcome that has one here.
fn policy(rule: &str) -> Arc<Policy> {
    let (action, quarantine) = match rule.split_once('+') {
        Some((action, _)) => (action, true),
        None => (rule, false),
    };
    let action = match action {
        "refuse" => Action::Refuse,
        "replace" => Action::Replace,
        "replace-part" => Action::ReplacePart,
        other => panic!("{other}"),
    };
    let rule = Rule { action, quarantine };
    let mut policy = Policy::default();
    for rules in [&mut policy.fetched, &mut policy.submitted, &mut policy.received] {
        rules.infected = rule;
        rules.blocked = rule;
    }
    Arc::new(policy)
}

const WITH_ATTACHMENT: &str = "From: a@a.example\r\nSubject: two parts\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/mixed; boundary=B\r\n\r\n\
    --B\r\n\r\nkeep this\r\n--B\r\n\
    Content-Disposition: attachment; filename=tool.exe\r\n\r\nrun me\r\n--B--\r\n";

#[tokio::test]
async fn a_part_alone_is_replaced_on_its_way_to_the_server_and_to_the_client() {
    let mut carrier = carrier_with(Spooler::default(), &[".exe"]);
    carrier.policy = policy("replace-part");
    let mut settings = mail::Settings::default();
    settings.smtp.hold = carrier.policy.holds_smtp();
    carrier.mail = Arc::new(settings);
    let check = |mail: &str| {
        assert!(
            mail.contains("keep this\r\n--B\r\n") && mail.ends_with("\r\n--B--\r\n.\r\n"),
            "{mail}"
        );
        assert!(mail.contains("Blocked.Extension.exe") && !mail.contains("run me"), "{mail}");
    };
    let outcome = carried_by(&carrier, Protocol::Smtp, 100, |mut client, mut server| async move {
        open_transaction(&mut client, &mut server).await;
        client.write_all(WITH_ATTACHMENT.as_bytes()).await.unwrap();
        client.write_all(b".\r\n").await.unwrap();
        check(&hear(&mut server, "\r\n.\r\n").await);
        server.write_all(b"250 queued\r\n").await.unwrap();
        assert_eq!(hear(&mut client, "\r\n").await, "250 queued\r\n");
    })
    .await;
    assert_eq!((outcome.messages, outcome.infected), (1, 1));
    let outcome = carried_by(&carrier, Protocol::Pop3, 100, |mut client, mut server| async move {
        ask_for_message(&mut client, &mut server).await;
        server.write_all(format!("+OK\r\n{WITH_ATTACHMENT}.\r\n").as_bytes()).await.unwrap();
        check(&hear(&mut client, "\r\n.\r\n").await);
    })
    .await;
    assert_eq!((outcome.messages, outcome.infected), (1, 1));
}

#[tokio::test]
async fn a_part_is_not_replaced_where_the_rest_may_not_pass_either() {
    let mut carrier = carrier_with(Spooler::default(), &[".exe"]);
    carrier.policy = policy("replace-part");
    let mail = WITH_ATTACHMENT.replace("keep this", "EVIL");
    carried_by(&carrier, Protocol::Pop3, 100, |mut client, mut server| async move {
        ask_for_message(&mut client, &mut server).await;
        server.write_all(format!("+OK\r\n{mail}.\r\n").as_bytes()).await.unwrap();
        let notice = hear(&mut client, "\r\n.\r\n").await;
        assert!(!notice.contains("EVIL") && !notice.contains("run me"), "{notice}");
        assert!(notice.contains("X-AVR-Notice"), "{notice}");
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_can_be_kept_and_every_mail_is_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let key = VaultKey::derive(b"a secret").unwrap();
    let limits = quarantine::settings::QuarantineSettings::default().limits();
    let vault = Vault::open(&folder.path().join("kept"), &key, limits);
    let mut carrier = carrier();
    carrier.policy = policy("refuse+quarantine");
    carrier.vault = Some(Arc::new(vault.unwrap()));
    carrier.journal = Some(journal_in(folder.path()));
    const MAIL: &str = "Message-ID: <7@a.example>\r\n\r\nEVIL\r\n";
    carried_by(&carrier, Protocol::Smtp, 100, |mut client, mut server| async move {
        open_transaction(&mut client, &mut server).await;
        client.write_all(format!("{MAIL}.\r\n").as_bytes()).await.unwrap();
        assert!(hear(&mut client, "\r\n").await.starts_with("554 "));
    })
    .await;
    let found = journal::find(folder.path(), "<7@a.example>").unwrap();
    let entry = &found.entries[0];
    assert_eq!((entry.name.as_str(), entry.session.as_str()), ("Evil.Word", "00ff00ff"));
    assert_eq!(entry.mail_from, "a@a.example");
    let id = entry.quarantine.parse().unwrap();
    let content = carrier.vault.unwrap().open_content(id).unwrap();
    let kept: Vec<u8> = content.map(Result::unwrap).collect::<Vec<_>>().concat();
    assert_eq!(kept, MAIL.as_bytes());
}

#[tokio::test]
async fn a_message_that_is_fetched_again_has_one_copy_and_one_notice_until_the_copy_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let key = VaultKey::derive(b"a secret").unwrap();
    let limits = quarantine::settings::QuarantineSettings::default().limits();
    let vault = Arc::new(Vault::open(&folder.path().join("kept"), &key, limits).unwrap());
    let mut carrier = carrier();
    carrier.policy = policy("refuse+quarantine");
    carrier.vault = Some(vault.clone());
    let fetched = async || {
        let (to_test, from_client) = tokio::sync::oneshot::channel();
        carried_by(&carrier, Protocol::Pop3, 100, |mut client, mut server| async move {
            ask_for_message(&mut client, &mut server).await;
            let message = "+OK\r\nMessage-ID: <7@a.example>\r\n\r\nEVIL\r\n.\r\n";
            server.write_all(message.as_bytes()).await.unwrap();
            to_test.send(hear(&mut client, "\r\n.\r\n").await).unwrap();
        })
        .await;
        from_client.await.unwrap()
    };
    let ids = || vault.list(0).unwrap().map(|(id, _)| id).collect::<Vec<_>>();
    let first = fetched().await;
    let [copy] = ids()[..] else { panic!("one copy") };
    assert!(first.contains(&copy.to_string()), "{first}");
    assert_eq!(fetched().await, first);
    assert_eq!(ids(), [copy]);
    vault.delete(copy).unwrap();
    let again = fetched().await;
    let [new] = ids()[..] else { panic!("a new copy") };
    assert!(new != copy && again.contains(&new.to_string()), "{again}");
}

#[tokio::test]
async fn a_trusted_sender_is_left_alone_and_counted_so() {
    let mut carrier = carrier();
    let unscanned_senders = vec!["@a.example".to_owned()];
    carrier.policy = Arc::new(Policy { unscanned_senders, ..Policy::default() });
    let outcome = carried_by(&carrier, Protocol::Smtp, 100, |mut client, mut server| async move {
        open_transaction(&mut client, &mut server).await;
        client.write_all(b"Subject: x\r\n\r\nEVIL\r\n.\r\n").await.unwrap();
        assert!(hear(&mut server, "\r\n.\r\n").await.contains("EVIL"));
        server.write_all(b"250 queued\r\n").await.unwrap();
        hear(&mut client, "250 queued\r\n").await;
    })
    .await;
    assert_eq!((outcome.messages, outcome.unread), (0, 1));
}

#[tokio::test]
async fn a_large_mail_is_held_in_a_file_and_arrives_byte_for_byte() {
    let body = "0123456789abcdef\r\n".repeat(20_000);
    let answer = format!("+OK\r\nSubject: large\r\n\r\n..{body}.\r\n");
    let spooler = Spooler::default();
    let carrier = carrier_with(spooler.clone(), &[]);
    let outcome =
        carried_by(&carrier, Protocol::Pop3, 64 * 1024, |mut client, mut server| async move {
            ask_for_message(&mut client, &mut server).await;
            let (_, got) = tokio::join!(server.write_all(answer.as_bytes()), async {
                let mut got = vec![0; answer.len()];
                client.read_exact(&mut got).await.unwrap();
                got
            });
            assert!(got == answer.as_bytes());
        })
        .await;
    assert_eq!((outcome.messages, outcome.unscannable), (1, 0));
    assert_eq!(spooler.bytes(), 0);
}

#[tokio::test]
async fn without_room_to_hold_a_fetched_mail_passes_and_counts_as_unscanned() {
    let carrier = carrier_with(Spooler::new(Path::new("/nonexistent"), 100), &[]);
    let body = "0123456789abcdef\r\n".repeat(40);
    let answer = format!("+OK\r\nSubject: x\r\n\r\n{body}.\r\n");
    let outcome = carried_by(&carrier, Protocol::Pop3, 100, |mut client, mut server| async move {
        ask_for_message(&mut client, &mut server).await;
        let (_, got) = tokio::join!(server.write_all(answer.as_bytes()), async {
            let mut got = vec![0; answer.len()];
            client.read_exact(&mut got).await.unwrap();
            got
        });
        assert_eq!(String::from_utf8(got).unwrap(), answer);
    })
    .await;
    assert_eq!((outcome.messages, outcome.unscannable, outcome.aborted), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_message_comes_slowly_is_kept_waiting_with_its_own_header() {
    const HEADER: &str = "+OK 999 octets\r\nReceived: by x\r\n\tfor y\r\nFrom: a@a.example\r\n\
        Subject: slow\r\nContent-Type: text/plain\r\n\r\n";
    carried(Protocol::Pop3, 4096, |mut client, mut server| async move {
        ask_for_message(&mut client, &mut server).await;
        let asked = tokio::time::Instant::now();
        server.write_all(HEADER.as_bytes()).await.unwrap();
        assert_eq!(hear(&mut client, "\r\n").await, "+OK 999 octets\r\n");
        assert_eq!(asked.elapsed().as_secs(), 10);
        assert_eq!(hear(&mut client, "for y\r\n").await, "Received: by x\r\n\tfor y\r\n");
        assert_eq!(asked.elapsed().as_secs(), 25);
        assert_eq!(hear(&mut client, "\r\n").await, "From: a@a.example\r\n");
        assert_eq!(asked.elapsed().as_secs(), 40);
    })
    .await;
}
