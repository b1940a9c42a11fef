//! `avr-image flash`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail};
use box_init::control::Ipv4Settings;
use clap::Args;
use image::ext4;
use image::flash::disks::{self, human};
use image::flash::medium::Target;
use image::flash::provision::{Fleet, Mac, Provision};
use image::flash::{Guids, Phase, Release, Source, Unit, label, secret, write};

/// Width of the progress bar, in characters.
const BAR_CHARS: u64 = 40;

#[derive(Debug, Args)]
pub(super) struct FlashArgs {
    /// The disk, all of which is overwritten; without, disks are listed.
    device: Option<PathBuf>,
    /// The image; its map and checksums stand beside it.
    #[arg(long)]
    image: Option<PathBuf>,
    /// A file in place of a disk, for QEMU; made if it is not there.
    #[arg(long, conflicts_with = "device")]
    file: Option<PathBuf>,
    /// Size of that file, in bytes. Default: what it has, or the image's.
    #[arg(long, requires = "file")]
    size: Option<u64>,
    /// Does not have the disk's name typed.
    #[arg(long)]
    yes: bool,
    /// Shows everything, and writes nothing.
    #[arg(long)]
    dry_run: bool,
    /// The unit's provisioning file; what is said here wins over it.
    #[arg(long, value_name = "FILE")]
    provision: Option<PathBuf>,
    /// Serial number, as on the case.
    #[arg(long)]
    serial: Option<String>,
    /// What the operator calls it, as in "front desk".
    #[arg(long)]
    note: Option<String>,
    /// The box's own name.
    #[arg(long)]
    hostname: Option<String>,
    /// `dhcp`, `off`, or ADDRESS/PREFIX[,GATEWAY].
    #[arg(long, value_name = "HOW", value_parser = address)]
    address: Option<Ipv4Settings>,
    /// A DNS server; may be said several times.
    #[arg(long)]
    dns: Vec<std::net::IpAddr>,
    /// The fleet's domain, its CA certificate and its public ticket key.
    #[arg(long, num_args = 3, value_names = ["DOMAIN", "FLEET-CA.PEM", "TICKET.PUB"])]
    fleet: Option<Vec<String>>,
    /// MAC address of the port to the office, by which the box is admitted.
    #[arg(long)]
    mac_lan: Option<Mac>,
    /// MAC address of the port to the router.
    #[arg(long)]
    mac_wan: Option<Mac>,
    /// The admin secret is the first line of this file; `-`: of standard input. Without it is asked for.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// No admin secret: whoever is at the console can do everything, until somebody sets one there.
    #[arg(long, conflicts_with = "secret_file")]
    no_secret: bool,
    /// The program `avr` of this machine, to check the gateway's settings.
    #[arg(long, value_name = "PROGRAM")]
    avr: Option<PathBuf>,
}

