//! What the journal says of a mail is what was done with it.

use std::time::Duration;

use journal::{Entry, Verdict};
use tempfile::TempDir;

use super::*;

/// A carrier that writes down what it does, and where.
fn writing(mut carrier: Carrier) -> (TempDir, Carrier) {
    let folder = tempfile::tempdir().unwrap();
    carrier.journal = Some(journal_in(folder.path()));
    (folder, carrier)
}

/// The one mail of the session, if one was written down.
fn written(folder: &TempDir) -> Option<Entry> {
    let mut entries = journal::find(folder.path(), &facts(Protocol::Smtp).id).unwrap().entries;
    assert!(entries.len() <= 1, "{entries:?}");
    entries.pop()
}

/// Every message that could be replaced is held.
fn holding(carrier: &mut Carrier) {
    let mut settings = mail::Settings::default();
    settings.smtp.hold = true;
    carrier.mail = Arc::new(settings);
}

#[tokio::test]
async fn a_mail_sent_that_is_cut_off_is_written_down_with_what_was_seen_of_it() {
    let (folder, carrier) = writing(carrier());
    let outcome = carried_by(&carrier, Protocol::Smtp, 4096, |mut client, mut server| async move {
        open_transaction(&mut client, &mut server).await;
        client.write_all(b"Subject: x\r\n\r\nhalf").await.unwrap();
        hear(&mut server, "half").await;
        drop(client);
        server.read_to_end(&mut Vec::new()).await.unwrap();
    })
    .await;
    assert_eq!((outcome.messages, outcome.aborted), (0, 1));
    let entry = written(&folder).unwrap();
    assert_eq!((entry.verdict, entry.action), (Verdict::CutOff, journal::Action::CutOff));
    assert_eq!((entry.bytes, entry.mail_from.as_str()), (18, "a@a.example"));
    assert!(entry.explain().contains("cut off: the client went away"), "{}", entry.explain());
}

#[tokio::test]
async fn a_mail_fetched_that_is_cut_off_is_written_down_and_what_may_be_none_is_not() {
    for (command, is_mail) in [("RETR 1\r\n", true), ("TOP 1 9\r\n", true), ("XSAY\r\n", false)] {
        let (folder, carrier) = writing(carrier());
        let outcome =
            carried_by(&carrier, Protocol::Pop3, 4096, |mut client, mut server| async move {
                server.write_all(b"+OK ready\r\n").await.unwrap();
                hear(&mut client, "\r\n").await;
                client.write_all(command.as_bytes()).await.unwrap();
                hear(&mut server, command).await;
                server.write_all(b"+OK\r\nSubject: x\r\n\r\nhalf").await.unwrap();
                server.shutdown().await.unwrap();
                client.read_to_end(&mut Vec::new()).await.unwrap();
            })
            .await;
        assert_eq!(outcome.aborted, u32::from(is_mail));
        let entry = written(&folder);
        assert_eq!(entry.is_some(), is_mail, "{entry:?}");
        if let Some(entry) = entry {
            assert_eq!((entry.verdict, entry.bytes), (Verdict::CutOff, 18));
            assert!(entry.reason.starts_with("the mail server went away"), "{}", entry.reason);
        }
    }
}

#[tokio::test]
async fn a_mail_in_a_session_that_is_stopped_from_here_is_written_down() {
    let (folder, carrier) = writing(carrier());
    let (mut client, near) = tokio::io::duplex(4096);
    let (far, mut server) = tokio::io::duplex(4096);
    let facts = facts(Protocol::Smtp);
    let peers = async {
        open_transaction(&mut client, &mut server).await;
        client.write_all(b"Subject: x\r\n\r\nhalf").await.unwrap();
        hear(&mut server, "half").await;
    };
    tokio::select! {
        _ = carry(&facts, near, far, &carrier) => panic!("the session has ended"),
        () = peers => {}
    }
    let entry = written(&folder).unwrap();
    assert_eq!((entry.verdict, entry.bytes), (Verdict::CutOff, 18));
    assert_eq!(entry.reason, "the session was stopped from here");
}

#[tokio::test]
async fn the_next_servers_answer_is_written_down() {
    for (answer, code) in [("250 queued\r\n", 250), ("554 5.7.1 Evil.Other\r\n", 554)] {
        let (folder, carrier) = writing(carrier());
        let outcome =
            carried_by(&carrier, Protocol::Smtp, 4096, |mut client, mut server| async move {
                open_transaction(&mut client, &mut server).await;
                client.write_all(b"Subject: x\r\n\r\nhi\r\n.\r\n").await.unwrap();
                hear(&mut server, "\r\n.\r\n").await;
                server.write_all(answer.as_bytes()).await.unwrap();
                assert_eq!(hear(&mut client, "\r\n").await, answer);
            })
            .await;
        assert_eq!((outcome.messages, outcome.aborted), (1, 0));
        let entry = written(&folder).unwrap();
        assert_eq!((entry.verdict, entry.action), (Verdict::Clean, journal::Action::Passed));
        assert_eq!(entry.answer, code);
    }
}

