//! `avr-image measure`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use board::Board;
use clap::Args;
use image::measure::{self, Moment};
use image::qemu;

use super::unpack;

#[derive(Debug, Args)]
pub(super) struct MeasureArgs {
    /// Which board.
    board: String,
    /// The image, as `build` made it.
    #[arg(long)]
    image: PathBuf,
    /// Folder for the disk, the firmware's variables and the ends of the cables.
    #[arg(long)]
    scratch: PathBuf,
    /// How many times; each is a first start, from a fresh disk.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Memory of the box, in MiB.
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// Its processors.
    #[arg(long, default_value_t = 1)]
    processors: u32,
    /// QEMU's accelerator.
    #[arg(long, default_value = "tcg")]
    accel: String,
}

impl MeasureArgs {
    pub(super) fn run(&self, tree: &Path) -> anyhow::Result<()> {
        let board = Board::from_folder(&tree.join("board"), &self.board)?;
        fs::create_dir_all(&self.scratch)?;
        let at = |name: &str| self.scratch.join(name);
        let (disk, variables) = (at("disk.img"), at("variables.fd"));
        let machine = measure::Machine {
            sockets: &self.scratch,
            processors: self.processors,
            memory_mib: self.memory,
        };
        let guest = qemu::Guest {
            disk: &disk,
            variables: &variables,
            taps: None,
            macs: None,
            accel: &self.accel,
        };
        let command = qemu::measured(&board, &guest, &machine)?;
        let mut out = io::stdout().lock();
        let Self { memory, processors, accel, .. } = self;
        writeln!(
            out,
            "{}: {processors} processor(s), {memory} MiB, {accel}; from the firmware's hand-over:",
            board.id
        )?;
        for _ in 0..self.runs {
            unpack(&self.image, &disk)?;
            let fresh = qemu::efi(board.arch).variables;
            fs::copy(fresh, &variables).with_context(|| format!("copying {fresh}"))?;
            let times = measure::start(&machine, &command)?;
            // What else the machine does is in the times, too.
            let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
            writeln!(
                out,
                "forwarding after {}, intercepting after {}; load average {}",
                seconds(times.forwarding),
                seconds(times.intercepting),
                load.split(' ').next().unwrap_or("unknown"),
            )?;
        }
        Ok(())
    }
}

fn seconds(time: Option<Moment>) -> String {
    let Some(Moment { elapsed, processor }) = time else { return "never".to_owned() };
    format!("{:.1} s ({:.1} of the processor)", elapsed.as_secs_f64(), processor.as_secs_f64())
}
