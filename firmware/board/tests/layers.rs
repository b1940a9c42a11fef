//! Boards as their folders have them, and what is said about those that are wrong.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

use std::fs;
use std::path::{Path, PathBuf};

use board::{Arch, Board, Counting, FILE, ModuleName, Port, Slots};
use tempfile::TempDir;

const COMMON: &str = r#"
[boot]
firmware = "uefi"
slots = "xbootldr"
counting = "loader"
cmdline = ["quiet"]
[console]
ttys = ["ttyS0"]
baud = 115200
[bypass]
kind = "none"
[watchdog]
module = "softdog"
seconds = 60
[rtc]
present = true
[modules]
load = ["ext4", "bridge"]
include = ["ahci"]
"#;

const OWN: &str = r#"id = "desk"
name = "a box on the desk"
arch = "aarch64"
match = ["of:maker,desk"]
[ports]
lan = "platform:fe300000.ethernet"
wan = "pci:0000:01:00.0"
"#;

/// A folder with common's file and that of `desk`.
struct Boards(TempDir);

impl Boards {
    fn new(common: &str, own: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [("common", common), ("desk", own)] {
            fs::create_dir(folder.path().join(name)).expect("a folder in it");
            fs::write(folder.path().join(name).join(FILE), text).expect("a file in it");
        }
        Self(folder)
    }

    fn read(&self) -> Result<Board, board::ConfigError> {
        Board::from_folder(self.0.path(), "desk")
    }

