//! QEMU's command line for a board.

use std::ffi::OsString;
use std::path::Path;

use board::{Arch, Board, Port};

use crate::ImageError;
use crate::measure::Machine;

/// Processors of the guest: the interception and the scanning each have one.
const PROCESSORS: u32 = 2;

/// What the guest is given.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// The disk, uncompressed; written to.
    pub disk: &'a Path,
    /// The firmware's variables; written to.
    pub variables: &'a Path,
    /// Interfaces of the host for `lan` and `wan`; without, each port has a user network of its own.
    pub taps: Option<(&'a str, &'a str)>,
    /// MAC addresses of the two; without, QEMU's own, which are the same for every guest.
    pub macs: Option<(&'a str, &'a str)>,
    /// `tcg` unless somebody knows better.
    pub accel: &'a str,
}

/// Firmware, of Debian's packages `ovmf` and `qemu-efi-aarch64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Efi {
    /// Its code.
    pub code: &'static str,
    /// Its variables as they are when new.
    pub variables: &'static str,
}

/// The firmware for an architecture.
#[must_use]
pub fn efi(arch: Arch) -> Efi {
    match arch {
        Arch::X86_64 => Efi {
            code: "/usr/share/OVMF/OVMF_CODE_4M.fd",
            variables: "/usr/share/OVMF/OVMF_VARS_4M.fd",
        },
        Arch::Aarch64 => Efi {
            code: "/usr/share/AAVMF/AAVMF_CODE.fd",
            variables: "/usr/share/AAVMF/AAVMF_VARS.fd",
        },
    }
}

/// Program and arguments. The serial port is standard input and output.
///
/// # Errors
/// The board is none that QEMU plays.
pub fn command(board: &Board, guest: &Guest<'_>) -> Result<Vec<OsString>, ImageError> {
    words(board, guest, None)
}

/// The same for a guest whose start is measured: as small as it is said to be, with its ports on sockets.
///
/// # Errors
/// As [`command`].
pub fn measured(
    board: &Board,
    guest: &Guest<'_>,
    machine: &Machine<'_>,
) -> Result<Vec<OsString>, ImageError> {
    words(board, guest, Some(machine))
}

fn words(
    board: &Board,
    guest: &Guest<'_>,
    machine: Option<&Machine<'_>>,
) -> Result<Vec<OsString>, ImageError> {
    let not_played = |what: &str| {
        ImageError::Wrong(format!(
            "{}: {what}; QEMU plays boards with a table [qemu], as board/qemu-x86_64 has",
            board.id
        ))
    };
    let qemu = board.qemu.as_ref().ok_or_else(|| not_played("has no [qemu]"))?;
    let mut command = Arguments::default();
    command.add(format!("qemu-system-{}", board.arch.name()));
    command.option("-machine", format!("{},accel={}", qemu.machine, guest.accel));
    command.option("-cpu", &qemu.cpu);
    let memory_mib = machine.map_or(qemu.memory_mib, |machine| machine.memory_mib);
    command.option("-m", memory_mib.to_string());
    let processors = machine.map_or(PROCESSORS, |machine| machine.processors);
    command.option("-smp", processors.to_string());
    command.add("-nodefaults");
    command.option("-display", "none");
    command.option("-serial", "mon:stdio");
    let code = efi(board.arch).code;
    command.option("-drive", format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"));
    command.file("-drive", "if=pflash,format=raw,unit=1,file=", guest.variables);
    command.file("-drive", "if=none,id=disk,format=raw,file=", guest.disk);
    command.option("-device", format!("{},drive=disk", qemu.disk));
    let (taps, macs) = (guest.taps.unzip(), guest.macs.unzip());
    for (id, port, tap, mac) in
        [("lan", &board.ports.lan, taps.0, macs.0), ("wan", &board.ports.wan, taps.1, macs.1)]
    {
        let address = slot(port).ok_or_else(|| not_played("its ports are not on PCI bus 0"))?;
        let net = match (machine, tap, id) {
            (Some(machine), _, _) => machine.netdev(id),
            (None, Some(tap), _) => format!("tap,id={id},ifname={tap},script=no,downscript=no"),
            // Two networks: one guest must not be bridged to itself.
            (None, None, "lan") => "user,id=lan,net=10.0.3.0/24,restrict=on".to_owned(),
            (None, None, _) => "user,id=wan".to_owned(),
        };
        command.option("-netdev", net);
        let mac = mac.map(|mac| format!(",mac={mac}")).unwrap_or_default();
        command.option("-device", format!("{},netdev={id},addr={address}{mac}", qemu.nic));
    }
    command.option("-device", "virtio-rng-pci");
    if let Some(watchdog) = &qemu.watchdog {
        command.option("-device", watchdog);
        command.option("-action", "watchdog=reset");
    }
    Ok(command.0)
}

/// `0000:00:03.0` is slot 3, function 0 of the first bus.
fn slot(port: &Port) -> Option<&str> {
    let Port::Pci(place) = port else { return None };
    place.strip_prefix("0000:00:")
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, argument: impl Into<OsString>) {
        self.0.push(argument.into());
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.add(name);
        self.add(value);
    }

    /// A file's name within an option; QEMU wants commas doubled.
    fn file(&mut self, name: &str, before: &str, path: &Path) {
        let path = path.to_string_lossy().replace(',', ",,");
        self.option(name, format!("{before}{path}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_is_measured_is_as_small_as_was_said_and_has_both_cables() {
        let boards = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../board"));
        let board = Board::from_folder(boards, "qemu-x86_64").unwrap();
        let file = Path::new("file");
        let guest = Guest { disk: file, variables: file, taps: None, macs: None, accel: "tcg" };
        let machine = Machine { sockets: Path::new("/s"), processors: 1, memory_mib: 512 };
        let words = |machine: Option<&Machine<'_>>| {
            let words = words(&board, &guest, machine).unwrap();
            words.join(" ".as_ref()).into_string().unwrap()
        };
        let measured = words(Some(&machine));
        for part in
            ["-m 512 ", "-smp 1 ", "path=/s/lan-guest,", "path=/s/lan-host ", "id=wan,local"]
        {
            assert!(measured.contains(part), "{part}: {measured}");
        }
        assert!(!measured.contains("user,"), "{measured}");
        assert!(words(None).contains("-smp 2 "));
    }
}