#[tokio::test]
async fn what_is_streamed_already_is_written_down_as_refused_and_not_as_replaced() {
    let (folder, mut carrier) = writing(carrier());
    carrier.policy = policy("replace");
    holding(&mut carrier);
    carried_by(&carrier, Protocol::Smtp, 4096, |mut client, mut server| async move {
        server.write_all(b"220 mx.example ESMTP\r\n").await.unwrap();
        hear(&mut client, "\r\n").await;
        for (command, reply) in [
            ("EHLO c.example\r\n", "250-mx.example\r\n250 CHUNKING\r\n"),
            ("MAIL FROM:<a@a.example>\r\n", "250 ok\r\n"),
            ("RCPT TO:<b@b.example>\r\n", "250 ok\r\n"),
            ("BDAT 2\r\nEV", "250 2 bytes\r\n"),
        ] {
            client.write_all(command.as_bytes()).await.unwrap();
            hear(&mut server, command).await;
            server.write_all(reply.as_bytes()).await.unwrap();
            hear(&mut client, reply).await;
        }
        client.write_all(b"BDAT 2 LAST\r\nIL").await.unwrap();
        assert!(hear(&mut client, "\r\n").await.starts_with("554 5.7.1 "));
    })
    .await;
    let entry = written(&folder).unwrap();
    assert_eq!((entry.verdict, entry.action), (Verdict::Infected, journal::Action::Refused));
    assert_eq!(entry.decided, Some(journal::Action::Replaced));
}

#[tokio::test]
async fn behind_a_header_that_has_left_a_mail_is_written_down_as_replaced_and_not_as_edited() {
    let (folder, mut carrier) = writing(carrier_with(Spooler::default(), &[".exe"]));
    carrier.policy = policy("replace-part");
    let mut settings = mail::Settings::default();
    settings.pop3.keep_alive_first = Duration::from_millis(1);
    settings.pop3.keep_alive_interval = Duration::from_millis(1);
    carrier.mail = Arc::new(settings);
    carried_by(&carrier, Protocol::Pop3, 4096, |mut client, mut server| async move {
        ask_for_message(&mut client, &mut server).await;
        let (header, rest) = WITH_ATTACHMENT.split_at(40);
        server.write_all(format!("+OK\r\n{header}").as_bytes()).await.unwrap();
        // The keep-alive.
        hear(&mut client, "From: a@a.example\r\n").await;
        server.write_all(format!("{rest}.\r\n").as_bytes()).await.unwrap();
        let notice = hear(&mut client, "\r\n.\r\n").await;
        assert!(notice.contains("X-AVR-Notice") && !notice.contains("keep this"), "{notice}");
    })
    .await;
    let entry = written(&folder).unwrap();
    assert_eq!((entry.verdict, entry.action), (Verdict::Infected, journal::Action::Replaced));
    assert_eq!(entry.decided, Some(journal::Action::Edited));
}

#[tokio::test]
async fn odd_line_ends_are_written_down_as_what_they_are() {
    let (folder, carrier) = writing(carrier());
    let outcome = carried_by(&carrier, Protocol::Pop3, 4096, |mut client, mut server| async move {
        ask_for_message(&mut client, &mut server).await;
        server.write_all(b"+OK\r\nSubject: x\r\n\r\na\n.\nb\r\n.\r\n").await.unwrap();
        assert!(hear(&mut client, "\r\n.\r\n").await.contains("X-AVR-Notice"));
    })
    .await;
    assert_eq!((outcome.messages, outcome.unscannable), (1, 1));
    let entry = written(&folder).unwrap();
    assert_eq!((entry.verdict, entry.action), (Verdict::Unscannable, journal::Action::Replaced));
    let (folder, carrier) = writing(super::carrier());
    let outcome = carried_by(&carrier, Protocol::Smtp, 4096, |mut client, mut server| async move {
        open_transaction(&mut client, &mut server).await;
        client.write_all(b"Subject: x\r\n\r\na\n.\nb\r\n.\r\n").await.unwrap();
        assert!(hear(&mut client, "\r\n").await.starts_with("554 5.6.0 "));
    })
    .await;
    assert_eq!((outcome.messages, outcome.unscannable, outcome.aborted), (1, 1, 0));
    let entry = written(&folder).unwrap();
    assert_eq!((entry.verdict, entry.action), (Verdict::Unscannable, journal::Action::Refused));
}

/// The fail policy decides where there is no room, as where an engine has failed.
#[tokio::test]
async fn without_room_to_hold_a_mail_sent_the_fail_policy_decides() {
    const MAIL: &str = "Subject: x\r\n\r\n0123456789abcdef\r\n0123456789abcdef\r\n.\r\n";
    for passes in [true, false] {
        let (folder, mut carrier) =
            writing(carrier_with(Spooler::new(Path::new("/nonexistent"), 10), &[]));
        let mut policy = Policy::default();
        if passes {
            policy.received.engine_failed = policy.submitted.engine_failed;
        }
        carrier.policy = Arc::new(policy);
        holding(&mut carrier);
        let outcome =
            carried_by(&carrier, Protocol::Smtp, 4096, |mut client, mut server| async move {
                open_transaction(&mut client, &mut server).await;
                client.write_all(MAIL.as_bytes()).await.unwrap();
                if passes {
                    assert_eq!(hear(&mut server, "\r\n.\r\n").await, MAIL);
                    server.write_all(b"250 queued\r\n").await.unwrap();
                    hear(&mut client, "250 queued\r\n").await;
                } else {
                    assert!(hear(&mut client, "\r\n").await.starts_with("451 4.7.1 "));
                }
            })
            .await;
        assert_eq!((outcome.messages, outcome.unscannable, outcome.aborted), (1, 1, 0));
        let done = if passes { journal::Action::Passed } else { journal::Action::Deferred };
        let entry = written(&folder).unwrap();
        assert_eq!((entry.verdict, entry.action), (Verdict::Unscannable, done));
    }
}
