//! What a board is: `board.toml`, typed, layered over `board/common/board.toml`.
//!
//! Purpose: a board is a folder of data, and whoever adds one must be told what is wrong with it
//! before anything is built. The image builder reads the two layers ([`Board::from_folder`]) and
//! writes the checked result ([`Board::to_toml`]) into the image, where PID 1 reads it again
//! ([`Board::load`]) with the same checks. Must not depend on any other crate of the workspace but
//! `config`. Entry: [`Board`].
//!
//! Layers: what a board's file says wins over common's, key by key; `boot.cmdline`, `modules.load`
//! and `modules.include` are lists of both, common's first.
#![forbid(unsafe_code)]

mod layer;
mod names;

pub use config::ConfigError;
pub use names::{Baud, Machine, ModuleName, Port, Tty};

use std::path::Path;

use config::Document;
use serde::{Deserialize, Serialize};

/// Name of the file in each board's folder.
pub const FILE: &str = "board.toml";
/// Name of the folder whose file all boards share.
pub const COMMON: &str = "common";

/// A board whose settings have been checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Board {
    /// Name of its folder, and of its images.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its processor.
    pub arch: Arch,
    /// Machines that this board's image is for. Empty: not to be told from others.
    #[serde(rename = "match")]
    pub machines: Vec<Machine>,
    /// How it starts.
    pub boot: Boot,
    /// Where its console is.
    pub console: Console,
    /// Which port is which.
    pub ports: Ports,
    /// What joins the two ports when the box is off.
    pub bypass: Bypass,
    /// What resets the box when it hangs.
    pub watchdog: Watchdog,
    /// Its clock.
    pub rtc: Rtc,
    /// The kernel's modules.
    pub modules: Modules,
    /// How QEMU plays it; only of boards that QEMU can play.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu: Option<Qemu>,
}

/// A processor's architecture, called as Rust and the kernel call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// Called amd64 by Debian.
    #[serde(rename = "x86_64")]
    X86_64,
    /// Called arm64 by Debian.
    Aarch64,
}

impl Arch {
    /// As in `aarch64-unknown-linux-gnu`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian names it.
    #[must_use]
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// `[boot]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// What starts the boot loader.
    pub firmware: Firmware,
    /// Where the two systems are.
    pub slots: Slots,
    /// Who counts the tries of a new system.
    pub counting: Counting,
    /// Words of the kernel's command line; the consoles are added behind them.
    pub cmdline: Vec<String>,
    /// Device tree to hand to the kernel in place of the firmware's, as the kernel's package names
    /// it: `rockchip/rk3399-rockpro64.dtb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtb: Option<String>,
}

/// What starts the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// UEFI as PCs have it.
    Uefi,
    /// U-Boot's UEFI, which lacks some of it.
    UBoot,
}

/// Where the two systems are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slots {
    /// In a partition of their own; the boot loader's is never written to.
    Xbootldr,
    /// Beside the boot loader, where firmware finds no other partition.
    Esp,
}

/// Who counts the tries of a new system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counting {
    /// The boot loader renames the file before it starts it.
    Loader,
    /// PID 1 does, because firmware cannot rename files (U-Boot before 2025.07).
    Userspace,
}

/// `[console]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Console {
    /// Terminals with a console; the kernel's messages go to all, `/dev/console` is the last.
    pub ttys: Vec<Tty>,
    /// Speed of the serial ones, in bit/s; 8 data bits, no parity.
    pub baud: Baud,
}

/// `[ports]`: never by the kernel's names, which change with the order in which drivers start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ports {
    /// The office's switch.
    pub lan: Port,
    /// The router.
    pub wan: Port,
}

/// `[bypass]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bypass {
    /// What there is.
    pub kind: BypassKind,
}

/// What joins the two ports when the box is off. A kind is added here with the code that drives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BypassKind {
    /// Nothing: without power the wire is cut.
    None,
}

/// `[watchdog]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Watchdog {
    /// Its driver.
    pub module: ModuleName,
    /// After how long without a sign of life it resets the box, in seconds.
    pub seconds: u64,
}

/// `[rtc]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rtc {
    /// Whether it has a clock that runs on while it is off.
    pub present: bool,
}

/// `[modules]`: what of the kernel's modules is in the image, with what they depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Modules {
    /// Loaded at boot, in this order, whatever the hardware.
    pub load: Vec<ModuleName>,
    /// Loaded when the hardware that they drive is there.
    pub include: Vec<ModuleName>,
}

/// `[qemu]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Qemu {
    /// `-machine`.
    pub machine: String,
    /// `-cpu`.
    pub cpu: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// `-device` of the disk, without its drive.
    pub disk: String,
    /// `-device` of the two ports, without address and network.
    pub nic: String,
    /// `-device` of the watchdog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<String>,
}

impl Board {
    /// Reads the board `id` from the folder of boards, over what all share.
    ///
    /// # Errors
    /// One of the two files is not there or not right, or the board says too little or
    /// contradicts itself.
    pub fn from_folder(boards: &Path, id: &str) -> Result<Self, ConfigError> {
        let common = Document::load(&boards.join(COMMON).join(FILE))?;
        let own = Document::load(&boards.join(id).join(FILE))?;
        let board = Self::from_layers(&[common, own.clone()])?;
        if board.id != id {
            return Err(own.invalid(
                "id",
                format!("`id`: \"{}\" is not the name of its folder", board.id.escape_debug()),
                format!("write \"{id}\" instead, or rename the folder"),
            ));
        }
        Ok(board)
    }

    /// Reads a file that [`Self::to_toml`] wrote.
    ///
    /// # Errors
    /// It is not there or not right.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::from_layers(&[Document::load(path)?])
    }

    /// Lays documents over each other, the last on top, and checks what comes of it.
    ///
    /// # Errors
    /// As [`Self::from_folder`]; what is missing is blamed on the last document.
    pub fn from_layers(documents: &[Document]) -> Result<Self, ConfigError> {
        layer::resolve(documents)
    }

    /// The error for a module that the board `id` names and the kernel does not have: found in the
    /// board's file, or in common's.
    #[must_use]
    pub fn blame_module(
        boards: &Path,
        id: &str,
        module: &ModuleName,
        problem: &str,
    ) -> ConfigError {
        layer::blame_module(
            &boards.join(id).join(FILE),
            &boards.join(COMMON).join(FILE),
            module,
            problem,
        )
    }

    /// The whole board as one file, which [`Self::load`] reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self)
            .expect("a board is tables of texts, numbers and lists, which TOML has")
    }
}
