//! One file of a board, in which anything may be missing, and how files become a board.

use std::collections::HashSet;
use std::path::Path;

use config::{ConfigError, Document};
use serde::Deserialize;

use crate::{
    Arch, Baud, Board, Boot, Bypass, BypassKind, Console, Counting, Firmware, Machine, ModuleName,
    Modules, Port, Ports, Qemu, Rtc, Slots, Tty, Watchdog,
};

/// Shortest time that a watchdog may have, in seconds: a busy box is not a hung one.
const WATCHDOG_SECONDS_MIN: u64 = 10;
/// Longest, in seconds: an office waits for its mail, and for everything else, as long.
const WATCHDOG_SECONDS_MAX: u64 = 300;
/// Least memory that QEMU gives, in MiB: with less, firmware finds no room for the system.
const MEMORY_MIB_MIN: u64 = 256;
/// Most memory that QEMU gives, in MiB.
const MEMORY_MIB_MAX: u64 = 65_536;
/// Longest name of a board, in bytes: it stands in names of files.
const ID_BYTES_MAX: usize = 40;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Layer {
    id: Option<String>,
    name: Option<String>,
    arch: Option<Arch>,
    r#match: Option<Vec<Machine>>,
    boot: BootLayer,
    console: ConsoleLayer,
    ports: PortsLayer,
    bypass: BypassLayer,
    watchdog: WatchdogLayer,
    rtc: RtcLayer,
    modules: ModulesLayer,
    qemu: Option<QemuLayer>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BootLayer {
    firmware: Option<Firmware>,
    slots: Option<Slots>,
    counting: Option<Counting>,
    cmdline: Vec<String>,
    dtb: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConsoleLayer {
    ttys: Option<Vec<Tty>>,
    baud: Option<Baud>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PortsLayer {
    lan: Option<Port>,
    wan: Option<Port>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BypassLayer {
    kind: Option<BypassKind>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WatchdogLayer {
    module: Option<ModuleName>,
    seconds: Option<Seconds>,
}

#[derive(Clone, Copy, Deserialize)]
struct Seconds(
    #[serde(deserialize_with = "config::within::<_, WATCHDOG_SECONDS_MIN, WATCHDOG_SECONDS_MAX>")]
    u64,
);

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RtcLayer {
    present: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ModulesLayer {
    load: Vec<ModuleName>,
    include: Vec<ModuleName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QemuLayer {
    machine: String,
    cpu: String,
    #[serde(deserialize_with = "config::within::<_, MEMORY_MIB_MIN, MEMORY_MIB_MAX>")]
    memory_mib: u64,
    disk: String,
    nic: String,
    watchdog: Option<String>,
}

/// Lays the documents over each other, the last on top, and checks what comes of it.
pub(crate) fn resolve(documents: &[Document]) -> Result<Board, ConfigError> {
    let mut all = Layer::default();
    for document in documents {
        let layer: Layer = document.parse()?;
        check_words(document, &layer)?;
        all.cover(layer);
    }
    let top = documents.last().expect("a board has at least one document");
    let board = all.complete(top)?;
    check_whole(top, &board)?;
    Ok(board)
}

impl Layer {
    /// Puts another layer on top of this one.
    fn cover(&mut self, top: Self) {
        put(&mut self.id, top.id);
        put(&mut self.name, top.name);
        put(&mut self.arch, top.arch);
        put(&mut self.r#match, top.r#match);
        put(&mut self.boot.firmware, top.boot.firmware);
        put(&mut self.boot.slots, top.boot.slots);
        put(&mut self.boot.counting, top.boot.counting);
        self.boot.cmdline.extend(top.boot.cmdline);
        put(&mut self.boot.dtb, top.boot.dtb);
        put(&mut self.console.ttys, top.console.ttys);
        put(&mut self.console.baud, top.console.baud);
        put(&mut self.ports.lan, top.ports.lan);
        put(&mut self.ports.wan, top.ports.wan);
        put(&mut self.bypass.kind, top.bypass.kind);
        put(&mut self.watchdog.module, top.watchdog.module);
        put(&mut self.watchdog.seconds, top.watchdog.seconds);
        put(&mut self.rtc.present, top.rtc.present);
        self.modules.load.extend(top.modules.load);
        self.modules.include.extend(top.modules.include);
        put(&mut self.qemu, top.qemu);
    }

    /// The board, if nothing is missing; `top` is blamed for what is.
    fn complete(self, top: &Document) -> Result<Board, ConfigError> {
        let needed = Needed { top };
        Ok(Board {
            id: needed.or_blame(self.id, "", "id")?,
            name: needed.or_blame(self.name, "", "name")?,
            arch: needed.or_blame(self.arch, "", "arch")?,
            machines: needed.or_blame(self.r#match, "", "match")?,
            boot: Boot {
                firmware: needed.or_blame(self.boot.firmware, "boot", "firmware")?,
                slots: needed.or_blame(self.boot.slots, "boot", "slots")?,
                counting: needed.or_blame(self.boot.counting, "boot", "counting")?,
                cmdline: self.boot.cmdline,
                dtb: self.boot.dtb,
            },
            console: Console {
                ttys: needed.or_blame(self.console.ttys, "console", "ttys")?,
                baud: needed.or_blame(self.console.baud, "console", "baud")?,
            },
            ports: Ports {
                lan: needed.or_blame(self.ports.lan, "ports", "lan")?,
                wan: needed.or_blame(self.ports.wan, "ports", "wan")?,
            },
            bypass: Bypass { kind: needed.or_blame(self.bypass.kind, "bypass", "kind")? },
            watchdog: Watchdog {
                module: needed.or_blame(self.watchdog.module, "watchdog", "module")?,
                seconds: needed.or_blame(self.watchdog.seconds, "watchdog", "seconds")?.0,
            },
            rtc: Rtc { present: needed.or_blame(self.rtc.present, "rtc", "present")? },
            modules: Modules {
                load: once_each(self.modules.load),
                include: once_each(self.modules.include),
            },
            qemu: self.qemu.map(|qemu| Qemu {
                machine: qemu.machine,
                cpu: qemu.cpu,
                memory_mib: qemu.memory_mib,
                disk: qemu.disk,
                nic: qemu.nic,
                watchdog: qemu.watchdog,
            }),
        })
    }
}

fn put<T>(below: &mut Option<T>, top: Option<T>) {
    if top.is_some() {
        *below = top;
    }
}

fn once_each(names: Vec<ModuleName>) -> Vec<ModuleName> {
    let mut seen = HashSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}

/// Blames the topmost document for what no layer says.
struct Needed<'a> {
    top: &'a Document,
}

impl Needed<'_> {
    fn or_blame<T>(&self, value: Option<T>, table: &str, key: &str) -> Result<T, ConfigError> {
        value.ok_or_else(|| {
            let place = if table.is_empty() { String::new() } else { format!(" in [{table}]") };
            let remedy = format!("write `{key} = …` there");
            self.top.invalid(table, format!("`{key}` is missing{place}"), remedy)
        })
    }
}

/// Texts of one layer that have a form which no type holds.
fn check_words(document: &Document, layer: &Layer) -> Result<(), ConfigError> {
    if let Some(id) = &layer.id {
        let plain = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
        };
        if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(plain) {
            return Err(document.invalid(
                "id",
                format!("`id`: \"{}\" cannot be part of a file's name", id.escape_debug()),
                format!("write at most {ID_BYTES_MAX} lower-case letters, digits, - and _ instead"),
            ));
        }
    }
    for (index, word) in layer.boot.cmdline.iter().enumerate() {
        if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(document.invalid(
                &format!("boot.cmdline[{index}]"),
                format!("`boot.cmdline`: \"{}\" is not one word", word.escape_debug()),
                "write each word as a text of its own instead",
            ));
        }
        if word.starts_with("console=") {
            return Err(document.invalid(
                &format!("boot.cmdline[{index}]"),
                format!("`boot.cmdline`: \"{}\" is a console", word.escape_debug()),
                "write it in [console] instead",
            ));
        }
    }
    if let Some(dtb) = &layer.boot.dtb {
        let within = dtb.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !within || !dtb.ends_with(".dtb") {
            return Err(document.invalid(
                "boot.dtb",
                format!("`boot.dtb`: \"{}\" is no device tree", dtb.escape_debug()),
                "write its name in the kernel's package instead, as in \"rockchip/rk3399-x.dtb\"",
            ));
        }
    }
    Ok(())
}

/// What can only be wrong with the whole.
fn check_whole(top: &Document, board: &Board) -> Result<(), ConfigError> {
    if board.console.ttys.is_empty() {
        return Err(top.invalid(
            "console.ttys",
            "`console.ttys`: a box without a console cannot be helped",
            "write at least one terminal, as in [\"ttyS0\"]",
        ));
    }
    let mixed =
        |one: &Port, other: &Port| matches!(one, Port::Nth(_)) != matches!(other, Port::Nth(_));
    if board.ports.lan == board.ports.wan {
        return Err(top.invalid(
            "ports.wan",
            "`ports.wan`: is the same port as `lan`",
            "write the router's port instead",
        ));
    }
    if mixed(&board.ports.lan, &board.ports.wan) {
        return Err(top.invalid(
            "ports.wan",
            "`ports`: one port is counted, the other has a place: they could be the same",
            "write both as \"nth:…\", or both by their places",
        ));
    }
    if board.boot.firmware == Firmware::UBoot && board.boot.slots == Slots::Xbootldr {
        return Err(top.invalid(
            "boot.slots",
            "`boot.slots`: U-Boot does not find a partition of the slots' own",
            "write \"esp\" instead",
        ));
    }
    Ok(())
}

/// The error for a module that the kernel does not have, at the first of the files that names it.
pub(crate) fn blame_module(
    own: &Path,
    common: &Path,
    module: &ModuleName,
    problem: &str,
) -> ConfigError {
    let (problem, remedy) = (
        format!("module \"{module}\": {problem}"),
        "write a name that stands in the kernel's package instead, or remove it",
    );
    for path in [own, common] {
        let Ok(document) = Document::load(path) else { continue };
        let Ok(layer) = document.parse::<Layer>() else { continue };
        let lists = [("load", &layer.modules.load), ("include", &layer.modules.include)];
        for (key, names) in lists {
            if let Some(index) = names.iter().position(|name| name == module) {
                return document.invalid(&format!("modules.{key}[{index}]"), problem, remedy);
            }
        }
        if layer.watchdog.module.as_ref() == Some(module) {
            return document.invalid("watchdog.module", problem, remedy);
        }
    }
    config::invalid(own, "modules", problem, remedy)
}
