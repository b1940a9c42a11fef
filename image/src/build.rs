//! From packages and programs to the files that are published.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use board::{Board, ModuleName, Slots};
use box_update::slots::{FOLDER, RECOVERY_FILE, Trust, file_name};
use serde::Serialize;
use tempfile::TempDir;

use crate::debian::{Cache, Files, Lock, Wanted, efi_name, fill, sha256, sha256_of};
use crate::disk::Disk;
use crate::error::Step as _;
use crate::fat::Fat;
use crate::layout::Layout;
use crate::modules::Modules;
use crate::system::{check_program, cmdline, only_one, os_release, put_base};
use crate::uki::Parts;
use crate::{ImageError, Signing, Tree, bundle, ext4, sbom, uki};

/// How hard zstd tries. At this level it looks 32 MiB back, which finds in each program what the others
/// have of Rust's library too. More gains little, and costs the box memory when it unpacks.
pub const LEVEL: i32 = 20;

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Options {
    /// Root of the source tree.
    pub tree: PathBuf,
    /// Which board.
    pub board: String,
    /// Programs, and their paths in the image.
    pub programs: Vec<(PathBuf, String)>,
    /// Other files, and their paths in the image.
    pub files: Vec<(PathBuf, String)>,
    /// The workspace's crates that the programs come from, for the list of what is in them.
    pub crates: Vec<String>,
    /// What it is called.
    pub release: Release,
    /// Where Debian's packages are kept.
    pub cache: PathBuf,
    /// Where the files go.
    pub output: PathBuf,
    /// How hard zstd tries: [`LEVEL`], or less for tests.
    pub level: i32,
    /// Who signs the update; `None`: there is no update bundle.
    pub sign: Option<Signing>,
}

/// What an image is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// For people, as in `0.2.0`.
    pub version: String,
    /// For programs: a later one has a larger number.
    pub build: u32,
    /// The commit it is of.
    pub commit: String,
    /// That commit's time, and every time in the image; in Unix seconds.
    pub epoch: u32,
}

#[derive(Serialize)]
struct ReleaseFile<'a> {
    product: &'static str,
    version: &'a str,
    build: u32,
    board: &'a str,
    arch: &'static str,
    built_at: u32,
    commit: &'a str,
    sbom_sha256: &'a str,
}

impl Release {
    /// `/etc/avr/release.toml`.
    pub(crate) fn to_toml(&self, board: &Board, sbom_sha256: &str) -> String {
        let file = ReleaseFile {
            product: "avr",
            version: &self.version,
            build: self.build,
            board: &board.id,
            arch: board.arch.name(),
            built_at: self.epoch,
            commit: &self.commit,
            sbom_sha256,
        };
        toml::to_string(&file).expect("texts and numbers are TOML")
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The disk, compressed.
    pub image: PathBuf,
    /// Which of its blocks have to be written.
    pub bmap: PathBuf,
    /// The system alone, as an update brings it.
    pub uki: PathBuf,
    /// The same, signed, as a box takes it.
    pub update: Option<PathBuf>,
    /// What is in it.
    pub sbom: PathBuf,
    /// SHA-256 of these.
    pub sums: PathBuf,
    /// Sizes, for whoever watches them.
    pub figures: Figures,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// The kernel.
    pub kernel: usize,
    /// How many modules.
    pub modules: usize,
    /// The root, unpacked.
    pub root: usize,
    /// The root as it is in the UKI.
    pub initrd: usize,
    /// The UKI.
    pub uki: usize,
    /// The compressed image.
    pub image: u64,
}

/// Builds a board's image.
///
/// # Errors
/// What is missing or wrong, and what to do.
pub fn build(options: &Options) -> Result<Built, ImageError> {
    let sources = Sources::load(options)?;
    let components = sources.components(options)?;
    let sbom = sbom::to_json(&sources.board, &options.release, &components);
    let system = sources.system(options, &sha256(sbom.as_bytes()))?;
    write(options, &sources, &system, &sbom)
}

/// What the tree and Debian have.
struct Sources {
    board: Board,
    layout: Layout,
    wanted: Wanted,
    lock: Lock,
    kernel: Files,
    loader: Files,
    root: Vec<(String, Vec<u8>)>,
}

/// The system and its recovery twin, and the file systems that both can make anew.
struct System {
    main: Vec<u8>,
    recovery: Vec<u8>,
    state: Vec<u8>,
    data: Vec<u8>,
    figures: Figures,
}

impl Sources {
    fn load(options: &Options) -> Result<Self, ImageError> {
        let image = options.tree.join("image");
        let board = Board::from_folder(&options.tree.join("board"), &options.board)?;
        let layout = Layout::load(&image.join("layout.toml"), board.boot.slots)?;
        let wanted = Wanted::load(&image.join("packages.toml"))?;
        let lock = Lock::load(&image.join("debian.lock"))?;
        let cache = Cache::new(&options.cache);
        let files = |package: &str, below: &[&str]| {
            let package = lock.package(package, board.arch)?;
            cache.files(&lock, package, below)
        };
        let kernel = files(&wanted.kernel.package, &["boot/vmlinuz-", "lib/modules/", "usr/lib/"])?;
        let loader = files(&wanted.loader.package, &["usr/lib/systemd/boot/efi/"])?;
        let mut root = Vec::new();
        for file in &wanted.root {
            let found = files(&file.package, &[&file.from])?;
            root.push((file.to.clone(), only_one(&found, &file.from)?.to_vec()));
        }
        Ok(Self { board, layout, wanted, lock, kernel, loader, root })
    }

