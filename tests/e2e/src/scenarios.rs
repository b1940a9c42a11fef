//! What the demo shows and the tests check, each step once: a mail out, a mail in, with what must
//! be true of it at the mail server. What a step finds wrong is its error.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Lab,
    clock::now,
    evidence::{Snapshot, Way},
    message,
    netns::run_command,
    plan::{
        BOX6, MAIL_NAME, MAIL6, OFFICE_PUBLIC, PASSWORD, PC6, RECIPIENT, SENDER, SMTP_PORT, USER,
        WEB_NAME, pop3_server, smtp_server,
    },
    pop3, servers, smtp,
};

/// The mailbox of [`RECIPIENT`] on the mail host.
const RECIPIENT_BOX: &str = "partner";

/// What a step did, for the table.
#[derive(Debug, Clone)]
pub struct Done {
    /// From the client's first packet to its last answer.
    pub took: Duration,
    /// The way of the session, as others saw it.
    pub way: Way,
    /// What was seen, in a few words.
    pub seen: String,
}

/// A clean mail sent with `swaks` arrives byte for byte.
///
/// # Errors
/// When it does not.
pub fn clean_out(lab: &Lab) -> Result<Done> {
    let sent = message::clean("A clean mail out");
    let file = lab.root().join("clean.eml");
    fs::write(&file, smtp::stuffed(&sent))?;
    mail_out(lab, &sent, || {
        let mut command = lab.pc().command("swaks");
        command.args(["--server", MAIL_NAME, "--port", &SMTP_PORT.to_string()]);
        command.args(["--helo", "pc.office.test", "--from", SENDER, "--to", RECIPIENT]);
        command.args(["--no-data-fixup", "--data"]).arg(format!("@{}", file.display()));
        run_command(&mut command).map(drop)
    })
}

