//! Flashing, onto files: what is on them afterwards, what becomes of cut power and of disks that forget.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::disk::Disk;
use image::ext4::{self, StateFile};
use image::fat::{FAT_BYTES_MIN, Fat};
use image::flash::medium::{Medium, Target};
use image::flash::{Guids, Release, Source, Unit, write};
use image::layout::{Kind, Layout, MIB, Partition};
use tempfile::TempDir;
use uuid::Uuid;

const EPOCH: u32 = 1_790_000_000;
/// As a small image would be flashed to, in bytes.
const DISK_BYTES: u64 = 300 * MIB;

#[test]
fn a_flashed_disk_is_whole_and_the_units_own() {
    let image = Image::new();
    let disk = image.file("disk.img");
    // Somebody else's disk before.
    fs::write(&disk, vec![0xa5; usize::try_from(DISK_BYTES).unwrap()]).unwrap();
    image.flash(&Target::file(&disk, DISK_BYTES).unwrap()).unwrap();

    let shown = tool("sgdisk", &["--verify"], &disk);
    assert!(shown.contains("No problems found"), "{shown}");
    let found = own(&disk).unwrap();
    let sizes: Vec<_> =
        found.partitions.iter().map(|it| (it.name.as_str(), it.bytes / MIB)).collect();
    // DATA goes to the end, but for the table's copy.
    assert_eq!(sizes, [("ESP", 70), ("SLOTS", 70), ("STATE", 16), ("DATA", 300 - 1 - 157)]);

    let state = image.part(&disk, "STATE");
    assert_eq!(debugfs(&state, "cat /config/secret"), "hash\n");
    tool("e2fsck", &["-f", "-n"], &state);
    tool("e2fsck", &["-f", "-n"], &image.part(&disk, "DATA"));
    // Nothing is left there of the box that the disk was in.
    let rest = &fs::read(&state).unwrap()[usize::try_from(ext4::TEMPLATE_BYTES).unwrap()..];
    assert!(rest.iter().all(|&byte| byte == 0));

    for (name, file) in [("ESP", "loader/loader.conf"), ("SLOTS", "EFI/Linux/avr_000001.efi")] {
        let part = image.part(&disk, name);
        tool("fsck.fat", &["-n"], &part);
        let bytes = fs::read(&part).unwrap();
        assert_eq!(Fat::from_bytes(&bytes).unwrap().read(file).unwrap(), image.large);
        let guid = found.partition(name).unwrap().guid.to_string();
        let number = u32::from_str_radix(&guid[..8], 16).unwrap();
        assert_eq!(bytes[67..71], number.to_le_bytes(), "{name}");
    }
}

#[test]
fn two_disks_of_one_image_share_no_identity() {
    let image = Image::new();
    let mut seen = BTreeSet::new();
    for name in ["one.img", "other.img"] {
        let disk = image.file(name);
        image.flash(&Target::file(&disk, DISK_BYTES).unwrap()).unwrap();
        let mut file = File::open(&disk).unwrap();
        let table = gptman::GPT::read_from(&mut file, 512).unwrap();
        assert!(seen.insert(table.header.disk_guid.to_vec()));
        for (_, entry) in table.iter().filter(|(_, entry)| entry.is_used()) {
            assert!(seen.insert(entry.unique_partition_guid.to_vec()));
        }
        for name in ["STATE", "DATA"] {
            let superblock = fs::read(image.part(&disk, name)).unwrap()[1024..2048].to_vec();
            assert!(seen.insert(superblock[0x68..0x78].to_vec()), "{name}");
        }
    }
    assert_eq!(seen.len(), 2 * (1 + 4 + 2));
}

#[test]
fn a_disk_that_forgets_a_bit_is_found() {
    let image = Image::new();
    let target = Target::file(&image.file("disk.img"), DISK_BYTES).unwrap();
    let at = |name: &str| image.layout.partition(name).unwrap().start;
    for place in [at("SLOTS") + 2 * MIB + 7, at("STATE") + 5 * MIB, at("DATA") + 1030] {
        let error = image.flash(&Forgetful { inner: &target, place }).unwrap_err().to_string();
        assert!(error.starts_with("the disk does not hold what was written"), "{place}: {error}");
        assert_eq!(own(&image.file("disk.img")), None, "a disk that is not good starts no box");
    }
    image.flash(&target).unwrap();
}

