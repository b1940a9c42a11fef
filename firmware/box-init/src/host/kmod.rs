//! Kernel modules: those that devices ask for, and those asked for by name.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::sys::utsname::uname;

use super::files;
use crate::modules::{Index, name_of};

/// How often all devices are looked at: each pass may bring up buses with devices of their own.
const PASSES_MAX: u32 = 6;
/// How deep `/sys/devices` is looked into.
const DEPTH_MAX: u32 = 20;

/// The modules of the running kernel.
#[derive(Debug)]
pub(crate) struct Modules {
    folder: PathBuf,
    index: Index,
    /// Loaded, built in, or tried in vain.
    done: HashSet<String>,
}

impl Modules {
    /// Reads what the image has.
    pub(crate) fn open() -> Self {
        let release =
            uname().map_or(String::new(), |name| name.release().to_string_lossy().into_owned());
        let folder = Path::new("/usr/lib/modules").join(release);
        let read = |name: &str| {
            let bytes = fs::read(folder.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let index =
            Index::parse(&read("modules.alias"), &read("modules.dep"), &read("modules.softdep"));
        let loaded = files::text("/proc/modules");
        let done = loaded.lines().filter_map(|line| line.split(' ').next()).map(name_of).collect();
        Self { folder, index, done }
    }

    /// Loads a module, by its name or an alias, with what it needs; whether all of it is there now.
    pub(crate) fn load(&mut self, module: &str) -> bool {
        let order = self.index.load_order(module, &self.done);
        let mut loaded = true;
        for load in order {
            self.done.insert(load.name.clone());
            if let Err(error) = self.insert(&load.path) {
                tracing::warn!(%error, module = load.name, "a module cannot be loaded");
                loaded = false;
                if load.required {
                    break;
                }
            }
        }
        loaded
    }

    /// Loads what a device asks for; how many modules that were.
    pub(crate) fn for_device(&mut self, modalias: &str) -> usize {
        let wanted: Vec<String> =
            self.index.wanted_by(modalias).into_iter().map(str::to_owned).collect();
        let before = self.done.len();
        for module in wanted {
            self.load(&module);
        }
        self.done.len() - before
    }

    /// Loads what all devices ask for that are there.
    pub(crate) fn for_all_devices(&mut self) {
        for _ in 0..PASSES_MAX {
            let mut aliases = HashSet::new();
            collect(Path::new("/sys/devices"), DEPTH_MAX, &mut aliases);
            let mut aliases: Vec<String> = aliases.into_iter().collect();
            aliases.sort_unstable();
            let loaded: usize = aliases.iter().map(|alias| self.for_device(alias)).sum();
            if loaded == 0 {
                break;
            }
        }
    }

    fn insert(&self, path: &str) -> Result<(), Errno> {
        let file = File::open(self.folder.join(path))
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            // Somebody else was faster, or the hardware is not there.
            Ok(()) | Err(Errno::EEXIST | Errno::ENODEV) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn collect(folder: &Path, depth: u32, aliases: &mut HashSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 0 {
            collect(&entry.path(), depth - 1, aliases);
        } else if entry.file_name() == "modalias" {
            let alias = files::text(entry.path());
            if !alias.is_empty() {
                aliases.insert(alias);
            }
        }
    }
}
