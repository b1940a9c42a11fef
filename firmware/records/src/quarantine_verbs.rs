//! `quarantine list|show|release|delete`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use journal::Timestamp;
use quarantine::{Id, Item, Vault};
use serde_json::json;

use crate::durations::Span;
use crate::outgoing::{self, Envelope, Shape};
use crate::table::{bytes, cut, pad};

/// Columns that a list gives to a verdict, and to a sender.
const VERDICT_COLUMNS: usize = 28;
const FROM_COLUMNS: usize = 32;

/// What to do with the quarantine.
#[derive(Debug, Subcommand)]
pub enum QuarantineVerb {
    /// List what there is, newest first.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show what is known of an item. Its content stays sealed.
    Show {
        /// Its name, as in the list.
        id: Id,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Hand out the original, byte for byte: to a file or to a mail server.
    Release(Release),
    /// Delete items.
    Delete(Delete),
}

/// See [`QuarantineVerb::Release`].
#[derive(Debug, Args)]
pub struct Release {
    /// The item's name, as in the list.
    id: Id,
    /// A file to make, whose name ends in .eml; readable by its owner alone.
    #[arg(long, value_name = "FILE.eml", required_unless_present = "via", conflicts_with = "via")]
    to: Option<PathBuf>,
    /// A mail server that takes mail from this machine, without TLS and login.
    #[arg(long, value_name = "HOST:PORT")]
    via: Option<String>,
    /// With --via: a recipient, instead of the original ones; may be given several times.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "to")]
    mail_to: Vec<String>,
    /// With --via: the sender in the envelope, instead of the original one; "" for none.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "to")]
    mail_from: Option<String>,
}

/// See [`QuarantineVerb::Delete`].
#[derive(Debug, Args)]
pub struct Delete {
    /// Their names, as in the list.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<Id>,
    /// All there are.
    #[arg(long)]
    all: bool,
    /// With --all: only those that have been here for longer, as in 7d.
    #[arg(long, value_name = "TIME", conflicts_with = "ids")]
    older_than: Option<Span>,
}

impl QuarantineVerb {
    /// Does it. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// What kept it from being done, with what the person can do.
    pub fn execute(&self, vault: &Vault, now: u64, out: &mut impl Write) -> anyhow::Result<()> {
        match self {
            Self::List { json: true } => list_json(vault, now, out),
            Self::List { json: false } => list(vault, now, out),
            Self::Show { id, json: true } => {
                writeln!(out, "{:#}", serde_json::to_value(vault.show(*id)?)?)?;
                Ok(())
            }
            Self::Show { id, json: false } => Ok(show(&vault.show(*id)?, now, out)?),
            Self::Release(Release { id, to: Some(path), .. }) => to_file(vault, *id, path, out),
            Self::Release(release) => to_server(vault, release, out),
            Self::Delete(delete) => delete_items(vault, delete, now, out),
        }
    }
}

fn list(vault: &Vault, now: u64, out: &mut impl Write) -> anyhow::Result<()> {
    let row = |id: &str, age: &str, size: &str, verdict: &str, from: &str, subject: &str| {
        let (verdict, from) = (cut(verdict, VERDICT_COLUMNS), cut(from, FROM_COLUMNS));
        let (verdict, from) = (pad(&verdict, VERDICT_COLUMNS), pad(&from, FROM_COLUMNS));
        format!("{id:<10}  {age:>4}  {size:>9}  {verdict}  {from}  {subject}").trim_end().to_owned()
    };
    let mut is_empty = true;
    for (id, item) in vault.list(now)? {
        if is_empty {
            writeln!(out, "{}", row("id", "age", "size", "verdict", "from", "subject"))?;
            is_empty = false;
        }
        match item {
            Ok(item) => {
                let age = Span(Duration::from_secs(item.age_s(now))).to_string();
                let from =
                    if item.meta.from.is_empty() { &item.meta.mail_from } else { &item.meta.from };
                let (verdict, subject) = (&item.meta.verdict, &item.meta.subject);
                let size = bytes(item.bytes);
                writeln!(out, "{}", row(&id.to_string(), &age, &size, verdict, from, subject))?;
            }
            Err(error) => writeln!(out, "{id:<10}  cannot be read: {}", telemetry::chain(&error))?,
        }
    }
    if is_empty {
        writeln!(out, "the quarantine is empty")?;
    }
    Ok(())
}

/// One object a line, so that thousands need no memory.
fn list_json(vault: &Vault, now: u64, out: &mut impl Write) -> anyhow::Result<()> {
    for (id, item) in vault.list(now)? {
        let value = match item {
            Ok(item) => serde_json::to_value(item)?,
            Err(error) => json!({ "id": id, "error": telemetry::chain(&error) }),
        };
        writeln!(out, "{value}")?;
    }
    Ok(())
}

fn show(item: &Item, now: u64, out: &mut impl Write) -> io::Result<()> {
    let meta = &item.meta;
    let stored = format!(
        "{}, {} ago",
        Timestamp::from_unix(item.stored_at),
        Span(Duration::from_secs(item.age_s(now)))
    );
    let known = u32::try_from(meta.rcpt_to.len()).unwrap_or(u32::MAX);
    let mut rcpt_to = meta.rcpt_to.join(", ");
    if meta.recipients > known {
        rcpt_to += &format!(" and {} more", meta.recipients - known);
    }
    for (label, value) in [
        ("item", item.id.to_string().as_str()),
        ("stored", &stored),
        ("size", &format!("{} bytes", item.bytes)),
        ("verdict", &meta.verdict),
        ("engine", &meta.engine),
        ("file", &meta.file_name),
        ("part", &meta.part),
        ("session", &meta.session),
        ("protocol", &format!("{} {}", meta.protocol, meta.direction)),
        ("client", &meta.client),
        ("server", &meta.server),
        ("mail from", &meta.mail_from),
        ("rcpt to", &rcpt_to),
        ("message-id", &meta.message_id),
        ("from", &meta.from),
        ("subject", &meta.subject),
    ] {
        if !value.trim().is_empty() {
            writeln!(out, "{label:<11} {value}")?;
        }
    }
    Ok(())
}

fn to_file(vault: &Vault, id: Id, path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    // Whatever it is, nothing runs or opens it but a mail program.
    ensure!(
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("eml")),
        "a mail is handed out only under a name that ends in .eml; write --to {id}.eml"
    );
    let item = vault.show(id)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("make {}; it must not be there yet", path.display()))?;
    if let Err(error) = write_content(vault, id, &mut file) {
        // Half a mail is none, and one that cannot be verified must not be opened.
        drop(file);
        let _ = fs::remove_file(path);
        return Err(error.context(format!("hand out {id} to {}", path.display())));
    }
    writeln!(
        out,
        "{}: {} bytes, as they came ({}); the sealed copy stays until it is deleted",
        path.display(),
        item.bytes,
        item.meta.verdict
    )?;
    Ok(())
}

