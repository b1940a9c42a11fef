//! What the operator's commands do and say.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;
use wire::MacAddress;

use crate::import::{self, CSV_BYTES_MAX};
use crate::registry::{Added, Device, Registry};

pub(crate) fn show_files(files: &[PathBuf], out: &mut dyn Write) -> anyhow::Result<()> {
    for file in files {
        writeln!(out, "wrote {}", file.display())?;
    }
    Ok(())
}

pub(crate) fn add(
    registry: &mut Registry,
    device: &Device,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mac = device.mac;
    match registry.add(device)? {
        Added::Yes => writeln!(out, "added {mac}; its first login binds its key")?,
        Added::Already => bail!(
            "{mac} is registered already; `avr-auther remove {mac}` first to let it bind a new key"
        ),
    }
    Ok(())
}

pub(crate) fn import(
    registry: &mut Registry,
    file: &Path,
    now_s: u64,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(CSV_BYTES_MAX + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", file.display()))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > CSV_BYTES_MAX {
        bail!("{} is larger than {CSV_BYTES_MAX} bytes; split it", file.display());
    }
    let devices = import::parse(&bytes, now_s).with_context(|| file.display().to_string())?;
    let new = registry.add_all(&devices)?;
    let already = devices.len() - new;
    writeln!(out, "added {new} boxes; {already} were registered already and are left as they are")?;
    Ok(())
}

pub(crate) fn suspend(
    registry: &mut Registry,
    mac: MacAddress,
    suspended: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if !registry.set_suspended(mac, suspended)? {
        return unknown(mac);
    }
    if suspended {
        writeln!(out, "suspended {mac}; the ticket it has runs out within 24 hours")?;
    } else {
        writeln!(out, "resumed {mac}")?;
    }
    Ok(())
}

pub(crate) fn remove(
    registry: &mut Registry,
    mac: MacAddress,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if !registry.remove(mac)? {
        return unknown(mac);
    }
    writeln!(out, "removed {mac} and its key; the ticket it has runs out within 24 hours")?;
    Ok(())
}

fn unknown(mac: MacAddress) -> anyhow::Result<()> {
    bail!("{mac} is not registered; `avr-auther list` shows all boxes")
}

pub(crate) fn list(registry: &Registry, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let devices = registry.list()?;
    if json {
        let entries: Vec<Entry<'_>> = devices.iter().map(Entry::of).collect();
        serde_json::to_writer_pretty(&mut *out, &entries)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<17}  {:<9}  {:>8}  {:<16}  {:<16}  {:>9}  NOTE",
        "MAC", "STATE", "SESSIONS", "ADDED (UTC)", "LAST LOGIN (UTC)", "OTHER KEY"
    )?;
    for device in &devices {
        let last_login = device.last_login_s.map_or_else(|| "-".to_owned(), |s| Utc(s).to_string());
        writeln!(
            out,
            "{:<17}  {:<9}  {:>8}  {:<16}  {:<16}  {:>9}  {}",
            device.mac.to_string(),
            state(device),
            device.sessions_max,
            Utc(device.added_s).to_string(),
            last_login,
            device.other_key_logins,
            device.note
        )?;
    }
    Ok(())
}

fn state(device: &Device) -> &'static str {
    match device {
        Device { suspended: true, .. } => "suspended",
        Device { key: Some(_), .. } => "enrolled",
        Device { key: None, .. } => "waiting",
    }
}

/// A box in `list --json`. Fields are only ever added. Times are seconds since 1970.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    mac: String,
    /// `waiting` for its first login, `enrolled`, or `suspended`.
    state: &'static str,
    note: &'a str,
    sessions_max: u32,
    added_s: u64,
    key: Option<String>,
    bound_s: Option<u64>,
    last_login_s: Option<u64>,
    software: Option<&'a str>,
    other_key_logins: u64,
}

impl<'a> Entry<'a> {
    fn of(device: &'a Device) -> Self {
        Self {
            mac: device.mac.to_string(),
            state: state(device),
            note: &device.note,
            sessions_max: device.sessions_max,
            added_s: device.added_s,
            key: device.key.map(|key| key.to_string()),
            bound_s: device.bound_s,
            last_login_s: device.last_login_s,
            software: device.software.as_deref(),
            other_key_logins: device.other_key_logins,
        }
    }
}

/// Seconds since 1970 as `2026-11-23 04:30`.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The civil calendar from a count of days, in eras of 400 years that begin on 1 March
        // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
        let days = self.0 / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let minutes = self.0 % 86_400 / 60;
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02}", minutes / 60, minutes % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_shown_as_dates() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (951_868_800, "2000-03-01 00:00"),
            (1_795_407_060, "2026-11-23 04:11"),
            (4_107_542_399, "2100-02-28 23:59"),
            (4_107_542_400, "2100-03-01 00:00"),
        ] {
            assert_eq!(Utc(seconds).to_string(), shown);
        }
    }
}
