//! POP3 sessions: odd ends of messages, commands in one go, sizes that lie.

use super::smtp::{Rule, Session, expect, message, observe, send, send_in, session};
use super::{eicar, harmless};
use crate::script::{Bytes, Step, Who};
use crate::wire::stuffed;

/// All of them, by name.
#[must_use]
pub fn sessions() -> Vec<Session> {
    let mut sessions = odd_ends();
    sessions.extend(pipelined());
    sessions.extend(replies());
    sessions.extend(shapes());
    sessions.extend(commands());
    sessions
}

/// Sequences that some client takes for the end of a message, with the payload behind.
const ODD_ENDS: &[(&str, &[u8])] = &[
    ("lf.crlf", b"\n.\r\n"),
    ("crlf.cr", b"\r\n.\r"),
    ("cr.cr", b"\r.\r"),
    ("cr.crlf", b"\r.\r\n"),
    ("crlf.crcrlf", b"\r\n.\r\r\n"),
    ("crlf-nul.crlf", b"\r\n\0.\r\n"),
    ("crlf.nul-crlf", b"\r\n.\0\r\n"),
    ("lfcr.lfcr", b"\n\r.\n\r"),
    ("crlf.blank-crlf", b"\r\n. \r\n"),
];

fn odd_ends() -> Vec<Session> {
    let mut sessions = Vec::new();
    for (name, odd) in ODD_ENDS {
        for (way, segments) in [("whole", None), ("bytes", Some(vec![1]))] {
            let mut answer = b"+OK\r\n".to_vec();
            answer.extend_from_slice(&message("first", &harmless()));
            answer.truncate(answer.len() - 2);
            answer.extend_from_slice(odd);
            answer.extend_from_slice(b"+OK\r\n");
            answer.extend_from_slice(&stuffed(&message("second", &eicar())));
            let mut steps = logged_in();
            steps.push(send(b"RETR 1\r\n"));
            steps.extend([await_command(), says_in(&answer, segments), observe()]);
            let rule = Rule::NothingFetched;
            sessions.push(session(&format!("end-{name}-{way}"), "pop3", steps, rule));
        }
    }
    sessions
}

/// Several commands in one write; every second message is infected.
fn pipelined() -> Vec<Session> {
    let mut sessions = Vec::new();
    let orders: [(&str, &[u8], usize); 6] = [
        ("retr-retr", b"RETR 1\r\nRETR 2\r\n", 2),
        ("evil-first", b"RETR 2\r\nRETR 1\r\n", 2),
        ("twice", b"RETR 2\r\nRETR 2\r\n", 2),
        ("top-between", b"TOP 2 9999\r\nSTAT\r\nRETR 1\r\nNOOP\r\nRETR 2\r\n", 3),
        ("dele-behind", b"RETR 2\r\nDELE 2\r\nRETR 1\r\nDELE 1\r\n", 2),
        ("error-between", b"RETR 1\r\nRETR 9\r\nRETR 2\r\nSTAT\r\n", 2),
    ];
    for (name, commands, answers) in orders {
        for (way, segments) in [("whole", None), ("bytes", Some(vec![1])), ("fives", Some(vec![5]))]
        {
            let mails = [message("one", &harmless()), message("two", &eicar())];
            let mut steps = vec![serve(&mails), expect("^\\+OK")];
            steps.extend([send_in(commands, segments), send(b"QUIT\r\n")]);
            steps.push(expect("(?m)^\\+OK bye"));
            let name = format!("pipelined-{name}-{way}");
            sessions.push(session(&name, "pop3", steps, Rule::Notices(answers)));
        }
    }
    sessions
}

