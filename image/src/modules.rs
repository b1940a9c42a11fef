//! The kernel's modules that a board needs, and the lists by which they are found and loaded.
//!
//! The lists have depmod's text format (`modules.dep`, `modules.alias`, `modules.softdep`), of only
//! those modules that are in the image, so that the box needs no depmod. What a module depends on, and
//! which hardware it drives, stands in its ELF section `.modinfo`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use board::ModuleName;
use lzma_rust2::XzReader;
use object::{Object as _, ObjectSection as _};

use crate::debian::Files;
use crate::error::Step as _;
use crate::{ImageError, Tree};

/// Largest module, unpacked, in bytes; the largest of Debian's has some 20 MB.
const MODULE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Modules by the algorithms that they offer.
type Ciphers = BTreeMap<String, Vec<String>>;

/// All modules of a kernel's package.
#[derive(Debug, Default)]
pub struct Modules {
    /// The kernel's release, as `uname -r` shows it.
    release: String,
    /// Packed files by name of the module; paths begin below `lib/modules/RELEASE/`.
    packed: BTreeMap<String, (String, Vec<u8>)>,
    /// What the kernel has without a module.
    builtin: BTreeSet<String>,
    /// The package's list of these.
    builtin_list: Vec<u8>,
}

/// A module that is needed.
#[derive(Debug)]
struct Module {
    path: String,
    bytes: Vec<u8>,
    depends: Vec<String>,
    soft: Vec<(String, Vec<String>)>,
    aliases: Vec<String>,
}

/// Modules with all that they need.
#[derive(Debug)]
pub struct Selection {
    release: String,
    modules: BTreeMap<String, Module>,
    builtin_list: Vec<u8>,
}

impl Modules {
    /// Finds the modules among a package's files.
    ///
    /// # Errors
    /// There are none, or those of two kernels.
    pub fn of_package(files: &Files) -> Result<Self, ImageError> {
        let mut all = Self::default();
        for (path, bytes) in files {
            let below = path.strip_prefix("usr/").unwrap_or(path);
            let Some((release, path)) =
                below.strip_prefix("lib/modules/").and_then(|rest| rest.split_once('/'))
            else {
                continue;
            };
            if all.release.is_empty() {
                release.clone_into(&mut all.release);
            } else if all.release != release {
                return Err(ImageError::Wrong(format!(
                    "the kernel's package has modules of {} and of {release}; name one kernel in \
                     image/packages.toml",
                    all.release
                )));
            }
            if path == "modules.builtin" {
                all.builtin = bytes.split(|&byte| byte == b'\n').filter_map(name_of_line).collect();
                all.builtin_list.clone_from(bytes);
            } else if let Some(name) = name_of(path) {
                all.packed.insert(name, (path.to_owned(), bytes.clone()));
            }
        }
        if all.packed.is_empty() {
            return Err(ImageError::Wrong(
                "the kernel's package has no modules; look at image/packages.toml".to_owned(),
            ));
        }
        Ok(all)
    }

    /// The kernel's release.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Whether the kernel has it, as a module or without.
    #[must_use]
    pub fn knows(&self, name: &ModuleName) -> bool {
        self.packed.contains_key(name.as_str()) || self.builtin.contains(name.as_str())
    }

    /// These modules with what they depend on, and the soft dependencies that there are.
    ///
    /// # Errors
    /// One is not in the package, or is no module of Linux.
    pub fn select<'a>(
        &self,
        names: impl IntoIterator<Item = &'a ModuleName>,
    ) -> Result<Selection, ImageError> {
        let mut waiting: Vec<String> =
            names.into_iter().map(|name| name.as_str().to_owned()).collect();
        let ciphers = self.ciphers()?;
        let mut modules = BTreeMap::new();
        while let Some(name) = waiting.pop() {
            if modules.contains_key(&name) || self.builtin.contains(&name) {
                continue;
            }
            let (path, packed) = self.packed.get(&name).ok_or_else(|| {
                ImageError::Wrong(format!("module `{name}`: Linux {} has none", self.release))
            })?;
            let mut module = Module::unpack(path, packed)?;
            for (_, names) in &mut module.soft {
                *names = self.meant_by(names, &ciphers);
                waiting.extend(names.iter().cloned());
            }
            waiting.extend(module.depends.iter().cloned());
            modules.insert(name, module);
        }
        Ok(Selection {
            release: self.release.clone(),
            modules,
            builtin_list: self.builtin_list.clone(),
        })
    }
}