impl FlashArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if self.device.is_none() && self.file.is_none() {
            return list(&mut out);
        }
        let image = self.image.as_deref().context("which image? say --image FILE.img.zst")?;
        let release = Release::open(image)?;
        let source = Source::open(image, &release.map)?;
        let place = self.place(release.map.image_bytes)?;
        let unit = self.unit()?;
        let mut files = unit.files()?;
        match &self.avr {
            Some(avr) => unit.check_gateway(avr)?,
            None => complain("the gateway's settings are not checked: --avr PROGRAM does that")?,
        }

        writeln!(out, "image   {}", image.display())?;
        writeln!(out, "onto    {}", place.description.trim_end())?;
        for partition in &source.partitions {
            let bytes = match partition.name.as_str() {
                "DATA" => source.data_bytes(place.bytes),
                _ => partition.bytes,
            };
            writeln!(out, "        {:<6} {}", partition.name, human(bytes))?;
        }
        writeln!(
            out,
            "STATE   {}",
            files.iter().map(|it| &*it.path).collect::<Vec<_>>().join(" ")
        )?;
        for file in &files {
            if matches!(file.path.as_str(), "config/box.toml" | "config/network.toml") {
                writeln!(out, "\n# {}\n{}", file.path, file.contents.trim_end())?;
            }
        }
        if self.dry_run {
            show_label(&mut out, &unit)?;
            writeln!(out, "\nnothing was written (--dry-run)")?;
            return Ok(());
        }

        if let Some(secret) = self.secret(&unit)? {
            files.push(secret::file(&secret)?);
        }
        if !self.yes {
            confirm(&mut out, &place.path)?;
        }
        let guids = Guids::draw(source.partitions.len())?;
        // A time in the past of every box: the image's own file is older than this moment.
        let made = image.metadata().and_then(|about| about.modified())?;
        let epoch = u32::try_from(made.duration_since(UNIX_EPOCH)?.as_secs()).unwrap_or(u32::MAX);
        let guid = |name: &str| guids.partitions[source.index(name)];
        let state = ext4::with_files("STATE", guid("STATE"), epoch, &files)?;
        let data = ext4::template("DATA", guid("DATA"), epoch)?;
        let parts = Unit { guids: &guids, state: &state, data: &data };
        let target = place.open(self.file.is_some())?;
        let mut bar = Bar { shown: None };
        write(&target, &source, &parts, &mut |phase, done, total| bar.show(phase, done, total))?;
        drop((bar, target));
        if self.file.is_none() {
            // So that the kernel shows the new partitions; whoever looks after the next plugging does
            // not need it.
            let reread = Command::new("blockdev").arg("--rereadpt").arg(&place.path).output();
            if !reread.is_ok_and(|output| output.status.success()) {
                complain(
                    "the kernel still has the old partitions; take the disk out and in again",
                )?;
            }
        }
        writeln!(out, "written, read back and compared: {}", place.path.display())?;
        show_label(&mut out, &unit)?;
        Ok(())
    }

    /// Where it goes.
    fn place(&self, needed_bytes: u64) -> anyhow::Result<Place> {
        if let Some(path) = &self.file {
            let about = path.metadata().ok();
            if about.as_ref().is_some_and(|about| !about.is_file()) {
                bail!("{} is no file; name it without --file if it is a disk", path.display());
            }
            let bytes = self.size.or(about.map(|it| it.len())).unwrap_or(needed_bytes);
            if bytes < needed_bytes || !bytes.is_multiple_of(4096) {
                bail!(
                    "{}: {bytes} bytes do not do; say --size with {needed_bytes} or more, a multiple of 4096",
                    path.display()
                );
            }
            let description = format!("{}, a file of {}", path.display(), human(bytes));
            return Ok(Place { path: path.clone(), bytes, description });
        }
        let path = self.device.as_deref().context("no disk")?;
        // As udev's names for it lead there.
        let path =
            path.canonicalize().with_context(|| format!("looking for {}", path.display()))?;
        let all = disks::list()?;
        let disk = disks::find(&all, &path)?;
        if let Some(why) = disk.refusal(needed_bytes) {
            bail!("{} is not written to: {why}", path.display());
        }
        // What lsblk does not see: mounts of other namespaces, file systems of several disks.
        Target::is_free(&path).with_context(|| {
            format!("{} cannot be had alone: be root, and stop what uses it", path.display())
        })?;
        Ok(Place { bytes: disk.bytes, description: disk.describe(), path })
    }

    /// The unit: of the file, and of what is said here.
    fn unit(&self) -> anyhow::Result<Provision> {
        let mut unit = match &self.provision {
            Some(path) => Provision::load(path)?,
            None => Provision::default(),
        };
        let said = |into: &mut String, from: &Option<String>| {
            if let Some(from) = from {
                into.clone_from(from);
            }
        };
        said(&mut unit.serial, &self.serial);
        said(&mut unit.note, &self.note);
        said(&mut unit.network.hostname, &self.hostname);
        if let Some(address) = &self.address {
            unit.network.ipv4 = address.clone();
        }
        if !self.dns.is_empty() {
            unit.network.dns.clone_from(&self.dns);
        }
        if let Some([domain, ca, ticket_key]) = self.fleet.as_deref() {
            let (ca, ticket_key) = (ca.into(), ticket_key.into());
            unit.fleet = Some(Fleet {
                domain: domain.clone(),
                ca,
                ticket_key,
                updates: None,
                updates_ca: None,
            });
        }
        unit.mac.lan = self.mac_lan.or(unit.mac.lan);
        unit.mac.wan = self.mac_wan.or(unit.mac.wan);
        unit.check().map_err(|(key, problem)| anyhow::anyhow!("{key}: {problem}"))?;
        Ok(unit)
    }

    fn secret(&self, unit: &Provision) -> anyhow::Result<Option<String>> {
        if self.no_secret {
            return Ok(None);
        }
        let file = self.secret_file.as_deref().or(unit.secret_file.as_deref());
        if file == Some(Path::new("-")) && !self.yes {
            bail!("the secret takes all of standard input: say --yes too, nothing can be typed");
        }
        Ok(Some(match file {
            Some(path) => secret::read(path)?,
            None => secret::ask()?,
        }))
    }
}