/// First lines of the answer to RETR that say something odd of its size.
fn replies() -> Vec<Session> {
    let mut sessions = Vec::new();
    let replies: [(&str, &[u8]); 6] = [
        ("zero", b"+OK 0 octets\r\n"),
        ("huge", b"+OK 18446744073709551616 octets\r\n"),
        ("negative", b"+OK -1\r\n"),
        ("prose", b"+OK here it comes . 5\r\n"),
        ("blanks", b"+OK    \r\n"),
        ("lower-case", b"+ok 5 octets\r\n"),
    ];
    for (name, reply) in replies {
        for (twin, payload) in [("evil", eicar()), ("clean", harmless())] {
            let answer = [reply, &stuffed(&message("size", &payload))].concat();
            let mut steps = logged_in();
            steps.extend([send(b"RETR 1\r\n"), await_command(), says_in(&answer, None)]);
            steps.push(if twin == "clean" && name != "lower-case" {
                complete()
            } else {
                observe()
            });
            // A lower-case reply is none by RFC 1939; it may end the session, or pass as it is.
            let rule = match (twin, name) {
                ("evil", _) | (_, "lower-case") => Rule::NothingFetched,
                _ => Rule::Received([GREETING, b"+OK\r\n+OK\r\n", &answer].concat()),
            };
            sessions.push(session(&format!("size-{name}-{twin}"), "pop3", steps, rule));
        }
    }
    sessions
}

/// Messages of odd shape cross unchanged.
fn shapes() -> Vec<Session> {
    let mut sessions = Vec::new();
    let shapes: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("dots-alone", b".\r\n..\r\n...\r\n".to_vec()),
        ("no-header", b"\r\ntext\r\n".to_vec()),
        ("header-alone", b"Subject: x\r\n".to_vec()),
        ("large", message("large", &b"a line of a large mail\r\n".repeat(100_000))),
        ("long-line", message("long", &vec![b'x'; 1_000_000])),
    ];
    for (name, mail) in shapes {
        for (way, segments) in [("whole", None), ("thirteens", Some(vec![13]))] {
            if segments.is_some() && mail.len() > 10_000 {
                continue;
            }
            let answer = [b"+OK\r\n", stuffed(&mail).as_slice()].concat();
            let mut steps = logged_in();
            steps.extend([send(b"RETR 1\r\n"), await_command(), says_in(&answer, segments)]);
            steps.push(complete());
            let received = [GREETING, b"+OK\r\n+OK\r\n", &answer].concat();
            let rule = Rule::Received(received);
            sessions.push(session(&format!("shape-{name}-{way}"), "pop3", steps, rule));
        }
    }
    sessions
}

/// Ways to ask for a message.
fn commands() -> Vec<Session> {
    let mut sessions = Vec::new();
    let commands: [(&str, &[u8]); 7] = [
        ("lower-case", b"retr 2\r\n"),
        ("mixed-case", b"ReTr 2\r\n"),
        ("blanks-behind", b"RETR 2  \r\n"),
        ("zeros", b"RETR 0000000000002\r\n"),
        ("top-one-line", b"TOP 2 1\r\n"),
        ("top-tabs", b"TOP\t2\t99\r\n"),
        ("xtnd", b"XTND XMIT 2\r\nRETR 2\r\n"),
    ];
    for (name, command) in commands {
        let mails = [message("one", &harmless()), message("two", &eicar())];
        let steps = vec![serve(&mails), expect("^\\+OK"), send(command), observe()];
        sessions.push(session(&format!("command-{name}"), "pop3", steps, Rule::NothingFetched));
    }
    sessions
}

const GREETING: &[u8] = b"+OK ready\r\n";

fn serve(mails: &[Vec<u8>]) -> Step {
    Step {
        who: Who::S,
        action: Some("serve".to_owned()),
        messages: Some(mails.iter().cloned().map(Bytes).collect()),
        ..Step::default()
    }
}

/// With a server that the script plays.
fn logged_in() -> Vec<Step> {
    let mut steps = vec![says_in(GREETING, None), expect("^\\+OK")];
    for command in [&b"USER u\r\n"[..], b"PASS p\r\n"] {
        steps.extend([send(command), await_command()]);
        steps.extend([says_in(b"+OK\r\n", None), expect("^\\+OK")]);
    }
    steps
}

fn says_in(bytes: &[u8], segments: Option<Vec<usize>>) -> Step {
    Step { who: Who::S, ..send_in(bytes, segments) }
}

/// The message has come to its end.
fn complete() -> Step {
    expect("(?s)(^|\\n)\\.\\r\\n$")
}

fn await_command() -> Step {
    Step { who: Who::S, ..expect("\\n$") }
}