/// A mail in a session that switches to TLS arrives byte for byte, unread by anybody.
///
/// # Errors
/// When it does not.
pub fn starttls_out(lab: &Lab) -> Result<Done> {
    let sent = message::clean("A clean mail out, encrypted");
    let file = lab.root().join("encrypted.eml");
    fs::write(&file, &sent)?;
    mail_out(lab, &sent, || {
        let mut command = lab.pc().command("curl");
        command.args(["--silent", "--show-error", "--ssl-reqd", "--insecure"]);
        command.args(["--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "--upload-file"]);
        command.arg(&file).arg(format!("smtp://{MAIL_NAME}/pc.office.test"));
        output_of(&mut command).map(drop)
    })
}

/// A mail fetched in a session that switches to TLS is what the server gives, unread by anybody.
///
/// # Errors
/// When it is not.
pub fn stls_in(lab: &Lab) -> Result<Done> {
    fetch(lab, &message::clean("A clean mail in, encrypted"), &["--ssl-reqd", "--insecure"])
}

/// A short mail arrives byte for byte; the way is for the caller to judge.
///
/// # Errors
/// When it does not arrive so.
pub fn short_out(lab: &Lab, subject: &str) -> Result<Done> {
    let sent = message::short(subject);
    mail_out(lab, &sent, || {
        let reply = send_from_pc(lab, smtp_server(), &sent)?;
        ensure!(reply.code == 250, "a clean mail was answered by {reply:?}");
        Ok(())
    })
}

/// A clean mail to the server's IPv6 address arrives byte for byte.
///
/// # Errors
/// When it does not.
pub fn clean_out_ipv6(lab: &Lab) -> Result<Done> {
    let sent = message::clean("A clean mail out by IPv6");
    mail_out(lab, &sent, || {
        let reply = send_from_pc(lab, (MAIL6, SMTP_PORT).into(), &sent)?;
        ensure!(reply.code == 250, "a clean mail was answered by {reply:?}");
        Ok(())
    })
}

/// A clean mail fetched with `curl` is what the server gives to a client beside it.
///
/// # Errors
/// When it is not.
pub fn clean_in(lab: &Lab) -> Result<Done> {
    fetch(lab, &message::clean("A clean mail in"), &[])
}

/// EICAR sent is refused with its name, and not delivered.
///
/// # Errors
/// When it is accepted, refused otherwise, or delivered.
pub fn eicar_out(lab: &Lab) -> Result<Done> {
    refused_out(lab, &message::eicar("EICAR out"), "eicar")
}

/// What only the sites' own scanner knows is refused too.
///
/// # Errors
/// When it is accepted, refused otherwise, or delivered.
pub fn marked_out(lab: &Lab) -> Result<Done> {
    refused_out(lab, &message::marked("A virus only the site knows"), "lab-marker")
}

/// EICAR fetched comes as a notice, the same each time, and stays on the server.
///
/// # Errors
/// When anything else comes.
pub fn eicar_in(lab: &Lab) -> Result<Done> {
    let subject = "EICAR in";
    let infected = message::eicar(subject);
    lab.mail().empty(USER)?;
    lab.mail().put(USER, &infected)?;
    let before = Snapshot::take(lab)?;
    let start = now();
    let (first, again) = lab.pc().within(|| -> Result<_> {
        let mut session = pop3::Session::open(pop3_server())?;
        session.log_in(USER, PASSWORD)?;
        let messages = (session.retrieve(1)?, session.retrieve(1)?);
        session.quit()?;
        Ok(messages)
    })??;
    let took = start.elapsed();
    let way = before.way_since(lab)?;
    let notice = String::from_utf8_lossy(&first);
    // The attachment's first line in base64.
    let payload = "WDVPIVAlQEFQWzRcUFpYNTQoUF4p";
    ensure!(String::from_utf8_lossy(&infected).contains(payload), "the test mail is not EICAR");
    ensure!(!notice.contains(payload), "EICAR came through:\n{notice}");
    for expected in [subject, SENDER, "Date: Mon, 23 Nov 2026 09:00:00 +0900"] {
        ensure!(notice.contains(expected), "the notice lacks {expected:?}:\n{notice}");
    }
    ensure!(notice.to_lowercase().contains("eicar"), "the notice names no virus:\n{notice}");
    ensure!(first == again, "the second RETR gave another notice: {}", difference(&first, &again));
    ensure!(lab.mail().messages(USER)?.len() == 1, "the mail was deleted from the server");
    Ok(Done { took, way, seen: "a notice in its place".to_owned() })
}

/// The web server's file comes through the bridge as it is.
///
/// # Errors
/// When it does not.
pub fn download(lab: &Lab) -> Result<Done> {
    let start = now();
    let url = format!("http://{WEB_NAME}/download");
    let got =
        output_of(lab.pc().command("curl").args(["--silent", "--show-error", "--fail", &url]))?;
    let took = start.elapsed();
    ensure!(got == lab.download(), "the download differs: {}", difference(lab.download(), &got));
    let way = Way::Bridge;
    Ok(Done { took, way, seen: format!("{} bytes, identical", got.len()) })
}

/// Does something that opens one session, and tells its way.
///
/// # Errors
/// Those of `open`.
pub fn watch_way<T>(lab: &Lab, open: impl FnOnce(&Lab) -> Result<T>) -> Result<(T, Way)> {
    let before = Snapshot::take(lab)?;
    let opened = open(lab)?;
    Ok((opened, before.way_since(lab)?))
}

fn mail_out(lab: &Lab, sent: &[u8], send: impl FnOnce() -> Result<()>) -> Result<Done> {
    lab.mail().empty(RECIPIENT_BOX)?;
    let before = Snapshot::take(lab)?;
    let start = now();
    send()?;
    let took = start.elapsed();
    let delivered = lab.mail().wait_delivered(RECIPIENT_BOX)?;
    let way = before.way_since(lab)?;
    check_delivered(sent, &delivered)?;
    let peer = servers::smtp_peer(&delivered)?;
    check_peer(lab, &way, peer)?;
    Ok(Done { took, way, seen: format!("delivered, {} bytes, identical", sent.len()) })
}

fn refused_out(lab: &Lab, infected: &[u8], name: &str) -> Result<Done> {
    lab.mail().empty(RECIPIENT_BOX)?;
    let before = Snapshot::take(lab)?;
    let start = now();
    let reply = send_from_pc(lab, smtp_server(), infected)?;
    let took = start.elapsed();
    let way = before.way_since(lab)?;
    ensure!(reply.code == 554, "an infected mail was answered by {reply:?}");
    ensure!(reply.text.to_lowercase().contains(name), "the reply does not say {name}: {reply:?}");
    // Postfix delivers in order: had it taken the infected one, it would be there with this one.
    let later = message::short("After the infected mail");
    ensure!(
        send_from_pc(lab, smtp_server(), &later)?.code == 250,
        "the clean mail after it was refused"
    );
    check_delivered(&later, &lab.mail().wait_delivered(RECIPIENT_BOX)?)?;
    ensure!(lab.mail().messages(RECIPIENT_BOX)?.len() == 1, "the infected mail was delivered");
    Ok(Done { took, way, seen: reply.text.trim_end().to_owned() })
}

fn send_from_pc(lab: &Lab, server: SocketAddr, message: &[u8]) -> Result<smtp::Reply> {
    lab.pc().within(|| {
        let mut session = smtp::Session::open(server)?;
        let reply = session.send(SENDER, RECIPIENT, message)?;
        session.quit()?;
        Ok(reply)
    })?
}

fn fetch(lab: &Lab, message: &[u8], options: &[&str]) -> Result<Done> {
    lab.mail().empty(USER)?;
    lab.mail().put(USER, message)?;
    let before = Snapshot::take(lab)?;
    let mut command = lab.pc().command("curl");
    command.args(["--silent", "--show-error", "--user", &format!("{USER}:{PASSWORD}")]);
    command.args(options).arg(format!("pop3://{MAIL_NAME}/1"));
    let start = now();
    let fetched = output_of(&mut command)?;
    let took = start.elapsed();
    let way = before.way_since(lab)?;
    check_pop3_peer(lab, &way)?;
    let original = fetch_at_server(lab)?;
    ensure!(fetched == original, "the mail fetched differs: {}", difference(&original, &fetched));
    Ok(Done { took, way, seen: format!("{} bytes, identical", fetched.len()) })
}

fn fetch_at_server(lab: &Lab) -> Result<Vec<u8>> {
    lab.mail_netns().within(|| {
        let mut session = pop3::Session::open(pop3_server())?;
        session.log_in(USER, PASSWORD)?;
        let message = session.retrieve(1)?;
        session.quit()?;
        Ok(message)
    })?
}

/// Delivered is: the trace fields that the receiving host adds on top, then what was sent.
fn check_delivered(sent: &[u8], delivered: &[u8]) -> Result<()> {
    let sent = message::to_lf(sent);
    let Some(trace) = delivered.strip_suffix(sent.as_slice()) else {
        let tail = &delivered[delivered.len().saturating_sub(sent.len())..];
        bail!("the mail delivered differs: {}", difference(&sent, tail));
    };
    let trace = String::from_utf8_lossy(trace);
    let known = ["Return-Path:", "X-Original-To:", "Delivered-To:", "Received:", "\t", " "];
    for line in trace.lines() {
        ensure!(known.iter().any(|start| line.starts_with(start)), "the box added {line:?}");
    }
    ensure!(trace.matches("Received:").count() == 1, "more than one hop took the mail:\n{trace}");
    Ok(())
}

/// The mail server must have seen the site that the routers' counters name.
fn check_peer(lab: &Lab, way: &Way, peer: IpAddr) -> Result<()> {
    let expected = match way {
        Way::Relay { site, proxy } => {
            let site = lab.sites().iter().find(|candidate| candidate.name() == site);
            site.context("a site that is not")?.seen_as(*proxy, peer.is_ipv6())
        }
        // Without translation the mail server sees who opened the connection.
        Way::Direct if peer.is_ipv6() => {
            if lab.gateway().id().is_some() {
                BOX6.into()
            } else {
                PC6.into()
            }
        }
        Way::Direct => OFFICE_PUBLIC.into(),
        Way::Bridge | Way::Unclear(_) => bail!("the way of the mail is {way}"),
    };
    ensure!(peer == expected, "the way was {way}, but the mail server saw {peer}");
    Ok(())
}

fn check_pop3_peer(lab: &Lab, way: &Way) -> Result<()> {
    let peers = lab.mail().pop3_peers();
    check_peer(lab, way, *peers.last().context("the mail server saw no login")?)
}

/// The standard output of a command that must succeed.
fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {stderr}", output.status);
    Ok(output.stdout)
}

fn difference(expected: &[u8], got: &[u8]) -> String {
    let same = expected.iter().zip(got).take_while(|(left, right)| left == right).count();
    let around = |bytes: &[u8]| {
        let end = bytes.len().min(same + 40);
        String::from_utf8_lossy(&bytes[same.min(end)..end]).into_owned()
    };
    format!(
        "{} and {} bytes; at byte {same} {:?} became {:?}",
        expected.len(),
        got.len(),
        around(expected),
        around(got)
    )
}