    fn components(&self, options: &Options) -> Result<Vec<sbom::Component>, ImageError> {
        let arch = self.board.arch;
        let mut components = sbom::of_crates(&options.tree, &options.crates, arch)?;
        for wanted in self.wanted.packages(arch) {
            components.push(sbom::of_debian(self.lock.package(&wanted, arch)?));
        }
        Ok(components)
    }

    fn loader_file(&self, path: &str) -> Result<&[u8], ImageError> {
        only_one(&self.loader, &fill(path, self.board.arch))
    }

    fn system(&self, options: &Options, sbom_sha256: &str) -> Result<System, ImageError> {
        let Self { board, layout, .. } = self;
        let release = &options.release;
        let modules = Modules::of_package(&self.kernel)?;
        check_modules(options, board, &modules)?;
        let names = board.modules.load.iter().chain(&board.modules.include);
        let selection = modules.select(names.chain([&board.watchdog.module]))?;
        let template = |name: &str| {
            let partition = layout.partition(name).expect("the layout was checked to have it");
            ext4::template(name, partition.guid, release.epoch)
        };
        let (state, data) = (template("STATE")?, template("DATA")?);

        let mut root = Tree::new();
        for (path, bytes) in &self.root {
            root.put_program(path, bytes.clone())?;
        }
        for (from, to) in &options.programs {
            let bytes =
                fs::read(from).step(|| format!("reading the program {}", from.display()))?;
            check_program(to, &bytes, board.arch)?;
            root.put_program(to, bytes)?;
        }
        for (from, to) in &options.files {
            let bytes = fs::read(from).step(|| format!("reading {}", from.display()))?;
            root.put_file(to, bytes)?;
        }
        selection.put_into(&mut root)?;
        for (name, bytes) in [("state", &state), ("data", &data)] {
            let path = format!("usr/share/avr/{name}.ext4.zst");
            root.put_file(&path, compressed(bytes, options.level)?)?;
        }
        put_base(&mut root, board, release, sbom_sha256)?;

        let root = root.to_cpio(release.epoch)?;
        let initrd = compressed(&root, options.level)?;
        let linux = only_one(&self.kernel, "boot/vmlinuz-")?;
        let dtb =
            board.boot.dtb.as_deref().map(|path| self.device_tree(&modules, path)).transpose()?;
        let stub = self.loader_file(&self.wanted.loader.stub)?;
        let make = |recovery: bool| {
            let os_release = os_release(board, release, recovery);
            let cmdline = cmdline(board, recovery);
            let parts =
                Parts { os_release: &os_release, cmdline: &cmdline, linux, initrd: &initrd, dtb };
            uki::build(board.arch, stub, &parts)
        };
        let (main, recovery) = (make(false)?, make(true)?);
        let figures = Figures {
            kernel: linux.len(),
            modules: selection.len(),
            root: root.len(),
            initrd: initrd.len(),
            uki: main.len(),
            image: 0,
        };
        Ok(System { main, recovery, state, data, figures })
    }

