//! Debian packages: which are wanted, which exactly are taken, and where they are fetched from.
//!
//! `packages.toml` says what an image needs and why, `debian.lock` which version with which SHA-256
//! it is. A build takes what the lock says or nothing. Files are fetched by apt's own helper, and
//! looked for in Debian's archive of all versions when the mirror has dropped them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest::{SHA256, digest};
use board::Arch;
use config::Document;
use serde::{Deserialize, Serialize};

use crate::ImageError;
use crate::error::{Step as _, run};

/// Debian's mirror of what is current.
const MIRROR: &str = "http://deb.debian.org";
/// Debian's archive of all that ever was.
const SNAPSHOT: &str = "http://snapshot.debian.org/archive";
/// Part of apt that fetches one file and checks its SHA-256.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";
/// Longest path of a link in a package, followed this often.
const LINKS_MAX: usize = 8;

/// `packages.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Where to look for versions.
    pub suite: Vec<Suite>,
    /// The kernel.
    pub kernel: Kernel,
    /// The boot loader and the EFI stub.
    pub loader: Loader,
    /// Files of the root.
    #[serde(default)]
    pub root: Vec<RootFile>,
}

/// A part of Debian that has versions of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// `debian` or `debian-security`.
    pub archive: String,
    /// As in `bookworm`.
    pub suite: String,
}

/// Which kernel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The empty package that depends on the current one.
    pub package: String,
}

/// Which boot loader.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loader {
    /// Its package.
    pub package: String,
    /// The program that firmware starts.
    pub loader: String,
    /// What a UKI begins with.
    pub stub: String,
}

/// A file of the root.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFile {
    /// Its package.
    pub package: String,
    /// Its path there.
    pub from: String,
    /// Its path in the root.
    pub to: String,
}

impl Wanted {
    /// Reads `packages.toml`.
    ///
    /// # Errors
    /// It is not there or not right.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        let document = Document::load(path)?;
        let wanted: Self = document.parse()?;
        if let Some(index) = wanted.suite.iter().position(|suite| !is_archive(&suite.archive)) {
            return Err(ImageError::Settings(document.invalid(
                &format!("suite[{index}].archive"),
                "`suite.archive`: no archive of Debian",
                "write \"debian\" or \"debian-security\" instead",
            )));
        }
        Ok(wanted)
    }

    /// All packages by name, once each.
    #[must_use]
    pub fn packages(&self, arch: Arch) -> Vec<String> {
        let mut names = vec![self.kernel.package.as_str(), self.loader.package.as_str()];
        names.extend(self.root.iter().map(|file| file.package.as_str()));
        let mut names: Vec<String> = names.into_iter().map(|name| fill(name, arch)).collect();
        names.sort();
        names.dedup();
        names
    }
}

fn is_archive(name: &str) -> bool {
    name == "debian" || name == "debian-security"
}

/// Puts an architecture's names into a text of `packages.toml`.
pub(crate) fn fill(text: &str, arch: Arch) -> String {
    text.replace("{debian}", arch.debian()).replace("{efi}", efi_name(arch))
}

/// An architecture as UEFI calls it.
#[must_use]
pub fn efi_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x64",
        Arch::Aarch64 => "aa64",
    }
}

/// `debian.lock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// When it was written, as Debian's archive of all versions names its states.
    pub snapshot: String,
    /// What is taken.
    pub package: Vec<Package>,
}

/// A package in one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// What `packages.toml` asks for.
    pub wanted: String,
    /// What it is called; another name only for the kernel.
    pub name: String,
    /// For which processor.
    pub arch: Arch,
    /// Its version.
    pub version: String,
    /// The source package it was built from.
    pub source: String,
    /// That one's version.
    pub source_version: String,
    /// `debian` or `debian-security`.
    pub archive: String,
    /// Where it is in there.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

impl Lock {
    /// Reads `debian.lock`.
    ///
    /// # Errors
    /// It is not there or not right.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        Ok(config::load(path)?)
    }

    /// The package that is taken for a wanted one.
    ///
    /// # Errors
    /// The lock has none.
    pub fn package(&self, wanted: &str, arch: Arch) -> Result<&Package, ImageError> {
        let wanted = fill(wanted, arch);
        let found = self.package.iter().find(|it| it.wanted == wanted && it.arch == arch);
        found.ok_or_else(|| {
            ImageError::Wrong(format!(
                "image/debian.lock has no `{wanted}` for {}; run scripts/update-lock",
                arch.name()
            ))
        })
    }
}