fn write_content(vault: &Vault, id: Id, file: &mut File) -> anyhow::Result<()> {
    for chunk in vault.open_content(id)? {
        file.write_all(&chunk?).context("write")?;
    }
    file.sync_all().context("write")
}

fn to_server(vault: &Vault, release: &Release, out: &mut impl Write) -> anyhow::Result<()> {
    let via = release.via.as_deref().context("name the mail server with --via HOST:PORT")?;
    let item = vault.show(release.id)?;
    let meta = &item.meta;
    let to =
        if release.mail_to.is_empty() { original_recipients(&item)? } else { &release.mail_to };
    let from = release.mail_from.as_ref().unwrap_or(&meta.mail_from);
    // Once through before the first byte is sent: what is damaged stays here.
    let shape = Shape::of(vault.open_content(release.id)?)?;
    let envelope = Envelope { from, to };
    let taken = outgoing::send(via, envelope, shape, vault.open_content(release.id)?)?;
    writeln!(
        out,
        "{}: {} bytes went to {} through {via}, unchanged ({}): {taken}; the sealed copy stays \
         until it is deleted",
        release.id,
        item.bytes,
        to.join(", "),
        meta.verdict
    )?;
    Ok(())
}

fn original_recipients(item: &Item) -> anyhow::Result<&[String]> {
    let known = &item.meta.rcpt_to;
    ensure!(!known.is_empty(), "the item has no recipients of its own; name one with --mail-to");
    if item.meta.recipients as usize > known.len() {
        bail!(
            "of {} recipients only {} are known; name those who shall have it with --mail-to",
            item.meta.recipients,
            known.len()
        );
    }
    Ok(known)
}

fn delete_items(
    vault: &Vault,
    delete: &Delete,
    now: u64,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let ids = if delete.all { all(vault, delete.older_than, now)? } else { delete.ids.clone() };
    let mut deleted = 0_usize;
    let mut missing = Vec::new();
    for id in ids {
        match vault.delete(id) {
            Ok(()) => deleted += 1,
            // Gone meanwhile is as good as deleted, where all are meant.
            Err(quarantine::VaultError::NotFound { .. }) if delete.all => {}
            Err(error) => missing.push(telemetry::chain(&error)),
        }
    }
    writeln!(out, "deleted: {deleted}")?;
    ensure!(missing.is_empty(), "{}", missing.join("\n"));
    Ok(())
}

/// Those that do not open as well, and those that are only waiting to be swept.
fn all(vault: &Vault, older_than: Option<Span>, now: u64) -> anyhow::Result<Vec<Id>> {
    vault.sweep(now)?;
    let age_min = older_than.map_or(0, |span| span.0.as_secs());
    let ids = vault.list(now)?.map(|(id, _)| id);
    Ok(ids.filter(|id| now.saturating_sub(id.stored_at()) >= age_min).collect())
}

#[cfg(test)]
mod tests;
