//! Images in QEMU, from firmware to PID 1: one that is good, one whose new system never is, and one
//! whose systems are gone.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use board::Board;
use box_update::slots::{Trust, file_name};
use image::ext4::{self, StateFile};
use image::fat::Fat;
use image::flash::medium::Target;
use image::flash::{Guids, Release, Source, Unit, write};
use image::layout::{Layout, MIB};
use image::{qemu, system, uki};
use tempfile::TempDir;

/// Longest that all boots of one test may take, in seconds: some ten each where nothing else runs.
const GUEST_SECONDS_MAX: u32 = 240;
/// The disk that an image is flashed to.
const DISK_BYTES: u64 = 2048 * MIB;
/// Some time, in Unix seconds.
const EPOCH: u32 = 1_790_000_000;
/// What the unit is flashed with.
const SERIAL: &str = "AVR-0007";
const OLD: u32 = 1;
const NEW: u32 = 2;

#[test]
fn an_image_boots_and_falls_back_on_x86_64() {
    boots_and_falls_back("qemu-x86_64");
}

#[test]
fn an_image_boots_and_falls_back_on_aarch64() {
    boots_and_falls_back("qemu-aarch64");
}

fn boots_and_falls_back(board: &str) {
    let guest = Guest::new(board);

    // A good system, and a new one that has three tries and switches on again in each.
    let new = guest.uki.clone();
    let old = older(&new);
    let good = file_name(OLD, Trust::Good);
    let trial = file_name(NEW, Trust::Trial { left: 3, done: 0 });
    guest.change_slots(|slots| {
        slots.put(&format!("EFI/Linux/{good}"), &old).expect("room for the old system");
        let new = format!("EFI/Linux/{}", file_name(NEW, Trust::Good));
        slots.rename(&new, &format!("EFI/Linux/{trial}")).expect("a new system");
    });
    let said = guest.run();
    assert_eq!(
        said.all("count"),
        [
            r"\EFI\Linux\avr_000002+2-1.efi",
            r"\EFI\Linux\avr_000002+1-2.efi",
            r"\EFI\Linux\avr_000002+0-3.efi",
            ""
        ],
        "{said:?}"
    );
    assert_eq!(said.all("entry").last().map(String::as_str), Some("avr_000001.efi"), "{said:?}");
    let slots = guest.change_slots(|slots| slots.list("EFI/Linux").expect("a folder"));
    assert_eq!(slots, ["avr_000001.efi", "avr_000002+0-3.efi"]);

    // What was booted is what the board asks for.
    assert_eq!(said.all("no"), Vec::<String>::new(), "{said:?}");
    let board = &guest.board;
    let expected = system::cmdline(board, false);
    assert!(said.all("cmdline").iter().all(|line| *line == expected), "{said:?}");
    for port in [&board.ports.lan, &board.ports.wan] {
        let place = port.to_string().replacen("pci:", "", 1);
        assert!(said.all("port").contains(&place), "{place}: {said:?}");
    }
    for partition in ["1 vfat zz-recovery.efi", "3 ext4", "4 ext4"] {
        assert!(
            said.all("partition").iter().any(|line| line == partition),
            "{partition}: {said:?}"
        );
    }
    // And it is the unit that was flashed, with a DATA that fills its disk.
    assert!(said.all("serial").iter().all(|serial| serial == SERIAL), "{said:?}");
    assert_eq!(said.all("serial").len(), 4, "{said:?}");
    let sectors = said.all("data").last().and_then(|line| line.parse::<u64>().ok());
    let expected = DISK_BYTES - MIB - guest.layout.partition("DATA").expect("DATA").start;
    assert_eq!(sectors, Some(expected / 512), "{said:?}");
    assert!(said.all("watchdog").iter().any(|line| line.contains("6300ESB")), "{said:?}");
    assert_eq!(said.all("bridge").len(), 4, "{said:?}");
    assert!(said.all("e2fsck").iter().all(|line| line.starts_with("1.47")), "{said:?}");

    // Without any system in its slots the box starts its recovery.
    guest.change_slots(|slots| *slots = Fat::from_bytes(&[0; 1 << 20]).expect("a file"));
    let said = guest.run();
    assert_eq!(said.all("cmdline"), [system::cmdline(board, true)], "{said:?}");
    assert_eq!(said.all("entry"), ["zz-recovery.efi"], "{said:?}");
}