#[test]
fn cut_power_leaves_no_disk_or_a_whole_one_and_flashing_again_mends_it() {
    let image = Image::new();
    let disk = image.file("disk.img");
    let target = Target::file(&disk, DISK_BYTES).unwrap();
    image.flash(&target).unwrap();
    let former = own(&disk).unwrap();
    let guids = Guids::draw(4).unwrap();
    let (state, data) = image.file_systems(&guids);
    let counting = Cut::new(&target, usize::MAX, true);
    image.write(&counting, &guids, &state, &data).unwrap();
    let writes = counting.writes.get();
    // All of them would take minutes. The tables are the small writes at the end.
    let cuts: BTreeSet<usize> =
        (0..4).chain((4..writes).step_by(23)).chain(writes.saturating_sub(4)..writes).collect();
    let mut whole = 0;
    for &after in &cuts {
        for keeps in [true, false] {
            let cut = Cut::new(&target, after, keeps);
            image.write(&cut, &guids, &state, &data).unwrap_err();
            let Some(found) = own(&disk) else { continue };
            if after <= 1 && found == former {
                continue; // Nothing of the former box was touched but its first table.
            }
            whole += 1;
            let start = image.layout.partition("STATE").unwrap().start;
            let mut kept = vec![0; state.len()];
            target.read_at(&mut kept, start).unwrap();
            assert!(kept == state, "after {after} writes there is a table, and no STATE");
            let esp = fs::read(image.part(&disk, "ESP")).unwrap();
            assert_eq!(esp[67..71], guids.partitions[0].as_fields().0.to_le_bytes());
        }
        if after == 27 || after == writes - 3 {
            image.flash(&target).unwrap();
            assert!(tool("sgdisk", &["--verify"], &disk).contains("No problems found"));
        }
    }
    assert!(whole > 0, "no cut of {writes} fell between the two tables");
}

#[test]
fn what_is_damaged_is_not_written() {
    let image = Image::new();
    let release = || Release::open(&image.path).unwrap_err().to_string();
    let mut bytes = fs::read(&image.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&image.path, &bytes).unwrap();
    assert!(release().starts_with("small.img.zst is not what small.SHA256SUMS says"));
    bytes[middle] ^= 1;
    fs::write(&image.path, &bytes).unwrap();
    fs::write(image.file("small.bmap"), "").unwrap();
    assert!(release().starts_with("small.bmap is not what small.SHA256SUMS says"));
    fs::write(image.file("small.SHA256SUMS"), "").unwrap();
    assert!(release().starts_with("small.SHA256SUMS says nothing of small.bmap"));
    fs::remove_file(image.file("small.SHA256SUMS")).unwrap();
    assert!(release().contains("small.SHA256SUMS, which belongs beside the image"));
}

#[test]
fn an_image_that_is_not_its_maps_is_found_while_it_is_written() {
    let (image, other) = (Image::new(), Image::with(b"another system"));
    fs::copy(&other.path, &image.path).unwrap();
    let target = Target::file(&image.file("disk.img"), DISK_BYTES).unwrap();
    let error = image.flash(&target).unwrap_err().to_string();
    assert!(error.contains("is not what its map says"), "{error}");
    assert_eq!(own(&image.file("disk.img")), None);
}

