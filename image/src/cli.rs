//! The command line of `avr-image`.

mod flash;
mod measure;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use board::Board;
use box_update::rollout::{INDEX_FILE, Offer};
use clap::{Args, Parser, Subcommand};
use image::debian::Wanted;
use image::{LEVEL, Options, Release, Signing, build, index, qemu, update};

/// Builds the box's disk images.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    /// Root of the source tree.
    #[arg(long, default_value = ".", global = true)]
    tree: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Builds a board's image.
    Build(BuildArgs),
    /// Writes an image to a disk, as one unit of a fleet.
    Flash(Box<flash::FlashArgs>),
    /// Writes image/debian.lock anew, with the newest versions.
    Lock {
        /// The present time, as in 20261126T160000Z.
        #[arg(long)]
        snapshot: String,
        /// Folder for apt's lists.
        #[arg(long, default_value = "target/debian/apt")]
        lists: PathBuf,
    },
    /// How long an image takes to start in QEMU, as seen at its two ports.
    Measure(measure::MeasureArgs),
    /// Writes and signs the index of updates of a folder, which any web server can serve to a fleet.
    Index {
        /// The folder, with the bundles in it.
        folder: PathBuf,
        /// A bundle of the folder, and the percentage of its boards' boxes that take it by themselves.
        #[arg(long = "offer", value_name = "FILE=PERCENT", value_parser = share)]
        offers: Vec<(String, u8)>,
        /// Secret key of minisign, of the pair that signs bundles.
        #[arg(long, value_name = "SECRET_KEY_FILE")]
        sign: PathBuf,
    },
    /// Starts an image in QEMU; Ctrl-A X ends it.
    Qemu {
        /// Which board.
        board: String,
        /// The image, as `build` made it.
        #[arg(long)]
        image: PathBuf,
        /// Folder for the disk and the firmware's variables, which the guest writes to.
        #[arg(long)]
        scratch: PathBuf,
        /// Interfaces of this machine for the two ports.
        #[arg(long, num_args = 2, value_names = ["LAN", "WAN"])]
        tap: Vec<String>,
        /// MAC addresses of the two ports.
        #[arg(long, num_args = 2, value_names = ["LAN", "WAN"])]
        mac: Vec<String>,
        /// Goes on with disk and variables as they were left, or as `flash --file` has made the disk.
        #[arg(long)]
        keep: bool,
        /// QEMU's accelerator.
        #[arg(long, default_value = "tcg")]
        accel: String,
    },
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// Which board.
    board: String,
    /// A program and its path in the image.
    #[arg(long = "bin", value_name = "PATH=DEST", value_parser = pair)]
    bins: Vec<(PathBuf, String)>,
    /// Another file and its path in the image.
    #[arg(long = "file", value_name = "PATH=DEST", value_parser = pair)]
    files: Vec<(PathBuf, String)>,
    /// A crate of the workspace that a program comes from.
    #[arg(long = "crate", value_name = "NAME")]
    crates: Vec<String>,
    /// What the image is called.
    #[arg(long = "image-version")]
    version: String,
    /// A number that grows from image to image.
    #[arg(long)]
    build: u32,
    /// The commit it is of.
    #[arg(long)]
    commit: String,
    /// That commit's time, in Unix seconds.
    #[arg(long)]
    epoch: u32,
    /// Secret key of minisign that signs the update; without it there is none.
    #[arg(long, value_name = "SECRET_KEY_FILE")]
    sign: Option<PathBuf>,
    /// Once the update is blessed, no build below this one is installed or switched to.
    #[arg(long, default_value_t = 1, requires = "sign")]
    min_build_floor: u32,
    /// How hard zstd tries, 1 to 22; less than what is published is for trials.
    #[arg(long, default_value_t = LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Where Debian's packages are kept.
    #[arg(long, default_value = "target/debian/packages")]
    cache: PathBuf,
    /// Where the files go.
    #[arg(long, default_value = "target/image")]
    output: PathBuf,
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.verb {
            Verb::Build(args) => args.run(self.tree),
            Verb::Flash(args) => args.run(),
            Verb::Measure(args) => args.run(&self.tree),
            Verb::Lock { snapshot, lists } => {
                let image = self.tree.join("image");
                let wanted = Wanted::load(&image.join("packages.toml"))?;
                let lock = update::newest(&wanted, &lists, &snapshot)?;
                let path = image.join("debian.lock");
                fs::write(&path, update::to_text(&lock))
                    .with_context(|| format!("writing {}", path.display()))
            }
            Verb::Index { folder, offers, sign } => {
                let written = index::write(&folder, &offers, &sign, now_s())?;
                let mut out = io::stdout().lock();
                for offer in &written.offers {
                    let Offer { board, version, build, percent, .. } = offer;
                    writeln!(out, "{percent:3} percent of {board} take build {build} ({version})")?;
                }
                Ok(writeln!(out, "{} is written and signed", folder.join(INDEX_FILE).display())?)
            }
            Verb::Qemu { board, image, scratch, tap, mac, keep, accel } => {
                let board = Board::from_folder(&self.tree.join("board"), &board)?;
                let (disk, variables) = (scratch.join("disk.img"), scratch.join("variables.fd"));
                fs::create_dir_all(&scratch)?;
                if !keep || !disk.exists() {
                    unpack(&image, &disk)?;
                }
                if !keep || !variables.exists() {
                    let fresh = qemu::efi(board.arch).variables;
                    fs::copy(fresh, &variables).with_context(|| format!("copying {fresh}"))?;
                }
                let (taps, macs) = (both(&tap), both(&mac));
                let guest =
                    qemu::Guest { disk: &disk, variables: &variables, taps, macs, accel: &accel };
                let words = qemu::command(&board, &guest)?;
                let Some((program, arguments)) = words.split_first() else {
                    bail!("an empty command line")
                };
                let error = Command::new(program).args(arguments).exec();
                Err(error).with_context(|| format!("starting {}", program.display()))
            }
        }
    }
}