impl Modules {
    /// The modules that names of soft dependencies mean. What has none is built in or not made by
    /// Debian; it is called soft because that does not matter.
    fn meant_by(&self, names: &[String], ciphers: &Ciphers) -> Vec<String> {
        let meant = names.iter().flat_map(|name| match self.packed.contains_key(name) {
            true => vec![name.clone()],
            false => ciphers.get(name).cloned().unwrap_or_default(),
        });
        meant.collect()
    }

    /// All modules that compute something. Soft dependencies name an algorithm (`crc32c`), which
    /// several of them may offer.
    fn ciphers(&self) -> Result<Ciphers, ImageError> {
        let mut ciphers = Ciphers::new();
        for (name, (path, packed)) in &self.packed {
            if path.contains("/crypto/") && !path.starts_with("kernel/drivers/") {
                for alias in Module::unpack(path, packed)?.aliases {
                    ciphers.entry(plain(&alias)).or_default().push(name.clone());
                }
            }
        }
        Ok(ciphers)
    }
}

impl Selection {
    /// How many modules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Puts modules and lists into the tree.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn put_into(&self, tree: &mut Tree) -> Result<(), ImageError> {
        let folder = format!("usr/lib/modules/{}", self.release);
        for module in self.modules.values() {
            tree.put_file(&format!("{folder}/{}", module.path), module.bytes.clone())?;
        }
        tree.put_file(&format!("{folder}/modules.builtin"), self.builtin_list.clone())?;
        tree.put_file(&format!("{folder}/modules.dep"), self.dep())?;
        tree.put_file(&format!("{folder}/modules.alias"), self.alias())?;
        tree.put_file(&format!("{folder}/modules.softdep"), self.softdep())
    }

    /// `modules.dep`: behind each module all that have to be there before it, the first to be loaded
    /// last.
    #[must_use]
    pub fn dep(&self) -> String {
        let mut lines = String::new();
        for (name, module) in &self.modules {
            let mut order = Vec::new();
            self.collect(name, &mut order);
            order.retain(|other| *other != name);
            lines.push_str(&module.path);
            lines.push(':');
            for other in order.iter().rev() {
                lines.push(' ');
                lines.push_str(&self.modules[*other].path);
            }
            lines.push('\n');
        }
        lines
    }

    /// `modules.alias`: which module drives which hardware.
    #[must_use]
    pub fn alias(&self) -> String {
        let mut lines = String::new();
        for (name, module) in &self.modules {
            for alias in &module.aliases {
                lines.push_str(&format!("alias {alias} {name}\n"));
            }
        }
        lines
    }

    /// `modules.softdep`: what had better be loaded before or after.
    #[must_use]
    pub fn softdep(&self) -> String {
        let mut lines = String::new();
        for (name, module) in &self.modules {
            let mut line = String::new();
            for (when, names) in &module.soft {
                let there: Vec<&str> = names
                    .iter()
                    .map(String::as_str)
                    .filter(|name| self.modules.contains_key(*name))
                    .collect();
                if !there.is_empty() {
                    line.push_str(&format!(" {when} {}", there.join(" ")));
                }
            }
            if !line.is_empty() {
                lines.push_str(&format!("softdep {name}{line}\n"));
            }
        }
        lines
    }

    /// Puts a module behind all that it depends on. The kernel's modules have no circles.
    fn collect<'a>(&'a self, name: &'a str, order: &mut Vec<&'a str>) {
        if order.contains(&name) {
            return;
        }
        let Some(module) = self.modules.get(name) else { return };
        for other in &module.depends {
            self.collect(other, order);
        }
        order.push(name);
    }
}