/// What is written to.
struct Place {
    path: PathBuf,
    bytes: u64,
    description: String,
}

impl Place {
    fn open(&self, is_file: bool) -> anyhow::Result<Target> {
        let opened =
            if is_file { Target::file(&self.path, self.bytes) } else { Target::disk(&self.path) };
        opened.with_context(|| format!("opening {} for nobody else", self.path.display()))
    }
}

fn list(out: &mut impl io::Write) -> anyhow::Result<()> {
    let all = disks::list()?;
    let mut none = true;
    for disk in disks::candidates(&all) {
        none = false;
        write!(out, "{}", disk.describe())?;
        // Its size is looked at when the image is known.
        match disk.refusal(0) {
            Some(why) => writeln!(out, "    not to be written to: {why}")?,
            None => writeln!(out, "    can be flashed")?,
        }
    }
    if none {
        writeln!(out, "there is no disk; plug one in")?;
    }
    Ok(())
}

fn show_label(out: &mut impl io::Write, unit: &Provision) -> io::Result<()> {
    writeln!(out, "\n{}", label::text(unit).trim_end())?;
    match label::csv(unit) {
        Some(line) => {
            write!(out, "\n{}\n", label::qr(&line).unwrap_or_default())?;
            writeln!(out, "for `avr-auther import`:\n{line}")
        }
        None => {
            writeln!(
                out,
                "\nfor `avr-auther import` the MAC address of the lan port is needed: --mac-lan"
            )
        }
    }
}

fn confirm(out: &mut impl io::Write, path: &Path) -> anyhow::Result<()> {
    writeln!(out, "\nEverything on {} will be lost. Type its name to go on:", path.display())?;
    out.flush()?;
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed)?;
    if Path::new(typed.trim()) != path {
        bail!("that is not {}; nothing was written", path.display());
    }
    Ok(())
}

fn address(text: &str) -> Result<Ipv4Settings, String> {
    match text {
        "dhcp" => return Ok(Ipv4Settings::Dhcp),
        "off" => return Ok(Ipv4Settings::Off),
        _ => {}
    }
    let (own, gateway) = text.split_once(',').map_or((text, None), |(own, rest)| (own, Some(rest)));
    let read = || {
        let (address, prefix) = own.split_once('/')?;
        let gateway = gateway.map(|gateway| gateway.trim().parse().ok());
        if gateway == Some(None) {
            return None;
        }
        let (address, prefix) = (address.parse().ok()?, prefix.parse().ok()?);
        Some(Ipv4Settings::Static { address, prefix, gateway: gateway.flatten() })
    };
    read().ok_or_else(|| "write dhcp, off, or as in 192.0.2.7/24,192.0.2.1".to_owned())
}

fn complain(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "avr-image: {text}")
}

/// A line that fills, where somebody looks at it.
struct Bar {
    shown: Option<(Phase, u64)>,
}

impl Bar {
    fn show(&mut self, phase: Phase, done: u64, total: u64) {
        let percent = done * 100 / total.max(1);
        if self.shown == Some((phase, percent)) || !io::stderr().is_terminal() {
            return;
        }
        self.shown = Some((phase, percent));
        let full = usize::try_from(percent * BAR_CHARS / 100).unwrap_or(0);
        let empty = usize::try_from(BAR_CHARS).unwrap_or(0).saturating_sub(full);
        let name = match phase {
            Phase::Write => "writing     ",
            Phase::Verify => "reading back",
        };
        let bar = format!("\r{name} [{}{}] {percent:3} %", "#".repeat(full), " ".repeat(empty));
        let _ = io::stderr().write_all(bar.as_bytes());
    }
}

/// Whatever comes next begins a line of its own, an error too.
impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = io::stderr().write_all(b"\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_people_write_them() {
        assert_eq!(address("dhcp"), Ok(Ipv4Settings::Dhcp));
        let text = |text: &str| {
            address(text).map(|settings| toml::to_string(&settings).unwrap().replace('\n', " "))
        };
        let fixed = "method = \"static\" address = \"192.0.2.7\" prefix = 24 ";
        assert_eq!(text("192.0.2.7/24").unwrap(), fixed);
        let routed = format!("{fixed}gateway = \"192.0.2.1\" ");
        assert_eq!(text("192.0.2.7/24,192.0.2.1").unwrap(), routed);
        for wrong in ["192.0.2.7", "192.0.2.7/x", "192.0.2.7/24,", "x/24,192.0.2.1"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