/// Of the port to the office, and of the one to the router.
fn both(words: &[String]) -> Option<(&str, &str)> {
    match words {
        [lan, wan] => Some((lan, wan)),
        _ => None,
    }
}

impl BuildArgs {
    fn run(self, tree: PathBuf) -> anyhow::Result<()> {
        let release = Release {
            version: self.version,
            build: self.build,
            commit: self.commit,
            epoch: self.epoch,
        };
        let built = build(&Options {
            tree,
            board: self.board,
            programs: self.bins,
            files: self.files,
            crates: self.crates,
            release,
            cache: self.cache,
            output: self.output,
            level: self.level,
            sign: self.sign.map(|key| Signing { key, floor: self.min_build_floor }),
        })?;
        let figures = built.figures;
        let mut out = io::stdout().lock();
        writeln!(out, "kernel      {}", mib(figures.kernel as u64))?;
        writeln!(out, "root        {}, {} modules", mib(figures.root as u64), figures.modules)?;
        writeln!(out, "compressed  {}", mib(figures.initrd as u64))?;
        writeln!(out, "system      {} {}", mib(figures.uki as u64), built.uki.display())?;
        writeln!(out, "disk        {} {}", mib(figures.image), built.image.display())?;
        if let Some(update) = built.update {
            writeln!(out, "update      {} {}", mib(figures.uki as u64), update.display())?;
        }
        Ok(())
    }
}

/// Bytes as people read them.
fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{:3}.{} MiB", tenths / 10, tenths % 10)
}

/// A bundle's name, and a share in percent.
fn share(text: &str) -> Result<(String, u8), String> {
    let (file, percent) = text.rsplit_once('=').ok_or("write FILE=PERCENT")?;
    let percent = percent.parse().ok().filter(|&percent| percent <= 100);
    Ok((file.to_owned(), percent.ok_or("PERCENT is a number from 0 to 100")?))
}

/// Seconds since 1970 UTC.
#[allow(clippy::disallowed_methods, reason = "an index says when it was written, unlike an image")]
fn now_s() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn pair(text: &str) -> Result<(PathBuf, String), String> {
    let (path, dest) = text.split_once('=').ok_or("write PATH=DEST")?;
    if !dest.starts_with('/') {
        return Err("DEST is a path in the image; begin it with /".to_owned());
    }
    Ok((path.into(), dest.to_owned()))
}

fn unpack(image: &Path, disk: &Path) -> anyhow::Result<()> {
    let step = || format!("unpacking {} to {}", image.display(), disk.display());
    let source = File::open(image).with_context(step)?;
    let mut decoder = zstd::Decoder::new(source).with_context(step)?;
    io::copy(&mut decoder, &mut File::create(disk).with_context(step)?).with_context(step)?;
    Ok(())
}

/// Says what failed, and why.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut line = String::from("avr-image: ");
    line.push_str(&error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": "));
    let _ = writeln!(io::stderr(), "{line}");
}
