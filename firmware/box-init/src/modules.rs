//! Kernel modules: which one a device asks for, and what has to be there before it.
//!
//! Reads the text files that depmod writes: `modules.alias`, `modules.dep` and `modules.softdep`.

use std::collections::{HashMap, HashSet};

/// What depmod's files say. Built once; the files are the image's own and so trusted.
#[derive(Debug, Default)]
pub struct Index {
    /// Patterns with the module that each names, in the file's order.
    aliases: Vec<(String, String)>,
    /// Module to its file, relative to the modules' folder, and the modules it needs.
    modules: HashMap<String, Entry>,
    /// Module to what is to be loaded before and after it, where there is such a thing.
    soft: HashMap<String, Soft>,
    /// Modules that are not loaded because a device asks, only by name.
    denied: HashSet<String>,
}

#[derive(Debug, Default)]
struct Entry {
    path: String,
    needs: Vec<String>,
}

#[derive(Debug, Default)]
struct Soft {
    before: Vec<String>,
    after: Vec<String>,
}

/// One module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Its name, with underscores.
    pub name: String,
    /// Its file, relative to the modules' folder.
    pub path: String,
    /// Whether what comes after it is of no use without it.
    pub required: bool,
}

impl Index {
    /// Reads depmod's three files; lines that say something else are skipped, as depmod's do.
    #[must_use]
    pub fn parse(alias: &str, dep: &str, softdep: &str) -> Self {
        let mut index = Self::default();
        for line in lines(alias) {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) =
                (words.next(), words.next(), words.next())
            {
                index.aliases.push((pattern.to_owned(), name_of(module)));
            }
        }
        for line in lines(dep) {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_whitespace().map(name_of).collect();
            index.modules.insert(name_of(path), Entry { path: path.to_owned(), needs });
        }
        for line in lines(softdep) {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
            let soft = index.soft.entry(name_of(module)).or_default();
            let mut before = true;
            for word in words {
                match word {
                    "pre:" => before = true,
                    "post:" => before = false,
                    other if before => soft.before.push(other.to_owned()),
                    other => soft.after.push(other.to_owned()),
                }
            }
        }
        index
    }

    /// Has devices not load these modules.
    pub fn deny(&mut self, modules: impl IntoIterator<Item = String>) {
        self.denied.extend(modules.into_iter().map(|module| name_of(&module)));
    }

    /// Modules that a device with this `modalias` asks for, in the file's order.
    #[must_use]
    pub fn wanted_by(&self, modalias: &str) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for (pattern, module) in &self.aliases {
            if !found.contains(&module.as_str())
                && !self.denied.contains(module)
                && matches(pattern.as_bytes(), modalias.as_bytes())
            {
                found.push(module);
            }
        }
        found
    }

    /// What to load for `module`, which may be an alias as well, in order; what is in `loaded` is left
    /// out, and what the image does not have is, too. Empty if there is no such module, or it is there.
    #[must_use]
    pub fn load_order(&self, module: &str, loaded: &HashSet<String>) -> Vec<Load> {
        let mut order = Vec::new();
        let mut seen = loaded.clone();
        self.visit(module, true, &mut seen, &mut order);
        order
    }

    fn visit(
        &self,
        wanted: &str,
        required: bool,
        seen: &mut HashSet<String>,
        order: &mut Vec<Load>,
    ) {
        let module = &name_of(wanted);
        // Marked before its needs are looked at, so that a circle of soft ones ends.
        if !seen.insert(module.clone()) {
            return;
        }
        let Some(entry) = self.modules.get(module) else {
            // As in `softdep ext4 pre: crc32c`, which several modules can do.
            for target in self.wanted_by(wanted) {
                self.visit(target, false, seen, order);
            }
            return;
        };
        let soft = self.soft.get(module);
        for before in soft.iter().flat_map(|soft| &soft.before) {
            self.visit(before, false, seen, order);
        }
        // depmod lists the nearest first: the last one needs nothing.
        for need in entry.needs.iter().rev() {
            self.visit(need, required, seen, order);
        }
        order.push(Load { name: module.clone(), path: entry.path.clone(), required });
        for after in soft.iter().flat_map(|soft| &soft.after) {
            self.visit(after, false, seen, order);
        }
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The module's name from its file's name or from any spelling of the name.
#[must_use]
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").map_or(file, |(name, _)| name).replace('-', "_")
}

/// Shell patterns as in `modules.alias`: `*`, `?`, `[a-c]`, and everything else is itself.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on when what follows the last star does not fit: one byte further.
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(at_text) {
        let step = match pattern.get(at_pattern) {
            Some(b'*') => {
                star = Some((at_pattern + 1, at_text));
                at_pattern += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => pattern.get(at_pattern..).and_then(|rest| class(rest, byte)),
            Some(&other) if other == byte => Some(1),
            _ => None,
        };
        if let Some(length) = step {
            at_pattern += length;
            at_text += 1;
        } else if let Some((after_star, from)) = star {
            star = Some((after_star, from + 1));
            (at_pattern, at_text) = (after_star, from + 1);
        } else {
            return false;
        }
    }
    pattern.get(at_pattern..).is_none_or(|rest| rest.iter().all(|&byte| byte == b'*'))
}

