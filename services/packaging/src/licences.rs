//! The crates that a program is linked with, and the licence texts that they come with: most licences ask
//! that their text goes with the program.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// How names of files begin that hold a licence, in capitals.
const TEXT_NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
/// Largest file that is taken for a licence, in bytes.
const TEXT_BYTES_MAX: u64 = 256 * 1024;

/// What `cargo metadata` says, as far as it is read here.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    /// None: of this workspace.
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    /// None: of the program itself, and not of its build or its tests.
    kind: Option<String>,
}

impl Metadata {
    /// Asks `cargo` about this workspace.
    ///
    /// # Errors
    /// There is no `cargo`, or it does not know.
    pub(crate) fn ask() -> anyhow::Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
        let asked = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu", "--manifest-path", workspace])
            .output()
            .context("run cargo metadata")?;
        let said = String::from_utf8_lossy(&asked.stderr);
        ensure!(asked.status.success(), "cargo metadata failed: {said}");
        serde_json::from_slice(&asked.stdout).context("cargo metadata says something else")
    }

    /// The crates linked into the program of a crate of this workspace, in the order of their names.
    fn linked(&self, name: &str) -> anyhow::Result<Vec<&Package>> {
        let packages: HashMap<_, _> =
            self.packages.iter().map(|package| (package.id.as_str(), package)).collect();
        let nodes: HashMap<_, _> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let root = self.packages.iter().find(|package| package.is_ours() && package.name == name);
        let mut to_see = vec![root.with_context(|| format!("no crate {name}"))?.id.as_str()];
        let mut seen = BTreeSet::new();
        while let Some(id) = to_see.pop() {
            // What runs in the compiler is in no program, nor is what that needs.
            if packages.get(id).is_none_or(|package| package.is_macro()) || !seen.insert(id) {
                continue;
            }
            let node = nodes.get(id).with_context(|| format!("cargo resolves no {id}"))?;
            to_see.extend(node.deps.iter().filter(|dep| dep.is_linked()).map(|dep| &*dep.pkg));
        }
        let mut linked: Vec<_> =
            seen.into_iter().filter_map(|id| packages.get(id).copied()).collect();
        linked.retain(|package| !package.is_ours());
        linked.sort_by_key(|package| (&package.name, &package.version));
        Ok(linked)
    }
}

impl Package {
    fn is_ours(&self) -> bool {
        self.source.is_none()
    }

    fn is_macro(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
    }

    /// The licence files beside its manifest, in the order of their names.
    fn texts(&self) -> anyhow::Result<Vec<String>> {
        let folder = self.manifest_path.parent().unwrap_or(Path::new("."));
        let listed = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
        let mut paths: Vec<_> = listed.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
            let size = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|file| file.len());
            TEXT_NAMES.iter().any(|start| name.starts_with(start))
                && size.is_some_and(|bytes| bytes <= TEXT_BYTES_MAX)
        });
        paths.sort();
        let read =
            |path: &PathBuf| fs::read(path).with_context(|| format!("read {}", path.display()));
        let text = |path| Ok(String::from_utf8_lossy(&read(path)?).replace("\r\n", "\n"));
        paths.iter().map(text).collect()
    }
}

impl Dependency {
    fn is_linked(&self) -> bool {
        self.dep_kinds.iter().any(|dependency| dependency.kind.is_none())
    }
}

/// The file for a program: a line for each crate, then each text once, under the names of its crates.
///
/// # Errors
/// There is no such crate, or a text cannot be read.
pub(crate) fn file(metadata: &Metadata, name: &str) -> anyhow::Result<String> {
    let linked = metadata.linked(name)?;
    let mut file = format!("avr-{name} is linked with these crates.\n\n");
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in &linked {
        let crate_name = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref().unwrap_or("see its text");
        let repository = package.repository.as_deref().unwrap_or_default();
        file.push_str(&format!("{crate_name}: {licence} {repository}\n"));
        for text in package.texts()? {
            by_text.entry(text).or_default().push(crate_name.clone());
        }
    }
    let mut texts: Vec<_> = by_text.into_iter().collect();
    texts.sort_by(|(_, one), (_, other)| one.cmp(other));
    for (text, mut crates) in texts {
        crates.dedup();
        let line = "-".repeat(78);
        file.push_str(&format!("\n{line}\n{}\n\n{}\n", crates.join(", "), text.trim_end()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_the_texts_of_what_it_is_linked_with_and_of_nothing_else() {
        let metadata = Metadata::ask().unwrap();
        let proxy = file(&metadata, "proxy").unwrap();
        // Linked, in the compiler only, in tests only, of this workspace.
        assert!(proxy.contains("\nyara-x "), "{}", &proxy[..2000]);
        assert!(!proxy.contains("\nserde_derive ") && !proxy.contains("\nproptest "));
        assert!(!proxy.contains("\nservice-kit "));
        assert!(proxy.contains("Permission is hereby granted"));
        assert!(proxy.contains("Apache License"));
        // Once each, however many crates have it.
        let twice =
            proxy.matches("rustls is distributed under the following three licenses").count();
        assert!(twice <= 1, "{twice}");
        let manager = file(&metadata, "manager").unwrap();
        assert!(manager.contains("\nrustls ") && !manager.contains("\nyara-x "));
        assert!(file(&metadata, "no-such-crate").is_err());
    }
}
