//! What the operator's commands do and say.

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use axum::http::Method;
use wire::MacAddress;

use crate::api::{
    AddBox, AddToken, Audit, Boxes, Changed, EditBox, Imported, NewToken, ReplaceKey,
    RevocationList, Tokens,
};
use crate::client::Desk;
use crate::csv::CSV_BYTES_MAX;
use crate::device::State;
use crate::utc::Utc;

type Out<'a> = &'a mut dyn Write;

pub(crate) fn show_files(files: &[PathBuf], out: Out<'_>) -> anyhow::Result<()> {
    for file in files {
        writeln!(out, "wrote {}", file.display())?;
    }
    Ok(())
}

pub(crate) async fn add(desk: &Desk, new: &AddBox, out: Out<'_>) -> anyhow::Result<()> {
    let _: Changed = desk.change(Method::POST, "/v1/boxes", Some(new)).await?;
    writeln!(out, "added {}; its first login binds its key", new.mac)?;
    Ok(())
}

pub(crate) async fn import(
    desk: &Desk,
    file: &Path,
    dry_run: bool,
    out: Out<'_>,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(CSV_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(file)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", file.display()))?;
    if bytes.len() > CSV_BYTES_MAX {
        bail!("{} is larger than {CSV_BYTES_MAX} bytes; split it", file.display());
    }
    let path = format!("/v1/import?dry_run={dry_run}");
    let Imported { added, already, .. } =
        desk.send_csv(&path, bytes).await.with_context(|| file.display().to_string())?;
    let would = if dry_run { "would have " } else { "" };
    writeln!(
        out,
        "{would}added {added} boxes; {already} were registered already and are left as they are"
    )?;
    Ok(())
}

pub(crate) async fn export(desk: &Desk, file: Option<&Path>, out: Out<'_>) -> anyhow::Result<()> {
    let Some(path) = file else { return desk.copy("/v1/export", out).await };
    let mut file =
        File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
    let copied = desk.copy("/v1/export", &mut file).await;
    if copied.is_err() {
        // Half an export is taken for a whole one some day.
        let _ = std::fs::remove_file(path);
    }
    copied?;
    file.sync_all().with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(out, "wrote {}", path.display())?;
    Ok(())
}

pub(crate) async fn edit(
    desk: &Desk,
    mac: MacAddress,
    edit: &EditBox,
    out: Out<'_>,
) -> anyhow::Result<()> {
    let path = format!("/v1/boxes/{mac}");
    let _: Changed = desk.change(Method::PATCH, &path, Some(edit)).await?;
    writeln!(out, "changed {mac}")?;
    Ok(())
}

pub(crate) async fn suspend(desk: &Desk, mac: MacAddress, out: Out<'_>) -> anyhow::Result<()> {
    post(desk, &format!("/v1/boxes/{mac}/suspend")).await?;
    writeln!(
        out,
        "suspended {mac}; the ticket it has is void once the managers have asked, \
         and runs out within 24 hours"
    )?;
    Ok(())
}

pub(crate) async fn resume(desk: &Desk, mac: MacAddress, out: Out<'_>) -> anyhow::Result<()> {
    post(desk, &format!("/v1/boxes/{mac}/resume")).await?;
    writeln!(out, "resumed {mac}")?;
    Ok(())
}

pub(crate) async fn replace_key(
    desk: &Desk,
    mac: MacAddress,
    how: &ReplaceKey,
    out: Out<'_>,
) -> anyhow::Result<()> {
    let path = format!("/v1/boxes/{mac}/replace-key");
    let _: Changed = desk.change(Method::POST, &path, Some(how)).await?;
    let old = if how.revoke_now { "void from now on" } else { "good until then" };
    writeln!(out, "the next login of {mac} with a new key binds it; the old key is {old}")?;
    Ok(())
}

pub(crate) async fn remove(desk: &Desk, mac: MacAddress, out: Out<'_>) -> anyhow::Result<()> {
    desk.remove(&format!("/v1/boxes/{mac}")).await?;
    writeln!(
        out,
        "removed {mac} and its key; the ticket it has is void once the managers have asked, \
         and runs out within 24 hours"
    )?;
    Ok(())
}

async fn post(desk: &Desk, path: &str) -> anyhow::Result<Changed> {
    desk.change(Method::POST, path, None::<&()>).await
}

/// Which boxes `list` shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    pub(crate) search: Option<String>,
    pub(crate) state: Option<State>,
    pub(crate) json: bool,
}