/// How long the class at the start of `pattern` is, if `byte` is in it.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|&byte| byte == b']')?;
    let mut inside = pattern.get(1..end)?;
    while let Some((&low, rest)) = inside.split_first() {
        let (high, after) = match rest {
            [b'-', high, after @ ..] => (*high, after),
            _ => (low, rest),
        };
        if (low..=high).contains(&byte) {
            return Some(end + 1);
        }
        inside = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALIAS: &str = "# Aliases extracted from modules themselves.
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000001v* virtio_net
alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000
alias usb:v0BDAp8153d*dc*dsc*dp*ic0[0-2]isc*ip*in* r8152
alias cpu:type:x86,ven*fam*mod*:feature:*0081* aesni_intel
alias fs-ext4 ext4
alias crypto-crc32c crc32c_generic
alias crc32c crc32c_generic
alias crc32c crc32c_intel
";
    const DEP: &str = "kernel/fs/ext4/ext4.ko: kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko:
kernel/fs/mbcache.ko:
kernel/crypto/crc32c_generic.ko:
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
a.ko:
b.ko:
";
    const SOFTDEP: &str = "softdep ext4 pre: crc32c not-here
softdep a pre: b
softdep b post: a
";

    fn index() -> Index {
        Index::parse(ALIAS, DEP, SOFTDEP)
    }

    fn names(order: &[Load]) -> Vec<&str> {
        order.iter().map(|load| load.name.as_str()).collect()
    }

    #[test]
    fn a_device_finds_its_driver() {
        let index = index();
        let wanted =
            |alias: &str| index.wanted_by(alias).into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(wanted("pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00"), ["virtio_pci"]);
        assert_eq!(wanted("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert_eq!(wanted("usb:v0BDAp8153d3000dc00dsc00dp00ic01isc00ip00in00"), ["r8152"]);
        assert!(wanted("usb:v0BDAp8153d3000dc00dsc00dp00ic03isc00ip00in00").is_empty());
        assert!(wanted("virtio:d00000002v00001AF4").is_empty());
    }

    #[test]
    fn what_is_denied_is_only_loaded_by_name() {
        let mut index = index();
        index.deny(["virtio-net".to_owned()]);
        assert!(index.wanted_by("virtio:d00000001v00001AF4").is_empty());
        assert!(!index.load_order("virtio_net", &HashSet::new()).is_empty());
    }

    #[test]
    fn what_is_needed_comes_first() {
        let order = index().load_order("virtio-net", &HashSet::new());
        assert_eq!(names(&order), ["failover", "net_failover", "virtio_net"]);
        assert!(order.iter().all(|load| load.required));
        assert_eq!(order.first().unwrap().path, "kernel/net/core/failover.ko");
    }

    #[test]
    fn soft_needs_are_loaded_where_they_are_there() {
        let order = index().load_order("ext4", &HashSet::new());
        assert_eq!(names(&order), ["crc32c_generic", "jbd2", "mbcache", "ext4"]);
        assert!(!order.first().unwrap().required);
    }

    #[test]
    fn aliases_are_names_too() {
        assert_eq!(
            names(&index().load_order("crypto-crc32c", &HashSet::new())),
            ["crc32c_generic"]
        );
        let order = index().load_order("fs-ext4", &HashSet::new());
        assert_eq!(order.last().unwrap().name, "ext4");
    }

    #[test]
    fn what_is_there_is_left_out_and_circles_end() {
        let loaded = HashSet::from(["failover".to_owned()]);
        assert_eq!(
            names(&index().load_order("virtio_net", &loaded)),
            ["net_failover", "virtio_net"]
        );
        assert_eq!(names(&index().load_order("a", &HashSet::new())), ["b", "a"]);
        assert!(index().load_order("nothing", &HashSet::new()).is_empty());
    }

    /// The same by trying everything.
    fn matches_slowly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                (0..=text.len()).any(|skip| matches_slowly(rest, &text[skip..]))
            }
            (Some((b'?', rest)), Some((_, text))) => matches_slowly(rest, text),
            (Some((a, rest)), Some((b, text))) if a == b => matches_slowly(rest, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_by_trying_everything(
            pattern in "[ab*?]{0,8}", text in "[ab]{0,10}",
        ) {
            prop_assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                matches_slowly(pattern.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn any_graph_is_ordered(needs in proptest::collection::vec(
            proptest::collection::vec(0_usize..12, 0..4), 12,
        )) {
            // Hard needs only point to smaller numbers, as depmod refuses circles; soft ones anywhere.
            let mut dep = String::new();
            let mut soft = String::new();
            for (number, needs) in needs.iter().enumerate() {
                dep += &format!("m{number}.ko:");
                for need in needs.iter().filter(|&&need| need < number) {
                    dep += &format!(" m{need}.ko");
                }
                dep += "\n";
                soft += &format!("softdep m{number} pre:");
                for need in needs.iter().filter(|&&need| need > number) {
                    soft += &format!(" m{need}");
                }
                soft += "\n";
            }
            let order = Index::parse("", &dep, &soft).load_order("m11", &HashSet::new());
            let names = names(&order);
            let unique: HashSet<_> = names.iter().collect();
            prop_assert_eq!(unique.len(), names.len());
            prop_assert!(names.contains(&"m11"));
        }

        #[test]
        fn no_file_and_no_alias_panics(text in any::<String>(), alias in any::<String>()) {
            let index = Index::parse(&text, &text, &text);
            let _ = index.wanted_by(&alias);
            let _ = index.load_order(&alias, &HashSet::new());
        }
    }
}