#[test]
fn the_program_flashes_a_unit_from_its_file() {
    let image = Image::new();
    let disk = image.file("disk.img");
    fs::write(image.file("secret"), "correct horse\n").unwrap();
    fs::write(
        image.file("fleet-ca.pem"),
        "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let key = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n";
    fs::write(image.file("ticket.pub"), key).unwrap();
    let unit = "serial = \"AVR-7\"\nsecret_file = \"secret\"\n[mac]\nlan = \"02:00:5e:10:00:01\"\n\
                [fleet]\ndomain = \"avr.example.net\"\nca = \"fleet-ca.pem\"\nticket_key = \"ticket.pub\"\n";
    fs::write(image.file("unit.toml"), unit).unwrap();
    let arguments = [
        "--provision",
        image.file("unit.toml").to_str().unwrap(),
        "--note",
        "front desk",
        "--address",
        "192.0.2.7/24,192.0.2.1",
    ]
    .map(str::to_owned);
    let flash = |more: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(more.iter().map(|&it| it.to_owned()));
        image.program(&all)
    };

    let dry = flash(&["--dry-run", "--size", &DISK_BYTES.to_string()]);
    let said = String::from_utf8(dry.stdout).unwrap();
    assert!(dry.status.success() && !disk.exists(), "{said}");
    for line in [
        "02:00:5e:10:00:01,AVR-7,front desk",
        "address = \"192.0.2.7\"",
        "domain = \"avr.example.net\"",
        "nothing was written (--dry-run)",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(said.contains('█') && !said.contains("horse"), "{said}");

    let done = flash(&["--yes", "--size", &DISK_BYTES.to_string()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(tool("sgdisk", &["--verify"], &disk).contains("No problems found"));
    let state = image.part(&disk, "STATE");
    assert!(debugfs(&state, "cat /config/secret").starts_with("$argon2id$v=19$"));
    assert_eq!(debugfs(&state, "cat /config/serial"), "AVR-7\n");
    assert_eq!(debugfs(&state, "cat /config/fleet/ticket.pub"), key);
    assert!(debugfs(&state, "cat /config/network.toml").contains("gateway = \"192.0.2.1\""));
    let gateway = debugfs(&state, "cat /config/box.toml");
    assert!(gateway.contains("fleet_ca = \"/state/config/fleet/fleet-ca.pem\""), "{gateway}");

    // Again, and on the same file: without --yes its name has to be typed.
    let before = fs::read(&disk).unwrap();
    let refused = flash(&[]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("nothing was written"), "{said}");
    let small = flash(&["--yes", "--size", "4096"]);
    let said = String::from_utf8(small.stderr).unwrap();
    assert!(!small.status.success() && said.contains("4096 bytes do not do; say --size"), "{said}");
    assert!(fs::read(&disk).unwrap() == before, "it was written to");
}

#[test]
fn what_is_no_disk_is_not_flashed() {
    let image = Image::new();
    let device = |path: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_avr-image"));
        program.args(["flash", path, "--yes", "--no-secret", "--image"]).arg(&image.path);
        let output = program.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(device("/dev/null").contains("/dev/null is not a disk"));
    let file = image.path.to_str().unwrap();
    assert!(device(file).contains("is a file and not a disk; write --file"), "{}", device(file));
    assert!(device("/dev/none").contains("looking for /dev/none"));
}

/// A small image, published with what belongs beside it.
struct Image {
    folder: TempDir,
    path: PathBuf,
    layout: Layout,
    /// What its files are.
    large: Vec<u8>,
}

impl Image {
    fn new() -> Self {
        let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        Self::with(&large)
    }

    fn with(large: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut start = MIB;
        let mut partition = |name: &str, kind, bytes: u64| {
            let guid = Uuid::from_u128(start.into());
            let partition = Partition { name: name.to_owned(), kind, start, bytes, guid };
            start += bytes;
            partition
        };
        let partitions = vec![
            partition("ESP", Kind::Esp, FAT_BYTES_MIN),
            partition("SLOTS", Kind::Xbootldr, FAT_BYTES_MIN),
            partition("STATE", Kind::Linux, 16 * MIB),
            partition("DATA", Kind::Linux, 16 * MIB),
        ];
        let layout = Layout { disk_guid: Uuid::from_u128(1), partitions };
        let raw = folder.path().join("raw");
        let mut disk = Disk::create(&raw, &layout).expect("a disk");
        for (name, file) in [("ESP", "loader/loader.conf"), ("SLOTS", "EFI/Linux/avr_000001.efi")] {
            let mut fat = Fat::format(FAT_BYTES_MIN, name, 7).expect("a volume");
            fat.put(file, large).expect("room");
            // As the builder has it: without the zeros at the end.
            let mut bytes = fat.to_bytes().expect("a file");
            bytes.truncate(8 * 1024 * 1024);
            disk.put(name, &bytes).expect("room");
        }
        for name in ["STATE", "DATA"] {
            let template = ext4::template(name, Uuid::from_u128(2), EPOCH).expect("mke2fs");
            disk.put(name, &template).expect("room");
        }
        let map = disk.finish("small.img").expect("a map");
        let path = folder.path().join("small.img.zst");
        let packed = zstd::encode_all(File::open(&raw).expect("the disk"), 1).expect("zstd");
        fs::write(&path, packed).expect("room");
        fs::write(folder.path().join("small.bmap"), map).expect("room");
        let mut sums = String::new();
        for name in ["small.img.zst", "small.bmap"] {
            let sum = image::debian::sha256_of(&folder.path().join(name)).expect("a file");
            sums.push_str(&format!("{sum}  {name}\n"));
        }
        fs::write(folder.path().join("small.SHA256SUMS"), sums).expect("room");
        Self { folder, path, layout, large: large.to_vec() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file_systems(&self, guids: &Guids) -> (Vec<u8>, Vec<u8>) {
        let secret = StateFile { path: "config/secret".to_owned(), contents: "hash\n".to_owned() };
        let state = ext4::with_files("STATE", guids.partitions[2], EPOCH, &[secret]);
        let data = ext4::template("DATA", guids.partitions[3], EPOCH);
        (state.expect("mke2fs"), data.expect("mke2fs"))
    }

    fn flash(&self, medium: &dyn Medium) -> Result<(), image::ImageError> {
        let guids = Guids::draw(4)?;
        let (state, data) = self.file_systems(&guids);
        self.write(medium, &guids, &state, &data)
    }

    fn write(
        &self,
        medium: &dyn Medium,
        guids: &Guids,
        state: &[u8],
        data: &[u8],
    ) -> Result<(), image::ImageError> {
        let map = fs::read_to_string(self.file("small.bmap")).expect("a map");
        let map = image::flash::bmap::Map::parse(&map)?;
        let source = Source::open(&self.path, &map)?;
        let mut last = 0;
        let mut phase = None;
        write(medium, &source, &Unit { guids, state, data }, &mut |now, done, total| {
            let is_new = phase.replace(now) != Some(now);
            assert!((is_new || done >= last) && done <= total, "{now:?}: {done} of {total}");
            last = done;
        })?;
        assert!(last > 0, "nobody was told");
        Ok(())
    }

    /// A partition of a flashed disk, as a file of its own.
    fn part(&self, disk: &Path, name: &str) -> PathBuf {
        let partition = self.layout.partition(name).expect("one of ours");
        let mut file = File::open(disk).expect("a disk");
        file.seek(io::SeekFrom::Start(partition.start)).expect("a place");
        let path = self.file(&format!("{name}.part"));
        let mut part = File::create(&path).expect("room");
        io::copy(&mut file.take(partition.bytes), &mut part).expect("room");
        path
    }

    fn program(&self, arguments: &[String]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_avr-image"));
        program
            .arg("flash")
            .arg("--file")
            .arg(self.file("disk.img"))
            .arg("--image")
            .arg(&self.path);
        program.args(arguments).stdin(std::process::Stdio::null()).output().expect("the program")
    }
}

/// As PID 1 finds the box's own disk.
fn own(disk: &Path) -> Option<box_init::disk::Disk> {
    box_init::disk::Disk::read("vda", &mut File::open(disk).expect("a disk"), 512)
}

fn tool(name: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(name).args(arguments).arg(file).output().expect(name);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn debugfs(file: &Path, request: &str) -> String {
    tool("debugfs", &["-R", request], file)
}

/// Forgets one bit of what is written there.
struct Forgetful<'a> {
    inner: &'a Target,
    place: u64,
}

impl Medium for Forgetful<'_> {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.inner.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        if (at..at + bytes.len() as u64).contains(&self.place) {
            let index = usize::try_from(self.place - at).expect("within a chunk");
            bytes[index] ^= 0x10;
        }
        self.inner.write_at(&bytes, at)
    }

    fn settle(&self) -> io::Result<()> {
        self.inner.settle()
    }
}

/// Loses power after so many writes, and then either has all of them or none since it last settled.
struct Cut<'a> {
    inner: &'a Target,
    after: usize,
    keeps: bool,
    writes: Cell<usize>,
    waiting: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl<'a> Cut<'a> {
    fn new(inner: &'a Target, after: usize, keeps: bool) -> Self {
        Self { inner, after, keeps, writes: Cell::new(0), waiting: RefCell::default() }
    }

    fn apply(&self) -> io::Result<()> {
        self.waiting.take().into_iter().try_for_each(|(at, bytes)| self.inner.write_at(&bytes, at))
    }
}

impl Medium for Cut<'_> {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.inner.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.writes.get() == self.after {
            if self.keeps {
                self.apply()?;
            }
            return Err(io::Error::other("the power is gone"));
        }
        self.writes.set(self.writes.get() + 1);
        self.waiting.borrow_mut().push((at, bytes.to_vec()));
        Ok(())
    }

    fn settle(&self) -> io::Result<()> {
        self.apply()?;
        self.inner.settle()
    }
}