impl Module {
    fn unpack(path: &str, packed: &[u8]) -> Result<Self, ImageError> {
        let mut bytes = Vec::new();
        let path = match path.strip_suffix(".xz") {
            Some(plain) => {
                XzReader::new(packed, true)
                    .take(MODULE_BYTES_MAX)
                    .read_to_end(&mut bytes)
                    .step(|| format!("unpacking the module {path}"))?;
                plain
            }
            None => {
                bytes.extend_from_slice(packed);
                path
            }
        };
        let no_module = |reason: String| {
            ImageError::Wrong(format!("{path}: no module of Linux ({reason}); fetch it again"))
        };
        let elf =
            object::File::parse(bytes.as_slice()).map_err(|error| no_module(error.to_string()))?;
        let section = elf
            .section_by_name(".modinfo")
            .ok_or_else(|| no_module("it has no section .modinfo".to_owned()))?;
        let info = section.data().map_err(|error| no_module(error.to_string()))?;
        let (mut depends, mut soft, mut aliases) = (Vec::new(), Vec::new(), Vec::new());
        for line in info.split(|&byte| byte == 0).filter_map(|line| std::str::from_utf8(line).ok())
        {
            match line.split_once('=') {
                Some(("depends", names)) => {
                    depends.extend(names.split(',').filter(|name| !name.is_empty()).map(plain));
                }
                Some(("softdep", words)) => soft.extend(soft_of(words)),
                Some(("alias", alias)) => aliases.push(alias.to_owned()),
                _ => {}
            }
        }
        let path = path.to_owned();
        Ok(Self { path, bytes, depends, soft, aliases })
    }
}

/// Takes "pre: a b post: c" apart.
fn soft_of(words: &str) -> Vec<(String, Vec<String>)> {
    let mut soft: Vec<(String, Vec<String>)> = Vec::new();
    for word in words.split_whitespace() {
        if word.ends_with(':') {
            soft.push((word.to_owned(), Vec::new()));
        } else if let Some((_, names)) = soft.last_mut() {
            names.push(plain(word));
        }
    }
    soft
}

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// The module in a file, if it is one.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    file.strip_suffix(".ko.xz").or_else(|| file.strip_suffix(".ko")).map(plain)
}

fn name_of_line(line: &[u8]) -> Option<String> {
    name_of(std::str::from_utf8(line).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(modules: &[(&str, &[&str], &str)]) -> Selection {
        let modules = modules.iter().map(|(name, depends, soft)| {
            let module = Module {
                path: format!("kernel/{name}.ko"),
                bytes: Vec::new(),
                depends: depends.iter().map(|name| (*name).to_owned()).collect(),
                soft: soft_of(soft),
                aliases: vec![format!("pci:{name}*")],
            };
            ((*name).to_owned(), module)
        });
        Selection { release: "6".to_owned(), modules: modules.collect(), builtin_list: Vec::new() }
    }

    #[test]
    fn what_is_needed_first_stands_last() {
        let all = selection(&[
            ("ext4", &["jbd2", "mbcache"], "pre: crc32c gone"),
            ("jbd2", &["crc32c"], ""),
            ("mbcache", &[], ""),
            ("crc32c", &[], ""),
        ]);
        assert_eq!(
            all.dep(),
            "kernel/crc32c.ko:\n\
             kernel/ext4.ko: kernel/mbcache.ko kernel/jbd2.ko kernel/crc32c.ko\n\
             kernel/jbd2.ko: kernel/crc32c.ko\n\
             kernel/mbcache.ko:\n"
        );
        assert_eq!(all.softdep(), "softdep ext4 pre: crc32c\n");
        assert!(all.alias().contains("alias pci:jbd2* jbd2\n"));
    }

    #[test]
    fn soft_dependencies_are_before_or_after() {
        assert_eq!(
            soft_of("pre: a-b c post: d"),
            [
                ("pre:".to_owned(), vec!["a_b".to_owned(), "c".to_owned()]),
                ("post:".to_owned(), vec!["d".to_owned()])
            ]
        );
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        assert_eq!(name_of("kernel/drivers/xhci-pci.ko.xz").as_deref(), Some("xhci_pci"));
        assert_eq!(name_of("kernel/a.ko").as_deref(), Some("a"));
        assert_eq!(name_of("modules.order"), None);
    }
}