/// The same system with the name of an older build.
fn older(new: &[u8]) -> Vec<u8> {
    let (wrong, right) = (format!("IMAGE_VERSION={NEW}\n"), format!("IMAGE_VERSION={OLD}\n"));
    let section = uki::section(new, ".osrel").expect("a UKI has a name");
    let at = section.as_ptr().addr() - new.as_ptr().addr();
    let name = String::from_utf8(section.to_vec()).expect("it is text");
    let renamed = name.replace(&wrong, &right);
    assert_ne!(renamed, name);
    let mut old = new.to_vec();
    old[at..at + renamed.len()].copy_from_slice(renamed.as_bytes());
    old
}

/// An image that has been built, and the guest that starts from it.
struct Guest {
    folder: TempDir,
    board: Board,
    layout: Layout,
    uki: Vec<u8>,
}

/// Lines of the test's PID 1.
#[derive(Debug)]
struct Said(Vec<String>);

impl Said {
    /// What follows that word, in order.
    fn all(&self, word: &str) -> Vec<String> {
        let found = self.0.iter().filter_map(|line| {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            (first == word).then(|| rest.to_owned())
        });
        found.collect()
    }
}

impl Guest {
    fn new(id: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = common::tree();
        let board = Board::from_folder(&tree.join("board"), id).expect("a board");
        let layout = Layout::load(&tree.join("image/layout.toml"), board.boot.slots);
        let built = image::build(&common::options(id, NEW, folder.path()))
            .unwrap_or_else(|error| panic!("{error:?}"));
        let this = Self {
            uki: fs::read(&built.uki).expect("a UKI"),
            layout: layout.expect("a layout"),
            board,
            folder,
        };
        this.flash(&built.image).unwrap_or_else(|error| panic!("{error:?}"));
        let fresh = qemu::efi(this.board.arch).variables;
        fs::copy(fresh, this.variables()).expect("the firmware of Debian's package");
        this
    }

    /// As a person puts it onto a disk.
    fn flash(&self, image: &Path) -> Result<(), image::ImageError> {
        let release = Release::open(image)?;
        let source = Source::open(image, &release.map)?;
        let guids = Guids::draw(source.partitions.len())?;
        let guid = |name: &str| guids.partitions[source.index(name)];
        let serial =
            StateFile { path: "config/serial".to_owned(), contents: format!("{SERIAL}\n") };
        let state = ext4::with_files("STATE", guid("STATE"), EPOCH, &[serial])?;
        let data = ext4::template("DATA", guid("DATA"), EPOCH)?;
        let disk = Target::file(&self.disk(), DISK_BYTES).expect("a disk");
        let unit = Unit { guids: &guids, state: &state, data: &data };
        write(&disk, &source, &unit, &mut |_, _, _| {})
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn variables(&self) -> PathBuf {
        self.folder.path().join("variables.fd")
    }

    /// Changes the partition of the slots, or looks at it.
    fn change_slots<T>(&self, change: impl FnOnce(&mut Fat) -> T) -> T {
        let slots = self.layout.partition("SLOTS").expect("slots");
        let disk = File::options().read(true).write(true).open(self.disk()).expect("a disk");
        let mut bytes = vec![0; usize::try_from(slots.bytes).expect("a small partition")];
        disk.read_exact_at(&mut bytes, slots.start).expect("to be read");
        let mut fat = Fat::from_bytes(&bytes).expect("a file");
        let result = change(&mut fat);
        disk.write_all_at(&fat.to_bytes().expect("a file"), slots.start).expect("to be written");
        result
    }

    /// Runs the guest until it switches off.
    fn run(&self) -> Said {
        let (disk, variables) = (self.disk(), self.variables());
        let guest = qemu::Guest {
            disk: &disk,
            variables: &variables,
            taps: None,
            macs: None,
            accel: "tcg",
        };
        let words = qemu::command(&self.board, &guest).expect("a board for QEMU");
        // Whatever the guest does, it ends; and the serial port's output is all there is of it.
        let output = Command::new("timeout")
            .arg(GUEST_SECONDS_MAX.to_string())
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("QEMU");
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(
            output.status.success() && text.contains("TEST done"),
            "{}\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = text.lines().filter_map(|line| line.split_once("TEST ").map(|(_, rest)| rest));
        Said(lines.map(|line| line.trim_end().to_owned()).collect())
    }
}