pub(crate) async fn list(desk: &Desk, shown: &Shown, out: Out<'_>) -> anyhow::Result<()> {
    let mut filter = String::new();
    if let Some(search) = &shown.search {
        filter.push_str(&format!("&q={}", encode(search)));
    }
    if let Some(state) = shown.state {
        filter.push_str(&format!("&state={state}"));
    }
    let mut after = String::new();
    let mut boxes = Vec::new();
    loop {
        let page: Boxes = desk.read(&format!("/v1/boxes?limit=1000{filter}{after}")).await?;
        boxes.extend(page.boxes);
        let Some(next) = page.next else { break };
        after = format!("&after={next}");
    }
    if shown.json {
        serde_json::to_writer_pretty(&mut *out, &boxes)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<17}  {:<9}  {:>8}  {:<16}  {:<16}  {:>9}  {:<12}  NOTE",
        "MAC", "STATE", "SESSIONS", "ADDED (UTC)", "LAST LOGIN (UTC)", "OTHER KEY", "SERIAL"
    )?;
    for device in &boxes {
        let last_login = device.last_login_s.map_or_else(|| "-".to_owned(), |s| Utc(s).to_string());
        writeln!(
            out,
            "{:<17}  {:<9}  {:>8}  {:<16}  {:<16}  {:>9}  {:<12}  {}",
            device.mac,
            device.state,
            device.sessions_max,
            Utc(device.added_s).to_string(),
            last_login,
            device.other_key_logins,
            device.serial,
            device.note
        )?;
    }
    Ok(())
}

/// Which lines `audit` shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looked {
    pub(crate) mac: Option<MacAddress>,
    pub(crate) since_s: u64,
    pub(crate) json: bool,
}

pub(crate) async fn audit(desk: &Desk, looked: &Looked, out: Out<'_>) -> anyhow::Result<()> {
    let mac = looked.mac.map(|mac| format!("&mac={mac}")).unwrap_or_default();
    let mut after = 0;
    loop {
        let since_s = looked.since_s;
        let path = format!("/v1/audit?limit=1000&since_s={since_s}&after={after}{mac}");
        let page: Audit = desk.read(&path).await?;
        for entry in &page.entries {
            if looked.json {
                serde_json::to_writer(&mut *out, entry)?;
                writeln!(out)?;
                continue;
            }
            let mac = entry.mac.as_deref().unwrap_or("-");
            write!(out, "{}  {:<12}  {}  {mac}", Utc(entry.at_s), entry.who, entry.what)?;
            for (field, before, after) in differences(entry) {
                write!(out, "  {field}: {before} -> {after}")?;
            }
            writeln!(out)?;
        }
        let Some(next) = page.next else { return Ok(()) };
        after = next;
    }
}

/// Fields that are other than before, with both values. Of something that came or went, none: the
/// line says that already, and `--json` says the rest.
fn differences(entry: &crate::registry::AuditEntry) -> Vec<(&str, String, String)> {
    let (Some(before), Some(after)) = (&entry.before, &entry.after) else { return Vec::new() };
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else {
        return Vec::new();
    };
    after
        .iter()
        .filter_map(|(field, value)| {
            let old = before.get(field).unwrap_or(&serde_json::Value::Null);
            (old != value).then(|| (field.as_str(), old.to_string(), value.to_string()))
        })
        .collect()
}

pub(crate) async fn revocations(desk: &Desk, json: bool, out: Out<'_>) -> anyhow::Result<()> {
    let list: RevocationList = desk.read("/v1/revocations").await?;
    if json {
        serde_json::to_writer_pretty(&mut *out, &list)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "list {}: {} revocations", list.number, list.revocations.len())?;
    for entry in &list.revocations {
        writeln!(
            out,
            "{}  tickets from before {} with key {}: {}",
            entry.mac,
            Utc(entry.not_before_s),
            entry.key,
            entry.reason
        )?;
    }
    Ok(())
}

pub(crate) async fn add_token(desk: &Desk, new: &AddToken, out: Out<'_>) -> anyhow::Result<()> {
    let made: NewToken = desk.change(Method::POST, "/v1/tokens", Some(new)).await?;
    writeln!(out, "{}", made.token)?;
    Ok(())
}

pub(crate) async fn list_tokens(desk: &Desk, out: Out<'_>) -> anyhow::Result<()> {
    let tokens: Tokens = desk.read("/v1/tokens").await?;
    writeln!(
        out,
        "{:<32}  {:<5}  {:<16}  {:<16}  BY",
        "NAME", "SCOPE", "MADE (UTC)", "ENDS (UTC)"
    )?;
    for token in &tokens.tokens {
        let ends = token.expires_s.map_or_else(|| "never".to_owned(), |s| Utc(s).to_string());
        writeln!(
            out,
            "{:<32}  {:<5}  {:<16}  {:<16}  {}",
            token.name,
            token.scope.name(),
            Utc(token.created_s).to_string(),
            ends,
            token.created_by
        )?;
    }
    Ok(())
}

pub(crate) async fn remove_token(desk: &Desk, name: &str, out: Out<'_>) -> anyhow::Result<()> {
    crate::token::check_name(name).map_err(anyhow::Error::msg)?;
    desk.remove(&format!("/v1/tokens/{name}")).await?;
    writeln!(out, "removed the token {name}")?;
    Ok(())
}

/// For a query (RFC 3986 section 2.1).
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