    /// What is said, without the folder's name.
    fn complaint(&self) -> String {
        let text = self.read().expect_err("a complaint").to_string();
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn complaint_of(own: &str) -> String {
    Boards::new(COMMON, own).complaint()
}

#[test]
fn the_boards_own_file_wins_and_lists_are_of_both() {
    let own = format!(
        "{OWN}[boot]\ncounting = \"userspace\"\ncmdline = [\"x\"]\n[watchdog]\nseconds = 20\n\
         [modules]\nload = [\"tun\", \"ext4\"]\ninclude = [\"dwmac-rk\"]\n"
    );
    let board = Boards::new(COMMON, &own).read().unwrap();
    assert_eq!((board.id.as_str(), board.arch), ("desk", Arch::Aarch64));
    assert_eq!((board.boot.counting, board.boot.slots), (Counting::Userspace, Slots::Xbootldr));
    assert_eq!(board.boot.cmdline, ["quiet", "x"]);
    assert_eq!((board.watchdog.module.as_str(), board.watchdog.seconds), ("softdog", 20));
    let names: Vec<&str> = board.modules.load.iter().map(ModuleName::as_str).collect();
    assert_eq!(names, ["ext4", "bridge", "tun"]);
    assert_eq!(board.modules.include[1].as_str(), "dwmac_rk");
    assert_eq!(board.ports.wan, Port::Pci("0000:01:00.0".to_owned()));
    assert!(board.qemu.is_none());
}

#[test]
fn the_whole_board_is_read_back_as_it_was() {
    let qemu =
        "[qemu]\nmachine = \"virt\"\ncpu = \"max\"\nmemory_mib = 512\ndisk = \"d\"\nnic = \"n\"\n";
    let boards = Boards::new(COMMON, &format!("{OWN}{qemu}"));
    let board = boards.read().unwrap();
    let whole = boards.0.path().join("whole.toml");
    fs::write(&whole, board.to_toml()).unwrap();
    assert_eq!(Board::load(&whole).unwrap(), board);
}

#[test]
fn what_is_wrong_is_said_with_file_line_and_remedy() {
    let cases = [
        (
            OWN.replace("arch =", "arhc ="),
            "desk/board.toml:3: unknown key `arhc`; write `arch` instead (keys here: id, name, arch, \
             match, boot, console, ports, bypass, watchdog, rtc, modules, qemu)",
        ),
        (
            OWN.replace("aarch64", "arm64"),
            "desk/board.toml:3: `arch`: unknown value \"arm64\"; write \"aarch64\" instead \
             (possible: \"x86_64\", \"aarch64\")",
        ),
        (
            OWN.replace("\"pci:0000:01:00.0\"", "\"eth1\""),
            "desk/board.toml:7: `ports.wan`: invalid value: string \"eth1\"; write where the port \
             is, as in \"pci:0000:01:00.0\", \"platform:fe300000.ethernet\" or \"nth:1\" instead",
        ),
        (
            OWN.replace("\"pci:0000:01:00.0\"", "\"platform:fe300000.ethernet\""),
            "desk/board.toml:7: `ports.wan`: is the same port as `lan`; write the router's port \
             instead",
        ),
        (
            OWN.replace("\"pci:0000:01:00.0\"", "\"nth:1\""),
            "desk/board.toml:7: `ports`: one port is counted, the other has a place: they could be \
             the same; write both as \"nth:…\", or both by their places",
        ),
        (
            OWN.replace("wan =", "#"),
            "desk/board.toml:5: `wan` is missing in [ports]; write `wan = …` there",
        ),
        (
            OWN.replace("\"desk\"", "\"chair\""),
            "desk/board.toml:1: `id`: \"chair\" is not the name of its folder; write \"desk\" \
             instead, or rename the folder",
        ),
        (
            OWN.replace("\"desk\"", "\"../desk\""),
            "desk/board.toml:1: `id`: \"../desk\" cannot be part of a file's name; write at most 40 \
             lower-case letters, digits, - and _ instead",
        ),
        (
            format!("{OWN}[boot]\ncmdline = [\n\"a\",\n\"b c\"]\n"),
            "desk/board.toml:11: `boot.cmdline`: \"b c\" is not one word; write each word as a text \
             of its own instead",
        ),
        (
            format!("{OWN}[boot]\ncmdline = [\"console=ttyS0\"]\n"),
            "desk/board.toml:9: `boot.cmdline`: \"console=ttyS0\" is a console; write it in \
             [console] instead",
        ),
        (
            format!("{OWN}[boot]\ndtb = \"../x.dtb\"\n"),
            "desk/board.toml:9: `boot.dtb`: \"../x.dtb\" is no device tree; write its name in the \
             kernel's package instead, as in \"rockchip/rk3399-x.dtb\"",
        ),
        (
            format!("{OWN}[boot]\nfirmware = \"u-boot\"\nslots = \"xbootldr\"\n"),
            "desk/board.toml:10: `boot.slots`: U-Boot does not find a partition of the slots' own; \
             write \"esp\" instead",
        ),
        (
            format!("{OWN}[console]\nttys = []\n"),
            "desk/board.toml:9: `console.ttys`: a box without a console cannot be helped; write at \
             least one terminal, as in [\"ttyS0\"]",
        ),
        (
            format!("{OWN}[console]\nbaud = 115201\n"),
            "desk/board.toml:9: `console.baud`: invalid value: integer `115201`; write one of 9600, \
             19200, 38400, 57600, 115200, 921600, 1500000 instead",
        ),
        (
            format!("{OWN}[watchdog]\nseconds = 1\n"),
            "desk/board.toml:9: `watchdog.seconds`: invalid value: integer `1`; write a whole number \
             from 10 to 300 instead",
        ),
        (
            format!("{OWN}[modules]\nload = [\"a.ko\"]\n"),
            "desk/board.toml:9: `modules.load`: invalid value: string \"a.ko\"; write the name of a \
             kernel module, as in \"igc\" instead",
        ),
        (
            format!("{OWN}[qemu]\nmachine = \"virt\"\n"),
            "desk/board.toml:8: `cpu` is missing in [qemu]; write `cpu = …` there",
        ),
    ];
    for (own, expected) in cases {
        assert_eq!(complaint_of(&own), expected, "{own}");
    }
}

#[test]
fn mistakes_in_commons_file_are_blamed_on_it() {
    let boards = Boards::new(&COMMON.replace("softdog", "soft dog"), OWN);
    assert_eq!(
        boards.complaint(),
        "common/board.toml:13: `watchdog.module`: invalid value: string \"soft dog\"; write the \
         name of a kernel module, as in \"igc\" instead"
    );
}

#[test]
fn a_module_is_blamed_where_it_stands() {
    let own = format!("{OWN}[watchdog]\nmodule = \"dog\"\n[modules]\nload = [\n\"a\",\n\"b-c\"]\n");
    let boards = Boards::new(COMMON, &own);
    for (name, place) in [("b_c", "desk/board.toml:13"), ("dog", "desk/board.toml:9")] {
        let module = ModuleName::parse(name).unwrap();
        let error = Board::blame_module(boards.0.path(), "desk", &module, "none").to_string();
        assert!(error.contains(&format!("{place}: module \"{name}\": none; write")), "{error}");
    }
    let module = ModuleName::parse("ahci").unwrap();
    let error = Board::blame_module(boards.0.path(), "desk", &module, "none").to_string();
    assert!(error.contains("common/board.toml:19: module"), "{error}");
}

#[test]
fn a_board_that_is_not_there_is_missed_by_name() {
    let boards = Boards::new(COMMON, OWN);
    let error = Board::from_folder(boards.0.path(), "chair").unwrap_err().to_string();
    assert!(error.contains("chair/board.toml: there is no such file"), "{error}");
    let error = Board::from_folder(Path::new("/nowhere"), "desk").unwrap_err().to_string();
    assert!(error.contains("/nowhere/common/board.toml: there is no such file"), "{error}");
}

#[test]
fn every_board_of_the_tree_is_right() {
    let boards = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../board");
    let mut seen = 0;
    for entry in fs::read_dir(&boards).unwrap() {
        let entry = entry.unwrap();
        let id = entry.file_name().into_string().unwrap();
        if !entry.file_type().unwrap().is_dir() || id == board::COMMON {
            continue;
        }
        let board = Board::from_folder(&boards, &id).unwrap_or_else(|error| panic!("{error}"));
        assert!(entry.path().join("README.md").exists(), "{id} has no README.md");
        assert_eq!(board.qemu.is_some(), id.starts_with("qemu-"), "{id}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen} boards in {}", boards.display());
}