    fn device_tree(&self, modules: &Modules, path: &str) -> Result<&[u8], ImageError> {
        let path = format!("usr/lib/linux-image-{}/{path}", modules.release());
        self.kernel.get(&path).map(Vec::as_slice).ok_or_else(|| {
            ImageError::Wrong(format!("the kernel's package has no {path}; look at `boot.dtb`"))
        })
    }
}

/// A board's module that the kernel does not have is a mistake in the board's file.
fn check_modules(options: &Options, board: &Board, modules: &Modules) -> Result<(), ImageError> {
    let watchdog = [&board.watchdog.module];
    let all = board.modules.load.iter().chain(&board.modules.include).chain(watchdog);
    let unknown: Option<&ModuleName> = all.into_iter().find(|name| !modules.knows(name));
    match unknown {
        None => Ok(()),
        Some(name) => Err(ImageError::Settings(Board::blame_module(
            &options.tree.join("board"),
            &board.id,
            name,
            &format!("Linux {} has no module of that name", modules.release()),
        ))),
    }
}

/// The ESP and, where it has a partition of its own, the other FAT file system.
fn fat_partitions(
    options: &Options,
    sources: &Sources,
    system: &System,
) -> Result<Vec<(&'static str, Vec<u8>)>, ImageError> {
    let layout = &sources.layout;
    let format = |name: &str| {
        let partition = layout.partition(name).expect("the layout was checked to have it");
        Fat::format(partition.bytes, name, partition.volume_id())
    };
    let slot = format!("{FOLDER}/{}", file_name(options.release.build, Trust::Good));
    let mut esp = format("ESP")?;
    let loader = sources.loader_file(&sources.wanted.loader.loader)?;
    let boot_name = efi_name(sources.board.arch).to_uppercase();
    esp.put(&format!("EFI/BOOT/BOOT{boot_name}.EFI"), loader)?;
    for (name, path) in [("loader.conf", "loader/loader.conf"), ("startup.nsh", "startup.nsh")] {
        let from = options.tree.join("image/loader").join(name);
        let bytes = fs::read(&from).step(|| format!("reading {}", from.display()))?;
        esp.put(path, &bytes)?;
    }
    esp.put(&format!("{FOLDER}/{RECOVERY_FILE}"), &system.recovery)?;
    if sources.board.boot.slots == Slots::Esp {
        esp.put(&slot, &system.main)?;
        return Ok(vec![("ESP", esp.to_bytes()?)]);
    }
    let mut slots = format("SLOTS")?;
    slots.put(&slot, &system.main)?;
    Ok(vec![("ESP", esp.to_bytes()?), ("SLOTS", slots.to_bytes()?)])
}

fn write(
    options: &Options,
    sources: &Sources,
    system: &System,
    sbom: &str,
) -> Result<Built, ImageError> {
    let Options { output, release, .. } = options;
    fs::create_dir_all(output).step(|| format!("making the folder {}", output.display()))?;
    let stem = format!("avr-{}-{}", options.board, release.version);
    let at = |ending: &str| output.join(format!("{stem}{ending}"));
    let folder = TempDir::new_in(output).step(|| "making a temporary folder".to_owned())?;
    let raw = folder.path().join("disk.img");
    let mut disk = Disk::create(&raw, &sources.layout)?;
    for (name, bytes) in fat_partitions(options, sources, system)? {
        disk.put(name, without_end(&bytes))?;
    }
    disk.put("STATE", &system.state)?;
    disk.put("DATA", &system.data)?;
    let map = disk.finish(&format!("{stem}.img"))?;

    let mut built = Built {
        image: at(".img.zst"),
        bmap: at(".bmap"),
        uki: at(".efi"),
        update: options.sign.as_ref().map(|_| at(".update.tar")),
        sbom: at(".cdx.json"),
        sums: output.join(format!("{stem}.SHA256SUMS")),
        figures: system.figures,
    };
    compress(&raw, &built.image, options.level)?;
    for (path, bytes) in
        [(&built.bmap, map.as_bytes()), (&built.uki, &system.main), (&built.sbom, sbom.as_bytes())]
    {
        fs::write(path, bytes).step(|| format!("writing {}", path.display()))?;
    }
    if let (Some(sign), Some(path)) = (&options.sign, &built.update) {
        let manifest = bundle::manifest(&sources.board, release, &system.main, sign)?;
        bundle::write(&manifest, &system.main, sign, folder.path(), path)?;
    }
    let mut sums = String::new();
    let files = [&built.image, &built.bmap, &built.uki, &built.sbom];
    for path in files.into_iter().chain(&built.update) {
        let name = path.file_name().unwrap_or_default().display();
        sums.push_str(&format!("{}  {name}\n", sha256_of(path)?));
    }
    fs::write(&built.sums, sums).step(|| format!("writing {}", built.sums.display()))?;
    let about = fs::metadata(&built.image).step(|| "looking at the image".to_owned())?;
    built.figures.image = about.len();
    Ok(built)
}

/// Without the zeros at the end, which a volume's unused part is.
fn without_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

fn compressed(bytes: &[u8], level: i32) -> Result<Vec<u8>, ImageError> {
    zstd::bulk::compress(bytes, level).step(|| "compressing".to_owned())
}

/// One thread: with more, the bytes would depend on how many.
fn compress(from: &Path, to: &Path, level: i32) -> Result<(), ImageError> {
    let step = || format!("compressing to {}", to.display());
    let mut source = File::open(from).step(step)?;
    let bytes = source.metadata().step(step)?.len();
    let mut encoder = zstd::Encoder::new(File::create(to).step(step)?, level).step(step)?;
    encoder.include_checksum(true).step(step)?;
    encoder.set_pledged_src_size(Some(bytes)).step(step)?;
    io::copy(&mut source, &mut encoder).step(step)?;
    encoder.finish().step(step)?.sync_all().step(step)
}