/// Files by path in their package, without a slash at the start.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Packages that have been fetched.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Keeps them in this folder, which is made if need be.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The package's file, fetched unless it is there, and in either case the one that the lock means.
    ///
    /// # Errors
    /// It cannot be fetched, or is another.
    pub fn fetch(&self, lock: &Lock, package: &Package) -> Result<PathBuf, ImageError> {
        let name = package.path.rsplit('/').next().unwrap_or(&package.name);
        let file = self.folder.join(name);
        if file.exists() && sha256_of(&file)? == package.sha256 {
            return Ok(file);
        }
        fs::create_dir_all(&self.folder)
            .step(|| format!("making the folder {}", self.folder.display()))?;
        let part = self.folder.join(format!("{name}.part"));
        let mut complaints = Vec::new();
        for from in sources(lock, package) {
            let _ = fs::remove_file(&part);
            let step = format!("fetching {} {}", package.name, package.version);
            let hash = format!("SHA256:{}", package.sha256);
            let mut helper = Command::new(APT_HELPER);
            helper.args(["-q", "download-file"]).arg(&from).arg(&part).arg(hash);
            match run(&step, &mut helper) {
                Ok(_) => {
                    // The helper has checked it; that it did is checked, too.
                    let found = sha256_of(&part)?;
                    if found != package.sha256 {
                        return Err(ImageError::Wrong(format!(
                            "{from}: its SHA-256 is {found}, and image/debian.lock says {}; run \
                             scripts/update-lock if the lock is what is wrong",
                            package.sha256
                        )));
                    }
                    fs::rename(&part, &file).step(|| format!("writing {}", file.display()))?;
                    return Ok(file);
                }
                Err(error) => complaints.push(error.to_string()),
            }
        }
        Err(ImageError::Wrong(format!(
            "{}\nimage/debian.lock asks for that version; run scripts/update-lock for the current ones",
            complaints.join("\n")
        )))
    }

    /// All files of a package below these paths; links among them are followed.
    ///
    /// # Errors
    /// It cannot be fetched or unpacked.
    pub fn files(
        &self,
        lock: &Lock,
        package: &Package,
        below: &[&str],
    ) -> Result<Files, ImageError> {
        let file = self.fetch(lock, package)?;
        let step = || format!("unpacking {}", file.display());
        let mut child = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .step(step)?;
        let pipe = child.stdout.take().expect("its output is a pipe");
        let (mut files, mut links) = (Files::new(), BTreeMap::new());
        let mut archive = tar::Archive::new(pipe);
        for entry in archive.entries().step(step)? {
            let mut entry = entry.step(step)?;
            let path = entry.path().step(step)?.to_string_lossy().into_owned();
            let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
            if !below.iter().any(|start| path.starts_with(start)) {
                continue;
            }
            match entry.header().entry_type() {
                tar::EntryType::Regular => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).step(step)?;
                    files.insert(path, bytes);
                }
                tar::EntryType::Symlink => {
                    if let Some(target) = entry.link_name().step(step)? {
                        links.insert(path, target.to_string_lossy().into_owned());
                    }
                }
                _ => {}
            }
        }
        if !child.wait().step(step)?.success() {
            return Err(ImageError::Wrong(format!(
                "{}: dpkg-deb cannot read it; delete it, and it is fetched again",
                file.display()
            )));
        }
        follow(&mut files, &links);
        Ok(files)
    }
}

/// Gives links to files within a folder the files' contents.
fn follow(files: &mut Files, links: &BTreeMap<String, String>) {
    for link in links.keys() {
        let mut at = link.clone();
        for _ in 0..LINKS_MAX {
            let Some(target) = links.get(&at) else { break };
            at = match at.rsplit_once('/') {
                Some((folder, _)) => format!("{folder}/{target}"),
                None => target.clone(),
            };
        }
        if let Some(bytes) = files.get(&at).cloned() {
            files.insert(link.clone(), bytes);
        }
    }
}

/// Where a package may be fetched from, in this order.
fn sources(lock: &Lock, package: &Package) -> [String; 2] {
    let Package { archive, path, .. } = package;
    [format!("{MIRROR}/{archive}/{path}"), format!("{SNAPSHOT}/{archive}/{}/{path}", lock.snapshot)]
}

/// The SHA-256 of bytes, in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a file, in hex.
///
/// # Errors
/// It cannot be read.
pub fn sha256_of(path: &Path) -> Result<String, ImageError> {
    Ok(sha256(&fs::read(path).step(|| format!("reading {}", path.display()))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        let package = Package {
            wanted: "linux-image-6.12-arm64".to_owned(),
            name: "linux-image-6.12.1-arm64".to_owned(),
            arch: Arch::Aarch64,
            version: "6.12.1-1".to_owned(),
            source: "linux".to_owned(),
            source_version: "6.12.1-1".to_owned(),
            archive: "debian".to_owned(),
            path: "pool/main/l/linux/linux-image.deb".to_owned(),
            bytes: 1,
            sha256: sha256(b"x"),
        };
        Lock { snapshot: "20261126T000000Z".to_owned(), package: vec![package] }
    }

    #[test]
    fn a_package_is_found_by_what_is_wanted() {
        let lock = lock();
        let found = lock.package("linux-image-6.12-{debian}", Arch::Aarch64).unwrap();
        assert_eq!(found.name, "linux-image-6.12.1-arm64");
        let error =
            lock.package("linux-image-6.12-{debian}", Arch::X86_64).unwrap_err().to_string();
        assert_eq!(
            error,
            "image/debian.lock has no `linux-image-6.12-amd64` for x86_64; run scripts/update-lock"
        );
    }

    #[test]
    fn dropped_versions_are_looked_for_in_the_archive() {
        let lock = lock();
        assert_eq!(
            sources(&lock, &lock.package[0]),
            [
                "http://deb.debian.org/debian/pool/main/l/linux/linux-image.deb",
                "http://snapshot.debian.org/archive/debian/20261126T000000Z/pool/main/l/linux/\
                 linux-image.deb",
            ]
        );
    }

    #[test]
    fn links_have_what_they_lead_to() {
        let mut files = Files::from([("a/b.dtb".to_owned(), b"tree".to_vec())]);
        let links = BTreeMap::from([
            ("a/c.dtb".to_owned(), "b.dtb".to_owned()),
            ("a/d.dtb".to_owned(), "c.dtb".to_owned()),
            ("a/loop".to_owned(), "loop".to_owned()),
            ("a/gone".to_owned(), "nothing".to_owned()),
        ]);
        follow(&mut files, &links);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a/b.dtb", "a/c.dtb", "a/d.dtb"]);
        assert_eq!(files["a/d.dtb"], b"tree");
    }

    #[test]
    fn a_file_that_is_there_and_right_is_not_fetched() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("linux-image.deb");
        fs::write(&file, b"x").unwrap();
        let lock = lock();
        assert_eq!(Cache::new(folder.path()).fetch(&lock, &lock.package[0]).unwrap(), file);
    }
}
