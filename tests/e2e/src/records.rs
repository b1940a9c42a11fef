//! What is kept of a mail that only a site finds infected, looked at as an operator does: the same
//! session at the box, the proxy and the manager, and the sealed copy at the proxy.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Lab, evidence::Way, message};

/// A mail that the box lets go on and its proxy refuses ([`crate::scenarios::marked_out`]) is found at both by one session's number,
/// which the manager knows, too; its copy is at the proxy, whole, until it is deleted.
///
/// # Errors
/// When anything of it is not so.
pub fn kept_at_the_site(lab: &mut Lab, way: Way) -> Result<()> {
    let subject = "A virus only the site knows";
    let Way::Relay { site, proxy } = way else { anyhow::bail!("the way was {way}") };
    let message_id = format!("{}@office.test", subject.replace(' ', "-"));

    let at_box = one(&lab.ask_box(&["trace", &message_id, "--json"])?)?;
    let session = text(&at_box, "session")?;
    ensure!(text(&at_box, "verdict")? == "clean", "at the box: {at_box}");
    ensure!(
        text(&at_box, "action")? == "passed" && at_box["answer"] == 554,
        "at the box: {at_box}"
    );
    let words = lab.ask_box(&["trace", session])?;
    ensure!(words.contains("the next server did not take it (554)"), "at the box: {words}");

    let ask = |verb: &[&str]| lab.ask_proxy(&site, proxy, verb);
    let at_proxy = one(&ask(&["trace", session, "--json"])?)?;
    ensure!(text(&at_proxy, "session")? == session, "at the proxy: {at_proxy}");
    ensure!(text(&at_proxy, "verdict")? == "infected", "at the proxy: {at_proxy}");
    ensure!(text(&at_proxy, "action")? == "refused", "at the proxy: {at_proxy}");
    let id = text(&at_proxy, "quarantine")?;
    let words = ask(&["trace", session])?;
    ensure!(words.contains(&format!("`quarantine show {id}`")), "at the proxy: {words}");

    ensure!(ask(&["quarantine", "list"])?.contains(id), "the copy is not in the list");
    let shown = ask(&["quarantine", "show", id])?;
    ensure!(shown.contains(session) && shown.contains(subject), "the copy is shown as {shown}");
    let file = lab.root().join(format!("{id}.eml"));
    ask(&["quarantine", "release", id, "--to", &file.display().to_string()])?;
    ensure!(fs::read(&file)? == message::marked(subject), "the copy is not what was sent");
    ask(&["quarantine", "delete", id])?;
    ensure!(ask(&["quarantine", "show", id]).is_err(), "the copy is there still");
    let session = session.to_owned();
    lab.wait_manager_log(&site, &session)
}

/// The one object of an answer.
fn one(json: &str) -> Result<Value> {
    ensure!(json.lines().count() == 1, "more or less than one mail: {json}");
    serde_json::from_str(json).with_context(|| format!("not JSON: {json}"))
}

fn text<'a>(entry: &'a Value, field: &str) -> Result<&'a str> {
    entry[field].as_str().with_context(|| format!("no {field} in {entry}"))
}
