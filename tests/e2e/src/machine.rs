//! The box as a machine: its disk image in QEMU, between the same two cables. What it does is seen at its
//! two ports alone, as in an office.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    daemon::Daemon,
    fleet::Fleet,
    netns::{Netns, run_command},
    plan::{BOX, BOX_MAC, DNS, DOMAIN, OFFICE},
};

/// MAC address of the port to the router.
const WAN_MAC: &str = "02:00:5e:00:53:02";
/// The tree that this program was built of, where the boards are.
const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A port of the lab's box, the one of the machine, and the cable between them.
const CABLES: [[&str; 3]; 2] =
    [["lan0", "lan-machine", "lan-cable"], ["wan0", "wan-machine", "wan-cable"]];

/// Flashes a disk with the image for this fleet's box, and switches the machine on.
pub(crate) fn switch_on(
    netns: &Netns,
    directory: &Path,
    logs: &Path,
    fleet: &Fleet,
    image: &Path,
) -> Result<Daemon> {
    netns.ip(&["link del br0"])?;
    for (number, [port, machine, cable]) in CABLES.into_iter().enumerate() {
        netns.ip(&[
            // The port's own address is the machine's from here on.
            &format!("link set {port} address 02:00:5e:00:54:0{number}"),
            &format!("tuntap add dev {machine} mode tap"),
            &format!("link add {cable} type bridge"),
            &format!("link set {port} master {cable}"),
            &format!("link set {machine} master {cable}"),
            &format!("link set {machine} up"),
            &format!("link set {cable} up"),
        ])?;
    }
    let scratch = directory.join("machine");
    fs::create_dir_all(&scratch)?;
    let program = fleet.program("avr-image")?;
    let mut flash = netns.command(&program);
    flash.args(["--tree", TREE, "flash", "--yes", "--no-secret"]);
    flash.arg("--image").arg(image).arg("--file").arg(scratch.join("disk.img"));
    flash.args(["--serial", "LAB-1", "--mac-lan", BOX_MAC, "--mac-wan", WAN_MAC]);
    flash.args(["--address", &format!("{BOX}/24,{OFFICE}"), "--dns", &DNS.to_string()]);
    flash.args(["--fleet", DOMAIN, &fleet.file("fleet-ca.pem"), &fleet.file("ticket.pub")]);
    flash.arg("--avr").arg(fleet.program("avr")?);
    run_command(&mut flash).context("flashing the machine's disk")?;

    let mut machine = netns.command(&program);
    machine.args(["--tree", TREE, "qemu", &board_of(image)?, "--keep"]);
    machine.arg("--image").arg(image).arg("--scratch").arg(&scratch);
    machine.args(["--tap", "lan-machine", "wan-machine", "--mac", BOX_MAC, WAN_MAC]);
    Daemon::start("machine", machine, logs)
}

/// `avr-BOARD-VERSION.img.zst`, as `scripts/build-image` names it.
fn board_of(image: &Path) -> Result<String> {
    let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let board = name
        .strip_prefix("avr-")
        .and_then(|rest| rest.strip_suffix(".img.zst"))
        .and_then(|rest| rest.rsplit_once('-'))
        .map(|(board, _version)| board.to_owned());
    board.with_context(|| format!("{name} is no image's name: avr-BOARD-VERSION.img.zst"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_its_board() {
        let board = board_of(Path::new("target/image/avr-qemu-x86_64-0.1.0.img.zst")).unwrap();
        assert_eq!(board, "qemu-x86_64");
        assert!(board_of(Path::new("disk.img")).is_err());
    }
}
